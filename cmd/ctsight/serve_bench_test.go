package main

import (
	"net/netip"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/lab/sidecar"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
)

// What serve takes beside traffic: none, 10,000 new connections a second, and as many as
// the machine can make, each from one of 1,000 sources, while it is scraped each
// second. One iteration is ten seconds, less where the connections are used up.
func BenchmarkServe(b *testing.B) {
	lab.NeedRoot(b)
	trace.LoadModules()
	for _, load := range []struct {
		name string
		rate float64 // 0 as many as possible
		n    int
	}{{"idle", 0, 0}, {"10000", 10_000, 100_000}, {"most", 0, 200_000}} {
		b.Run(load.name, func(b *testing.B) {
			r, err := netlab.NewRouter(netlab.Options{Name: "bench"})
			must(b, err)
			defer func() { must(b, r.Close()) }()
			s := sidecar.Start(b, ctsight(b)).Tracing(b)
			before, cpu, took := s.Values(b), s.CPU(b), time.Duration(0)
			for b.Loop() {
				begin := time.Now()
				scraped, stop := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(scraped)
					for tick := time.NewTicker(time.Second); ; {
						select {
						case <-stop:
							return
						case <-tick.C:
							s.Get(b, "/metrics")
						}
					}
				}()
				if load.n > 0 {
					_, err := r.SendFlows(b.Context(), netlab.Flows{Proto: event.ProtoUDP, SpreadSources: true, Count: load.n,
						Src: netlab.Addrs{First: netip.MustParseAddr("198.18.0.1"), N: 1000}, Dst: netlab.OneAddr(netlab.Sink(0)),
						SPorts: netlab.Ports{First: 1024, N: 1000}, DPorts: netlab.OnePort(53)}, netlab.SendOptions{Rate: load.rate})
					must(b, err)
				} else {
					time.Sleep(10 * time.Second)
				}
				took += time.Since(begin)
				close(stop)
				<-scraped
			}
			used := s.CPU(b) - cpu
			after := s.Values(b)
			made := sidecar.Sum(after, "new_connections_total") - sidecar.Sum(before, "new_connections_total")
			b.ReportMetric(made/took.Seconds(), "new/s")
			b.ReportMetric(100*used.Seconds()/took.Seconds(), "%CPU")
			b.ReportMetric(float64(s.Status(b, "VmRSS"))/1024, "MiB")
			b.ReportMetric(after["events_lost_total{stage=ring}"], "lost")
			b.ReportMetric(0, "ns/op")
		})
	}
}
