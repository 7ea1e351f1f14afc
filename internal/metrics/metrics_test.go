package metrics

import (
	"bytes"
	"flag"
	"fmt"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

var update = flag.Bool("update", false, "rewrite testdata and docs/metrics.md")

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run with -update)", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func TestGolden(t *testing.T) {
	got, err := encode(expfmt.FmtOpenMetrics_1_0_0, ours(gather(t, New(Options{}), ordinary(2))))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/ordinary.golden", got)
}

func TestLint(t *testing.T) {
	x := New(Options{TopPrefixes: 5})
	g := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return x.Gather(ordinary(12)) })
	problems, err := testutil.GatherAndLint(g)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed (Debian package prometheus)")
	}
	for _, mf := range gather(t, x, worst()) { // its linter takes what is about bytes and seconds literally
		text, err := encode(expfmt.FmtText, []*dto.MetricFamily{mf})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(promtool, "check", "metrics")
		cmd.Stdin = bytes.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", mf.GetName(), err, out)
		}
	}
}

func TestBudget(t *testing.T) {
	for _, tt := range []struct {
		name        string
		o           Options
		s           *agg.Status
		tables      int // at least
		allPrefixes bool
		none        bool // omitted
	}{
		{"ordinary", Options{}, ordinary(12), 12, true, true},
		{"everything at once", Options{TopPrefixes: 100}, worst(), 12, false, false},
		{"everything at once, ten more series of others", Options{TopPrefixes: 100, Extra: []prometheus.Collector{extra(10)}}, worst(), 11, false, false},
		{"a small budget", Options{Budget: 120}, worst(), 0, false, false},
		{"no table", Options{TopPrefixes: 100}, func() *agg.Status { s := worst(); s.Tables = nil; return s }(), 0, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := New(tt.o)
			mfs := gather(t, x, tt.s)
			n, left := Series(mfs), value(t, mfs, omitted)
			t.Logf("%d series, %.0f omitted", n, left)
			if n > x.opts.Budget {
				t.Errorf("%d series, more than %d", n, x.opts.Budget)
			}
			if tt.none != (left == 0) {
				t.Errorf("%.0f series omitted", left)
			}
			if tables := find(tableEntries, mfs); len(tables.GetMetric()) < tt.tables {
				t.Errorf("%d tables, want %d", len(tables.GetMetric()), tt.tables)
			}
			whole := gather(t, New(Options{TopPrefixes: tt.o.TopPrefixes, Budget: 1 << 20, Extra: tt.o.Extra}), tt.s)
			if want := Series(whole) - n; left != float64(want) {
				t.Errorf("%.0f omitted, %d are missing", left, want)
			}
		})
	}
}

// Counters that came and went with the room left would look like restarts: with
// the default budget each static family is there whatever the tables need.
func TestStaticFamiliesAlwaysFit(t *testing.T) {
	mfs := gather(t, New(Options{TopPrefixes: 100, Extra: []prometheus.Collector{extra(20)}}), worst())
	for _, f := range families {
		if f != prefixNew && f != prefixLive {
			family1(t, mfs, f)
		}
	}
}

type extra int

func (e extra) Describe(ch chan<- *prometheus.Desc) { ch <- extraDesc }
func (e extra) Collect(ch chan<- prometheus.Metric) {
	for i := range int(e) {
		ch <- prometheus.MustNewConstMetric(extraDesc, prometheus.GaugeValue, 1, fmt.Sprint(i))
	}
}

var extraDesc = prometheus.NewDesc("ctsight_extra", "A number; a count.", []string{"n"}, nil)

// The figures of docs/metrics.md: how many tables find room.
func TestRoomForTables(t *testing.T) {
	usual := ordinary(100)
	for i := range usual.Tables {
		usual.Tables[i].Forecast = true
	}
	usual.Hooks = worst().Hooks[2:]
	for _, tt := range []struct {
		name string
		s    *agg.Status
		want int
	}{{"everything at once", worst(), 17}, {"ordinary, 30 hooks", usual, 30}} {
		mfs := gather(t, New(Options{}), tt.s)
		if n := len(family1(t, mfs, tableEntries).Metric); n != tt.want {
			t.Errorf("%s: room for %d tables, the docs say %d", tt.name, n, tt.want)
		}
	}
}

