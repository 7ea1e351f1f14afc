package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/lab/prom"
	"github.com/ctsight/ctsight/internal/lab/sidecar"
	"github.com/ctsight/ctsight/internal/sandbox"
)

// `ctsight serve` pushes to a real Prometheus from its start to its end, with a reload
// between, after it has given up its privileges.
func TestServePushes(t *testing.T) {
	lab.NeedRoot(t)
	if lab.InVM() {
		t.Skip("the newer Prometheus is fetched on the host")
	}
	p := prom.Receive(t, prom.Newer(t), "--web.remote-write-receiver.accepted-protobuf-messages=io.prometheus.write.v2.Request", "--enable-feature=native-histograms")
	file := filepath.Join(t.TempDir(), "c.yml")
	receiver := func(site string) {
		write(t, file, fmt.Sprintf("remote_write:\n- {url: %q, interval: 1s, external_labels: {site: %s}}\n", p.WriteURL(), site))
	}
	receiver("one")
	s := sidecar.Start(t, ctsight(t), "--config.file", file, "--remote-write.url", p.WriteURL())
	shows := func(query string) bool {
		r, err := p.Query(query)
		return err == nil && len(r) == 1
	}
	eventually(t, "the first message", func() bool { return shows(`ctsight_tracing{job="ctsight",site="one"} == 1`) })
	for _, query := range []string{
		`count(ctsight_build_info{site="one",instance!=""})`,
		`sum(ctsight_hook_attached) > 0`,
		`histogram_count(ctsight_connection_lifetime_seconds{proto="tcp",outcome="answered"})`,
	} {
		eventually(t, query, func() bool { return shows(query) })
	}
	receiver("two")
	must(t, s.Cmd.Process.Signal(syscall.SIGHUP))
	eventually(t, "the reload", func() bool { return shows(`ctsight_tracing{site="two"}`) && !shows(`ctsight_tracing{site="one"}`) })
	eventually(t, "its account", func() bool {
		return shows(fmt.Sprintf("ctsight_remote_write_samples_total{url=%q} > 500", p.WriteURL()))
	})
	s.Stop(t)
	if r, err := p.Query(`{job="ctsight"}`); err != nil || len(r) > 0 {
		t.Errorf("after the end: %v, %v", r, err)
	}
	if !shows(`count_over_time(ctsight_tracing{site="two"}[5m])`) {
		t.Error("nothing before the end")
	}
}

// With what serve keeps once it traces it still reaches its receiver and reads a
// password that was changed; a port that Landlock knows nothing of is refused by name.
func TestServePushesConfined(t *testing.T) {
	lab.NeedRoot(t)
	var seen sync.Map
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		if _, password, _ := r.BasicAuth(); n > 0 {
			seen.Store(password, true)
		}
		w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", "1000000")
		w.WriteHeader(http.StatusNoContent)
	}))
	defer receiver.Close()
	dir := t.TempDir()
	file, password := filepath.Join(dir, "c.yml"), filepath.Join(dir, "password")
	const one = "- {url: %q, interval: 1s, basic_auth: {username: u, password_file: password}}\n"
	write(t, file, fmt.Sprintf("sandbox: {landlock: auto}\nremote_write:\n"+one, receiver.URL))
	write(t, password, "first")
	s := sidecar.Start(t, ctsight(t), "--config.file", file)
	for _, p := range []string{"first", "second"} {
		write(t, password+".new", p)
		must(t, os.Rename(password+".new", password))
		eventually(t, "the password "+p, func() bool { _, ok := seen.Load(p); return ok })
	}
	write(t, file, fmt.Sprintf("remote_write:\n"+one+one, receiver.URL, "http://127.0.0.1:1/"))
	must(t, s.Cmd.Process.Signal(syscall.SIGHUP))
	answer := "configuration reloaded"
	if strings.Contains(s.Said(), "landlock ABI") && sandbox.RestrictsPorts() {
		answer = "no connection to port 1 "
	}
	eventually(t, answer, func() bool { return strings.Contains(s.Said(), answer) })
}
