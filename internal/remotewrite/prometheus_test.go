package remotewrite

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/config"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/prom"
	"github.com/ctsight/ctsight/internal/metrics"
)

// gateway is a source as `ctsight serve` is one: an exporter of a status that goes on,
// until it is told to stand still.
type gateway struct {
	handler *metrics.Handler
	start   time.Time

	mu    sync.Mutex
	n     uint64 // of the status
	asked int    // gatherings, some of which share a status
	last  []*dto.MetricFamily
	still bool
}

func newGateway(extra ...prometheus.Collector) *gateway {
	g := &gateway{start: time.Now().Add(-time.Minute).Truncate(time.Millisecond)}
	x := metrics.New(metrics.Options{Extra: extra})
	g.handler = x.Handler(func(*http.Request) (*agg.Status, error) { return g.status(), nil })
	return g
}

// status has counters that grow and a table that comes and goes.
func (g *gateway) status() *agg.Status {
	g.n++
	h := &agg.Histogram{N: g.n, Sum: time.Duration(g.n) * 90 * time.Second}
	h.Buckets[26] = g.n // 67 to 134 s
	s := &agg.Status{Start: g.start, At: time.Now(), Backend: "fentry", Live: 7,
		New:   []agg.ProtoCount{{Proto: event.ProtoTCP, Count: 1000 * g.n}},
		Drops: []agg.ReasonCount{{Reason: event.TableFull, Count: 3 * g.n}},
		Examples: []agg.DropExample{{Reason: event.TableFull, Src: netip.MustParseAddr("198.51.100.3"), Dst: netip.MustParseAddr("10.9.0.1"),
			At: g.start.Add(time.Duration(g.n) * time.Second)}},
		Hooks:     []agg.HookState{{Symbol: "nf_ct_delete", Backend: "fentry"}},
		Lifetimes: agg.Lifetimes{{Proto: event.ProtoTCP, Answered: true}: h},
		Tables:    []agg.TableState{{NetNS: 4026531840, Name: "gw", Entries: g.n, Max: 1000}},
	}
	if g.n%4 == 0 {
		s.Tables = append(s.Tables, agg.TableState{NetNS: 4026532999, Name: `a "pod"`, Entries: 1, Max: 1000})
	}
	return s
}

func (g *gateway) gather(client string) ([]*dto.MetricFamily, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked++
	if g.still {
		return g.last, nil
	}
	var err error
	g.last, err = g.handler.Gather(&http.Request{RemoteAddr: client})
	return g.last, err
}

// freeze has all be as it was the last time from now on, and returns that.
func (g *gateway) freeze() []*dto.MetricFamily {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.still = true
	return g.last
}

// TestPrometheus pushes to real ones: those that know version 2, with and without native
// histograms, and those that do not.
func TestPrometheus(t *testing.T) {
	const v2 = "--web.remote-write-receiver.accepted-protobuf-messages=io.prometheus.write.v2.Request"
	const natives = "--enable-feature=native-histograms"
	for _, c := range []struct {
		name    string
		bin     func(testing.TB) string
		flags   []string
		natives bool
		says    string // once
	}{
		{"version 2", prom.Newer, []string{v2, natives + ",created-timestamp-zero-ingestion,exemplar-storage"}, true, ""},
		{"without native histograms", prom.Newer, []string{v2}, false, "takes no native histograms"},
		{"version 1 wanted", prom.Newer, []string{strings.Replace(v2, "io.prometheus.write.v2.Request", "prometheus.WriteRequest", 1)}, false, "does not speak version 2"},
		{"bookworm", prom.Installed, nil, false, "does not speak version 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := prom.Receive(t, c.bin(t), c.flags...)
			g, b := startGateway(t, to200ms(p.WriteURL()))
			eventually(t, "ten messages", func() bool { return b.account(t).Sent > 10*250 })
			sameAsScraped(t, p, g.freeze(), c.natives)
			if c.natives {
				aboutNatives(t, p, g)
				exemplars(t, p, g)
			}
			b.stop()
			goneAfterwards(t, p)
			a := b.account(t)
			if a.Failed != 0 || c.natives && a.Dropped != 0 {
				t.Errorf("account %+v", a)
			}
			if said := b.log.lines("level=WARN"); c.says == "" && len(said) > 0 || c.says != "" && (len(said) != 1 || !strings.Contains(said[0], c.says)) {
				t.Errorf("said %q", said)
			}
		})
	}
}

func to200ms(url string) config.RemoteWrite {
	return config.RemoteWrite{URL: url, Interval: 200 * time.Millisecond, ExternalLabels: map[string]string{"instance": "gw1:9781"}}
}

func startGateway(t testing.TB, c config.RemoteWrite) (*gateway, *bench) {
	b := &bench{log: &logged{}}
	var g *gateway
	b.Sender = New(Options{Gather: func(c string) ([]*dto.MetricFamily, error) { return g.gather(c) }, Version: "test", Log: slog.New(slog.NewTextHandler(b.log, nil))})
	quick(&b.limits)
	g = newGateway(b.Sender)
	b.reload(t, c)
	b.run(t)
	return g, b
}

// sameAsScraped asks for all series and compares them with what a scrape shows.
func sameAsScraped(t *testing.T, p *prom.Receiver, mfs []*dto.MetricFamily, natives bool) {
	t.Helper()
	want := scraped(t, mfs, `instance="gw1:9781",job="ctsight"`)
	var diff string
	same := func() bool {
		all, err := p.Query(`{job="ctsight"}`)
		if err != nil {
			diff = err.Error()
			return false
		}
		got, n := map[string]float64{}, 0
		for _, r := range all {
			if r.Native() {
				n++
				continue
			}
			v, err := r.Number()
			must(t, err)
			got[labelText(r.Metric)] = v
		}
		diff = difference(got, want)
		if natives != (n == 8) { // 4 protocols, answered or not
			diff += fmt.Sprintf("%d native histograms", n)
		}
		return diff == ""
	}
	for end := time.Now().Add(patience); !same(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(diff)
		}
	}
	if len(want) < 200 {
		t.Errorf("only %d series", len(want))
	}
}