func TestTablesAreWhole(t *testing.T) {
	s := worst()
	mfs := gather(t, New(Options{}), s)
	entries := family1(t, mfs, tableEntries).Metric
	for f, per := range map[*family]int{tableLimit: 1, tableFill: 1, tableThreshold: 4, tableTimeToFull: 3} {
		if n := len(family1(t, mfs, f).Metric); n != per*len(entries) {
			t.Errorf("%s: %d series for %d tables", f.name, n, len(entries))
		}
	}
	fills := family1(t, mfs, tableFill).Metric
	lowest := slices.MinFunc(fills, func(a, b *dto.Metric) int { return int(1e6 * (a.Gauge.GetValue() - b.Gauge.GetValue())) }).Gauge.GetValue()
	fuller := 0
	for i := range s.Tables {
		if s.Tables[i].Fill() >= lowest {
			fuller++
		}
	}
	if fuller != len(fills) {
		t.Errorf("%d tables are as full as %g and %d are told: not the fullest", fuller, lowest, len(fills))
	}
}

func TestForecast(t *testing.T) {
	s := ordinary(2)
	s.Tables[1].Err = "no permission"
	mfs := gather(t, New(Options{}), s)
	for bound, want := range map[string]float64{"low": 60, "expected": 90, "high": math.Inf(1)} {
		if got := value(t, mfs, tableTimeToFull, "gw", bound); got != want {
			t.Errorf("%s: %g, want %g", bound, got, want)
		}
	}
	if n := len(family1(t, mfs, tableEntries).Metric); n != 1 {
		t.Errorf("%d tables: one is not known", n)
	}
	s.Tables[0].Forecast = false
	if find(tableTimeToFull, gather(t, New(Options{}), s)) != nil {
		t.Error("a forecast of what is not known")
	}
	for _, tt := range []struct {
		entries uint64
		level   string
	}{{1399, "ok"}, {1400, "trend"}, {1700, "action"}, {1900, "critical"}} {
		s.Tables[0].Entries = tt.entries
		mfs := gather(t, New(Options{}), s)
		for _, l := range []string{"ok", "trend", "action", "critical"} {
			if got := value(t, mfs, tableThreshold, "gw", l); (got == 1) != (l == tt.level) {
				t.Errorf("%d of 2000: %s is %g", tt.entries, l, got)
			}
		}
	}
}

func TestWaiting(t *testing.T) {
	x := New(Options{})
	wait := &agg.Status{Start: start, Waiting: true}
	for _, mf := range ours(gather(t, x, wait)) {
		if n := mf.GetName(); n != tracing.name && n != omitted.name {
			t.Errorf("%s before anything was traced", n)
		}
	}
	if v := value(t, gather(t, x, wait), tracing); v != 0 {
		t.Error("it does not trace")
	}
	before := gather(t, x, ordinary(2))
	if v := value(t, before, tracing); v != 1 {
		t.Error("it traces")
	}
	again := gather(t, x, wait)
	for _, mf := range before {
		now := find(&family{name: mf.GetName()}, again)
		counts := mf.GetType() == dto.MetricType_COUNTER || mf.GetType() == dto.MetricType_HISTOGRAM
		switch {
		case !strings.HasPrefix(mf.GetName(), prefix):
		case counts && now == nil:
			t.Errorf("counter %s vanished while waiting", mf.GetName())
		case counts && !proto.Equal(now, mf):
			t.Errorf("counter %s changed while waiting", mf.GetName())
		}
	}
	if find(tableEntries, again) != nil || find(newPeak, again) != nil {
		t.Error("levels of a table that is gone")
	}
}

