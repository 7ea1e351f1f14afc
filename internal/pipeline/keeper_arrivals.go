package pipeline

import (
	"cmp"
	"slices"

	"github.com/ctsight/ctsight/internal/agg"
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
}

// look returns what came since the last look, the most first; of sources that were
// not looked at then it is what the window of a second says.
func (a *arrivals) look(busy []agg.TopRow, row func(agg.Key) (agg.TopRow, bool)) (out []agg.SourceCount) {
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
		n := uint64(r.S1 + 0.5)
		if before, known := a.had[k]; known && before <= r.New { // else it lost its row and has a new one
			n = r.New - before
		}
		if n == 0 {
			idle = append(idle, k)
			continue
		}
		a.keys = append(a.keys, k)
		out = append(out, agg.SourceCount{NetNS: k.NetNS, Src: k.Src, New: n})
	}
	a.keys = append(a.keys, idle...)
	a.keys, a.had = a.keys[:min(watchedRows, len(a.keys))], had
	slices.SortStableFunc(out, func(a, b agg.SourceCount) int { return cmp.Compare(b.New, a.New) })
	return out[:min(rankRows, len(out))]
}

// arrived are the connections of sources since the last sample.
func (k *Keeper) arrived(busy []agg.TopRow) []agg.SourceCount {
	w := k.w
	w.lock()
	defer w.mu.Unlock()
	at := w.now()
	return k.arrivals.look(busy, func(key agg.Key) (agg.TopRow, bool) { return w.census.Row(agg.BySrc, key, at) })
}
