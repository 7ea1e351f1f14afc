package view

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

func seconds(s float64) *float64 { return &s }

// testTop is a picture with every kind of row and of table: a scan, a busy
// client, one that evicts others, IPv6, a hostile name; tables without a
// forecast, that never fill, that fill in a while, in a band without an end,
// that are full, and one the kernel did not tell of.
func testTop() *agg.TopDoc {
	s := time.Second
	at := func(d time.Duration) event.Ktime { return event.Ktime(1000*s - d) }
	why := func(w ...agg.WhyCount) []agg.WhyCount { return w }
	full := agg.WhyCount{Drop: true, Reason: event.TableFull, Count: 412}
	rows := []agg.TopRow{
		{Key: agg.Key{NetNS: ownNS, Src: addr("10.0.0.7")}, Sums: agg.Sums{New: 1_234_567, Live: 200_100, Destroyed: 1_034_467, Drops: 412, Evictor: 12, Answered: 10, Refused: 2, Unanswered: 65_000},
			Rates: agg.Rates{S1: 12_345.6, S10: 11_000, M1: 9_000, Peak10ms: 51_200}, DistinctDsts: 65_012, DistinctDports: 3,
			First: at(100 * s), Last: at(s / 10), Why: why(agg.WhyCount{Cause: event.TimeoutGC, Count: 1_034_467}, full)},
		{Key: agg.Key{NetNS: 4026532000, Zone: 7, Src: addr("2001:db8:1234:5678:9abc:def0:1234:5678")}, Sums: agg.Sums{New: 98_765, Live: 30_000, Destroyed: 68_765, Evicted: 12, Answered: 3},
			Rates: agg.Rates{S1: 99.4, S10: 101, M1: 90.2, Peak10ms: 900}, DistinctDsts: 3, DistinctDports: 1,
			First: at(90 * s), Last: at(s), Why: why(agg.WhyCount{Cause: event.TimeoutGC, Count: 68_000}, agg.WhyCount{Cause: event.EarlyDrop, Count: 12}, agg.WhyCount{More: true, Count: 753})},
		{Key: agg.Key{NetNS: hostileNS, Src: addr("10.0.0.9")}, Sums: agg.Sums{New: 40, Live: 4, Destroyed: 36, Answered: 40}, Rates: agg.Rates{S1: 0.25}, DistinctDsts: 1, DistinctDports: 1},
		{Key: agg.Key{NetNS: ownNS}, Sums: agg.Sums{New: 1, Live: 1}},
	}
	for i := range 20 {
		rows = append(rows, agg.TopRow{Key: agg.Key{NetNS: ownNS, Src: addr(fmt.Sprintf("192.168.100.%d", 100+i))}, Sums: agg.Sums{New: 1, Live: 1, Answered: 1}, DistinctDsts: 1, DistinctDports: 1})
	}
	table := func(ns event.NetNS, n, limit uint64) agg.TableState {
		t := agg.TableState{NetNS: ns, Entries: n, Max: limit, Forecast: true}
		t.Level = agg.LevelOf(t.Fill())
		return t
	}
	filling := table(ownNS, 230_400, 262_144)
	filling.Known, filling.Seeded, filling.NewRate = 230_390, true, 12_345
	filling.TimeToFull, filling.FullLow, filling.FullHigh = seconds(725), seconds(490.4), seconds(1240)
	endless := table(4026532000, 50_000, 65_536)
	endless.Name, endless.TimeToFull, endless.FullLow = "blue", seconds(90_000), seconds(59.2)
	stuck := table(hostileNS, 65_536, 65_536)
	stuck.TimeToFull, stuck.FullLow, stuck.FullHigh = seconds(0), seconds(0), seconds(0)
	young := table(4026532002, 5, 1024)
	young.Forecast = false
	blind := agg.TableState{NetNS: 4026532003, Name: hostile, Err: "open: permission denied\x1b[2J"}
	var list []uint64
	for i := range 119 {
		list = append(list, uint64(i*i)%997)
	}
	return &agg.TopDoc{
		From: time.Date(2026, 11, 22, 19, 38, 1, 0, time.UTC), To: time.Date(2026, 11, 22, 19, 39, 41, 250_000_000, time.UTC), Backend: "fentry",
		Table: []agg.TableState{filling, endless, stuck, young, blind, table(4026532004, 7, 262_144), table(4026532005, 230_000, 240_000)},
		Pools: testPools(), PoolSums: agg.PoolSums{Known: 212, Folded: 3, Lost: 4},
		Top: agg.Top{From: at(100 * s), To: at(0), By: agg.BySrc, Rows: rows, Other: agg.Sums{New: 5_000, Live: 300, Destroyed: 4_700, Evicted: 1, Answered: 4_000},
			Hidden: 1234, Folded: 17, Total: agg.TopRow{Rates: agg.Rates{S1: 12_500, S10: 11_200, M1: 9_123, Peak10ms: 52_000}},
			Totals:  agg.Totals{Destroy: []agg.CauseCount{{Cause: event.TimeoutGC, Count: 1_107_955}, {Cause: event.EarlyDrop, Count: 12}, {Cause: event.EarlyDropGC, Count: 1}}},
			Seconds: list, Tracked: 1258, Live: 230_390, Strange: 3},
		Drops:    []agg.ReasonCount{{Reason: event.NATExhausted, Count: 3}, {Reason: event.TableFull, Count: 412}, {Reason: event.RulesetNew, Count: 5}},
		Findings: testFindings(),
		Loss:     agg.Loss{Seen: 2_345_678, Delivered: 2_345_000, Aggregated: 668, Lost: 10, ByStage: []agg.StageLoss{{Stage: "ring", Lost: 10}}},
	}
}

