package probe_test

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
)

// usersOf returns which loaded modules use a module; loaded is false when it is
// not there.
func usersOf(t testing.TB, module string) (users []string, loaded bool) {
	t.Helper()
	data, err := os.ReadFile("/proc/modules")
	must(t, err)
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if f[0] == module {
			return strings.FieldsFunc(strings.TrimPrefix(f[3], "-"), func(r rune) bool { return r == ',' }), true
		}
	}
	return nil, false
}

// unload takes a module and everything that uses it out of the kernel. What
// namespaces hold goes away in the background: it tries again.
func unload(t testing.TB, module string) {
	t.Helper()
	var last error
	ok := within(patience, func() bool {
		last = tryUnload(t, module)
		return last == nil
	})
	if !ok {
		t.Fatalf("unload %s: %v", module, last)
	}
}

func tryUnload(t testing.TB, module string) error {
	users, loaded := usersOf(t, module)
	if !loaded {
		return nil
	}
	for _, u := range users {
		if err := tryUnload(t, u); err != nil {
			return err
		}
	}
	return unix.DeleteModule(module, unix.O_NONBLOCK)
}

// noConntrack makes a kernel without nf_conntrack, or skips the test where it
// is built in.
func noConntrack(t testing.TB) {
	t.Helper()
	lab.NeedVM(t)
	unload(t, "nf_conntrack")
	if _, err := os.Stat("/proc/sys/net/netfilter/nf_conntrack_max"); err == nil {
		t.Skip("nf_conntrack is built in")
	}
	t.Cleanup(loadModules)
}

func modprobe(t testing.TB, module string) {
	t.Helper()
	if out, err := exec.Command("modprobe", module).CombinedOutput(); err != nil {
		t.Fatalf("modprobe %s: %v: %s", module, err, out)
	}
}

// hookOf is the report's line of a function.
func hookOf(p *probe.Probe, symbol string) probe.HookStatus {
	r := p.Report()
	i := slices.IndexFunc(r.Hooks, func(h probe.HookStatus) bool { return h.Symbol == symbol })
	return r.Hooks[i]
}

// R5: a trace that is started before nf_conntrack is there says that it waits,
// and traces as soon as it is loaded.
func TestWaitsForModule(t *testing.T) {
	noConntrack(t)
	if _, err := probe.Open(probe.Options{}); !errors.Is(err, probe.ErrNotLoaded) {
		t.Fatalf("open: %v, want %v", err, probe.ErrNotLoaded)
	}
	c := start(t, "trace", "new", "-o", "json", "--log.level=debug")
	wait(t, "says that it waits", func() bool { return strings.Contains(c.stderr(), "waiting for nf_conntrack") })
	if n := strings.Count(c.stderr(), "\n"); n != 0 {
		t.Errorf("more than one line: %s", c.stderr())
	}
	began := time.Now()
	modprobe(t, "nf_conntrack")
	c.attached()
	attached := time.Since(began)
	r, err := netlab.NewRouter(netlab.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, r.Close()) })
	sent := 0
	wait(t, "events told", func() bool {
		sent += int(send(t, r, flows(one, 10, sent/10)).Flows())
		return len(c.stdout()) > 0
	})
	must(t, c.Process.Signal(unix.SIGINT))
	if code := c.ends(); code != 0 {
		t.Errorf("exit code %d: %s", code, c.stderr())
	}
	if n := len(c.stdout()); n != sent {
		t.Errorf("%d events told, %d flows sent", n, sent)
	}
	open := time.Now()
	p, err := probe.Open(probe.Options{})
	must(t, err)
	t.Logf("attached %v after the module was loaded; opening alone takes %v here", attached.Round(time.Millisecond), time.Since(open).Round(time.Millisecond))
	if attached > 2*time.Second+3*time.Since(open) {
		t.Errorf("attached only after %v", attached)
	}
	must(t, p.Close())
}

// Ctrl-C while it waits.
func TestInterruptedWhileWaiting(t *testing.T) {
	noConntrack(t)
	c := start(t, "trace")
	wait(t, "says that it waits", func() bool { return strings.Contains(c.stderr(), "waiting for nf_conntrack") })
	must(t, c.Process.Signal(unix.SIGINT))
	code := c.ends()
	t.Logf("exit code %d: %s", code, c.stderr())
	if n := strings.Count(c.stderr(), "\n"); n > 1 {
		t.Errorf("%d lines: %s", n+1, c.stderr())
	}
}

