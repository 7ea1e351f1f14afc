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
// now stays counted. The tables are expected to hold so many entries. Where three of
// four that are known must be gone, it is not worth the memory to tell them apart: then
// nobody's time is kept.
func (s *Census) Forget(expected int) {
	if s.old = s.live; s.live.Len() > 4*max(expected, minSlots) {
		s.old, s.complete = nil, 0 // who goes before the dump comes to it is as at the start
	}
	s.live, s.seeded = NewLive[liveEntry](s.live.Cap(), expected), 0
	for _, d := range s.cfg.Dims {
		t := s.dims[d]
		for i := range t.n {
			t.at(i).live = 0
		}
		t.other.Live = 0
	}
	s.pools.forget()
}

// Seed takes an entry of the dump and says whether it was news. A dump that nobody has
// begun begins with it.
func (s *Census) Seed(ns event.NetNS, zone uint16, t *event.Tuple) bool {
	if s.seeding == nil {
		s.BeginSeed()
	}
	p := &s.places[0]
	s.locate(p, ns, zone, t)
	if _, touched := s.seeding[p.id]; touched {
		return false
	}
	s.seeding[p.id] = struct{}{}
	e := liveEntry{id: p.id}
	if s.old != nil { // the entry that has this place by its identity
		if o, ok := s.old.Remove(p.id); ok {
			e = o
		}
	}
	if !s.live.Insert(p.id, e) {
		return false
	}
	s.seeded++
	for _, d := range s.cfg.Dims {
		s.dims[d].get(&p.key[d], p.hash[d]).live++
	}
	return true
}

// LimitLive bounds the live entries to what there can be, and to MaxLive: what comes
// beyond is not known, as said there.
func (s *Census) LimitLive(n int) { s.live.cap = max(0, min(n, s.cfg.MaxLive)) }

// EndSeed ends a dump, of which the last entry was read at a time, and which was whole
// if it told all that had not been told before.
func (s *Census) EndSeed(at event.Ktime, whole bool) {
	if whole {
		s.forgetGone()
	}
	s.seeding, s.complete = nil, at
}

// forgetGone keeps of what was known before Forget what is live, and is to be found by
// its address only. The rest went unseen, and nothing will ever ask for it.
func (s *Census) forgetGone() {
	if s.old == nil {
		return
	}
	kept := NewLive[liveEntry](s.cfg.MaxLive, 0)
	for key, e := range s.old.All() {
		if _, live := s.seeding[e.id]; live && key != e.id {
			kept.Insert(key, e)
		}
	}
	if s.old = kept; kept.Len() == 0 {
		s.old = nil
	}
}

// remembered gives an entry that is known from a dump only what was known of it
// before Forget, and says whether something was.
func (s *Census) remembered(key uint64, was *liveEntry, id uint64) bool {
	if s.old == nil || was.t != 0 {
		return false
	}
	o, ok := s.old.Remove(key)
	if ok = ok && o.id == id; ok {
		was.t = o.t
	}
	if s.old.Len() == 0 {
		s.old = nil
	}
	return ok
}
