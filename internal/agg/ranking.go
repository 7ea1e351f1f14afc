package agg

import (
	"container/heap"
	"slices"

	"github.com/ctsight/ctsight/internal/event"
)

// Ranking finds the first rows of a dimension by several columns in one walk that
// is made bit by bit (Census.Rank): a walk over a quarter of a million rows in one
// go would keep events waiting.
type Ranking struct {
	By      Dim
	Columns []Column
	N       int // rows by each column

	next int
	best []ranked
}

// Rank looks at the next n rows and says whether there are more. Rows that come
// or go while a walk is under way may be missing from it.
func (s *Census) Rank(r *Ranking, n int, now event.Ktime) (more bool) {
	t := s.dims[r.By]
	if t == nil {
		return false
	}
	if r.best == nil {
		r.best = make([]ranked, len(r.Columns))
	}
	now = max(now, s.last)
	end := min(r.next+n, t.n)
	for ; r.next < end; r.next++ {
		row := t.at(r.next)
		for i, c := range r.Columns {
			if v := s.value(c, row, now); v > 0 {
				r.best[i].offer(rankedRow{v, row}, r.N)
			}
		}
	}
	return r.next < t.n
}

// offer keeps x if it is among the first n, and returns the row that is not.
func (h *ranked) offer(x rankedRow, n int) (left *row) {
	switch {
	case len(*h) < n:
		heap.Push(h, x)
		return nil
	case n > 0 && x.order((*h)[0]) < 0:
		left = (*h)[0].row
		(*h)[0] = x
		heap.Fix(h, 0)
		return left
	}
	return x.row
}

// Ranked returns the rows of a walk that is through, by its i-th column.
func (s *Census) Ranked(r *Ranking, i int, now event.Ktime) (out []TopRow) {
	if r.best == nil {
		return nil
	}
	best := slices.Clone(r.best[i])
	for j := range best { // as they are now
		best[j].v = s.value(r.Columns[i], best[j].row, max(now, s.last))
	}
	slices.SortFunc(best, rankedRow.order)
	for j, x := range best { // a row may have become that of a source that was there already
		if j == 0 || x.row != best[j-1].row {
			out = append(out, s.row(x.row, max(now, s.last)))
		}
	}
	return out
}