func labelText(m map[string]string) string {
	var pairs []string
	for k, v := range m {
		pairs = append(pairs, fmt.Sprintf("%s=%q", k, v))
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}

func difference(got, want map[string]float64) (diff string) {
	for _, k := range slices.Sorted(maps.Keys(got)) {
		if v, ok := want[k]; !ok {
			diff += fmt.Sprintf("too many: %s\n", k)
		} else if v != got[k] && !(math.IsNaN(v) && math.IsNaN(got[k])) {
			diff += fmt.Sprintf("%s is %v, want %v\n", k, got[k], v)
		}
	}
	for k := range want {
		if _, ok := got[k]; !ok {
			diff += fmt.Sprintf("missing: %s\n", k)
		}
	}
	return diff
}

// aboutNatives asks what only native histograms and created timestamps can answer.
func aboutNatives(t *testing.T, p *prom.Receiver, g *gateway) {
	t.Helper()
	for query, within := range map[string][2]float64{
		`histogram_count(ctsight_connection_lifetime_seconds{proto="tcp",outcome="answered"})`: {float64(g.n), float64(g.n)},
		`histogram_sum(ctsight_connection_lifetime_seconds{proto="tcp",outcome="answered"})`:   {90 * float64(g.n), 90 * float64(g.n)},
		// 90 s are between 2^26 and 2^27 us: 64 and 128 s as native buckets tell it.
		`histogram_quantile(0.5, ctsight_connection_lifetime_seconds{proto="tcp",outcome="answered"})`: {64, 128},
		`histogram_count(ctsight_connection_lifetime_seconds{proto="udp",outcome="unanswered"})`:       {0, 0},
		`count(ctsight_build_info)`: {1, 1},
		// From the created timestamp on, a minute ago, all drops are seen.
		`min_over_time(ctsight_drops_total{reason="table_full"}[5m])`: {0, 0},
		`increase(ctsight_drops_total{reason="table_full"}[10m]) > 0`: {float64(3*g.n) * 0.9, math.Inf(1)},
	} {
		r, err := p.Query(query)
		if err != nil || len(r) != 1 {
			t.Errorf("%s: %v %v", query, r, err)
			continue
		}
		if v, err := r[0].Number(); err != nil || v < within[0] || v > within[1] {
			t.Errorf("%s is %v, want %v", query, r[0].Value, within)
		}
	}
}

// exemplars holds that each that a scrape could have shown is stored, once.
func exemplars(t *testing.T, p *prom.Receiver, g *gateway) {
	t.Helper()
	resp, err := http.Get(p.URL + "/api/v1/query_exemplars?" + url.Values{"query": {"ctsight_drops_total"}, "start": {fmt.Sprint(g.start.Unix())},
		"end": {fmt.Sprint(time.Now().Add(time.Hour).Unix())}}.Encode())
	must(t, err)
	defer resp.Body.Close()
	var doc struct {
		Data []struct {
			Exemplars []struct {
				Labels    map[string]string
				Timestamp float64
			}
		}
	}
	must(t, json.NewDecoder(resp.Body).Decode(&doc))
	if len(doc.Data) != 1 || len(doc.Data[0].Exemplars) != int(g.n) {
		t.Fatalf("%v, want %d exemplars of one series", doc.Data, g.n)
	}
	for i, e := range doc.Data[0].Exemplars {
		at := float64(g.start.UnixMilli())/1000 + float64(i+1)
		if e.Labels["src"] != "198.51.100.3" || e.Labels["dst"] != "10.9.0.1" || math.Abs(e.Timestamp-at) > 0.0005 {
			t.Errorf("exemplar %d: %v, want at %v", i, e, at)
		}
	}
}

// goneAfterwards holds that a second after the end nothing is shown, and that all was
// shown before it.
func goneAfterwards(t *testing.T, p *prom.Receiver) {
	t.Helper()
	r, err := p.Query(fmt.Sprintf(`{job="ctsight"} @ %.3f`, float64(time.Now().Add(time.Second).UnixMilli())/1000))
	if err != nil || len(r) > 0 {
		t.Errorf("a second after the end: %d series, %v", len(r), err)
	}
	if r, err = p.Query(`count_over_time(ctsight_tracing[1m])`); err != nil || len(r) != 1 {
		t.Errorf("before the end: %v, %v", r, err)
	}
}

// A receiver that is away for a while has no gap afterwards.
func TestPrometheusOutage(t *testing.T) {
	p := prom.Receive(t, prom.Newer(t), "--web.remote-write-receiver.accepted-protobuf-messages=io.prometheus.write.v2.Request", "--enable-feature=native-histograms")
	g, b := startGateway(t, to200ms(p.WriteURL()))
	eventually(t, "some messages", func() bool { return b.account(t).Sent > 3*250 })
	p.Stop(t)
	eventually(t, "some wait", func() bool { return b.account(t).Pending > 10*250 })
	p.Start(t)
	eventually(t, "nothing waits", func() bool { return b.account(t).Pending < 2*250 })
	b.stop()
	a := b.account(t)
	if a.Sent != a.Gathered {
		t.Errorf("account %+v", a)
	}
	r, err := p.Query(`count_over_time(ctsight_tracing[5m])`)
	if err != nil || len(r) != 1 || r[0].Value[1] != fmt.Sprint(g.asked) {
		t.Errorf("stored %v %v, gathered %d", r, err, g.asked)
	}
}
