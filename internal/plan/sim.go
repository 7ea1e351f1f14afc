package plan

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/wyhash"
)

// WhatIf is what is to be different. The zero value changes nothing.
type WhatIf struct {
	Max      uint64 // nf_conntrack_max; 0 is as it was
	Timeouts []Change
	Factor   float64       // of the connections that come; 0 and 1 are as it was
	After    time.Duration // the timeouts change so long after the window began
}

// Changes says whether anything is different.
func (w *WhatIf) Changes() bool {
	return w.Max != 0 || len(w.Timeouts) > 0 || w.Factor != 0 && w.Factor != 1
}

// Fits says whether there is room for a replay.
func (r *Record) Fits(w *WhatIf) error {
	if n := float64(len(r.Conns)) * w.Factor; n > MaxEntries {
		return fmt.Errorf("%.0f connections to replay, at most %d: a lower --factor, or a shorter time (--for)", n, MaxEntries)
	}
	return nil
}

// Levels of a table, as parts of its limit (docs/runbook.md).
var Levels = [3]float64{0.70, 0.85, 0.95}

// Run is what became of the table.
type Run struct {
	Step      time.Duration
	Curve     []uint32 // entries at the end of each Step from the beginning of the window on
	Max       uint64   // 0 no limit
	Peak      uint64
	PeakAt    event.Ktime
	Mean      float64
	Arrivals  uint64
	Drops     uint64     // arrivals that got no entry: table_full
	Evicted   uint64     // early_drop
	EvictedGC uint64     // early_drop_gc
	Above     [3]float64 // part of the time at one of Levels or over it
	// Late is how long after its timeout the collector removed an entry, on average, in
	// the second half of the window; 0 where it removed none.
	Late time.Duration
}

// never is an end that does not come.
const never = event.Ktime(math.MaxInt64)

// maxPoints bounds a curve: a day of seconds.
const maxPoints = 86_400

// DefaultBuckets are those of a 64-bit kernel from 5.15 on with more than 4 GiB
// (nf_conntrack_init_start).
const DefaultBuckets = 262_144

// evictionRange is how many buckets early drop looks through (NF_CT_EVICTION_RANGE).
const evictionRange = 8

// entry is one in the table, or to come.
type entry struct {
	start   event.Ktime
	end     event.Ktime // never: the collector's, after expires
	expires event.Ktime // never: not modelled
	assured event.Ktime
	closing event.Ktime // may be taken by the collector in a full table though assured
	id      uint64
	was     event.Ktime // End in the record
	most    event.Ktime // that a packet gives it
	pos     int32       // in live, from 1 on
	before  bool
}

// sim is a replay under way.
type sim struct {
	r        *Record
	w        WhatIf
	changes  bool
	timeouts Timeouts
	changeAt event.Ktime
	buckets  uint64

	all     []entry
	live    []int32
	ends    queue // by end
	expired queue // by expires, of those without an end
	byID    map[uint64]int32
	hash    map[uint32][]int32 // bucket; nil without a limit that counts
	refused bool               // early drop found nothing since the collector came by
	scan    event.Ktime        // next
	out     Run

	at    event.Ktime
	area  float64 // entry-seconds
	late  float64 // seconds, of those that the collector found
	found int
}

// Simulate replays all connections of the record. Without a change it gives what was
// measured: nothing is modelled then.
func (r *Record) Simulate(w WhatIf) Run {
	s := &sim{r: r, w: w, changes: w.Changes(), timeouts: r.Kernel.Timeouts, changeAt: r.From + event.Ktime(w.After), at: r.From, scan: never}
	for _, c := range w.Timeouts {
		s.timeouts[c.Timer] = c.To
	}
	s.out.Max = cmp.Or(w.Max, r.Kernel.Max)
	s.buckets = cmp.Or(r.Kernel.Buckets, DefaultBuckets)
	s.prepare()
	s.run()
	return s.out
}

