package pack

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ctsight/ctsight/internal/lab"
)

// With no daemon alive systemd takes a temporary change back, and its timer is gone
// then.
func TestReliefTimer(t *testing.T) {
	if st, err := os.Stat("/run/systemd/system"); err != nil || !st.IsDir() || !lab.InVM() {
		t.Skip("needs a guest with systemd: make test")
	}
	do(t, "modprobe", "nf_conntrack")
	const udp = "/proc/sys/net/netfilter/nf_conntrack_udp_timeout"
	value := func() string {
		b, err := os.ReadFile(udp)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	found, dir := value(), filepath.Join(t.TempDir(), "relief")
	out := do(t, "ctsight", "relief", "--dir", dir, "set", "udp_timeout=7", "--for", "3s", "--reason", "test", "--yes")
	if value() != "7" || strings.Contains(out, "level=WARN") {
		t.Errorf("%s, it is %s", out, value())
	}
	if timers := do(t, "systemctl", "list-timers", "--all", "--no-pager", "ctsight-relief-*"); !strings.Contains(timers, ".timer") {
		t.Errorf("no timer: %s", timers)
	}
	until(t, "systemd takes it back", func() bool { return value() == found })
	until(t, "the journal says so", func() bool {
		out, err := exec.Command("ctsight", "relief", "--dir", dir, "list").CombinedOutput()
		return err == nil && strings.Contains(string(out), "reverted")
	})
	until(t, "the timer is gone", func() bool {
		out, _ := exec.Command("systemctl", "list-units", "--all", "--no-legend", "--no-pager", "ctsight-relief-*").CombinedOutput()
		return strings.TrimSpace(string(out)) == ""
	})
}
