package sandbox

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/ctnl"
)

// landlockReport is what a child could do before and after.
type landlockReport struct {
	Applied       string
	Before, After map[string]string // "ok", "EACCES", ...
}

// scene is what a child looks at: in a mount and a network namespace of its own.
type scene struct {
	dir         string
	bound, free int // processes with namespaces: one that has a file in /run/netns, one that has not
	held        int // descriptor of the namespace of free
}

func (s *scene) path(name string) string { return filepath.Join(s.dir, name) }

// set builds the scene beneath dir.
func (s *scene) set() (end func(), err error) {
	for _, m := range []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error { return unix.Mount("tmpfs", "/run", "tmpfs", 0, "") },
		func() error { return os.MkdirAll("/run/netns", 0o755) },
		func() error { return os.WriteFile("/run/netns/bound", nil, 0o644) },
		func() error { return os.MkdirAll(s.path("write"), 0o755) },
		func() error { return os.MkdirAll(s.path("keep/kept"), 0o755) },
		func() error { return os.WriteFile(s.path("keep/file"), nil, 0o644) },
		func() error { return os.MkdirAll(s.path("sockets"), 0o755) },
		func() error { return os.WriteFile(s.path("given"), nil, 0o644) },
		func() error { return os.WriteFile(s.path("other"), nil, 0o644) },
	} {
		if err := m(); err != nil {
			return nil, err
		}
	}
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	var endBound, endFree func()
	if s.bound, endBound, err = sleeper(attr); err != nil {
		return nil, err
	}
	if s.free, endFree, err = sleeper(attr); err != nil {
		return nil, err
	}
	if err := unix.Mount(nsPath(s.bound), "/run/netns/bound", "", unix.MS_BIND, ""); err != nil {
		return nil, err
	}
	s.held, err = unix.Open(nsPath(s.free), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return func() { endBound(); endFree() }, err
}

func nsPath(pid int) string { return "/proc/" + strconv.Itoa(pid) + "/ns/net" }

// childLandlock tries everything, applies Landlock, and tries it again.
func childLandlock(dir string) (any, error) {
	s := &scene{dir: dir}
	end, err := s.set()
	if err != nil {
		return nil, err
	}
	defer end()
	for _, name := range []string{"sockets/in", "out"} {
		l, err := net.Listen("unix", s.path(name))
		if err != nil {
			return nil, err
		}
		defer l.Close()
	}
	c := newCrew(4)
	r := landlockReport{Before: s.attempts(c)}
	r.Applied, err = Landlock(Options{Read: []string{s.path("given")}, Write: []string{s.path("write")},
		Keep: []string{s.path("keep")}, Sockets: []string{s.path("sockets/in")}, Listen: []uint16{9781}, Connect: []uint16{9090}})
	if err != nil {
		return nil, err
	}
	r.After = s.attempts(c)
	return r, nil
}

// attempts does each thing on every thread that was there before, and wants one answer.
func (s *scene) attempts(c crew) map[string]string {
	out := map[string]string{}
	for name, f := range s.things() {
		got := slices.Compact(c.each(func() error { return errors.New(answer(f())) }))
		out[name] = strings.Join(got, ",")
	}
	return out
}

func answer(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

func (s *scene) things() map[string]func() error {
	return map[string]func() error{
		"read /etc":                        readFile("/etc/passwd"),
		"read /proc":                       readFile("/proc/sys/kernel/osrelease"),
		"read cgroup of another":           readFile("/proc/" + strconv.Itoa(s.free) + "/cgroup"),
		"list /proc":                       func() error { _, err := os.ReadDir("/proc"); return err },
		"read a file that was given":       readFile(s.path("given")),
		"read another file":                readFile(s.path("other")),
		"write another file":               func() error { return os.WriteFile(s.path("other"), nil, 0o644) },
		"write to /proc/sys":               openToWrite("/proc/sys/net/ipv4/ip_default_ttl"),
		"make a file where it is allowed":  func() error { return os.WriteFile(s.path("write/x"+strconv.Itoa(unix.Gettid())), nil, 0o644) },
		"make a directory there":           dirIn(s.path("write")),
		"keep in a directory":              s.keepIn("keep/kept"),
		"keep elsewhere":                   s.keepIn("write"),
		"start a program":                  startProgram,
		"own namespace":                    open("/proc/self/ns/net"),
		"namespace of a thread":            open("/proc/thread-self/ns/net"),
		"namespace with a file":            enter("/run/netns/bound"),
		"namespace by its process":         enter(nsPath(s.free)),
		"link to it":                       func() error { _, err := os.Readlink(nsPath(s.free)); return err },
		"descriptors of its process":       func() error { _, err := os.Readlink("/proc/" + strconv.Itoa(s.free) + "/fd/0"); return err },
		"namespace by a descriptor":        func() error { return unix.Setns(s.held, unix.CLONE_NEWNET) },
		"find namespace with a file":       func() error { return found("bound") },
		"find namespace of a process only": func() error { return found(nsPath(s.free)) },
		"listen where it is allowed":       listenOn(":9781"),
		"listen elsewhere":                 listenOn(":9782"),
		"connect where it is allowed":      connect(9090),
		"connect to DNS":                   connect(53),
		"connect elsewhere":                connect(9091),
		"socket that was given":            dial(s.path("sockets/in")),
		"another socket":                   dial(s.path("out")),
		"bpf":                              createMap,
		"signal a thread":                  func() error { return unix.Tgkill(os.Getpid(), os.Getpid(), unix.SIGURG) },
	}
}

// dirIn makes a directory and removes it.
func dirIn(where string) func() error {
	return func() error {
		dir, err := os.MkdirTemp(where, "d")
		if err != nil {
			return err
		}
		return os.Remove(dir)
	}
}

// keepIn does with a file what the flight recorder does.
func (s *scene) keepIn(where string) func() error {
	return func() error {
		dir := filepath.Join(s.path(where), "k"+strconv.Itoa(unix.Gettid()))
		if where != "write" { // where no directory can be made
			if err := os.Mkdir(dir, 0o755); err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			dir = filepath.Join(dir, "file")
		}
		if err := os.Link(s.path("keep/file"), dir); err != nil {
			return err
		}
		return os.Remove(dir)
	}
}

func readFile(path string) func() error {
	return func() error { _, err := os.ReadFile(path); return err }
}

func open(path string) func() error {
	return func() error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return f.Close()
	}
}

