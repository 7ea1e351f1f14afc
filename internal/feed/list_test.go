package feed

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/config"
)

var three = time.Date(2026, 11, 29, 3, 0, 0, 0, time.UTC)

// scanner is a finding that is listed.
func scanner(prefix string) agg.Finding {
	return agg.Finding{ID: prefix, Class: "scan", State: agg.Confirmed, Severity: agg.Feed, Source: prefixes(prefix)[0],
		Time: three, First: three.Add(-time.Minute), Last: three, Expires: three.Add(time.Hour)}
}

func allow(prefix string, until time.Time) config.Allow {
	return config.Allow{Prefix: config.Prefix{Prefix: prefixes(prefix)[0]}, Owner: "netops", Until: config.Until{Time: until, Given: true}, Reason: "ticket 7"}
}

func policy(list ...config.Allow) *Policy {
	a := NewAllow(list, nil)
	return &Policy{Allow: func() *Allow { return a }}
}

func TestAllowWhy(t *testing.T) {
	soon, past := three.Add(time.Second), three.Add(-time.Second)
	a := NewAllow([]config.Allow{allow("198.51.100.0/24", soon), allow("198.51.100.7", past), allow("10.0.0.0/8", time.Time{}), allow("2001:db8::/32", soon), allow("203.0.113.0/24", past)},
		[]Vital{{netip.MustParsePrefix("192.0.2.1/32"), "an address of this host"}, {netip.MustParsePrefix("198.51.100.0/24"), "a gateway of this host"}})
	for addr, want := range map[string]string{
		"198.51.100.9": "a gateway of this host", "198.51.100.7": "a gateway of this host", // what is vital outlives the entry
		"10.1.2.3": "allowed by netops for good: ticket 7", "::ffff:10.1.2.3": "allowed by netops for good: ticket 7",
		"2001:db8::1": "allowed by netops until 2026-11-29T03:00:01Z: ticket 7", "203.0.113.1": "", "11.0.0.1": "", "192.0.2.1": "an address of this host",
	} {
		if got := a.Why(netip.MustParseAddr(addr), three); got != want {
			t.Errorf("%s: %q, want %q", addr, got, want)
		}
	}
	if a.Why(netip.Addr{}, three) != "" || a.Why(netip.MustParseAddr("2001:db8::1"), soon) != "" {
		t.Error("nobody, or too late")
	}
	for prefix, ok := range map[string]bool{"10.0.0.0/24": true, "10.0.0.0/7": true, "2001:db8:1::/48": true, "2001::/16": true, "203.0.113.0/24": false,
		"192.0.2.0/24": true, "192.0.3.0/24": false, "::ffff:10.0.0.0/120": true} {
		if got := a.WhyPrefix(netip.MustParsePrefix(prefix), three) != ""; got != ok {
			t.Errorf("%s: %v", prefix, got)
		}
	}
	if n := testing.AllocsPerRun(100, func() { a.Why(netip.MustParseAddr("10.1.2.3"), three) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	if got := fmt.Sprint(a.Prefixes(three)); got != "[10.0.0.0/8 192.0.2.1/32 198.51.100.0/24 2001:db8::/32]" {
		t.Error(got)
	}
}

// Against the obvious way: every entry looked at.
func TestAllowIsWhatTheListSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix := rapid.Custom(func(t *rapid.T) netip.Prefix {
			if rapid.Bool().Draw(t, "v4") {
				return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(rapid.IntRange(0, 3).Draw(t, "b")), byte(rapid.IntRange(0, 3).Draw(t, "a"))}), rapid.IntRange(20, 32).Draw(t, "bits")).Masked()
			}
			return netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 15: byte(rapid.IntRange(0, 7).Draw(t, "a"))}), rapid.IntRange(120, 128).Draw(t, "bits")).Masked()
		})
		var list []config.Allow
		for _, p := range rapid.SliceOfNDistinct(prefix, 0, 12, rapid.ID).Draw(t, "list") {
			list = append(list, allow(p.String(), three.Add(time.Duration(rapid.IntRange(-1, 1).Draw(t, "until")))))
		}
		a := NewAllow(list, nil)
		p := prefix.Draw(t, "asked")
		all, any := false, false
		for _, c := range list {
			if !c.Until.After(three) {
				continue
			}
			any = any || c.Prefix.Overlaps(p)
			all = all || c.Prefix.Contains(p.Addr())
		}
		if got := a.Why(p.Addr(), three) != ""; got != all {
			t.Errorf("Why(%s) %v", p.Addr(), got)
		}
		if got := a.WhyPrefix(p, three) != ""; got != any {
			t.Errorf("WhyPrefix(%s) %v", p, got)
		}
		// The prefixes cover what is allowed and nothing else, each address once.
		out := a.Prefixes(three)
		if slices.ContainsFunc(out, func(q netip.Prefix) bool { return q.Contains(p.Addr()) }) != all {
			t.Errorf("Prefixes: %v, %s", out, p.Addr())
		}
		for i, q := range out {
			if slices.ContainsFunc(out[:i], q.Overlaps) {
				t.Errorf("%s twice in %v", q, out)
			}
		}
	})
}

