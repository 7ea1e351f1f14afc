package detect

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

func TestRetryStorm(t *testing.T) {
	for name, c := range map[string]struct {
		n     int
		pause time.Duration
		f     fate
		want  bool
	}{
		"refused":     {22, 2 * time.Second, refusing, true},
		"too few":     {21, 2 * time.Second, refusing, false},
		"silent":      {30, 2 * time.Second, silent, true},
		"slow":        {60, 4 * time.Second, refusing, false},
		"half opened": {60, time.Second, halfway, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Config{})
			end := time.Duration(c.n) * c.pause
			w.every(c.pause, 0, end, "10.0.0.7", "10.0.0.5", 5432, c.f, 0)
			w.run(end + 10*minute)
			w.only("retry_storm")
			all := w.of("retry_storm")
			if c.want != (len(all) > 0) {
				t.Fatalf("%d told", len(all))
			}
			if len(all) == 0 {
				return
			}
			f := all[len(all)-1]
			// All since the first, which is the third where it is known at once.
			n := uint64(end-f.First.Sub(time.Unix(1700000000, 0))) / uint64(c.pause)
			if n < uint64(c.n-2) {
				t.Errorf("begins with the last %d", n)
			}
			if f.State != agg.Cleared || f.Severity != agg.Info || f.Evidence.Refused+f.Evidence.Unanswered != n ||
				f.Source.Addr() != addr("10.0.0.7") || f.Target.Port != 5432 {
				t.Errorf("%+v", f)
			}
		})
	}
}

// A connection that is let in ends a row, and the storm.
func TestRetryStormOver(t *testing.T) {
	w := newWorld(t, Config{})
	w.every(time.Second, 0, minute, "10.0.0.7", "10.0.0.5", 5432, refusing, 0)
	w.connect(61*time.Second, "10.0.0.7", "10.0.0.5", 5432, event.ProtoTCP, closed, time.Second)
	w.run(70 * time.Second)
	all := w.of("retry_storm")
	if len(all) == 0 || all[len(all)-1].State != agg.Cleared || all[len(all)-1].Evidence.Refused != 58 {
		t.Fatalf("%+v", all)
	}
	w = newWorld(t, Config{})
	w.every(time.Second, 0, 3*minute, "10.0.0.7", "10.0.0.5", 5432, refusing, 0)
	w.every(10*time.Second, 500*time.Millisecond, 3*minute, "10.0.0.7", "10.0.0.5", 5432, closed, time.Second)
	w.run(5 * minute)
	w.only()
}

// Five a second for ten seconds are a storm, however long the last success is ago.
func TestRetryStormFast(t *testing.T) {
	for perSecond, want := range map[int]bool{3: false, 8: true} {
		w := newWorld(t, Config{})
		w.every(2*time.Second, 0, minute, "10.0.0.7", "10.0.0.5", 5432, closed, time.Second)
		w.every(time.Second/time.Duration(perSecond), minute, minute+20*time.Second, "10.0.0.7", "10.0.0.5", 5432, refusing, 0)
		w.run(minute + 20*time.Second)
		if all := w.of("retry_storm"); want != (len(all) > 0) {
			t.Errorf("%d/s: %d told", perSecond, len(all))
		}
	}
}

// down plans clients of a service that answers for a minute and then fails.
func down(w *world, clients int, f fate, after time.Duration) {
	for i := range clients {
		src := fmt.Sprintf("10.0.1.%d", i+1)
		skew := time.Duration(i) * 37 * time.Millisecond
		w.every(2*time.Second, skew, minute, src, "10.0.0.5", 5432, closed, time.Second)
		w.every(time.Second, minute+skew, minute+after, src, "10.0.0.5", 5432, f, 0)
		w.every(2*time.Second, minute+after+skew, minute+after+20*time.Second, src, "10.0.0.5", 5432, closed, time.Second)
	}
}

func TestServiceDown(t *testing.T) {
	for name, c := range map[string]struct {
		clients int
		f       fate
		after   time.Duration
		want    string
		within  time.Duration
	}{
		"refused": {6, refusing, minute, "refused", 6100 * time.Millisecond},
		"silent":  {6, silent, minute, "unanswered", 7 * time.Second},
		"few":     {4, refusing, minute, "", 0},
		"restart": {6, refusing, 2 * time.Second, "", 0},
		"aborted": {6, halfway, minute, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Config{})
			down(w, c.clients, c.f, c.after)
			w.run(3*minute + 10*time.Second)
			all := w.of("service_down")
			if c.want == "" {
				w.only("retry_storm", "connection_hammering")
				return
			}
			w.only("service_down", "retry_storm", "connection_hammering")
			if len(all) < 2 {
				t.Fatalf("%d told", len(all))
			}
			f, end := all[0], all[len(all)-1]
			if f.State != agg.Confirmed || f.Source.IsValid() || f.Target != (agg.Target{Addr: addr("10.0.0.5"), Proto: event.ProtoTCP, Port: 5432}) ||
				f.Evidence.Sources != 6 || len(f.Evidence.Items) != 6 || !strings.Contains(f.Why, c.want) {
				t.Errorf("%+v", f)
			}
			if late := f.Time.Sub(time.Unix(1700000060, 0)); late > c.within {
				t.Errorf("told after %v", late)
			}
			want := uint64(6 * 60)
			if c.f == silent { // the last three seconds are not decided when it is back
				want = 6*57 + 3
			}
			if end.State != agg.Cleared || end.ID != f.ID || end.Evidence.Refused+end.Evidence.Unanswered != want {
				t.Errorf("%+v", end)
			}
			for _, f := range w.of("retry_storm") { // each client's is this
				if f.State != agg.Cleared {
					t.Errorf("%+v", f)
				}
			}
		})
	}
}

