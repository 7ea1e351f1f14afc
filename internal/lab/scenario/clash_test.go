package scenario

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
)

// A race may not happen; the tests below try again until one did.
const tries = 5

// slow is how many reads lie between the lookup and the insert of packets that
// are to race.
const slow = 3000

// newBy are the tuples of the new entries; no tuple may be there twice.
func newBy(t *testing.T, got *trace.Account) map[event.Tuple]uint64 {
	t.Helper()
	made := trace.CountBy(got.Of(trace.ByKind(event.New)), func(e *event.Event) event.Tuple { return e.Orig })
	for tuple, n := range made {
		if n != 1 {
			t.Errorf("%v: %d new entries", tuple, n)
		}
	}
	return made
}

// T3: two threads send on one UDP socket at the same moment; both packets make
// an entry and the second is merged into the first.
func TestT3ClashMerged(t *testing.T) {
	r := router(t, netlab.Options{})
	must(t, r.A.EnableConntrack())
	must(t, r.A.SlowDown(netlab.Output, netlab.Match{Proto: event.ProtoUDP}, slow))
	f := udp(1)
	f.Dst.N = 200
	raceMerged(t, r, f)
}

// raceMerged races until packets were merged, in A and perhaps in R.
func raceMerged(t *testing.T, r *netlab.Router, f netlab.Flows) {
	t.Helper()
	for try := range tries {
		f.SPorts.First += uint16(try)
		watch := trace.Start(t, r.A, r.R)
		truth, err := r.RaceSocket(t.Context(), f)
		must(t, err)
		watch.Check()
		for _, ns := range []*netlab.NS{r.A, r.R} {
			got := watch.In(ns)
			merged := got.Traced.Reasons[event.ClashMerged]
			got.Is(t, trace.Want{
				New: uint64(f.Len()), Reasons: trace.Reasons{event.ClashMerged: merged},
				Kernel: trace.Counters{ctnl.StatClashResolve: merged},
			})
			made := newBy(t, got)
			for _, e := range got.Of(trace.ByReason(event.ClashMerged)) {
				if made[e.Orig] != 1 || e.Reply != e.Orig.Inverse() {
					t.Errorf("merged %v (reply %v), which is not there", e.Orig, e.Reply)
				}
				delete(made, e.Orig) // a flow has two packets
			}
		}
		if truth.Packets() != uint64(2*f.Len()) || truth.Denied() != 0 {
			t.Errorf("%d packets, %d refused, want %d and 0", truth.Packets(), truth.Denied(), 2*f.Len())
		}
		if watch.In(r.A).Traced.Reasons[event.ClashMerged] > 0 {
			return
		}
	}
	t.Errorf("no clash in %d tries", tries)
}