// testPools are pools of a namespace that has a gauge and of one that has not: one
// that fills, one that is full at what was learned, and one that needs no line.
func testPools() []agg.PoolState {
	pool := func(ns event.NetNS, src, dst string, port uint16, proto uint8, n, ports uint64) agg.PoolState {
		return agg.PoolState{Pool: agg.Pool{Key: agg.Key{NetNS: ns, Src: addr(src), Dst: addr(dst), Dport: port, Proto: proto}, InUse: n, Capacity: ports, New: 2 * n}, Forecast: true}
	}
	filling := pool(ownNS, "203.0.113.9", "192.0.2.1", 443, event.ProtoTCP, 46_000, 64_512)
	filling.TimeToFull, filling.FullLow, filling.FullHigh = seconds(31.4), seconds(28), seconds(36.1)
	full := pool(4026532003, "2001:db8:1234:5678:9abc:def0:1234:5678", "2001:db8::53", 53, event.ProtoUDP, 998, 1000)
	full.Learned, full.Drops, full.Name = true, 412, hostile
	ping := pool(ownNS, "203.0.113.9", "192.0.2.7", 0, event.ProtoICMP, 12, 65_536)
	ping.Forecast = false
	return []agg.PoolState{full, filling, ping}
}

func testEdges() agg.Top {
	src := addr("2001:db8:1234:5678:9abc:def0:1234:5678")
	return agg.Top{By: agg.ByEdge, Rows: []agg.TopRow{
		{Key: agg.Key{NetNS: 4026532000, Zone: 7, Src: src, Dst: addr("2001:db8::53"), Dport: 53, Proto: event.ProtoUDP}, Sums: agg.Sums{New: 98_000, Live: 30_000, Destroyed: 68_000, Answered: 1}},
		{Key: agg.Key{NetNS: 4026532000, Zone: 7, Src: src, Dst: addr("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"), Dport: 65535, Proto: event.ProtoTCP}, Sums: agg.Sums{New: 764, Destroyed: 764, Evicted: 12, Answered: 1}},
		{Key: agg.Key{NetNS: 4026532000, Zone: 7, Src: src, Dst: addr("fe80::1"), Proto: event.ProtoICMPv6}, Sums: agg.Sums{New: 1, Destroyed: 1, Unanswered: 1}},
	}}
}

