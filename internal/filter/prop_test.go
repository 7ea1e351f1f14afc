package filter

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ctsight/ctsight/internal/event"
)

// Values are few, so that filters and events meet.
var (
	addrs    = []string{"10.0.0.1", "10.0.0.9", "10.0.1.1", "192.0.2.1", "2001:db8::1", "2001:db8::2", "fe80::1"}
	prefixes = []string{"10.0.0.0/8", "10.0.0.0/24", "10.0.0.0/25", "0.0.0.0/0", "::/0", "2001:db8::/32", "192.0.2.1/32"}
	portNums = []int{0, 1, 53, 54, 80, 443, 65535}
	reasons  = []string{"table_full", "nat_exhausted", "clash_merged", "invalid", "62", "63", "70"}
	causes   = []string{"unknown", "early_drop", "timeout_gc", "30", "31", "40"}
)

// drawTerm writes one term in one of its spellings.
func drawTerm(t *rapid.T) string {
	pick := func(label string, from ...string) string { return rapid.SampledFrom(from).Draw(t, label) }
	port := func() string {
		a, b := rapid.SampledFrom(portNums).Draw(t, "port"), rapid.SampledFrom(portNums).Draw(t, "to")
		if rapid.Bool().Draw(t, "single") {
			return fmt.Sprint(a)
		}
		return fmt.Sprintf("%d-%d", min(a, b), max(a, b))
	}
	list := func(one func() string) string {
		s := one()
		for rapid.IntRange(0, 3).Draw(t, "more") == 0 {
			s += pick("comma", ",", ", ") + one()
		}
		return s
	}
	from := func(names []string) func() string {
		return func() string { return pick("value", names...) }
	}
	is := pick("equal", " ", "=", " = ", " == ", " != ")
	switch rapid.IntRange(0, 15).Draw(t, "field") {
	case 0, 1:
		return pick("word", "new", "destroy", "drop", "note", "invalid", "unreplied", "assured", "snat", "dnat", "TCP", "udp", "icmp", "ip", "ip6")
	case 2:
		return "event" + is + list(from([]string{"new", "destroy", "drop", "note", "invalid"}))
	case 3:
		return "reason" + is + list(from(reasons))
	case 4:
		return "cause" + is + list(from(causes))
	case 5, 6:
		return pick("addr", "src", "dst", "host", "reply-src", "reply_dst", "src host", "dst net") + is + list(from(append(addrs, prefixes...)))
	case 7, 8:
		return pick("port field", "sport", "dport", "port", "reply-sport", "reply-dport", "src port", "dst port") + is + list(port)
	case 9:
		return "proto" + is + list(from([]string{"tcp", "udp", "icmp", "icmpv6", "0", "47"}))
	case 10:
		return "netns" + is + list(from([]string{"0", "5", "6", "blue"}))
	case 11:
		return "zone" + is + list(from([]string{"0", "7", "8", "1-9"}))
	case 12:
		return "mark" + is + list(from([]string{"0", "1", "0x10/0xf0"}))
	case 13:
		return "status" + is + list(from([]string{"assured", "SEEN_REPLY", "bit20"}))
	case 14:
		return pick("icmp field", "icmp-type", "icmp-code", "icmp-id") + is + list(from([]string{"0", "8", "53"}))
	}
	return pick("rest", "state established,close", "hook input", "family ipv4,ipv6", `comm "a b"`, "pid 1-9", "nat both,none")
}

// drawFilter writes an expression over terms.
func drawFilter(t *rapid.T, depth int) string {
	if depth == 0 {
		return drawTerm(t)
	}
	switch rapid.IntRange(0, 5).Draw(t, "op") {
	case 0:
		return rapid.SampledFrom([]string{"not ", "!", "NOT "}).Draw(t, "not") + "(" + drawFilter(t, depth-1) + ")"
	case 1, 2:
		op := rapid.SampledFrom([]string{" and ", " && ", " ", " AND "}).Draw(t, "and")
		return "(" + drawFilter(t, depth-1) + ")" + op + drawFilter(t, depth-1)
	case 3, 4:
		op := rapid.SampledFrom([]string{" or ", "||"}).Draw(t, "or")
		return drawFilter(t, depth-1) + op + "(" + drawFilter(t, depth-1) + ")"
	}
	return drawTerm(t)
}

func drawTuple(t *rapid.T) event.Tuple {
	a := func() netip.Addr {
		s := rapid.SampledFrom(append([]string{""}, addrs...)).Draw(t, "addr")
		a, _ := netip.ParseAddr(s)
		return a
	}
	p := func() uint16 { return uint16(rapid.SampledFrom(append(portNums, 8<<8)).Draw(t, "port")) }
	return event.Tuple{Src: a(), Dst: a(), Sport: p(), Dport: p(), Proto: rapid.SampledFrom([]uint8{0, 1, 6, 17, 47, 58}).Draw(t, "proto")}
}

