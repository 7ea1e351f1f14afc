package report

import (
	"math/bits"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// LifeBuckets is how many powers of two of a microsecond lifetimes are told apart by;
// the last one begins at 6.4 days.
const LifeBuckets = 40

// Column is what happened in one place of the time axis.
type Column struct {
	New, Destroyed, Evicted, Dropped uint64
	Peak                             uint64 // most inserts in any 10 ms that end in it
	Lost                             uint64 // of our own records
	Gap                              bool   // records are missing
	Lives                            [LifeBuckets]uint32
}

// plus adds the column after it.
func (c *Column) plus(o *Column) {
	c.New, c.Destroyed, c.Evicted, c.Dropped = c.New+o.New, c.Destroyed+o.Destroyed, c.Evicted+o.Evicted, c.Dropped+o.Dropped
	c.Peak, c.Lost, c.Gap = max(c.Peak, o.Peak), c.Lost+o.Lost, c.Gap || o.Gap
	for i, n := range o.Lives {
		c.Lives[i] += n
	}
}

// columns are the time axis, in the fine columns of a zoom. Columns are numbered from the
// beginning of time, so that those of twice the width are the pairs of those before.
type columns struct {
	width event.Ktime
	base  int64 // number of the first
	all   []Column
}

func (c *columns) begin(at event.Ktime) {
	c.width = narrowest
	c.base = int64(at / c.width)
	c.all = append(make([]Column, 0, maxColumns<<fineBits), Column{})
}

func (c *columns) last() *Column { return &c.all[len(c.all)-1] }

// now is the number of the last column of the pictures.
func (c *columns) now() int64 { return (c.base + int64(len(c.all)) - 1) >> fineBits }

// first is the number of the first one.
func (c *columns) first() int64 { return c.base >> fineBits }

// fits says whether there is a column for a time, or room for one.
func (c *columns) fits(at event.Ktime) bool {
	return int64(at/c.width)>>fineBits-c.first() < maxColumns
}

// extend appends columns up to a time.
func (c *columns) extend(at event.Ktime) {
	for n := int64(at/c.width) - c.base; int64(len(c.all)) <= n; {
		c.all = append(c.all, Column{})
	}
}

// halve makes columns twice as wide.
func (c *columns) halve() {
	c.all = pairs(c.all, c.base, (*Column).plus)
	c.base >>= 1
	c.width *= 2
}

// pairs joins neighbours: those whose numbers, of which the first has base, are the same
// when halved.
func pairs[T any](all []T, base int64, plus func(a, b *T)) []T {
	out := all[:0]
	for i := range all {
		if n := len(out); n > 0 && (base+int64(i))&1 == 1 {
			plus(&out[n-1], &all[i])
		} else {
			out = append(out, all[i])
		}
	}
	return out
}

// coarse are the columns of the pictures: what is in fine ones, of which the first has
// the number base.
func coarse[T any](fine []T, base int64, plus func(a, b *T)) []T {
	all := slices.Clone(fine)
	for i := range fineBits {
		all = pairs(all, base>>i, plus)
	}
	return all
}

// lose notes what is missing of the records. It is in the column in which that was told.
func (c *columns) lose(l Loss) {
	if l.Lost == 0 {
		return
	}
	c.last().Lost += l.Lost
	for i := max(0, int64(l.From/c.width)-c.base); i < int64(len(c.all)); i++ {
		c.all[i].Gap = true
	}
}

// lifeBucket is the power of two of a lifetime in microseconds.
func lifeBucket(d time.Duration) int {
	return min(bits.Len64(uint64(max(1, d.Microseconds())))-1, LifeBuckets-1)
}

// peak counts the inserts of the last 10 ms, by slots of 2 ms as everywhere in ctsight.
type peak struct {
	slot [5]uint64
	at   int64
	sum  uint64
}

const peakSlot = event.Ktime(2 * time.Millisecond)

// add counts one, and returns how many there were in the 10 ms that end with t.
func (p *peak) add(t event.Ktime) uint64 {
	i := int64(t / peakSlot)
	if i-p.at >= int64(len(p.slot)) {
		*p = peak{at: i}
	}
	for p.at < i {
		p.at++
		x := &p.slot[p.at%int64(len(p.slot))]
		p.sum -= *x
		*x = 0
	}
	p.slot[p.at%int64(len(p.slot))]++
	p.sum++
	return p.sum
}
