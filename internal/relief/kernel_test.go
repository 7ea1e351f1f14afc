package relief

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// namespace is a fresh one, and how relief knows it.
func namespace(t *testing.T) (*netlab.NS, Place) {
	t.Helper()
	lab.NeedRoot(t)
	if lab.InVM() {
		trace.LoadModules()
	}
	ns, err := netlab.NewNS()
	must(t, err)
	t.Cleanup(func() { _ = ns.Close() })
	if _, err := ns.Sysctl("net.netfilter." + udp); errors.Is(err, os.ErrNotExist) {
		t.Skip("needs nf_conntrack: modprobe nf_conntrack")
	}
	return ns, placeOf(t, ns)
}

func placeOf(t *testing.T, ns *netlab.NS) Place {
	t.Helper()
	all, err := ctnl.ListAllNetNS()
	must(t, err)
	i := slices.IndexFunc(all, func(n ctnl.NS) bool { return n.Inode == ns.Inode() })
	if i < 0 {
		t.Fatal("the namespace is not found")
	}
	p, err := PlaceOf(all[i])
	must(t, err)
	return p
}

func realBook(t *testing.T) *Book {
	t.Helper()
	h, err := ThisHost()
	must(t, err)
	return &Book{Disk: Dir(filepath.Join(t.TempDir(), "relief")), Kernel: Proc{Sees: SeesAll()}, Host: h}
}

// On this kernel, in a namespace of its own: there, back, and nowhere else. The oracle
// is sysctl as the namespace has it.
func TestKernel(t *testing.T) {
	ns, place := namespace(t)
	other, _ := namespace(t)
	value := func(n *netlab.NS, name string) string {
		t.Helper()
		v, err := n.Sysctl("net.netfilter." + name)
		must(t, err)
		return v
	}
	b := realBook(t)
	found := value(ns, udp)
	r := Request{Asks: []Ask{{udp, 7}, {prefix + "tcp_timeout_established", 86400}}, Place: place, For: time.Hour, Reason: "test", Share: 0.25}
	_, err := b.Set(r)
	must(t, err)
	if value(ns, udp) != "7" || value(ns, prefix+"tcp_timeout_established") != "86400" || value(other, udp) != found {
		t.Errorf("%s %s, the other %s", value(ns, udp), value(ns, prefix+"tcp_timeout_established"), value(other, udp))
	}
	l, err := b.List()
	must(t, err)
	if len(l) != 2 || *l[0].Present != l[0].Set || l[0].Overdue {
		t.Errorf("%+v", l)
	}
	now := b.Host.Now
	b.Host.Now = func() time.Time { return now().Add(2 * time.Hour) }
	closed, err := b.Expire()
	must(t, err)
	if len(closed) != 2 || value(ns, udp) != found {
		t.Errorf("%d closed, %s", len(closed), value(ns, udp))
	}

	// The limit cannot be written in there, which is known before anything is.
	r.Asks = []Ask{{udp, 7}, {limitName, 1 << 20}}
	b.Host.Now = now
	if _, err := b.Set(r); !errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), "on the host without --netns") || value(ns, udp) != found {
		t.Errorf("%v, %s", err, value(ns, udp))
	}
	// A value that the kernel does not take: what was written before it is taken back.
	b.Kernel = clumsy{b.Kernel}
	r.Asks = []Ask{{udp, 7}, {prefix + "tcp_loose", 0}}
	if _, err := b.Set(r); !errors.Is(err, syscall.EINVAL) || value(ns, udp) != found {
		t.Errorf("%v, %s", err, value(ns, udp))
	}
	if l, err := b.List(); err != nil || slices.ContainsFunc(l, func(r agg.Relief) bool { return r.Open }) {
		t.Errorf("%v %+v", err, l)
	}
}

// clumsy writes what no kernel takes for a flag.
type clumsy struct{ Kernel }

func (c clumsy) Write(p Place, sysctl string, v uint64) error {
	if sysctl == prefix+"tcp_loose" && v == 0 {
		v = 1 << 31
	}
	return c.Kernel.Write(p, sysctl, v)
}

