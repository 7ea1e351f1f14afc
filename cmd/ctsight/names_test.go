package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/pods"
)

// ipNetNS makes a named namespace that lasts until the test ends.
func ipNetNS(t *testing.T, name string) event.NetNS {
	t.Helper()
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		t.Fatalf("ip netns add: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() }) // mostly gone by then
	ns, err := ctnl.OpenNS("/run/netns/" + name)
	must(t, err)
	return ns.Inode
}

// A number whose namespace ends keeps the name for the last events, and loses
// it to the namespace that gets the number.
func TestNamesOfReusedNumber(t *testing.T) {
	lab.NeedRoot(t)
	n := newNames("", nil)
	name := func(i int) string { return fmt.Sprintf("ctsight-%d-%d", os.Getpid(), i) }
	first := ipNetNS(t, name(0))
	if got := n.netns(first); got != name(0) {
		t.Fatalf("called %q, want %q", got, name(0))
	}
	must(t, exec.Command("ip", "netns", "del", name(0)).Run())
	time.Sleep(freshFor + 50*time.Millisecond)
	if got := n.netns(first); got != name(0) {
		t.Errorf("right after its end called %q, want %q", got, name(0))
	}
	for i := 1; ; i++ {
		if i == 100 {
			t.Skip("the kernel did not use the number again for 100 namespaces")
		}
		if ipNetNS(t, name(i)) != first {
			must(t, exec.Command("ip", "netns", "del", name(i)).Run())
			continue
		}
		time.Sleep(freshFor + 50*time.Millisecond)
		if got := n.netns(first); got != name(i) {
			t.Errorf("called %q, want %q", got, name(i))
		}
		return
	}
}

// What nobody has is forgotten.
func TestNamesForgets(t *testing.T) {
	n := newNames("", nil)
	now := time.Now()
	n.ns[1] = &namedNS{NS: ctnl.NS{Inode: 1, Name: "gone", Path: "/nowhere"}, seen: now, checked: now}
	for _, after := range []time.Duration{0, freshFor, keepGone} {
		if n.find(1, now.Add(after)) == nil {
			t.Errorf("forgotten after %v", after)
		}
	}
	if n.find(1, now.Add(keepGone+2*freshFor)) != nil {
		t.Error("not forgotten")
	}
}

// procOf makes a /proc of one process in the namespace.
func procOf(t *testing.T, ns event.NetNS, cgroup string) string {
	t.Helper()
	root := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(root, "20/ns"), 0o755))
	must(t, os.Symlink(fmt.Sprintf("net:[%d]", ns), filepath.Join(root, "20/ns/net")))
	must(t, os.WriteFile(filepath.Join(root, "20/cgroup"), []byte(cgroup), 0o644))
	return root
}

const (
	podCgroup = "0::/kubepods/podff49d0be-16b7-4a49-bb9e-8ec1f1f4e27f/34dc0b5e626f2c5c4c5170e34b10e7654ce36f0fcd532739f4445baabea03376\n"
	podName   = "pod:ff49d0be-16b7-4a49-bb9e-8ec1f1f4e27f/34dc0b5e626f"
)

// What is shown is taken back, by --netns and in filters.
func TestNamesLookup(t *testing.T) {
	own, err := resolveOwn()
	must(t, err)
	g := &globals{known: newNames("", nil)}
	g.known.pods = pods.NewIndex(procOf(t, own, podCgroup), nil)
	all, err := ctnl.ListNetNS()
	must(t, err)
	if name := all[0].Name; name != "" {
		t.Skipf("the own namespace has the name %q under /run/netns", name)
	}
	if name := g.known.view().NetNS(own); name != podName {
		t.Errorf("called %q, want %q", name, podName)
	}
	if ns, err := g.resolveNetNS(podName); err != nil || ns != own {
		t.Errorf("--netns: %v %v", ns, err)
	}
	f, err := g.filter([]string{"netns", podName})
	must(t, err)
	if !f.Match(&event.Event{NetNS: own}) || f.Match(&event.Event{NetNS: own + 1}) {
		t.Error("filter does not match the namespace of the pod")
	}
	if _, err := g.resolveNetNS("pod:none"); err == nil {
		t.Error("found what is not there")
	}
}

// A runtime that does not answer is a warning.
func TestCRISocketMissing(t *testing.T) {
	r := runCmd(t, ctsight(t, "trace", "--netns", "nonsense", "--cri.socket", "/nowhere/cri.sock"))
	if r.code != exitUsage || strings.Count(r.stderr, "--cri.socket /nowhere/cri.sock") != 1 || strings.Count(r.stderr, "\n") != 2 {
		t.Errorf("exit code %d, stderr %q", r.code, r.stderr)
	}
}