// openToWrite writes nothing.
func openToWrite(path string) func() error {
	return func() error {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return f.Close()
	}
}

func enter(path string) func() error {
	return func() error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
	}
}

func startProgram() error {
	cmd := exec.Command("/proc/self/exe", "-test.list=^$")
	cmd.Env = []string{}
	return cmd.Run()
}

// found looks for a namespace by name or path in what ctsight lists.
func found(what string) error {
	all, err := ctnl.ListNetNS()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(all, func(n ctnl.NS) bool { return n.Name == what || n.Path == what }) {
		return errors.New("not found")
	}
	return nil
}

var onePort sync.Mutex // threads of a crew want the same

func listenOn(addr string) func() error {
	return func() error {
		onePort.Lock()
		defer onePort.Unlock()
		var c net.ListenConfig
		c.SetMultipathTCP(false)
		l, err := c.Listen(context.Background(), "tcp", addr)
		if err != nil {
			return err
		}
		return l.Close()
	}
}

// connect goes nowhere: the loopback of the namespace is down.
func connect(port int) func() error {
	return func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
	}
}

func dial(path string) func() error {
	return func() error {
		c, err := net.Dial("unix", path)
		if err != nil {
			return err
		}
		return c.Close()
	}
}

// What is and is not reachable. The last four of what is refused are the
// price of Landlock: what only a process holds cannot be found any more.
func TestLandlock(t *testing.T) {
	abi, err := ll.LandlockGetABIVersion()
	if err != nil || abi < 1 {
		t.Skip("this kernel has no Landlock")
	}
	if abi < referABI {
		t.Skip("this kernel's Landlock lets nobody link between directories")
	}
	var r landlockReport
	run(t, "landlock "+t.TempDir(), &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}, &r)
	want := map[string]string{}
	for name := range r.Before {
		want[name] = "ok"
	}
	for _, name := range []string{"connect where it is allowed", "connect to DNS", "connect elsewhere"} {
		want[name] = "ENETUNREACH"
	}
	if d := cmp.Diff(want, r.Before); d != "" {
		t.Fatal("before: ", d)
	}
	for name, answer := range map[string]string{
		"read another file":                "EACCES",
		"write another file":               "EACCES",
		"write to /proc/sys":               "EACCES",
		"make a directory there":           "EACCES",
		"keep elsewhere":                   "EXDEV",
		"start a program":                  "EACCES",
		"namespace by its process":         "EACCES",
		"link to it":                       "EACCES",
		"descriptors of its process":       "EACCES",
		"find namespace of a process only": "not found",
	} {
		want[name] = answer
	}
	if abi >= 4 {
		want["listen elsewhere"], want["connect elsewhere"] = "EACCES", "EACCES"
	}
	if abi >= 9 {
		want["another socket"] = "EACCES"
	}
	if d := cmp.Diff(want, r.After); d != "" {
		t.Error("after: ", d)
	}
	if !strings.HasPrefix(r.Applied, "landlock ABI "+strconv.Itoa(abi)+": reads system files and /") {
		t.Error(r.Applied)
	}
	if told := strings.Contains(r.Applied, "; listens on TCP 9781; connects to TCP 9090 53"); told != (abi >= 4) {
		t.Error(r.Applied)
	}
}

func TestLandlockNeedsWhatIsWritten(t *testing.T) {
	for _, o := range []Options{{Write: []string{"/absent/dir"}}, {Keep: []string{"/absent/dir"}}} {
		if _, err := o.rules(); !errors.Is(err, os.ErrNotExist) || !strings.HasSuffix(err.Error(), ": make it before") {
			t.Error(err)
		}
	}
}