// T3b: the two packets get different NAT. The loser stays in the table for its
// answers only, for a second.
func TestT3bClashReplyOnly(t *testing.T) {
	r := router(t, netlab.Options{})
	must(t, r.A.EnableConntrack())
	must(t, r.A.SlowDown(netlab.Output, netlab.Match{Proto: event.ProtoUDP}, slow))
	must(t, r.A.AlternateDNAT(netlab.Output, netlab.Match{Proto: event.ProtoUDP, DPort: netlab.OnePort(53)}, netlab.Sink(1000), netlab.Sink(1001)))
	f := udp(1)
	f.Dst.N = 200
	for try := range tries {
		f.SPorts.First += uint16(try)
		watch := trace.Start(t, r.A)
		_, err := r.RaceSocket(t.Context(), f)
		must(t, err)
		watch.Check()
		got := watch.In(r.A)
		x := got.Traced
		merged, replyOnly := x.Reasons[event.ClashMerged], x.Reasons[event.ClashNATReplyOnly]
		if replyOnly == 0 {
			continue
		}
		// All flows come from one port and go to two targets: after the
		// first of each, NAT has to find other source ports, and may race.
		raced := x.Reasons[event.NATRace] + x.Reasons[event.NATExhausted]
		want := trace.Want{
			New:     x.New,
			Reasons: trace.Reasons{event.ClashMerged: merged, event.ClashNATReplyOnly: replyOnly, event.NATRace: x.Reasons[event.NATRace], event.NATExhausted: x.Reasons[event.NATExhausted]},
			Causes:  expired(&x),
			Kernel:  trace.Counters{ctnl.StatClashResolve: merged + replyOnly, ctnl.StatDrop: raced, ctnl.StatInsertFailed: raced},
		}
		got.Is(t, want)
		newBy(t, got)
		for _, e := range got.Of(trace.ByReason(event.ClashNATReplyOnly)) {
			if !e.ReplyOnly || e.NAT() == "" {
				t.Errorf("%v for replies only: %t, NAT %q", e.Orig, e.ReplyOnly, e.NAT())
			}
		}
		// Each of them is destroyed once, like any other.
		_, err = r.A.Run("conntrack", "-F")
		must(t, err)
		watch.Destroyed(r.A, x.New+replyOnly)
		watch.Check()
		gone := got.Of(func(e *event.Event) bool { return e.Kind == event.Destroy && e.Status&event.NATClash != 0 })
		if uint64(len(gone)) != replyOnly || got.Count != got.CountBefore {
			t.Errorf("%d entries for replies only were destroyed, made %d; count %d -> %d", len(gone), replyOnly, got.CountBefore, got.Count)
		}
		return
	}
	t.Errorf("no clash in %d tries", tries)
}

// expired are the destroys of entries that had expired, whoever found them.
func expired(x *probe.Counters) trace.Causes {
	c := trace.Causes{}
	for _, cause := range []event.Cause{event.TimeoutGC, event.TimeoutLookup, event.TimeoutDump} {
		c[cause] = x.Causes[cause]
	}
	return c
}

// reinjectSwaps says whether this kernel looks up a queued packet again when
// it is let go, and gives it the entry that is there by then: up to 6.8
// (__nf_conntrack_update).
func reinjectSwaps(t *testing.T) bool { return release(t) < 6_09 }

// release is the kernel's version as a number, 5_10 for 5.10.
func release(t *testing.T) int {
	t.Helper()
	var u unix.Utsname
	must(t, unix.Uname(&u))
	var major, minor int
	_, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor)
	must(t, err)
	return 100*major + minor
}

// T4: two packets of one flow pass the lookup before either is inserted.
func TestT4QueuedClash(t *testing.T) {
	client, server := netip.AddrPortFrom(netlab.ClientV4, 1024), netip.AddrPortFrom(netlab.Sink(0), 7000)
	for _, c := range []struct {
		name   string
		proto  uint8
		dnat   bool
		reason event.Reason
	}{
		{"udp", event.ProtoUDP, false, event.ClashMerged},
		{"udp with dnat", event.ProtoUDP, true, event.ClashNATReplyOnly},
		{"tcp", event.ProtoTCP, false, event.ClashSameFlow},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := router(t, netlab.Options{})
			if c.dnat {
				must(t, r.R.AlternateDNAT(netlab.Prerouting, netlab.Match{Proto: c.proto, DPort: netlab.OnePort(7000)}, netlab.Sink(1), netlab.Sink(2)))
			}
			must(t, r.R.QueueTo(7, netlab.Match{Proto: c.proto}))
			watch := trace.Start(t, r.R)
			p := netlab.Packet{Tuple: event.Tuple{Src: client.Addr(), Dst: server.Addr(), Sport: client.Port(), Dport: server.Port(), Proto: c.proto}}
			if c.proto == event.ProtoTCP {
				p.Flags, p.Seq = netlab.SYN, 1
			}
			_, err := r.Together(7, p, p)
			must(t, err)
			watch.Check()
			want := trace.Want{New: 1}
			if !reinjectSwaps(t) {
				want.Reasons = trace.Reasons{c.reason: 1}
				if c.reason.Kind() == event.Drop {
					want.Kernel = trace.Counters{ctnl.StatDrop: 1, ctnl.StatInsertFailed: 1}
				} else {
					want.Kernel = trace.Counters{ctnl.StatClashResolve: 1}
				}
			}
			watch.In(r.R).Is(t, want)
		})
	}
}

