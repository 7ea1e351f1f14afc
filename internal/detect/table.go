package detect

// table is a bounded map from hashes to values that do not move. When it is full a
// newcomer takes the place of the weakest of the next few in turn, so that what
// comes back again and again is not driven out by what came once. Which one that is
// does not depend on the hashes. A hash of 64 bits stands for its key: among 2^17
// two agree with a probability of 5e-10.
type table[V any] struct {
	index  []uint32 // number of the slot plus one; 0 free
	hashes []uint64 // by slot
	chunks [][]V
	n      int
	limit  int
	hand   int
	weaker func(a, b *V) bool
}

const (
	perChunk   = 256
	candidates = 8
)

func newTable[V any](limit int, weaker func(a, b *V) bool) *table[V] {
	return &table[V]{index: make([]uint32, 256), limit: max(1, limit), weaker: weaker}
}

func (t *table[V]) at(i int) *V { return &t.chunks[i/perChunk][i%perChunk] }

// search returns the place in the index of h, or the free one where it would go.
func (t *table[V]) search(h uint64) int {
	mask := len(t.index) - 1
	for i := int(h>>32) & mask; ; i = (i + 1) & mask {
		if s := t.index[i]; s == 0 || t.hashes[s-1] == h {
			return i
		}
	}
}

// peek reads the home of h.
func (t *table[V]) peek(h uint64) uint32 { return t.index[int(h>>32)&(len(t.index)-1)] }

// find returns the value of h, nil if there is none.
func (t *table[V]) find(h uint64) *V {
	if s := t.index[t.search(h)]; s != 0 {
		return t.at(int(s) - 1)
	}
	return nil
}

// get returns the value of h, a zero one if there was none. Who had to make room is
// in gone until the next call; it is the caller's to empty it.
func (t *table[V]) get(h uint64, gone func(*V)) (v *V, fresh bool) {
	i := t.search(h)
	if s := t.index[i]; s != 0 {
		return t.at(int(s) - 1), false
	}
	slot := t.n
	if t.n < t.limit {
		if 2*(t.n+1) > len(t.index) {
			t.grow()
		}
		if slot == len(t.chunks)*perChunk {
			t.chunks = append(t.chunks, make([]V, perChunk))
		}
		t.hashes = append(t.hashes, h)
		t.n++
	} else {
		slot = t.weakest()
		gone(t.at(slot))
		t.forget(t.hashes[slot])
		t.hashes[slot] = h
	}
	t.index[t.search(h)] = uint32(slot + 1)
	v = t.at(slot)
	var zero V
	*v = zero
	return v, true
}

// weakest is the slot of the weakest of the next few.
func (t *table[V]) weakest() int {
	best := t.hand
	for k := range min(candidates, t.n) {
		i := (t.hand + k) % t.n
		if t.weaker(t.at(i), t.at(best)) {
			best = i
		}
	}
	t.hand = (t.hand + min(candidates, t.n)) % t.n
	return best
}

func (t *table[V]) grow() {
	t.index = make([]uint32, 2*len(t.index))
	for s, h := range t.hashes {
		mask := len(t.index) - 1
		i := int(h>>32) & mask
		for t.index[i] != 0 {
			i = (i + 1) & mask
		}
		t.index[i] = uint32(s + 1)
	}
}

// forget takes h out of the index and moves those behind it up.
func (t *table[V]) forget(h uint64) {
	mask := len(t.index) - 1
	i := t.search(h)
	for j := (i + 1) & mask; t.index[j] != 0; j = (j + 1) & mask {
		home := int(t.hashes[t.index[j]-1]>>32) & mask
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
