package pipeline

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
)

// spaces is a list of namespaces that a test may change.
type spaces struct {
	mu sync.Mutex
	ns []ctnl.NS
}

func spacesOf(ns ...*netlab.NS) *spaces {
	s := &spaces{}
	for _, n := range ns {
		s.add(n)
	}
	return s
}

func (s *spaces) add(n *netlab.NS) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ns = append(s.ns, ctnl.NS{Inode: n.Inode(), Path: fmt.Sprintf("/proc/self/fd/%d", n.FD())})
}

func (s *spaces) drop(n *netlab.NS) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keep []ctnl.NS
	for _, ns := range s.ns {
		if ns.Inode != n.Inode() {
			keep = append(keep, ns)
		}
	}
	s.ns = keep
}

func (s *spaces) list() ([]ctnl.NS, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]ctnl.NS(nil), s.ns...), nil
}

// running is a Fallback that runs, and what it has told.
type running struct {
	*Fallback
	t    testing.TB
	stop func()

	mu     sync.Mutex
	events []event.Event
	order  order
}

// order counts events told after a younger one.
type order struct {
	last event.Ktime
	late uint64
}

func (o *order) note(e *event.Event) {
	if e.Time < o.last {
		o.late++
	}
	o.last = max(o.last, e.Time)
}

func start(t testing.TB, f *Fallback, err error) *running {
	t.Helper()
	r := &running{Fallback: f, t: t}
	r.run(err, r.note)
	return r
}

