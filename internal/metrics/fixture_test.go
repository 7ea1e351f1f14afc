package metrics

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// ordinary is a gateway with n namespaces, one of them filling up.
func ordinary(n int) *agg.Status {
	s := &agg.Status{Start: start, At: start.Add(time.Hour), Backend: "fentry", Live: 800, Tracked: 5, Folded: 2, MapBytes: 1 << 20,
		New:       []agg.ProtoCount{{Proto: event.ProtoTCP, Count: 1000}, {IPv6: true, Proto: event.ProtoICMPv6, Count: 7}, {Proto: 50, Count: 3}, {Proto: 51, Count: 4}},
		Destroyed: []agg.ProtoCauseCount{{Proto: event.ProtoTCP, Cause: event.TimeoutGC, Count: 150}, {Proto: event.ProtoUDP, Cause: event.EarlyDrop, Count: 50}},
		Drops:     []agg.ReasonCount{{Reason: event.TableFull, Count: 412}, {Reason: event.RulesetNew, Count: 5}},
		Notes:     []agg.ReasonCount{{Reason: event.ClashMerged, Count: 6}},
		Examples: []agg.DropExample{{Reason: event.TableFull, Src: netip.MustParseAddr("198.51.100.3"), Dst: netip.MustParseAddr("10.9.0.1"),
			At: start.Add(time.Minute)}},
		Peaks:      agg.Peaks{In10ms: 900, In100ms: 500, In1s: 200},
		Holders:    []agg.TopRow{{Sums: agg.Sums{Live: 600}}, {Sums: agg.Sums{Live: 200}}},
		Arrivals:   []agg.TopRow{{Rates: agg.Rates{S1: 120}}},
		Difference: []agg.CounterDifference{{Counter: agg.CounterDrop}, {Counter: agg.CounterEntries, Difference: -2}},
		Loss: agg.Loss{Seen: 1350, Delivered: 1200, Aggregated: 140, Lost: 10,
			ByStage: []agg.StageLoss{{Stage: "ring", Lost: 10}, {Stage: "recursion"}, {Stage: "stash"}}},
		Hooks:   []agg.HookState{{Symbol: "__nf_conntrack_confirm", Backend: "fentry", Missed: 1}, {Symbol: "nf_ct_delete"}},
		Found:   []agg.ClassCount{{Class: "table_filling", Count: 1}, {Class: "rate_burst", Count: 2}},
		Paged:   []agg.ClassCount{{Class: "table_filling", Count: 1}},
		Omitted: []agg.Omission{{What: "sources", Count: 4}, {What: "contacts", Count: 0}},
		Lifetimes: agg.Lifetimes{
			{Proto: event.ProtoTCP, State: event.TCPTimeWait, Answered: true}: histogramOf(time.Second, 120*time.Second, 120*time.Second),
			{Proto: event.ProtoTCP, State: event.TCPClose, Answered: true}:    histogramOf(10 * time.Second),
			{Proto: event.ProtoUDP}: histogramOf(0, 30*time.Second),
		},
	}
	for i := range n {
		s.Tables = append(s.Tables, agg.TableState{NetNS: event.NetNS(4026532000 + i), Entries: uint64(10 * i), Max: 2000})
	}
	if n > 0 {
		full := 90.0
		t := &s.Tables[0]
		t.Name, t.Entries, t.Forecast, t.TimeToFull, t.FullLow = "gw", 1720, true, &full, new(60.0)
	}
	return s
}

func histogramOf(lived ...time.Duration) *agg.Histogram {
	h := &agg.Histogram{}
	for _, d := range lived {
		h.N++
		h.Sum += d
		i := 0
		for i+1 < len(h.Buckets) && d >= time.Microsecond<<(i+1) {
			i++
		}
		h.Buckets[i]++
	}
	return h
}

