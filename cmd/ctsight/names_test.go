package main

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
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
	n := newNames()
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
	n := newNames()
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
