package forecast

import "math"

// horizon is as far as we look: who says more than a day says never.
const horizon = 86_400.0 // s

// What no statistic here covers: classes that are not quite alike, bins that are
// not quite small, and which of the living go first.
const (
	arrivalError = .006 // of what comes and goes
	ageError     = .06  // of what goes, as long as most stays
)

// group is live entries of about one age on one curve.
type group struct {
	n, age, s  float64 // s: survival to this age
	e          float64 // of s
	from, knot int     // of the curve: now, and at the last look ahead
	c          *curve
	hazard     float64 // if there is no curve
	err        float64 // of hazard, relative
	t          track
}

// inflow is arrivals on one curve.
type inflow struct {
	share float64
	c     *curve
	t     track
}

// outlook holds all that the expected occupancy is made of.
type outlook struct {
	live    []group
	in      []inflow
	rate    rate
	samples float64 // behind the shares
	ahead   float64 // the last look, s
}

// overdue is how long an entry lives on that should be dead, in seconds.
const overdue = 10.0

// alive puts n entries of an age on a curve.
func (o *outlook) alive(n, age float64, c *curve, t track) {
	k := c.seek(age, 0)
	s, e := c.left(age, k)
	if s < 1e-9 {
		o.live = append(o.live, group{n: n, hazard: 1 / overdue, t: t})
		return
	}
	o.live = append(o.live, group{n: n, age: age, s: s, e: e, from: k, knot: k, c: c, t: t})
}

// at returns the expected entries h seconds from now and their variance:
//
//	mean = sum over live S(a+h)/S(a)  +  lambda * integral 0..h of S
//
// more is what comes beside if a slope goes on when it is not followed any more.
//
//	var  = sum over live p(1-p)  +  arrivals  +  doubt about lambda, mix, S and model
func (o *outlook) at(h float64) (mean, variance, more float64) {
	var stay, lost float64
	var err [numTracks + 2]float64 // by how much all of a track is off if it dies one sd faster; and the model
	for i := range o.live {
		g := &o.live[i]
		var p float64
		if g.c == nil {
			p = math.Exp(-g.hazard * h)
			err[g.t] += g.n * p * g.hazard * h * g.err
		} else {
			if h < o.ahead {
				g.knot = g.from
			}
			g.knot = g.c.seek(g.age+h, g.knot)
			s, e := g.c.left(g.age+h, g.knot)
			p = min(1, s/g.s)
			err[g.t] += g.n * p * max(0, e-g.e)
		}
		stay += g.n * p
		lost += g.n * (1 - p)
		variance += g.n * p * (1 - p)
	}
	o.ahead = h
	var i1, i2, j1, on float64 // integral, its mean square over the mix, second integral; that of after the slope
	for _, in := range o.in {
		k := in.c.seek(h, 0)
		i, j := in.c.at(h, k)
		err[in.t] += o.rate.perSec * in.share * in.c.doubt(h, k)
		if h > o.rate.lasts { // the slope ends there
			past := h - o.rate.lasts
			_, jp := in.c.at(past, in.c.seek(past, 0))
			j, on = j-jp, on+in.share*jp
		}
		i1, i2, j1 = i1+in.share*i, i2+in.share*i*i, j1+in.share*j
	}
	r := &o.rate
	come := max(0, r.perSec*i1+r.slope*j1)
	variance += r.fano*come + r.variance*i1*i1 + r.slopeVar*j1*j1
	variance += r.perSec * r.perSec * max(0, i2-i1*i1) / (o.samples + 1)
	err[numTracks], err[numTracks+1] = arrivalError*(come+lost), ageError*stay*lost/max(1, stay+lost)
	for _, e := range err {
		variance += e * e
	}
	return stay + come, variance, max(r.slope*on, -come)
}

// crossings are when the mean and the ends of the band reach a level, in
// seconds; +Inf for never.
type crossings struct{ low, mean, high float64 }

// reach walks through the future in growing steps, between which the curves
// are as good as straight.
func (o *outlook) reach(level, z float64) crossings {
	inf := math.Inf(1)
	c := crossings{inf, inf, inf}
	var h0, l0, m0, u0 float64
	for h := 0.0; h < horizon; {
		m, v, more := o.at(h)
		up, down := z*math.Hypot(math.Sqrt(v), max(0, more)), z*math.Hypot(math.Sqrt(v), min(0, more))
		for _, x := range [...]struct {
			at     *float64
			y0, y1 float64
		}{{&c.low, u0, m + up}, {&c.mean, m0, m}, {&c.high, l0, m - down}} {
			if math.IsInf(*x.at, 1) && x.y1 >= level {
				*x.at = h
				if x.y1 > x.y0 && h > 0 {
					*x.at = h - (h-h0)*min(1, (x.y1-level)/(x.y1-x.y0))
				}
			}
		}
		if !math.IsInf(c.high, 1) {
			break
		}
		h0, l0, m0, u0 = h, m-down, m, m+up
		h = max(h+.5, h*1.2)
	}
	if math.IsInf(c.high, 1) {
		c.mean = inf
	}
	return c
}
