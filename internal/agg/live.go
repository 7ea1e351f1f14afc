package agg

import (
	"iter"
	"math/bits"

	"github.com/ctsight/ctsight/internal/event"
)

// Live remembers when each entry of the conntrack table was inserted, to give
// its destroy a lifetime. The key is the kernel address of the entry: of two
// entries that live at once it differs, and memory that is used again shows up
// as an insert over an old one, which Replaced counts.
//
// It is an open-addressing table with linear probing. A removal shifts the
// entries behind it back, so there are no tombstones and a table that churns
// for days stays as fast as on its first. A slot is 16 bytes; the table grows
// by half when it is three quarters full, so once past its first size an entry
// costs between 21 and 32 bytes. Growing copies the table once, which takes
// about 20 ms for a million entries; give the expected size to avoid it.
type Live struct {
	slots    []liveSlot
	n        int
	cap      int
	refused  uint64
	replaced uint64
}

// liveSlot is free if ptr is 0, an address no entry has.
type liveSlot struct {
	ptr uint64
	t   event.Ktime
}

// minSlots is the size of the first table.
const minSlots = 1024

// NewLive returns a table for at most limit entries, with room for expected of
// them at once.
func NewLive(limit, expected int) *Live {
	expected = max(0, min(expected, limit))
	return &Live{cap: max(0, limit), slots: make([]liveSlot, max(minSlots, slotsFor(expected)))}
}

// slotsFor returns the slots that hold n entries below the load limit of 3/4.
func slotsFor(n int) int { return n + n/3 + 2 }

// home is where the search for ptr starts. Multiplication by the golden ratio
// spreads the even strides of a slab, and the high half of a second one maps
// the hash to a table of any size.
func (l *Live) home(ptr uint64) int {
	hi, _ := bits.Mul64(ptr*0x9E3779B97F4A7C15, uint64(len(l.slots)))
	return int(hi)
}

// find returns the slot of ptr, or the free one where it would go.
func (l *Live) find(ptr uint64) int {
	i := l.home(ptr)
	for l.slots[i].ptr != ptr && l.slots[i].ptr != 0 {
		if i++; i == len(l.slots) {
			i = 0
		}
	}
	return i
}

// Insert notes that the entry at ptr went into the table at t. When the table
// is at its limit it refuses new entries and counts them: their destroys will
// have no lifetime, those of the others stay right. An entry that is there
// already gets the new time. A ptr of 0 is an unknown one and is refused.
func (l *Live) Insert(ptr uint64, t event.Ktime) bool {
	if ptr == 0 {
		l.refused++
		return false
	}
	i := l.find(ptr)
	if l.slots[i].ptr == ptr {
		l.slots[i].t = t
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
	l.slots[i] = liveSlot{ptr, t}
	l.n++
	return true
}

// grow makes the table half as large again, or as large as the limit needs.
func (l *Live) grow() {
	old := l.slots
	l.slots = make([]liveSlot, max(minSlots, min(len(old)+len(old)/2, slotsFor(l.cap))))
	for _, s := range old {
		if s.ptr != 0 {
			l.slots[l.find(s.ptr)] = s
		}
	}
}

// Get returns when the entry at ptr was inserted.
func (l *Live) Get(ptr uint64) (event.Ktime, bool) {
	if ptr == 0 {
		return 0, false
	}
	s := l.slots[l.find(ptr)]
	return s.t, s.ptr == ptr
}

// Remove takes the entry at ptr out and returns when it was inserted.
func (l *Live) Remove(ptr uint64) (event.Ktime, bool) {
	if ptr == 0 {
		return 0, false
	}
	i := l.find(ptr)
	if l.slots[i].ptr != ptr {
		return 0, false
	}
	t := l.slots[i].t
	l.shiftBack(i)
	l.n--
	return t, true
}

// shiftBack frees slot i and moves the entries behind it forward as far as
// their home allows: an entry may go to the hole if the hole lies between its
// home and its place, going round the end.
func (l *Live) shiftBack(hole int) {
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
	l.slots[hole] = liveSlot{}
}

func around(d, n int) int {
	if d < 0 {
		d += n
	}
	return d
}

// All walks over the entries in no order. The table must not change meanwhile.
func (l *Live) All() iter.Seq2[uint64, event.Ktime] {
	return func(yield func(uint64, event.Ktime) bool) {
		for _, s := range l.slots {
			if s.ptr != 0 && !yield(s.ptr, s.t) {
				return
			}
		}
	}
}

// Len returns the number of entries.
func (l *Live) Len() int { return l.n }

// Cap returns the most entries it will hold.
func (l *Live) Cap() int { return l.cap }

// Bytes returns the memory of the table.
func (l *Live) Bytes() int { return len(l.slots) * 16 }

// Refused counts inserts that found the table at its limit, or had no address.
func (l *Live) Refused() uint64 { return l.refused }

// Replaced counts inserts at an address that was in use: a destroy was missed.
func (l *Live) Replaced() uint64 { return l.replaced }