// A namespace that has gone, or whose number was given to another, is not written to.
func TestKernelGone(t *testing.T) {
	ns, place := namespace(t)
	if place.Cookie == 0 && lab.KernelName() != "5.10" {
		t.Error("no cookie")
	}
	k := Proc{Sees: SeesAll()}
	if place.Cookie != 0 {
		wrong := place
		wrong.Cookie++
		if err := k.Write(wrong, udp, 9); !errors.Is(err, ErrGone) {
			t.Error(err)
		}
	}
	must(t, ns.Close())
	if !SeesAll() {
		t.Skip("not root on the host, with a look into every process: what is not found may be there")
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, _, err := k.Read(place, udp)
		if errors.Is(err, ErrGone) {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	if _, _, err := (Proc{Sees: false}).Read(place, udp); err == nil || vanished(err) {
		t.Errorf("who does not see all says it is gone: %v", err)
	}
}

// A real directory: what others may write, links and pipes are refused, and two do not
// come in each other's way.
func TestDir(t *testing.T) {
	d := Dir(filepath.Join(t.TempDir(), "a", "relief"))
	if _, err := d.Lock(); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	must(t, d.Make())
	must(t, d.Create("x", []byte("1")))
	must(t, d.Rename("x", "y.json"))
	must(t, d.Sync())
	if b, err := d.Read("y.json", 10); err != nil || string(b) != "1" {
		t.Errorf("%q %v", b, err)
	}
	must(t, d.Create("long", make([]byte, 11)))
	must(t, os.Symlink("/etc/passwd", d.path("link")))
	must(t, unix.Mkfifo(d.path("pipe"), 0o600))
	must(t, d.Create("open", nil))
	must(t, os.Chmod(d.path("open"), 0o666))
	must(t, os.Mkdir(d.path("dir"), 0o700))
	for _, name := range []string{"long", "link", "pipe", "open", "dir", "none"} {
		if b, err := d.Read(name, 10); err == nil {
			t.Errorf("%s: %q", name, b)
		}
	}
	if os.Geteuid() == 0 {
		must(t, d.Create("theirs", nil))
		must(t, os.Chown(d.path("theirs"), 65534, 65534))
		if _, err := d.Read("theirs", 10); err == nil {
			t.Error("a file of somebody else's was read")
		}
	}
	unlock, err := d.Lock()
	must(t, err)
	second := make(chan error)
	go func() {
		unlock, err := d.Lock()
		second <- err
		if err == nil {
			_ = unlock()
		}
	}()
	select {
	case <-second:
		t.Error("two had the lock")
	case <-time.After(50 * time.Millisecond):
	}
	must(t, unlock())
	must(t, <-second)
	must(t, os.Chmod(string(d), 0o777))
	if _, err := d.Lock(); err == nil || !strings.Contains(err.Error(), "chmod go-w") {
		t.Error(err)
	}
}

// A disk that is really full, on a small tmpfs: the change is not made, and there is
// nothing to take back.
func TestDirFull(t *testing.T) {
	ns, place := namespace(t)
	dir := t.TempDir()
	if err := unix.Mount("relief", dir, "tmpfs", 0, "size=16k,mode=0755"); err != nil {
		t.Skip("no tmpfs can be mounted here: ", err)
	}
	defer unix.Unmount(dir, 0)
	b := realBook(t)
	b.Disk = Dir(dir)
	fill, err := os.Create(filepath.Join(dir, "fill"))
	must(t, err)
	for err == nil {
		_, err = fill.Write(make([]byte, 4096))
	}
	must(t, fill.Close())
	found, err := ns.Sysctl("net.netfilter." + udp)
	must(t, err)
	r := Request{Asks: []Ask{{udp, 7}}, Place: place, For: time.Hour, Reason: "test", Share: 0.25}
	if _, err := b.Set(r); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
	if v, _ := ns.Sysctl("net.netfilter." + udp); v != found {
		t.Errorf("it is %s", v)
	}
	if l, err := b.List(); err != nil || len(l) != 0 {
		t.Errorf("%v %+v", err, l)
	}
	must(t, os.Remove(fill.Name()))
	_, err = b.Set(r)
	must(t, err)
}

// systemd is asked for a timer of its own, that tries again; without it nothing runs.
func TestTimer(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "systemd-run")
	must(t, os.WriteFile(program, []byte("#!/bin/sh\nprintf '%s\\n' \"$@\" >"+dir+"/args\n"), 0o755))
	must(t, timer(context.Background(), program, "01234567", 2*time.Hour+2*time.Second, "/usr/bin/ctsight", "relief", "expire", "--dir", "/x"))
	got, err := os.ReadFile(dir + "/args")
	must(t, err)
	for _, want := range []string{"--unit=ctsight-relief-01234567-", "--on-active=7202s\n", "--property=Restart=on-failure\n", "--\n/usr/bin/ctsight\nrelief\nexpire\n--dir\n/x\n"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	must(t, os.WriteFile(program, []byte("#!/bin/sh\necho Failed to connect to bus >&2; exit 1\n"), 0o755))
	if err := timer(context.Background(), program, "01234567", time.Hour, "x"); err == nil || !strings.Contains(err.Error(), "Failed to connect to bus") {
		t.Error(err)
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		if err := Timer(context.Background(), "01234567", time.Hour, "x"); !errors.Is(err, ErrNoSystemd) {
			t.Error(err)
		}
	}
}
