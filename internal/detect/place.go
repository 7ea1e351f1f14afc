package detect

import (
	"net/netip"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/prefetch"
	"github.com/ctsight/ctsight/internal/wyhash"
)

// place is where an event belongs in the tables: hashes, never 0.
type place struct {
	src      uint64 // source in its namespace and zone
	endpoint uint64 // destination, port and protocol
	edge     uint64 // source with endpoint
	id       uint64 // the entry: unique among those that live
	dst      uint64 // destination alone
	near     near
}

// near is what was found of a place ahead of time.
type near struct {
	subject *subject // nil for unknown; of table.epoch
	link    *link    // nil for none; of table.made
	epoch   uint32
	made    uint32
}

// near returns the source of a place where it was found ahead of time and is still it.
func (d *Engine) near(p *place) *subject {
	if p.near.epoch == d.subjects.epoch {
		return p.near.subject
	}
	return nil
}

// subjectAt returns the source of a place, nil if there is none.
func (d *Engine) subjectAt(p *place) *subject {
	if s := d.near(p); s != nil {
		return s
	}
	return d.subjects.find(p.src)
}

// linkAt returns the link of a place, nil if there is none.
func (d *Engine) linkAt(p *place) *link {
	if p.near.made == d.links.table.made {
		return p.near.link
	}
	return d.links.table.find(p.edge)
}

func (d *Engine) locate(p *place, e *event.Event) { d.locateTuple(p, e.NetNS, e.Zone, &e.Orig) }

func (d *Engine) locateTuple(p *place, ns event.NetNS, zone uint16, t *event.Tuple) {
	seed := d.cfg.Seed
	at := uint64(ns) | uint64(zone)<<32
	s, o := wyhash.IP(t.Src, seed), wyhash.IP(t.Dst, seed+8)
	p.src = max(1, wyhash.Mix(s, at))
	p.dst = max(1, wyhash.Mix(o, at))
	p.endpoint = max(1, wyhash.Mix(o^at, uint64(port(t))<<8|uint64(t.Proto)))
	p.edge = max(1, wyhash.Mix(p.src, p.endpoint))
	// An address in the kernel has its highest bit set; the tuple is unique where
	// there is none.
	p.id = max(1, wyhash.Mix(p.edge, uint64(t.Sport)<<16|uint64(t.Dport)))
	p.near = near{}
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

// touch asks for what add will read of each event: many misses under way at once cost
// as much as one.
func (d *Engine) touch(events []event.Event) {
	lines := d.lines[:0]
	for i := range events {
		switch p := &d.places[i]; events[i].Kind {
		case event.New:
			lines = append(lines, d.subjects.line(p.src), d.edges.line(p.edge))
		case event.Destroy:
			lines = append(lines, d.pending.Line(p.id))
		}
	}
	prefetch.Lines(lines)
	lines = lines[:0]
	for i := range events {
		p := &d.places[i]
		p.near = near{epoch: d.subjects.epoch, made: d.links.table.made, link: d.links.table.find(p.edge)}
		if x := p.near.link; x != nil {
			lines = append(lines, prefetch.Of(x), prefetch.Of(&x.open.lives))
		}
		if events[i].Kind != event.New {
			continue
		}
		if p.near.subject = d.subjects.find(p.src); p.near.subject != nil {
			lines = append(lines, prefetch.Of(p.near.subject))
		}
		if d.edges.find(p.edge) == nil { // a first contact
			lines = append(lines, d.pending.Line(p.id), d.fronts.table.line(p.endpoint))
		}
	}
	prefetch.Lines(lines)
}
