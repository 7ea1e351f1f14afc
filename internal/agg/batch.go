package agg

import (
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/prefetch"
	"github.com/ctsight/ctsight/internal/wyhash"
)

// Batch is how many events AddAll prepares at a time.
const Batch = 64

// A place is where an event belongs: what Add looks up in the tables.
type place struct {
	id   uint64 // identity of the entry
	edge uint64 // hash of the contact
	key  [NumDims]rowKey
	hash [NumDims]uint64
}

// locate fills in where a tuple belongs.
func (s *Census) locate(p *place, ns event.NetNS, zone uint16, t *event.Tuple) {
	seed, k := s.cfg.Seed, &p.key[ByEdge]
	k.fill(ns, zone, t)
	src, dst := wyhash.Addr(&k.src, seed), wyhash.Addr(&k.dst, seed+1)
	p.id = identity(src, dst, k, t)
	p.edge = k.combine(src, dst, seed)
	for _, d := range s.cfg.Dims {
		switch d {
		case ByEdge:
			p.hash[d] = p.edge
		case BySrc: // the one that is always there
			q := &p.key[d]
			copy16(&q.src, &k.src)
			q.netns, q.zone, q.known = ns, zone, k.known&3
			p.hash[d] = p.key[d].combine(src, s.none, seed)
		default:
			p.key[d] = k.of(d)
			p.hash[d] = p.key[d].hash(seed)
		}
	}
}

// AddAll adds events in their order, which is that of their time. What they will
// need of the tables is read first: in a large table each place is a cache miss,
// and one event after the other each waits for its own.
func (s *Census) AddAll(events []event.Event) {
	for len(events) > 0 {
		n := min(len(events), Batch)
		for i := range n {
			e := &events[i]
			s.locate(&s.places[i], e.NetNS, e.Zone, &e.Orig)
		}
		s.touch(events[:n])
		for i := range n {
			s.add(&events[i], &s.places[i])
		}
		events = events[n:]
	}
}

// touch asks for what add will read of each event. That nothing waits for it has the
// processor fetch many lines at once: a miss that costs 150 ns alone costs 15 so.
func (s *Census) touch(events []event.Event) {
	lines, last := s.lines[:0], len(s.live.slots)-1
	for i := range events {
		home := s.live.home(entryKey(&events[i], s.places[i].id))
		lines = append(lines, prefetch.Of(&s.live.slots[home]), prefetch.Of(&s.live.slots[min(home+4, last)])) // to the next line
	}
	for i := range events {
		if events[i].Kind == event.New {
			lines = append(lines, prefetch.Of(s.contacts.line(s.places[i].edge)))
		}
	}
	prefetch.Lines(lines)
	for _, d := range s.cfg.Dims {
		s.touchRows(s.dims[d], d, events)
	}
}

// touchRows asks for the lines of the rows that an insert or a destroy is for.
func (s *Census) touchRows(t *rows, d Dim, events []event.Event) {
	lines := s.lines[:0]
	for i := range events {
		lines = append(lines, prefetch.Of(&t.index[t.home(s.places[i].hash[d])]))
	}
	prefetch.Lines(lines)
	lines = lines[:0]
	var rows [Batch]*row
	for i := range events {
		n := t.likely(s.places[i].hash[d])
		if n == 0 {
			continue // a row to be made
		}
		r := t.at(int(n) - 1)
		if events[i].Kind == event.New {
			rows[i] = r
			lines = append(lines, prefetch.Of(&r.new), prefetch.Of(&r.at), prefetch.Of(&r.dsts), prefetch.Of(&r.drops)) // drops: the line of the slow windows
		} else {
			lines = append(lines, prefetch.Of(&r.live), prefetch.Of(&r.destroyed))
		}
	}
	prefetch.Lines(lines)
	lines = lines[:0]
	for _, r := range rows[:len(events)] {
		if r != nil && r.dsts.block != 0 {
			lines = append(lines, prefetch.Of(s.blocks.get(r.dsts.block)))
		}
	}
	prefetch.Lines(lines)
}