// Strangers at a port that never answered are none, however often they try; clients
// of our own who keep asking are.
func TestServiceNeverThere(t *testing.T) {
	for src, want := range map[string]bool{"203.0.113.%d": false, "10.0.1.%d": true} {
		w := newWorld(t, Config{})
		for i := range 7 {
			w.every(time.Second, time.Duration(i)*50*time.Millisecond, minute, fmt.Sprintf(src, i+1), "10.0.0.5", 2222, refusing, 0)
		}
		w.run(2 * minute)
		if got := len(w.of("service_down")) > 0; got != want {
			t.Errorf("%s: %v", src, got)
		}
		w.only("service_down", "retry_storm")
	}
}

// One client whose own way is cut does not make a service down.
func TestServiceOfMost(t *testing.T) {
	w := newWorld(t, Config{})
	down(w, 6, refusing, minute)
	w.every(500*time.Millisecond, 0, 3*minute, "10.0.2.1", "10.0.0.5", 5432, closed, time.Second)
	w.run(3 * minute)
	if all := w.of("service_down"); len(all) > 0 {
		t.Errorf("%+v", all[0])
	}
}

// Nor is one where a client fails now and then, nor one that strangers are not let in to
// when those who are have gone home.
func TestServiceSeldom(t *testing.T) {
	for name, c := range map[string]struct {
		src   string
		pause time.Duration
		again int
	}{"seldom": {"10.0.1.%d", 7 * minute, 2}, "strangers": {"203.0.113.%d", 5 * time.Second, 3}} {
		w := newWorld(t, Config{})
		for i := range 6 {
			at := minute + time.Duration(i)*c.pause
			src := fmt.Sprintf(c.src, i+1)
			if name == "seldom" {
				w.connect(time.Duration(i)*time.Second, src, "10.0.0.5", 5432, event.ProtoTCP, closed, time.Second)
			} else {
				w.connect(time.Duration(i)*time.Second, "10.0.2.1", "10.0.0.5", 5432, event.ProtoTCP, closed, time.Second)
			}
			for k := range c.again {
				w.connect(at+time.Duration(k)*time.Second, src, "10.0.0.5", 5432, event.ProtoTCP, silent, 0)
			}
		}
		w.run(50 * minute)
		if all := w.of("service_down"); len(all) > 0 {
			t.Errorf("%s: %+v", name, all[0])
		}
	}
}

// Of very many clients as many are told apart as there is room for.
func TestServiceOfMany(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 3000 {
		src := fmt.Sprintf("10.1.%d.%d", i/250, i%250)
		w.connect(time.Duration(i)*10*time.Millisecond, src, "10.0.0.5", 5432, event.ProtoTCP, closed, time.Second)
		w.connect(minute+time.Duration(i)*10*time.Millisecond, src, "10.0.0.5", 5432, event.ProtoTCP, refusing, 0)
	}
	w.run(3 * minute)
	all := w.of("service_down")
	if len(all) == 0 {
		t.Fatal("nothing told")
	}
	f := all[len(all)-1]
	if f.Evidence.Sources != mostClients || !f.Evidence.Estimated || f.Evidence.Refused != 3000 || !strings.Contains(f.Why, "more than 512 sources") {
		t.Errorf("%+v", f)
	}
}

func TestServiceDroppedByUs(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 6 {
		src := fmt.Sprintf("10.0.1.%d", i+1)
		w.every(2*time.Second, 0, minute, src, "10.0.0.5", 5432, closed, time.Second)
		for k := range 20 {
			at := minute + time.Duration(k)*time.Second
			w.drop(at, src, "10.0.0.5", 5432, event.TableFull)
			w.drop(at, src, "10.0.0.5", 5432, event.RulesetNew) // by the operator: not ours
		}
	}
	w.run(minute + 30*time.Second)
	all := w.of("service_down")
	if len(all) == 0 {
		t.Fatal("nothing told")
	}
	f := all[len(all)-1]
	if f.Severity != agg.Page || figure(&f, "dropped_by_us") != 6*20 || !strings.Contains(f.Why, "dropped by us (table_full)") {
		t.Errorf("%+v", f)
	}
}