// worst is everything at once.
func worst() *agg.Status {
	s := ordinary(200)
	for i := range s.Tables {
		t := &s.Tables[i]
		t.Forecast, t.Name = true, strings.Repeat("x", 200)
	}
	for p := range 256 {
		for _, six := range []bool{false, true} {
			s.New = append(s.New, agg.ProtoCount{IPv6: six, Proto: uint8(p), Count: 1})
		}
		for c := range 256 {
			s.Destroyed = append(s.Destroyed, agg.ProtoCauseCount{Proto: uint8(p), Cause: event.Cause(c), Count: 1})
		}
		for st := range 10 {
			s.Lifetimes[agg.LifetimeKey{Proto: uint8(p), State: event.TCPState(st), Answered: st%2 == 0}] = histogramOf(time.Duration(math.Ldexp(1, p%50)))
		}
	}
	for _, r := range event.Reasons {
		switch r.Reason.Kind() {
		case event.Drop:
			s.Drops = append(s.Drops, agg.ReasonCount{Reason: r.Reason, Count: 1})
		case event.Note:
			s.Notes = append(s.Notes, agg.ReasonCount{Reason: r.Reason, Count: 1})
		}
		s.Examples = append(s.Examples, agg.DropExample{Reason: r.Reason, Src: netip.MustParseAddr("2001:db8:1111:2222:3333:4444:5555:6666%eth0"),
			Dst: netip.MustParseAddr("2001:db8:1111:2222:3333:4444:5555:7777"), At: start})
	}
	for i := range 30 {
		s.Hooks = append(s.Hooks, agg.HookState{Symbol: fmt.Sprint("hook", i), Backend: "kprobe"})
	}
	for i := range 100 {
		src := netip.AddrFrom4([4]byte{203, 0, byte(i), 0})
		row := agg.TopRow{Key: agg.Key{NetNS: 4026532000, Src: src, Bits: 24}, Sums: agg.Sums{New: uint64(100 - i), Live: 1}}
		s.Prefixes, s.Holders, s.Arrivals = append(s.Prefixes, row), append(s.Holders, row), append(s.Arrivals, row)
	}
	for _, c := range []string{"scan", "distributed_scan", "syn_flood", "udp_flood", "amplification", "rate_burst", "retry_storm", "service_down",
		"connection_hammering", "connection_leak", "pool_lost", "new_connection_pattern", "polling_dead_targets", "table_filling", "nat_pool_filling", "upstream_outage"} {
		s.Found, s.Paged = append(s.Found, agg.ClassCount{Class: c, Count: 1}), append(s.Paged, agg.ClassCount{Class: c, Count: 1})
	}
	for _, what := range []string{"sources", "evidence", "contacts", "findings", "bursts", "links", "services"} {
		s.Omitted = append(s.Omitted, agg.Omission{What: what, Count: 1})
	}
	for c := agg.CounterDrop; c <= agg.CounterEntries; c++ {
		s.Difference = append(s.Difference, agg.CounterDifference{Counter: c, Difference: 1})
	}
	return s
}

func gather(t testing.TB, x *Exporter, s *agg.Status) []*dto.MetricFamily {
	t.Helper()
	mfs, err := x.Gather(s)
	if err != nil {
		t.Fatal(err)
	}
	return mfs
}

func family1(t testing.TB, mfs []*dto.MetricFamily, f *family) *dto.MetricFamily {
	t.Helper()
	mf := find(f, mfs)
	if mf == nil {
		t.Fatalf("no %s", f.name)
	}
	return mf
}

// value returns the series of f with these label values, in the order of the
// family's labels.
func value(t testing.TB, mfs []*dto.MetricFamily, f *family, labels ...string) float64 {
	t.Helper()
	for _, m := range family1(t, mfs, f).Metric {
		if slices.Equal(labelsOf(m, f), labels) {
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	t.Fatalf("no %s%q", f.name, labels)
	return 0
}

func labelsOf(m *dto.Metric, f *family) (out []string) {
	for _, name := range f.labels {
		for _, l := range m.Label {
			if l.GetName() == name {
				out = append(out, l.GetValue())
			}
		}
	}
	return out
}

// ours drops what client_golang tells of the process.
func ours(mfs []*dto.MetricFamily) (out []*dto.MetricFamily) {
	for _, mf := range mfs {
		if strings.HasPrefix(mf.GetName(), prefix) && mf.GetName() != prefix+"build_info" {
			out = append(out, mf)
		}
	}
	return out
}
