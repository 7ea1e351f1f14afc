package netlab

import (
	"net/netip"
	"testing"

	"github.com/ctsight/ctsight/internal/event"
	ctlab "github.com/ctsight/ctsight/internal/lab"
)

// T5: two ports for five flows to one destination.
func TestMasqueradeRunsOutOfPorts(t *testing.T) {
	r := lab(t, Options{})
	must(t, r.R.Masquerade(Match{Proto: event.ProtoUDP}, Ports{10000, 2}))
	f := Flows{Proto: event.ProtoUDP, Src: OneAddr(ClientV4), Dst: OneAddr(Sink(0)), SPorts: Ports{1000, 5}, DPorts: OnePort(53)}
	_, err := r.SendFlows(t.Context(), f, SendOptions{})
	must(t, err)
	s := stats(t, r.R)
	if s["drop"] != 3 || s["insert_failed"] != 3 || entries(t, r.R) != 2 {
		t.Errorf("drop %d, insert_failed %d, entries %d; want 3, 3, 2", s["drop"], s["insert_failed"], entries(t, r.R))
	}
}

func TestDropAndMatches(t *testing.T) {
	r := lab(t, Options{})
	must(t, r.R.Drop(Forward, Match{Proto: event.ProtoUDP, DPort: Ports{100, 10}, SPort: Ports{1000, 5}, Src: netip.MustParsePrefix("10.0.1.0/25"), CTState: StateNew}))
	must(t, r.R.Drop(Prerouting, Match{Proto: event.ProtoUDP, DPort: OnePort(99)}))
	must(t, r.R.Untrack(Prerouting, Match{Proto: event.ProtoUDP, DPort: OnePort(98)}))
	f := Flows{Proto: event.ProtoUDP, Src: OneAddr(ClientV4), Dst: OneAddr(Sink(0)), SPorts: Ports{1000, 10}, DPorts: Ports{98, 15}}
	before, err := r.B.RxPackets("b0")
	must(t, err)
	_, err = r.SendFlows(t.Context(), f, SendOptions{})
	must(t, err)
	after, err := r.B.RxPackets("b0")
	must(t, err)
	if got := after - before; got != 150-50-10 {
		t.Errorf("%d packets passed, want 90", got)
	}
	if got := entries(t, r.R); got != 150-50-10-10 {
		t.Errorf("%d entries, want 80", got)
	}
}

func TestAlternateDNAT(t *testing.T) {
	r := lab(t, Options{})
	must(t, r.R.AlternateDNAT(Prerouting, Match{Proto: event.ProtoUDP}, Sink(10), Sink(11)))
	for i := range 2 {
		must(t, r.B.Count([]string{"a", "b"}[i], Prerouting, Match{Dst: netip.PrefixFrom(Sink(10+i), 32)}))
	}
	f := Flows{Proto: event.ProtoUDP, Src: OneAddr(ClientV4), Dst: OneAddr(Sink(0)), SPorts: Ports{1000, 10}, DPorts: OnePort(53)}
	_, err := r.SendFlows(t.Context(), f, SendOptions{})
	must(t, err)
	must(t, r.Drain())
	for _, name := range []string{"a", "b"} {
		if n, _, err := r.B.Counter(name); err != nil || n != 5 {
			t.Errorf("target %s got %d packets (%v), want 5", name, n, err)
		}
	}
}

func TestBlackhole(t *testing.T) {
	r := lab(t, Options{})
	must(t, r.R.Blackhole(netip.PrefixFrom(Sink(0), 32)))
	_, err := r.SendPackets(SendOptions{}, Packet{Tuple: event.Tuple{Src: ClientV4, Dst: Sink(0), Sport: 1, Dport: 2, Proto: event.ProtoUDP}})
	must(t, err)
	if got := entries(t, r.R); got != 0 {
		t.Errorf("%d entries, want 0", got)
	}
}

// T4. Up to 6.8 a packet that comes back from the queue is looked up again and
// takes the entry of the first: no clash (kernel-hooks.md, B15).
func TestQueueTogether(t *testing.T) {
	r := lab(t, Options{})
	clash := 1
	if k := ctlab.KernelName(); k == "5.10" || k == "6.1" {
		clash = 0
	}
	must(t, r.R.QueueTo(5, Match{Proto: event.ProtoUDP, DPort: OnePort(4000)}))
	must(t, r.R.QueueTo(5, Match{Proto: event.ProtoTCP, DPort: OnePort(4000)}))
	udp := Packet{Tuple: event.Tuple{Src: ClientV4, Dst: Sink(0), Sport: 1, Dport: 4000, Proto: event.ProtoUDP}}
	_, err := r.Together(5, udp, udp)
	must(t, err)
	if s := stats(t, r.R); s["clash_resolve"] != clash || s["drop"] != 0 || entries(t, r.R) != 1 {
		t.Errorf("udp: %v, %d entries; want %d clash resolved", s, entries(t, r.R), clash)
	}
	tcp := Packet{Tuple: udp.Tuple, Flags: SYN}
	tcp.Tuple.Proto = event.ProtoTCP
	_, err = r.Together(5, tcp, tcp)
	must(t, err)
	if s := stats(t, r.R); s["clash_resolve"] != clash || s["drop"] != clash || s["insert_failed"] != clash || entries(t, r.R) != 2 {
		t.Errorf("tcp: %v, %d entries; want %d dropped", s, entries(t, r.R), clash)
	}
}

// T22, T12b, T12: what makes masquerade give up its entries.
func TestMasqueradeLosesItsWay(t *testing.T) {
	r := lab(t, Options{})
	must(t, r.SecondLink())
	must(t, r.R.Masquerade(Match{Proto: event.ProtoUDP}, Ports{}))
	flow := func(port uint16) {
		t.Helper()
		_, err := r.SendPackets(SendOptions{}, Packet{Tuple: event.Tuple{Src: ClientV4, Dst: Sink(0), Sport: port, Dport: 9, Proto: event.ProtoUDP}})
		must(t, err)
	}
	gone := func(what string) {
		t.Helper()
		if err := until(patience, func() (bool, error) { n, err := r.R.ConntrackCount(); return n == 0, err }); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	flow(1)
	must(t, r.R.Via(netip.PrefixFrom(Sink(0), 32), ServerCV4))
	flow(1)
	if got := entries(t, r.R); got != 0 {
		t.Errorf("%d entries after the route changed, want 0", got)
	}
	flow(2)
	flow(3)
	must(t, r.R.DelAddr("rc", netip.PrefixFrom(RouterCV4, 24)))
	gone("address deleted")
	must(t, r.R.Via(netip.PrefixFrom(Sink(0), 32), ServerV4))
	flow(4)
	must(t, r.R.SetLink("rb", false))
	gone("link down")
	must(t, r.Drain())
}
