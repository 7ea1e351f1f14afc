package plan_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/plan"
)

// A million connections, read and replayed with a limit and another timeout.
func BenchmarkSimulate(b *testing.B) {
	in := conns{poisson(rand.New(rand.NewPCG(1, 1)), 5000, 30*s, 200*s), 0, 200 * s}
	b.ReportAllocs()
	for b.Loop() {
		r := plan.Read(in, kernel())
		run := r.Simulate(plan.WhatIf{Max: 100_000, Timeouts: []plan.Change{{Timer: plan.UDP, To: 20 * time.Second}}})
		if run.Arrivals < 900_000 {
			b.Fatal(run.Arrivals)
		}
		r.Costs()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(in.all)), "ns/conn")
}