// run hands the events to fn until stop is called or the test ends.
func (r *running) run(err error, fn func(*event.Event) error) {
	t, f := r.t, r.Fallback
	t.Helper()
	skipOld(t, err)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx, fn) }()
	r.stop = sync.OnceFunc(func() {
		if err := f.Detach(); err != nil {
			t.Errorf("detach: %v", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(func() {
		r.stop()
		if err := f.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
}

// skipOld skips on kernels of the lab that are known to have no netfilter links.
func skipOld(t testing.TB, err error) {
	t.Helper()
	if k := lab.KernelName(); errors.Is(err, probe.ErrNotPossible) && (k == "5.10" || k == "6.1") {
		t.Skip(err)
	}
}

func (r *running) note(e *event.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.order.note(e)
	r.events = append(r.events, *e)
	return nil
}

func (r *running) seen() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.events)
}

// finish ends the trace and checks what must always hold.
func (r *running) finish() {
	r.t.Helper()
	r.stop()
	l := r.Loss()
	if l.Seen != l.Delivered+l.Aggregated+l.Lost || l.Lost != 0 || l.Late != r.order.late || l.Delivered != uint64(len(r.events)) {
		r.t.Errorf("%d events, loss %+v", len(r.events), l)
	}
	for stage, n := range l.ByStage {
		// a VM without KVM may take the CPU away for long, right between the two
		if n != 0 && (stage != "late_cancel" || !lab.InVM()) {
			r.t.Errorf("stage %s lost %d", stage, n)
		}
	}
}

func (r *running) of(ns *netlab.NS) probe.Counters { return countersOf(r.Counters(), ns.Inode()) }

// sum adds up events of a namespace; a record may stand for several.
func (r *running) sum(ns *netlab.NS, k event.Kind, want func(*event.Event) bool) (n uint64) {
	for i := range r.events {
		if e := &r.events[i]; e.NetNS == ns.Inode() && e.Kind == k && (want == nil || want(e)) {
			n += uint64(max(1, e.Sample))
		}
	}
	return n
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newLab(t testing.TB, o netlab.Options) *netlab.Router {
	t.Helper()
	lab.NeedRoot(t)
	r, err := netlab.NewRouter(o)
	must(t, err)
	t.Cleanup(func() { must(t, r.Close()) })
	return r
}

// kernel reads the kernel's own counters of a namespace.
func kernel(t testing.TB, ns *netlab.NS) ctnl.Totals {
	t.Helper()
	c, err := ctnl.Dial(ctnl.NS{Inode: ns.Inode(), Path: fmt.Sprintf("/proc/self/fd/%d", ns.FD())})
	must(t, err)
	defer c.Close()
	s, err := c.Stats()
	must(t, err)
	return ctnl.Sum(s)
}

func conn(t testing.TB, ns *netlab.NS) *ctnl.Conn {
	t.Helper()
	c, err := ctnl.Dial(ctnl.NS{Inode: ns.Inode(), Path: fmt.Sprintf("/proc/self/fd/%d", ns.FD())})
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func flows(src string, sources, ports int, dst netip.Addr) netlab.Flows {
	return netlab.Flows{Proto: event.ProtoUDP, Src: netlab.Addrs{First: netip.MustParseAddr(src), N: sources},
		Dst: netlab.OneAddr(dst), SPorts: netlab.Ports{First: 20000, N: ports}, DPorts: netlab.OnePort(7001)}
}

type opener func(*spaces) (*Fallback, error)

var fallbacks = map[string]opener{
	probe.Netfilter: func(s *spaces) (*Fallback, error) { return openNetfilter(probe.Options{}, s.list) },
	probe.Netlink:   func(s *spaces) (*Fallback, error) { return openNetlink(s.list) },
}

// New entries and destroys of every source, in two labs, one of them made later.
func TestFallbackEvents(t *testing.T) {
	for name, open := range fallbacks {
		t.Run(name, func(t *testing.T) {
			a := newLab(t, netlab.Options{})
			s := spacesOf(a.R)
			f, err := open(s)
			r := start(t, f, err)
			b := newLab(t, netlab.Options{})
			s.add(b.R)
			must(t, f.follow()) // in place of the next second
			want := map[netip.Addr]uint64{}
			for _, x := range []*netlab.Router{a, b} {
				for _, fl := range []netlab.Flows{flows("10.2.0.1", 10, 50, netlab.Sink(0)), flows("fd00:22::1", 10, 50, netlab.Sink6(0))} {
					th, err := x.SendParallel(t.Context(), netlab.SendOptions{}, fl.Part(0, 2), fl.Part(1, 2))
					must(t, err)
					for _, p := range th {
						for src, n := range p.FlowsBySource() {
							want[src] += n
						}
					}
				}
				must(t, x.Drain())
				must(t, conn(t, x.R).Flush())
			}
			r.finish()
			got := map[netip.Addr]uint64{}
			for _, x := range []*netlab.Router{a, b} {
				if n := r.sum(x.R, event.Destroy, func(e *event.Event) bool { return e.Cause == event.UserDelete && e.BestEffort }); n != 1000 {
					t.Errorf("%d destroys, want 1000", n)
				}
				if c := r.of(x.R); c.New != 1000 || c.Causes[event.UserDelete] != 1000 {
					t.Errorf("counted %d new, %d destroyed; want 1000, 1000", c.New, c.Causes[event.UserDelete])
				}
			}
			for i := range r.events {
				if e := &r.events[i]; e.Kind == event.New {
					got[e.Orig.Src]++
					if e.BestEffort != (name == probe.Netlink) {
						t.Fatalf("best effort is %v", e.BestEffort)
					}
				}
			}
			for src, n := range want {
				if got[src] != n {
					t.Errorf("%s: %d new, want %d", src, got[src], n)
				}
			}
			t.Logf("%d sources, %d events, backend %s", len(want), len(r.events), f.Report().Backend)
		})
	}
}

// NAT ports run out: three of five are lost, and the kernel says the same.
func TestFallbackNATExhausted(t *testing.T) {
	for name, open := range fallbacks {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, netlab.Options{})
			must(t, l.R.Masquerade(netlab.Match{Proto: event.ProtoUDP}, netlab.Ports{First: 10000, N: 2}))
			f, err := open(spacesOf(l.R))
			r := start(t, f, err)
			_, err = l.SendFlows(t.Context(), flows("10.0.1.2", 1, 5, netlab.Sink(0)), netlab.SendOptions{})
			must(t, err)
			must(t, l.Drain())
			r.finish()
			reason := event.NATExhausted
			if name == probe.Netlink {
				reason = event.ConfirmUnknown
			}
			k := kernel(t, l.R)
			c := r.of(l.R)
			if c.New != 2 || c.Reasons[reason] != 3 || k.N[ctnl.StatDrop] != 3 || k.N[ctnl.StatInsertFailed] != 3 {
				t.Errorf("new %d, %s %d, kernel drop %d; want 2, 3, 3", c.New, reason, c.Reasons[reason], k.N[ctnl.StatDrop])
			}
			if n := r.sum(l.R, event.Drop, func(e *event.Event) bool { return e.Reason == reason && e.BestEffort }); n != 3 {
				t.Errorf("%d lost by events, want 3", n)
			}
			if n := r.sum(l.R, event.New, nil); n != 2 {
				t.Errorf("%d new by events, want 2", n)
			}
		})
	}
}

// Two packets of one flow, deterministically: UDP merges, TCP loses one.
func TestFallbackClash(t *testing.T) {
	l := newLab(t, netlab.Options{})
	must(t, l.R.QueueTo(5, netlab.Match{Proto: event.ProtoUDP, DPort: netlab.OnePort(4000)}))
	must(t, l.R.QueueTo(5, netlab.Match{Proto: event.ProtoTCP, DPort: netlab.OnePort(4000)}))
	f, err := openNetfilter(probe.Options{}, spacesOf(l.R).list)
	r := start(t, f, err)
	p := netlab.Packet{Tuple: event.Tuple{Src: netlab.ClientV4, Dst: netlab.Sink(0), Sport: 1, Dport: 4000, Proto: event.ProtoUDP}}
	_, err = l.Together(5, p, p)
	must(t, err)
	p.Tuple.Proto, p.Flags = event.ProtoTCP, netlab.SYN
	_, err = l.Together(5, p, p)
	must(t, err)
	must(t, l.Drain())
	r.finish()
	c := r.of(l.R)
	if c.New != 2 || c.Reasons[event.ClashMerged] != 1 || c.Reasons[event.ClashSameFlow] != 1 {
		t.Errorf("new %d, merged %d, lost %d; want 2, 1, 1", c.New, c.Reasons[event.ClashMerged], c.Reasons[event.ClashSameFlow])
	}
	if n := r.sum(l.R, event.Drop, func(e *event.Event) bool { return e.Reason == event.ClashSameFlow && e.BestEffort }); n != 1 {
		t.Errorf("%d lost by events, want 1", n)
	}
}

// Namespaces are found by themselves: one made after the start is traced within
// two seconds, and let go when its name goes.
func TestFallbackFollows(t *testing.T) {
	lab.NeedRoot(t)
	f, err := OpenNetfilter(probe.Options{})
	r := start(t, f, err)
	l := newLab(t, netlab.Options{Name: "ctsight-follow"})
	watched := func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.nets[l.R.Inode()] != nil }
	waitFor(t, watched)
	_, err = l.SendFlows(t.Context(), flows("10.2.0.1", 1, 100, netlab.Sink(0)), netlab.SendOptions{})
	must(t, err)
	must(t, l.Drain())
	ino := l.R.Inode()
	if n := f.Counters(); countersOf(n, ino).New != 100 {
		t.Errorf("%d new, want 100", countersOf(n, ino).New)
	}
	must(t, l.Close())
	waitFor(t, func() bool { return !watched() })
	r.stop()
}

// A namespace that nobody else uses is let go, so that the kernel can end it.
func TestFallbackNetNSGone(t *testing.T) {
	for name, open := range fallbacks {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, netlab.Options{})
			s := spacesOf(l.R)
			f, err := open(s)
			r := start(t, f, err)
			_, err = l.SendFlows(t.Context(), flows("10.2.0.1", 1, 50, netlab.Sink(0)), netlab.SendOptions{})
			must(t, err)
			must(t, l.Drain())
			waitFor(t, func() bool { return r.seen() >= 50 })
			fds := openFDs(t)
			s.drop(l.R)
			waitFor(t, func() bool { f.mu.Lock(); defer f.mu.Unlock(); return len(f.nets) == 0 })
			t.Logf("%d descriptors of the namespace closed", fds-openFDs(t))
			r.finish()
			if c := r.of(l.R); c.New != 50 {
				t.Errorf("%d new, want 50", c.New)
			}
		})
	}
}

