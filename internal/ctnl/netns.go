package ctnl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/event"
)

// NS is a network namespace and a path that leads to it. The zero NS is the
// one of the calling thread.
type NS struct {
	Inode event.NetNS
	Name  string // name under /run/netns, raw; "" when it has none
	Path  string
}

const (
	ownPath    = "/proc/self/ns/net"
	threadPath = "/proc/thread-self/ns/net"
	namedDir   = "/run/netns"
)

// ListNetNS lists the network namespaces of the machine, each once, the own
// one first: those named in /run/netns and those of a process we may look at.
// A namespace held by nothing but a thread, a descriptor or a bind mount
// elsewhere is not found.
func ListNetNS() ([]NS, error) {
	own, err := linkInode(ownPath)
	if err != nil {
		return nil, fmt.Errorf("own network namespace: %w", err)
	}
	l := nsList{seen: map[event.NetNS]int{}}
	l.add(NS{Inode: own, Path: ownPath})
	l.addNamed(namedDir)
	for _, p := range numbers("/proc") {
		l.follow(p + "/ns/net")
	}
	return l.ns, nil
}

// numbers are the entries of a directory of /proc that have a number for a name; of
// one that is gone or not ours to see there are none.
func numbers(dir string) (out []string) {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	for _, n := range names {
		if n[0] >= '0' && n[0] <= '9' {
			out = append(out, dir+"/"+n)
		}
	}
	return out
}

// ListAllNetNS also finds namespaces that are held by nothing but a thread, a
// descriptor or a bind mount. It reads the links of every descriptor of the
// machine, some microseconds each, so it is not for every second.
func ListAllNetNS() ([]NS, error) {
	all, err := ListNetNS()
	if err != nil {
		return nil, err
	}
	l := nsList{ns: all, seen: map[event.NetNS]int{}}
	for i, n := range all {
		l.seen[n.Inode] = i
	}
	for _, p := range numbers("/proc") {
		for _, t := range numbers(p + "/task") {
			l.follow(t + "/ns/net")
		}
		for _, fd := range numbers(p + "/fd") {
			l.follow(fd)
		}
	}
	for _, p := range nsMounts() {
		if n, err := OpenNS(p); err == nil {
			l.add(n)
		}
	}
	return l.ns, nil
}

// nsMounts are the places where namespaces of any kind are bind-mounted.
func nsMounts() []string {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) > 4 && strings.Contains(line, " - nsfs ") && strings.HasPrefix(f[3], "net:[") {
			out = append(out, f[4])
		}
	}
	return out
}

// nsList collects namespaces without doubles.
type nsList struct {
	ns   []NS
	seen map[event.NetNS]int // index in ns
}

// add keeps the path it has, and takes the name where there was none.
func (l *nsList) add(n NS) {
	i, ok := l.seen[n.Inode]
	if !ok {
		l.seen[n.Inode] = len(l.ns)
		l.ns = append(l.ns, n)
		return
	}
	if l.ns[i].Name == "" {
		l.ns[i].Name = n.Name
	}
}

// follow adds what a link leads to, if that is a namespace and can be seen.
func (l *nsList) follow(path string) {
	if ino, err := linkInode(path); err == nil {
		l.add(NS{Inode: ino, Path: path})
	}
}

// addNamed adds what `ip netns` made. The directory may be absent and may
// hold anything: files left over after an unmount, other kinds of namespaces.
func (l *nsList) addNamed(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		n, err := OpenNS(filepath.Join(dir, e.Name()))
		if err != nil {
			continue
		}
		n.Name = e.Name()
		l.add(n)
	}
}

// linkInode reads the inode out of a link like net:[4026531840], which works
// without opening the namespace.
func linkInode(path string) (event.NetNS, error) {
	s, err := os.Readlink(path)
	if err != nil {
		return 0, err
	}
	num, ok := strings.CutPrefix(s, "net:[")
	num, ok2 := strings.CutSuffix(num, "]")
	ino, err := strconv.ParseUint(num, 10, 32)
	if !ok || !ok2 || err != nil {
		return 0, fmt.Errorf("%s: %w", path, ErrNotNetNS)
	}
	return event.NetNS(ino), nil
}

// OpenNS looks at a path and returns the network namespace it leads to. It
// holds nothing open.
func OpenNS(path string) (NS, error) {
	n := NS{Path: path}
	f, err := n.open()
	if err != nil {
		return NS{}, err
	}
	defer f.Close()
	n.Inode, err = inode(f)
	return n, err
}

