// Package prom runs a Prometheus that receives remote write, for tests on the host.
package prom

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/lab/vm"
)

// Installed is the prometheus of this machine.
func Installed(t testing.TB) string {
	t.Helper()
	bin, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("prometheus is not installed (Debian package prometheus)")
	}
	return bin
}

// Newer is one that knows version 2 of remote write: that of the Debian release after
// trixie. Its binary needs no newer libc than bookworm's.
func Newer(t testing.TB) string {
	t.Helper()
	dir, err := vm.Package(t.Context(), "forky", "prometheus", os.Stderr)
	if err != nil {
		t.Skipf("no Prometheus that knows version 2 of remote write: %v", err)
	}
	return dir + "/usr/bin/prometheus"
}

// Receiver is a Prometheus that takes remote write and scrapes nothing.
type Receiver struct {
	URL     string
	command []string
	run     *exec.Cmd // nil while it does not run
	said    *bytes.Buffer
}

// Receive starts one. It ends with the test.
func Receive(t testing.TB, bin string, flags ...string) *Receiver {
	t.Helper()
	dir, addr := t.TempDir(), freeAddress(t)
	must(t, os.WriteFile(dir+"/prometheus.yml", nil, 0o600))
	r := &Receiver{URL: "http://" + addr, command: append([]string{bin, "--config.file=" + dir + "/prometheus.yml",
		"--storage.tsdb.path=" + dir + "/data", "--web.listen-address=" + addr, "--web.enable-remote-write-receiver", "--log.level=warn"}, flags...)}
	r.Start(t)
	t.Cleanup(func() { r.Stop(t) })
	return r
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

// WriteURL is where it takes remote write.
func (r *Receiver) WriteURL() string { return r.URL + "/api/v1/write" }

// Start starts it, again after a Stop, and waits until it is ready.
func (r *Receiver) Start(t testing.TB) {
	t.Helper()
	r.run, r.said = exec.Command(r.command[0], r.command[1:]...), &bytes.Buffer{}
	r.run.Stderr = r.said
	must(t, r.run.Start())
	for end := time.Now().Add(time.Minute); !r.ready(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("prometheus is not ready after a minute")
		}
	}
}

func (r *Receiver) ready() bool {
	resp, err := http.Get(r.URL + "/-/ready")
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// Stop ends it and keeps what it has stored.
func (r *Receiver) Stop(t testing.TB) {
	t.Helper()
	if r.run == nil {
		return
	}
	must(t, r.run.Process.Signal(syscall.SIGTERM))
	if err := r.run.Wait(); err != nil || t.Failed() {
		t.Logf("%s: %v\n%s", r.command, err, r.said)
	}
	r.run = nil
}

// Series is one of an answer, at one time: a value, or a native histogram.
type Series struct {
	Metric    map[string]string
	Value     [2]any
	Histogram [2]any
}

// Native says whether it is a native histogram.
func (s Series) Native() bool { return s.Histogram[1] != nil }

// Number is the value.
func (s Series) Number() (float64, error) {
	text, _ := s.Value[1].(string)
	return strconv.ParseFloat(text, 64)
}

// Query evaluates an expression now.
func (r *Receiver) Query(q string) ([]Series, error) {
	resp, err := http.Get(r.URL + "/api/v1/query?" + url.Values{"query": {q}}.Encode())
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var doc struct {
		Status, Error string
		Data          struct{ Result []Series }
	}
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
		return nil, err
	}
	if doc.Status != "success" {
		return nil, errors.New(doc.Error)
	}
	return doc.Data.Result, nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
