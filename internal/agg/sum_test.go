package agg

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ctsight/ctsight/internal/event"
)

// told is what a census is to know of a source.
type told struct{ new, live, destroyed, drops, evicted uint64 }

// TestSumProperty: events come one by one or in sums, sums late and in any order
// among themselves; when all have come, each source has what happened to it, and
// the sums over all rows of each dimension agree. After Forget and a dump, so have
// endpoints their live entries, and a destroy its lifetime.
func TestSumProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewCensus(CensusConfig{Sums: true}, 1)
		w := world{live: map[event.Tuple]uint64{}}
		truth, dst := map[uint32]*told{}, map[uint32]uint64{}
		var sums []event.Sum
		born := map[event.Tuple]event.Ktime{}
		unseen := map[event.Tuple]bool{} // another with this tuple and address may have lived before
		for i := range uint32(3) {
			truth[i] = &told{}
		}
		var evicting uint64
		s.BeginSeed()
		s.EndSeed(1, true)
		w.now = 1
		flush := func() {
			if len(sums) > 0 {
				i := rapid.IntRange(0, len(sums)-1).Draw(t, "which")
				s.AddSum(&sums[i])
				sums = append(sums[:i], sums[i+1:]...)
			}
		}
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			src, to := uint32(rapid.IntRange(0, 2).Draw(t, "src")), uint32(rapid.IntRange(7, 8).Draw(t, "dst"))
			x := flow(src, to, uint16(rapid.IntRange(1, 4).Draw(t, "port")), 80)
			before := len(w.queue)
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				w.insert(x)
			case 1:
				w.destroy(x, event.EarlyDrop)
			case 2:
				w.now++
				w.queue = append(w.queue, event.Event{Kind: event.Drop, Reason: event.TableFull, Time: w.now, NetNS: 1, Orig: x})
			case 3:
				flush()
			}
			if len(w.queue) == before {
				continue
			}
			e := w.queue[len(w.queue)-1]
			who := truth[src]
			switch e.Kind {
			case event.New:
				who.new, who.live, born[x], dst[to] = who.new+1, who.live+1, e.Time, dst[to]+1
			case event.Destroy:
				who.destroyed, who.evicted, who.live, dst[to] = who.destroyed+1, who.evicted+1, who.live-1, dst[to]-1
			case event.Drop:
				who.drops++
			}
			if rapid.IntRange(0, 2).Draw(t, "alone") > 0 {
				s.Add(&e)
				continue
			}
			evicting++
			unseen[x] = unseen[x] || e.Kind == event.Destroy
			sums = append(sums, event.Sum{NetNS: 1, Src: x.Src, Kind: e.Kind, Reason: e.Reason, Cause: e.Cause, N: 1, Evicted: 1, From: max(1, e.Time-event.Ktime(time.Millisecond)), Last: e.Time})
		}
		for len(sums) > 0 {
			flush()
		}
		for _, d := range []Dim{BySrc, ByDst, ByEdge, ByPrefix, ByNetNS} {
			top := s.Top(d, ColNew, 100, w.now, nil)
			var all told
			for _, x := range truth {
				all = told{all.new + x.new, all.live + x.live, all.destroyed + x.destroyed, all.drops + x.drops, all.evicted + x.evicted}
			}
			if g := top.Total; all.new != g.New || all.destroyed != g.Destroyed || all.drops != g.Drops || all.evicted != g.Evicted || g.Evictor != evicting {
				t.Fatalf("%v: %+v, want %+v and %d evictions", d, g.Sums, all, evicting)
			}
			if d == BySrc {
				for _, r := range top.Rows {
					b := r.Src.As4()
					if got := (told{r.New, r.Live, r.Destroyed, r.Drops, r.Evicted}); got != *truth[uint32(b[3])] {
						t.Fatalf("%v: %+v, want %+v", r.Src, got, *truth[uint32(b[3])])
					}
				}
			}
		}

		s.Forget(0)
		s.BeginSeed()
		for x := range w.live {
			s.Seed(1, 0, &x)
		}
		s.EndSeed(w.now, true)
		for _, r := range s.Top(ByDst, ColNew, 100, w.now, nil).Rows {
			b := r.Dst.As4()
			if r.Live != dst[uint32(b[3])] {
				t.Fatalf("%v: %d live, want %d", r.Dst, r.Live, dst[uint32(b[3])])
			}
		}
		before := len(w.queue)
		for x := range w.live {
			w.destroy(x, event.TimeoutGC)
		}
		for _, e := range w.queue[before:] {
			if s.Add(&e); e.HasLifetime && !unseen[e.Orig] && e.Lifetime != e.Time.Sub(born[e.Orig]) {
				t.Fatalf("%v lived %v, want %v", e.Orig, e.Lifetime, e.Time.Sub(born[e.Orig]))
			}
		}
		if n := s.Top(BySrc, ColNew, 0, w.now, nil).Total.Live; n != 0 || s.Live() != 0 {
			t.Fatalf("%d live at the end, %d in the table", n, s.Live())
		}
	})
}

