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

// fade weighs what is known down by dt seconds.
func (t *table) fade(dt float64) {
	for b := range t.dead {
		tau := unknownMemory
		if b < Bins {
			tau = min(max(memory, edges[b]), maxMemory)
		}
		k := math.Exp(-dt / tau)
		t.dead[b] *= k
		t.risk[b] *= k
	}
}

// curve is a survival function and its integrals, between knots by straight
// lines: s is the share that lives longer than u, i the integral of s from 0
// to u and j that of i.
type curve struct {
	n          int
	u, s, i, j [Bins + 4]float64
}

// reset starts a curve: all live for their first second, since births are
// counted without those that do not.
func (c *curve) reset() {
	c.n, c.s[0] = 1, 1
	c.add(edges[settled], 1)
}

func (c *curve) add(u, s float64) {
	k := c.n
	d := u - c.u[k-1]
	if d <= 0 {
		return
	}
	c.u[k], c.s[k] = u, s
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

// at returns s, i and j at u, which lies behind knot k.
func (c *curve) at(u float64, k int) (s, i, j float64) {
	d := u - c.u[k]
	if k+1 >= c.n { // behind the last knot nothing lives or dies any more
		return c.s[k], c.i[k] + d*c.s[k], c.j[k] + d*c.i[k] + d*d*c.s[k]/2
	}
	g := (c.s[k+1] - c.s[k]) / (c.u[k+1] - c.u[k])
	return c.s[k] + g*d, c.i[k] + d*(c.s[k]+g*d/2), c.j[k] + d*(c.i[k]+d*(c.s[k]/2+g*d/6))
}

// fitDoomed is the curve of entries that die at their timeout, as late as the
// garbage collector makes it: `lag` on the mean, some much later. The table says
// only how many leave before.
func (t *table) fitDoomed(c *curve, timeout, lag float64) {
	c.reset()
	s := 1.0
	for b := settled; b < Bins && edges[b+1] < .8*timeout; b++ {
		s *= math.Exp(-t.dead[b] / (t.risk[b] + doubt*timeout) * (edges[b+1] - edges[b]))
		c.add(edges[b+1], s)
	}
	c.add(timeout, s)
	for _, k := range [...]float64{.5, 1, 2, 3, 4} {
		c.add(timeout+k*lag, s*math.Exp(-k))
	}
	c.add(timeout+6*lag, 0)
}

// fit is the curve of entries whose life packets prolong. Where a bin has seen
// few deaths, what all older entries do counts as well, those of unknown age
// among them; where nothing is known one dies in `life` seconds. No entry dies
// of age before `least`. Nobody whose age is known is older than `watched`:
// from there on only the old ones speak, even in the middle of a bin.
func (t *table) fit(c *curve, least, life, watched float64) {
	var hazard, older [Bins]float64
	dead, risk := t.dead[Bins]+faith, t.risk[Bins]+faith*life
	for b := Bins - 1; b >= settled; b-- {
		older[b] = dead / risk
		if edges[b+1] <= least {
			hazard[b] = t.dead[b] / (t.risk[b] + doubt*life)
		} else {
			hazard[b] = (t.dead[b] + doubt) / (t.risk[b] + doubt/older[b])
		}
		dead, risk = dead+t.dead[b], risk+t.risk[b]
	}
	c.reset()
	var sum float64
	add := func(to, hazard float64) {
		sum = min(sum+hazard*(to-c.u[c.n-1]), 600)
		c.add(to, math.Exp(-sum))
	}
	for b := settled; b < Bins; b++ {
		from, to := edges[b], edges[b+1]
		if from < least && least < to {
			add(least, 0)
		}
		if to <= least || to <= watched {
			add(to, hazard[b])
			continue
		}
		if from < watched && c.u[c.n-1] < watched {
			add(watched, hazard[b])
		}
		add(to, older[b])
	}
}

// unknownHazard returns the deaths per second of an entry of unknown age.
func (t *table) unknownHazard(life float64) float64 {
	return (t.dead[Bins] + faith) / (t.risk[Bins] + faith*life)
}