// thousands is an allow list.
func thousands(n int) (list []config.Allow) {
	for i := range n {
		list = append(list, allow(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24).String(), three))
	}
	return list
}

// An entry of ten thousand costs no more than ten times one of a thousand: it is no
// matter of all with all.
func TestAllowGrows(t *testing.T) {
	best := func(n int) (best time.Duration) {
		list := thousands(n)
		for range 5 {
			begin := time.Now()
			NewAllow(list, nil)
			if took := time.Since(begin); best == 0 || took < best {
				best = took
			}
		}
		return best
	}
	few, many := best(1000), best(10_000)
	t.Logf("1,000 in %v, 10,000 in %v", few, many)
	if many > 100*few {
		t.Error("it grows with the square")
	}
}

func BenchmarkAllow10k(b *testing.B) {
	list := thousands(10_000)
	for b.Loop() {
		NewAllow(list, nil)
	}
}

func TestEnding(t *testing.T) {
	list := []config.Allow{allow("10.0.0.1", time.Time{}), allow("10.0.0.2", three), allow("10.0.0.3", three.Add(time.Hour)), allow("10.0.0.4", three.Add(time.Hour+1))}
	if got := Ending(list, three, time.Hour); len(got) != 1 || got[0].Prefix != list[2].Prefix {
		t.Error(got)
	}
	if got := Ended(list, three); len(got) != 1 || got[0].Prefix != list[1].Prefix || len(list) != 4 {
		t.Error(got)
	}
}