func TestHostileNames(t *testing.T) {
	names := []string{"a\nb", `a"b`, `a\b`, "a\xffb", "a\xfeb", "\x1b[31m", "a\u202eb", "", "same", "same", "4026532002", "same/4026532008", "é" + strings.Repeat("é", 200),
		"é" + strings.Repeat("é", 300), "x} 1\nctsight_tracing 5"}
	s := ordinary(len(names))
	for i, n := range names {
		s.Tables[i].Name = n
	}
	for _, format := range accepted {
		text, err := encode(format, gather(t, New(Options{}), s))
		if err != nil {
			t.Fatal(err)
		}
		if format.FormatType() == expfmt.TypeOpenMetrics {
			text = append(text, "# EOF\n"...)
		}
		mfs := decode(t, format, text)
		seen := map[string]bool{}
		for _, m := range family1(t, mfs, tableEntries).Metric {
			l := m.Label[0].GetValue()
			seen[l] = true
			if !utf8.ValidString(l) || strings.ContainsFunc(l, func(r rune) bool { return r < ' ' || r == '\u202e' }) {
				t.Errorf("%q is a label", l)
			}
		}
		if len(seen) != len(names) {
			t.Errorf("%s: %d of %d namespaces: %v", format, len(seen), len(names), seen)
		}
		if value(t, mfs, tableEntries, `a\xffb`) != 30 || value(t, mfs, tableEntries, `a\nb`) != 1720 {
			t.Error("labels went to the wrong tables")
		}
	}
}

func TestNameOfOthers(t *testing.T) {
	x := New(Options{NetNS: func(ns event.NetNS) string { return "pod-" + ns.String() }})
	mfs := gather(t, x, ordinary(2))
	value(t, mfs, tableEntries, "gw")
	value(t, mfs, tableEntries, "pod-4026532001")
}

// Whatever a status holds, the scrape must not fail: one that does shows nothing
// of all the rest, in the middle of an incident.
func TestAnyStatus(t *testing.T) {
	x := New(Options{TopPrefixes: 20})
	text := rapid.OneOf(rapid.SampledFrom([]string{"", "a", "4", "a/4", "a/5"}), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }))
	rapid.Check(t, func(r *rapid.T) {
		s := &agg.Status{Backend: "fentry", Live: rapid.Uint64().Draw(r, "live")}
		draw := func(n string) uint64 { return rapid.Uint64().Draw(r, n) }
		for range rapid.IntRange(0, 30).Draw(r, "n") {
			ns := event.NetNS(rapid.Uint32Range(3, 8).Draw(r, "netns"))
			full := rapid.Float64().Draw(r, "full")
			s.Tables = append(s.Tables, agg.TableState{NetNS: ns, Name: text.Draw(r, "name"), Entries: draw("entries"), Max: draw("max"), Forecast: rapid.Bool().Draw(r, "f"), TimeToFull: &full})
			s.Drops = append(s.Drops, agg.ReasonCount{Reason: event.Reason(draw("reason")), Count: draw("count")})
			s.Notes = append(s.Notes, agg.ReasonCount{Reason: event.Reason(draw("reason")), Count: draw("count")})
			s.New = append(s.New, agg.ProtoCount{Proto: uint8(draw("proto")), Count: draw("count")})
			s.Destroyed = append(s.Destroyed, agg.ProtoCauseCount{Proto: uint8(draw("proto")), Cause: event.Cause(draw("cause")), Count: draw("count")})
			s.Hooks = append(s.Hooks, agg.HookState{Symbol: text.Draw(r, "symbol"), Backend: text.Draw(r, "backend")})
			s.Found = append(s.Found, agg.ClassCount{Class: text.Draw(r, "class")})
			s.Difference = append(s.Difference, agg.CounterDifference{Counter: agg.Counter(rapid.Uint8Range(0, 8).Draw(r, "counter"))})
			s.Loss.ByStage = append(s.Loss.ByStage, agg.StageLoss{Stage: text.Draw(r, "stage")})
			src, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.ByteRange(0, 2), 4, 5).Draw(r, "src"))
			s.Examples = append(s.Examples, agg.DropExample{Reason: event.Reason(draw("reason")), Src: src, Dst: src, At: start})
			s.Prefixes = append(s.Prefixes, agg.TopRow{Key: agg.Key{NetNS: ns, Zone: uint16(draw("zone")), Src: src, Bits: rapid.Uint8Range(0, 40).Draw(r, "bits")}})
		}
		mfs, err := x.Gather(s)
		if err != nil {
			r.Fatal(err)
		}
		if n := Series(mfs); n > DefaultBudget {
			r.Fatalf("%d series", n)
		}
		if _, err := encode(expfmt.FmtProtoDelim, mfs); err != nil {
			r.Fatal(err)
		}
	})
}