func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("waited 5 s in vain")
}

func openFDs(t testing.TB) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(d)
}

// Nothing stays open: descriptors after Close are those of before.
func TestFallbackLeavesNothing(t *testing.T) {
	l := newLab(t, netlab.Options{})
	for name, open := range fallbacks {
		t.Run(name, func(t *testing.T) { leavesNothing(t, func() (*Fallback, error) { return open(spacesOf(l.R, l.B)) }) })
	}
}

func leavesNothing(t *testing.T, open func() (*Fallback, error)) {
	once := func() {
		f, err := open()
		skipOld(t, err)
		must(t, err)
		must(t, f.Close())
		must(t, f.Close())
	}
	once() // the library keeps what it found out about the kernel
	before := openFDs(t)
	for range 2 { // what one leaves behind shows
		once()
	}
	if after := openFDs(t); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// T1, T6: a table that is full, and buckets that are. Both limits are the
// machine's, so this is for machines of our own.
func TestFallbackTableFull(t *testing.T) {
	lab.NeedVM(t)
	for name, open := range fallbacks {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, netlab.Options{})
			must(t, l.SetSysctl(nil, "net.netfilter.nf_conntrack_max", "8"))
			f, err := open(spacesOf(l.R))
			r := start(t, f, err)
			th, err := l.SendFlows(t.Context(), flows("10.2.0.1", 4, 5, netlab.Sink(0)), netlab.SendOptions{})
			must(t, err)
			must(t, l.Drain())
			r.finish()
			// A new entry may find one to evict in the 8 buckets it looks at.
			c, k := r.of(l.R), kernel(t, l.R)
			full, evicted := k.N[ctnl.StatDrop], k.N[ctnl.StatEarlyDrop]
			if full+evicted != 12 || c.New != 8+evicted || c.Reasons[event.TableFull] != full || th.Packets() != 20 {
				t.Errorf("new %d, full %d, kernel drop %d, early_drop %d; want 8 entries, 12 refused or for an evicted one", c.New, c.Reasons[event.TableFull], full, evicted)
			}
			if n := r.sum(l.R, event.Drop, func(e *event.Event) bool { return e.Reason == event.TableFull && e.BestEffort }); n != full {
				t.Errorf("%d lost by events, want %d", n, full)
			}
			if name == probe.Netlink {
				return
			}
			sources := map[netip.Addr]uint64{}
			for i := range r.events {
				if e := &r.events[i]; e.NetNS == l.R.Inode() && e.Kind == event.New || e.Reason == event.TableFull {
					sources[e.Orig.Src]++
				}
			}
			for src, n := range th.FlowsBySource() {
				if sources[src] != n {
					t.Errorf("%s: %d new and lost, want %d", src, sources[src], n)
				}
			}
		})
	}
}

