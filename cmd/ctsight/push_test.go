package main

import (
	"fmt"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/lab/prom"
	"github.com/ctsight/ctsight/internal/lab/sidecar"
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