// Hooks in modules that are loaded later are attached while the probe runs.
func TestModulesLoadedLater(t *testing.T) {
	noConntrack(t)
	modprobe(t, "nf_conntrack")
	p, err := probe.Open(probe.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	tr := read(t, p)
	for _, tc := range []struct{ module, symbol string }{
		{"nf_conntrack_netlink", "ctnetlink_del_conntrack"}, {"nf_nat", "nf_nat_setup_info"},
	} {
		if h := hookOf(p, tc.symbol); h.Backend != "" || !errors.Is(h.Err, os.ErrNotExist) {
			t.Fatalf("%s without %s: %+v", tc.symbol, tc.module, h)
		}
		modprobe(t, tc.module)
		began := time.Now()
		wait(t, tc.symbol+" attached", func() bool { return hookOf(p, tc.symbol).Backend != "" })
		t.Logf("%s attached after %v by %s", tc.symbol, time.Since(began).Round(time.Millisecond), hookOf(p, tc.symbol).Backend)
	}
	// And they do their work: a delete is known for what it is.
	r, err := netlab.NewRouter(netlab.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, r.Close()) })
	f := flows(one, 5, 0)
	send(t, r, f)
	c := dial(t, r.R)
	for i := range f.Len() {
		must(t, c.Delete(f.Tuple(i), 0))
	}
	tr.settle()
	if got := countersOf(p, r.R); got.Causes[event.UserDelete] != 5 || destroyed(got) != 5 {
		t.Errorf("deleted 5, counted %d of %d destroyed", got.Causes[event.UserDelete], destroyed(got))
	}
}

// Modules that go while the probe is attached. fentry holds them: EBUSY. A
// kprobe does not; then what comes back must be hooked again.
func TestModuleUnloadedWhileAttached(t *testing.T) {
	noConntrack(t)
	modprobe(t, "nf_conntrack")
	p, err := probe.Open(probe.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	tr := read(t, p)
	err = unix.DeleteModule("nf_conntrack", unix.O_NONBLOCK)
	t.Logf("backend %s: unload of nf_conntrack while attached: %v", p.Report().Backend, err)
	if p.Report().Backend == probe.Fentry && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EAGAIN) {
		t.Errorf("nf_conntrack unloaded under fentry: %v", err)
	}
	if err == nil {
		time.Sleep(1500 * time.Millisecond) // the probe may notice
		modprobe(t, "nf_conntrack")
		wait(t, "attached again", func() bool { return hookOf(p, "__nf_conntrack_confirm").Backend != "" })
		time.Sleep(2 * time.Second) // R5: attached again within 2 s
	}
	r, err := netlab.NewRouter(netlab.Options{})
	must(t, err)
	truth := send(t, r, flows(one, 20, 0))
	c := dial(t, r.R)
	flush(t, c)
	tr.settle()
	if got := countersOf(p, r.R); got.New != truth.Flows() || destroyed(got) != truth.Flows() {
		t.Errorf("sent %d, counted %d new, %d destroyed", truth.Flows(), got.New, destroyed(got))
	}
	must(t, c.Close())
	must(t, r.Close())
	tr.stop()
	must(t, p.Close())
	began := time.Now()
	unload(t, "nf_conntrack")
	t.Logf("after Close it can be unloaded, with its users, within %v", time.Since(began).Round(time.Millisecond))
}

// NAT goes and takes the entries along that it has translated. fentry holds the
// module; with kprobes it may go.
func TestNATUnload(t *testing.T) {
	r := router(t)
	modprobe(t, "nft_nat")
	p := open(t, probe.Options{})
	if hookOf(p, "nf_nat_setup_info").Backend == probe.Fentry {
		if err := unix.DeleteModule("nf_nat", unix.O_NONBLOCK); err == nil {
			t.Error("nf_nat unloaded under fentry")
		}
		t.Skip("fentry holds nf_nat: docs/not-reproducible.md")
	}
	t.Cleanup(loadModules)
	must(t, r.R.NFT("table ip zz { chain c { type nat hook postrouting priority 100; oif rb snat to "+netlab.RouterBV4.String()+"; }; }"))
	tr := read(t, p)
	truth := send(t, r, flows(one, 50, 0))
	must(t, r.R.NFT("delete table ip zz"))
	unload(t, "nf_nat")
	tr.settle()
	got := countersOf(p, r.R)
	if n := truth.Flows(); got.New != n || got.Causes[event.NATUnload] != n || destroyed(got) != n {
		t.Errorf("sent %d, counted %d new, %d of %d destroyed by the unload", n, got.New, got.Causes[event.NATUnload], destroyed(got))
	}
	if n := tr.count(r.R, func(e *event.Event) bool { return e.Cause == event.NATUnload }); n != truth.Flows() {
		t.Errorf("%d told, want %d", n, truth.Flows())
	}
}
