package plan

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// Entries from before somebody listened tell no end. The kernel's counts do: how many had
// gone by each second, and that the collector had come, though it has found nothing else.
func TestCounts(t *testing.T) {
	k := Kernel{Timeouts: DefaultTimeouts()}
	k.Timeouts[UDP] = 5 * time.Second
	x := table(50, 5, 120, 40, 300)
	visits := map[event.Ktime]bool{}
	for i := range x.all {
		visits[x.all[i].End] = x.all[i].End > 0
	}
	delete(visits, 0)
	first := slices.Min(slices.Collect(maps.Keys(visits)))
	x.from = first - 3*event.Ktime(time.Second) // all that it finds are from before
	x.all = slices.DeleteFunc(x.all, func(c Conn) bool { return c.End != 0 && c.End < x.from })
	x.counts = slices.DeleteFunc(x.counts, func(c Count) bool { return c.At < x.from })
	unheard := map[uint64]bool{}
	for i := range x.all {
		c := &x.all[i]
		if c.Cause != 0 {
			c.Cause = event.CauseUnknown
		}
		if c.End == first {
			c.End, c.Silent, c.Expires = 0, true, c.Start+5*event.Ktime(time.Second)
			unheard[c.ID] = true
		}
		if c.Start < x.from {
			c.Start, c.Before = x.from, true
		}
	}
	mean := 0.0
	for _, c := range x.counts {
		mean += float64(c.N) / float64(len(x.counts))
	}
	for name, counts := range map[string][]Count{"counted": x.counts, "not": nil} {
		in := *x
		in.counts = counts
		r := Read(&in, k)
		worst := time.Duration(0)
		for i := range r.Conns {
			if c := &r.Conns[i]; unheard[c.ID] {
				worst = max(worst, c.End.Sub(first), first.Sub(c.End))
			}
		}
		off := math.Abs(r.Simulate(WhatIf{}).Mean/mean - 1)
		t.Logf("%s: an end is %v off at most, %d of %d visits, the mean %.2f %%", name, worst, len(r.passes), len(visits), 100*off)
		if good := worst <= time.Second && off < 0.01 && len(r.passes) == len(visits); good != (counts != nil) {
			t.Errorf("%s: an end is %v off at most of %d, %d of %d visits, the mean %.2f %%", name, worst, len(unheard), len(r.passes), len(visits), 100*off)
		}
	}
}

// Who has time left has not gone: it was somebody who is not known.
func TestCountsUnknown(t *testing.T) {
	s := event.Ktime(time.Second)
	x := &told{to: 100 * s, all: []Conn{{Proto: event.ProtoUDP, Before: true, Silent: true, Fixed: true, Expires: 50 * s}}}
	for at, n := range map[int]uint64{1: 6, 9: 6, 10: 1, 59: 1, 60: 0, 99: 0} {
		x.counts = append(x.counts, Count{event.Ktime(at) * s, n})
	}
	slices.SortFunc(x.counts, func(a, b Count) int { return cmp.Compare(a.At, b.At) })
	r := Read(x, Kernel{Timeouts: DefaultTimeouts()})
	if end := r.Conns[0].End; end <= 59*s || end > 60*s {
		t.Errorf("it went at %v, want a time between 59 and 60 s", end.Sub(0))
	}
}

// Events come a little before or after the count that they are in: never are more said to
// have gone than have, and later counts make it right.
func TestCountsSkew(t *testing.T) {
	s := event.Ktime(time.Second)
	// Until 2 s three have gone unheard and two that tell it late; until 3 s six have
	// come, two of them told late; until 4 s ten more have gone.
	counts := []Count{{s, 100}, {2 * s, 95}, {3 * s, 101}, {4 * s, 91}, {5 * s, 91}}
	begun := []event.Ktime{2*s + 5, 2*s + 5, 2*s + 5, 2*s + 5, 3*s + 1, 3*s + 1}
	ended := []event.Ktime{2*s + 1, 2*s + 1}
	if got := missing(counts, begun, ended); !slices.Equal(got, []int{0, 1, 1, 13, 13}) {
		t.Errorf("%v have gone, 0 3 3 13 13 had", got)
	}
}
