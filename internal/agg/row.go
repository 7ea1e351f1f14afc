package agg

import (
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// row is what is known of one key: five cache lines without pointers, so that a
// million of them cost the garbage collector nothing. A destroy touches two.
type row struct {
	key  rowKey
	new  uint64
	live uint64

	destroyed   uint64
	first, last event.Ktime // of new, drop or destroy
	why         tally
	outcomes    [numOutcomes]uint32
	_           [4]byte

	at      event.Ktime // where the windows stand
	peak    peak
	rates   rates
	_       [4]byte
	drops   uint64 // not those by the operator's own rules
	evicted uint64
	evictor uint64
	_       [8]byte

	// What a first contact touches.
	dsts, ports distinct
	_           [8]byte
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

// rates are counts over sliding windows of 1 s, 10 s and 1 min in steps of a
// quarter, a fifth and a sixth.
type rates struct {
	s1  [4]uint32
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
	t = max(t, r.at)
	if c := uint32(min(n, 1<<32-1)); r.at != 0 {
		r.peak.add(r.at, t, c)
		r.rates.advance(r.at, t)
		r.rates.add(t, c)
	} else {
		r.peak.add(t, t, c)
		r.rates.add(t, c)
	}
	r.at = t
	r.new += n
}

func (p *peak) add(at, t event.Ktime, n uint32) {
	slide(p.slot[:], int64(at/peakSlot), int64(t/peakSlot))
	p.slot[t/peakSlot%peakSlots] += n
	sum := p.slot[0] + p.slot[1] + p.slot[2] + p.slot[3] + p.slot[4]
	p.max = max(p.max, sum)
}

func (r *rates) advance(at, t event.Ktime) {
	if at/step1 == t/step1 {
		return
	}
	slide(r.s1[:], int64(at/step1), int64(t/step1))
	slide(r.s10[:], int64(at/step10), int64(t/step10))
	slide(r.m1[:], int64(at/step60), int64(t/step60))
}

func (r *rates) add(t event.Ktime, n uint32) {
	r.s1[t/step1%4] += n
	r.s10[t/step10%5] += n
	r.m1[t/step60%6] += n
}

// slide clears the slots between two positions of a ring.
func slide(slots []uint32, from, to int64) {
	if to-from >= int64(len(slots)) {
		clear(slots)
		return
	}
	for i := from + 1; i <= to; i++ {
		slots[i%int64(len(slots))] = 0
	}
}

// Rates are new connections per second.
type Rates struct {
	Now, S1, S10, M1 float64 // over the last quarter of a second, second, 10 s, minute
	Peak10ms         float64 // highest in any 10 ms
}

// ratesAt reads the windows at now, of which no older than began is known.
func (r *row) ratesAt(now, began event.Ktime) Rates {
	w, now := r.rates, max(now, r.at)
	w.advance(r.at, now)
	out := Rates{Peak10ms: float64(r.peak.max) * 100}
	out.Now = windowRate(w.s1[:], step1, now, max(began, now-step1))
	out.S1 = windowRate(w.s1[:], step1, now, max(began, now-4*step1))
	out.S10 = windowRate(w.s10[:], step10, now, max(began, now-5*step10))
	out.M1 = windowRate(w.m1[:], step60, now, max(began, now-6*step60))
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
