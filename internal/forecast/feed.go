package forecast

import (
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// A Feed makes Steps out of events: it counts what is born and what dies, and
// how many entries live by age, without a table of them.
type Feed struct {
	born   uint64
	dead   [NumClasses][Bins + 1]uint32 // the last: of unknown age
	fine   window                       // births by quarter seconds, of the last hour
	old    window                       // births by minutes, before that
	recent quarters
}

// quarters are the births of the last seconds that outlived their first second.
type quarters struct {
	n           [recentSlots]uint32
	first, last int64 // slots of the oldest ever and the newest; 0: none yet
}

const recentSlots = 64 // 16 s

// at returns the count of a slot, nil for one from long ago.
func (q *quarters) at(slot int64) *uint32 {
	if q.last == 0 {
		q.first, q.last = slot, slot
	}
	for ; q.last < slot; q.last++ {
		if q.last < slot-recentSlots {
			q.last = slot - recentSlots
		}
		q.n[(q.last+1)%recentSlots] = 0
	}
	if slot <= q.last-recentSlots || slot < q.first {
		return nil
	}
	return &q.n[slot%recentSlots]
}

// before returns the whole slots before a time, newest first.
func (q *quarters) before(t event.Ktime) []uint32 {
	q.at(int64(t / fineSlot))
	out := make([]uint32, min(recentSlots-1, max(0, q.last-1-q.first)))
	for i := range out {
		out[i] = q.n[(q.last-1-int64(i)+recentSlots)%recentSlots]
	}
	return out
}

// window counts entries that are alive by when they were born.
type window struct {
	first int64 // slot of n[0]
	n     []uint32
}

const (
	fineSlot  = event.Ktime(250 * time.Millisecond)
	oldSlot   = event.Ktime(time.Minute)
	fineSlots = int(time.Hour / time.Duration(fineSlot))
)

// at returns the count of a slot, nil for one from before the first. An empty
// window begins where it ended: what was before has moved on.
func (w *window) at(i int64) *uint32 {
	if i < w.first {
		return nil
	}
	if len(w.n) == 0 {
		w.first = i
	}
	for int64(len(w.n)) <= i-w.first {
		w.n = append(w.n, 0)
	}
	return &w.n[i-w.first]
}

// has is at for what was counted: it makes no slot. A feed that begins late sees
// the end of many that were born long before.
func (w *window) has(i int64) *uint32 {
	if i < w.first || i-w.first >= int64(len(w.n)) {
		return nil
	}
	return &w.n[i-w.first]
}

// trim forgets slots at the beginning in which nobody lives. The last one may get
// births again.
func (w *window) trim() {
	for len(w.n) > 0 && w.n[0] == 0 {
		if w.n = w.n[1:]; len(w.n) > 0 {
			w.first++
		}
	}
}

// New counts an entry that was inserted at t.
func (f *Feed) New(t event.Ktime) {
	f.born++
	if p := f.recent.at(int64(t / fineSlot)); p != nil {
		*p++
	}
	if p := f.fine.at(int64(t / fineSlot)); p != nil {
		*p++
	} else if p := f.old.at(int64(t / oldSlot)); p != nil {
		*p++
	}
}

// Destroy counts the end of an entry, with its age where the event tells its
// lifetime. What early drop takes has not lived to its end: it leaves, and
// teaches nothing.
func (f *Feed) Destroy(e *event.Event) {
	bin := Bins
	if e.HasLifetime {
		life := min(max(0, e.Lifetime), time.Duration(e.Time)) // a capture may say anything
		bin = Bin(life)
		t := e.Time - event.Ktime(life)
		if p := f.recent.at(int64(t / fineSlot)); p != nil && *p > 0 && life < time.Second {
			*p--
		}
		p := f.fine.has(int64(t / fineSlot))
		if p == nil {
			p = f.old.has(int64(t / oldSlot))
		}
		if p != nil && *p > 0 {
			*p--
		}
	}
	if e.Cause != event.EarlyDrop && e.Cause != event.EarlyDropGC {
		f.dead[ClassOf(e.Orig.Proto, e.Status, e.TCPState)][bin]++
	}
}

// Step returns what has happened since the last one.
func (f *Feed) Step(at event.Ktime, entries, limit uint64, sample []Sample) Step {
	s := Step{At: at, Entries: entries, Max: limit, New: f.born, Sample: sample, Recent: f.recent.before(at)}
	for c := range f.dead {
		for b, n := range f.dead[c] {
			if n == 0 {
				continue
			}
			age := Unknown
			if b < Bins {
				age = BinAge(b)
			}
			s.Dead = append(s.Dead, Death{Class: Class(c), Age: age, Count: uint64(n)})
		}
	}
	f.born, f.dead = 0, [NumClasses][Bins + 1]uint32{}
	f.age(at)
	f.fine.ages(at, fineSlot, &s.Live)
	f.old.ages(at, oldSlot, &s.Live)
	return s
}

// age moves births from quarters of a second to minutes after an hour.
func (f *Feed) age(at event.Ktime) {
	for keep := int64(at/fineSlot) - int64(fineSlots); len(f.fine.n) > 0 && f.fine.first < keep; {
		if n := f.fine.n[0]; n > 0 {
			if p := f.old.at(f.fine.first * int64(fineSlot) / int64(oldSlot)); p != nil {
				*p += n
			}
		}
		f.fine.n, f.fine.first = f.fine.n[1:], f.fine.first+1
	}
	f.fine.trim()
	f.old.trim()
}

func (w *window) ages(at, slot event.Ktime, live *[Bins]uint64) {
	for i, n := range w.n {
		if n > 0 {
			middle := event.Ktime(w.first+int64(i))*slot + slot/2
			live[Bin(max(0, at.Sub(middle)))] += uint64(n)
		}
	}
}
