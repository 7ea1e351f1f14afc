package detect

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// Against values of scipy.stats.kendalltau and by hand: S of a rising series is
// n(n-1)/2, its variance n(n-1)(2n+5)/18 (125 for ten).
func TestMannKendall(t *testing.T) {
	rising := []float64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	if z := mannKendall(rising); math.Abs(z-44/math.Sqrt(125)) > 1e-9 {
		t.Errorf("rising: %v", z)
	}
	if z := mannKendall([]float64{5, 3, 4, 5, 3, 4, 5, 3, 4, 5}); z > 1 {
		t.Errorf("level: %v", z)
	}
	if z := mannKendall([]float64{9, 8, 7, 6}); z != 0 {
		t.Errorf("falling: %v", z)
	}
}

func TestLeak(t *testing.T) {
	w := newWorld(t, Config{})
	made, left := 0, 0
	for at := time.Duration(0); at < 60*minute; at += 500 * time.Millisecond {
		f := closed
		if at > 15*minute && made%4 == 0 {
			f, left = unclosed, left+1
		}
		w.connect(at, "10.0.0.7", "10.0.0.5", 5432, event.ProtoTCP, f, 5*time.Second)
		made++
	}
	w.run(15 * minute)
	w.only("connection_hammering")
	w.run(60 * minute)
	w.only("connection_leak", "connection_hammering")
	all := w.of("connection_leak")
	if len(all) < 2 {
		t.Fatalf("%d told", len(all))
	}
	if late := all[0].Time.Sub(time.Unix(1700000000, 0).Add(15 * minute)); late > 16*minute || late < 5*minute {
		t.Errorf("told %v after it began", late)
	}
	var confirmed bool
	for _, f := range all {
		if f.Severity != agg.Info {
			t.Errorf("%+v", f)
		}
		confirmed = confirmed || f.State == agg.Confirmed
	}
	last := all[len(all)-1]
	if hour := figure(&last, "per_hour"); !confirmed || math.Abs(hour-1800) > 200 {
		t.Errorf("%v per hour, want 1800: %+v", hour, last)
	}
}

// What is no leak: more load, a pool that fills, connections that live for long.
func TestNoLeak(t *testing.T) {
	t.Run("load", func(t *testing.T) { // four times as much within half an hour
		w := newWorld(t, Config{})
		for at := time.Duration(0); at < 80*minute; {
			w.connect(at, "10.0.0.7", "10.0.0.5", 8080, event.ProtoTCP, closed, 10*minute)
			more := min(1, max(0, float64(at-45*minute)/float64(30*minute)))
			at += time.Duration(float64(time.Second) / (1 + 3*more))
		}
		w.run(80 * minute)
		for _, f := range w.of("connection_leak") {
			if f.Time.Sub(time.Unix(1700000000, 0)) > 46*minute && f.State != agg.Cleared {
				t.Errorf("%+v", f)
			}
		}
	})
	t.Run("pool", func(t *testing.T) {
		w := newWorld(t, Config{})
		for i := range 500 {
			w.connect(time.Duration(i)*time.Second, "10.0.0.7", "10.0.0.5", 5432, event.ProtoTCP, unclosed, 0)
		}
		w.run(60 * minute)
		w.only()
	})
	t.Run("long lives", func(t *testing.T) {
		w := newWorld(t, Config{})
		w.every(2*time.Second, 0, 90*minute, "10.0.0.7", "10.0.0.5", 443, closed, 10*minute)
		w.run(90 * minute)
		for _, f := range w.told {
			if f.Class != "connection_leak" || f.State == agg.Confirmed {
				t.Errorf("%+v", f)
			}
		}
	})
}

// pooled plans a client that keeps its connections for minutes, until it does not.
func pooled(w *world, until, end time.Duration, pause, open time.Duration) {
	for at := time.Duration(0); at < until; at += 20 * time.Second {
		w.connect(at, "10.0.0.7", "10.0.0.5", 5432, event.ProtoTCP, closed, min(5*minute, max(time.Second, until-at)))
	}
	w.every(pause, until, end, "10.0.0.7", "10.0.0.5", 5432, closed, open)
}

func TestPoolLost(t *testing.T) {
	w := newWorld(t, Config{})
	pooled(w, 30*minute, 45*minute, 200*time.Millisecond, 100*time.Millisecond)
	w.run(50 * minute)
	w.only("pool_lost", "connection_hammering", "rate_burst")
	all := w.of("pool_lost")
	if len(all) == 0 {
		t.Fatal("nothing told")
	}
	f := all[0]
	if late := f.Time.Sub(time.Unix(1700000000, 0).Add(30 * minute)); late > 6*minute {
		t.Errorf("told after %v", late)
	}
	if f.Severity != agg.Info || math.Abs(figure(&f, "per_minute")-300) > 10 || figure(&f, "short_share") < .9 {
		t.Errorf("%+v", f)
	}
}

