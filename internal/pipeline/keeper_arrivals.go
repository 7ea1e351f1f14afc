package pipeline

import (
	"cmp"
	"slices"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// watchedRows is how many sources are looked at each second: those that were the
// busiest at the last walk over all rows, and those that had come before them.
const watchedRows = 4 * rankRows

// arrivals counts the new connections of the busiest sources second by second.
// Walks over all rows may be seconds apart; what a source that is known opened in
// between is the difference of two looks at its row, exact.
type arrivals struct {
	keys []agg.Key // the busy first
	had  map[agg.Key]uint64
	at   event.Ktime // of the last look
}

// since is what came to a row since the last look.
func (a *arrivals) since(k agg.Key, r *agg.TopRow) uint64 {
	before, known := a.had[k]
	switch {
	case r.First > a.at:
		return r.New
	case known && before <= r.New:
		return r.New - before
	}
	return uint64(r.S1 + 0.5) // was not looked at then, or lost its row: what the window of a second says
}

// look returns what came since the last look, the most first.
func (a *arrivals) look(at event.Ktime, busy []agg.TopRow, row func(agg.Key) (agg.TopRow, bool)) (out []agg.SourceCount) {
	keys := make([]agg.Key, 0, watchedRows)
	for i := range busy {
		keys = append(keys, busy[i].Key)
	}
	keys = append(keys, a.keys...)
	had := make(map[agg.Key]uint64, len(keys))
	var idle []agg.Key
	a.keys = nil
	for _, k := range keys {
		if _, twice := had[k]; twice {
			continue
		}
		r, ok := row(k)
		if !ok {
			continue
		}
		had[k] = r.New
		n := a.since(k, &r)
		if n == 0 {
			idle = append(idle, k)
			continue
		}
		a.keys = append(a.keys, k)
		out = append(out, agg.SourceCount{NetNS: k.NetNS, Src: k.Src, New: n})
	}
	a.keys = append(a.keys, idle...)
	a.keys, a.had, a.at = a.keys[:min(watchedRows, len(a.keys))], had, at
	slices.SortStableFunc(out, func(a, b agg.SourceCount) int { return cmp.Compare(b.New, a.New) })
	return out[:min(rankRows, len(out))]
}

// arrived are the connections of sources since the last sample.
func (k *Keeper) arrived(busy []agg.TopRow) []agg.SourceCount {
	w := k.w
	w.lock()
	defer w.mu.Unlock()
	at := w.now()
	return k.arrivals.look(at, busy, func(key agg.Key) (agg.TopRow, bool) { return w.census.Row(agg.BySrc, key, at) })
}
