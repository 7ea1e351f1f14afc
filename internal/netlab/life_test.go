package netlab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// remains is what a lab could leave behind: open descriptors, threads in
// foreign namespaces, names, mounts.
func remains(tb testing.TB) string {
	tb.Helper()
	var out []string
	fds, err := os.ReadDir("/proc/self/fd")
	must(tb, err)
	for _, f := range fds {
		l, err := os.Readlink("/proc/self/fd/" + f.Name())
		if err == nil && !strings.Contains(l, "anon_inode") && !strings.HasPrefix(l, "/proc/self") && !strings.HasPrefix(l, fmt.Sprintf("/proc/%d/fd", os.Getpid())) {
			out = append(out, "fd "+l)
		}
	}
	home, err := os.Readlink("/proc/self/ns/net")
	must(tb, err)
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	must(tb, err)
	for _, t := range tasks {
		if l, err := os.Readlink(t); err == nil && l != home {
			out = append(out, "thread in "+l)
		}
	}
	names, err := filepath.Glob(netnsDir + "/" + ownName() + "*")
	must(tb, err)
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(tb, err)
	out = append(append(out, names...), fmt.Sprint(strings.Count(string(mounts), ownName()), " mounts"))
	return strings.Join(out, "\n")
}

// ownName is a name that no other run of these tests uses.
func ownName() string { return fmt.Sprintf("ctsight-netlab-%d", os.Getpid()) }

func TestNothingRemains(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	before, goroutines := remains(t), runtime.NumGoroutine()
	for _, o := range []Options{{}, {Name: ownName()}} {
		r, err := NewRouter(o)
		must(t, err)
		f := Flows{Proto: 17, Src: OneAddr(ClientV4), Dst: OneAddr(Sink(0)), SPorts: Ports{1, 500}, DPorts: OnePort(9)}
		if _, err := r.SendParallel(t.Context(), SendOptions{}, f, f); err != nil {
			t.Error(err)
		}
		s, err := r.ServeTCP(netip.AddrPortFrom(ServerV4, 80))
		must(t, err)
		if c, err := r.ConnectTCP(t.Context(), ConnectOptions{N: 5, Dst: s.Addr()}); err != nil || c.OK != 5 {
			t.Error(c, err)
		}
		must(t, r.Close())
		must(t, r.Close())
		if err := r.A.Do(func() error { return nil }); !errors.Is(err, ErrClosed) {
			t.Errorf("use after close: %v", err)
		}
		if _, err := r.SendFlows(t.Context(), f, SendOptions{}); !errors.Is(err, ErrClosed) {
			t.Errorf("send after close: %v", err)
		}
		if err := r.Drain(); !errors.Is(err, ErrClosed) {
			t.Errorf("drain after close: %v", err)
		}
	}
	if after := remains(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines, %d before", n, goroutines)
	}
}

func TestNames(t *testing.T) {
	name := ownName()
	r := lab(t, Options{Name: name})
	for ns, role := range map[*NS]string{r.A: "client", r.R: "router", r.B: "server"} {
		var st unix.Stat_t
		must(t, unix.Stat(filepath.Join(netnsDir, name+"-"+role), &st))
		if st.Ino != uint64(ns.Inode()) || ns.Name() != name+"-"+role {
			t.Errorf("%s: inode %d under its name, %d by itself", ns.Name(), st.Ino, ns.Inode())
		}
		must(t, ns.Do(func() error {
			l, err := os.Readlink("/proc/thread-self/ns/net")
			if want := fmt.Sprintf("net:[%d]", ns.Inode()); l != want {
				t.Errorf("inside is %s, want %s", l, want)
			}
			return err
		}))
	}
	if _, err := NewRouter(Options{Name: name}); !errors.Is(err, ErrInUse) {
		t.Errorf("second lab of the same name: %v, want %v", err, ErrInUse)
	}
}

// What a killed process leaves is the mount and the file.
func TestLeftOverNames(t *testing.T) {
	name := ownName()
	first := lab(t, Options{Name: name})
	must(t, unix.Close(first.R.fd))
	first.R.fd, first.R.name = -1, "" // forget it without removing it
	must(t, first.Close())
	if _, err := os.Stat(filepath.Join(netnsDir, name+"-router")); err != nil {
		t.Fatalf("nothing is left over: %v", err)
	}
	second := lab(t, Options{Name: name})
	if _, err := second.R.ConntrackCount(); err != nil {
		t.Error(err)
	}
}

func TestFailureLeavesNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	name := ownName()
	must(t, os.MkdirAll(filepath.Join(netnsDir, name+"-server", "x"), 0o755)) // cannot be removed as a name
	t.Cleanup(func() {
		os.RemoveAll(filepath.Join(netnsDir, name+"-server"))
		os.Remove(netnsDir) // if it was not there before
	})
	before := remains(t)
	if _, err := NewRouter(Options{Name: name}); err == nil {
		t.Fatal("no error")
	}
	if after := remains(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func TestTwoLabs(t *testing.T) {
	a, b := lab(t, Options{}), lab(t, Options{})
	if a.R.Inode() == b.R.Inode() || a.R.Inode() == 0 {
		t.Errorf("inodes %d and %d", a.R.Inode(), b.R.Inode())
	}
	_, err := a.SendPackets(SendOptions{}, EchoRequest(ClientV4, ServerV4, 1, 1))
	must(t, err)
	if x, y := entries(t, a.R), entries(t, b.R); x != 1 || y != 0 {
		t.Errorf("%d and %d entries, want 1 and 0", x, y)
	}
}

func TestSetSysctlIsRestored(t *testing.T) {
	r := lab(t, Options{})
	const name = "net.netfilter.nf_conntrack_udp_timeout"
	old, err := r.R.Sysctl(name)
	must(t, err)
	must(t, r.SetSysctl(r.R, name, "7"))
	must(t, r.SetSysctl(r.R, name, "8"))
	if v, err := r.R.Sysctl(name); err != nil || v != "8" {
		t.Errorf("%s is %s (%v), want 8", name, v, err)
	}
	// Close runs these in reverse, before it closes the namespace.
	for _, fn := range []func() error{r.undo[len(r.undo)-1], r.undo[len(r.undo)-2]} {
		must(t, fn())
	}
	if v, err := r.R.Sysctl(name); err != nil || v != old {
		t.Errorf("%s is %s (%v), want %s again", name, v, err, old)
	}
}

func TestLinkDownAndUp(t *testing.T) {
	r := lab(t, Options{})
	must(t, r.B.SetLink("b0", false))
	must(t, r.B.SetLink("b0", true))
	start := time.Now()
	must(t, r.Drain())
	if d := time.Since(start); d > time.Second {
		t.Errorf("wire came back after %v", d)
	}
}
