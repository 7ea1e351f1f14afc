package scenario

import (
	"testing"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
)

// T6: chains longer than the kernel allows (5.15 and later).
func TestT6ChainTooLong(t *testing.T) {
	r := router(t, netlab.Options{})
	limit(t, r, 400000, 512)
	sysctl(t, r, "nf_conntrack_udp_timeout", 600)
	watch := trace.Start(t, r.R)
	f := udp(15000)
	f.Dst.N = 2
	truth := send(t, r, f)
	watch.Check()
	got := watch.In(r.R)
	lost := got.Traced.Reasons[event.ChainTooLong]
	if _, known := got.Kernel.Get(ctnl.StatChainTooLong); known == (lost == 0) {
		t.Errorf("%d chains too long; the kernel has such a limit: %t", lost, known)
	}
	got.Is(t, trace.Want{
		New: 30000 - lost, Reasons: trace.Reasons{event.ChainTooLong: lost},
		Kernel: trace.Counters{ctnl.StatChainTooLong: lost, ctnl.StatInsertFailed: lost},
	})
	got.AccountsFor(t, truth)
}

// invalid are segments that may not open an entry.
func invalid() []netlab.Packet {
	var out []netlab.Packet
	for i, flags := range []netlab.TCPFlags{netlab.SYN | netlab.ACK, 0, netlab.RST} {
		tuple := event.Tuple{Src: netlab.ClientV4, Dst: netlab.Sink(0), Sport: uint16(3000 + i), Dport: 80, Proto: event.ProtoTCP}
		out = append(out, netlab.Packet{Tuple: tuple, Flags: flags, Seq: 1})
	}
	return out
}

// T7, T7b: what conntrack calls invalid, and a rule that drops it.
func TestT7Invalid(t *testing.T) {
	for name, drop := range map[string]bool{"accepted": false, "dropped": true} {
		t.Run(name, func(t *testing.T) {
			r := router(t, netlab.Options{})
			want := trace.Want{Reasons: trace.Reasons{event.InvalidPacket: 3}, Kernel: trace.Counters{ctnl.StatInvalid: 3}}
			if drop {
				must(t, r.R.Drop(netlab.Forward, netlab.Match{CTState: netlab.StateInvalid}))
				want.Reasons[event.RulesetInvalid] = 3
			}
			watch := trace.Start(t, r.R)
			sent := invalid()
			_, err := r.SendPackets(netlab.SendOptions{}, sent...)
			must(t, err)
			must(t, r.Drain())
			watch.Check()
			got := watch.In(r.R)
			got.Is(t, want)
			if got.Traced.Alloc != 3 || got.Traced.Free != 3 {
				t.Errorf("%d allocated, %d freed, want 3", got.Traced.Alloc, got.Traced.Free)
			}
			events := trace.CountBy(got.Events, func(e *event.Event) event.Tuple { return e.Orig })
			flags := map[event.Tuple]event.TCPFlags{}
			for _, e := range got.Events {
				if e.Kind == event.Invalid && e.HasTCPFlags {
					flags[e.Orig] = e.TCPFlags
				}
			}
			for _, p := range sent {
				if f, known := flags[p.Tuple]; !known || f != p.Flags {
					t.Errorf("%v: flags %v (%t), sent %v", p.Tuple, f, known, p.Flags)
				}
				if n := uint64(len(want.Reasons)); events[p.Tuple] != n {
					t.Errorf("%v: %d events, want %d", p.Tuple, events[p.Tuple], n)
				}
			}
		})
	}
}

// forge prepares one TCP connection whose both sides the test plays.
func forge(t *testing.T, r *netlab.Router) *netlab.TCP {
	t.Helper()
	tcp, err := r.ForgeTCP(netlab.SendOptions{}, event.Tuple{Src: netlab.ClientV4, Dst: netlab.Sink(0), Sport: 4000, Dport: 80, Proto: event.ProtoTCP})
	must(t, err)
	t.Cleanup(func() { must(t, tcp.End()) })
	return tcp
}

// T8: a reset where no answer was seen.
func TestT8Reset(t *testing.T) {
	r := router(t, netlab.Options{})
	tcp := forge(t, r)
	watch := trace.Start(t, r.R)
	must(t, tcp.Segment(t.Context(), netlab.Client, netlab.SYN, nil))
	must(t, tcp.Segment(t.Context(), netlab.Client, netlab.RST, nil))
	watch.Check()
	watch.In(r.R).Is(t, trace.Want{New: 1, Causes: trace.Causes{event.TCPRstUnreplied: 1}})
	if n := watch.In(r.R).Entries; n != 0 {
		t.Errorf("%d entries left", n)
	}
}

// The same in DCCP, of which kernels from 6.17 on know no more than the number.
func TestDCCPReset(t *testing.T) {
	r := router(t, netlab.Options{})
	tuple := event.Tuple{Src: netlab.ClientV4, Dst: netlab.Sink(0), Sport: 4000, Dport: 5001, Proto: event.ProtoDCCP}
	watch := trace.Start(t, r.R)
	_, err := r.SendPackets(netlab.SendOptions{}, netlab.Packet{Tuple: tuple, Seq: 1}, netlab.Packet{Tuple: tuple, Seq: 2, Flags: netlab.RST})
	must(t, err)
	must(t, r.Drain())
	watch.Check()
	want := trace.Want{New: 1, Causes: trace.Causes{event.DCCPReset: 1}}
	if release(t) >= 6_17 {
		want.Causes = nil
	}
	watch.In(r.R).Is(t, want)
}

// A reset after an answer leaves the entry to its timeout.
func TestResetAfterAnswer(t *testing.T) {
	r := router(t, netlab.Options{})
	tcp := forge(t, r)
	watch := trace.Start(t, r.R)
	must(t, tcp.Open(t.Context()))
	must(t, tcp.Reset(t.Context(), netlab.Client))
	watch.Check()
	watch.In(r.R).Is(t, trace.Want{New: 1})
}

// T8b: a SYN on a connection that is closed.
func TestT8bReopen(t *testing.T) {
	r := router(t, netlab.Options{})
	tcp := forge(t, r)
	watch := trace.Start(t, r.R)
	must(t, tcp.Open(t.Context()))
	must(t, tcp.Shut(t.Context()))
	must(t, tcp.Reopen(t.Context()))
	watch.Check()
	watch.In(r.R).Is(t, trace.Want{New: 2, Causes: trace.Causes{event.TCPReopen: 1}})
	for _, e := range watch.In(r.R).Of(trace.ByKind(event.Destroy)) {
		if e.TCPState.String() != "TIME_WAIT" || e.Status&event.Assured == 0 {
			t.Errorf("reopened in state %s, %v", e.TCPState, e.Status.Names())
		}
	}
}
