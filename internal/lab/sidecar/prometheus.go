package sidecar

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// Prometheus is a real one that scrapes a sidecar each second, with our rules.
type Prometheus struct{ URL string }

// rules are the files of this project, in the guest at the same place.
const rules = "../../../deploy/prometheus/*.yml"

// Scrape starts it; it ends with the test.
func Scrape(t testing.TB, s *Sidecar) *Prometheus {
	t.Helper()
	dir := t.TempDir()
	var files []string
	for _, name := range []string{"alerts.yml", "recording.yml"} {
		data, err := os.ReadFile(strings.Replace(rules, "*.yml", name, 1))
		must(t, err)
		must(t, os.WriteFile(dir+"/"+name, data, 0o600))
		files = append(files, name)
	}
	config := fmt.Sprintf(`global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%s]
scrape_configs:
- job_name: ctsight
  static_configs: [{targets: [%q]}]
`, strings.Join(files, ", "), strings.TrimPrefix(s.URL, "http://"))
	must(t, os.WriteFile(dir+"/prometheus.yml", []byte(config), 0o600))
	return Configured(t, dir+"/prometheus.yml", 1)
}

// Configured starts one with a configuration, and waits until it scrapes so many
// targets.
func Configured(t testing.TB, file string, targets int) *Prometheus {
	t.Helper()
	addr := FreeAddress(t)
	cmd := exec.Command("prometheus", "--config.file="+file, "--storage.tsdb.path="+t.TempDir()+"/data",
		"--web.listen-address="+addr, "--log.level=warn")
	var said bytes.Buffer
	cmd.Stderr = &said
	must(t, cmd.Start())
	t.Cleanup(func() {
		must(t, cmd.Process.Signal(syscall.SIGTERM))
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Logf("prometheus: %v\n%s", err, &said)
		}
	})
	p := &Prometheus{URL: "http://" + addr}
	until(t, "prometheus scrapes", func() bool {
		r, err := p.Query("up == 1")
		return err == nil && len(r) == targets
	})
	return p
}

// Result is a series of an answer of Prometheus: values of instants, or of a range.
type Result struct {
	Metric map[string]string
	Value  [2]any
	Values [][2]any
}

// Last is the newest value.
func (r Result) Last() string {
	if r.Values != nil {
		return fmt.Sprint(r.Values[len(r.Values)-1][1])
	}
	return fmt.Sprint(r.Value[1])
}

// Query evaluates an expression now.
func (p *Prometheus) Query(q string) (out []Result, err error) {
	r, err := http.Get(p.URL + "/api/v1/query?" + url.Values{"query": {q}}.Encode())
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	var doc struct {
		Status, Error string
		Data          struct{ Result []Result }
	}
	if err := json.NewDecoder(r.Body).Decode(&doc); err != nil {
		return nil, err
	}
	if doc.Status != "success" {
		return nil, errors.New(doc.Error)
	}
	return doc.Data.Result, nil
}
