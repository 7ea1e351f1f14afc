package agg

import "github.com/ctsight/ctsight/internal/event"

// sumPieces bounds into how many pieces the time of a Sum is cut.
const sumPieces = 16

// AddSum counts what was not told one by one (event.Sum). Sources, prefixes and
// namespaces stay exact; of which endpoint or edge it was is not known, there it
// goes into other. New connections count as spread evenly over the time of the
// sum, which is some milliseconds. Nothing of it has a lifetime, a first contact
// or a destination that could be told from others.
//
// Events may arrive that belong to entries of a sum that has not come yet, so
// live counts may be below zero for a moment; they show as 0.
func (s *Census) AddSum(x *event.Sum) {
	s.last = max(s.last, x.Last)
	s.totals.addSum(x)
	var p place
	s.locate(&p, x.NetNS, x.Zone, &event.Tuple{Src: x.Src})
	for _, d := range s.cfg.Dims {
		if d == ByDst || d == ByEdge {
			s.dims[d].other.addSum(x)
			continue
		}
		r := s.dims[d].get(&p.key[d], p.hash[d])
		r.addSum(x)
		if x.Kind == event.New {
			r.arriveOver(x)
		} else {
			r.touch(x.Last)
		}
	}
	if x.Kind == event.New {
		s.total.arriveOver(x)
		s.seconds.add(x.Last, x.N)
		spread(x, s.peaks.add)
	}
}

// liveBy is what a sum adds to the number of live entries.
func liveBy(x *event.Sum) int64 {
	switch {
	case x.Kind == event.New, x.Reason == event.ClashNATReplyOnly:
		return int64(x.N)
	case x.Kind == event.Destroy:
		return -int64(x.N)
	}
	return 0
}

func evicts(c event.Cause) bool { return c == event.EarlyDrop || c == event.EarlyDropGC }

// lost says whether a sum is of packets that count as lost.
func lost(x *event.Sum) bool { return x.Kind == event.Drop && !x.Reason.IsRuleset() }

// addSum counts all but new connections, which have a time.
func (r *row) addSum(x *event.Sum) {
	r.live += uint64(liveBy(x)) // may wrap, and comes back
	r.evictor += x.Evicted
	switch {
	case lost(x):
		r.drops += x.N
		r.why.add(dropCode|uint8(x.Reason), x.N)
	case x.Kind == event.Destroy:
		r.destroyed += x.N
		r.why.add(uint8(x.Cause), x.N)
		if evicts(x.Cause) {
			r.evicted += x.N
		}
	}
}

// arriveOver counts the new connections of a sum over its time.
func (r *row) arriveOver(x *event.Sum) { spread(x, r.arrive) }

// spread calls fn for the pieces of a sum over its time.
func spread(x *event.Sum, fn func(event.Ktime, uint64)) {
	span := x.Last - x.From
	pieces := uint64(min(max(1, int64(span/peakSlot)), sumPieces))
	for i := range pieces {
		if n := x.N*(i+1)/pieces - x.N*i/pieces; n > 0 {
			fn(x.Last-span*event.Ktime(pieces-1-i)/event.Ktime(pieces), n)
		}
	}
}

func (s *Sums) addSum(x *event.Sum) {
	s.Live += uint64(liveBy(x))
	s.Evictor += x.Evicted
	switch {
	case x.Kind == event.New:
		s.New += x.N
	case lost(x):
		s.Drops += x.N
	case x.Kind == event.Destroy:
		s.Destroyed += x.N
		if evicts(x.Cause) {
			s.Evicted += x.N
		}
	}
}

// above0 is a count of live entries as it shows.
func above0(live uint64) uint64 { return uint64(max(0, int64(live))) }

// addSum counts a sum, which is no record.
func (c *counts) addSum(x *event.Sum) {
	e := event.Event{Kind: x.Kind, Reason: x.Reason, Cause: x.Cause}
	c.add(&e, x.N)
	c.events--
}