func drawEvent(t *rapid.T) event.Event {
	e := event.Event{
		Kind:   event.Kind(rapid.SampledFrom([]int{0, 1, 2, 2, 3, 3, 3, 4, 5, 6, 31, 200}).Draw(t, "kind")),
		NetNS:  rapid.SampledFrom([]event.NetNS{0, 5, 6, 4026532000}).Draw(t, "netns"),
		Zone:   rapid.SampledFrom([]uint16{0, 7, 8}).Draw(t, "zone"),
		Mark:   rapid.SampledFrom([]uint32{0, 1, 0x13}).Draw(t, "mark"),
		Reason: event.Reason(rapid.SampledFrom([]int{0, 1, 6, 32, 40, 62, 63, 70, 71, 255}).Draw(t, "reason")),
		Cause:  event.Cause(rapid.SampledFrom([]int{0, 1, 4, 30, 31, 40, 255}).Draw(t, "cause")),
		Orig:   drawTuple(t),
		Status: event.Status(rapid.SampledFrom([]int{0, 2, 4, 6, 1 << 20}).Draw(t, "status")),
		Hook:   event.Hook(rapid.IntRange(0, 5).Draw(t, "hook")), TCPState: event.TCPState(rapid.IntRange(0, 10).Draw(t, "state")),
	}
	if rapid.Bool().Draw(t, "reply") {
		e.Reply = drawTuple(t)
	}
	return e
}

func mustParse(t rapid.TB, s string) *Filter {
	t.Helper()
	f, err := Parse(s, testOptions)
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return f
}

func TestPropertyString(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawFilter(t, rapid.IntRange(0, 4).Draw(t, "depth"))
		f := mustParse(t, in)
		g := mustParse(t, f.String())
		if f.String() != g.String() || !f.root.equal(g.root) {
			t.Fatalf("%q becomes %q becomes %q", in, f, g)
		}
	})
}

func TestPropertyKernel(t *testing.T) {
	exact := 0
	rapid.Check(t, func(t *rapid.T) {
		f := mustParse(t, drawFilter(t, rapid.IntRange(0, 3).Draw(t, "depth")))
		k := f.Kernel()
		for range 30 {
			e := drawEvent(t)
			m, km := f.Match(&e), k.Match(&e)
			if m && !km {
				t.Fatalf("%q matches %+v, its kernel part %+v does not", f, e, k)
			}
			if k.Exact && m != km {
				t.Fatalf("%q: exact kernel part %+v says %v to %+v", f, k, km, e)
			}
		}
		if k.Exact {
			exact++
		}
	})
	if exact == 0 {
		t.Error("no filter was exact: the test tells nothing")
	}
}

// TestPropertyAlgebra checks the parser's grouping against plain logic.
func TestPropertyAlgebra(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sa, sb, sc := drawTerm(t), drawTerm(t), drawTerm(t)
		a, b, c := mustParse(t, sa), mustParse(t, sb), mustParse(t, sc)
		e := drawEvent(t)
		ma, mb, mc := a.Match(&e), b.Match(&e), c.Match(&e)
		for s, want := range map[string]bool{
			strings.Join([]string{sa, "or", sb, "and", sc}, " "):        ma || mb && mc,
			strings.Join([]string{sa, "and not", sb, "or", sc}, " "):    ma && !mb || mc,
			strings.Join([]string{"not", sa, sb, "and", sc}, " "):       !ma && mb && mc,
			strings.Join([]string{"!(", sa, "||", sb, ") &&", sc}, " "): !ma && !mb && mc,
		} {
			if got := mustParse(t, s).Match(&e); got != want {
				t.Fatalf("%q: %v, want %v", s, got, want)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "src 10.0.0.0/8 and dport 53", `!(udp||reason table_full) comm "a\x00"`, "netns blue mark 0x1/2",
		"dport 1-2,3 not status bit3", "((((", "resaon x", "src host ::1", "\xff\"", "unreplied != ="} {
		f.Add(s)
	}
	e := event.Event{Kind: event.Drop, Reason: event.TableFull, Orig: event.Tuple{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), Proto: 17, Dport: 53}}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := Parse(s, testOptions)
		if err != nil {
			if msg := err.Error(); strings.ContainsAny(msg, "\n\r\x1b") || len(msg) > 2000 {
				t.Errorf("not one short line: %q", msg)
			}
			return
		}
		canon := got.String()
		again, err := Parse(canon, Options{})
		if err != nil || again.String() != canon {
			t.Fatalf("%q: canonical %q reads as %q, %v", s, canon, again, err)
		}
		if got.Match(&e) != again.Match(&e) || got.Match(&e) && !got.Kernel().Match(&e) {
			t.Fatalf("%q and its canonical form %q or kernel part differ", s, canon)
		}
	})
}
