package probe_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
)

// key is what a dump and an event have in common.
type key struct {
	orig event.Tuple
	zone uint16
}

// dumped lists the router's table.
func dumped(t testing.TB, c *ctnl.Conn) map[key]ctnl.Entry {
	t.Helper()
	out := map[key]ctnl.Entry{}
	must(t, c.Dump(context.Background(), func(e *ctnl.Entry) error {
		out[key{e.Orig, e.Zone}] = *e
		return nil
	}))
	return out
}

// questions are peeks at all entries that were told as new in a namespace.
func questions(tr *tracer, ns *netlab.NS) []probe.Peek {
	var q []probe.Peek
	for _, e := range tr.told(ns) {
		if e.Kind == event.New {
			q = append(q, probe.Peek{Ptr: e.Ptr, Orig: e.Orig, Zone: e.Zone, NetNS: e.NetNS})
		}
	}
	return q
}

// tcpIn brings a forged TCP connection into a state.
type tcpIn struct {
	port  uint16
	state string
	play  func(context.Context, *netlab.TCP) error
}

func segments(steps ...any) func(context.Context, *netlab.TCP) error {
	return func(ctx context.Context, c *netlab.TCP) error {
		for i := 0; i < len(steps); i += 2 {
			if err := c.Segment(ctx, steps[i].(netlab.Side), steps[i+1].(netlab.TCPFlags), nil); err != nil {
				return err
			}
		}
		return nil
	}
}

const (
	cl, sv = netlab.Client, netlab.Server
	syn    = netlab.SYN
	ack    = netlab.ACK
	sack   = netlab.SYN | netlab.ACK
	fin    = netlab.FIN | netlab.ACK
	rst    = netlab.RST | netlab.ACK
)

var tcpStates = []tcpIn{
	{7001, "SYN_SENT", segments(cl, syn)},
	{7002, "SYN_RECV", segments(cl, syn, sv, sack)},
	{7003, "ESTABLISHED", segments(cl, syn, sv, sack, cl, ack)},
	{7004, "FIN_WAIT", segments(cl, syn, sv, sack, cl, ack, cl, fin)},
	{7005, "CLOSE_WAIT", segments(cl, syn, sv, sack, cl, ack, cl, fin, sv, ack)},
	{7006, "LAST_ACK", segments(cl, syn, sv, sack, cl, ack, cl, fin, sv, ack, sv, fin)},
	{7007, "TIME_WAIT", segments(cl, syn, sv, sack, cl, ack, cl, fin, sv, fin, cl, ack)},
	{7008, "CLOSE", segments(cl, syn, sv, sack, cl, ack, sv, rst)},
}

// states fills the router's table with entries of every state and returns what
// TCP state each of the forged connections must have.
func states(t *testing.T, r *netlab.Router, c *ctnl.Conn) map[event.Tuple]string {
	t.Helper()
	ctx := context.Background()
	want := map[event.Tuple]string{}
	for i, s := range tcpStates {
		for _, src := range []netip.Addr{netlab.ClientV4, netlab.ClientV6} {
			dst := netlab.ServerV4
			if src.Is6() {
				dst = netlab.ServerV6
			}
			tuple := event.Tuple{Src: src, Dst: dst, Sport: uint16(30000 + i), Dport: s.port, Proto: event.ProtoTCP}
			forged, err := r.ForgeTCP(netlab.SendOptions{}, tuple)
			must(t, err)
			must(t, s.play(ctx, forged))
			must(t, forged.End())
			want[tuple] = s.state
		}
	}
	// UDP: no answer, and an answer.
	send(t, r, flows(one, 3, 0))
	client, err := r.NewSender(r.A, netlab.SendOptions{})
	must(t, err)
	server, err := r.NewSender(r.B, netlab.SendOptions{})
	must(t, err)
	for i := range uint16(3) {
		q := event.Tuple{Src: netlab.ClientV4, Dst: netlab.ServerV4, Sport: 31000 + i, Dport: 7100, Proto: event.ProtoUDP}
		must(t, client.Send(netlab.Packet{Tuple: q}))
		must(t, client.Sync())
		must(t, server.Send(netlab.Packet{Tuple: q.Inverse()}))
		must(t, server.Sync())
	}
	must(t, client.Close())
	must(t, server.Close())
	for _, src := range []netip.Addr{netlab.ClientV4, netlab.ClientV6} { // echo
		dst, proto := netlab.Sink(0), uint8(event.ProtoICMP)
		if src.Is6() {
			dst, proto = netlab.Sink6(0), event.ProtoICMPv6
		}
		send(t, r, netlab.Flows{Proto: proto, Src: netlab.OneAddr(src), Dst: netlab.OneAddr(dst), SPorts: netlab.Ports{First: 1, N: 3}})
	}
	send(t, r, flows(one, 3, 2)) // zone 7
	send(t, r, flows(one, 3, 5)) // masqueraded
	// By user space: assured, marked, with chosen states, times and zones.
	for i := range 8 {
		e := &ctnl.Entry{
			Orig:    event.Tuple{Src: netip.MustParseAddr("192.0.2.1"), Dst: netlab.Sink(9), Sport: uint16(100 + i), Dport: 9, Proto: event.ProtoUDP},
			Status:  event.SeenReply | event.Assured,
			Timeout: time.Duration(60+100*i) * time.Second,
			Mark:    uint32(i * 0x1000),
			Zone:    uint16(i % 3),
		}
		if i%2 == 0 {
			e.Orig.Proto, e.TCPState = event.ProtoTCP, event.TCPState(i/2+1)
		}
		e.Reply = e.Orig.Inverse()
		must(t, c.Create(e))
	}
	must(t, r.Drain())
	return want
}

