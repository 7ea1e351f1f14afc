package netlab

import (
	"context"
	"maps"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// lab builds a lab for one test.
func lab(tb testing.TB, o Options) *Router {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("network namespaces need root")
	}
	r, err := NewRouter(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := r.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return r
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// entries waits for nothing: every sender has already waited for R.
func entries(tb testing.TB, n *NS) uint64 {
	tb.Helper()
	c, err := n.ConntrackCount()
	must(tb, err)
	return uint64(c)
}

func TestSentIsReceivedIsCountedIsTracked(t *testing.T) {
	src4, src6 := Addrs{addr("198.51.100.1"), 5}, Addrs{addr("2001:db8::1"), 5}
	for _, f := range []Flows{
		{Proto: event.ProtoUDP, Src: src4, Dst: Addrs{Sink(0), 2}, SPorts: Ports{1024, 100}, DPorts: Ports{53, 3}, Payload: []byte("odd")},
		{Proto: event.ProtoUDP, Src: src6, Dst: Addrs{Sink6(0), 2}, SPorts: Ports{1024, 100}, DPorts: Ports{53, 3}, SpreadSources: true},
		{Proto: event.ProtoTCP, Src: src4, Dst: OneAddr(ServerV4), SPorts: Ports{1024, 200}, DPorts: Ports{7000, 3}},
		{Proto: event.ProtoTCP, Src: src6, Dst: OneAddr(ServerV6), SPorts: Ports{1024, 200}, DPorts: Ports{7000, 3}},
		{Proto: event.ProtoICMP, Src: src4, Dst: OneAddr(ServerV4), SPorts: Ports{1, 300}},
		{Proto: event.ProtoICMPv6, Src: src6, Dst: OneAddr(ServerV6), SPorts: Ports{1, 300}},
		{Proto: event.ProtoSCTP, Src: src4, Dst: OneAddr(Sink(0)), SPorts: Ports{1024, 50}, DPorts: OnePort(9)},
		{Proto: event.ProtoDCCP, Src: src4, Dst: Addrs{Sink(0), 50}, SPorts: OnePort(1024), DPorts: OnePort(9)},
		{Proto: event.ProtoGRE, Src: src4, Dst: Addrs{Sink(0), 20}, Payload: make([]byte, 20)},
	} {
		t.Run(event.ProtoName(f.Proto)+"-"+f.Src.First.String(), func(t *testing.T) {
			r := lab(t, Options{})
			must(t, r.R.CountSources("by_source", Prerouting, Match{Proto: f.Proto, Dst: netip.PrefixFrom(f.Dst.First, 16)}))
			must(t, r.R.Count("all", Prerouting, Match{Proto: f.Proto}))
			base, err := r.Received()
			must(t, err)
			truth, err := r.SendFlows(t.Context(), f, SendOptions{})
			must(t, err)
			n := uint64(f.Len())
			if truth.Packets() != n || truth.Flows() != n {
				t.Errorf("truth: %d packets, %d flows, want %d", truth.Packets(), truth.Flows(), n)
			}
			must(t, r.WaitReceived(base, n, time.Second))
			got, err := r.Received()
			must(t, err)
			if got-base != n {
				t.Errorf("router received %d packets, sent %d", got-base, n)
			}
			bySource, err := r.R.SourceCounts("by_source")
			must(t, err)
			if want := truth.PacketsBySource(); !maps.Equal(bySource, want) {
				t.Errorf("per source: nft counted %v, sent %v", bySource, want)
			}
			packets, bytes, err := r.R.Counter("all")
			must(t, err)
			must(t, r.Drain())
			if f.Proto == event.ProtoICMP || f.Proto == event.ProtoICMPv6 {
				// B answers, the counter sees both. An answer is no packet of
				// ours: a busy machine may lose some on the way back.
				packets, _, err = r.R.Counter("all")
				must(t, err)
				if packets <= n || packets > 2*n {
					t.Errorf("nft counted %d echo packets, want %d and up to as many answers", packets, n)
				}
			} else if packets != n || bytes != truth.Bytes() {
				t.Errorf("nft counted %d packets of %d bytes, sent %d of %d", packets, bytes, n, truth.Bytes())
			}
			if got := entries(t, r.R); got != n {
				t.Errorf("%d entries, want %d", got, n)
			}
		})
	}
}

// A checksum that is wrong would make conntrack call the packet invalid.
func TestChecksumsSatisfyConntrack(t *testing.T) {
	r := lab(t, Options{})
	must(t, r.R.NFT(`table inet x {
		counter bad {}
		chain c {
			type filter hook prerouting priority 0
			ct state invalid counter name bad
		}
	}`))
	for _, size := range []int{0, 1, 2, 3, 7, 100, 1001} {
		for _, p := range []uint8{event.ProtoUDP, event.ProtoTCP, event.ProtoICMP, event.ProtoICMPv6, event.ProtoSCTP} {
			src, dst := OneAddr(ClientV4), OneAddr(Sink(0))
			if p == event.ProtoICMPv6 {
				src, dst = OneAddr(ClientV6), OneAddr(Sink6(0))
			}
			f := Flows{Proto: p, Src: src, Dst: dst, SPorts: Ports{uint16(1000 + 10*size), 10}, DPorts: OnePort(99), Payload: []byte(strings.Repeat("x", size))}
			_, err := r.SendFlows(t.Context(), f, SendOptions{})
			must(t, err)
		}
	}
	out, err := r.R.Run("nft", "list", "counter", "inet", "x", "bad")
	must(t, err)
	if !strings.Contains(out, "packets 0 ") {
		t.Errorf("conntrack called packets invalid: %s", out)
	}
	if got := entries(t, r.R); got != 7*5*10 {
		t.Errorf("%d entries, want %d", got, 7*5*10)
	}
}

func TestSilence(t *testing.T) {
	r := lab(t, Options{})
	ports := []*port{r.a0, r.ra, r.rb, r.b0}
	var before [4]LinkStats
	for i, p := range ports {
		s, err := p.ns.LinkStats(p.name)
		must(t, err)
		before[i] = s
	}
	time.Sleep(1200 * time.Millisecond) // duplicate address detection and listener reports would come within a second
	for i, p := range ports {
		s, err := p.ns.LinkStats(p.name)
		must(t, err)
		if s != before[i] {
			t.Errorf("%s: %+v, then %+v without being asked", p.name, before[i], s)
		}
	}
}

func TestTwoCPUs(t *testing.T) {
	if len(CPUs()) < 2 {
		t.Skip("needs two CPUs")
	}
	r := lab(t, Options{})
	f := Flows{Proto: event.ProtoUDP, Src: Addrs{addr("198.51.100.1"), 2}, Dst: OneAddr(Sink(0)), SPorts: Ports{1024, 10000}, DPorts: OnePort(9)}
	truths, err := r.SendParallel(t.Context(), SendOptions{}, f.Part(0, 2), f.Part(1, 2))
	must(t, err)
	sum := &Truth{}
	for _, one := range truths {
		if one.Packets() != 10000 {
			t.Errorf("one CPU sent %d packets, want 10000", one.Packets())
		}
		sum.Add(one)
	}
	if got := entries(t, r.R); got != 20000 || sum.Flows() != got {
		t.Errorf("%d entries, truth %d, want 20000", got, sum.Flows())
	}
}

func TestPace(t *testing.T) {
	r := lab(t, Options{})
	f := Flows{Proto: event.ProtoUDP, Src: OneAddr(ClientV4), Dst: OneAddr(Sink(0)), SPorts: Ports{1024, 300}, DPorts: OnePort(9)}
	for _, burst := range []int{0, 20} {
		start := time.Now()
		_, err := r.SendFlows(t.Context(), f, SendOptions{Rate: 1000, Burst: burst})
		must(t, err)
		if d := time.Since(start); d < 250*time.Millisecond || d > time.Second {
			t.Errorf("burst %d: 300 packets at 1000/s took %v", burst, d)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	truth, err := r.SendFlows(ctx, f, SendOptions{Rate: 100})
	if err == nil || truth.Packets() == 0 || truth.Packets() > 50 {
		t.Errorf("cancelled sender: %d packets, error %v", truth.Packets(), err)
	}
}

func TestFragments(t *testing.T) {
	r := lab(t, Options{})
	must(t, r.R.Count("raw", Prerouting, Match{}))
	var sent uint64
	for _, a := range [][2]netip.Addr{{ClientV4, Sink(0)}, {ClientV6, Sink6(0)}} {
		p := Packet{Tuple: event.Tuple{Src: a[0], Dst: a[1], Sport: 1, Dport: 2, Proto: event.ProtoUDP}, Payload: make([]byte, 1000), ID: 7}
		truth, err := r.SendFragments(SendOptions{}, p, 400)
		must(t, err)
		sent += truth.Packets()
	}
	packets, _, err := r.R.Counter("raw")
	must(t, err)
	if sent != 6 || packets != 6 {
		t.Errorf("sent %d fragments, router saw %d, want 6", sent, packets)
	}
	if got := entries(t, r.R); got != 2 {
		t.Errorf("%d entries, want 2", got)
	}
}

func TestStrayPacketsMakeNoEntry(t *testing.T) {
	r := lab(t, Options{})
	tcp := event.Tuple{Src: ClientV4, Dst: Sink(0), Sport: 1000, Dport: 80, Proto: event.ProtoTCP}
	unknown := Packet{Tuple: event.Tuple{Src: Sink(1), Dst: Sink(0), Sport: 5, Dport: 6, Proto: event.ProtoUDP}}
	icmp, err := Unreachable(ClientV4, unknown)
	must(t, err)
	before := stats(t, r.R)
	truth, err := r.SendPackets(SendOptions{},
		Packet{Tuple: tcp, Flags: SYN | ACK}, Packet{Tuple: tcp}, Packet{Tuple: tcp, Flags: RST}, icmp)
	must(t, err)
	after := stats(t, r.R)
	if truth.Packets() != 4 || entries(t, r.R) != 0 {
		t.Errorf("%d packets made %d entries, want 4 and 0", truth.Packets(), entries(t, r.R))
	}
	if inv, e := after["invalid"]-before["invalid"], after["error"]-before["error"]; inv != 3 || e != 1 {
		t.Errorf("invalid %d, error %d, want 3 and 1", inv, e)
	}
}