// T4b: two SYNs of one flow, which cannot be merged. The loser is freed like
// any packet that a hook drops, and not told a second time for that.
func TestT4bTCPClash(t *testing.T) {
	r := router(t, netlab.Options{})
	must(t, r.A.EnableConntrack())
	must(t, r.A.SlowDown(netlab.Output, netlab.Match{Proto: event.ProtoTCP}, slow))
	f := firstPackets(200)["tcp4"]
	for try := range tries {
		f.SPorts.First += uint16(200 * try)
		watch := trace.Start(t, r.A)
		truth, err := r.RacePackets(t.Context(), f, netlab.SendOptions{ViaStack: true})
		must(t, err)
		watch.Check()
		got := watch.In(r.A)
		lost := got.Traced.Reasons[event.ClashSameFlow]
		got.Is(t, trace.Want{
			New: 200, Reasons: trace.Reasons{event.ClashSameFlow: lost},
			Kernel: trace.Counters{ctnl.StatDrop: lost, ctnl.StatInsertFailed: lost},
		})
		made := newBy(t, got)
		for _, e := range got.Of(trace.ByReason(event.ClashSameFlow)) {
			if made[e.Orig] != 1 {
				t.Errorf("lost %v, which did not clash", e.Orig)
			}
			delete(made, e.Orig)
		}
		// The sender is told of what is lost on the way out.
		if truth.Denied() != lost {
			t.Errorf("%d sends were refused, %d lost", truth.Denied(), lost)
		}
		if lost > 0 {
			return
		}
	}
	t.Errorf("no clash in %d tries", tries)
}

// race sends n packets from each of the namespaces, the i-th of each at the
// same moment.
func race(t *testing.T, n int, from []*netlab.NS, r *netlab.Router, packet func(k, i int) netlab.Packet) {
	t.Helper()
	b := netlab.NewBarrier(len(from))
	errs := make([]error, len(from))
	var wg sync.WaitGroup
	for k, ns := range from {
		wg.Go(func() {
			defer b.Leave()
			s, err := r.NewSender(ns, netlab.SendOptions{CPU: k})
			if err != nil {
				errs[k] = err
				return
			}
			for i := range n {
				errs[k] = errors.Join(errs[k], s.Send(packet(k, i)))
				b.Wait()
				errs[k] = errors.Join(errs[k], s.Flush())
			}
			errs[k] = errors.Join(errs[k], s.Close())
		})
	}
	wg.Wait()
	must(t, errors.Join(append(errs, r.Drain())...))
}

