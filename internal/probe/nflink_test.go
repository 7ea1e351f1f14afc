package probe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"testing"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/netlab"
)

// nfTrace is a running NFProbe and what it has told.
type nfTrace struct {
	*NFProbe
	t    testing.TB
	stop func()

	mu     sync.Mutex
	events []event.Event
	last   event.Ktime
}

func nsPath(ns *netlab.NS) NetNSPath {
	return NetNSPath{Inode: ns.Inode(), Path: fmt.Sprintf("/proc/self/fd/%d", ns.FD())}
}

// startNF attaches in the given namespaces and reads until finish.
func startNF(t testing.TB, o Options, namespaces ...*netlab.NS) *nfTrace {
	t.Helper()
	var paths []NetNSPath
	for _, ns := range namespaces {
		paths = append(paths, nsPath(ns))
	}
	p, err := OpenNetfilter(o, paths...)
	skipOld(t, err)
	must(t, err)
	tr := &nfTrace{NFProbe: p, t: t}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, tr.note) }()
	tr.stop = sync.OnceFunc(func() {
		if err := p.Detach(); err != nil {
			t.Errorf("detach: %v", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(func() {
		tr.stop()
		if err := p.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return tr
}

// skipOld skips on kernels of the lab that are known to have no such links.
func skipOld(t testing.TB, err error) {
	t.Helper()
	if k := lab.KernelName(); errors.Is(err, ErrNotPossible) && (k == "5.10" || k == "6.1") {
		t.Skip(err)
	}
}

// TestNFWithoutSums: who asks for sums gets a backend all the same.
func TestNFWithoutSums(t *testing.T) {
	l := nfLab(t, netlab.Options{})
	startNF(t, Options{Sums: func(*event.Sum) { t.Error("a sum") }}, l.R)
}

func (tr *nfTrace) note(e *event.Event) error {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if e.Time < tr.last {
		tr.t.Errorf("event of %d after one of %d", e.Time, tr.last)
	}
	tr.last = e.Time
	tr.events = append(tr.events, *e)
	return nil
}

// finish ends the trace and checks what must always hold.
func (tr *nfTrace) finish() {
	tr.t.Helper()
	tr.stop()
	l := tr.Loss()
	if l.Seen != l.Delivered+l.Aggregated+l.Lost {
		tr.t.Errorf("seen %d != delivered %d + aggregated %d + lost %d", l.Seen, l.Delivered, l.Aggregated, l.Lost)
	}
	if l.Lost != 0 || l.ByStage["stash"] != 0 || l.ByStage["recursion"] != 0 {
		tr.t.Errorf("loss: %+v", l)
	}
	// a VM without KVM may take the CPU away for long, right between the two
	if l.ByStage["late_cancel"] != 0 && !lab.InVM() {
		tr.t.Errorf("loss: %+v", l)
	}
	if l.Delivered != uint64(len(tr.events)) {
		tr.t.Errorf("%d events delivered, %d counted", len(tr.events), l.Delivered)
	}
}

func (tr *nfTrace) counters(ns *netlab.NS) Counters {
	for _, c := range tr.Counters() {
		if c.NetNS == ns.Inode() {
			return c
		}
	}
	return Counters{}
}

// count returns how many events match.
func (tr *nfTrace) count(want func(*event.Event) bool) (n int) {
	for i := range tr.events {
		if want(&tr.events[i]) {
			n++
		}
	}
	return n
}

func (tr *nfTrace) bySource(ns *netlab.NS, k event.Kind, r event.Reason) map[netip.Addr]uint64 {
	m := map[netip.Addr]uint64{}
	for i := range tr.events {
		if e := &tr.events[i]; e.NetNS == ns.Inode() && e.Kind == k && e.Reason == r {
			m[e.Orig.Src]++
		}
	}
	return m
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func nfLab(t testing.TB, o netlab.Options) *netlab.Router {
	t.Helper()
	lab.NeedRoot(t)
	r, err := netlab.NewRouter(o)
	must(t, err)
	t.Cleanup(func() { must(t, r.Close()) })
	return r
}

func udp(src string, sources, ports int, dst netip.Addr) netlab.Flows {
	return netlab.Flows{Proto: event.ProtoUDP, Src: netlab.Addrs{First: netip.MustParseAddr(src), N: sources},
		Dst: netlab.OneAddr(dst), SPorts: netlab.Ports{First: 20000, N: ports}, DPorts: netlab.OnePort(7001)}
}

// Every source's new entries, for each protocol and family, from two CPUs.
func TestNetfilterNew(t *testing.T) {
	r := nfLab(t, netlab.Options{})
	tr := startNF(t, Options{}, r.R)
	tcp := udp("10.3.0.1", 20, 50, netlab.Sink(1))
	tcp.Proto = event.ProtoTCP
	icmp := udp("10.4.0.1", 10, 20, netlab.Sink(2))
	icmp.Proto = event.ProtoICMP
	icmp6 := udp("fd00:44::1", 10, 20, netlab.Sink6(2))
	icmp6.Proto = event.ProtoICMPv6
	want := map[netip.Addr]uint64{}
	var packets uint64
	for _, f := range []netlab.Flows{udp("10.2.0.1", 40, 100, netlab.Sink(0)), udp("fd00:22::1", 40, 100, netlab.Sink6(0)), tcp, icmp, icmp6} {
		ths, err := r.SendParallel(t.Context(), netlab.SendOptions{}, f.Part(0, 2), f.Part(1, 2))
		must(t, err)
		for _, th := range ths {
			packets += th.Packets()
			for a, n := range th.FlowsBySource() {
				want[a] += n
			}
		}
	}
	must(t, r.Drain())
	// a second packet of a known flow is not new
	again := udp("10.2.0.1", 1, 100, netlab.Sink(0))
	_, err := r.SendFlows(t.Context(), again, netlab.SendOptions{})
	must(t, err)
	tr.finish()
	got := tr.bySource(r.R, event.New, 0)
	var sum uint64
	for a, n := range want {
		if sum += n; got[a] != n {
			t.Errorf("%s: %d new, want %d", a, got[a], n)
		}
	}
	if len(got) != len(want) || len(tr.events) != int(sum) {
		t.Errorf("%d sources, %d events; want %d, %d", len(got), len(tr.events), len(want), sum)
	}
	if c := tr.counters(r.R); c.New != sum {
		t.Errorf("counted %d new, want %d", c.New, sum)
	}
	count, err := r.R.ConntrackCount()
	must(t, err)
	if uint64(count) != sum {
		t.Errorf("table holds %d, traced %d", count, sum)
	}
	t.Logf("%d new of %d sources, %d packets, loss %+v", sum, len(got), packets, tr.Loss())
}

func TestNetfilterRuleset(t *testing.T) {
	r := nfLab(t, netlab.Options{})
	must(t, r.R.Drop(netlab.Forward, netlab.Match{Proto: event.ProtoUDP, DPort: netlab.OnePort(5555)}))
	must(t, r.R.Drop(netlab.Forward, netlab.Match{CTState: netlab.StateInvalid}))
	must(t, r.R.Drop(netlab.Prerouting, netlab.Match{Proto: event.ProtoUDP, DPort: netlab.OnePort(99)}))
	must(t, r.R.Untrack(netlab.Prerouting, netlab.Match{Proto: event.ProtoUDP, DPort: netlab.OnePort(98)}))
	must(t, r.R.Blackhole(netip.PrefixFrom(netlab.Sink(7), 32)))
	tr := startNF(t, Options{}, r.R)
	send := func(dst netip.Addr, dport uint16, n int) {
		f := udp("10.5.0.1", 1, n, dst)
		f.DPorts = netlab.OnePort(dport)
		_, err := r.SendFlows(t.Context(), f, netlab.SendOptions{})
		must(t, err)
	}
	var stray []netlab.Packet
	for i := range 8 {
		tu := event.Tuple{Src: netip.MustParseAddr("10.6.0.1"), Dst: netlab.Sink(0), Sport: uint16(100 + i), Dport: 7001, Proto: event.ProtoTCP}
		stray = append(stray, netlab.Packet{Tuple: tu, Flags: netlab.SYN | netlab.ACK})
	}
	for range 50 { // in turn, so that addresses of packets are used again by other kinds
		send(netlab.Sink(0), 5555, 10) // dropped as new
		send(netlab.Sink(0), 99, 10)   // dropped before conntrack
		send(netlab.Sink(0), 98, 10)   // untracked
		_, err := r.SendPackets(netlab.SendOptions{}, stray...)
		must(t, err)
	}
	send(netlab.Sink(7), 7001, 5) // no route
	must(t, r.Drain())
	tr.finish()
	c := tr.counters(r.R)
	want := Counters{NetNS: r.R.Inode()}
	want.Reasons[event.RulesetNew] = 500
	want.Reasons[event.RulesetInvalid] = 400
	want.Reasons[event.OtherNew] = 5
	if c != want {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
	for r0, n := range map[event.Reason]int{event.RulesetNew: 500, event.RulesetInvalid: 400, event.OtherNew: 5} {
		if got := tr.count(func(e *event.Event) bool { return e.Kind == event.Drop && e.Reason == r0 }); got != n {
			t.Errorf("%s: %d events, want %d", r0, got, n)
		}
	}
}

// T5: a pool of two ports, five flows.
func TestNetfilterLostAtInsert(t *testing.T) {
	for _, f := range []Filter{{}, {On: true, Zone: -1, Kinds: 1 << event.New}, {On: true, Zone: -1, Kinds: 1 << event.Drop}} {
		t.Run(fmt.Sprintf("kinds %d", f.Kinds), func(t *testing.T) {
			r := nfLab(t, netlab.Options{})
			must(t, r.R.Masquerade(netlab.Match{Proto: event.ProtoUDP}, netlab.Ports{First: 10000, N: 2}))
			tr := startNF(t, Options{Filter: f}, r.R)
			_, err := r.SendFlows(t.Context(), udp("10.0.1.2", 1, 5, netlab.Sink(0)), netlab.SendOptions{})
			must(t, err)
			must(t, r.Drain())
			tr.finish()
			c := tr.counters(r.R)
			if c.New != 2 || c.Reasons[event.NATExhausted] != 3 {
				t.Errorf("new %d, lost %d; want 2, 3", c.New, c.Reasons[event.NATExhausted])
			}
			want := map[event.Kind]int{event.New: 2, event.Drop: 3}
			for k, n := range want {
				if f.On && f.Kinds>>k&1 == 0 {
					n = 0
				}
				if got := tr.count(func(e *event.Event) bool { return e.Kind == k }); got != n {
					t.Errorf("%s: %d events, want %d", k, got, n)
				}
			}
		})
	}
}

// Two packets of one flow on two CPUs: TCP loses one, UDP merges them.
func TestNetfilterRace(t *testing.T) {
	r := nfLab(t, netlab.Options{})
	must(t, r.A.EnableConntrack())
	must(t, r.A.SlowDown(netlab.Output, netlab.Match{Src: netip.PrefixFrom(netlab.ClientV4, 32)}, 5000))
	tr := startNF(t, Options{}, r.A, r.R)
	f := netlab.Flows{Proto: event.ProtoTCP, Src: netlab.OneAddr(netlab.ClientV4), Dst: netlab.Addrs{First: netlab.Sink(0), N: 300}, SPorts: netlab.OnePort(5000), DPorts: netlab.OnePort(7000)}
	th, err := r.RacePackets(t.Context(), f, netlab.SendOptions{ViaStack: true})
	if errors.Is(err, netlab.ErrOneCPU) {
		t.Skip(err)
	}
	must(t, err)
	tr.finish()
	c := tr.counters(r.A)
	lost := c.Reasons[event.ConfirmUnknown]
	t.Logf("denied %d of %d, traced lost %d, new %d", th.Denied(), th.Packets(), lost, c.New)
	if lost != th.Denied() || c.New != 300 {
		t.Errorf("lost %d, new %d; want %d, 300", lost, c.New, th.Denied())
	}
	if got := len(tr.bySource(r.A, event.New, 0)); got != 1 {
		t.Errorf("%d sources", got)
	}
	if got := tr.count(func(e *event.Event) bool { return e.NetNS == r.A.Inode() && e.Kind == event.New }); got != 300+int(tr.Loss().ByStage["late_cancel"]) {
		t.Errorf("%d new events, want 300", got)
	}
}

// Loopback: the packet passes the hooks twice, sockets of the host itself.
func TestNetfilterLocal(t *testing.T) {
	r := nfLab(t, netlab.Options{})
	tr := startNF(t, Options{}, r.R, r.B)
	must(t, r.B.EnableConntrack()) // after ours: equal priorities would put it first
	for _, addr := range []netip.Addr{netlab.ServerV4, netlab.ServerV6} {
		s, err := r.ServeTCP(netip.AddrPortFrom(addr, 80))
		must(t, err)
		conns, err := r.ConnectTCP(t.Context(), netlab.ConnectOptions{N: 60, Dst: s.Addr()})
		must(t, err)
		if conns.OK != 60 {
			t.Fatalf("%+v", conns)
		}
	}
	must(t, r.Drain())
	tr.finish()
	for _, ns := range []*netlab.NS{r.R, r.B} {
		if c := tr.counters(ns); c.New != 120 {
			t.Errorf("%d new, want 120", c.New)
		}
	}
}

// A namespace made and attached later; one that is forgotten sees no more.
func TestNetfilterNetNS(t *testing.T) {
	r := nfLab(t, netlab.Options{})
	tr := startNF(t, Options{}, r.R)
	r2 := nfLab(t, netlab.Options{})
	must(t, tr.AttachNetNS(nsPath(r2.R).Path, r2.R.Inode()))
	must(t, tr.AttachNetNS(nsPath(r2.R).Path, r2.R.Inode())) // twice is once
	for _, x := range []*netlab.Router{r, r2} {
		_, err := x.SendFlows(t.Context(), udp("10.5.0.1", 2, 50, netlab.Sink(0)), netlab.SendOptions{})
		must(t, err)
	}
	if got := tr.NetNS(); len(got) != 2 || got[0].Links != 12 || got[1].Links != 12 || got[0].Err != nil || got[0].Shifted != nil {
		t.Errorf("links: %+v", got)
	}
	must(t, tr.ForgetNetNS(r2.R.Inode()))
	_, err := r2.SendFlows(t.Context(), udp("10.5.0.9", 2, 50, netlab.Sink(0)), netlab.SendOptions{})
	must(t, err)
	tr.finish()
	if a, b := tr.counters(r.R).New, tr.counters(r2.R).New; a != 100 || b != 100 {
		t.Errorf("%d and %d new, want 100 each", a, b)
	}
	if err := tr.AttachNetNS(nsPath(r.R).Path, r.R.Inode()); !errors.Is(err, os.ErrClosed) {
		t.Errorf("attach after detach: %v", err)
	}
	if err := tr.AttachNetNS("/proc/self/ns/net", 1); err == nil {
		t.Error("attached with a wrong inode")
	}
}

// A second tracer finds the priorities taken and goes one further out.
func TestNetfilterTwice(t *testing.T) {
	r := nfLab(t, netlab.Options{})
	a := startNF(t, Options{}, r.R)
	b := startNF(t, Options{}, r.R)
	must(t, r.R.Masquerade(netlab.Match{Proto: event.ProtoUDP}, netlab.Ports{First: 10000, N: 2}))
	_, err := r.SendFlows(t.Context(), udp("10.0.1.2", 1, 5, netlab.Sink(0)), netlab.SendOptions{})
	must(t, err)
	must(t, r.Drain())
	shifted := b.NetNS()
	a.finish()
	b.finish()
	if s := b.Report(); s.Backend != Netfilter || len(s.Hooks) != 13 {
		t.Errorf("report: %+v", s)
	}
	for _, tr := range []*nfTrace{a, b} {
		if c := tr.counters(r.R); c.New != 2 || c.Reasons[event.NATExhausted] != 3 {
			t.Errorf("new %d, lost %d; want 2, 3", c.New, c.Reasons[event.NATExhausted])
		}
	}
	if len(shifted) != 1 || len(shifted[0].Shifted) != 12 {
		t.Errorf("links of the second: %+v", shifted)
	}
}
