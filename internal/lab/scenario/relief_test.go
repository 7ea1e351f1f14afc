package scenario

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/lab/sidecar"
	"github.com/ctsight/ctsight/internal/netlab"
)

// The limit and the buckets of a kernel, which only the initial namespace may write:
// raised and taken back by hand, by expire and by a daemon that has given up its
// privileges. The oracle is the kernel's own file.
func TestRelief(t *testing.T) {
	r := router(t, netlab.Options{})
	const most, buckets = 1000, 16384
	limit(t, r, most, buckets)
	dir := filepath.Join(t.TempDir(), "relief")
	relief := func(args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), "ctsight", append([]string{"relief", "--dir", dir}, args...)...).CombinedOutput()
		return string(out), err
	}
	value := func(name string) string {
		t.Helper()
		b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_" + name)
		must(t, err)
		return strings.TrimSpace(string(b))
	}
	is := func(what, max, hash string) {
		t.Helper()
		if value("max") != max || value("buckets") != hash {
			t.Errorf("%s: max %s buckets %s, want %s %s", what, value("max"), value("buckets"), max, hash)
		}
	}
	set := func(args ...string) {
		t.Helper()
		if out, err := relief(append([]string{"set", "--reason", "INC-42", "--yes"}, args...)...); err != nil {
			t.Fatalf("%v: %v %s", args, err, out)
		}
	}

	if out, err := relief("set", "max=2000", "--for", "1h", "--reason", "INC-42", "--yes", "--netns", r.R.Inode().String()); err == nil || !strings.Contains(out, "on the host without --netns") {
		t.Errorf("in another namespace: %v %s", err, out)
	}
	set("max=2000", "buckets=20000", "--for", "1h")
	is("set", "2000", "20480") // whole pages of 512

	// More entries than fit: it waits, by hand it does not.
	f := udp(375)
	f.Src, f.SpreadSources = netlab.Addrs{First: f.Src.First, N: 4}, true
	send(t, r, f)
	set("max=2001", "--for", "1s")
	time.Sleep(1100 * time.Millisecond)
	if out, err := relief("expire"); err == nil || !strings.Contains(out, "it waits: the fullest table has 1500 entries") {
		t.Errorf("%v %s", err, out)
	}
	is("waits", "2001", "20480")
	if out, err := relief("revert", "--all"); err != nil || !strings.Contains(out, "150 % of that") {
		t.Errorf("%v %s", err, out)
	}
	is("by hand", "1000", "16384")
	run(t, r, "conntrack", "-F")

	// Somebody else writes.
	set("max=2000", "--for", "1h")
	must(t, os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_max", []byte("1500"), 0))
	if out, err := relief("revert", "--all"); err != nil || !strings.Contains(out, "somebody else has written 1500") {
		t.Errorf("%v %s", err, out)
	}
	is("theirs", "1500", "16384")
	limit(t, r, most, 0)

	// A daemon with few capabilities, and Landlock where the kernel has it.
	config := filepath.Join(t.TempDir(), "c.yml")
	must(t, os.WriteFile(config, []byte("relief: {dir: "+dir+"}\nsandbox: {landlock: auto}\n"), 0o600))
	s := sidecar.Start(t, exec.Command("ctsight"), "--config.file", config).Tracing(t)
	set("max=2000", "buckets=20480", "udp_timeout=7", "--for", "20s")
	active := func() float64 { return sidecar.Sum(s.Values(t), "relief_active") }
	wait := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(100 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("waited in vain: %s\n%s", what, s.Said())
			}
		}
	}
	wait("it shows them", func() bool { return active() == 3 })
	if page := string(s.Get(t, "/")); !strings.Contains(page, "INC-42") {
		t.Error("the page does not tell of them")
	}
	wait("it takes them back", func() bool { return active() == 0 })
	is("by the daemon", "1000", "16384")
	t.Logf("%s", s.Said())
}
