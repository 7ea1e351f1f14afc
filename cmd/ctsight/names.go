package main

import (
	"net"
	"sync"
	"time"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/pods"
	"github.com/ctsight/ctsight/internal/probe"
	"github.com/ctsight/ctsight/internal/view"
)

const (
	// freshFor is how long an answer is used again, and how long nothing is
	// looked for a second time: a flood of unknown numbers costs nothing.
	freshFor = time.Second
	// keepGone is how long a namespace that is no more keeps its name: its
	// last events are told after its end.
	keepGone = 10 * time.Second
	procDir  = "/proc"
)

// names looks up what numbers are called on this host and remembers it for a
// moment only: the number of a network namespace that has ended goes to
// another soon, and interfaces are renamed.
type names struct {
	mu      sync.Mutex
	ns      map[event.NetNS]*namedNS
	scanned time.Time
	pods    *pods.Index
	cri     *pods.CRI // nil where it is not asked for
	kernel  *probe.Names
}

// A namedNS is a network namespace and what was found in it.
type namedNS struct {
	ctnl.NS
	seen, checked time.Time // was there; was looked for
	ifaces        map[int]string
	listed        time.Time // its interfaces
}

// newNames asks a container runtime too if it is given the socket of one; warn is
// told that it does not answer.
func newNames(criSocket string, warn func(error)) *names {
	n := &names{ns: map[event.NetNS]*namedNS{}, kernel: probe.NewNames()}
	if criSocket != "" {
		n.cri = pods.NewCRI(criSocket, procDir, warn)
	}
	n.pods = pods.NewIndex(procDir, n.cri)
	return n
}

// refresh asks the container runtime now, which takes two seconds at most: what is
// printed once cannot wait for an answer in the background.
func (n *names) refresh() {
	if n.cri != nil {
		n.cri.Refresh(time.Now())
	}
}

func (n *names) view() view.Names {
	return view.Names{NetNS: n.netns, Generated: pods.Generated, Interface: n.iface, KfreeReason: n.kernel.KfreeReason, Symbol: n.kernel.Symbol}
}

func (n *names) netns(ns event.NetNS) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	name := ""
	if f := n.find(ns, now); f != nil {
		name = f.Name
	}
	return n.pods.Better(name, ns, now)
}

// lookup finds the namespace that is called so.
func (n *names) lookup(name string) (event.NetNS, bool) {
	all, err := ctnl.ListNetNS()
	if err != nil || name == "" {
		return 0, false
	}
	for _, is := range all {
		if n.netns(is.Inode) == name {
			return is.Inode, true
		}
	}
	return 0, false
}

// find returns the namespace, nil if it is unknown.
func (n *names) find(ns event.NetNS, now time.Time) *namedNS {
	f := n.ns[ns]
	if f != nil && f.stillThere(now) {
		return f
	}
	n.scan(now)
	return n.ns[ns]
}

// stillThere follows the path once in a while.
func (f *namedNS) stillThere(now time.Time) bool {
	if now.Sub(f.checked) >= freshFor {
		f.checked = now
		if is, err := ctnl.OpenNS(f.Path); err == nil && is.Inode == f.Inode {
			f.seen = now
		}
	}
	return f.seen.Equal(f.checked)
}

// scan lists the namespaces again, unless it has just done so.
func (n *names) scan(now time.Time) {
	if now.Sub(n.scanned) < freshFor {
		return
	}
	n.scanned = now
	all, err := ctnl.ListNetNS()
	if err != nil {
		return
	}
	for _, is := range all {
		f := n.ns[is.Inode]
		if f == nil || f.NS != is {
			f = &namedNS{NS: is}
			n.ns[is.Inode] = f
		}
		f.seen, f.checked = now, now
	}
	for ino, f := range n.ns {
		if now.Sub(f.seen) > keepGone {
			delete(n.ns, ino)
		}
	}
}

func (n *names) iface(ns event.NetNS, index uint32) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	f := n.find(ns, now)
	if f == nil {
		return ""
	}
	if now.Sub(f.listed) >= freshFor {
		f.listed = now
		f.list()
	}
	return f.ifaces[int(index)]
}

// list reads the names of the interfaces. When the namespace is gone, or not
// ours to enter, what was known stays.
func (f *namedNS) list() {
	var all []net.Interface
	err := f.Do(func() (err error) {
		all, err = net.Interfaces()
		return err
	})
	if err != nil {
		return
	}
	f.ifaces = map[int]string{}
	for _, i := range all {
		f.ifaces[i.Index] = i.Name
	}
}

func resolveOwn() (event.NetNS, error) {
	ns, err := ctnl.OpenNS("/proc/self/ns/net")
	return ns.Inode, err
}
