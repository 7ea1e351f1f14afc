package netlab

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// port is one end of a veth pair: where it is, and how to build a frame there.
type port struct {
	ns      *NS
	name    string
	index   int
	mac     net.HardwareAddr
	peerMAC net.HardwareAddr
	addrs   []netip.Prefix
}

// join makes the veth pair of two ports, gives them their addresses and each
// the other's addresses as neighbours.
func join(a, b *port) error {
	a.peerMAC, b.peerMAC = b.mac, a.mac
	err := a.ns.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:        netlink.LinkAttrs{Name: a.name, HardwareAddr: a.mac, NumTxQueues: 1, NumRxQueues: 1},
			PeerName:         b.name,
			PeerHardwareAddr: b.mac,
			PeerNamespace:    netlink.NsFd(b.ns.FD()),
		})
	})
	if err != nil {
		return fmt.Errorf("make veth %s-%s: %w", a.name, b.name, err)
	}
	if err := a.configure(b.addrs); err != nil {
		return err
	}
	return b.configure(a.addrs)
}

// configure brings the port up. Without ARP and multicast the kernel sends
// nothing of its own: no duplicate address detection, no solicitation, no
// listener report; the neighbours are entered by hand instead.
func (p *port) configure(neighbours []netip.Prefix) error {
	return p.ns.Do(func() error {
		l, err := netlink.LinkByName(p.name)
		if err != nil {
			return fmt.Errorf("interface %s: %w", p.name, err)
		}
		p.index = l.Attrs().Index
		conf := "net/ipv6/conf/" + p.name + "/"
		// Mode 1: no link-local address, which nobody here needs.
		for _, s := range [][2]string{{"addr_gen_mode", "1"}, {"accept_dad", "0"}, {"accept_ra", "0"}, {"router_solicitations", "0"}} {
			if err := writeSysctl(conf+s[0], s[1]); err != nil {
				return err
			}
		}
		for _, step := range []func(netlink.Link) error{netlink.LinkSetARPOff, netlink.LinkSetMulticastOff, netlink.LinkSetUp} {
			if err := step(l); err != nil {
				return fmt.Errorf("set up %s: %w", p.name, err)
			}
		}
		for _, a := range p.addrs {
			if err := addAddr(l, a); err != nil {
				return err
			}
		}
		for _, n := range neighbours {
			if err := addNeighbour(p, n.Addr()); err != nil {
				return err
			}
		}
		return nil
	})
}

// up says whether the port is switched on.
func (p *port) up() (up bool, err error) {
	err = p.ns.Do(func() error {
		l, err := netlink.LinkByName(p.name)
		if err != nil {
			return fmt.Errorf("interface %s: %w", p.name, err)
		}
		up = l.Attrs().Flags&net.FlagUp != 0
		return nil
	})
	return up, err
}

func addAddr(l netlink.Link, a netip.Prefix) error {
	addr := &netlink.Addr{IPNet: ipNet(a)}
	if a.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := netlink.AddrAdd(l, addr); err != nil {
		return fmt.Errorf("add address %s to %s: %w", a, l.Attrs().Name, err)
	}
	return nil
}

func addNeighbour(p *port, a netip.Addr) error {
	err := netlink.NeighSet(&netlink.Neigh{
		LinkIndex: p.index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: p.peerMAC, Family: family(a),
	})
	if err != nil {
		return fmt.Errorf("add neighbour %s to %s: %w", a, p.name, err)
	}
	return nil
}

// DelAddr takes an address off an interface.
func (n *NS) DelAddr(ifname string, a netip.Prefix) error {
	return n.Do(func() error {
		l, err := netlink.LinkByName(ifname)
		if err != nil {
			return fmt.Errorf("interface %s: %w", ifname, err)
		}
		if err := netlink.AddrDel(l, &netlink.Addr{IPNet: ipNet(a)}); err != nil {
			return fmt.Errorf("delete address %s of %s: %w", a, ifname, err)
		}
		return nil
	})
}

// Via routes dst to a gateway; the default route is the prefix of length 0.
func (n *NS) Via(dst netip.Prefix, gw netip.Addr) error {
	return n.route(dst, netlink.Route{Gw: gw.AsSlice()})
}

// own makes the namespace accept every address of a prefix as its own, and
// lets sockets bind them.
func (n *NS) own(dst netip.Prefix) error {
	if dst.Addr().Is6() { // for IPv4 the route is enough
		if err := n.setOwn("net/ipv6/ip_nonlocal_bind", "1"); err != nil {
			return err
		}
	}
	lo, err := n.loopback()
	if err != nil {
		return err
	}
	return n.route(dst, netlink.Route{Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST, LinkIndex: lo})
}

// Blackhole makes the namespace lose all packets to dst at routing.
func (n *NS) Blackhole(dst netip.Prefix) error {
	return n.route(dst, netlink.Route{Type: unix.RTN_BLACKHOLE})
}

func (n *NS) route(dst netip.Prefix, r netlink.Route) error {
	r.Dst, r.Family = ipNet(dst.Masked()), family(dst.Addr())
	return n.Do(func() error {
		if err := netlink.RouteReplace(&r); err != nil {
			return fmt.Errorf("add route %s: %w", dst, err)
		}
		return nil
	})
}

// loopback brings lo up and returns its index. Without it ::1 does not answer,
// and package net would conclude that the machine has no IPv6.
func (n *NS) loopback() (index int, err error) {
	err = n.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("interface lo: %w", err)
		}
		index = lo.Attrs().Index
		return netlink.LinkSetUp(lo)
	})
	return index, err
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
