package detect

import (
	"fmt"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// every plans connections of one source with one endpoint.
func (w *world) every(pause time.Duration, from, to time.Duration, src, dst string, port uint16, f fate, open time.Duration) (n int) {
	for at := from; at < to; at += pause {
		w.connect(at, src, dst, port, event.ProtoTCP, f, open)
		n++
	}
	return n
}

func TestHammering(t *testing.T) {
	for name, c := range map[string]struct {
		n        int
		pause    time.Duration
		src      string
		port     uint16
		open     time.Duration
		state    string // of the last that is not the end, "" for none
		severity string
	}{
		"guessing":      {25, time.Second, "203.0.113.7", 22, 2 * time.Second, agg.Confirmed, agg.Feed},
		"too few":       {21, time.Second, "203.0.113.7", 22, 2 * time.Second, "", ""}, // two make it a link
		"just enough":   {22, time.Second, "203.0.113.7", 22, 2 * time.Second, agg.Confirmed, agg.Feed},
		"too slow":      {200, 3200 * time.Millisecond, "203.0.113.7", 22, 2 * time.Second, "", ""},
		"sessions":      {60, time.Second, "203.0.113.7", 22, 11 * time.Second, "", ""},
		"HTTP":          {600, 100 * time.Millisecond, "203.0.113.7", 80, 50 * time.Millisecond, "", ""},
		"our automat":   {40, time.Second, "10.9.9.9", 22, 2 * time.Second, agg.Suspect, agg.Feed},
		"ours for long": {100, time.Second, "10.9.9.9", 22, 2 * time.Second, agg.Confirmed, agg.Feed},
		"unknown port":  {40, time.Second, "203.0.113.7", 902, 2 * time.Second, agg.Suspect, agg.Info},
		"health checks": {600, 2 * time.Second, "10.9.9.9", 8080, 5 * time.Millisecond, "", ""},
		"our database":  {600, 100 * time.Millisecond, "10.9.9.9", 11211, 5 * time.Millisecond, agg.Suspect, agg.Info},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Config{})
			w.every(c.pause, time.Second, time.Second+time.Duration(c.n)*c.pause, c.src, "10.0.0.5", c.port, closed, c.open)
			w.run(time.Duration(c.n)*c.pause + 10*time.Minute)
			w.only("connection_hammering")
			all := w.of("connection_hammering")
			if c.state == "" {
				if len(all) > 0 {
					t.Errorf("%+v", all[0])
				}
				return
			}
			if len(all) < 2 {
				t.Fatalf("%d told", len(all))
			}
			f, end := all[len(all)-2], all[len(all)-1]
			if f.State != c.state || f.Severity != c.severity || f.Spoofable {
				t.Errorf("%+v", f)
			}
			if end.State != agg.Cleared || end.Evidence.Answered != uint64(c.n-2) || end.ID != all[0].ID {
				t.Errorf("%d connections, want %d: %+v", end.Evidence.Answered, c.n-2, end)
			}
			if late := all[0].Time.Sub(time.Unix(1700000001, 0)); late > 21*c.pause+c.open+121*time.Second {
				t.Errorf("told after %v", late)
			}
		})
	}
}

// An automat that has come for an hour is for information.
func TestHammeringKnown(t *testing.T) {
	w := newWorld(t, Config{})
	w.every(10*time.Second, 0, 70*minute, "10.9.9.9", "10.0.0.5", 22, closed, time.Second)
	w.every(time.Second, 65*minute, 67*minute, "10.9.9.9", "10.0.0.5", 22, closed, time.Second)
	w.run(80 * minute)
	all := w.of("connection_hammering")
	if len(all) == 0 || all[0].State != agg.Suspect || all[0].Severity != agg.Info {
		t.Errorf("%+v", all)
	}
}

// At a port of HTTP it takes five times what is usual.
func TestHammeringBaseline(t *testing.T) {
	for times, want := range map[int]bool{4: false, 7: true} {
		w := newWorld(t, Config{})
		w.every(5*time.Second, 0, 40*minute, "10.9.9.9", "10.0.0.5", 80, closed, time.Second)
		w.every(5*time.Second/time.Duration(times-1), 30*minute, 33*minute, "10.9.9.9", "10.0.0.5", 80, closed, time.Second)
		w.run(50 * minute)
		all := w.of("connection_hammering")
		if want != (len(all) > 0) {
			t.Errorf("%d times: %d told", times, len(all))
		}
		for _, f := range all {
			if f.Severity != agg.Info || f.State == agg.Confirmed {
				t.Errorf("%+v", f)
			}
		}
	}
}

// How long a connection was open, by the state its entry died in.
func TestOpenFor(t *testing.T) {
	for _, c := range []struct {
		state event.TCPState
		life  time.Duration
		left  time.Duration
		want  time.Duration
		is    bool
	}{
		{event.TCPTimeWait, 125 * time.Second, 0, 5 * time.Second, true},
		{event.TCPTimeWait, 165 * time.Second, -40 * time.Second, 5 * time.Second, true}, // the kernel came late
		{event.TCPTimeWait, 30 * time.Second, 100 * time.Second, 10 * time.Second, true}, // evicted
		{event.TCPClose, 12 * time.Second, 0, 2 * time.Second, true},
		{event.TCPNone, 12 * time.Second, 0, 2 * time.Second, true},
		{event.TCPNone, 150 * time.Second, 0, 30 * time.Second, true},
		{event.TCPEstablished, time.Second, 0, 0, false},
		{event.TCPTimeWait, 60 * time.Second, 0, 0, false}, // another timeout than the default
	} {
		e := event.Event{TCPState: c.state, Timeout: c.left}
		if got, is := openFor(&e, c.life); got != c.want || is != c.is {
			t.Errorf("%v %v %v: %v %v", c.state, c.life, c.left, got, is)
		}
	}
}

// Hammering is in step with the number of links: what comes once is no link, and the
// busiest stay when there are too many.
func TestLinksBounded(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 3 * maxLinks {
		at := time.Duration(i) * 10 * time.Millisecond
		for range 4 {
			w.connect(at, fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), "10.0.0.5", 443, event.ProtoTCP, closed, time.Second)
		}
		if i%20 == 0 {
			w.connect(at, "203.0.113.7", "10.0.0.5", 22, event.ProtoTCP, closed, time.Second)
		}
	}
	w.run(5 * minute)
	if n := w.d.links.table.n; n != maxLinks {
		t.Errorf("%d links", n)
	}
	if w.d.Overflow().Links == 0 {
		t.Error("no word of those that found no room")
	}
	if all := w.of("connection_hammering"); len(all) == 0 || all[0].Source.Addr() != addr("203.0.113.7") {
		t.Errorf("%+v", all)
	}
}
