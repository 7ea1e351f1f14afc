package forecast

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/ctreplay"
)

// said is what was said at one step of a replay.
type said struct {
	at   float64 // s
	full time.Duration
	soon float64 // probability that it is full within a minute
	warn float64 // within five
	fill float64
}

// replay feeds a capture to a Forecaster, a step a second from the first line on,
// as pipeline.Watch does, and returns what it said until the table of max entries
// was full, and when that was (NaN: never).
func replay(lines []ctreplay.Line, max int) (all []said, full float64) {
	var feed Feed
	f := New(Config{})
	rng := rand.New(rand.NewPCG(1, 2))
	live, place := []*ctreplay.Line{}, map[uint64]int{}
	status := map[uint64]event.Status{}
	next := event.Ktime(time.Second)
	step := func() {
		var sample []Sample
		for range min(len(live), 1000) {
			l := live[rng.IntN(len(live))]
			c := ClassOf(l.Event.Orig.Proto, status[l.ID], stateOf(&l.Event, status[l.ID]))
			sample = append(sample, Sample{Class: c, Age: next.Sub(l.Event.Time), Left: time.Minute})
		}
		out := f.Step(feed.Step(next, uint64(len(live)), uint64(max), sample))
		all = append(all, said{float64(next) / 1e9, out.TimeToFull, f.ProbFull(time.Minute), f.ProbFull(5 * time.Minute), out.Fill})
		next += event.Ktime(time.Second)
	}
	for i := range lines {
		l := &lines[i]
		for l.Event.Time >= next {
			step()
		}
		switch l.What {
		case 'N':
			place[l.ID] = len(live)
			live = append(live, l)
			feed.New(l.Event.Time)
			if len(live) >= max {
				return all, float64(l.Event.Time) / 1e9
			}
		case 'R':
			status[l.ID] |= event.SeenReply
		case 'A':
			status[l.ID] |= event.Assured
		case 'D':
			e := l.Event
			e.TCPState = stateOf(&e, e.Status)
			feed.Destroy(&e)
			at, last := place[l.ID], live[len(live)-1]
			live[at], place[last.ID] = last, at
			live = live[:len(live)-1]
			delete(place, l.ID)
			delete(status, l.ID)
		}
	}
	return all, math.NaN()
}

// stateOf is the TCP state that a status stands for in these captures.
func stateOf(e *event.Event, s event.Status) event.TCPState {
	switch {
	case e.Orig.Proto != event.ProtoTCP:
		return event.TCPNone
	case s&event.Assured != 0:
		return event.TCPEstablished
	case s&event.SeenReply != 0:
		return event.TCPSynRecv
	}
	return event.TCPSynSent
}

// withFlood adds to a capture, from a time on, SYNs that nobody answers, at a rate
// that begins at `rate` and grows by `growth` each second, for half a minute.
func withFlood(lines []ctreplay.Line, begin, rate, growth float64) []ctreplay.Line {
	const lasts, id = 30.0, 1 << 40
	rng := rand.New(rand.NewPCG(3, 4))
	out := slices.Clone(lines)
	n, due := uint64(0), 0.0
	for at := 0.0; at < lasts; at += .001 {
		for due += (rate + growth*at) * .001; due > 0; due -= rng.ExpFloat64() {
			n++
			l := ctreplay.Line{What: 'N', ID: id + n, Event: event.Event{Kind: event.New, Time: event.Ktime((begin + at) * 1e9)}}
			l.Event.Orig.Proto = event.ProtoTCP
			out = append(out, l)
			l.What, l.Event.Kind = 'D', event.Destroy
			l.Event.Time += event.Ktime(2 * time.Minute)
			l.Event.Lifetime, l.Event.HasLifetime = 2*time.Minute, true
			out = append(out, l)
		}
	}
	slices.SortStableFunc(out, func(a, b ctreplay.Line) int { return cmp.Compare(a.Event.Time, b.Event.Time) })
	return out
}

// Floods and ramps over the traffic of real networks, wherever in it they begin:
// three seconds in, the time until the table is full is right within a fifth.
func TestReplayFlood(t *testing.T) {
	for _, name := range []string{"gnutella-p2p", "rita-proxy-rolling", "westermo-right", "ssh-bruteforce", "23-tcp-scan"} {
		lines := ctreplay.Read(t, name)
		end := min(float64(lines[len(lines)-1].Event.Time)/1e9, 1800)
		for _, f := range []struct{ begin, rate, growth float64 }{{.1, 1500, 0}, {.4, 800, 0}, {.7, 0, 400}, {.9, 0, 150}} {
			t.Run(fmt.Sprintf("%s/%.0f+%.0f", name, f.rate, f.growth), func(t *testing.T) {
				t.Parallel()
				begin := math.Round(f.begin*end) + .3
				all, full := replay(withFlood(lines, begin, f.rate, f.growth), 16384)
				judged := 0
				for _, x := range all {
					left := full - x.at
					if x.at < begin+3 || left < 3 {
						continue
					}
					judged++
					if err := math.Abs(x.full.Seconds()-left) / left; err > .2 {
						t.Errorf("at +%.1f s with %.0f %%: full in %v, truth %.1f s", x.at-begin, 100*x.fill, x.full, left)
					}
				}
				if math.IsNaN(full) || judged < 2 {
					t.Errorf("full at %v, %d judged", full, judged)
				}
			})
		}
	}
}

// A flood that stays below the limit, since its entries live for two minutes only, is
// no reason to say that the table will be full within five.
func TestReplaySaturates(t *testing.T) {
	for _, name := range []string{"gnutella-p2p", "westermo-right", "23-tcp-scan"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lines := ctreplay.Read(t, name)
			all, full := replay(withFlood(lines, 60.3, 150, 0), 65536)
			for _, x := range all {
				if x.warn >= .8 {
					t.Errorf("at %.0f s with %.1f %%: full in %v", x.at, 100*x.fill, x.full)
				}
			}
			if !math.IsNaN(full) {
				t.Errorf("full at %v", full)
			}
		})
	}
}

// Networks as they are, behind a table of the default size: never is it said that
// it will be full within a minute. Peer to peer, a plant with scans in it, password
// guessing and a scanner of a whole network are among them.
func TestReplayNoAlarm(t *testing.T) {
	for _, name := range []string{"gnutella-p2p", "rita-proxy-rolling", "westermo-right", "ssh-bruteforce", "23-tcp-scan"} {
		t.Run(name, func(t *testing.T) {
			all, full := replay(ctreplay.Read(t, name), 65536)
			for _, x := range all {
				if x.soon >= .8 {
					t.Errorf("at %.0f s with %.1f %%: full within a minute with probability %.2f, in %v", x.at, 100*x.fill, x.soon, x.full)
				}
			}
			if !math.IsNaN(full) || len(all) < 60 {
				t.Errorf("%d steps, full at %v", len(all), full)
			}
		})
	}
}
