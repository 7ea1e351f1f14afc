package main

import (
	"net"
	"sync"
	"time"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/probe"
	"github.com/ctsight/ctsight/internal/view"
)

// names looks up what numbers are called on this host and remembers it. What
// it does not know it looks for again, but at most once a second, so that a
// flood of unknown numbers costs nothing.
type names struct {
	mu      sync.Mutex
	ns      map[event.NetNS]ctnl.NS
	ifaces  map[event.NetNS]map[int]string
	scanned time.Time
	kernel  *probe.Names
}

func newNames() *names {
	return &names{ns: map[event.NetNS]ctnl.NS{}, ifaces: map[event.NetNS]map[int]string{}, kernel: probe.NewNames()}
}

func (n *names) view() view.Names {
	return view.Names{NetNS: n.netns, Interface: n.iface, KfreeReason: n.kernel.KfreeReason, Symbol: n.kernel.Symbol}
}

func (n *names) netns(ns event.NetNS) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.find(ns).Name
}

// find returns the namespace, looking again if it is unknown.
func (n *names) find(ns event.NetNS) ctnl.NS {
	if f, ok := n.ns[ns]; ok {
		return f
	}
	if time.Since(n.scanned) < time.Second {
		return ctnl.NS{}
	}
	n.scanned = time.Now()
	all, err := ctnl.ListNetNS()
	if err != nil {
		return ctnl.NS{}
	}
	for _, f := range all {
		n.ns[f.Inode] = f
	}
	return n.ns[ns]
}

func (n *names) iface(ns event.NetNS, index uint32) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if name, ok := n.ifaces[ns][int(index)]; ok {
		return name
	}
	f := n.find(ns)
	if f.Path == "" || len(n.ifaces[ns]) > 0 && time.Since(n.scanned) < time.Second {
		return ""
	}
	n.scanned = time.Now()
	byIndex := map[int]string{}
	_ = f.Do(func() error { // gone or not ours to enter: the number is shown
		all, err := net.Interfaces()
		for _, i := range all {
			byIndex[i.Index] = i.Name
		}
		return err
	})
	n.ifaces[ns] = byIndex
	return byIndex[int(index)]
}

func resolveOwn() (event.NetNS, error) {
	ns, err := ctnl.OpenNS("/proc/self/ns/net")
	return ns.Inode, err
}
