package agg

import (
	"cmp"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// Top is a picture of a Census: the rows of one dimension, the first by some
// column, and the sum of all others.
type Top struct {
	From, To event.Ktime
	By       Dim
	Rows     []TopRow
	Other    Sums
	Hidden   int    // rows that are in Other
	Kept     int    // rows that were to be chosen from
	Folded   uint64 // times a row was folded into Other for good, at the limit
	Total    TopRow // of everything; its Key is zero
	Totals   Totals // events by kind, reason and cause
	Seconds  []uint64
	Tracked  int // rows
	Live     int // entries known to be live
	Strange  uint64
	Unjudged uint64
}

// TopRow is a row of a Census.
type TopRow struct {
	Key
	Sums
	Rates
	DistinctDsts   uint64 // exact up to 64, then 6.5 % standard error; sources where Key is an endpoint
	DistinctDports uint64
	First, Last    event.Ktime
	Why            []WhyCount // destroys by cause and drops by reason, largest first
}

// WhyCount is a count of destroys by a cause, or of drops by a reason.
type WhyCount struct {
	Drop   bool
	Cause  event.Cause
	Reason event.Reason
	More   bool // causes and reasons beyond the first four of a row
	Count  uint64
}

// Column is what rows are sorted by.
type Column uint8

// Columns, as in the contract.
const (
	ColNew Column = iota
	ColNewRate
	ColPeak
	ColLive
	ColDestroyed
	ColDrops
	ColEvicted
	ColEvictor
	ColDsts
	ColDports
	ColAnswered
	ColRefused
	ColUnanswered
	NumColumns
)

var columnNames = [NumColumns]string{"new", "new_rate", "peak_rate_10ms", "live", "destroyed", "drops", "evicted", "evictor",
	"distinct_dsts", "distinct_dports", "answered", "refused", "unanswered"}

// String returns the word of --sort.
func (c Column) String() string {
	if c < NumColumns {
		return columnNames[c]
	}
	return ""
}

// ParseColumn is the inverse of String.
func ParseColumn(s string) (Column, bool) {
	i := slices.Index(columnNames[:], s)
	return Column(max(0, i)), i >= 0
}

// value is what a row is sorted by.
func (s *Census) value(c Column, r *row, now event.Ktime) float64 {
	switch c {
	case ColNew:
		return float64(r.new)
	case ColNewRate:
		return r.ratesAt(now, s.began).S1
	case ColPeak:
		return float64(r.peak.max)
	case ColLive:
		return float64(above0(r.live))
	case ColDestroyed:
		return float64(r.destroyed)
	case ColDrops:
		return float64(r.drops)
	case ColEvicted:
		return float64(r.evicted)
	case ColEvictor:
		return float64(r.evictor)
	case ColDsts:
		return float64(r.dsts.count(&s.blocks))
	case ColDports:
		return float64(r.ports.count(&s.blocks))
	case ColAnswered, ColRefused, ColUnanswered:
		return float64(r.outcomes[c-ColAnswered])
	}
	return 0
}

// ranked is a heap of the best rows so far, the worst of them on top.
type ranked []rankedRow

type rankedRow struct {
	v float64
	*row
}

// order is that of rows: by value, then by key.
func (a rankedRow) order(b rankedRow) int {
	return cmp.Or(cmp.Compare(b.v, a.v), a.key.compare(&b.key))
}

func (h ranked) Len() int           { return len(h) }
func (h ranked) Less(i, j int) bool { return h[i].order(h[j]) > 0 }
func (h ranked) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *ranked) Push(x any)        { *h = append(*h, x.(rankedRow)) }
func (h *ranked) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}

// Top returns the first n rows of a dimension at a time, sorted by a column;
// keep, if not nil, chooses among them, and the rest is in Other all the same.
// It walks over all rows once.
func (s *Census) Top(d Dim, c Column, n int, now event.Ktime, keep func(*Key) bool) Top {
	now = max(now, s.last)
	out := Top{From: s.began, To: now, By: d, Total: s.row(&s.total, now), Totals: s.totals.public(), Seconds: s.seconds.list(now),
		Live: s.live.Len(), Strange: s.strange, Unjudged: s.unjudged}
	t := s.dims[d]
	if t == nil {
		return out
	}
	out.Other, out.Folded, out.Tracked = t.other, t.folded, t.n
	var best ranked
	for i := range t.n {
		r := t.at(i)
		if keep != nil {
			if k := r.key.public(); !keep(&k) {
				out.Other.add(r)
				continue
			}
		}
		out.Kept++
		if left := best.offer(rankedRow{s.value(c, r, now), r}, n); left != nil {
			out.Other.add(left)
		}
	}
	out.Other.Live = above0(out.Other.Live)
	slices.SortFunc(best, rankedRow.order)
	for _, x := range best {
		out.Rows = append(out.Rows, s.row(x.row, now))
	}
	out.Hidden = t.n - len(best)
	out.Total.Sums = out.Other
	for i := range out.Rows {
		out.Total.Plus(&out.Rows[i].Sums)
	}
	return out
}

