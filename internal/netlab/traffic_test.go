package netlab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

func TestConnectTCP(t *testing.T) {
	nets := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd00:a::/64")}
	r := lab(t, Options{ClientNets: nets, ServerNets: []netip.Prefix{netip.MustParsePrefix("10.8.0.0/24"), netip.MustParsePrefix("fd00:8::/64")}})
	for i, dst := range []string{"10.8.0.9:80", "[fd00:8::9]:80"} {
		s, err := r.ServeTCP(netip.MustParseAddrPort(dst))
		must(t, err)
		for _, reset := range []bool{false, true} {
			before := entries(t, r.R)
			c, err := r.ConnectTCP(t.Context(), ConnectOptions{N: 50, Src: Addrs{nets[i].Addr().Next(), 10}, Dst: s.Addr(), Reset: reset})
			must(t, err)
			if c.OK != 50 || len(c.Tuples) != 50 {
				t.Errorf("%s: %+v, want 50 connections", dst, c)
			}
			must(t, r.Drain())
			if got, want := entries(t, r.R)-before, len(c.Flows()); got != uint64(want) {
				t.Errorf("%s: %d entries, want %d", dst, got, want)
			}
		}
		if s.Answered() != 100 {
			t.Errorf("server had %d connections, want 100", s.Answered())
		}
	}
	if n, err := r.Lost(); n != 0 || err != nil {
		t.Errorf("%d packets lost (%v)", n, err)
	}
}

func TestQueryUDP(t *testing.T) {
	r := lab(t, Options{})
	want := 0
	for _, dst := range []netip.Addr{ServerV4, ServerV6} {
		s, err := r.ServeUDP(netip.AddrPortFrom(dst, 53))
		must(t, err)
		c, err := r.QueryUDP(t.Context(), ConnectOptions{N: 40, Dst: s.Addr()})
		must(t, err)
		if c.OK != 40 || s.Answered() != 40 {
			t.Errorf("%s: %d answers, %d timed out, %d refused, %d failed; server answered %d, want 40", dst, c.OK, c.TimedOut, c.Refused, c.Failed, s.Answered())
		}
		want += len(c.Flows())
	}
	if got := entries(t, r.R); got != uint64(want) {
		t.Errorf("%d entries, want %d", got, want)
	}
}

func TestConnectScan(t *testing.T) {
	r := lab(t, Options{})
	_, err := r.ServeTCP(netip.AddrPortFrom(ServerV4, 6995))
	must(t, err)
	got, err := r.ConnectScan(t.Context(), ConnectOptions{Dst: netip.AddrPortFrom(ServerV4, 0), Parallel: 10}, Ports{6990, 20})
	must(t, err)
	if len(got.Open) != 1 || got.Open[0] != 6995 || len(got.Closed) != 9 || len(got.Silent) != 10 {
		t.Errorf("scan found %+v, want 1 open, 9 closed, 10 silent", got)
	}
}

// T3 and T4b, in A; and the same in R from the wire.
func TestRaces(t *testing.T) {
	const slow = 20000
	udp := Flows{Proto: event.ProtoUDP, Src: OneAddr(ClientV4), Dst: Addrs{Sink(0), 100}, SPorts: OnePort(5000), DPorts: OnePort(7000)}
	tcp := udp
	tcp.Proto = event.ProtoTCP
	for _, c := range []struct {
		name string
		inA  bool
		f    Flows
		run  func(r *Router, f Flows) (*Truth, error)
	}{
		{"socket udp", true, udp, func(r *Router, f Flows) (*Truth, error) { return r.RaceSocket(t.Context(), f) }},
		{"stack tcp", true, tcp, func(r *Router, f Flows) (*Truth, error) {
			return r.RacePackets(t.Context(), f, SendOptions{ViaStack: true})
		}},
		{"wire udp", false, udp, func(r *Router, f Flows) (*Truth, error) { return r.RacePackets(t.Context(), f, SendOptions{}) }},
		{"wire tcp", false, tcp, func(r *Router, f Flows) (*Truth, error) { return r.RacePackets(t.Context(), f, SendOptions{}) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := lab(t, Options{})
			ns, hook := r.R, Forward
			if c.inA {
				ns, hook = r.A, Output
				must(t, ns.EnableConntrack())
			}
			must(t, ns.SlowDown(hook, Match{Src: netip.PrefixFrom(ClientV4, 32)}, slow))
			truth, err := c.run(r, c.f)
			if errors.Is(err, ErrOneCPU) {
				t.Skip(err)
			}
			must(t, err)
			s := stats(t, ns)
			t.Logf("clash_resolve %d, insert_failed %d, drop %d", s["clash_resolve"], s["insert_failed"], s["drop"])
			if truth.Packets() != 200 || truth.Flows() != 100 || entries(t, ns) != 100 {
				t.Errorf("truth %d packets, %d flows, %d entries; want 200, 100, 100", truth.Packets(), truth.Flows(), entries(t, ns))
			}
			if c.f.Proto == event.ProtoTCP {
				if s["drop"] != s["insert_failed"] || c.inA && uint64(s["drop"]) != truth.Denied() {
					t.Errorf("drop %d, insert_failed %d, denied %d; want them equal", s["drop"], s["insert_failed"], truth.Denied())
				}
			}
			if s["clash_resolve"]+s["drop"] == 0 {
				t.Logf("no clash at all: the two CPUs were never there at once")
			}
		})
	}
}

