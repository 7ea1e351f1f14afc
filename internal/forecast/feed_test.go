package forecast

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ctsight/ctsight/internal/event"
)

// TestFeedProperty compares a feed with a list of all entries: what is born and
// dies, and how old those are that live, within a slot.
func TestFeedProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var f Feed
		now := event.Ktime(5 * time.Hour)
		live := map[int]event.Ktime{}
		born, dead, next := uint64(0), map[Class]uint64{}, 0
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now += event.Ktime(rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, 7 * time.Minute, 3 * time.Hour}).Draw(t, "pause"))
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0, 1:
				f.New(now)
				live[next] = now
				next, born = next+1, born+1
			case 2:
				for i, at := range live { // any
					e := event.Event{Kind: event.Destroy, Cause: event.TimeoutGC, Time: now, Lifetime: now.Sub(at), HasLifetime: true, Orig: event.Tuple{Proto: event.ProtoUDP}}
					if i%3 == 0 {
						e.Cause = event.EarlyDrop
					} else {
						dead[UDPUnreplied]++
					}
					f.Destroy(&e)
					delete(live, i)
					break
				}
			case 3:
				s := f.Step(now, 0, 0, nil)
				var lives uint64
				var want, got [Bins]uint64
				for _, at := range live {
					lives++
					want[Bin(now.Sub(at))]++
				}
				got = s.Live
				var sum, a, b uint64
				for i := range got {
					sum += got[i]
					a, b = a+got[i], b+want[i]
					// A slot's middle may lie in the next bin; of those younger than a second in any.
					if i >= settled && a > b+want[min(i+1, Bins-1)]+want[min(i+2, Bins-1)] {
						t.Fatalf("bin %d: %d so far, truth %d", i, a, b)
					}
				}
				n := map[Class]uint64{}
				for _, d := range s.Dead {
					n[d.Class] += d.Count
				}
				if sum != lives || s.New != born || n[UDPUnreplied] != dead[UDPUnreplied] {
					t.Fatalf("%d live, %d new, %v dead; truth %d, %d, %v", sum, s.New, n, lives, born, dead)
				}
				born, dead = 0, map[Class]uint64{}
			}
		}
	})
}

// Lifetimes that cannot be, as captures may have them, are those of nothing.
func TestFeedAbsurdLifetimes(t *testing.T) {
	for _, life := range []time.Duration{-1, -time.Hour, -1 << 63, 1<<63 - 1} {
		var f Feed
		for i := range event.Ktime(5) {
			e := event.Event{Time: (i + 1) * 1e9, Kind: event.Destroy, HasLifetime: true, Lifetime: life, Cause: event.TimeoutGC, Orig: event.Tuple{Proto: event.ProtoTCP}}
			f.Destroy(&e) // of one from before, first
			f.New(e.Time)
		}
		if s := f.Step(6e9, 0, 10, nil); s.New < 5 {
			t.Errorf("%v: %d new", life, s.New)
		}
	}
}
