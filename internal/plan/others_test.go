package plan

import (
	"iter"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// told are connections, and how many there were on average.
type told struct {
	all      []Conn
	from, to event.Ktime
	read     event.Ktime
	mean     float64
	counts   []Count
}

func (x *told) All() iter.Seq[Conn]            { return slices.Values(x.all) }
func (x *told) Window() (from, to event.Ktime) { return x.from, x.to }
func (x *told) Pools() []Pool                  { return nil }
func (x *told) Read() event.Ktime              { return x.read }
func (x *told) Counts() []Count                { return x.counts }

// table is a kernel's, by brute force: flows that come rate times a second and have one
// packet, others that have as much left whenever the collector looks, and the collector.
func table(rate, timeout, seconds, others, othersLeft int) *told {
	const hz, skip = 250, 200 * 250
	step, hash := hz/rate, rand.New(rand.NewPCG(1, 2))
	x := &told{to: event.Ktime(seconds) * event.Ktime(time.Second)}
	at := func(jiffies int) event.Ktime { return event.Ktime(jiffies-skip) * event.Ktime(time.Second) / hz }
	var live []int // when they came
	next, id, area := 37*hz, uint64(0), 0
	for now := 1; now <= skip+seconds*hz; now++ {
		if now%step == 0 {
			live = append(live, now)
		}
		if now > skip {
			area += len(live)
		}
		if now > skip && now%hz == 0 {
			x.counts = append(x.counts, Count{at(now), uint64(len(live))})
		}
		if now < next {
			continue
		}
		var left, kept []int
		for _, came := range live {
			if came+timeout*hz > now {
				kept, left = append(kept, came), append(left, came+timeout*hz-now, came+timeout*hz-now)
				continue
			}
			if id++; now > skip {
				c := Conn{Start: max(0, at(came)), End: at(now), Cause: event.TimeoutGC, ID: id, Proto: event.ProtoUDP, Before: came <= skip}
				x.all = append(x.all, c)
			}
		}
		live = kept
		for range 2 * others {
			left = append(left, othersLeft*hz)
		}
		hash.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
		next = wheel(now, gcInterval(hz, left))
	}
	for _, came := range live {
		id++
		x.all = append(x.all, Conn{Start: max(0, at(came)), ID: id, Proto: event.ProtoUDP, Before: came <= skip, Expires: at(came + timeout*hz)})
	}
	x.mean = float64(area) / float64(seconds*hz)
	return x
}

// wheel is when a timer goes off that shall after so many jiffies (calc_index of
// kernel/time/timer.c, written down once more from the source).
func wheel(now, after int) int {
	shift := 0
	for limit := 64; after >= limit; limit <<= 3 {
		shift += 3
	}
	return ((now+after)>>shift + 1) << shift
}

// settled is how many entries there were on average after the first minute.
func settled(run *Run) (mean float64) {
	for _, n := range run.Curve[60:] {
		mean += float64(n) / float64(len(run.Curve)-60)
	}
	return mean
}

// Entries of other namespaces keep the collector away, or have it come more often: a
// what-if takes that over from how it came. Those that have about as much left as the
// collector sleeps cannot be told from fewer others.
func TestOthers(t *testing.T) {
	for _, c := range []struct{ rate, others, left int }{
		{5, 0, 0}, {50, 0, 0}, {250, 0, 0}, {250, 60, 300}, {5, 300, 300}, {5, 40, 300}, {50, 40, 300}, {50, 1000, 300}, {5, 200, 12}, {50, 100, 20}, {5, 100, 60},
	} {
		k := Kernel{Timeouts: DefaultTimeouts()}
		k.Timeouts[UDP] = 5 * time.Second
		r := Read(table(c.rate, 5, 900, c.others, c.left), k)
		for _, timeout := range []int{2, 15, 30} {
			want := table(c.rate, timeout, 3000, c.others, c.left).mean
			run := r.Simulate(WhatIf{Timeouts: []Change{{UDP, time.Duration(timeout) * time.Second}}})
			got := settled(&run)
			within := 0.05
			if c.left == 20 || c.left == 60 {
				within = 0.20
			}
			t.Logf("%+v, udp=%d: %+.1f %%, others %+v", c, timeout, 100*(got/want-1), r.others)
			if math.Abs(got/want-1) > within {
				t.Errorf("%+v, udp=%d: %.1f entries, want %.1f; others %+v", c, timeout, got, want, r.others)
			}
		}
	}
}

// Where nobody tells who removed an entry, two that lookups find in a moment are no visit
// of the collector.
func TestCrowds(t *testing.T) {
	k := Kernel{Timeouts: DefaultTimeouts()}
	k.Timeouts[UDP] = 5 * time.Second
	x := table(5, 5, 300, 0, 0)
	visits := map[event.Ktime]bool{}
	for i := range x.all {
		if c := &x.all[i]; c.Cause != 0 {
			c.Cause = event.CauseUnknown
			visits[c.End] = c.End >= event.Ktime(time.Second) // else it may be who read the table
		}
	}
	pairs := 0
	for i := 0; i+40 < len(x.all); i += 40 {
		if a, b := &x.all[i], &x.all[i+1]; !a.Before && a.End-b.Start > event.Ktime(9*time.Second) {
			a.End = b.Start + event.Ktime(6*time.Second)
			b.End = a.End + event.Ktime(time.Millisecond)
			pairs++
		}
	}
	// Who has read the table, slowly, has removed what had expired.
	x.read = event.Ktime(3 * time.Second)
	for i := range 10 {
		x.all = append(x.all, Conn{Start: 0, Before: true, End: x.read - event.Ktime(i), Cause: event.CauseUnknown, ID: uint64(1e6 + i), Proto: event.ProtoUDP})
	}
	r := Read(x, k)
	maps.DeleteFunc(visits, func(_ event.Ktime, later bool) bool { return !later })
	if pairs < 10 || len(r.passes) != len(visits) {
		t.Errorf("%d visits seen with %d pairs, there were %d", len(r.passes), pairs, len(visits))
	}
	want := table(5, 15, 3000, 0, 0).mean
	run := r.Simulate(WhatIf{Timeouts: []Change{{UDP, 15 * time.Second}}})
	got := settled(&run)
	if math.Abs(got/want-1) > 0.05 {
		t.Errorf("%.1f entries, want %.1f", got, want)
	}
}

// What a change comes to in the end takes in that the collector comes at other times.
func TestSettlesLate(t *testing.T) {
	k := Kernel{Timeouts: DefaultTimeouts()}
	k.Timeouts[UDP] = 5 * time.Second
	for _, timeout := range []int{15, 40} {
		r := Read(table(5, 5, 300, 0, 0), k)
		w := WhatIf{Timeouts: []Change{{UDP, time.Duration(timeout) * time.Second}}}
		_, all := r.Costs()
		got, want := r.settles(all.Offered, &w, r.Simulate(w).Late), table(5, timeout, 3000, 0, 0).mean
		if math.Abs(got/want-1) > 0.06 {
			t.Errorf("udp=%d: settles at %.1f, the kernel at %.1f", timeout, got, want)
		}
	}
}