// Whoever is on the list is confirmed, cannot be spoofed, is allowed by nobody, and is
// there until he expires: over all that a finding may be.
func TestListHasNobodyWrong(t *testing.T) {
	pick := func(r *rand.Rand, s ...string) string { return s[r.IntN(len(s))] }
	r := rand.New(rand.NewPCG(1, 2))
	p := policy(allow("198.51.100.0/28", time.Time{}), allow("198.51.100.64/28", three), allow("2001:db8:0:1::/64", three.Add(time.Hour)))
	var all []agg.Finding
	for range 20_000 {
		f := scanner(pick(r, fmt.Sprintf("198.51.100.%d", r.IntN(256)), fmt.Sprintf("::ffff:198.51.100.%d", r.IntN(256)), fmt.Sprintf("2001:db8:0:%d::/64", r.IntN(8)),
			fmt.Sprintf("2001:db8:0:%d::%d", r.IntN(8), 1+r.IntN(8)), "0.0.0.0/0", "127.0.0.1", "fe80::1", "198.51.100.0/24"))
		f.State, f.Severity, f.Class = pick(r, agg.Confirmed, agg.Confirmed, agg.Suspect, agg.Cleared, ""), pick(r, agg.Page, agg.Feed, agg.Feed, agg.Info), pick(r, "scan", "scan", "syn_flood", "connection_leak")
		f.Spoofable, f.Suppress = r.IntN(3) == 0, pick(r, "", "", "x")
		f.Expires = []time.Time{{}, three.Add(-time.Second), three, three.Add(time.Second)}[r.IntN(4)]
		if r.IntN(20) == 0 {
			f.Source = netip.Prefix{}
		}
		all = append(all, f)
	}
	l := NewList(all, p, three, nil)
	may := map[netip.Prefix]bool{}
	for _, f := range all {
		if f.State == agg.Confirmed && !f.Spoofable && f.Suppress == "" && f.Expires.After(three) && f.Severity != agg.Info && f.Class != "connection_leak" && f.Source.IsValid() {
			a := f.Source.Addr().Unmap()
			may[netip.PrefixFrom(a, a.BitLen()-(f.Source.Addr().BitLen()-f.Source.Bits()))] = true
		}
	}
	for bad := range may {
		text := bad.String()
		if a := bad.Addr(); text == "0.0.0.0/0" || a.IsLoopback() || a.IsLinkLocalUnicast() || text == "198.51.100.0/24" ||
			netip.MustParsePrefix("198.51.100.0/28").Contains(a) || netip.MustParsePrefix("2001:db8:0:1::/64").Contains(a) {
			delete(may, bad)
		}
	}
	if len(may) < 100 {
		t.Fatalf("the test lists %d only", len(may))
	}
	for _, e := range l.Entries() {
		if !may[e.Prefix] || !e.Expires.Equal(three.Add(time.Second)) {
			t.Errorf("%s is listed until %v", e.Prefix, e.Expires)
		}
		delete(may, e.Prefix)
	}
	for p := range may {
		t.Errorf("%s is not listed", p)
	}
}

func TestListText(t *testing.T) {
	all := []agg.Finding{scanner("203.0.113.9"), scanner("2001:db8::7"), scanner("2001:db8:0:1::/64"), scanner("9.0.0.1"), scanner("::ffff:100.0.0.1"), scanner("9.0.0.1")}
	all[5].Expires = three.Add(time.Minute)
	l := NewList(all, policy(), three, nil)
	var lines []string
	for line := range strings.Lines(string(l.Text())) {
		if line[0] != '#' {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	if got := strings.Join(lines, " "); got != "9.0.0.1 100.0.0.1 203.0.113.9 2001:db8::7 2001:db8:0:1::/64" {
		t.Error(got)
	}
	slices.Reverse(all)
	if again := NewList(all, policy(), three.Add(30*time.Second), nil); !bytes.Equal(again.Text(), l.Text()) || again.ETag() != l.ETag() {
		t.Error("the same sources are not the same bytes")
	}
	if l.Entries()[0].Expires != three.Add(time.Hour) {
		t.Error("of two ends the later one counts")
	}
	if later := NewList(all, policy(), three.Add(time.Hour), nil); len(later.Entries()) != 0 || later.ETag() == l.ETag() || !matches(l.ETag(), `^"[0-9a-f]{32}"$`) {
		t.Error(later.Entries(), l.ETag())
	}
}

// An address of another part of the network is another host.
func TestListOfAPlace(t *testing.T) {
	a, b, c := scanner("10.0.0.1"), scanner("10.0.0.2"), scanner("10.0.0.3")
	a.NetNS, b.NetNS, c.NetNS, c.Zone = 7, 8, 7, 1
	now := three
	var asked int
	lists := &Lists{Findings: func() []agg.Finding { asked++; return []agg.Finding{a, b, c} }, Policy: policy(), Now: func() time.Time { return now }}
	if got := lists.In(Place{NetNS: 7}).Entries(); len(got) != 1 || got[0].Prefix != a.Source {
		t.Error(got)
	}
	if got := lists.All().Entries(); len(got) != 3 {
		t.Error(got)
	}
	before := asked
	lists.All()
	if asked != before {
		t.Error("made again within the second")
	}
	now = now.Add(time.Second)
	lists.All()
	now = now.Add(-time.Hour) // a clock that was set back
	lists.All()
	lists.Forget()
	lists.All()
	if asked != before+3 {
		t.Error(asked - before)
	}
}