// prepare makes entries of the connections.
func (s *sim) prepare() {
	r := s.r
	donors := map[uint8][]int32{}
	for i := range r.Conns {
		if c := &r.Conns[i]; !c.Refused && !c.Before {
			donors[c.Proto] = append(donors[c.Proto], int32(i))
		}
	}
	next := map[uint8]int{}
	for i := range r.Conns {
		c := &r.Conns[i]
		switch {
		case !s.changes && c.Refused:
			s.out.Drops++
			s.out.Arrivals++
			continue
		case !s.changes && c.Cause == event.EarlyDrop:
			s.out.Evicted++
		case !s.changes && c.Cause == event.EarlyDropGC:
			s.out.EvictedGC++
		}
		e := s.fate(i)
		if c.Refused {
			d := donors[c.Proto]
			if len(d) == 0 {
				continue
			}
			like := d[next[c.Proto]%len(d)]
			next[c.Proto]++
			e = s.fate(int(like)).moved(c.Start - r.Conns[like].Start)
			e.id = c.ID
		}
		s.copies(e)
	}
	slices.SortStableFunc(s.all, func(a, b entry) int { return cmp.Compare(a.start, b.start) })
	if s.changes {
		s.byID = make(map[uint64]int32, len(s.all)/4)
		if s.out.Max > 0 && uint64(len(s.all)) > s.out.Max {
			s.hash = map[uint32][]int32{}
		}
	}
}

// fate is what becomes of a connection's entry where there is room for it.
func (s *sim) fate(i int) entry {
	r, t := s.r, s.r.timers[i]
	c := &r.Conns[i]
	e := entry{start: c.Start, end: c.End, expires: never, assured: c.Assured, closing: never, id: c.ID, was: c.End, most: never, before: c.Before}
	if c.End == 0 {
		e.end, e.was = never, never
	}
	if c.Assured == 0 {
		e.assured = never
	}
	if !s.changes || t == NoTimer {
		return e
	}
	e.expires, e.most = c.Expires, event.Ktime(s.timeouts[t])
	if t.closing() {
		e.closing = r.touched(i)
	}
	if touched := r.touched(i); s.timeouts[t] != r.Kernel.Timeouts[t] && touched >= s.changeAt && !c.Fixed {
		e.expires = touched + event.Ktime(s.timeouts[t])
	}
	natural := evicted(c.Cause)
	switch {
	case e.expires == c.Expires && !natural:
		if c.End == 0 { // it was there, expired or not
			e.expires = max(e.expires, r.To+1)
		}
	case c.End == 0, timedOut(c.Cause), natural, e.expires < c.End:
		if e.end = never; r.Lagless {
			e.end = e.expires
		}
	}
	return e
}

// moved is the entry at another time.
func (e entry) moved(by event.Ktime) entry {
	for _, t := range []*event.Ktime{&e.start, &e.end, &e.expires, &e.assured, &e.closing, &e.was} {
		if *t != never {
			*t += by
		}
	}
	return e
}

// copies adds an entry Factor times: a copy comes up to a second later, so that
// bursts of a second are as many times as high and those of 10 ms are not; of a
// fraction of the copies the hash of the tuple decides.
func (s *sim) copies(e entry) {
	factor := s.w.Factor
	if factor == 0 {
		factor = 1
	}
	for k := 0; float64(k) < factor; k++ {
		h := wyhash.Mix(e.id, uint64(k))
		if part := factor - float64(k); part < 1 && float64(wyhash.Mix(h, 1)>>11)/(1<<53) >= part {
			return
		}
		c := e
		if k > 0 {
			if !c.before {
				c = c.moved(event.Ktime(h % uint64(time.Second)))
			}
			c.id = h
		}
		s.all = append(s.all, c)
	}
}

