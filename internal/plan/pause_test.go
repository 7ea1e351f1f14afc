package plan_test

import (
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/plan"
)

// Before 5.15 the collector comes every two minutes, whatever there is.
func TestPause(t *testing.T) {
	for release, want := range map[string]time.Duration{"5.10.0-34-amd64": 2 * time.Minute, "5.14.21": 2 * time.Minute, "4.19.0": 2 * time.Minute, "5.15.0": 0, "6.1.0-28": 0, "10.2": 0, "": 0, "x": 0} {
		if got := plan.PauseOf(release); got != want {
			t.Errorf("%q: %v, want %v", release, got, want)
		}
	}
	var in []plan.Conn
	for i := range 480 { // one a second, of 30 s; the collector comes at 30 s, 150 s, ...
		c := plan.Conn{Start: event.Ktime(i) * s, ID: uint64(i), Proto: event.ProtoUDP, Cause: event.TimeoutGC, End: event.Ktime(30+(i+119)/120*120) * s}
		if c.End > 480*s {
			c.End, c.Cause = 0, event.CauseUnknown
		}
		in = append(in, c)
	}
	r := plan.Read(conns{in, 0, 480 * s}, plan.Kernel{Timeouts: plan.DefaultTimeouts(), Pause: 2 * time.Minute})
	run := r.Simulate(plan.WhatIf{Timeouts: []plan.Change{{Timer: plan.UDP, To: 60 * time.Second}}})
	// An entry is there for 60 s and half a pause on average, once all have the new timeout.
	var mean float64
	for _, n := range run.Curve[240:] {
		mean += float64(n) / 240
	}
	if mean < 115 || mean > 125 {
		t.Errorf("%.1f entries, want 120: %v", mean, run.Curve)
	}
}