// What is known of an entry outlives a second dump.
func TestForgetKeepsLifetimes(t *testing.T) {
	s := NewCensus(CensusConfig{}, 1)
	w := world{live: map[event.Tuple]uint64{}, now: 1}
	x := flow(1, 2, 3, 80)
	w.insert(x)
	s.Add(&w.queue[0])
	s.Forget(0)
	s.BeginSeed()
	s.Seed(1, 0, &x)
	s.EndSeed(w.now, true)
	w.now = 100
	w.destroy(x, event.TimeoutGC)
	if e := &w.queue[1]; true {
		s.Add(e)
		if !e.HasLifetime || e.Lifetime != 99 || s.Live() != 0 {
			t.Errorf("%+v, %d live", e, s.Live())
		}
	}
}

// What goes after Forget before the dump comes to it was forgotten with the others, and is
// not taken for the end of what a sum told of.
func TestForgottenIsNoSum(t *testing.T) {
	for _, n := range []uint16{100, 5 * minSlots} { // of the latter nothing is kept
		s := NewCensus(CensusConfig{Sums: true}, 1)
		s.BeginSeed()
		s.EndSeed(1, true)
		w := world{live: map[event.Tuple]uint64{}, now: 2}
		for i := range n {
			w.insert(flow(1, 2, i, 80))
		}
		for i := range w.queue {
			s.Add(&w.queue[i])
		}
		s.Forget(0)
		s.BeginSeed()
		w.queue, w.now = nil, 100
		for i := range n / 2 { // the dump is read
			w.destroy(flow(1, 2, i, 80), event.TimeoutGC)
		}
		for i := range w.queue {
			s.Add(&w.queue[i])
		}
		for x := range w.live {
			s.Seed(1, 0, &x)
		}
		s.EndSeed(w.now, true)
		if live := s.Top(BySrc, ColNew, 1, w.now, nil).Total.Live; live != uint64(len(w.live)) {
			t.Errorf("%d live, want %d", live, len(w.live))
		}
	}
}

// The rate of a sum is that of its time, not of the moment it is read.
func TestSumRate(t *testing.T) {
	s := NewCensus(CensusConfig{Sums: true}, 1)
	begin := event.Ktime(time.Second)
	s.AddSum(&event.Sum{NetNS: 1, Src: v4(1), Kind: event.New, N: 10_000, From: begin, Last: begin + event.Ktime(100*time.Millisecond)})
	r := s.Top(BySrc, ColNew, 1, begin+event.Ktime(100*time.Millisecond), nil).Rows[0]
	if r.New != 10_000 || r.Live != 10_000 || r.Peak10ms < 80_000 || r.Peak10ms > 130_000 {
		t.Errorf("%+v %+v, want a peak of some 100,000/s", r.Sums, r.Rates)
	}
}
