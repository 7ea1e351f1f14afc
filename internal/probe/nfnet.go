package probe

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"runtime"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/event"
)

// Programs of bpf/nflink.bpf.c.
const (
	nfPre  = "nf_pre"
	nfPost = "nf_post"
	nfLast = "nf_last"
)

// nfSite is one place where a program sits, in both families. When another BPF
// program has the priority, step leads to the next one further from conntrack.
type nfSite struct {
	program  string
	hook     link.NetfilterInetHook
	hookName string
	priority int32 // IPv4; see at
	step     int32
	lost     string
}

// at is the priority wanted in a family. Conntrack inserts at INT_MAX, except
// for IPv6 at input: INT_MAX-1 (ipv6_conntrack_ops, 5.10 to 7.3). A hook that is
// registered later at the same priority comes first, so not there.
func (s *nfSite) at(family link.NetfilterProtocolFamily) int32 {
	if family == link.NetfilterProtoIPv6 && s.hook == link.NetfilterInetLocalIn {
		return s.priority - 1
	}
	return s.priority
}

// nfSites in the order of attaching: what ends a packet's way before what
// begins it. Conntrack looks up at -200.
var nfSites = []nfSite{
	{nfLast, link.NetfilterInetPostRouting, "postrouting", math.MaxInt32 - 1, -1, "new connections that are forwarded or leave"},
	{nfLast, link.NetfilterInetLocalIn, "input", math.MaxInt32 - 1, -1, "new connections to this host"},
	{nfPost, link.NetfilterInetPreRouting, "prerouting", -199, 1, "refused packets that come in"},
	{nfPost, link.NetfilterInetLocalOut, "output", -199, 1, "refused packets of local sockets"},
	{nfPre, link.NetfilterInetPreRouting, "prerouting", -201, -1, "refused packets that come in"},
	{nfPre, link.NetfilterInetLocalOut, "output", -201, -1, "refused packets of local sockets"},
}

var nfFamilies = []link.NetfilterProtocolFamily{link.NetfilterProtoIPv4, link.NetfilterProtoIPv6}

// maxShift bounds the search for a free priority.
const maxShift = 8

func (s *nfSite) name(family link.NetfilterProtocolFamily, priority int32) string {
	f := "ipv4"
	if family == link.NetfilterProtoIPv6 {
		f = "ipv6"
	}
	return fmt.Sprintf("%s %s %d", f, s.hookName, priority)
}

// nfPlace is a site in one family.
type nfPlace struct {
	family link.NetfilterProtocolFamily
	site   *nfSite
}

// nfNet is what is attached in one network namespace.
type nfNet struct {
	links   []link.Link // in the order of nfSites
	has     map[nfPlace]bool
	errs    map[nfPlace]error
	shifted []string
}

// AttachNetNS attaches in a network namespace. A link keeps its namespace
// alive: call ForgetNetNS when nobody else uses it any more.
func (n *NFProbe) AttachNetNS(path string, inode event.NetNS) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return os.ErrClosed
	}
	if n.nets[inode] != nil {
		return nil
	}
	net := &nfNet{has: map[nfPlace]bool{}, errs: map[nfPlace]error{}}
	err := inNetNS(path, inode, func() error { return n.attachAll(net) })
	if err == nil {
		n.nets[inode] = net
		err = n.p.obj.maps["linked"].Put(uint32(inode), uint32(1))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("attach in netns %s: %w", inode, err), n.forget(inode, net))
	}
	return nil
}

// attachAll runs inside the namespace. IPv6 may be missing.
func (n *NFProbe) attachAll(net *nfNet) error {
	for i := range nfSites {
		for _, family := range nfFamilies {
			place := nfPlace{family, &nfSites[i]}
			if err := n.attachOne(net, place); err != nil {
				net.errs[place] = err
				if family == link.NetfilterProtoIPv4 {
					return err
				}
			}
		}
	}
	return nil
}

func (n *NFProbe) attachOne(net *nfNet, at nfPlace) error {
	prio := at.site.at(at.family)
	for range maxShift {
		l, err := link.AttachNetfilter(link.NetfilterOptions{
			Program:        n.progs[at.site.program],
			ProtocolFamily: at.family,
			Hook:           at.site.hook,
			Priority:       prio,
		})
		if errors.Is(err, unix.EBUSY) {
			prio += at.site.step
			continue
		}
		if err != nil {
			return fmt.Errorf("%s at %s: %w: %w", at.site.program, at.site.name(at.family, prio), ErrNotPossible, explain(err))
		}
		net.links, net.has[at] = append(net.links, l), true
		if prio != at.site.at(at.family) {
			net.shifted = append(net.shifted, at.site.name(at.family, prio))
		}
		return nil
	}
	return fmt.Errorf("%s at %s: all priorities up to %d are taken: %w", at.site.program, at.site.name(at.family, at.site.at(at.family)), prio, unix.EBUSY)
}

// ForgetNetNS detaches from a network namespace, whose counters stay. Events
// already on their way are still delivered.
func (n *NFProbe) ForgetNetNS(inode event.NetNS) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if net := n.nets[inode]; net != nil {
		return n.forget(inode, net)
	}
	return nil
}

// forget closes links in reverse order: no packet may begin its way here that
// would not be seen to the end.
func (n *NFProbe) forget(inode event.NetNS, net *nfNet) error {
	delete(n.nets, inode)
	var errs []error
	if err := n.p.obj.maps["linked"].Delete(uint32(inode)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) && !errors.Is(err, fs.ErrClosed) {
		errs = append(errs, err)
	}
	for i := len(net.links) - 1; i >= 0; i-- {
		errs = append(errs, ignoreClosed(net.links[i].Close()))
	}
	net.links = nil
	return errors.Join(errs...)
}

// NetNS lists where links are, sorted by namespace.
func (n *NFProbe) NetNS() []NetNSLinks {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []NetNSLinks
	for _, ino := range slices.Sorted(maps.Keys(n.nets)) {
		net := n.nets[ino]
		var errs []error
		for i := range nfSites {
			for _, f := range nfFamilies {
				errs = append(errs, net.errs[nfPlace{f, &nfSites[i]}])
			}
		}
		out = append(out, NetNSLinks{NetNS: ino, Links: len(net.links), Shifted: net.shifted, Err: errors.Join(errs...)})
	}
	return out
}

// inNetNS runs fn on a thread of its own inside a network namespace: a link
// binds to the namespace of the thread that makes it. A thread that cannot go
// back is thrown away with its goroutine.
func inNetNS(path string, inode event.NetNS, fn func() error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("stat %s: %w", path, err)
	}
	if event.NetNS(st.Ino) != inode {
		return fmt.Errorf("%s is netns %d, not %s: %w", path, st.Ino, inode, fs.ErrNotExist)
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		back, err := enterNetNS(f)
		if err == nil {
			err = fn()
		}
		if back() {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// enterNetNS moves the calling thread and returns the way back, which says
// whether it worked.
func enterNetNS(f *os.File) (back func() bool, err error) {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return func() bool { return true }, err
	}
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		_ = home.Close()
		return func() bool { return true }, fmt.Errorf("enter %s: %w", f.Name(), explain(err))
	}
	return func() bool {
		defer home.Close()
		return unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil
	}, nil
}
