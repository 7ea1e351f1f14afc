package page

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/view"
)

var now = time.Date(2026, 11, 23, 3, 14, 7, 250e6, time.UTC)

const (
	gw   = event.NetNS(4026532001)
	web0 = event.NetNS(4026532002)
	scan = "203.0.113.66"
)

var names = view.Names{NetNS: func(ns event.NetNS) string { return map[event.NetNS]string{web0: "default/web-0"}[ns] }}

// gateway is a night on a NAT gateway: a scan fills its table, packets are lost, and
// for three seconds records of ours too.
func gateway() *agg.Status {
	s := &agg.Status{Start: now.Add(-26 * time.Hour), At: now, Backend: "fentry", Live: 78671, Tracked: 4210,
		Total: agg.TopRow{Rates: agg.Rates{S1: 1480, S10: 1402.5, M1: 1110}},
		Drops: []agg.ReasonCount{{Reason: event.TableFull, Count: 3120}, {Reason: event.ClashSameFlow, Count: 14}, {Reason: event.RulesetNew, Count: 55}},
		Examples: []agg.DropExample{{Reason: event.TableFull, Src: netip.MustParseAddr("198.51.100.23"),
			Dst: netip.MustParseAddr("192.0.2.80"), At: now.Add(-2 * time.Second)}},
		Loss: agg.Loss{Seen: 1_204_331, Delivered: 1_204_000, Aggregated: 289, Lost: 42,
			ByStage: []agg.StageLoss{{Stage: "ring", Lost: 42}, {Stage: "recursion"}}},
		Difference: []agg.CounterDifference{{Counter: agg.CounterDrop}, {Counter: agg.CounterEarlyDrop}, {Counter: agg.CounterEntries}},
		Hooks:      []agg.HookState{{Symbol: "__nf_conntrack_confirm", Backend: "fentry"}, {Symbol: "nf_ct_gc_expired", Lost: "the cause of some timeouts"}},
		Findings: []agg.Finding{
			{ID: "1", Class: "table_filling", State: "confirmed", Severity: "page", NetNS: gw, First: now.Add(-4 * time.Minute), Last: now, Why: "gw holds 54,753 of 65,536 entries and will be full in 102 s.",
				Recording: "/var/lib/ctsight/flight/kept/20261123T031007Z-table_filling-1"},
			{ID: "2", Class: "scan", Shape: "horizontal", State: "confirmed", Severity: "feed", Source: netip.MustParsePrefix(scan + "/32"), NetNS: gw, Expires: now.Add(time.Hour), First: now.Add(-5 * time.Minute), Last: now,
				Why: "41,000 connections to 41,000 destinations, port 23, none answered.", WhyNotBenign: "Others reach most of the destinations that they try."},
			{ID: "3", Class: "rate_burst", State: "cleared", Severity: "info", First: now.Add(-9 * time.Hour), Last: now.Add(-9*time.Hour + time.Minute), Why: "12,000/s in 10 ms, every minute."},
		},
		Lifetimes: agg.Lifetimes{
			{Proto: event.ProtoTCP, Answered: true}:  histogram(15, 40, 180, 700, 2100, 5200, 7400, 5100, 2600, 1900, 2500, 1200, 300, 120),
			{Proto: event.ProtoTCP}:                  histogram(25, 12000, 30),
			{Proto: event.ProtoUDP, Answered: true}:  histogram(12, 30, 90, 200, 30, 10, 20, 600, 1400, 4200, 9000, 2000),
			{Proto: event.ProtoUDP}:                  histogram(24, 4100),
			{Proto: event.ProtoICMP, Answered: true}: histogram(24, 310, 280),
		},
		Holders: []agg.TopRow{
			top(scan, agg.Sums{New: 41000, Live: 38100, Evicted: 900, Evictor: 2500, Unanswered: 40990}, 900, 3800, 41000, 1),
			top("198.51.100.23", agg.Sums{New: 90233, Live: 5120, Drops: 1210, Answered: 90100, Unanswered: 40}, 120, 900, 812, 3),
			top("2001:db8:1111:2222:3333:4444:5555:6666", agg.Sums{New: 40021, Live: 2211, Drops: 402, Answered: 40000}, 44, 300, 120, 2),
		},
		Losers: []agg.TopRow{
			loser("198.51.100.23", 1210, 1200, 10), loser("198.51.100.77", 980, 980, 0),
			loser("2001:db8:1111:2222:3333:4444:5555:6666", 402, 402, 0), loser(scan, 95, 95, 0),
		},
	}
	s.Flight = &agg.Flight{Dir: "/var/lib/ctsight/flight", Oldest: now.Add(-23*time.Hour - 40*time.Minute), Bytes: 803_405_824, Segments: 284, Events: 81_204_000, Kept: []agg.Recording{
		{Name: "20261122T221407Z-scan-0", Dir: "/var/lib/ctsight/flight/kept/20261122T221407Z-scan-0", Bytes: 9_420_000},
		{Name: "20261123T031007Z-table_filling-1", Dir: "/var/lib/ctsight/flight/kept/20261123T031007Z-table_filling-1", Bytes: 37_748_736,
			Why: "2026-11-23T03:10:07Z table_filling 1: gw holds 54,753 of 65,536 entries and will be full in 102 s."}}}
	full, low, high := 102.0, 61.0, 260.0
	s.Tables = []agg.TableState{
		{NetNS: gw + 8, Name: "lab", Entries: 120, Max: 262144, Forecast: true, Seeded: true, Known: 120},
		{NetNS: gw, Name: "gw", Entries: 54753, Max: 65536, Level: agg.LevelTrend, Known: 54753, Seeded: true, Forecast: true, TimeToFull: &full, FullLow: &low, FullHigh: &high, NewRate: 1480},
		{NetNS: web0, Entries: 23800, Max: 32768, Level: agg.LevelTrend, Known: 23790, NewRate: 12},
		{NetNS: gw + 9, Name: "gone", Err: "netns gone: no such file"},
	}
	s.Pools = []agg.PoolState{{Pool: agg.Pool{Key: agg.Key{NetNS: gw, Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("198.18.0.9"), Dport: 443, Proto: event.ProtoTCP},
		InUse: 50300, Capacity: 64512}, Name: "gw"}}
	for i := range seconds {
		s.History = append(s.History, secondOf(i))
	}
	return s
}