// Both directions of one flow at the same moment. TCP is lost. UDP is merged
// from 6.12 on. Before, or when NAT saw the first entry in time to give the
// second another port, the second stays for its replies only, or is lost.
func TestClashReverse(t *testing.T) {
	for name, proto := range map[string]uint8{"tcp": event.ProtoTCP, "udp": event.ProtoUDP} {
		t.Run(name, func(t *testing.T) {
			r := router(t, netlab.Options{})
			must(t, r.R.Masquerade(netlab.Match{Proto: event.ProtoICMP}, netlab.Ports{})) // NAT is on, and does nothing here
			must(t, r.R.SlowDown(netlab.Forward, netlab.Match{Proto: proto}, slow))
			for try := range tries {
				watch := trace.Start(t, r.R)
				race(t, 100, []*netlab.NS{r.A, r.B}, r, func(side, i int) netlab.Packet {
					tuple := event.Tuple{Src: netlab.ClientV4, Dst: netlab.Sink(0), Sport: uint16(7000 + i), Dport: uint16(7000 + try), Proto: proto}
					if side == 1 {
						tuple = tuple.Inverse()
					}
					p := netlab.Packet{Tuple: tuple}
					if proto == event.ProtoTCP {
						p.Flags, p.Seq = netlab.SYN, 1
					}
					return p
				})
				watch.Check()
				got := watch.In(r.R)
				x := &got.Traced
				lost, merged, replyOnly := x.Reasons[event.ClashReverse], x.Reasons[event.ClashMerged], x.Reasons[event.ClashNATReplyOnly]
				got.Is(t, trace.Want{
					New:     100,
					Reasons: trace.Reasons{event.ClashReverse: lost, event.ClashMerged: merged, event.ClashNATReplyOnly: replyOnly},
					Causes:  expired(x),
					Kernel:  trace.Counters{ctnl.StatDrop: lost, ctnl.StatInsertFailed: lost, ctnl.StatClashResolve: merged + replyOnly},
				})
				made := newBy(t, got)
				for _, e := range got.Of(func(e *event.Event) bool { return e.Kind == event.Drop || e.Kind == event.Note }) {
					if made[e.Orig.Inverse()] != 1 {
						t.Errorf("%s: %v did not clash with its reverse", e.Reason, e.Orig)
					}
				}
				switch {
				case merged+replyOnly > 0 && proto == event.ProtoTCP:
					t.Errorf("%d merged, %d for replies only: not with TCP", merged, replyOnly)
				case merged > 0 && reinjectSwaps(t):
					t.Errorf("%d merged: this kernel does not merge the directions", merged)
				}
				if lost+merged+replyOnly > 0 {
					return
				}
			}
			t.Errorf("no clash in %d tries", tries)
		})
	}
}

// The packet of one side is what the entry of the other expects as its answer
// after NAT: the tuples overlap although they are not those of one flow.
func TestClashOther(t *testing.T) {
	r := router(t, netlab.Options{})
	must(t, r.R.Masquerade(netlab.Match{Proto: event.ProtoTCP, DPort: netlab.SinkPorts}, netlab.OnePort(10000)))
	must(t, r.R.SlowDown(netlab.Forward, netlab.Match{Proto: event.ProtoTCP}, slow))
	must(t, r.R.SlowDown(netlab.Input, netlab.Match{Proto: event.ProtoTCP}, slow))
	must(t, r.R.NFT(`table ip zz { chain in { type filter hook output priority -400; tcp flags rst drop; }; }`)) // R would refuse
	for try := range tries {
		watch := trace.Start(t, r.R)
		race(t, 100, []*netlab.NS{r.A, r.B}, r, func(side, i int) netlab.Packet {
			tuple := event.Tuple{Src: netlab.ClientV4, Dst: netlab.ServerV4, Sport: uint16(2000 + i), Dport: uint16(7000 + 100*try + i), Proto: event.ProtoTCP}
			if side == 1 {
				tuple = event.Tuple{Src: netlab.ServerV4, Dst: netlab.RouterBV4, Sport: tuple.Dport, Dport: 10000, Proto: event.ProtoTCP}
			}
			return netlab.Packet{Tuple: tuple, Flags: netlab.SYN, Seq: 1}
		})
		watch.Check()
		got := watch.In(r.R)
		lost := got.Traced.Reasons[event.ClashOther]
		if lost == 0 {
			continue
		}
		// Where the other side was first, NAT chose its port; and the port was
		// free for it or not when it did.
		raced, exhausted := got.Traced.Reasons[event.NATRace], got.Traced.Reasons[event.NATExhausted]
		all := lost + raced + exhausted
		got.Is(t, trace.Want{
			New: 100, Reasons: trace.Reasons{event.ClashOther: lost, event.NATRace: raced, event.NATExhausted: exhausted},
			Kernel: trace.Counters{ctnl.StatDrop: all, ctnl.StatInsertFailed: all},
		})
		for _, e := range got.Of(trace.ByKind(event.Drop)) {
			if (e.Reason == event.ClashOther) != (e.Orig.Src == netlab.ServerV4) {
				t.Errorf("%s: %v", e.Reason, e.Orig)
			}
		}
		return
	}
	t.Errorf("no clash in %d tries", tries)
}

