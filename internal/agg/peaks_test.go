package agg

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ctsight/ctsight/internal/event"
)

// slowPeaks is what peaks has to find, by looking at every window.
func slowPeaks(arrivals map[int64]uint64, from, to int64) (out Peaks) {
	for w, n := range peakWindows {
		for end := from; end <= to; end++ {
			var sum uint64
			for i := end - n + 1; i <= end; i++ {
				sum += arrivals[i]
			}
			*out.window(w) = max(*out.window(w), float64(sum)*float64(slotsInSecond)/float64(n))
		}
	}
	return out
}

// Whenever one asks, the peaks since the last time are at least those of all
// windows that ended since, and at most those since two seconds before: the last
// seconds stay open for what is told late.
func TestPeaksProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var p peaks
		arrivals := map[int64]uint64{}
		at := rapid.Int64Range(0, 1e6).Draw(t, "begin")
		first := at
		asked := at - rapid.Int64Range(0, 20_000).Draw(t, "since")
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			at += rapid.SampledFrom([]int64{0, 0, 1, 3, 40, 499, 1200, 3000}).Draw(t, "gap")
			n := uint64(rapid.IntRange(1, 1000).Draw(t, "n"))
			late := rapid.Int64Range(0, peakLate-1).Draw(t, "late")
			slot := max(at-late, p.folded*slotsInSecond, first)
			p.add(event.Ktime(slot)*peakSlot, n)
			arrivals[slot] += n
			if !rapid.Bool().Draw(t, "ask") {
				continue
			}
			now := event.Ktime(at)*peakSlot + peakSlot/2
			got := p.since(event.Ktime(asked)*peakSlot, now)
			low := slowPeaks(arrivals, asked+1, at)
			high := slowPeaks(arrivals, asked-2*slotsInSecond, at)
			for w := range peakWindows {
				if g := *got.window(w); g < *low.window(w) || g > *high.window(w) {
					t.Fatalf("window %d: %v, must be %v to %v", w, g, *low.window(w), *high.window(w))
				}
			}
			asked = at
		}
	})
}

// A burst of 10 ms is seen by two who ask at different times, and is over for
// both when they ask again.
func TestPeaksTwoAskers(t *testing.T) {
	var p peaks
	const second = event.Ktime(time.Second)
	for i := range 100 {
		p.add(100*second+event.Ktime(i)*100_000, 1) // 100 in 10 ms
	}
	want := Peaks{In10ms: 10_000, In100ms: 1000, In1s: 100}
	if got := p.since(90*second, 103*second); got != want {
		t.Errorf("the first sees %+v", got)
	}
	if got := p.since(95*second, 110*second); got != want {
		t.Errorf("the second sees %+v", got)
	}
	if got := p.since(103*second, 118*second); got != (Peaks{}) {
		t.Errorf("the first sees it twice: %+v", got)
	}
	if got := p.since(99*second, 400*second); got != (Peaks{}) {
		t.Errorf("after five minutes: %+v", got)
	}
}
