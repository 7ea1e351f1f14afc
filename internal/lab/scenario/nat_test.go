package scenario

import (
	"net/netip"
	"testing"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
)

// T5, T5b: more flows to one destination than the masqueraded address has
// ports. The kernel takes the last port although it is taken, and the insert
// fails.
func TestT5NATExhausted(t *testing.T) {
	for _, c := range []struct {
		name         string
		flows, ports int
		pool         netip.Addr
	}{
		{"udp4", 5, 2, netlab.RouterBV4},
		{"udp6", 5, 2, netlab.RouterBV6},
		{"tcp4", 3, 1, netlab.RouterBV4},
		{"tcp6", 3, 1, netlab.RouterBV6},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := router(t, netlab.Options{})
			f := firstPackets(c.flows)[c.name]
			must(t, r.R.Masquerade(netlab.Match{Proto: f.Proto}, netlab.Ports{First: 10000, N: c.ports}))
			must(t, r.B.Count("arrived", netlab.Prerouting, netlab.Match{Proto: f.Proto, SPort: netlab.Ports{First: 10000, N: c.ports}}))
			watch := trace.Start(t, r.R)
			truth := send(t, r, f)
			watch.Check()
			made, lost := uint64(c.ports), uint64(c.flows-c.ports)
			got := watch.In(r.R)
			got.Is(t, trace.Want{
				New: made, Reasons: trace.Reasons{event.NATExhausted: lost},
				Kernel: trace.Counters{ctnl.StatDrop: lost, ctnl.StatInsertFailed: lost},
			})
			got.AccountsFor(t, truth)
			pool := event.NATPool{Addr: c.pool, Dst: f.Dst.First, DstPort: 53, Proto: f.Proto}
			for _, e := range got.Of(trace.ByKind(event.Drop)) {
				if e.NATPool() != pool || e.Orig.Dst != f.Dst.First {
					t.Errorf("dropped %v for pool %v, want %v", e.Orig, e.NATPool(), pool)
				}
			}
			for _, e := range got.Of(trace.ByKind(event.New)) {
				if e.NAT() != "snat" || e.Reply.Dst != c.pool {
					t.Errorf("new %v with reply %v: NAT %q", e.Orig, e.Reply, e.NAT())
				}
			}
			if n, _, err := r.B.Counter("arrived"); err != nil || n != made {
				t.Errorf("%d packets arrived (%v), want %d", n, err, made)
			}
		})
	}
}

// T12, T12b: masqueraded flows lose their interface, or its address.
func TestT12MasqueradeCleanup(t *testing.T) {
	for _, c := range []struct {
		name  string
		cause event.Cause
		do    func(*netlab.Router) error
	}{
		{"device down", event.MasqDevDown, func(r *netlab.Router) error { return r.R.SetLink("rb", false) }},
		{"address deleted", event.MasqAddrDel, func(r *netlab.Router) error {
			return r.R.DelAddr("rb", netip.PrefixFrom(netlab.RouterBV4, 24))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := router(t, netlab.Options{})
			must(t, r.R.Masquerade(netlab.Match{Proto: event.ProtoUDP, Dst: netlab.SinkV4}, netlab.Ports{}))
			watch := trace.Start(t, r.R)
			send(t, r, udp(2))
			other := firstPackets(1)["tcp4"] // not masqueraded: stays
			send(t, r, other)
			must(t, c.do(r))
			watch.Destroyed(r.R, 2)
			watch.Check()
			watch.In(r.R).Is(t, trace.Want{New: 3, Causes: trace.Causes{c.cause: 2}})
			for _, e := range watch.In(r.R).Of(trace.ByKind(event.Destroy)) {
				if e.Orig.Proto != event.ProtoUDP || e.Task.PID != 0 {
					t.Errorf("destroyed %v by %+v", e.Orig, e.Task)
				}
			}
		})
	}
}