func testDetail() *Detail {
	udp, tcp := &agg.Histogram{N: 68_000, Sum: 68_000 * 30 * time.Second}, &agg.Histogram{N: 765, Sum: 765 * 1500 * time.Millisecond}
	udp.Buckets[24], udp.Buckets[25] = 40_000, 28_000
	for i := range 20 {
		tcp.Buckets[10+i] = uint64(38 + i)
	}
	return &Detail{By: agg.BySrc, Row: testTop().Rows[1], Edges: testEdges(), All: true, Lifetimes: agg.Lifetimes{
		{Proto: event.ProtoUDP, Answered: true}:           udp,
		{Proto: event.ProtoTCP, State: 8, Answered: true}: tcp,
		{Proto: event.ProtoTCP, State: 2}:                 {N: 1, Sum: 120 * time.Second, Buckets: [40]uint64{26: 1}},
		{Proto: event.ProtoICMPv6}:                        {N: 1},
	}}
}

var testFooter = []string{"q quit  s sort  g group  / filter  space freeze  enter look closer  ? help"}

var sgr = regexp.MustCompile("\x1b\\[[0-9;]*m")

// fits fails if the screen is larger than it may be, or would do anything but
// print.
func fits(t rapid.TB, screen string, o ScreenOptions) {
	t.Helper()
	if o.Color {
		screen = sgr.ReplaceAllString(screen, "")
	}
	lines := strings.Split(strings.TrimSuffix(screen, "\n"), "\n")
	if o.Height > 0 && len(lines) > o.Height {
		t.Errorf("%d lines of %d", len(lines), o.Height)
	}
	for _, l := range lines {
		if n := utf8.RuneCountInString(l); o.Width > 0 && n > o.Width {
			t.Errorf("%d cells of %d: %q", n, o.Width, l)
		}
		for _, r := range l {
			if r >= 0x7f && (o.ASCII || !strings.ContainsRune("…│▁▂▃▄▅▆▇█", r)) || r < ' ' {
				t.Errorf("rune %U in %q", r, l)
			}
		}
	}
}

func TestTopScreen(t *testing.T) {
	blue := testTop().Rows[1].Key
	last := testTop().Rows[23].Key
	base := ScreenOptions{Names: testNames, Footer: testFooter, Selected: &testTop().Rows[0].Key}
	for name, change := range map[string]func(*ScreenOptions){
		"top.80x24":        func(o *ScreenOptions) { o.Width, o.Height = 80, 24 },
		"top.80x24.ascii":  func(o *ScreenOptions) { o.Width, o.Height, o.ASCII, o.Selected = 80, 24, true, &last },
		"top.80x24.color":  func(o *ScreenOptions) { o.Width, o.Height, o.Color = 80, 24, true },
		"top.120x40":       func(o *ScreenOptions) { o.Width, o.Height, o.Sort = 120, 40, agg.ColUnanswered },
		"top.120x40.color": func(o *ScreenOptions) { o.Width, o.Height, o.Color = 120, 40, true },
		"top.200x60":       func(o *ScreenOptions) { o.Width, o.Height, o.Frozen, o.Filter = 200, 60, true, "src 10.0.0.0/8" },
		"top.200x60.color": func(o *ScreenOptions) { o.Width, o.Height, o.Frozen, o.Color = 200, 60, true, true },
		"top.40x12":        func(o *ScreenOptions) { o.Width, o.Height = 40, 12 },
		"top.once":         func(o *ScreenOptions) { o.Selected, o.Footer = nil, nil },
		"top.once.color":   func(o *ScreenOptions) { o.Selected, o.Footer, o.Color = nil, nil, true },
		"top.detail.80x24": func(o *ScreenOptions) { o.Width, o.Height, o.Detail = 80, 24, testDetail() },
		"top.detail.120x40.color": func(o *ScreenOptions) {
			o.Width, o.Height, o.Detail, o.Selected, o.Color = 120, 40, testDetail(), &blue, true
		},
	} {
		o := base
		change(&o)
		got := TopScreen(testTop(), o)
		golden(t, name+".txt", []byte(got))
		fits(t, got, o)
	}
}

