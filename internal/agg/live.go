package agg

import (
	"iter"
	"math/bits"
	"unsafe"

	"github.com/ctsight/ctsight/internal/prefetch"
)

// Live remembers something of each entry of the conntrack table: when it was
// inserted, to give its destroy a lifetime, or more. The key is the kernel
// address of the entry: of two entries that live at once it differs, and memory
// that is used again shows up as an insert over an old one, which Replaced counts.
//
// It is an open-addressing table with linear probing. A removal shifts the
// entries behind it back, so there are no tombstones and a table that churns
// for days stays as fast as on its first. A slot is 8 bytes and a V; the table
// grows by half when it is three quarters full, so once past its first size an
// entry costs between 4/3 and 2 slots. Growing copies the table once, which takes
// about 20 ms for a million entries; give the expected size to avoid it.
type Live[V any] struct {
	slots    []liveSlot[V]
	n        int
	cap      int
	refused  uint64
	replaced uint64
}

// liveSlot is free if ptr is 0, an address no entry has.
type liveSlot[V any] struct {
	ptr uint64
	v   V
}

// minSlots is the size of the first table.
const minSlots = 1024

// NewLive returns a table for at most limit entries, with room for expected of
// them at once.
func NewLive[V any](limit, expected int) *Live[V] {
	expected = max(0, min(expected, limit))
	return &Live[V]{cap: max(0, limit), slots: make([]liveSlot[V], max(minSlots, slotsFor(expected)))}
}

// slotsFor returns the slots that hold n entries below the load limit of 3/4.
func slotsFor(n int) int { return n + n/3 + 2 }

// home is where the search for ptr starts. Multiplication by the golden ratio
// spreads the even strides of a slab, and the high half of a second one maps
// the hash to a table of any size.
func (l *Live[V]) home(ptr uint64) int {
	hi, _ := bits.Mul64(ptr*0x9E3779B97F4A7C15, uint64(len(l.slots)))
	return int(hi)
}

// find returns the slot of ptr, or the free one where it would go.
func (l *Live[V]) find(ptr uint64) int {
	i := l.home(ptr)
	for l.slots[i].ptr != ptr && l.slots[i].ptr != 0 {
		if i++; i == len(l.slots) {
			i = 0
		}
	}
	return i
}

// Insert notes the entry at ptr. When the table is at its limit it refuses new
// entries and counts them: nothing will be known of them at their destroy, what
// is known of the others stays right. An entry that is there already gets the
// new value. A ptr of 0 is an unknown one and is refused.
func (l *Live[V]) Insert(ptr uint64, v V) bool {
	if ptr == 0 {
		l.refused++
		return false
	}
	i := l.find(ptr)
	if l.slots[i].ptr == ptr {
		l.slots[i].v = v
		l.replaced++
		return true
	}
	if l.n >= l.cap {
		l.refused++
		return false
	}
	if slotsFor(l.n+1) > len(l.slots) {
		l.grow()
		i = l.find(ptr)
	}
	l.slots[i] = liveSlot[V]{ptr, v}
	l.n++
	return true
}

// grow makes the table half as large again, or as large as the limit needs.
func (l *Live[V]) grow() {
	old := l.slots
	l.slots = make([]liveSlot[V], max(minSlots, min(len(old)+len(old)/2, slotsFor(l.cap))))
	for _, s := range old {
		if s.ptr != 0 {
			l.slots[l.find(s.ptr)] = s
		}
	}
}

// Get returns the value of the entry at ptr, to read or change before the next
// insert or removal; nil for an unknown entry.
func (l *Live[V]) Get(ptr uint64) *V {
	if ptr == 0 {
		return nil
	}
	if s := &l.slots[l.find(ptr)]; s.ptr == ptr {
		return &s.v
	}
	return nil
}

// Remove takes the entry at ptr out and returns its value.
func (l *Live[V]) Remove(ptr uint64) (v V, ok bool) {
	if ptr == 0 {
		return v, false
	}
	i := l.find(ptr)
	if l.slots[i].ptr != ptr {
		return v, false
	}
	v = l.slots[i].v
	l.shiftBack(i)
	l.n--
	return v, true
}

// shiftBack frees slot i and moves the entries behind it forward as far as
// their home allows: an entry may go to the hole if the hole lies between its
// home and its place, going round the end.
func (l *Live[V]) shiftBack(hole int) {
	n := len(l.slots)
	for j := hole; ; {
		if j++; j == n {
			j = 0
		}
		s := l.slots[j]
		if s.ptr == 0 {
			break
		}
		if around(j-l.home(s.ptr), n) >= around(j-hole, n) {
			l.slots[hole], hole = s, j
		}
	}
	l.slots[hole] = liveSlot[V]{}
}

func around(d, n int) int {
	if d < 0 {
		d += n
	}
	return d
}

// All walks over the entries in no order. The table must not change meanwhile.
func (l *Live[V]) All() iter.Seq2[uint64, V] {
	return func(yield func(uint64, V) bool) {
		for _, s := range l.slots {
			if s.ptr != 0 && !yield(s.ptr, s.v) {
				return
			}
		}
	}
}

// Len returns the number of entries.
func (l *Live[V]) Len() int { return l.n }

// Cap returns the most entries it will hold.
func (l *Live[V]) Cap() int { return l.cap }

// Bytes returns the memory of the table.
func (l *Live[V]) Bytes() int { return len(l.slots) * int(unsafe.Sizeof(liveSlot[V]{})) }

// Refused counts inserts that found the table at its limit, or had no address.
func (l *Live[V]) Refused() uint64 { return l.refused }

// Replaced counts inserts at an address that was in use: a destroy was missed.
func (l *Live[V]) Replaced() uint64 { return l.replaced }

// Line is where the search for an entry begins.
func (l *Live[V]) Line(ptr uint64) prefetch.Line { return prefetch.Of(&l.slots[l.home(ptr)]) }
