package ctnl

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/event"
)

func TestListNetNS(t *testing.T) {
	own, err := OpenNS(ownPath)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ListNetNS()
	if err != nil {
		t.Fatal(err)
	}
	if len(l) == 0 || l[0].Inode != own.Inode {
		t.Fatalf("the own one is not first: %+v", l)
	}
	seen := map[event.NetNS]bool{}
	for _, n := range l {
		if n.Inode == 0 || n.Path == "" || seen[n.Inode] {
			t.Errorf("%+v", n)
		}
		seen[n.Inode] = true
	}
}

// A process in a namespace of its own is found through /proc.
func TestListNetNSProcess(t *testing.T) {
	ns := testNS(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	var proc *os.Process
	if err := ns.Do(func() error {
		defer r.Close()
		proc, err = os.StartProcess("/bin/cat", []string{"cat"}, &os.ProcAttr{Files: []*os.File{r, null}})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	l, err := ListNetNS()
	w.Close() // ends cat
	_, _ = proc.Wait()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range l {
		if n.Inode == ns.Inode {
			// Gone by now, or used by another process: never entered.
			if _, err := Dial(n); !errors.Is(err, ErrNetNSGone) {
				t.Errorf("dial after the process ended: %v", err)
			}
			return
		}
	}
	t.Errorf("%v is not in %+v", ns.Inode, l)
}

// Names come from a directory that anybody with root may fill with anything.
func TestListNetNSNames(t *testing.T) {
	ns := testNS(t)
	dir := t.TempDir()
	hostile := "a\x1b[31m\nb"
	for _, name := range []string{hostile, "second"} {
		mustBind(t, ns.Path, filepath.Join(dir, name))
	}
	mustBind(t, "/proc/self/ns/uts", filepath.Join(dir, "uts"))
	if err := os.WriteFile(filepath.Join(dir, "left-over"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := nsList{seen: map[event.NetNS]int{}}
	l.add(NS{Inode: 1, Path: ownPath})
	l.addNamed(dir)
	l.addNamed(filepath.Join(dir, "absent"))
	if len(l.ns) != 2 || l.ns[1] != (NS{Inode: ns.Inode, Name: hostile, Path: filepath.Join(dir, hostile)}) {
		t.Errorf("%+v", l.ns)
	}
	l.add(NS{Inode: 1, Name: "own"})
	if l.ns[0] != (NS{Inode: 1, Name: "own", Path: ownPath}) {
		t.Errorf("a name for a known one: %+v", l.ns[0])
	}
}

// mustBind mounts a namespace on a file, as `ip netns add` does.
func mustBind(t *testing.T, from, to string) {
	t.Helper()
	if err := os.WriteFile(to, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(to, unix.MNT_DETACH) })
}

func TestOpenNS(t *testing.T) {
	for path, want := range map[string]error{
		"/proc/self/ns/uts": ErrNotNetNS,
		"/dev/null":         ErrNotNetNS,
		"/proc/self/ns/nix": ErrNetNSGone,
	} {
		if _, err := OpenNS(path); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
	other := NS{Inode: 1, Path: ownPath}
	if err := other.Do(func() error { return nil }); !errors.Is(err, ErrNetNSGone) {
		t.Errorf("another inode: %v", err)
	}
	if _, err := Dial(other); !errors.Is(err, ErrNetNSGone) && !errors.Is(err, ErrNotLoaded) {
		t.Errorf("dial another inode: %v", err)
	}
}

func TestDoOwn(t *testing.T) {
	own, err := OpenNS(ownPath)
	if err != nil {
		t.Fatal(err)
	}
	want := errors.New("own error")
	for _, ns := range []NS{{}, own} {
		if err := ns.Do(func() error { return want }); !errors.Is(err, want) {
			t.Errorf("%+v: %v", ns, err)
		}
	}
}

func TestDo(t *testing.T) {
	ns := testNS(t)
	own, err := linkInode(threadPath)
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		var in event.NetNS
		if err := ns.Do(func() error {
			in, err = linkInode(threadPath)
			return err
		}); err != nil || in != ns.Inode {
			t.Fatalf("inside %v, want %v: %v", in, ns.Inode, err)
		}
		if out, err := linkInode(threadPath); err != nil || out != own {
			t.Fatalf("outside %v, want %v: %v", out, own, err)
		}
	}
	// A function that never returns does not hang the caller.
	if err := ns.Do(func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("no error after Goexit")
	}
}

func TestEventsSysctl(t *testing.T) {
	ns := testNS(t)
	v, err := ns.EventsSysctl()
	if err != nil && !errors.Is(err, ErrNoEvents) {
		t.Fatal(err)
	}
	if v < 0 || v > 2 {
		t.Errorf("nf_conntrack_events is %d", v)
	}
}

// A namespace that only a descriptor of this process holds.
func TestListAllNetNS(t *testing.T) {
	needRoot(t)
	ns := testNS(t)
	has := func(list func() ([]NS, error)) bool {
		all, err := list()
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range all {
			if n.Inode == ns.Inode {
				return n.Do(func() error { return nil }) == nil
			}
		}
		return false
	}
	// It may be found by the thread that made it, which is about to end.
	for end := time.Now().Add(10 * time.Second); !has(ListAllNetNS); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("namespace %d is not found by its descriptor", ns.Inode)
		}
	}
}
