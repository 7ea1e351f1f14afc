package forecast

import "math"

const (
	memory    = 60.0   // s; how long a bin remembers, or its age if that is more
	maxMemory = 3600.0 // s
	// Entries of unknown age grow older as we watch, so what they did is soon
	// out of date.
	unknownMemory = 10.0 // s
	// faith is the weight, in deaths, of a lifetime that is only a sysctl: it
	// speaks when nothing else does.
	faith = .001
	doubt = 3.0 // deaths; weight of what older entries do against a bin's own record
)

// table counts, by age, deaths and the time lived at risk of one: the ratio is
// the hazard, and Kaplan and Meier's survival its product. The living are in
// the time at risk, so nothing is lost by not waiting for their death. The last
// element is for entries of unknown age.
type table struct {
	dead, risk [Bins + 1]float64
}

// weights is what dt seconds leave of what is known of each age.
func weights(dt float64) (k [Bins + 1]float64) {
	for b := range k {
		tau := unknownMemory
		if b < Bins {
			tau = min(max(memory, edges[b]), maxMemory)
		}
		k[b] = math.Exp(-dt / tau)
	}
	return k
}

func (t *table) fade(k *[Bins + 1]float64) {
	for b := range t.dead {
		t.dead[b] *= k[b]
		t.risk[b] *= k[b]
	}
}

// curve is a survival function and its integrals, between knots by straight
// lines: s is the share that lives longer than u, i the integral of s from 0
// to u and j that of i. e is the standard deviation of -log s, as one number for
// all ages would have it (Greenwood's, but neighbours err together, since they are
// estimated together), and w the integral of s*e.
type curve struct {
	n                int
	u, s, i, j, e, w [Bins + 5]float64
}

// reset starts a curve: all live for their first second, since births are
// counted without those that do not.
func (c *curve) reset() {
	c.n, c.s[0] = 1, 1
	c.add(edges[settled], 1, 0)
}

func (c *curve) add(u, s, e float64) {
	k := c.n
	d := u - c.u[k-1]
	if d <= 0 {
		return
	}
	c.u[k], c.s[k], c.e[k] = u, s, e
	c.w[k] = c.w[k-1] + d*(c.s[k-1]*c.e[k-1]+s*e)/2
	c.i[k] = c.i[k-1] + d*(c.s[k-1]+s)/2
	c.j[k] = c.j[k-1] + d*c.i[k-1] + d*d*(2*c.s[k-1]+s)/6
	c.n++
}

// seek returns the last knot at or before u; it looks from k on.
func (c *curve) seek(u float64, k int) int {
	for k+1 < c.n && c.u[k+1] <= u {
		k++
	}
	return k
}

// at returns i and j at u, which lies behind knot k.
func (c *curve) at(u float64, k int) (i, j float64) {
	d := u - c.u[k]
	if k+1 >= c.n { // behind the last knot nothing lives or dies any more
		return c.i[k] + d*c.s[k], c.j[k] + d*c.i[k] + d*d*c.s[k]/2
	}
	g := (c.s[k+1] - c.s[k]) / (c.u[k+1] - c.u[k])
	return c.i[k] + d*(c.s[k]+g*d/2), c.j[k] + d*(c.i[k]+d*(c.s[k]/2+g*d/6))
}

// left returns s and e at u, which lies behind knot k.
func (c *curve) left(u float64, k int) (s, e float64) {
	if k+1 >= c.n {
		return c.s[k], c.e[k]
	}
	part := (u - c.u[k]) / (c.u[k+1] - c.u[k])
	return c.s[k] + part*(c.s[k+1]-c.s[k]), c.e[k] + part*(c.e[k+1]-c.e[k])
}

// doubt returns w at u, which lies behind knot k.
func (c *curve) doubt(u float64, k int) float64 {
	s, e := c.left(u, k)
	return c.w[k] + (u-c.u[k])*(c.s[k]*c.e[k]+s*e)/2
}

// unsure is the relative error of a hazard that rests on so many deaths. A sysctl
// counts as one.
func unsure(deaths float64) float64 { return 1 / math.Sqrt(deaths+1) }

// fitDoomed is the curve of entries that die at their timeout, as late as the
// garbage collector makes it: `lag` on the mean, some much later. The table says
// only how many leave before.
func (t *table) fitDoomed(c *curve, timeout, lag float64) {
	c.reset()
	var sum, err float64
	for b := settled; b < Bins && edges[b+1] < .8*timeout; b++ {
		h := t.dead[b] / (t.risk[b] + doubt*timeout) * (edges[b+1] - edges[b])
		sum, err = sum+h, err+h*unsure(t.dead[b])
		c.add(edges[b+1], math.Exp(-sum), err)
	}
	s := math.Exp(-sum)
	c.add(timeout, s, err)
	for _, k := range [...]float64{.5, 1, 2, 3, 4} {
		c.add(timeout+k*lag, s*math.Exp(-k), err)
	}
	c.add(timeout+6*lag, 0, err)
}

// fit is the curve of entries whose life packets prolong. Where a bin has seen
// few deaths, what all older entries do counts as well, those of unknown age
// among them; where nothing is known one dies in `life` seconds. No entry dies
// of age before `least`. Nobody whose age is known is older than `watched`:
// from there on only the old ones speak, even in the middle of a bin, and before
// `least` too: those of unknown age that die are younger in part.
func (t *table) fit(c *curve, least, life, watched float64) {
	type hazard struct{ mean, sd float64 }
	var own, older [Bins]hazard
	dead, risk := t.dead[Bins]+faith, t.risk[Bins]+faith*life
	for b := Bins - 1; b >= settled; b-- {
		m := dead / risk
		older[b] = hazard{m, m * unsure(dead)}
		if edges[b+1] <= least {
			m = t.dead[b] / (t.risk[b] + doubt*life)
			own[b] = hazard{m, m * unsure(t.dead[b])}
		} else {
			m = (t.dead[b] + doubt) / (t.risk[b] + doubt/m)
			own[b] = hazard{m, m * unsure(t.dead[b]+min(doubt, dead))}
		}
		dead, risk = dead+t.dead[b], risk+t.risk[b]
	}
	if t.dead[Bins] >= doubt {
		least = min(least, watched)
	}
	c.reset()
	var sum, err float64
	add := func(to float64, h hazard) {
		d := to - c.u[c.n-1]
		sum, err = min(sum+h.mean*d, 600), err+h.sd*d
		c.add(to, math.Exp(-sum), err)
	}
	for b := settled; b < Bins; b++ {
		from, to := edges[b], edges[b+1]
		if from < least && least < to {
			add(least, hazard{})
		}
		if to <= least || to <= watched {
			add(to, own[b])
			continue
		}
		if from < watched && c.u[c.n-1] < watched {
			add(watched, own[b])
		}
		add(to, older[b])
	}
}

// unknownHazard returns the deaths per second of an entry of unknown age.
func (t *table) unknownHazard(life float64) float64 {
	return (t.dead[Bins] + faith) / (t.risk[Bins] + faith*life)
}