// secondOf is the i-th second of the night.
func secondOf(i int) agg.Sample {
	wave := uint64((i*37)%61 + (i*17)%23)
	x := agg.Sample{At: now.Add(time.Duration(i-seconds+1)*time.Second - 300*time.Millisecond), New: 180 + 2*wave, Peak: float64(900 + 40*wave), Seen: 400,
		Tables: []agg.TableSample{{NetNS: gw, Entries: uint64(16000 + 2*i), Max: 65536}, {NetNS: web0, Entries: 23800, Max: 32768}}}
	add := func(src string, ns event.NetNS, n uint64) {
		if n > 0 {
			x.Sources = append(x.Sources, agg.SourceCount{NetNS: ns, Src: netip.MustParseAddr(src), New: n})
		}
	}
	add("198.51.100.23", gw, 60+wave)
	add("198.51.100.77", gw, 30+wave/2)
	add("2001:db8:1111:2222:3333:4444:5555:6666", web0, wave/3)
	add("198.51.100.9", gw, map[bool]uint64{true: 400 + wave}[i%60 < 3])
	add("198.51.100.40", gw, map[bool]uint64{true: 1 + wave/9}[i%7 == 0])
	if i >= 340 { // the scan
		n := uint64(min(900, (i-340)*5))
		add(scan, gw, n)
		x.New, x.Peak = x.New+n, x.Peak+4*float64(n)
		x.Tables[0].Entries += uint64(i-340) * 145
	}
	if i > 560 {
		x.Drops = []agg.ReasonCount{{Reason: event.TableFull, Count: wave}}
		x.Evicted = wave / 2
	}
	if i%90 == 11 {
		x.Drops = append(x.Drops, agg.ReasonCount{Reason: event.ClashSameFlow, Count: 2})
	}
	if i >= 571 && i <= 573 {
		x.Lost = 14
	}
	return x
}

func top(src string, sums agg.Sums, s1, peak float64, dsts, ports uint64) agg.TopRow {
	ns := gw
	if netip.MustParseAddr(src).Is6() {
		ns = web0
	}
	return agg.TopRow{Key: agg.Key{NetNS: ns, Src: netip.MustParseAddr(src)}, Sums: sums, Rates: agg.Rates{S1: s1, Peak10ms: peak}, DistinctDsts: dsts, DistinctDports: ports}
}

func loser(src string, lost, full, clash uint64) agg.TopRow {
	r := top(src, agg.Sums{Drops: lost}, 0, 0, 0, 0)
	r.Why = []agg.WhyCount{{Drop: true, Reason: event.TableFull, Count: full}, {Cause: event.EarlyDrop, Count: 7}}
	if clash > 0 {
		r.Why = append(r.Why, agg.WhyCount{Drop: true, Reason: event.ClashSameFlow, Count: clash})
	}
	return r
}

// histogram has these counts from a bucket on.
func histogram(from int, counts ...uint64) *agg.Histogram {
	h := &agg.Histogram{}
	for i, n := range counts {
		h.Buckets[from+i] = n
		h.N += n
		h.Sum += time.Duration(n) * bucketFrom(from+i)
	}
	return h
}

// write renders a Status.
func write(t testing.TB, s *agg.Status) string {
	t.Helper()
	var b bytes.Buffer
	if err := New(Options{Names: names, Version: "1.2.3"}).Write(&b, s); err != nil {
		t.Fatal(err)
	}
	if i := strings.Index(b.String(), "NaN"); i >= 0 {
		t.Errorf("draws at no place: %q", b.String()[max(0, i-80):i+3])
	}
	return b.String()
}
