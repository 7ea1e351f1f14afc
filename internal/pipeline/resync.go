package pipeline

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/probe"
)

// What of the events was not told leaves the live entries wrong for good: after a
// loss the tables are read again, as at the start, when it has been over for a
// while, or when far more entries are taken for live than there are, for a flood need
// not ever be over. A table that is large, or losses that come again and again, must
// not make that a load of its own.
const (
	calmFor     = 2 * time.Second
	resyncEvery = 10 * time.Second
	resyncShare = 20 // of the time at most one part goes into reading tables

	// resyncOver is how many entries more than half as many again as the tables held a
	// moment ago are far more: those of a second of a flood, of some 30 bytes each.
	resyncOver = 1 << 15
)

// syncState is how the census stands to the tables.
type syncState struct {
	gone, at uint64    // not told now, and when the tables were last read
	left     uint64    // tables that went with their namespace
	changed  time.Time // gone did
	began    time.Time // the last reading
	took     time.Duration
	dirty    bool // all tables are to be read again
}

// gone is how much was not told one by one. When a namespace ends the kernel has
// nobody to tell of the end of its entries over netlink.
func (w *Watch) gone() uint64 {
	l := w.p.Loss()
	n := l.Lost + l.Aggregated + l.ByStage["recursion"]
	if _, hooks := w.p.Source.(*probe.Probe); !hooks { // its Report would wait for a rescan, and events for us
		n += w.sync.left
	}
	return n
}

// resync has all tables read again if something is missing of what happened since
// they were.
func (w *Watch) resync() {
	s, t := &w.sync, time.Now()
	if n := w.gone(); n != s.gone {
		s.gone, s.changed = n, t
	}
	if s.dirty || s.gone == s.at || w.unread() || t.Sub(s.began) < resyncShare*s.took {
		return
	}
	if (t.Sub(s.changed) < calmFor || t.Sub(s.began) < resyncEvery) && !w.over() {
		return
	}
	s.dirty = true
	w.nets.Lock()
	defer w.nets.Unlock()
	for _, table := range w.tables {
		table.seeded, table.tries = false, 0
	}
}

// over says whether far more entries are taken for live than the tables hold.
func (w *Watch) over() bool {
	held := w.held()
	w.lock()
	defer w.mu.Unlock()
	return w.census.Live() > held+held/2+resyncOver
}

// held is how many entries the tables held when they were last looked at.
func (w *Watch) held() (n int) {
	for _, t := range w.all() {
		n += int(t.fill.Count)
	}
	return n
}

// liveFresh is how many entries may come before the tables are looked at again.
const liveFresh = 1 << 18

// bound keeps what is taken for live below what there can be: reading a table may take
// long, and what was lost is for ever until then. The lock of nets is not held.
func (w *Watch) bound() {
	held, full, one := 0, 0, 0
	for _, t := range w.all() {
		most := int(cmp.Or(t.fill.Max, math.MaxInt32)) // 0 is no bound
		if held += int(t.fill.Count); t.fill.Count > 0 {
			full += most
		}
		one = max(one, most) // which may fill before the next look
	}
	w.lock()
	defer w.mu.Unlock()
	n := min(max(full, one), 2*held+liveFresh) + resyncOver
	w.census.LimitLive(n)
	w.recordLimit(n)
}

// unread says whether a table is still to be read.
func (w *Watch) unread() bool {
	return slices.ContainsFunc(w.all(), func(t table) bool { return !t.seeded && t.tries < seedTries })
}

// begin notes a reading of the tables and says whether it is to replace what is
// known.
func (s *syncState) begin(t time.Time, gone uint64) bool {
	again := s.dirty
	if again || s.began.IsZero() {
		s.began, s.at, s.gone = t, gone, gone
	}
	s.dirty = false
	return again
}
