package agg

import (
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// row is what is known of one key: five cache lines without pointers, so that a
// million of them cost the garbage collector nothing. An insert touches two, and
// a third in a new quarter of a second; a destroy two; a first contact the last.
type row struct {
	key  rowKey
	new  uint64
	live uint64

	// An insert.
	at    event.Ktime // where the windows stand: the last one's time, 0 if there was none
	began event.Ktime // the first one's
	peak  peak
	s1    [4]uint32
	_     [8]byte

	// A destroy.
	destroyed uint64
	why       tally
	outcomes  [numOutcomes]uint32
	_         [4]byte
	from, to  event.Ktime // of drops, destroys and what they stand for: first and last

	slow    slow
	_       [4]byte
	drops   uint64 // not those by the operator's own rules
	evicted uint64

	// A first contact.
	dsts, ports distinct
	evictor     uint64
}

// first and last are of new, drop or destroy; 0 if there was none.
func (r *row) first() event.Ktime {
	if r.began == 0 || r.from == 0 {
		return r.began + r.from
	}
	return min(r.began, r.from)
}

func (r *row) last() event.Ktime { return max(r.at, r.to) }

// touch notes something at t that is not an insert.
func (r *row) touch(t event.Ktime) {
	if r.from == 0 {
		r.from = t
	}
	r.to = max(r.to, t)
}

// Outcome is what became of the first contact of a source with an endpoint.
type Outcome uint8

// Outcomes of first contacts. One that was unanswered and gets an answer later
// is answered.
const (
	Answered   Outcome = iota // the entry saw a packet in the other direction
	Refused                   // killed by an RST before anything else came back
	Unanswered                // nothing came back within 3 s, or before its destroy
	numOutcomes
)

// peak finds the highest number in any 10 ms, by windows that begin at a
// multiple of 2 ms: at least 5/6 of it for an even burst.
type peak struct {
	slot [peakSlots]uint32
	max  uint32
}

const (
	peakSlots = 5
	peakSlot  = event.Ktime(2 * time.Millisecond)
)

// slow are the counts over sliding windows of 10 s and 1 min in steps of a fifth
// and a sixth. Those of 1 s, in steps of a quarter, are row.s1; what the quarter
// in progress has comes here at its end.
type slow struct {
	s10 [5]uint32
	m1  [6]uint32
}

const (
	step1  = event.Ktime(250 * time.Millisecond)
	step10 = 8 * step1
	step60 = 5 * step10
)

// arrive counts n new connections at t. The windows never run back: what comes
// late counts where they stand.
func (r *row) arrive(t event.Ktime, n uint64) {
	if r.at == 0 {
		r.at, r.began = t, t
	}
	t = max(t, r.at)
	c := uint32(min(n, 1<<32-1))
	r.peak.add(r.at, t, c)
	r.advance(t)
	r.s1[uint64(t)/uint64(step1)%4] += c
	r.new += n
}

// Times are never below 0, and unsigned they divide faster.

func (p *peak) add(at, t event.Ktime, n uint32) {
	i, to := uint64(at)/uint64(peakSlot), uint64(t)/uint64(peakSlot)
	if to-i >= peakSlots {
		p.slot = [peakSlots]uint32{}
		i = to
	}
	for ; i < to; i++ {
		p.slot[(i+1)%peakSlots] = 0
	}
	p.slot[to%peakSlots] += n
	sum := p.slot[0] + p.slot[1] + p.slot[2] + p.slot[3] + p.slot[4]
	p.max = max(p.max, sum)
}

// advance moves the windows to t.
func (r *row) advance(t event.Ktime) {
	from, to := uint64(r.at)/uint64(step1), uint64(t)/uint64(step1)
	r.at = t
	if from == to {
		return
	}
	r.slow.add(from, r.s1[from%4])
	r.slow.advance(from, to)
	if to-from >= 4 {
		r.s1 = [4]uint32{}
		return
	}
	for i := from; i < to; i++ {
		r.s1[(i+1)%4] = 0
	}
}

// quarters10 and quarters60 are the steps of the slow windows.
const (
	quarters10 = uint64(step10 / step1)
	quarters60 = uint64(step60 / step1)
)

// add counts n in a quarter of a second.
func (s *slow) add(quarter uint64, n uint32) {
	s.s10[quarter/quarters10%5] += n
	s.m1[quarter/quarters60%6] += n
}

// advance clears the slots between two quarters.
func (s *slow) advance(from, to uint64) {
	slide(s.s10[:], from/quarters10, to/quarters10)
	slide(s.m1[:], from/quarters60, to/quarters60)
}

// slide clears the slots between two positions of a ring.
func slide(slots []uint32, from, to uint64) {
	n := uint64(len(slots))
	if to-from >= n {
		clear(slots)
		return
	}
	for ; from < to; from++ {
		slots[(from+1)%n] = 0
	}
}

// Rates are new connections per second.
type Rates struct {
	Now, S1, S10, M1 float64 // over the last quarter of a second, second, 10 s, minute
	Peak10ms         float64 // highest in any 10 ms
}

// ratesAt reads the windows at now, of which no older than began is known.
func (r *row) ratesAt(now, began event.Ktime) Rates {
	w := row{at: r.at, s1: r.s1, slow: r.slow}
	now = max(now, r.at)
	w.advance(now)
	quarter := uint64(now) / uint64(step1)
	w.slow.add(quarter, w.s1[quarter%4])
	out := Rates{Peak10ms: float64(r.peak.max) * 100}
	out.Now = windowRate(w.s1[:], step1, now, max(began, now-step1))
	out.S1 = windowRate(w.s1[:], step1, now, max(began, now-4*step1))
	out.S10 = windowRate(w.slow.s10[:], step10, now, max(began, now-5*step10))
	out.M1 = windowRate(w.slow.m1[:], step60, now, max(began, now-6*step60))
	return out
}

// windowRate is the rate since from: whole slots, and of the slot that from lies
// in the part after it.
func windowRate(slots []uint32, step, now, from event.Ktime) float64 {
	if now <= from {
		return 0
	}
	sum, n := 0.0, event.Ktime(len(slots))
	for i := now / step; i >= from/step && i > now/step-n; i-- {
		part := 1.0
		if begin := i * step; begin < from {
			part = float64(begin+step-from) / float64(step)
		}
		sum += part * float64(slots[i%n])
	}
	return sum / now.Sub(from).Seconds()
}

// tally counts by a small number; what finds no place goes to the last, which
// is then called more.
type tally struct {
	code [tallySize]uint8 // see dropCode
	n    [tallySize]uint32
	more uint32
}

const tallySize = 4

// Codes of a tally: causes of destroys as they are, reasons of drops with the
// highest bit.
const dropCode = 0x80

func (t *tally) add(code uint8, n uint64) {
	c := uint32(min(n, 1<<32-1))
	for i := range t.n {
		if t.n[i] == 0 || t.code[i] == code {
			t.code[i] = code
			t.n[i] += c
			return
		}
	}
	t.more += c
}
