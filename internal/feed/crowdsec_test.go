package feed

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ctsight/ctsight/internal/agg"
)

// crowdsecConfig is a local API alone: nothing is read, nobody is asked.
const crowdsecConfig = `
common: {daemonize: false, log_media: stdout, log_level: info, working_dir: .}
config_paths: {config_dir: DIR/, data_dir: DIR/, simulation_path: DIR/simulation.yaml, hub_dir: DIR/, index_path: DIR/index.json, notification_dir: DIR/, plugin_dir: DIR/}
crowdsec_service: {enable: false}
cscli: {output: json}
db_config: {type: sqlite, db_path: DIR/crowdsec.db, use_wal: false}
api:
  client: {credentials_path: DIR/client.yaml}
  server: {enable: true, listen_uri: "ADDRESS", profiles_path: DIR/profiles.yaml, log_level: info, console_path: DIR/console.yaml}
prometheus: {enabled: false}
`

// CrowdSec decides what the list says, by the commands of the docs.
func TestCrowdSec(t *testing.T) {
	for _, program := range []string{"crowdsec", "cscli", "curl", "awk"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not here: make test unpacks crowdsec", program)
		}
	}
	dir, address := t.TempDir(), freePort(t)
	for file, text := range map[string]string{"config.yaml": crowdsecConfig, "simulation.yaml": "simulation: false\n", "index.json": "{}",
		"profiles.yaml": "name: none\nfilters: [\"false\"]\ndecisions: []\n", "console.yaml": "", "client.yaml": "url: http://ADDRESS\n"} {
		text = strings.NewReplacer("DIR", dir, "ADDRESS", address).Replace(text)
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config := filepath.Join(dir, "config.yaml")
	cscli := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("cscli", append([]string{"-c", config}, args...)...).Output()
		if err != nil {
			t.Fatalf("cscli %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	cscli("machines", "add", "ctsight", "-p", "secret", "-f", filepath.Join(dir, "client.yaml"), "--force")
	daemon := exec.Command("crowdsec", "-c", config)
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { daemon.Process.Kill(); daemon.Wait() })
	until(t, func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})

	var all []agg.Finding
	for _, p := range []string{"198.51.100.7", "203.0.113.200", "2001:db8::7", "2001:db8:0:1::/64"} {
		all = append(all, scanner(p))
	}
	list := NewList(all, policy(), three, nil)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(list.Text()) }))
	defer s.Close()
	ran := 0
	for _, block := range fences(t, "sh") {
		if !strings.Contains(block, "cscli") {
			continue
		}
		script := strings.NewReplacer("localhost:9781", strings.TrimPrefix(s.URL, "http://"), "/tmp/", dir+"/", "cscli ", "cscli -c "+config+" ").Replace(block)
		if out, err := exec.Command("sh", "-e", "-c", script).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s\n%s", err, script, out)
		}
		ran++
	}
	if ran != 1 {
		t.Fatalf("%d blocks", ran)
	}
	var alerts []struct {
		Decisions []struct{ Value, Type, Scenario string }
	}
	if err := json.Unmarshal([]byte(cscli("decisions", "list", "-a", "-o", "json")), &alerts); err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, a := range alerts {
		for _, d := range a.Decisions {
			got = append(got, fmt.Sprint(d.Type, " ", d.Value, " ", d.Scenario))
		}
	}
	for _, e := range list.Entries() {
		want = append(want, "ban "+elementText(e.Prefix)+" ctsight")
	}
	slices.Sort(got)
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for _, who := range []string{"198.51.100.7", "203.0.113.200", "2001:db8:0:1::99"} {
		if out := cscli("decisions", "list", "-a", "-o", "json", "--ip", who); !strings.Contains(out, "ban") {
			t.Errorf("%s is not blocked: %s", who, out)
		}
	}
}

// freePort is one of loopback that is free now.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
