package metrics

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// TestPrometheus has a real one scrape the worst case: by protobuf, native
// histograms among it, which it checks when they come in.
func TestPrometheus(t *testing.T) {
	bin, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("prometheus is not installed (Debian package prometheus)")
	}
	s := worst()
	var lived []time.Duration
	for range 1000 {
		lived = append(lived, 120*time.Second)
	}
	s.Lifetimes = agg.Lifetimes{{Proto: event.ProtoTCP, Answered: true}: histogramOf(lived...)}
	h := New(Options{TopPrefixes: 100}).Handler(always(s))
	formats := make(chan string, 100)
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r)
		select {
		case formats <- w.Header().Get("Content-Type") + " " + w.Header().Get("Content-Encoding"):
		default:
		}
	}))
	defer target.Close()
	api := startPrometheus(t, bin, strings.TrimPrefix(target.URL, "http://"))

	for query, within := range map[string][2]float64{
		`up`:                           {1, 1},
		`scrape_samples_scraped > 400`: {400, DefaultBudget},
		`ctsight_drops_total{reason="table_full"}`: {413, 413},
		// 120 s are between 2^26 and 2^27 us: 64 and 128 s as native buckets tell it.
		`histogram_quantile(0.5, ctsight_connection_lifetime_seconds{proto="tcp",outcome="answered"})`: {64, 128},
		`histogram_sum(ctsight_connection_lifetime_seconds{proto="tcp",outcome="answered"})`:           {120000, 120000},
		`histogram_count(ctsight_connection_lifetime_seconds{proto="udp",outcome="answered"})`:         {0, 0},
	} {
		if v := ask(t, api, query); v < within[0] || v > within[1] {
			t.Errorf("%s is %g, want %v", query, v, within)
		}
	}
	if f := <-formats; !strings.Contains(f, "protobuf") || !strings.HasSuffix(f, " gzip") {
		t.Errorf("it was served %s", f)
	}
}

func startPrometheus(t *testing.T, bin, target string) (api string) {
	dir := t.TempDir()
	conf := fmt.Sprintf("scrape_configs: [{job_name: ctsight, scrape_interval: 1s, static_configs: [{targets: ['%s']}]}]\n", target)
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	free := httptest.NewServer(nil)
	addr := strings.TrimPrefix(free.URL, "http://")
	free.Close()
	cmd := exec.Command(bin, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+addr, "--enable-feature=native-histograms")
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	return "http://" + addr
}

// ask repeats a query until it has one answer.
func ask(t *testing.T, api, query string) float64 {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		resp, err := http.Get(api + "/api/v1/query?query=" + url.QueryEscape(query))
		if err != nil {
			continue // not up yet
		}
		var out struct {
			Data struct{ Result []struct{ Value [2]any } }
		}
		err = json.NewDecoder(resp.Body).Decode(&out)
		_ = resp.Body.Close()
		if err == nil && len(out.Data.Result) == 1 {
			v, err := strconv.ParseFloat(fmt.Sprint(out.Data.Result[0].Value[1]), 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Errorf("no answer to %s", query)
	return 0
}
