package rules

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/metrics"
)

// A real Prometheus that scrapes a gateway in trouble has something to show in
// each panel, and records each rule: with classic histograms, and with native ones.
func TestPanelsShowSomething(t *testing.T) {
	bin, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("prometheus is not installed (Debian package prometheus)")
	}
	target := gateway(t)
	for name, flags := range map[string][]string{"classic": nil, "native": {"--enable-feature=native-histograms"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPrometheus(t, bin, target, flags)
			for _, panel := range panels(t) {
				p.until(t, panel.Title, func() bool {
					for _, q := range panel.Targets {
						if p.series(asked(q.Expr)) > 0 {
							return true
						}
					}
					return false
				})
			}
			for _, r := range rules(t, "recording.yml") {
				p.until(t, r.Record, func() bool { return p.series(r.Record) > 0 })
			}
			heat := `count(ctsight_connection_lifetime_seconds_bucket)`
			if classic := p.series(heat) > 0; classic != (name == "classic") {
				t.Errorf("classic buckets: %v", classic)
			}
		})
	}
}

// gateway serves the metrics of one that fills up, loses and evicts: each look has
// more than the one before.
func gateway(t *testing.T) (addr string) {
	var mu sync.Mutex
	n := uint64(0)
	var of []prometheus.Collector // who serves, and not of metrics
	for _, name := range []string{"config_last_reload_successful", "flight_recorder_kept", "flight_recorder_kept_bytes", "flight_recorder_bytes", "flight_recorder_lost_events_total", "flight_recorder_omitted_total"} {
		of = append(of, prometheus.NewGauge(prometheus.GaugeOpts{Name: "ctsight_" + name, Help: "Of another package."}))
	}
	x := metrics.New(metrics.Options{Extra: of})
	s := httptest.NewServer(x.Handler(func(*http.Request) (*agg.Status, error) {
		mu.Lock()
		defer mu.Unlock()
		n += 10
		return inTrouble(n), nil
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func inTrouble(n uint64) *agg.Status {
	full := 60.0
	h := &agg.Histogram{N: n, Sum: time.Duration(n) * time.Second}
	h.Buckets[20] = n
	source := agg.TopRow{Key: agg.Key{Src: netip.MustParseAddr("198.51.100.7")}, Sums: agg.Sums{Live: 600}, Rates: agg.Rates{S1: 100}}
	return &agg.Status{
		Start: time.Now().Add(-time.Hour), At: time.Now(), Backend: "fentry", Live: 800, Tracked: 5, Folded: n, MapBytes: 1 << 20,
		Tables:     []agg.TableState{{NetNS: 4026531840, Entries: 900, Max: 1000, Forecast: true, TimeToFull: &full, FullLow: &full, FullHigh: &full}},
		New:        []agg.ProtoCount{{Proto: event.ProtoTCP, Count: n}},
		Destroyed:  []agg.ProtoCauseCount{{Proto: event.ProtoUDP, Cause: event.EarlyDrop, Count: n}},
		Drops:      []agg.ReasonCount{{Reason: event.TableFull, Count: n}, {Reason: event.RulesetNew, Count: n}},
		Notes:      []agg.ReasonCount{{Reason: event.ClashMerged, Count: n}},
		Peaks:      agg.Peaks{In10ms: 900, In100ms: 500, In1s: 200},
		Holders:    []agg.TopRow{source},
		Arrivals:   []agg.TopRow{source},
		Difference: []agg.CounterDifference{{Counter: agg.CounterDrop}},
		Loss:       agg.Loss{Seen: n, Delivered: n - n/10, Lost: n / 10, ByStage: []agg.StageLoss{{Stage: "ring", Lost: n / 10}}},
		Hooks:      []agg.HookState{{Symbol: "kfree_skb", Backend: "fentry", Missed: n}},
		Found:      []agg.ClassCount{{Class: "table_filling", Count: n}},
		Lifetimes:  agg.Lifetimes{{Proto: event.ProtoTCP}: h},
	}
}

// server is a Prometheus with our rules.
type server struct{ url string }

func startPrometheus(t *testing.T, bin, target string, flags []string) *server {
	t.Helper()
	dir := t.TempDir()
	at, err := filepath.Abs("../../../deploy/prometheus")
	if err != nil {
		t.Fatal(err)
	}
	config := `{global: {scrape_interval: 1s, evaluation_interval: 1s}, rule_files: ["` + at + `/alerts.yml", "` + at + `/recording.yml"],
scrape_configs: [{job_name: ctsight, static_configs: [{targets: ["` + target + `"]}]}]}`
	if err := os.WriteFile(dir+"/prometheus.yml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	free := httptest.NewServer(nil)
	addr := strings.TrimPrefix(free.URL, "http://")
	free.Close()
	cmd := exec.Command(bin, append(flags, "--config.file="+dir+"/prometheus.yml", "--storage.tsdb.path="+dir+"/data", "--web.listen-address="+addr)...)
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	return &server{url: "http://" + addr}
}

func (s *server) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Errorf("nothing to see: %s", what)
}

// series is how many an expression has now; 0 before Prometheus is up.
func (s *server) series(expr string) int {
	resp, err := http.Get(s.url + "/api/v1/query?query=" + url.QueryEscape(expr))
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	var out struct{ Data struct{ Result []any } }
	if json.NewDecoder(resp.Body).Decode(&out) != nil {
		return 0
	}
	return len(out.Data.Result)
}
