package detect

import (
	"math"

	"github.com/ctsight/ctsight/internal/prefetch"
)

// table is a bounded map from hashes to values that do not move. When it is full a
// newcomer takes the place of the weakest of the next few in turn, so that what
// comes back again and again is not driven out by what came once. Which one that is
// does not depend on the hashes. A hash stands for its key: the index keeps half of
// it beside the slot, so that looking up is one miss and one for the value; two that
// meet there agree with a probability of 2^-32.
type table[V any] struct {
	index  []uint64 // lower half of the hash, number of the slot plus one; 0 free
	hashes []uint64 // by slot
	chunks [][]V
	n      int
	limit  int
	hand   int
	keep   *V     // whose place is not needed
	made   uint32 // values that somebody got
	epoch  uint32 // of them those that were another's
	weaker func(a, b *V) bool
	chunk  func(n int) []V
	reset  func(*V) // makes a value that of nobody
}

const (
	perChunk   = 256
	candidates = 8
)

func newTable[V any](limit int, weaker func(a, b *V) bool) *table[V] {
	return &table[V]{index: make([]uint64, 256), limit: max(1, limit), weaker: weaker,
		chunk: func(n int) []V { return make([]V, n) },
		reset: func(v *V) { var zero V; *v = zero }}
}

func (t *table[V]) at(i int) *V { return &t.chunks[i/perChunk][i%perChunk] }

// search returns the place in the index of h, or the free one where it would go.
func (t *table[V]) search(h uint64) int {
	mask := len(t.index) - 1
	for i := int(h>>32) & mask; ; i = (i + 1) & mask {
		if x := t.index[i]; x == 0 || x>>32 == h&math.MaxUint32 {
			return i
		}
	}
}

// slotOf is the slot of a place in the index, -1 for a free one.
func slotOf(x uint64) int { return int(uint32(x)) - 1 }

func entry(h uint64, slot int) uint64 { return h<<32 | uint64(slot+1) }

// line is that of the home of h.
func (t *table[V]) line(h uint64) prefetch.Line {
	return prefetch.Of(&t.index[int(h>>32)&(len(t.index)-1)])
}

// find returns the value of h, nil if there is none.
func (t *table[V]) find(h uint64) *V {
	if s := slotOf(t.index[t.search(h)]); s >= 0 {
		return t.at(s)
	}
	return nil
}

// get returns the value of h, a zero one if there was none. Who had to make room is
// in gone until the next call; it is the caller's to empty it.
func (t *table[V]) get(h uint64, gone func(*V)) (v *V, fresh bool) {
	i := t.search(h)
	if s := slotOf(t.index[i]); s >= 0 {
		return t.at(s), false
	}
	slot := t.n
	if t.n < t.limit {
		if 2*(t.n+1) > len(t.index) {
			t.grow()
		}
		if slot == len(t.chunks)*perChunk {
			t.chunks = append(t.chunks, t.chunk(perChunk))
		}
		t.hashes = append(t.hashes, h)
		t.n++
	} else {
		slot = t.weakest()
		t.epoch++
		gone(t.at(slot))
		t.forget(slot)
		t.hashes[slot] = h
	}
	t.index[t.search(h)] = entry(h, slot)
	t.made++
	v = t.at(slot)
	t.reset(v)
	return v, true
}

// weakest is the slot of the weakest of the next few.
func (t *table[V]) weakest() int {
	best := t.hand
	for k := range min(candidates, t.n) {
		i := (t.hand + k) % t.n
		if v, b := t.at(i), t.at(best); b == t.keep || v != t.keep && t.weaker(v, b) {
			best = i
		}
	}
	t.hand = (t.hand + min(candidates, t.n)) % t.n
	return best
}

func (t *table[V]) grow() {
	t.index = make([]uint64, 2*len(t.index))
	for s, h := range t.hashes {
		mask := len(t.index) - 1
		i := int(h>>32) & mask
		for t.index[i] != 0 {
			i = (i + 1) & mask
		}
		t.index[i] = entry(h, s)
	}
}

// forget takes a slot out of the index and moves those behind it up.
func (t *table[V]) forget(slot int) {
	mask := len(t.index) - 1
	i := int(t.hashes[slot]>>32) & mask
	for slotOf(t.index[i]) != slot {
		i = (i + 1) & mask
	}
	for j := (i + 1) & mask; t.index[j] != 0; j = (j + 1) & mask {
		home := int(t.hashes[slotOf(t.index[j])]>>32) & mask
		if (j-home)&mask >= (j-i)&mask {
			t.index[i] = t.index[j]
			i = j
		}
	}
	t.index[i] = 0
}

// all calls fn for every value, in the order of their slots.
func (t *table[V]) all(fn func(*V)) {
	for i := range t.n {
		fn(t.at(i))
	}
}
