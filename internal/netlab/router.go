package netlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Options say how a lab is built; the zero value is the lab of the package
// comment with anonymous namespaces.
type Options struct {
	// Name makes the namespaces visible to ip-netns(8) as Name-client,
	// Name-router and Name-server. What a killed process left under these
	// names is removed first. Without a name they are anonymous, and vanish
	// with the process whatever happens to it.
	Name string
	// ClientNets and ServerNets are further addresses of A and B: every
	// address of a prefix can be bound and answers. The networks of
	// ServerNets are routed to B.
	ClientNets, ServerNets []netip.Prefix
	// NoConntrack leaves connection tracking off in R.
	NoConntrack bool
	// NoSink lets B answer on SinkPorts and for the sink addresses.
	NoSink bool
}

// Router is one lab: client A, router R, server B. Several can exist at a time.
type Router struct {
	A, R, B *NS

	a0, ra, rb, b0 *port
	wires          [4]*wire // A to R, R to B, B to R, R to A; for Drain
	drainMu        sync.Mutex

	// Counters when the lab was ready.
	received0, dropped0 uint64

	mu      sync.Mutex
	undo    []func() error // in reverse order at Close
	retried uint64         // drops we saw and repaired
}

// NewRouter builds a lab. When it fails nothing is left behind.
func NewRouter(o Options) (*Router, error) {
	r := &Router{}
	if err := r.build(o); err != nil {
		return nil, errors.Join(fmt.Errorf("build lab: %w", err), r.Close())
	}
	return r, nil
}

func (r *Router) build(o Options) error {
	if err := r.makeNamespaces(o.Name); err != nil {
		return err
	}
	for _, ns := range []*NS{r.A, r.R, r.B} {
		if _, err := ns.loopback(); err != nil {
			return err
		}
		if err := ns.quiet(); err != nil {
			return err
		}
	}
	if err := r.makeLinks(); err != nil {
		return err
	}
	if err := r.makeRoutes(o); err != nil {
		return err
	}
	if err := r.makeRules(o); err != nil {
		return err
	}
	return r.settle()
}

// settle waits until all wires work, and takes the counters' zero.
func (r *Router) settle() (err error) {
	if r.wires, err = r.openWires(); err != nil {
		return err
	}
	cpus := CPUs()
	for _, w := range r.wires {
		if err := w.sync(cpus...); err != nil {
			return err
		}
		w.marks.Store(0)
	}
	if r.received0, err = r.R.RxPackets("ra"); err != nil {
		return err
	}
	r.dropped0, err = r.dropped()
	return err
}

func (r *Router) makeNamespaces(name string) error {
	named := func(role string) string {
		if name == "" {
			return ""
		}
		return name + "-" + role
	}
	if name != "" {
		unlock, err := lockName(name)
		if err != nil {
			return err
		}
		r.onClose(unlock)
		if err := r.makeNetnsDir(); err != nil {
			return err
		}
		for _, role := range []string{"client", "router", "server"} {
			if err := unpublish(named(role)); err != nil {
				return err
			}
		}
	}
	for _, p := range []struct {
		ns   **NS
		role string
	}{{&r.A, "client"}, {&r.R, "router"}, {&r.B, "server"}} {
		ns, err := newNS(named(p.role))
		if err != nil {
			return err
		}
		*p.ns = ns
		r.onClose(ns.close)
	}
	return nil
}

// makeNetnsDir makes /run/netns where ip-netns(8) has never run, and removes
// it again when nobody else has put a name there meanwhile.
func (r *Router) makeNetnsDir() error {
	if err := os.Mkdir(netnsDir, 0o755); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil
		}
		return err
	}
	r.onClose(func() error { os.Remove(netnsDir); return nil })
	return nil
}

// quiet sets what must hold before an interface appears. A new namespace
// inherits IPv4 settings from the host, so all of it is said.
func (n *NS) quiet() error {
	return n.Do(func() error {
		for _, s := range [][2]string{
			{"net/ipv4/conf/all/rp_filter", "0"}, {"net/ipv4/conf/default/rp_filter", "0"},
			{"net/ipv4/conf/all/log_martians", "0"}, {"net/ipv4/conf/default/log_martians", "0"},
			{"net/ipv4/conf/all/send_redirects", "0"}, {"net/ipv4/conf/default/send_redirects", "0"},
			{"net/ipv4/ip_forward", "0"},
			{"net/ipv6/conf/all/disable_ipv6", "0"}, {"net/ipv6/conf/default/disable_ipv6", "0"},
			{"net/ipv6/conf/default/accept_dad", "0"}, {"net/ipv6/conf/default/addr_gen_mode", "1"},
			{"net/ipv6/conf/default/accept_ra", "0"},
		} {
			if err := writeSysctl(s[0], s[1]); err != nil {
				return err
			}
		}
		return nil
	})
}

func (r *Router) makeLinks() error {
	r.a0 = &port{ns: r.A, name: "a0", mac: mac(0x12), addrs: prefixes(ClientV4, ClientV6)}
	r.ra = &port{ns: r.R, name: "ra", mac: mac(0x11), addrs: prefixes(RouterAV4, RouterAV6)}
	r.rb = &port{ns: r.R, name: "rb", mac: mac(0x21), addrs: prefixes(RouterBV4, RouterBV6)}
	r.b0 = &port{ns: r.B, name: "b0", mac: mac(0x22), addrs: prefixes(ServerV4, ServerV6)}
	if err := join(r.ra, r.a0); err != nil {
		return err
	}
	if err := join(r.rb, r.b0); err != nil {
		return err
	}
	if err := r.R.setOwn("net/ipv4/ip_forward", "1"); err != nil {
		return err
	}
	return r.R.setOwn("net/ipv6/conf/all/forwarding", "1")
}