// Two CPUs masquerade different sources to the same port at once. Each second
// packet is lost. An exhausted search has found its one port taken, which the
// kernel counts as found; a race is when the port was still free.
func TestNATRace(t *testing.T) {
	for name, proto := range map[string]uint8{"udp": event.ProtoUDP, "tcp": event.ProtoTCP} {
		t.Run(name, func(t *testing.T) {
			r := router(t, netlab.Options{})
			must(t, r.R.Masquerade(netlab.Match{Proto: proto}, netlab.OnePort(10000)))
			// Time between NAT and the insert.
			must(t, r.R.NFT("table inet late { chain late { type filter hook postrouting priority 200; "+strings.Repeat("meta length 1 meta length 2; ", slow/2)+"}; }"))
			for try := range tries {
				watch := trace.Start(t, r.R)
				// Every pair has ports of its own, in every try: NAT looks first at
				// what it has made of the same source before, and counts that too.
				race(t, 100, []*netlab.NS{r.A, r.A}, r, func(k, i int) netlab.Packet {
					return netlab.Packet{Flags: netlab.SYN, Seq: 1, Tuple: event.Tuple{Src: netlab.ClientV4, Dst: netlab.Sink(100*try + i),
						Sport: uint16(2000 + 200*try + 2*i + k), Dport: 53, Proto: proto}}
				})
				watch.Check()
				got := watch.In(r.R)
				raced, exhausted := got.Traced.Reasons[event.NATRace], got.Traced.Reasons[event.NATExhausted]
				t.Logf("%d races, %d exhausted, found %d", raced, exhausted, got.Traced.Taken)
				want := trace.Want{
					New: 100, Reasons: trace.Reasons{event.NATRace: raced, event.NATExhausted: exhausted},
					Kernel: trace.Counters{ctnl.StatDrop: 100, ctnl.StatInsertFailed: 100},
				}
				got.Is(t, want)
				// Later kernels search otherwise for TCP. What is told apart by
				// time is off when the machine stops a CPU between the search
				// and the look at the clock.
				if proto == event.ProtoUDP && max(exhausted, got.Traced.Taken)-min(exhausted, got.Traced.Taken) > 5 {
					t.Errorf("%d exhausted, the kernel found %d ports taken", exhausted, got.Traced.Taken)
				}
				if raced > 0 {
					return
				}
			}
			t.Errorf("no race in %d tries", tries)
		})
	}
}

// T23: the table is resized all the time while packets race.
func TestT23Resize(t *testing.T) {
	r := router(t, netlab.Options{})
	must(t, r.A.EnableConntrack())
	must(t, r.A.SlowDown(netlab.Output, netlab.Match{Proto: event.ProtoUDP}, slow))
	limit(t, r, 65536, 16384)
	stop, done := make(chan struct{}), make(chan error, 1)
	resized := 0
	go func() {
		for {
			for _, n := range []string{"512", "65536"} {
				if err := os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_buckets", []byte(n), 0); err != nil {
					done <- err
					return
				}
				resized++
			}
			select {
			case <-stop:
				done <- nil
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	f := udp(1)
	f.Dst.N = 200
	watch := trace.Start(t, r.A, r.R)
	_, err := r.RaceSocket(t.Context(), f)
	close(stop)
	must(t, errors.Join(err, <-done))
	watch.Check()
	for _, ns := range []*netlab.NS{r.A, r.R} {
		got := watch.In(ns)
		merged := got.Traced.Reasons[event.ClashMerged]
		got.Is(t, trace.Want{
			New: 200, Reasons: trace.Reasons{event.ClashMerged: merged}, Kernel: trace.Counters{ctnl.StatClashResolve: merged},
		})
		newBy(t, got)
	}
	t.Logf("resized %d times", resized)
}
