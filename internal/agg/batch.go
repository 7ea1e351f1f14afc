package agg

import (
	"github.com/ctsight/ctsight/internal/event"
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

// touch reads what add will read of each event. The loops are short and wait for
// nothing, so that the processor has many of their loads under way at once: a
// miss that costs 150 ns alone costs 15 so.
func (s *Census) touch(events []event.Event) {
	sum, last := uint64(0), len(s.live.slots)-1
	for i := range events {
		home := s.live.home(entryKey(&events[i], s.places[i].id))
		sum += s.live.slots[home].ptr + s.live.slots[min(home+2, last)].ptr + s.live.slots[min(home+5, last)].ptr // to the next line or two
	}
	for i := range events {
		if events[i].Kind == event.New {
			sum += s.contacts.line(s.places[i].edge)[0]
		}
	}
	for _, d := range s.cfg.Dims {
		sum += s.touchRows(s.dims[d], d, events)
	}
	s.touched = sum
}

// touchRows reads of the rows the lines that an insert or a destroy is for.
func (s *Census) touchRows(t *rows, d Dim, events []event.Event) (sum uint64) {
	for i := range events {
		sum += t.index[t.home(s.places[i].hash[d])]
	}
	var number [Batch]uint32
	for i := range events {
		number[i] = t.likely(s.places[i].hash[d])
	}
	for i, n := range number[:len(events)] {
		switch {
		case n == 0: // a row to be made
		case events[i].Kind == event.New:
			r := t.at(int(n) - 1)
			sum += r.new + uint64(r.at) + uint64(r.dsts.n) + r.drops // drops: the line of the slow windows
		default:
			r := t.at(int(n) - 1)
			sum += r.live + r.destroyed
		}
	}
	for i, n := range number[:len(events)] {
		if n == 0 || events[i].Kind != event.New {
			continue
		}
		if b := t.at(int(n) - 1).dsts.block; b != 0 {
			sum += uint64(s.blocks.get(b)[0])
		}
	}
	return sum
}
