package detect

import (
	"net/netip"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/wyhash"
)

// place is where an event belongs in the tables: hashes, never 0.
type place struct {
	src      uint64 // source in its namespace and zone
	endpoint uint64 // destination, port and protocol
	edge     uint64 // source with endpoint
	id       uint64 // the entry: unique among those that live
	dst      uint64 // destination alone
}

func (d *Engine) locate(p *place, e *event.Event) { d.locateTuple(p, e.NetNS, e.Zone, &e.Orig) }

func (d *Engine) locateTuple(p *place, ns event.NetNS, zone uint16, t *event.Tuple) {
	seed := d.cfg.Seed
	src, dst := t.Src.As16(), t.Dst.As16()
	at := uint64(ns) | uint64(zone)<<32
	s, o := wyhash.Addr(&src, seed+families(t.Src)), wyhash.Addr(&dst, seed+8+families(t.Dst))
	p.src = max(1, wyhash.Mix(s, at))
	p.dst = max(1, wyhash.Mix(o, at))
	p.endpoint = max(1, wyhash.Mix(o^at, uint64(port(t))<<8|uint64(t.Proto)))
	p.edge = max(1, wyhash.Mix(p.src, p.endpoint))
	// An address in the kernel has its highest bit set; the tuple is unique where
	// there is none.
	p.id = max(1, wyhash.Mix(p.edge, uint64(t.Sport)<<16|uint64(t.Dport)))
}

// families keeps ::ffff:a.b.c.d and a.b.c.d apart.
func families(a netip.Addr) uint64 {
	if a.Is4() {
		return 1
	}
	return 2
}

// port is the destination port, 0 where the protocol has none.
func port(t *event.Tuple) uint16 {
	if t.IsICMP() {
		return 0
	}
	return t.Dport
}

// prefixOf is the network that an address is counted with: /24 or /64.
func prefixOf(a netip.Addr) netip.Prefix {
	bits := 64
	if a.Is4() {
		bits = 24
	}
	p, _ := a.WithZone("").Prefix(bits)
	return p
}

// touch reads what add will read of each event: many misses under way at once cost
// as much as one.
func (d *Engine) touch(events []event.Event) {
	sum := uint64(0)
	for i := range events {
		switch p := &d.places[i]; events[i].Kind {
		case event.New:
			sum += d.subjects.peek(p.src) + d.edges.peek(p.edge)
		case event.Destroy:
			sum += d.pending.Touch(p.id) + d.links.table.peek(p.edge)
		}
	}
	for i := range events {
		if x := d.links.table.find(d.places[i].edge); x != nil {
			sum += x.made
		}
		if events[i].Kind != event.New {
			continue
		}
		if v := d.subjects.find(d.places[i].src); v != nil {
			sum += uint64(v.last)
		}
	}
	d.touched = sum
}
