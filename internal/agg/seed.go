package agg

import "github.com/ctsight/ctsight/internal/event"

// The start state: entries that were there before the first event. A dump is
// read while events go on; each entry that it tells is one of
//
//   - untouched: no event has told of it so far. It counts as live, under its
//     identity, since a dump does not tell addresses. When its insert is told
//     after all, it came in during the dump and is not counted again; its
//     destroy takes it out.
//   - touched: events have told of this tuple. They know better.
//
// The kernel tells an entry twice when the dump has to begin a bucket again; it
// counts once. What an event has told is remembered from before the dump to its
// end only.

// BeginSeed prepares for a dump. Events of then and later must go to Add in the
// order of their time, as always; those from before the call may be missing.
func (s *Census) BeginSeed() {
	s.seeding = make(map[uint64]struct{}, s.live.Len())
	for _, e := range s.live.All() {
		s.seeding[e.id] = struct{}{}
	}
}

// Forget has the dumps that follow say anew which entries are live, of all
// namespaces: events were lost, so that some are not known and others are long
// gone. Since when they live is kept; where an entry went unseen and the next of
// its tuple got its memory, that is the first one's time. What has come and gone by
// now stays counted.
func (s *Census) Forget() {
	s.old, s.live, s.seeded = s.live, NewLive[liveEntry](s.cfg.MaxLive, s.live.Len()), 0
	for _, d := range s.cfg.Dims {
		t := s.dims[d]
		for i := range t.n {
			t.at(i).live = 0
		}
		t.other.Live = 0
	}
	s.pools.forget()
}

// Seed takes an entry of the dump and says whether it was news.
func (s *Census) Seed(ns event.NetNS, zone uint16, t *event.Tuple) bool {
	p := &s.places[0]
	s.locate(p, ns, zone, t)
	if _, touched := s.seeding[p.id]; touched {
		return false
	}
	s.seeding[p.id] = struct{}{}
	if !s.live.Insert(p.id, liveEntry{id: p.id}) {
		return false
	}
	s.seeded++
	for _, d := range s.cfg.Dims {
		s.dims[d].get(&p.key[d], p.hash[d]).live++
	}
	return true
}

// EndSeed ends a dump, of which the last entry was read at a time.
func (s *Census) EndSeed(at event.Ktime) { s.seeding, s.complete = nil, at }

// remembered gives an entry that is known from a dump only what was known of it
// before Forget.
func (s *Census) remembered(key uint64, was *liveEntry, id uint64) {
	if s.old == nil || was.t != 0 {
		return
	}
	if o, ok := s.old.Remove(key); ok && o.id == id {
		was.t = o.t
	}
	if s.old.Len() == 0 {
		s.old = nil
	}
}