func TestTopDims(t *testing.T) {
	var out bytes.Buffer
	for by := range agg.NumDims {
		d := testTop()
		d.By, d.Rows = by, testEdges().Rows
		for i := range d.Rows {
			d.Rows[i].Bits = 64
		}
		o := ScreenOptions{Width: 100, Height: 20, Names: testNames}
		got := TopScreen(d, o)
		fits(t, got, o)
		out.WriteString(got)
		if err := WriteTopJSON(&out, d, TopOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	golden(t, "top.dims.txt", out.Bytes())
}

func TestTopHostile(t *testing.T) {
	for _, bad := range []string{hostile, "\x1b]52;c;cm0gLXJmIC8=\a", "\u202e\u2066abc", strings.Repeat("\x1b[2J", 1024), strings.Repeat("x", 4096), "\u65e5\u672c\u0301\U0001f4a9", "\xff\xfe"} {
		d := testTop()
		d.Backend = bad
		for i := range d.Table {
			d.Table[i].Name, d.Table[i].Err = bad, strings.Repeat(bad, i%2)
		}
		for i := range d.Pools {
			d.Pools[i].Name = bad
		}
		o := ScreenOptions{Width: 120, Height: 40, Filter: bad, Footer: []string{bad, bad}, Names: Names{NetNS: func(event.NetNS) string { return bad }}}
		for range 2 {
			fits(t, TopScreen(d, o), o)
			o.Detail = testDetail()
			fits(t, TopScreen(d, o), o)
			o.Width, o.Height, o.Detail = 0, 0, nil
		}
		fits(t, Page([]string{bad}, o), o)
		var out bytes.Buffer
		if err := WriteTopJSON(&out, d, TopOptions{Names: o.Names}); err != nil {
			t.Fatal(err)
		}
		harmless(t, out.Bytes())
		decode(t, out.Bytes())
	}
}

func TestTopJSON(t *testing.T) {
	var out bytes.Buffer
	if err := WriteTopJSON(&out, testTop(), TopOptions{Names: testNames}); err != nil {
		t.Fatal(err)
	}
	golden(t, "top.json", out.Bytes())
	harmless(t, out.Bytes())
	doc := checkKeys(t, "top", decode(t, out.Bytes()), "from", "to", "backend", "table", "sources", "other", "loss")
	sums := []string{"new", "live", "destroyed", "drops", "evicted", "answered", "refused", "unanswered"}
	for _, r := range doc["sources"].([]any)[:3] { // of the next the address is not known
		checkKeys(t, "sources", r, append(sums, "src", "netns", "new_rate", "peak_rate_10ms", "distinct_dsts", "distinct_dports")...)
	}
	checkKeys(t, "other", doc["other"], sums...)
	checkKeys(t, "loss", doc["loss"], "seen", "delivered", "aggregated", "lost", "by_stage")
	want := []string{"full 725 490.4 1240 action -10", "full 90000 59.2 <nil> trend <nil>", "full 0 0 0 critical <nil>",
		"unknown <nil> <nil> <nil> ok <nil>", "unknown <nil> <nil> <nil> <nil> <nil>", "never <nil> <nil> <nil> ok <nil>", "never <nil> <nil> <nil> critical <nil>"}
	for i, r := range doc["pools"].([]any) {
		m := checkKeys(t, "pools", r, "netns", "addr", "dst", "proto", "in_use", "capacity", "capacity_learned", "time_to_full_s", "time_to_full_low_s", "time_to_full_high_s", "nat_exhausted")
		want := []string{"998 1000 true critical never", "46000 64512 false trend full", "12 65536 false ok unknown"}
		if got := fmt.Sprint(m["in_use"], " ", m["capacity"], " ", m["capacity_learned"], " ", m["threshold"], " ", m["forecast"]); got != want[i] {
			t.Errorf("pool %d: %s, want %s", i, got, want[i])
		}
	}
	for i, r := range doc["table"].([]any) {
		m := checkKeys(t, "table", r, "netns", "entries", "max", "fill", "threshold", "time_to_full_s", "time_to_full_low_s", "time_to_full_high_s", "known", "difference", "forecast")
		if got := fmt.Sprint(m["forecast"], " ", m["time_to_full_s"], " ", m["time_to_full_low_s"], " ", m["time_to_full_high_s"], " ", m["threshold"], " ", m["difference"]); got != want[i] {
			t.Errorf("table %d: %s, want %s", i, got, want[i])
		}
	}
	out.Reset()
	if err := WriteTopJSON(&out, &agg.TopDoc{}, TopOptions{}); err != nil || strings.Contains(out.String(), "null") {
		t.Errorf("the empty document: %v, %s", err, out.String())
	}
	if err := WriteTopJSON(brokenPipe{}, testTop(), TopOptions{}); !errors.Is(err, errBroken) {
		t.Errorf("broken pipe: %v", err)
	}
}

func TestCount(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 99_999: "99999", 100_000: "100k", 999_999: "999k", 1_000_000: "1.00M", 12_345_678: "12.3M",
		123_456_789: "123M", 9_999_999_999: "9.99G", math.MaxUint64: "18.4E"} {
		if got := count(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	for r, want := range map[float64]string{0: "0", 0.04: "0.0", 9.94: "9.9", 9.96: "10", 99_999.6: "100k", math.Inf(1): "10.0E", -1: "-"} {
		if got := rate(r); got != want {
			t.Errorf("%g: %s, want %s", r, got, want)
		}
	}
	for s, want := range map[float64]string{0: "now", 0.1: "1s", 59.9: "60s", 61: "1m01s", 86_400 * 3: "3d00h", 1e300: ">999d", math.Inf(1): ">999d", -5: "now"} {
		if got := fullIn(&s); got != want {
			t.Errorf("%g s: %s, want %s", s, got, want)
		}
	}
}

// anyTop draws a document that need not make sense.
func anyTop(t *rapid.T) (*agg.TopDoc, *Detail) {
	n := rapid.Uint64()
	f := rapid.Float64()
	fp := rapid.Ptr(f, true)
	why := rapid.Custom(func(t *rapid.T) agg.WhyCount {
		return agg.WhyCount{Drop: rapid.Bool().Draw(t, "drop"), Cause: event.Cause(rapid.Byte().Draw(t, "cause")), Reason: event.Reason(rapid.Byte().Draw(t, "reason")), More: rapid.Bool().Draw(t, "more"), Count: n.Draw(t, "n")}
	})
	ip := rapid.Custom(func(t *rapid.T) netip.Addr {
		a, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), 0, 16).Draw(t, "ip"))
		if rapid.Bool().Draw(t, "v6") {
			a = netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "ip6")))
		}
		return a
	})
	sums := rapid.Custom(func(t *rapid.T) agg.Sums {
		return agg.Sums{New: n.Draw(t, "new"), Live: n.Draw(t, "live"), Drops: n.Draw(t, "drops"), Evicted: n.Draw(t, "evicted"), Unanswered: n.Draw(t, "un")}
	})
	row := rapid.Custom(func(t *rapid.T) agg.TopRow {
		return agg.TopRow{Key: agg.Key{NetNS: event.NetNS(rapid.Uint32().Draw(t, "ns")), Zone: rapid.Uint16().Draw(t, "zone"), Src: ip.Draw(t, "src"), Dst: ip.Draw(t, "dst"),
			Bits: rapid.Byte().Draw(t, "bits"), Dport: rapid.Uint16().Draw(t, "port"), Proto: rapid.Byte().Draw(t, "proto")}, Sums: sums.Draw(t, "sums"),
			Rates: agg.Rates{S1: f.Draw(t, "s1"), Peak10ms: f.Draw(t, "peak")}, First: event.Ktime(rapid.Int64().Draw(t, "first")), Last: event.Ktime(rapid.Int64().Draw(t, "last")), Why: rapid.SliceOfN(why, 0, 5).Draw(t, "why")}
	})
	top := rapid.Custom(func(t *rapid.T) agg.Top {
		return agg.Top{By: agg.Dim(rapid.IntRange(0, int(agg.NumDims)).Draw(t, "by")), Rows: rapid.SliceOfN(row, 0, 30).Draw(t, "rows"), Other: sums.Draw(t, "other"), Hidden: rapid.IntRange(0, 1<<40).Draw(t, "hidden"),
			Total: row.Draw(t, "total"), Seconds: rapid.SliceOfN(n, 0, 130).Draw(t, "seconds"), Strange: n.Draw(t, "strange")}
	})
	table := rapid.Custom(func(t *rapid.T) agg.TableState {
		return agg.TableState{NetNS: event.NetNS(rapid.Uint32().Draw(t, "ns")), Name: rapid.String().Draw(t, "name"), Entries: n.Draw(t, "n"), Max: n.Draw(t, "max"), Level: agg.Level(rapid.Byte().Draw(t, "level")),
			Known: n.Draw(t, "known"), Seeded: rapid.Bool().Draw(t, "seeded"), Forecast: rapid.Bool().Draw(t, "forecast"), TimeToFull: fp.Draw(t, "full"), FullLow: fp.Draw(t, "low"), FullHigh: fp.Draw(t, "high"),
			Err: rapid.SampledFrom([]string{"", hostile}).Draw(t, "err")}
	})
	pool := rapid.Custom(func(t *rapid.T) agg.PoolState {
		return agg.PoolState{Pool: agg.Pool{Key: row.Draw(t, "key").Key, InUse: n.Draw(t, "in use"), Capacity: n.Draw(t, "ports"), Learned: rapid.Bool().Draw(t, "learned"), Drops: n.Draw(t, "drops")},
			Name: rapid.String().Draw(t, "name"), Forecast: rapid.Bool().Draw(t, "forecast"), TimeToFull: fp.Draw(t, "full"), FullLow: fp.Draw(t, "low"), FullHigh: fp.Draw(t, "high")}
	})
	d := &agg.TopDoc{From: time.Unix(rapid.Int64Range(0, 1<<32).Draw(t, "from"), 0), To: time.Unix(rapid.Int64Range(0, 1<<32).Draw(t, "to"), 0), Backend: rapid.String().Draw(t, "backend"),
		Table: rapid.SliceOfN(table, 0, 30).Draw(t, "tables"), Pools: rapid.SliceOfN(pool, 0, 5).Draw(t, "pools"), Top: top.Draw(t, "top"), BestEffort: rapid.Bool().Draw(t, "best"),
		Drops: []agg.ReasonCount{{Reason: event.Reason(rapid.Byte().Draw(t, "r")), Count: n.Draw(t, "c")}}, Loss: agg.Loss{Seen: n.Draw(t, "seen")},
		Findings: rapid.SliceOfN(rapid.SampledFrom(testFindings()), 0, 6).Draw(t, "findings")}
	detail := &Detail{By: d.By, Row: row.Draw(t, "row"), Edges: top.Draw(t, "edges"), Lifetimes: agg.Lifetimes{{Proto: 6}: {N: n.Draw(t, "ended"), Sum: time.Duration(rapid.Int64().Draw(t, "sum"))}}}
	return d, detail
}

func TestTopAny(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d, detail := anyTop(t)
		o := ScreenOptions{Width: rapid.IntRange(1, 300).Draw(t, "width"), Height: rapid.IntRange(1, 100).Draw(t, "height"), Color: rapid.Bool().Draw(t, "color"), ASCII: rapid.Bool().Draw(t, "ascii"),
			Sort: agg.Column(rapid.IntRange(0, int(agg.NumColumns)).Draw(t, "sort")), Footer: rapid.SliceOfN(rapid.String(), 0, 3).Draw(t, "footer"), Filter: rapid.String().Draw(t, "filter"), Frozen: rapid.Bool().Draw(t, "frozen"), Names: testNames}
		if len(d.Rows) > 0 {
			o.Selected = &d.Rows[len(d.Rows)/2].Key
		}
		if rapid.Bool().Draw(t, "detail") {
			o.Detail = detail
		}
		fits(t, TopScreen(d, o), o)
		var out bytes.Buffer
		if err := WriteTopJSON(&out, d, TopOptions{Sort: o.Sort, Names: testNames}); err != nil {
			t.Fatal(err)
		}
		if !json.Valid(out.Bytes()) {
			t.Errorf("not JSON: %s", out.Bytes())
		}
	})
}
