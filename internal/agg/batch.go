package agg

import "github.com/ctsight/ctsight/internal/event"

// Batch is how many events AddAll prepares at a time.
const Batch = 64

// AddAll adds events in their order, which is that of their time. What they
// need of the tables is read first, all at once: one look at a time, a large
// table costs a cache miss each, and the processor does nothing meanwhile.
func (s *Census) AddAll(events []event.Event) {
	for len(events) > 0 {
		n := min(len(events), Batch)
		s.touch(events[:n])
		for i := range n {
			s.Add(&events[i])
		}
		events = events[n:]
	}
}

// touch reads what Add will read of each event. No load waits for another one
// of the same loop.
func (s *Census) touch(events []event.Event) {
	var places [Batch]uint64
	sum := uint64(0)
	for i := range events {
		e := &events[i]
		sum += s.live.touch(entryKey(e, identity(e.NetNS, e.Zone, &e.Orig, s.cfg.Seed)))
		if e.Kind == event.New {
			k := ByEdge.keyFor(e.NetNS, e.Zone, &e.Orig)
			sum += s.contacts.line(k.hash(s.cfg.Seed))[0]
		}
	}
	for _, d := range s.cfg.Dims {
		t := s.dims[d]
		mask := uint64(len(t.index) - 1)
		for i := range events {
			k := d.keyFor(events[i].NetNS, events[i].Zone, &events[i].Orig)
			places[i] = t.index[k.hash(t.seed)&mask]
		}
		for i := range events {
			if p := int(uint32(places[i])); p != 0 { // of another key, now and then
				r := t.at(p - 1)
				sum += r.new + uint64(r.at) + uint64(r.ports.n) + uint64(r.last)
			}
		}
	}
	s.touched = sum
}