func mac(last byte) net.HardwareAddr { return net.HardwareAddr{0x02, 0xc7, 0, 0, 0, last} }

func prefixes(v4, v6 netip.Addr) []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(v4, 24), netip.PrefixFrom(v6, 64)}
}

// SecondLink joins R and B a second time: rc and c0, with the addresses
// RouterCV4 and ServerCV4 and their like. Nothing is routed there before Via
// says so. Drain does not watch it.
func (r *Router) SecondLink() error {
	rc := &port{ns: r.R, name: "rc", mac: mac(0x31), addrs: prefixes(RouterCV4, RouterCV6)}
	c0 := &port{ns: r.B, name: "c0", mac: mac(0x32), addrs: prefixes(ServerCV4, ServerCV6)}
	if err := join(rc, c0); err != nil {
		return err
	}
	for _, p := range [2][2]*port{{rc, c0}, {c0, rc}} {
		w, err := newWire(p[0], p[1], new(atomic.Uint64))
		if err != nil {
			return err
		}
		if err := errors.Join(w.sync(), w.close()); err != nil {
			return err
		}
	}
	return nil
}

func (r *Router) makeRoutes(o Options) error {
	type hop struct {
		ns  *NS
		dst netip.Prefix
		gw  netip.Addr
	}
	any4, any6 := netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")
	hops := []hop{
		{r.A, any4, RouterAV4}, {r.A, any6, RouterAV6},
		{r.B, any4, RouterBV4}, {r.B, any6, RouterBV6},
		{r.R, any4, ClientV4}, {r.R, any6, ClientV6},
		{r.R, SinkV4, ServerV4}, {r.R, SinkV6, ServerV6},
	}
	for _, p := range o.ServerNets {
		gw := ServerV4
		if p.Addr().Is6() {
			gw = ServerV6
		}
		hops = append(hops, hop{r.R, p, gw})
	}
	for _, h := range hops {
		if err := h.ns.Via(h.dst, h.gw); err != nil {
			return err
		}
	}
	for _, p := range o.ClientNets {
		if err := r.A.own(p); err != nil {
			return err
		}
	}
	for _, p := range o.ServerNets {
		if err := r.B.own(p); err != nil {
			return err
		}
	}
	return nil
}

func (r *Router) makeRules(o Options) error {
	if !o.NoSink {
		err := errors.Join(
			r.B.Drop(Prerouting, Match{Dst: SinkV4}, Match{Dst: SinkV6}, Match{Proto: 17, DPort: SinkPorts}, Match{Proto: 6, DPort: SinkPorts}),
			r.A.Drop(Prerouting, Match{Src: SinkV4}, Match{Src: SinkV6}, Match{Proto: 17, SPort: SinkPorts}, Match{Proto: 6, SPort: SinkPorts}))
		if err != nil {
			return err
		}
	}
	if o.NoConntrack {
		return nil
	}
	return r.R.EnableConntrack()
}

func (r *Router) onClose(fn func() error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.undo = append(r.undo, fn)
}

// SetSysctl writes a sysctl and puts the old value back at Close. ns is nil for
// the namespace of the caller: the only way netlab touches anything outside the
// lab, meant for tests in a machine of their own (nf_conntrack_max and
// nf_conntrack_buckets are one number for the whole machine).
func (r *Router) SetSysctl(ns *NS, name, value string) error {
	do := func(fn func() error) error { return fn() }
	if ns != nil {
		do = ns.Do
	}
	return do(func() error {
		old, err := readSysctl(name)
		if err != nil {
			return err
		}
		if err := writeSysctl(name, value); err != nil {
			return err
		}
		r.onClose(func() error { return do(func() error { return writeSysctl(name, old) }) })
		return nil
	})
}

// Close removes everything the lab made; it may be called twice. The kernel
// destroys the namespaces a little later, in the background.
func (r *Router) Close() error {
	r.mu.Lock()
	undo := r.undo
	r.undo = nil
	r.mu.Unlock()
	var errs []error
	for i := len(undo) - 1; i >= 0; i-- {
		errs = append(errs, undo[i]())
	}
	return errors.Join(errs...)
}

// dropped sums what the queues of R's interfaces refused from A and B.
func (r *Router) dropped() (uint64, error) {
	a, err := r.A.LinkStats("a0")
	if err != nil {
		return 0, err
	}
	b, err := r.B.LinkStats("b0")
	return a.TxDropped + b.TxDropped, err
}

// Lost returns how many packets of A and B did not reach R since the lab was
// built. It must be 0 for a truth to be one.
func (r *Router) Lost() (uint64, error) {
	d, err := r.dropped()
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return d - min(d, r.dropped0+r.retried), nil
}

// WaitReceived waits until R's interface towards A has received n packets more
// than base, an earlier answer of Received (0 when the lab is new).
func (r *Router) WaitReceived(base, n uint64, timeout time.Duration) error {
	var got uint64
	err := until(timeout, func() (bool, error) {
		now, err := r.Received()
		got = now - base
		return got >= n, err
	})
	if err != nil {
		return fmt.Errorf("router received %d of %d packets: %w", got, n, err)
	}
	return nil
}

// Received returns how many packets of A the router's interface has received,
// the lab's own marks (see Drain) not counted.
func (r *Router) Received() (uint64, error) {
	marks := r.wires[0].marks.Load()
	n, err := r.R.RxPackets("ra")
	return n - r.received0 - marks, err
}