// run goes through time.
func (s *sim) run() {
	r := s.r
	step := event.Ktime(time.Second)
	for (r.To-r.From)/step > maxPoints {
		step *= 10
	}
	s.out.Step = time.Duration(step)
	tick, i := r.From+step, 0
	begun := false
	for {
		next := tick
		if i < len(s.all) {
			next = min(next, s.all[i].start)
		}
		next = min(next, s.scan, s.ends.first())
		if !begun && next > r.From { // all that was there before is
			begun = true
			s.firstScan()
			next = min(next, s.scan)
		}
		if next > r.To {
			break
		}
		s.forward(next)
		for s.ends.first() <= next {
			s.remove(s.ends.pop())
		}
		if s.scan <= next {
			s.collect()
		}
		for ; i < len(s.all) && s.all[i].start <= next; i++ {
			s.arrive(int32(i))
		}
		if tick <= next {
			s.out.Curve = append(s.out.Curve, uint32(len(s.live)))
			tick += step
		}
	}
	s.forward(r.To)
	s.out.Late = seconds(share(s.late, float64(s.found)))
	if span := r.span(); span > 0 {
		s.out.Mean = s.area / span
		for l := range s.out.Above {
			s.out.Above[l] /= span
		}
	}
}

// forward adds up what was in the table until now.
func (s *sim) forward(to event.Ktime) {
	dt, n := to.Sub(s.at).Seconds(), float64(len(s.live))
	s.at = to
	s.area += n * dt
	for l, level := range Levels {
		if s.out.Max > 0 && n >= level*float64(s.out.Max) {
			s.out.Above[l] += dt
		}
	}
}

// arrive puts an entry into the table, or not.
func (s *sim) arrive(i int32) {
	e := &s.all[i]
	if !e.before {
		s.out.Arrivals++
	}
	if !s.changes {
		s.insert(i)
		return
	}
	// The entry of the same tuple, which a longer timeout has kept, is the one that the
	// packet finds.
	if j, ok := s.byID[e.id]; ok && s.all[j].pos > 0 && s.all[j].was <= e.start {
		s.remove(j)
		s.insert(i)
		return
	}
	if uint64(len(s.live))+1 > s.out.Max && s.out.Max > 0 && !s.earlyDrop(e) {
		s.refused = true
		s.out.Drops++
		return
	}
	s.insert(i)
}

func (s *sim) insert(i int32) {
	e := &s.all[i]
	if e.end <= s.at { // it was gone by then
		return
	}
	s.live = append(s.live, i)
	e.pos = int32(len(s.live))
	if n := uint64(len(s.live)); n > s.out.Peak {
		s.out.Peak, s.out.PeakAt = n, s.at
	}
	switch {
	case e.end != never:
		s.ends.push(e.end, i)
	case e.expires != never:
		s.expired.push(e.expires, i)
	}
	if s.byID != nil {
		s.byID[e.id] = i
	}
	if s.hash != nil {
		for _, b := range s.bucketsOf(e) {
			s.hash[b] = append(s.hash[b], i)
		}
	}
}

// remove takes an entry out, once.
func (s *sim) remove(i int32) {
	e := &s.all[i]
	if e.pos == 0 {
		return
	}
	last := s.live[len(s.live)-1]
	s.live[e.pos-1] = last
	s.all[last].pos = e.pos
	s.live = s.live[:len(s.live)-1]
	e.pos = 0
	if s.byID != nil && s.byID[e.id] == i {
		delete(s.byID, e.id)
	}
}

// bucketsOf are those of the two tuples of an entry. The kernel's hash has a secret
// key; any other that spreads evenly is as good.
func (s *sim) bucketsOf(e *entry) [2]uint32 {
	return [2]uint32{uint32(wyhash.Mix(e.id, 2) % s.buckets), uint32(wyhash.Mix(e.id, 3) % s.buckets)}
}

// earlyDrop is the kernel's: in the first of eight buckets that has any, all entries
// that are not assured go. What has expired in those goes too, and does not count.
func (s *sim) earlyDrop(e *entry) bool {
	first := uint64(s.bucketsOf(e)[0])
	for k := range uint64(evictionRange) {
		b := uint32((first + k) % s.buckets)
		chain := append([]int32(nil), s.hash[b]...)
		kept := s.hash[b][:0]
		drops := 0
		for _, i := range chain {
			x := &s.all[i]
			switch {
			case x.pos == 0:
			case x.expires <= s.at:
				s.remove(i)
			case x.assured > s.at:
				s.remove(i)
				drops++
			default:
				kept = append(kept, i)
			}
		}
		if s.hash[b] = kept; drops > 0 {
			s.out.Evicted += uint64(drops)
			return true
		}
	}
	return false
}
