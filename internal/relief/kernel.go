package relief

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/ctnl"
)

// Kernel reads and writes sysctls of net.netfilter in a network namespace.
type Kernel interface {
	// Read returns a value and whether it may be written there.
	Read(p Place, sysctl string) (v uint64, writable bool, err error)
	Write(p Place, sysctl string, v uint64) error
	// Fullest is how many entries the table with the most has.
	Fullest() (uint64, error)
}

// ErrGone says that a network namespace is not there any more, and its values with it.
var ErrGone = errors.New("the network namespace is gone")

// Proc is the Kernel of this machine. With Sees false a namespace that is not found may
// still be there.
type Proc struct{ Sees bool }

// initialPID is the inode of the initial PID namespace, PROC_PID_INIT_INO of
// include/linux/proc_ns.h.
const initialPID = "pid:[4026531836]"

// SeesAll says whether this process finds every network namespace, however it is held:
// root on the host, and not under Landlock.
func SeesAll() bool {
	ns, err := os.Readlink("/proc/self/ns/pid")
	_, first := os.Readlink("/proc/1/ns/net")
	return err == nil && first == nil && ns == initialPID && os.Geteuid() == 0
}

// sysctls are those of the namespace of the calling thread.
const sysctls = "/proc/sys/net/netfilter/"

// Read implements Kernel.
func (k Proc) Read(p Place, sysctl string) (v uint64, writable bool, err error) {
	err = k.do(p, func() error {
		st, err := os.Stat(sysctls + sysctl)
		if err != nil {
			return err
		}
		writable = st.Mode().Perm()&0o200 != 0
		n, err := ctnl.ReadSysctl(sysctl)
		v = uint64(n)
		return err
	})
	return v, writable, err
}

// Write implements Kernel.
func (k Proc) Write(p Place, sysctl string, v uint64) error {
	return k.do(p, func() error {
		f, err := os.OpenFile(sysctls+sysctl, os.O_WRONLY, 0)
		if errors.Is(err, unix.EROFS) {
			return fmt.Errorf("%w: sysctls may not be written from in here, a container or a sandbox: run it on the host", err)
		}
		if err != nil {
			return err
		}
		_, err = f.WriteString(strconv.FormatUint(v, 10))
		return errors.Join(err, f.Close())
	})
}

// Fullest implements Kernel.
func (k Proc) Fullest() (most uint64, err error) {
	all, err := ctnl.ListAllNetNS()
	if err != nil {
		return 0, err
	}
	for i, ns := range all {
		err := ns.Do(func() error {
			n, err := ctnl.ReadSysctl(prefix + "count")
			most = max(most, uint64(n))
			return err
		})
		if err != nil && i == 0 { // others may be gone
			return 0, err
		}
	}
	return most, nil
}

// do runs fn inside the namespace, if it is the very one.
func (k Proc) do(p Place, fn func() error) error {
	inside := func() error {
		if c := cookie(); p.Cookie != 0 && c != 0 && c != p.Cookie {
			return ErrGone // its number was given to another
		}
		err := fn()
		if _, none := os.Stat("/proc/sys/net"); errors.Is(err, os.ErrNotExist) && none != nil {
			return errors.New("no /proc/sys/net here: run it on the host")
		}
		return err
	}
	var err error
	for range 3 { // the process that led there may have ended, and others lead there too
		ns, ferr := k.find(p)
		if ferr != nil {
			return ferr
		}
		if err = ns.Do(inside); !errors.Is(err, ctnl.ErrNetNSGone) {
			return err
		}
	}
	return fmt.Errorf("enter network namespace %s: %s", p.NetNS, err.Error()) // not said to be gone
}

func (k Proc) find(p Place) (ctnl.NS, error) {
	for _, list := range []func() ([]ctnl.NS, error){ctnl.ListNetNS, ctnl.ListAllNetNS} { // the second looks at every descriptor
		all, err := list()
		if err != nil {
			return ctnl.NS{}, err
		}
		for _, ns := range all {
			if ns.Inode == p.NetNS {
				return ns, nil
			}
		}
	}
	if !k.Sees {
		return ctnl.NS{}, fmt.Errorf("network namespace %s is not found from here: run ctsight relief expire on the host as root", p.NetNS)
	}
	return ctnl.NS{}, ErrGone
}

// PlaceOf is what makes a namespace known again.
func PlaceOf(ns ctnl.NS) (Place, error) {
	p := Place{NetNS: ns.Inode, Name: ns.Name}
	err := ns.Do(func() error {
		p.Cookie = cookie()
		return nil
	})
	return p, err
}

// cookie is that of the calling thread's network namespace, 0 where the kernel (before
// 5.14) has none.
func cookie() uint64 {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	c, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0
	}
	return c
}
