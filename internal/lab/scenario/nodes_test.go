package scenario

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/lab/sidecar"
	"github.com/ctsight/ctsight/internal/netlab"
)

// The example of two nodes, each a namespace here: Prometheus tells them apart by
// name, and what it has is what was sent through each.
func TestServeTwoNodes(t *testing.T) {
	if lab.KernelName() != "6.12" {
		t.Skip("runs on 6.12 only: it tests a configuration")
	}
	if _, err := exec.LookPath("prometheus"); err != nil {
		t.Skip("no prometheus in the guest: apt-get install prometheus")
	}
	dir := t.TempDir()
	must(t, os.CopyFS(dir, os.DirFS("../../../deploy")))
	file := dir + "/example/prometheus.yml"
	text, err := os.ReadFile(file)
	must(t, err)
	config := strings.ReplaceAll(string(text), "15s", "1s")
	nodes := []struct {
		name, address string
		sent          int
		r             *netlab.Router
	}{{"gw1", "192.0.2.11:9781", 400, nil}, {"gw2", "192.0.2.12:9781", 300, nil}}
	for i, n := range nodes {
		r := router(t, netlab.Options{Name: n.name})
		s := sidecar.Start(t, exec.Command("ctsight"), "--netns", r.R.Name()).Tracing(t)
		if !strings.Contains(config, n.address) {
			t.Fatalf("no %s in the example", n.address)
		}
		config = strings.Replace(config, n.address, strings.TrimPrefix(s.URL, "http://"), 1)
		nodes[i].r = r
	}
	must(t, os.WriteFile(file, []byte(config), 0o600))
	p := sidecar.Configured(t, file, len(nodes))
	for _, n := range nodes {
		send(t, n.r, sources("198.51.100.1", 10, n.sent/10, netlab.Sink(0)))
	}
	for _, n := range nodes {
		until(t, "the connections of "+n.name, func() bool {
			got, err := p.Query(fmt.Sprintf(`sum(ctsight_new_connections_total{instance=%q,family="ipv4",proto="udp"})`, n.name))
			must(t, err)
			return len(got) == 1 && got[0].Last() == fmt.Sprint(n.sent)
		})
	}
	other, err := p.Query(`count by (instance) (up{node=""})`)
	must(t, err)
	if len(other) != len(nodes) {
		t.Errorf("targets: %v", other)
	}
}