// open opens the namespace and makes sure that it is the one that was listed:
// process numbers and names are used again.
func (n NS) open() (*os.File, error) {
	var fs unix.Statfs_t
	// Look before opening: a pipe would block and a device might act.
	if err := unix.Statfs(n.Path, &fs); err != nil {
		return nil, n.fail(err)
	}
	if int64(fs.Type) != unix.NSFS_MAGIC {
		return nil, fmt.Errorf("%s: %w", n.Path, ErrNotNetNS)
	}
	f, err := os.Open(n.Path)
	if err != nil {
		return nil, n.fail(err)
	}
	if err := n.check(f); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s: %w", n.Path, err)
	}
	return f, nil
}

func (n NS) check(f *os.File) error {
	typ, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || typ != unix.CLONE_NEWNET {
		return ErrNotNetNS
	}
	ino, err := inode(f)
	if err == nil && n.Inode != 0 && ino != n.Inode {
		return ErrNetNSGone
	}
	return err
}

func (n NS) fail(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: %w (%w)", n.Path, ErrNetNSGone, err)
	}
	return fmt.Errorf("%s: %w", n.Path, sentinel(err))
}

func inode(f *os.File) (event.NetNS, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	return event.NetNS(st.Ino), nil
}

// enter returns the open namespace for setns, or nil when the calling thread
// is in it: staying needs no privilege.
func (n NS) enter() (*os.File, error) {
	if n == (NS{}) {
		return nil, nil
	}
	if ino, err := linkInode(threadPath); err == nil && ino == n.Inode {
		return nil, nil
	}
	return n.open()
}

// Do runs fn on an operating system thread of its own inside the namespace
// and returns fn's error. Goroutines that fn starts run outside of it. A
// thread that cannot go back is thrown away.
func (n NS) Do(fn func() error) error {
	f, err := n.enter()
	if err != nil {
		return err
	}
	if f == nil {
		return fn()
	}
	defer f.Close()
	done := make(chan error, 1)
	go func() {
		err := errors.New("function inside the network namespace did not return")
		defer func() { done <- err }() // also after runtime.Goexit in fn
		err = inNS(f, fn)
	}()
	return <-done
}

// inNS ends with the thread locked, and so discarded with its goroutine,
// unless it is back where it was.
func inNS(f *os.File, fn func() error) error {
	runtime.LockOSThread()
	home, err := os.Open(threadPath)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter %s: %w", f.Name(), sentinel(err))
	}
	err = fn()
	if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return err
}

// EventsSysctl reads nf_conntrack_events of the namespace: 0 no events at
// all, 1 every entry tells, 2 (5.19 and later) only entries made while
// somebody listens do. It is never written by ctsight.
func (n NS) EventsSysctl() (int, error) {
	v, err := n.sysctl("nf_conntrack_events")
	if errors.Is(err, os.ErrNotExist) {
		if _, err := n.sysctl("nf_conntrack_count"); err == nil {
			return 0, ErrNoEvents
		}
		return 0, ErrNotLoaded
	}
	return int(v), err
}

// Sysctls reads what is set of net.netfilter.nf_conntrack_* in the namespace, by the
// name of the sysctl, the present count left out. What cannot be read is left out too.
func (n NS) Sysctls() map[string]uint32 {
	out := map[string]uint32{}
	_ = n.Do(func() error {
		files, err := os.ReadDir("/proc/sys/net/netfilter")
		for _, f := range files {
			if !strings.HasPrefix(f.Name(), "nf_conntrack_") || f.Name() == "nf_conntrack_count" {
				continue
			}
			if v, err := ReadSysctl(f.Name()); err == nil {
				out[f.Name()] = v
			}
		}
		return err
	})
	return out
}

// Timeouts reads the timeouts of entries of the namespace in seconds, by the name
// of their sysctl after "nf_conntrack_": udp_timeout, tcp_timeout_syn_sent and so
// on. What cannot be read is left out.
func (n NS) Timeouts() map[string]int {
	out := map[string]int{}
	for name, v := range n.Sysctls() {
		if name = strings.TrimPrefix(name, "nf_conntrack_"); strings.Contains(name, "timeout") {
			out[name] = int(v)
		}
	}
	return out
}

// sysctl reads one number of net.netfilter as it is inside the namespace.
func (n NS) sysctl(name string) (v uint32, err error) {
	err = n.Do(func() error {
		v, err = ReadSysctl(name)
		return err
	})
	return v, err
}

// ReadSysctl reads one number of net.netfilter as it is in the namespace of the calling
// thread.
func ReadSysctl(name string) (uint32, error) {
	b, err := os.ReadFile("/proc/sys/net/netfilter/" + name)
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("sysctl %s: %w", name, err)
	}
	return uint32(v), nil
}
