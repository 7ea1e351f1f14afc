package agg

import "math"

// rows is a bounded table of one dimension: open addressing over a slab, so
// that a row never moves and growing copies 8 bytes a row. At the limit each
// new row takes the place of the weakest of the next few in turn, whose sums go
// to other: no pause, however many sources come, and one that keeps coming is
// not driven out by ten million that came once. Sums of all rows and other stay
// exact; a row that was folded and came back has what it had since.
type rows struct {
	dim   Dim
	seed  uint64
	limit int

	index  []uint64 // high half of the hash, which says the home too, and number of the row plus one; 0 free
	chunks [][]row
	n      int // rows in use; they fill the slab from its start
	hand   int // where the search for a weak row goes on

	other  Sums
	folded uint64 // times a row went into other
	blocks *blocks
}

const (
	rowsPerChunk = 1024
	minIndex     = 1024
	candidates   = 8
)

func newRows(d Dim, limit int, seed uint64, b *blocks) *rows {
	return &rows{dim: d, seed: seed, limit: max(1, limit), index: make([]uint64, minIndex), blocks: b}
}

func (t *rows) at(i int) *row { return &t.chunks[i/rowsPerChunk][i%rowsPerChunk] }

// find returns the row of k with hash h, nil if there is none.
func (t *rows) find(k *rowKey, h uint64) *row {
	if i := t.index[t.search(k, h)]; i != 0 {
		return t.at(int(uint32(i)) - 1)
	}
	return nil
}

// search returns the place in the index of k, or the free one where it would go.
func (t *rows) search(k *rowKey, h uint64) int {
	mask := len(t.index) - 1
	for i := t.home(h); ; i = (i + 1) & mask {
		e := t.index[i]
		if e == 0 || e>>32 == h>>32 && t.at(int(uint32(e))-1).key.same(k) {
			return i
		}
	}
}

// home is where the search for a hash starts, or for an entry of the index: its
// high half is the hash's, so that an entry moves without a look at its row.
func (t *rows) home(h uint64) int { return int(h>>32) & (len(t.index) - 1) }

// likely returns the number of the row that h belongs to plus one, 0 for none,
// without a look at its key: once in a long while that of another.
func (t *rows) likely(h uint64) uint32 {
	mask := len(t.index) - 1
	i := t.home(h)
	for t.index[i] != 0 && t.index[i]>>32 != h>>32 {
		i = (i + 1) & mask
	}
	return uint32(t.index[i])
}

// get returns the row of k with hash h, a new one if need be.
func (t *rows) get(k *rowKey, h uint64) *row {
	i := t.search(k, h)
	if e := t.index[i]; e != 0 {
		return t.at(int(uint32(e)) - 1)
	}
	var place int
	switch {
	case t.n >= t.limit:
		place = t.evict()
		i = t.search(k, h) // the index has moved
	default:
		if 4*(t.n+1) > 3*len(t.index) {
			t.grow()
			i = t.search(k, h)
		}
		place = t.n
		if place == len(t.chunks)*rowsPerChunk {
			t.chunks = append(t.chunks, make([]row, rowsPerChunk))
		}
		t.n++
	}
	t.index[i] = h>>32<<32 | uint64(place+1)
	r := t.at(place)
	*r = row{key: *k}
	return r
}

func (t *rows) grow() {
	old := t.index
	t.index = make([]uint64, 2*len(old))
	mask := len(t.index) - 1
	for _, e := range old {
		if e == 0 {
			continue
		}
		i := t.home(e)
		for t.index[i] != 0 {
			i = (i + 1) & mask
		}
		t.index[i] = e
	}
}

// weight is what makes a row worth keeping.
func (r *row) weight() uint64 { return r.new + above0(r.live) + r.drops + r.evicted + r.evictor }

// evict folds the weakest of the next rows into other and returns its place.
// Among equals the one that was quiet for longest goes.
func (t *rows) evict() int {
	weakest, least, quiet := 0, uint64(math.MaxUint64), int64(0)
	for range min(candidates, t.n) {
		if t.hand++; t.hand >= t.n {
			t.hand = 0
		}
		r := t.at(t.hand)
		if w := r.weight(); w < least || w == least && int64(r.last()) < quiet {
			weakest, least, quiet = t.hand, w, int64(r.last())
		}
	}
	r := t.at(weakest)
	t.remove(t.search(&r.key, r.key.hash(t.seed)))
	t.other.add(r)
	t.folded++
	t.blocks.release(&r.dsts)
	t.blocks.release(&r.ports)
	return weakest
}

// remove frees a place of the index and moves back what lies behind it.
func (t *rows) remove(hole int) {
	mask := len(t.index) - 1
	for j := (hole + 1) & mask; t.index[j] != 0; j = (j + 1) & mask {
		e := t.index[j]
		if (j-t.home(e))&mask >= (j-hole)&mask {
			t.index[hole], hole = e, j
		}
	}
	t.index[hole] = 0
}

// bytes is the memory of the table, its blocks apart.
func (t *rows) bytes() int { return len(t.index)*8 + len(t.chunks)*rowsPerChunk*rowBytes }

// Sums are the counts of one or many rows.
type Sums struct {
	New                           uint64 // connections, refused ones not among them
	Live                          uint64 // entries in the table
	Destroyed                     uint64
	Drops                         uint64 // packets lost, those to the operator's own rules not among them
	Evicted                       uint64 // entries lost to early_drop or to the garbage collector of a nearly full table
	Evictor                       uint64 // entries of anybody that packets of this one drove out
	Answered, Refused, Unanswered uint64 // first contacts by outcome
}

func (s *Sums) add(r *row) {
	o := r.sums()
	o.Live = r.live // below zero as well: what is missing to one is with another
	s.Plus(&o)
}

// Plus adds the sums of others.
func (s *Sums) Plus(o *Sums) {
	s.New += o.New
	s.Live += o.Live
	s.Destroyed += o.Destroyed
	s.Drops += o.Drops
	s.Evicted += o.Evicted
	s.Evictor += o.Evictor
	s.Answered += o.Answered
	s.Refused += o.Refused
	s.Unanswered += o.Unanswered
}

func (r *row) sums() Sums {
	return Sums{New: r.new, Live: above0(r.live), Destroyed: r.destroyed, Drops: r.drops, Evicted: r.evicted, Evictor: r.evictor,
		Answered: uint64(r.outcomes[Answered]), Refused: uint64(r.outcomes[Refused]), Unanswered: uint64(r.outcomes[Unanswered])}
}