// Peek tells of every entry what a listing by netlink tells of it.
func TestPeekStates(t *testing.T) {
	r := router(t)
	zone7(t, r)
	must(t, r.R.Masquerade(netlab.Match{Dst: netip.PrefixFrom(netlab.Sink(5), 32)}, netlab.Ports{}))
	c := dial(t, r.R)
	tr := trace(t, probe.Options{})
	want := states(t, r, c)
	tr.settle()
	q := questions(tr, r.R)
	before := dumped(t, c)
	must(t, tr.Peek(q))
	after := dumped(t, c)
	if len(before) != len(q) || len(q) == 0 {
		t.Errorf("%d entries in the table, %d told", len(before), len(q))
	}
	seen := sameAsListed(t, q, before, after, want)
	t.Logf("%d entries, %d different: %v", len(q), len(seen), seen)

	flush(t, c)
	tr.settle()
	must(t, tr.Peek(q))
	for _, p := range q {
		if p.Result != probe.PeekGone {
			t.Errorf("%v after a flush: %d", p.Orig, p.Result)
		}
	}
}

// sameAsListed compares what was peeked at with listings from before and after.
// It returns how many entries there were of each sort.
func sameAsListed(t *testing.T, q []probe.Peek, before, after map[key]ctnl.Entry, want map[event.Tuple]string) map[string]int {
	t.Helper()
	seen := map[string]int{}
	for _, p := range q {
		k := key{p.Orig, p.Zone}
		a, wasThere := before[k]
		b, isThere := after[k]
		if !wasThere || !isThere {
			if p.Result == probe.PeekLive {
				t.Errorf("%v zone %d is not in the table", p.Orig, p.Zone)
			}
			continue
		}
		if p.Result != probe.PeekLive {
			t.Errorf("%v zone %d: result %d, but it is in the table", p.Orig, p.Zone, p.Result)
			continue
		}
		if p.Status != a.Status || p.TCPState != a.TCPState {
			t.Errorf("%v: %v %v, netlink tells %v %v", p.Orig, p.Status.Names(), p.TCPState, a.Status.Names(), a.TCPState)
		}
		if s, ok := want[p.Orig]; ok && p.TCPState.String() != s {
			t.Errorf("%v is in %v, want %s", p.Orig, p.TCPState, s)
		}
		// Netlink rounds down to seconds, and time goes on meanwhile.
		if p.Timeout < b.Timeout-time.Second || p.Timeout > a.Timeout+time.Second {
			t.Errorf("%v: %v left, netlink tells %v to %v", p.Orig, p.Timeout, a.Timeout, b.Timeout)
		}
		seen[fmt.Sprintf("%s %v %v", event.ProtoName(p.Orig.Proto), p.TCPState, p.Status.Names())]++
	}
	return seen
}

// The identity is part of the question: another tuple, zone or namespace at the
// same address is not the entry asked for.
func TestPeekIdentity(t *testing.T) {
	r := router(t)
	tr := trace(t, probe.Options{Only: usual})
	send(t, r, flows(one, 1, 0))
	tr.settle()
	q := questions(tr, r.R)
	if len(q) != 1 {
		t.Fatalf("%d entries told, want 1", len(q))
	}
	for name, change := range map[string]func(*probe.Peek){
		"src": func(p *probe.Peek) { p.Orig.Src = p.Orig.Src.Next() }, "dst": func(p *probe.Peek) { p.Orig.Dst = p.Orig.Dst.Next() },
		"sport": func(p *probe.Peek) { p.Orig.Sport++ }, "dport": func(p *probe.Peek) { p.Orig.Dport++ },
		"proto": func(p *probe.Peek) { p.Orig.Proto = event.ProtoTCP }, "zone": func(p *probe.Peek) { p.Zone = 1 },
		"netns": func(p *probe.Peek) { p.NetNS++ }, "reply": func(p *probe.Peek) { p.Orig = p.Orig.Inverse() },
		"family": func(p *probe.Peek) { p.Orig.Src, p.Orig.Dst = netlab.ClientV6, netlab.ServerV6 },
	} {
		p := q[0]
		change(&p)
		one := []probe.Peek{p, q[0]}
		must(t, tr.Peek(one))
		if one[0].Result != probe.PeekGone || one[1].Result != probe.PeekLive {
			t.Errorf("%s: results %d, %d, want gone and live", name, one[0].Result, one[1].Result)
		}
	}
}

