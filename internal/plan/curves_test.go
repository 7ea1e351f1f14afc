package plan_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/plan"
	"github.com/ctsight/ctsight/internal/triage"
)

// The curves go through what was measured; a longer timeout holds more entries, in
// proportion to it where the table has settled, and a lower limit loses more connections.
func TestCurves(t *testing.T) {
	in := conns{poisson(rand.New(rand.NewPCG(3, 4)), 100, 30*s, 600*s), 0, 600 * s}
	k := kernel()
	k.Max = 3200
	r := plan.Read(in, k)
	d, err := plan.Make(r, plan.WhatIf{}, triage.Memory{})
	if err != nil {
		t.Fatal(err)
	}
	curves := r.Curves(d)
	if len(curves) != 2 || curves[0].Timer != plan.NoTimer || curves[1].Timer != plan.UDP {
		t.Fatalf("%d curves: %+v", len(curves), curves)
	}
	today := 0
	for _, c := range curves {
		for i, p := range c.Points {
			if p.Today {
				today++
				if p.Run.Mean != d.Today.Mean || p.Run.Peak != d.Today.Peak {
					t.Errorf("today %+v, measured %+v", p.Run, d.Today)
				}
			}
			if i == 0 {
				continue
			}
			before := c.Points[i-1]
			switch {
			case c.Timer == plan.NoTimer && (p.Max <= before.Max || p.Run.Lost() > before.Run.Lost() || p.Run.Peak < before.Run.Peak):
				t.Errorf("limit %d: %+v, %d: %+v", before.Max, before.Run, p.Max, p.Run)
			case c.Timer != plan.NoTimer && (p.Timeout <= before.Timeout || p.Run.Mean <= before.Run.Mean):
				t.Errorf("timeout %s: %+v, %s: %+v", before.Timeout, before.Run, p.Timeout, p.Run)
			}
		}
	}
	if today != 2 {
		t.Errorf("today is on %d curves", today)
	}
	limits := curves[0].Points
	if low, high := limits[0], limits[len(limits)-1]; low.Run.Lost() < 1000 || low.Run.Peak > low.Max || high.Run.Lost() != 0 {
		t.Errorf("lowest %+v, highest %+v", low, high)
	}
	// Twice the timeout, twice as many: 100 a second for a minute and the collector's lag.
	for _, p := range curves[1].Points {
		if p.Timeout == time.Minute && (p.Run.Peak < 5800 || p.Run.Peak > 6000+100*60) {
			t.Errorf("with a minute %d entries at most", p.Run.Peak)
		}
	}
}