func TestDemoPieces(t *testing.T) {
	r := lab(t, Options{ClientNets: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}})
	ctx := t.Context()

	burst, err := r.Burst(ctx, addr("10.66.6.6"), 2000, 0)
	must(t, err)
	if got := entries(t, r.R); got != 2000 || burst.Flows() != 2000 {
		t.Errorf("burst: %d entries, %d flows, want 2000", got, burst.Flows())
	}
	scan, err := r.Scan(ctx, addr("10.66.6.7"), ServerV4, Ports{1, 500}, 0)
	must(t, err)
	must(t, r.Drain())
	if got := entries(t, r.R); got != 2000 || scan.Flows() != 500 { // resets leave no entry
		t.Errorf("scan: %d entries, %d flows, want 2000 and 500", got, scan.Flows())
	}
	fill, err := r.Fill(ctx, Addrs{addr("10.77.0.1"), 10}, 500, 5000)
	must(t, err)
	if got := states(t, r.R)["ESTABLISHED assured"]; got != 500 || fill.Flows() != 500 || fill.Packets() != 1000 {
		t.Errorf("fill: %d established, truth %d packets of %d flows; want 500, 1000, 500", got, fill.Packets(), fill.Flows())
	}
	short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	before := entries(t, r.R)
	ordinary, err := r.Ordinary(short, Addrs{addr("10.1.0.1"), 20}, 100, 100)
	must(t, err)
	got := entries(t, r.R) - before
	if ordinary.OK == 0 || ordinary.TimedOut+ordinary.Refused+ordinary.Failed > 0 || got != uint64(len(ordinary.Flows())) {
		t.Errorf("ordinary: %d OK, %d timed out, %d refused, %d failed, %d entries", ordinary.OK, ordinary.TimedOut, ordinary.Refused, ordinary.Failed, got)
	}
}

func TestTruth(t *testing.T) {
	f := Flows{Proto: event.ProtoUDP, Src: Addrs{addr("192.0.2.1"), 3}, Dst: Addrs{addr("203.0.113.1"), 2}, SPorts: Ports{60000, 100}, DPorts: Ports{53, 2}}
	a, b := &Truth{}, &Truth{}
	seen := make(map[event.Tuple]bool)
	for i := range f.Len() {
		tu := f.Tuple(i)
		seen[tu] = true
		a.note(tu, 28)
		if i%2 == 0 {
			b.note(tu, 28)
			b.note(tu, 28)
		}
	}
	if f.Len() != 1200 || len(seen) != 1200 || a.Flows() != 1200 || a.Bytes() != 1200*28 {
		t.Errorf("%d flows, %d different, truth %d", f.Len(), len(seen), a.Flows())
	}
	if b.Flows() != 600 || b.Packets() != 1200 {
		t.Errorf("twice the same: %d flows, %d packets, want 600 and 1200", b.Flows(), b.Packets())
	}
	a.Add(b)
	if a.Flows() != 1200 || a.Packets() != 2400 {
		t.Errorf("sum: %d flows, %d packets, want 1200 and 2400", a.Flows(), a.Packets())
	}
	want := map[netip.Addr]uint64{addr("192.0.2.1"): 400, addr("192.0.2.2"): 400, addr("192.0.2.3"): 400}
	if got := a.FlowsBySource(); !maps.Equal(got, want) {
		t.Errorf("flows by source %v, want %v", got, want)
	}
	keys := a.Keys()
	if len(keys) != 12 || keys[0] != (Key{addr("192.0.2.1"), addr("203.0.113.1"), 17, 53}) {
		t.Errorf("keys %v", keys)
	}
	if p, n := a.Of(keys[0]); p != 200 || n != 100 {
		t.Errorf("%v: %d packets, %d flows, want 200 and 100", keys[0], p, n)
	}
	one := a.Where(func(k Key) bool { return k.Src == addr("192.0.2.2") && k.DPort == 54 })
	if one.Flows() != 200 || one.Packets() != 400 {
		t.Errorf("part: %d flows, %d packets, want 200 and 400", one.Flows(), one.Packets())
	}
}