func TestFallbackChainTooLong(t *testing.T) {
	lab.NeedVM(t)
	if lab.KernelName() == "5.10" {
		t.Skip("no limit on the length of a chain before 5.15")
	}
	for name, open := range fallbacks {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, netlab.Options{})
			must(t, l.SetSysctl(nil, "net.netfilter.nf_conntrack_max", "400000"))
			must(t, l.SetSysctl(nil, "net.netfilter.nf_conntrack_buckets", "512"))
			must(t, l.SetSysctl(l.R, "net.netfilter.nf_conntrack_udp_timeout", "300"))
			f, err := open(spacesOf(l.R))
			r := start(t, f, err)
			fl := flows("10.2.0.1", 2, 15000, netlab.Sink(0))
			_, err = l.SendFlows(t.Context(), fl, netlab.SendOptions{Rate: 50000})
			must(t, err)
			must(t, l.Drain())
			r.finish()
			c, k := r.of(l.R), kernel(t, l.R)
			chain := k.N[ctnl.StatChainTooLong]
			t.Logf("new %d, chain too long %d", c.New, chain)
			if chain == 0 || c.Reasons[event.ChainTooLong] != chain || c.New+chain != 30000 {
				t.Errorf("new %d, chain %d, kernel %d; want the same and 30000 together", c.New, c.Reasons[event.ChainTooLong], chain)
			}
			if n := r.sum(l.R, event.Drop, func(e *event.Event) bool { return e.Reason == event.ChainTooLong }); n != chain {
				t.Errorf("%d lost by events, want %d", n, chain)
			}
		})
	}
}
