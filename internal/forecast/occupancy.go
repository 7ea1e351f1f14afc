package forecast

import "math"

// horizon is as far as we look: who says more than a day says never.
const horizon = 86_400.0 // s

// modelError is the relative error of arrivals and losses that no statistic
// here covers: classes that are not quite alike, bins that are not quite small.
const modelError = .015

// group is live entries of about one age on one curve.
type group struct {
	n, age, s float64 // s: survival to this age
	knot      int
	c         *curve
	hazard    float64 // if there is no curve
}

// inflow is arrivals on one curve.
type inflow struct {
	share float64
	c     *curve
}

// outlook holds all that the expected occupancy is made of.
type outlook struct {
	live    []group
	in      []inflow
	rate    rate
	samples float64 // behind the shares
}

// overdue is how long an entry lives on that should be dead, in seconds.
const overdue = 10.0

// alive puts n entries of an age on a curve.
func (o *outlook) alive(n, age float64, c *curve) {
	k := c.seek(age, 0)
	s, _, _ := c.at(age, k)
	if s < 1e-9 {
		o.live = append(o.live, group{n: n, hazard: 1 / overdue})
		return
	}
	o.live = append(o.live, group{n: n, age: age, s: s, knot: k, c: c})
}

// at returns the expected entries h seconds from now and their variance:
//
//	mean = sum over live S(a+h)/S(a)  +  lambda * integral 0..h of S
//	var  = sum over live p(1-p)  +  arrivals  +  doubt about lambda, mix and model
func (o *outlook) at(h float64) (mean, variance float64) {
	var stay, lost float64
	for i := range o.live {
		g := &o.live[i]
		var p float64
		if g.c == nil {
			p = math.Exp(-g.hazard * h)
		} else {
			s, _, _ := g.c.at(g.age+h, g.c.seek(g.age+h, g.knot))
			p = min(1, s/g.s)
		}
		stay += g.n * p
		lost += g.n * (1 - p)
		variance += g.n * p * (1 - p)
	}
	var i1, i2, j1 float64 // integral, its mean square over the mix, second integral
	for _, in := range o.in {
		k := in.c.seek(h, 0)
		_, i, j := in.c.at(h, k)
		if h > o.rate.lasts { // the slope ends there
			past := h - o.rate.lasts
			_, _, jp := in.c.at(past, in.c.seek(past, 0))
			j -= jp
		}
		i1, i2, j1 = i1+in.share*i, i2+in.share*i*i, j1+in.share*j
	}
	r := &o.rate
	come := max(0, r.perSec*i1+r.slope*j1)
	variance += r.fano*come + r.variance*i1*i1 + r.slopeVar*j1*j1
	variance += r.perSec * r.perSec * max(0, i2-i1*i1) / (o.samples + 1)
	e := modelError * (come + lost)
	return stay + come, variance + e*e
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
		m, v := o.at(h)
		sd := z * math.Sqrt(v)
		for _, x := range [...]struct {
			at     *float64
			y0, y1 float64
		}{{&c.low, u0, m + sd}, {&c.mean, m0, m}, {&c.high, l0, m - sd}} {
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
		h0, l0, m0, u0 = h, m-sd, m, m+sd
		h = max(h+.5, h*1.2)
	}
	if math.IsInf(c.high, 1) {
		c.mean = inf
	}
	return c
}
