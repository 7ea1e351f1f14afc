package netlab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/event"
)

// netnsDir is where ip-netns(8) keeps its named namespaces.
const netnsDir = "/run/netns"

// NS is a network namespace of the lab. It lives as long as its descriptor or
// its name does, without a process.
type NS struct {
	name  string // under netnsDir; "" when anonymous
	inode uint64

	mu sync.Mutex
	fd int // -1 after close
}

// newNS makes a namespace, with a name under /run/netns unless it is "".
func newNS(name string) (*NS, error) {
	n := &NS{name: name, fd: -1}
	err := onThread(func() (keep bool, err error) {
		old, err := openNS()
		if err != nil {
			return true, err
		}
		defer unix.Close(old)
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			if errors.Is(err, unix.EPERM) {
				err = fmt.Errorf("%w: %w", ErrPrivilege, err)
			}
			return true, fmt.Errorf("make network namespace: %w", err)
		}
		defer func() { keep = unix.Setns(old, unix.CLONE_NEWNET) == nil }()
		if n.fd, err = openNS(); err != nil {
			return true, err
		}
		return true, n.publish()
	})
	if err != nil {
		n.close()
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(n.fd, &st); err != nil {
		n.close()
		return nil, fmt.Errorf("read inode of network namespace: %w", err)
	}
	n.inode = st.Ino
	return n, nil
}

// openNS opens the namespace of the calling thread.
func openNS() (int, error) {
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open network namespace: %w", err)
	}
	return fd, nil
}

// publish mounts the calling thread's namespace under its name, as ip-netns(8) does.
func (n *NS) publish() error {
	if n.name == "" {
		return nil
	}
	path := filepath.Join(netnsDir, n.name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		n.name = "" // not ours to remove
		return fmt.Errorf("name network namespace: %w", err)
	}
	f.Close()
	if err := unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("name network namespace: mount %s: %w", path, err)
	}
	return nil
}

// unpublish removes a name, also one left behind by a process that was killed.
func unpublish(name string) error {
	path := filepath.Join(netnsDir, name)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// lockName makes sure that one process at a time uses the names that begin
// with prefix. The lock is an abstract socket: it dies with the process.
func lockName(prefix string) (unlock func() error, err error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: "@ctsight-netlab/" + prefix, Net: "unix"})
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("lab %q: %w", prefix, ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("lock lab %q: %w", prefix, err)
	}
	return l.Close, nil
}

// Name returns the name ip-netns(8) knows, "" for an anonymous namespace.
func (n *NS) Name() string { return n.name }

// Inode returns the inode number by which the kernel and ctsight know it.
func (n *NS) Inode() event.NetNS { return event.NetNS(n.inode) }

// FD returns the descriptor; it stays the namespace's own.
func (n *NS) FD() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.fd
}

// Do runs fn in the namespace, on a thread of its own. Sockets made there stay
// there wherever they are used; goroutines that fn starts do not.
func (n *NS) Do(fn func() error) error {
	fd := n.FD()
	if fd < 0 {
		return ErrClosed
	}
	return onThread(func() (keep bool, err error) {
		old, err := openNS()
		if err != nil {
			return true, err
		}
		defer unix.Close(old)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return true, fmt.Errorf("enter network namespace: %w", err)
		}
		defer func() { keep = unix.Setns(old, unix.CLONE_NEWNET) == nil }()
		return true, fn()
	})
}

func (n *NS) close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	if n.name != "" {
		errs = append(errs, unpublish(n.name))
		n.name = ""
	}
	if n.fd >= 0 {
		errs = append(errs, unix.Close(n.fd))
		n.fd = -1
	}
	return errors.Join(errs...)
}

// Sysctl reads a sysctl of the namespace, by its name with dots or slashes.
func (n *NS) Sysctl(name string) (value string, err error) {
	err = n.Do(func() error {
		value, err = readSysctl(name)
		return err
	})
	return value, err
}

// setOwn writes a sysctl that belongs to this namespace alone.
func (n *NS) setOwn(name, value string) error {
	return n.Do(func() error { return writeSysctl(name, value) })
}

func sysctlPath(name string) string {
	if !strings.Contains(name, "/") {
		name = strings.ReplaceAll(name, ".", "/")
	}
	return filepath.Join("/proc/sys", name)
}

func readSysctl(name string) (string, error) {
	b, err := os.ReadFile(sysctlPath(name))
	if err != nil {
		return "", fmt.Errorf("read sysctl %s: %w", name, err)
	}
	return strings.TrimSpace(string(b)), nil
}

func writeSysctl(name, value string) error {
	if err := os.WriteFile(sysctlPath(name), []byte(value), 0); err != nil {
		return fmt.Errorf("set sysctl %s=%s: %w", name, value, err)
	}
	return nil
}

// ConntrackCount returns nf_conntrack_count: the entries of this namespace,
// those of packets still on their way included.
func (n *NS) ConntrackCount() (int, error) {
	s, err := n.Sysctl("net.netfilter.nf_conntrack_count")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(s)
}

// LinkStats are the counters of one interface. What a veth sends counts as
// received by its peer as soon as the peer's queue took it, and as dropped by
// the sender when the queue was full.
type LinkStats struct {
	RxPackets, RxDropped, TxPackets, TxDropped uint64
}

// LinkStats reads the counters of an interface.
func (n *NS) LinkStats(ifname string) (s LinkStats, err error) {
	err = n.Do(func() error {
		l, err := netlink.LinkByName(ifname)
		if err != nil {
			return fmt.Errorf("interface %s: %w", ifname, err)
		}
		c := l.Attrs().Statistics
		if c == nil {
			return fmt.Errorf("interface %s: no statistics", ifname)
		}
		s = LinkStats{c.RxPackets, c.RxDropped, c.TxPackets, c.TxDropped}
		return nil
	})
	return s, err
}

// RxPackets returns how many packets an interface has received.
func (n *NS) RxPackets(ifname string) (uint64, error) {
	s, err := n.LinkStats(ifname)
	return s.RxPackets, err
}

// SetLink takes an interface up or down. The kernel forgets neighbours and
// IPv6 addresses of an interface that goes down; they do not come back.
func (n *NS) SetLink(ifname string, up bool) error {
	return n.Do(func() error {
		l, err := netlink.LinkByName(ifname)
		if err != nil {
			return fmt.Errorf("interface %s: %w", ifname, err)
		}
		if !up {
			return netlink.LinkSetDown(l)
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return fmt.Errorf("interface %s: %w", ifname, err)
		}
		return until(patience, func() (bool, error) { // until it has a queue, see settle
			l, err := netlink.LinkByName(ifname)
			return err == nil && l.Attrs().OperState == netlink.OperUp, err
		})
	})
}
