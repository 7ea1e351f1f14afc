package plan

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// gcInterval is gc_worker's next_run in jiffies for entries with so many left, in the
// order in which it meets them, written down once more from the source.
func gcInterval(hz int, left []int) int {
	next, count := 60*hz, 100
	for _, l := range left {
		if l < hz {
			l = hz
		}
		if l > 300*hz {
			l = 300 * hz
		}
		count++
		next += (l - next) / count
	}
	if next < hz {
		return hz
	}
	if next > 60*hz {
		return 60 * hz
	}
	return next
}

// The collector's pace: equal entries have no order, so it must be the very same; of
// others the order is chance.
func TestInterval(t *testing.T) {
	for _, hz := range []int{100, 250, 1000} {
		for _, n := range []int{0, 1, 10, 1000, 20_000, 200_000} {
			for _, left := range []time.Duration{0, 500 * time.Millisecond, 2 * time.Second, 5 * time.Second, 30 * time.Second, 400 * time.Second} {
				s := &sim{r: &Record{Kernel: Kernel{HZ: hz}}, at: 1}
				jiffies := make([]int, 2*n)
				for i := range n {
					s.all = append(s.all, entry{expires: 1 + event.Ktime(left), most: never})
					s.live = append(s.live, int32(i))
					jiffies[2*i], jiffies[2*i+1] = int(left)/(int(time.Second)/hz), int(left)/(int(time.Second)/hz)
				}
				if got, want := s.interval(), gcInterval(hz, jiffies); int(got)/(int(time.Second)/hz) != want {
					t.Errorf("HZ %d, %d entries with %v left: %v, want %d jiffies", hz, n, left, got, want)
				}
			}
		}
	}
	rng := rand.New(rand.NewPCG(5, 6))
	s := &sim{r: &Record{Kernel: Kernel{HZ: 250}}, at: 1}
	var jiffies []int
	for i := range 5000 {
		left := event.Ktime(rng.Int64N(int64(10 * time.Second)))
		s.all, s.live = append(s.all, entry{expires: 1 + left, most: never}), append(s.live, int32(i))
		jiffies = append(jiffies, int(left)/4e6, int(left)/4e6)
	}
	rng.Shuffle(len(jiffies), func(i, j int) { jiffies[i], jiffies[j] = jiffies[j], jiffies[i] })
	got, want := int(s.interval())/4e6, gcInterval(250, jiffies)
	if got < want*95/100 || got > want*105/100 {
		t.Errorf("%d jiffies, want about %d", got, want)
	}
}

// A queue gives back what is first.
func TestQueue(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	var q queue
	for range 1000 {
		q.push(event.Ktime(rng.IntN(100)), int32(len(q)))
	}
	last := event.Ktime(0)
	for len(q) > 0 {
		at := q.first()
		q.pop()
		if at < last {
			t.Fatalf("%d after %d", at, last)
		}
		last = at
	}
	if q.first() != never {
		t.Error("an empty queue has a first")
	}
}

// A longer timeout keeps an entry for whom a new one was made: the packet finds it.
func TestSameTuple(t *testing.T) {
	var in []Conn
	for i := range 20 { // every 40 s a packet of one tuple, each an entry of 30 s
		at := event.Ktime(i*40+1) * event.Ktime(time.Second)
		in = append(in, Conn{Start: at, End: at + event.Ktime(30*time.Second), Cause: event.TimeoutGC, ID: 7, Proto: event.ProtoUDP})
	}
	r := &Record{To: event.Ktime(800 * time.Second), Conns: in, Kernel: Kernel{Timeouts: DefaultTimeouts()}, timers: make([]Timer, len(in)), Lagless: true}
	for i := range in {
		r.timers[i] = UDP
		r.expiry(i)
	}
	run := r.Simulate(WhatIf{Timeouts: []Change{{UDP, 60 * time.Second}}})
	if run.Peak != 1 || run.Mean < 0.99 {
		t.Errorf("peak %d, mean %.2f", run.Peak, run.Mean)
	}
}