func TestFlowsParts(t *testing.T) {
	f := Flows{Proto: event.ProtoTCP, Src: Addrs{addr("2001:db8::ffff"), 7}, Dst: OneAddr(Sink6(0)), SPorts: Ports{1, 11}, SpreadSources: true}
	var all []event.Tuple
	for k := range 4 {
		p := f.Part(k, 4)
		for i := range p.Len() {
			all = append(all, p.Tuple(i))
		}
	}
	if len(all) != 77 {
		t.Fatalf("%d flows, want 77", len(all))
	}
	for i, tu := range all {
		if tu != f.Tuple(i) {
			t.Fatalf("flow %d is %v, want %v", i, tu, f.Tuple(i))
		}
	}
	if all[1].Src != addr("2001:db8::1:0") {
		t.Errorf("second source %s", all[1].Src)
	}
}

func TestBarrier(t *testing.T) {
	const rounds = 200
	b := NewBarrier(3)
	done := make(chan int, 3)
	for k := range 3 {
		go func() {
			defer b.Leave()
			for range rounds * (k + 1) / 3 { // the first ones leave early
				b.Wait()
			}
			done <- k
		}()
	}
	for range 3 {
		select {
		case <-done:
		case <-time.After(time.Minute): // its waiters spin, and an emulated CPU may stand still
			t.Fatal("barrier does not open")
		}
	}
}

func TestPacketsThatCannotBe(t *testing.T) {
	for _, p := range []Packet{
		{},
		{Tuple: event.Tuple{Src: ClientV4, Dst: ClientV6}},
		{Tuple: event.Tuple{Src: ClientV4, Dst: ServerV4}, Payload: make([]byte, 70000)},
	} {
		if b, err := p.Append(nil); err == nil || len(b) != 0 {
			t.Errorf("%d bytes, error %v; want an error", len(b), err)
		}
	}
	if _, err := (&Packet{Tuple: event.Tuple{Src: ClientV4, Dst: ServerV4}}).Fragments(7); err == nil {
		t.Error("fragments of less than 8 bytes: no error")
	}
}

func BenchmarkSendFlows(b *testing.B) {
	for _, p := range []struct {
		name  string
		track bool
		cpus  int
	}{{"untracked", false, 1}, {"new entries", true, 1}, {"new entries, 2 CPUs", true, 2}} {
		b.Run(p.name, func(b *testing.B) {
			const n = 50000
			var spent time.Duration
			for b.Loop() {
				r := lab(b, Options{NoConntrack: !p.track})
				f := Flows{Proto: event.ProtoUDP, Src: Addrs{addr("198.51.100.1"), 4}, Dst: OneAddr(Sink(0)), SPorts: Ports{1024, n / 4}, DPorts: OnePort(9)}
				var parts []Flows
				for k := range p.cpus {
					parts = append(parts, f.Part(k, p.cpus))
				}
				start := time.Now()
				_, err := r.SendParallel(b.Context(), SendOptions{}, parts...)
				spent += time.Since(start)
				must(b, err)
				must(b, r.Close())
			}
			b.ReportMetric(float64(n)*float64(b.N)/spent.Seconds(), "packets/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func ExampleRouter_SendFlows() {
	f := Flows{Proto: event.ProtoUDP, Src: Addrs{addr("198.51.100.1"), 2}, Dst: OneAddr(Sink(0)), SPorts: Ports{1024, 2}, DPorts: OnePort(53)}
	for i := range f.Len() {
		t := f.Tuple(i)
		fmt.Println(t.Src, t.Sport, t.Dst, t.Dport)
	}
	// Output:
	// 198.51.100.1 1024 10.9.0.1 53
	// 198.51.100.1 1025 10.9.0.1 53
	// 198.51.100.2 1024 10.9.0.1 53
	// 198.51.100.2 1025 10.9.0.1 53
}