// Addresses that are none must never do harm, whatever they are.
func TestPeekGarbage(t *testing.T) {
	r := router(t)
	tr := trace(t, probe.Options{Only: usual})
	send(t, r, flows(one, 1, 0))
	tr.settle()
	live := questions(tr, r.R)[0]
	var q []probe.Peek
	ptrs := []uint64{0, 1, 7, 4096, 0xdeadbeef, 0x00007fffffffffff, 0x0000800000000000, 0x8000000000000000, 0xffff800000000000, 0xffff888000000000,
		0xffffffff81000000, 0xffffffff81000001, 0xfffffffffffff000, 0xffffffffffffffff, 0xfffffe0000000000, 0xffffea0000000000, 0xffffc90000000000}
	for shift := range 64 {
		ptrs = append(ptrs, 1<<shift, live.Ptr^1<<shift)
	}
	for d := uint64(1); d < 400; d++ {
		ptrs = append(ptrs, live.Ptr+d, live.Ptr-d)
	}
	for _, ptr := range ptrs {
		p := live
		p.Ptr = ptr
		q = append(q, p)
	}
	must(t, tr.Peek(q))
	faults := 0
	for _, p := range q {
		if p.Result == probe.PeekFault {
			faults++
		}
		if p.Result == probe.PeekLive {
			t.Errorf("%#x (the entry is at %#x) is live", p.Ptr, live.Ptr)
		}
	}
	if faults == 0 {
		t.Error("no address faults")
	}
	must(t, tr.Peek(nil))
	again := []probe.Peek{live}
	must(t, tr.Peek(again))
	if again[0].Result != probe.PeekLive {
		t.Error("the entry itself is not live")
	}
}

// A batch larger than one run of the program; how long an entry takes.
func TestPeekBatch(t *testing.T) {
	r := router(t)
	tr := trace(t, probe.Options{Only: usual})
	const n = 5000
	send(t, r, flows(one, n, 0))
	tr.settle()
	q := questions(tr, r.R)
	if len(q) != n {
		t.Fatalf("%d entries told, want %d", len(q), n)
	}
	best := time.Duration(1 << 62)
	for range 5 {
		start := time.Now()
		must(t, tr.Peek(q))
		best = min(best, time.Since(start))
	}
	for _, p := range q {
		if p.Result != probe.PeekLive {
			t.Fatalf("%v: result %d", p.Orig, p.Result)
		}
	}
	t.Logf("%d entries in %v, %d ns per entry (emulated)", n, best, best.Nanoseconds()/n)
}

// Entries come and go in a loop so that the slab hands out the same memory
// again and again, while others are asked for all the time: what is in the table
// is live, what has left it never is again.
func TestPeekUnderChurn(t *testing.T) {
	r := router(t)
	tr := trace(t, probe.Options{Only: usual})
	c := dial(t, r.R)
	const lasting, each, rounds = 200, 300, 12
	stay := flows(one, lasting, 0)
	send(t, r, stay)
	tr.settle()
	live := questions(tr, r.R)
	if len(live) != lasting {
		t.Fatalf("%d told, want %d", len(live), lasting)
	}
	var mu sync.Mutex
	var dead []probe.Peek // destroyed: may never be live again
	var asked, wrong atomic.Uint64
	ctx, cancel := context.WithCancel(context.Background())
	var askers sync.WaitGroup
	askers.Go(func() {
		for ctx.Err() == nil {
			mu.Lock()
			q := append(slices.Clone(live), dead...)
			mu.Unlock()
			if err := tr.Peek(q); err != nil {
				t.Error(err)
				return
			}
			for i, p := range q {
				if (p.Result == probe.PeekLive) != (i < lasting) {
					wrong.Add(1)
				}
			}
			asked.Add(uint64(len(q)))
		}
	})
	ptrs := map[uint64]int{}
	for round := range rounds {
		f := flows(one, each, 1+round%200)
		had := len(questions(tr, r.R))
		send(t, r, f)
		tr.settle()
		q := questions(tr, r.R)[had:]
		if len(q) != each {
			t.Fatalf("round %d: %d told, want %d", round, len(q), each)
		}
		must(t, tr.Peek(q))
		for _, p := range q {
			ptrs[p.Ptr]++
			if p.Result != probe.PeekLive {
				t.Errorf("round %d: %v: result %d, but it is in the table", round, p.Orig, p.Result)
			}
		}
		for i := range f.Len() {
			must(t, c.Delete(f.Tuple(i), 0))
		}
		mu.Lock()
		dead = append(dead, q...)
		mu.Unlock()
	}
	cancel()
	askers.Wait()
	if n := wrong.Load(); n > 0 {
		t.Errorf("%d wrong answers of %d", n, asked.Load())
	}
	if len(ptrs) > rounds*each*9/10 {
		t.Errorf("%d addresses for %d entries: memory was not used again, the test proves nothing", len(ptrs), rounds*each)
	}
	t.Logf("%d answers, %d entries at %d addresses", asked.Load(), rounds*each, len(ptrs))
}
