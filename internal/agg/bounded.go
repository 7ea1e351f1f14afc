package agg

import (
	"cmp"
	"slices"
)

// Other is what a bounded table does not show row by row.
type Other struct {
	Count uint64 // exact
	Rows  uint64 // times a row was folded into it; a row that came back counts again
}

// bounded counts by key. When it holds its limit of keys the half with the
// smallest counts is folded into other: the sum of all rows and other stays
// exact, and a source that keeps coming is not hidden by ten million that came
// once. The count of a row that was folded and came back is too small, never
// too large. An insert costs constant time on average.
type bounded[K comparable] struct {
	limit int
	rows  map[K]uint64
	other Other
	order func(a, b K) int // of rows with equal counts, to be the same each time
}

func newBounded[K comparable](limit int, order func(a, b K) int) bounded[K] {
	return bounded[K]{limit: max(1, limit), rows: map[K]uint64{}, order: order}
}

func (b *bounded[K]) add(k K, n uint64) {
	b.rows[k] += n
	if len(b.rows) > b.limit {
		b.fold()
	}
}

type counted[K comparable] struct {
	key K
	n   uint64
}

// sorted returns the rows, largest first.
func (b *bounded[K]) sorted() []counted[K] {
	out := make([]counted[K], 0, len(b.rows))
	for k, n := range b.rows {
		out = append(out, counted[K]{k, n})
	}
	slices.SortFunc(out, func(x, y counted[K]) int {
		return cmp.Or(cmp.Compare(y.n, x.n), b.order(x.key, y.key))
	})
	return out
}

// fold keeps the larger half of the rows. Only those that tie with the last one
// kept are put in order by key: with spoofed sources that is nearly all, and
// the choice must still be the same each time.
func (b *bounded[K]) fold() {
	keep := (b.limit + 1) / 2
	ns := make([]uint64, 0, len(b.rows))
	for _, n := range b.rows {
		ns = append(ns, n)
	}
	slices.Sort(ns)
	least := ns[len(ns)-keep] // the smallest count that is kept
	var tied []K
	for k, n := range b.rows {
		switch {
		case n > least:
			keep--
		case n == least:
			tied = append(tied, k)
		default:
			b.drop(k, n)
		}
	}
	partition(tied, keep, b.order)
	for _, k := range tied[keep:] {
		b.drop(k, least)
	}
}

func (b *bounded[K]) drop(k K, n uint64) {
	b.other.Count += n
	b.other.Rows++
	delete(b.rows, k)
}

// partition moves the n smallest keys to the front (quickselect). The pivots
// are as good as random, as keys come out of a map.
func partition[K any](keys []K, n int, order func(a, b K) int) {
	for len(keys) > 1 && 0 < n && n < len(keys) {
		pivot, i, j := keys[len(keys)/2], 0, len(keys)-1
		for i <= j {
			for order(keys[i], pivot) < 0 {
				i++
			}
			for order(keys[j], pivot) > 0 {
				j--
			}
			if i <= j {
				keys[i], keys[j] = keys[j], keys[i]
				i++
				j--
			}
		}
		switch {
		case n <= j:
			keys = keys[:j+1]
		case n >= i:
			keys, n = keys[i:], n-i
		default:
			return
		}
	}
}