// More load through the same pool, and never having had one, are none.
func TestNoPoolLost(t *testing.T) {
	w := newWorld(t, Config{})
	pooled(w, 30*minute, 45*minute, 500*time.Millisecond, 4*minute)
	w.run(50 * minute)
	if all := w.of("pool_lost"); len(all) > 0 {
		t.Errorf("%+v", all[0])
	}
	w = newWorld(t, Config{})
	w.every(time.Second, 0, 30*minute, "10.0.0.7", "10.0.0.5", 8080, closed, 100*time.Millisecond)
	w.every(200*time.Millisecond, 30*minute, 45*minute, "10.0.0.7", "10.0.0.5", 8080, closed, 100*time.Millisecond)
	w.run(50 * minute)
	if all := w.of("pool_lost"); len(all) > 0 {
		t.Errorf("%+v", all[0])
	}
}

func TestNewPattern(t *testing.T) {
	for name, c := range map[string]struct {
		at    time.Duration
		pause time.Duration
		f     fate
		max   uint64
		want  bool
	}{
		"deploy":  {40 * minute, 30 * time.Millisecond, closed, 0, true},
		"calm":    {40 * minute, 60 * time.Millisecond, closed, 0, false},
		"holds":   {40 * minute, time.Second, closed, 5000, true}, // 121 live
		"early":   {10 * minute, 30 * time.Millisecond, closed, 0, false},
		"refused": {40 * minute, 30 * time.Millisecond, refusing, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Config{})
			w.every(10*time.Second, 0, 45*minute, "10.0.0.8", "10.0.0.5", 443, closed, time.Second)
			n := w.every(c.pause, c.at+time.Millisecond, c.at+3*minute, "10.0.0.7", "10.0.0.6", 8080, c.f, time.Second)
			if c.max > 0 {
				w.state.Tables = []agg.TableState{{NetNS: 1, Max: c.max}}
			}
			w.run(c.at + 20*minute)
			all := w.of("new_connection_pattern")
			if c.want != (len(all) > 0) {
				t.Fatalf("%d told", len(all))
			}
			if len(all) == 0 {
				return
			}
			first, last := all[0], all[len(all)-1]
			if off := first.First.Sub(time.Unix(1700000000, 0).Add(c.at)); off < 0 || off > 2*time.Second+2*time.Millisecond {
				t.Errorf("first seen %v late", off)
			}
			if first.Severity != agg.Info || figure(&last, "made") != float64(n-2) {
				t.Errorf("made %d: %+v", n-2, last)
			}
			for _, f := range all {
				if n, want := figure(&f, "made"), w.between("10.0.0.7", &f); n != want {
					t.Errorf("%v made, in the log %v: %+v", n, want, f)
				}
			}
		})
	}
	// What was there before is not new when it gets busy.
	w := newWorld(t, Config{})
	w.every(20*time.Second, 0, 40*minute, "10.0.0.7", "10.0.0.6", 8080, closed, time.Second)
	w.every(30*time.Millisecond, 40*minute, 43*minute, "10.0.0.7", "10.0.0.6", 8080, closed, time.Second)
	w.run(45 * minute)
	if all := w.of("new_connection_pattern"); len(all) > 0 {
		t.Errorf("%+v", all[0])
	}
}

// Replicas of a program are one incident, which says so.
func TestPatternOfMany(t *testing.T) {
	w := newWorld(t, Config{})
	w.every(10*time.Second, 0, 45*minute, "10.0.0.8", "10.0.0.5", 443, closed, time.Second)
	made := 0
	for i := range 20 {
		made += w.every(40*time.Millisecond, 40*minute+time.Duration(i)*time.Second, 42*minute, fmt.Sprintf("10.0.1.%d", i+1), "10.0.0.6", 8080, closed, 50*time.Millisecond) - 2
	}
	w.run(70 * minute)
	w.only("new_connection_pattern")
	all := w.of("new_connection_pattern")
	if len(all) < 2 {
		t.Fatalf("%d told", len(all))
	}
	first, last := all[0], all[len(all)-1]
	if first.Source.Addr() != addr("10.0.1.1") || !first.Source.IsSingleIP() {
		t.Errorf("at first: %+v", first)
	}
	if last.ID != first.ID || last.Source.String() != "10.0.1.0/24" || last.Evidence.Sources != 20 || figure(&last, "made") != float64(made) {
		t.Errorf("want %d made: %+v", made, last)
	}
	if n := len(w.d.Findings()); n != 1 {
		t.Errorf("%d findings", n)
	}
}

func TestFanOut(t *testing.T) {
	for name, c := range map[string]struct {
		before int // new endpoints in five minutes
		then   int
		want   bool
	}{"inventory": {2, 60, true}, "few": {2, 50, false}, "crawler": {40, 60, false}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Config{})
			n := 0
			visit := func(at time.Duration) {
				n++
				w.connect(at, "10.0.0.7", fmt.Sprintf("192.0.%d.%d", n/250, n%250), 443, event.ProtoTCP, closed, time.Second)
			}
			for span := range 8 {
				for i := range c.before {
					visit(time.Duration(span)*5*minute + time.Duration(i)*5*time.Second)
				}
			}
			for i := range c.then {
				visit(40*minute + time.Duration(i)*2*time.Second)
			}
			w.run(60 * minute)
			all := w.of("new_connection_pattern")
			if c.want != (len(all) > 0) {
				t.Fatalf("%d told", len(all))
			}
			if len(all) > 0 {
				if f := all[len(all)-1]; f.Severity != agg.Info || f.Evidence.Answered != 60 || f.Target != (agg.Target{}) {
					t.Errorf("%+v", f)
				}
			}
		})
	}
}
