package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// nobody is another user than root.
const nobody = 65534

// dropReport is what a child saw after Drop.
type dropReport struct {
	Bound      string // before
	Dropped    Dropped
	Text       string
	Threads    []map[string]string
	Unreadable []string
	BPF, SetNS string // errors
}

// childDrop drops while other threads run; arg is a file to read afterwards.
func childDrop(arg string) (any, error) {
	c := newCrew(8)
	c.each(func() error { return nil })
	before, err := statuses()
	if err != nil {
		return nil, err
	}
	ns, nsErr := otherNetNS()
	r := dropReport{Bound: before[0]["CapBnd"]}
	if r.Dropped, err = Drop(Needs()); err != nil {
		return nil, err
	}
	r.Text = r.Dropped.String()
	after := newCrew(2) // these begin with what is left
	after.each(func() error { return nil })
	if r.Threads, err = statuses(); err != nil {
		return nil, err
	}
	r.Unreadable = Unreadable([]string{arg, "/etc/passwd", "/absent"})
	r.BPF = fmt.Sprint(createMap())
	if nsErr == nil {
		r.SetNS = strings.Join(slices.Compact(c.each(func() error { return unix.Setns(ns, unix.CLONE_NEWNET) })), ",")
	}
	return r, nil
}

// otherNetNS makes a network namespace that nothing but the descriptor holds.
func otherNetNS() (int, error) {
	type made struct {
		fd  int
		err error
	}
	ch := make(chan made)
	go func() {
		runtime.LockOSThread() // and the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			ch <- made{-1, err}
			return
		}
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		ch <- made{fd, err}
	}()
	m := <-ch
	return m.fd, m.err
}

// createMap asks the kernel for an array of one element.
func createMap() error {
	attr := struct{ kind, key, value, max, flags uint32 }{2, 4, 4, 1, 0}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, 0, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return errno
	}
	return unix.Close(int(fd))
}

func mask(t *testing.T, names ...string) string {
	t.Helper()
	var m uint64
	for _, n := range names {
		v, err := cap.FromName(n)
		if err != nil {
			t.Fatal(err)
		}
		m |= 1 << v
	}
	return fmt.Sprintf("%016x", m)
}

func names(needs []Need) (out []string) {
	for _, n := range needs {
		out = append(out, n.Name)
	}
	return out
}

func TestDropAsRoot(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(file, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	var r dropReport
	run(t, "drop "+file, nil, &r)
	all := names(Needs())
	if d := cmp.Diff(all, append(names(r.Dropped.Kept), names(r.Dropped.Missing)...)); d != "" {
		t.Skipf("this machine's root has not all capabilities: %s", d)
	}
	keep := mask(t, all...)
	none := fmt.Sprintf("%016x", 0)
	want := map[string]string{"CapInh": none, "CapPrm": keep, "CapEff": keep, "CapBnd": keep, "CapAmb": none, "NoNewPrivs": "1"}
	checkThreads(t, r, want)
	if !r.Dropped.Bounding || !slices.Contains(r.Dropped.Dropped, "cap_setpcap") || !slices.Contains(r.Dropped.Dropped, "cap_dac_override") {
		t.Errorf("%+v", r.Dropped)
	}
	if d := cmp.Diff([]string{file}, r.Unreadable); d != "" {
		t.Error(d)
	}
	if r.BPF != "<nil>" || r.SetNS != "" {
		t.Errorf("bpf %s, setns %q", r.BPF, r.SetNS)
	}
	if !strings.HasPrefix(r.Text, "kept: cap_bpf (read BPF maps, attach again), ") || !strings.Contains(r.Text, "; dropped: cap_chown, ") {
		t.Error(r.Text)
	}
}

// checkThreads wants the same of all threads, the many of before and the new ones.
func checkThreads(t *testing.T, r dropReport, want map[string]string) {
	t.Helper()
	if len(r.Threads) < 10 {
		t.Errorf("only %d threads", len(r.Threads))
	}
	for _, th := range r.Threads {
		if d := cmp.Diff(want, th); d != "" {
			t.Fatal(d)
		}
	}
}

// As systemd starts it: a user with ambient capabilities, without CAP_SETPCAP.
func TestDropAsUser(t *testing.T) {
	ambient := []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_NET_RAW}
	var r dropReport
	run(t, "drop /root/absent", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, AmbientCaps: ambient}, &r)
	keep, none := mask(t, "cap_net_admin", "cap_sys_admin"), mask(t)
	checkThreads(t, r, map[string]string{"CapInh": none, "CapPrm": keep, "CapEff": keep, "CapBnd": r.Bound, "CapAmb": none, "NoNewPrivs": "1"})
	if d := cmp.Diff([]string{"cap_net_raw"}, r.Dropped.Dropped); d != "" || r.Dropped.Bounding {
		t.Error(d, r.Dropped.Bounding)
	}
	if d := cmp.Diff([]string{"cap_bpf", "cap_perfmon", "cap_syslog", "cap_sys_ptrace", "cap_sys_nice"}, names(r.Dropped.Missing)); d != "" {
		t.Error(d)
	}
	if !strings.Contains(r.Text, "; was never there: cap_bpf (") || !strings.HasSuffix(r.Text, "; bounding set as it was, for want of cap_setpcap") {
		t.Error(r.Text)
	}
	if r.SetNS != "" {
		t.Error(r.SetNS)
	}
}

// Nothing to drop, which is no error.
func TestDropAsNobody(t *testing.T) {
	var r dropReport
	run(t, "drop /root/absent", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}, &r)
	none := mask(t)
	checkThreads(t, r, map[string]string{"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": r.Bound, "CapAmb": none, "NoNewPrivs": "1"})
	if len(r.Dropped.Kept) != 0 || len(r.Dropped.Dropped) != 0 || !strings.HasPrefix(r.Text, "kept: none; dropped: none; was never there: ") {
		t.Error(r.Text)
	}
}

func TestDropUnknown(t *testing.T) {
	if _, _, err := choose([]Need{{Name: "cap_everything"}}); err == nil {
		t.Error("taken")
	}
}
