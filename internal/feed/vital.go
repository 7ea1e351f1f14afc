package feed

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
)

// LookupVital returns what must never be blocked on this host: its own addresses, the
// gateways of its routes, and its resolvers. What cannot be read is in the error, the
// rest is returned all the same. It is about the network namespace of the caller.
func LookupVital() ([]Vital, error) {
	var out []Vital
	add := func(a netip.Addr, what string) {
		if a = a.Unmap().WithZone(""); a.IsValid() && !a.IsUnspecified() {
			out = append(out, Vital{netip.PrefixFrom(a, a.BitLen()), what})
		}
	}
	addrs, err := net.InterfaceAddrs()
	for _, a := range addrs {
		if p, perr := netip.ParsePrefix(a.String()); perr == nil {
			add(p.Addr(), "an address of this host")
		}
	}
	gateways, rerr := nextHops()
	for _, a := range gateways {
		add(a, "a gateway of this host")
	}
	servers, serr := resolvers("/etc/resolv.conf")
	for _, a := range servers {
		add(a, "a resolver of this host")
	}
	return out, errors.Join(err, rerr, serr)
}

// nextHops are the gateways of all routes.
func nextHops() ([]netip.Addr, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("routes: %w", err)
	}
	var out []netip.Addr
	add := func(ip net.IP) {
		if a, ok := netip.AddrFromSlice(ip); ok {
			out = append(out, a)
		}
	}
	for _, r := range routes {
		add(r.Gw)
		if via, ok := r.Via.(*netlink.Via); ok {
			add(via.Addr)
		}
		for _, hop := range r.MultiPath {
			add(hop.Gw)
		}
	}
	return out, nil
}

// resolvers are the name servers of a file as in resolv.conf(5). No file is no error.
func resolvers(path string) ([]netip.Addr, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []netip.Addr
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if w := strings.Fields(lines.Text()); len(w) > 1 && w[0] == "nameserver" {
			if a, err := netip.ParseAddr(w[1]); err == nil {
				out = append(out, a)
			}
		}
	}
	return out, lines.Err()
}
