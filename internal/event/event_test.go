package event

import (
	"net/netip"
	"testing"
	"time"
)

func tuple(proto uint8, src, dst string, sport, dport uint16) Tuple {
	return Tuple{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Sport: sport, Dport: dport, Proto: proto}
}

func icmp(proto uint8, src, dst string, typ, code uint8, id uint16) Tuple {
	return tuple(proto, src, dst, id, uint16(typ)<<8|uint16(code))
}

func TestInverse(t *testing.T) {
	for _, tc := range []struct {
		name     string
		in, want Tuple
	}{
		{"tcp", tuple(ProtoTCP, "10.0.0.1", "10.0.0.2", 1000, 80), tuple(ProtoTCP, "10.0.0.2", "10.0.0.1", 80, 1000)},
		{"udp6", tuple(ProtoUDP, "2001:db8::1", "2001:db8::", 1, 2), tuple(ProtoUDP, "2001:db8::", "2001:db8::1", 2, 1)},
		{"echo", icmp(ProtoICMP, "10.0.0.1", "10.0.0.2", 8, 0, 7), icmp(ProtoICMP, "10.0.0.2", "10.0.0.1", 0, 0, 7)},
		{"echo reply", icmp(ProtoICMP, "10.0.0.1", "10.0.0.2", 0, 0, 7), icmp(ProtoICMP, "10.0.0.2", "10.0.0.1", 8, 0, 7)},
		{"timestamp", icmp(ProtoICMP, "10.0.0.1", "10.0.0.2", 13, 0, 7), icmp(ProtoICMP, "10.0.0.2", "10.0.0.1", 14, 0, 7)},
		{"no answer", icmp(ProtoICMP, "10.0.0.1", "10.0.0.2", 3, 1, 7), icmp(ProtoICMP, "10.0.0.2", "10.0.0.1", 3, 1, 7)},
		{"echo6", icmp(ProtoICMPv6, "fe80::1", "fe80::2", 128, 0, 7), icmp(ProtoICMPv6, "fe80::2", "fe80::1", 129, 0, 7)},
		{"node information", icmp(ProtoICMPv6, "fe80::1", "fe80::2", 139, 2, 7), icmp(ProtoICMPv6, "fe80::2", "fe80::1", 140, 2, 7)},
		{"icmp type under icmpv6", icmp(ProtoICMPv6, "fe80::1", "fe80::2", 8, 0, 7), icmp(ProtoICMPv6, "fe80::2", "fe80::1", 8, 0, 7)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.in.Inverse(); got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
			if got := tc.in.Inverse().Inverse(); got != tc.in {
				t.Errorf("twice: got %+v, want %+v", got, tc.in)
			}
		})
	}
}

// TestInverseTwice holds for every ICMP type, known or not.
func TestInverseTwice(t *testing.T) {
	for _, proto := range []uint8{ProtoICMP, ProtoICMPv6} {
		for typ := range 256 {
			in := icmp(proto, "10.0.0.1", "10.0.0.2", uint8(typ), 3, 9)
			if got := in.Inverse().Inverse(); got != in {
				t.Errorf("proto %d type %d: got %+v", proto, typ, got)
			}
		}
	}
}

func TestICMP(t *testing.T) {
	typ, code, id := icmp(ProtoICMP, "10.0.0.1", "10.0.0.2", 8, 3, 4660).ICMP()
	if typ != 8 || code != 3 || id != 4660 {
		t.Errorf("got %d %d %d", typ, code, id)
	}
}

func TestNAT(t *testing.T) {
	orig := tuple(ProtoTCP, "10.0.0.7", "192.0.2.1", 40000, 80)
	ping := icmp(ProtoICMP, "10.0.0.7", "192.0.2.1", 8, 0, 77)
	for _, tc := range []struct {
		name        string
		orig, reply Tuple
		want        string
	}{
		{"unknown reply", orig, Tuple{}, ""},
		{"none", orig, orig.Inverse(), ""},
		{"snat address", orig, tuple(ProtoTCP, "192.0.2.1", "203.0.113.9", 80, 40000), "snat"},
		{"snat port only", orig, tuple(ProtoTCP, "192.0.2.1", "10.0.0.7", 80, 40001), "snat"},
		{"dnat address", orig, tuple(ProtoTCP, "10.9.9.9", "10.0.0.7", 80, 40000), "dnat"},
		{"dnat port only", orig, tuple(ProtoTCP, "192.0.2.1", "10.0.0.7", 8080, 40000), "dnat"},
		{"both", orig, tuple(ProtoTCP, "10.9.9.9", "203.0.113.9", 8080, 40000), "both"},
		{"icmp none", ping, ping.Inverse(), ""},
		{"icmp snat address", ping, icmp(ProtoICMP, "192.0.2.1", "203.0.113.9", 0, 0, 77), "snat"},
		{"icmp snat id only", ping, icmp(ProtoICMP, "192.0.2.1", "10.0.0.7", 0, 0, 78), "snat"},
		{"icmp dnat", ping, icmp(ProtoICMP, "10.9.9.9", "10.0.0.7", 0, 0, 77), "dnat"},
		{"icmp both", ping, icmp(ProtoICMP, "10.9.9.9", "203.0.113.9", 0, 0, 5), "both"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := Event{Orig: tc.orig, Reply: tc.reply}
			if got := e.NAT(); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
	e := Event{Orig: ping, Reply: ping.Inverse()}
	if n := testing.AllocsPerRun(100, func() { e.NAT() }); n != 0 {
		t.Errorf("NAT allocates %v times", n)
	}
}

func TestClock(t *testing.T) {
	wall := time.Date(2026, 11, 22, 19, 38, 1, 5, time.FixedZone("x", 3600))
	c := Clock{Mono: 1000, Wall: wall}
	if got, want := c.At(1001), wall.Add(1).UTC(); !got.Equal(want) || got.Location() != time.UTC {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := c.At(0), wall.Add(-1000); !got.Equal(want) {
		t.Errorf("before the reading: got %v, want %v", got, want)
	}
	if got := Ktime(5).Sub(7); got != -2 {
		t.Errorf("Sub: got %v", got)
	}
}

func TestNATPool(t *testing.T) {
	reply := Tuple{Src: netip.MustParseAddr("192.0.2.1"), Sport: 443, Dst: netip.MustParseAddr("203.0.113.9"), Dport: 1024, Proto: ProtoTCP}
	orig := Tuple{Src: netip.MustParseAddr("10.0.0.1"), Dst: reply.Src, Sport: 1024, Dport: 443, Proto: ProtoTCP}
	want := NATPool{Addr: reply.Dst, Dst: reply.Src, DstPort: 443, Proto: ProtoTCP}
	for r, p := range map[Reason]NATPool{NATExhausted: want, NATRace: want, TableFull: {}} {
		if got := (&Event{Kind: Drop, Reason: r, Orig: orig, Reply: reply}).NATPool(); got != p {
			t.Errorf("%v: %+v, want %+v", r, got, p)
		}
	}
	if got := (&Event{Kind: Drop, Reason: NATExhausted, Orig: orig}).NATPool(); got != (NATPool{}) {
		t.Errorf("without a reply: %+v", got)
	}
}