// Addresses are in exemplars, and in the label prefix of who asked for it.
func TestNoAddressIsALabel(t *testing.T) {
	for _, top := range []int{0, 7} {
		prefixes := 0
		for _, mf := range gather(t, New(Options{TopPrefixes: top, Budget: 5000}), worst()) {
			for _, m := range mf.Metric {
				for _, l := range m.Label {
					_, notAddr := netip.ParseAddr(l.GetValue())
					_, notPrefix := netip.ParsePrefix(l.GetValue())
					if l.GetName() == "prefix" {
						prefixes++
					} else if notAddr == nil || notPrefix == nil {
						t.Errorf("%s has %s=%q", mf.GetName(), l.GetName(), l.GetValue())
					}
				}
			}
		}
		if prefixes != 2*top {
			t.Errorf("%d series of prefixes, asked for %d prefixes", prefixes, top)
		}
	}
}

func TestPrefixesOfZonesAreOne(t *testing.T) {
	s := ordinary(1)
	for zone := range 2 {
		s.Prefixes = append(s.Prefixes, agg.TopRow{Key: agg.Key{NetNS: 4026532000, Zone: uint16(zone), Src: netip.MustParseAddr("10.0.0.0"), Bits: 24}, Sums: agg.Sums{New: 5, Live: 2}})
	}
	mfs := gather(t, New(Options{TopPrefixes: 2}), s)
	if n, l := value(t, mfs, prefixNew, "10.0.0.0/24", "gw"), value(t, mfs, prefixLive, "10.0.0.0/24", "gw"); n != 10 || l != 4 {
		t.Errorf("new %g, live %g", n, l)
	}
}

// increase() does not see the event that a series begins with.
func TestKnownBeforeTheFirst(t *testing.T) {
	mfs := gather(t, New(Options{}), &agg.Status{Backend: "fentry"})
	for _, r := range []string{"table_full", "clash_same_flow", "nat_exhausted", "chain_too_long", "confirm_unknown", "ruleset_new"} {
		if value(t, mfs, drops, r) != 0 {
			t.Error(r)
		}
	}
	value(t, mfs, destroyed, "udp", "early_drop")
	value(t, mfs, destroyed, "tcp", "user_flush")
	value(t, mfs, notes, "clash_merged")
	value(t, mfs, eventsLost, "netlink")
	value(t, mfs, newConnections, "ipv6", "icmpv6")
	if n := len(family1(t, mfs, lifetime).Metric); n != 8 {
		t.Errorf("%d histograms", n)
	}
}

func TestExtraTwice(t *testing.T) {
	mfs, err := New(Options{Extra: []prometheus.Collector{extra(1), extra(1)}}).Gather(ordinary(1))
	if err == nil || find(drops, mfs) == nil {
		t.Errorf("want the error and the rest, have %v and %d families", err, len(mfs))
	}
}

func TestNewestExample(t *testing.T) {
	s := ordinary(0)
	s.Examples = append(s.Examples, agg.DropExample{Reason: event.TableFull, Src: netip.MustParseAddr("fe80::2%eth1"), Dst: netip.MustParseAddr("fe80::1%eth0"), At: start.Add(time.Hour)},
		agg.DropExample{Reason: event.TableFull, At: start.Add(2 * time.Hour)})
	for _, m := range family1(t, gather(t, New(Options{}), s), drops).Metric {
		e := m.Counter.Exemplar
		if m.Label[0].GetValue() != "table_full" {
			if e != nil {
				t.Errorf("exemplar of %s", m.Label[0].GetValue())
			}
			continue
		}
		got := map[string]string{}
		for _, l := range e.GetLabel() {
			got[l.GetName()] = l.GetValue()
		}
		if want := map[string]string{"src": "fe80::2", "dst": "fe80::1"}; !cmp.Equal(got, want) || !e.Timestamp.AsTime().Equal(start.Add(time.Hour)) {
			t.Errorf("%v", e)
		}
	}
}

func BenchmarkGatherWorst(b *testing.B) {
	x, s := New(Options{TopPrefixes: 100}), worst()
	s.Destroyed = s.Destroyed[:2] // a source sums up by protocol and cause: 256 x 256 rows is no status
	b.ReportAllocs()
	for b.Loop() {
		mfs := gather(b, x, s)
		if _, err := encode(expfmt.FmtText, mfs); err != nil {
			b.Fatal(err)
		}
	}
}