func (s *Census) row(r *row, now event.Ktime) TopRow {
	out := TopRow{Key: r.key.public(), Sums: r.sums(), Rates: r.ratesAt(now, s.began), First: r.first(), Last: r.last(),
		DistinctDsts: r.dsts.count(&s.blocks), DistinctDports: r.ports.count(&s.blocks)}
	for i, n := range r.why.n {
		if n == 0 {
			break
		}
		w := WhyCount{Count: uint64(n), Drop: r.why.code[i]&dropCode != 0}
		if w.Drop {
			w.Reason = event.Reason(r.why.code[i] &^ dropCode)
		} else {
			w.Cause = event.Cause(r.why.code[i])
		}
		out.Why = append(out.Why, w)
	}
	if r.why.more > 0 {
		out.Why = append(out.Why, WhyCount{More: true, Count: uint64(r.why.more)})
	}
	slices.SortStableFunc(out.Why, func(a, b WhyCount) int {
		if a.More != b.More {
			return 1
		}
		return cmp.Compare(b.Count, a.Count)
	})
	return out
}

// NetNS returns the row of a namespace, a zero one where nothing is known of it
// or the census is not kept by namespace.
func (s *Census) NetNS(ns event.NetNS, now event.Ktime) TopRow {
	if t := s.dims[ByNetNS]; t != nil {
		k := rowKey{netns: ns}
		if r := t.find(&k, k.hash(t.seed)); r != nil {
			return s.row(r, max(now, s.last))
		}
	}
	return TopRow{Key: Key{NetNS: ns}}
}

// Row returns the row of a key, false if there is none.
func (s *Census) Row(d Dim, k Key, now event.Ktime) (TopRow, bool) {
	if t, key := s.dims[d], k.private(); t != nil {
		if r := t.find(&key, key.hash(t.seed)); r != nil {
			return s.row(r, max(now, s.last)), true
		}
	}
	return TopRow{Key: k}, false
}

// Lifetimes returns a copy of the histograms of everything.
func (s *Census) Lifetimes() Lifetimes { return s.lived.all.clone() }

// Focus returns a copy of the histograms of one row, since the first call for it
// after one for another.
func (s *Census) Focus(d Dim, k Key) Lifetimes {
	if key := k.private(); s.focus.lifetimes == nil || s.focus.dim != d || s.focus.key != key {
		s.focus = focus{d, key, Lifetimes{}}
	}
	return s.focus.lifetimes.clone()
}

// focus is the row whose lifetimes are kept apart.
type focus struct {
	dim       Dim
	key       rowKey
	lifetimes Lifetimes // nil: none
}

func (f *focus) add(e *event.Event, n uint64) {
	if f.lifetimes != nil && e.HasLifetime && f.dim.keyFor(e.NetNS, e.Zone, &e.Orig) == f.key {
		f.lifetimes.of(lifetimeKey(e)).add(e.Lifetime, n)
	}
}

// seconds are new connections in each of the last two minutes' seconds.
type seconds struct {
	n    [120]uint64
	at   int64 // second of the newest
	used bool
}

func (s *seconds) add(t event.Ktime, n uint64) {
	at := int64(t / event.Ktime(time.Second))
	if !s.used {
		s.at, s.used = at, true
	}
	s.advance(at)
	s.n[max(at, s.at-int64(len(s.n))+1)%int64(len(s.n))] += n
}

func (s *seconds) advance(at int64) {
	if at-s.at >= int64(len(s.n)) {
		clear(s.n[:])
		s.at = at
	}
	for s.at < at {
		s.at++
		s.n[s.at%int64(len(s.n))] = 0
	}
}

// list returns the whole seconds before now, oldest first.
func (s seconds) list(now event.Ktime) []uint64 {
	if !s.used {
		return nil
	}
	s.advance(int64(now / event.Ktime(time.Second)))
	out := make([]uint64, 0, len(s.n)-1)
	for i := s.at - int64(len(s.n)) + 1; i < s.at; i++ {
		out = append(out, s.n[(i+int64(len(s.n)))%int64(len(s.n))])
	}
	return out
}
