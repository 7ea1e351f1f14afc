package agg

import (
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// peaks finds the highest numbers of new connections in any 10 ms, 100 ms and
// second, by windows that begin at a multiple of 2 ms, and remembers them for each
// of the last two minutes' seconds, so that several who ask at different times all
// see them. An arrival costs an addition; windows are looked at when a second is
// over and what comes late has come.
type peaks struct {
	slot   [peakRing]uint32
	head   int64 // the newest slot that may have counts
	folded int64 // seconds before this one are in high
	used   bool
	high   [peakSeconds]Peaks // by second, in counts
}

const (
	peakRing      = 2048 // slots of 2 ms: 4 s
	slotsInSecond = int64(time.Second / time.Duration(peakSlot))
	peakSeconds   = 128
	peakLate      = slotsInSecond / 2 // how late an arrival may be told
)

// peakWindows are the lengths of the windows, in slots.
var peakWindows = [3]int64{5, 50, 500}

func (p *peaks) add(t event.Ktime, n uint64) {
	i := int64(t / peakSlot)
	if !p.used {
		p.used, p.head, p.folded = true, i, i/slotsInSecond
	}
	if i > p.head {
		p.advance(i)
	}
	i = max(i, p.folded*slotsInSecond) // of a second that is over: late
	p.slot[i%peakRing] += uint32(min(n, 1<<32-1))
}

// advance clears the slots up to i, of which the seconds that were in their place
// are looked at first.
func (p *peaks) advance(i int64) {
	p.fold(i/slotsInSecond - 1)
	if i-p.head >= peakRing {
		p.slot = [peakRing]uint32{}
		p.head = i
	}
	for p.head < i {
		p.head++
		p.slot[p.head%peakRing] = 0
	}
}

// fold looks at the seconds before one that have not been looked at.
func (p *peaks) fold(before int64) {
	if before-p.folded > peakSeconds {
		p.high = [peakSeconds]Peaks{}
		p.folded = before - 1 // nothing came for two minutes
	}
	for ; p.folded < before; p.folded++ {
		p.high[p.folded%peakSeconds] = p.scan(p.folded*slotsInSecond, (p.folded+1)*slotsInSecond)
	}
}

// scan returns the highest counts of windows that end in the slots from a to
// before b.
func (p *peaks) scan(a, b int64) (out Peaks) {
	for w, n := range peakWindows {
		var sum, best uint64
		for i := a - n + 1; i < b; i++ {
			sum += p.at(i)
			if i >= a {
				best = max(best, sum)
				sum -= p.at(i - n + 1)
			}
		}
		*out.window(w) = float64(best)
	}
	return out
}

// at is the count of a slot, 0 where it is not known any more.
func (p *peaks) at(i int64) uint64 {
	if i > p.head || i <= p.head-peakRing || i < 0 {
		return 0
	}
	return uint64(p.slot[i%peakRing])
}

// since returns the highest rates of the seconds that end after a time, up to
// now: nothing is left out between two calls, and at most two seconds come twice.
func (p *peaks) since(t, now event.Ktime) (out Peaks) {
	if !p.used {
		return out
	}
	newest := int64(now / peakSlot)
	if newest-p.head >= peakRing {
		p.advance(newest)
	}
	p.fold((newest - peakLate) / slotsInSecond)
	// The clock of a machine that has just started is younger than the time asked for.
	for s := max(int64(t)/int64(time.Second), p.folded-peakSeconds+1, 0); s < p.folded; s++ {
		out.raise(p.high[s%peakSeconds])
	}
	out.raise(p.scan(p.folded*slotsInSecond, newest+1))
	for w, n := range peakWindows {
		*out.window(w) *= float64(slotsInSecond) / float64(n)
	}
	return out
}

func (p *Peaks) window(i int) *float64 { return [...]*float64{&p.In10ms, &p.In100ms, &p.In1s}[i] }

func (p *Peaks) raise(o Peaks) {
	for i := range peakWindows {
		*p.window(i) = max(*p.window(i), *o.window(i))
	}
}

// Peaks returns the highest rates of new connections since a time, at most two
// minutes back.
func (s *Census) Peaks(since, now event.Ktime) Peaks { return s.peaks.since(since, now) }
