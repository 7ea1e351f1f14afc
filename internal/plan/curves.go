package plan

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Curve is what the table would have been over a row of limits, or of a timeout.
type Curve struct {
	Timer  Timer // NoTimer: of the limit
	Points []Point
}

// Point is one replay.
type Point struct {
	Max     uint64        // of a curve of the limit; 0 is no limit
	Timeout time.Duration // of one of a timeout
	Today   bool          // as it was
	Run     Run           // without its own curve
}

// Lost is how many connections got no entry, or lost it to others.
func (r *Run) Lost() uint64 { return r.Drops + r.Evicted + r.EvictedGC }

// curveTimers is for how many timeouts there are curves: those that hold most.
const curveTimers = 3

// timeoutFactors are the timeouts of a curve, as parts of today's.
var timeoutFactors = [...]float64{.125, .25, .5, 1, 2}

// limitFactors are the limits of a curve, as parts of the most entries that are needed.
var limitFactors = [...]float64{.25, .5, .625, .75, .875, 1, 1.25}

// noLimit is one that nothing reaches: of a timeout the question is how many entries it
// makes, and not how many there is room for.
const noLimit = 1<<31 - 1

// Curves replay the record with other limits, and with other timeouts and no limit, some
// twenty times.
func (r *Record) Curves(d *Doc) []Curve {
	out := []Curve{r.limits(d)}
	for _, t := range r.holders() {
		c := Curve{Timer: t}
		today := r.Kernel.Timeouts[t]
		for _, f := range timeoutFactors {
			to := time.Duration(math.Max(1, math.Round(f*today.Seconds()))) * time.Second
			if n := len(c.Points); n > 0 && c.Points[n-1].Timeout == to {
				continue
			}
			w := WhatIf{Max: noLimit, Timeouts: []Change{{t, to}}}
			if to == today {
				w = WhatIf{}
			}
			c.Points = append(c.Points, Point{Timeout: to, Today: to == today, Run: r.point(w)})
		}
		out = append(out, c)
	}
	return out
}

// limits is the curve of the limit: today's among them, where it is known.
func (r *Record) limits(d *Doc) (c Curve) {
	all := map[uint64]bool{}
	for _, f := range limitFactors {
		all[max(1, uint64(f*float64(d.Today.Peak)))] = true
	}
	all[d.Need.Limit] = true
	today := r.Kernel.Max
	if today > 0 {
		all[today] = true
	}
	var limits []uint64
	for n := range all {
		// What is far above changes nothing, and would make the rest small.
		if float64(n) <= 2*float64(max(d.Need.Limit, d.Today.Peak)) {
			limits = append(limits, n)
		}
	}
	slices.Sort(limits)
	for _, n := range limits {
		w := WhatIf{Max: n}
		if n == today {
			w = WhatIf{}
		}
		c.Points = append(c.Points, Point{Max: n, Today: n == today, Run: r.point(w)})
	}
	return c
}

func (r *Record) point(w WhatIf) Run {
	run := r.Simulate(w)
	run.Curve = nil
	return run
}

// holders are the timers that hold most entries after their last packet: as often as
// they run out, so long.
func (r *Record) holders() (out []Timer) {
	var held [numTimers]float64
	for i := range r.Conns {
		c := &r.Conns[i]
		if t := r.timers[i]; t != NoTimer && !c.Refused && (c.End == 0 || timedOut(c.Cause) || evicted(c.Cause)) {
			held[t] += min(r.Kernel.Timeouts[t].Seconds(), r.span())
		}
	}
	for t, n := range held {
		if n > 0 {
			out = append(out, Timer(t))
		}
	}
	slices.SortStableFunc(out, func(a, b Timer) int { return cmp.Compare(held[b], held[a]) })
	return out[:min(curveTimers, len(out))]
}
