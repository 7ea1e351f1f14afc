package relief

import (
	"fmt"
	"testing"
	"time"
)

// What a process does while it may die, beginning with what has to be there before.
var acts = []struct {
	name       string
	before, do func(*world) error
}{
	{"set", nil, func(w *world) error { _, err := w.book().Set(request(Ask{limitName, 524288})); return err }},
	{"set two", nil, func(w *world) error {
		_, err := w.book().Set(request(Ask{limitName, 524288}, Ask{udp, 10}))
		return err
	}},
	{"set again", func(w *world) error {
		_, err := w.book().Set(request(Ask{limitName, 524288}, Ask{udp, 10}))
		return err
	},
		func(w *world) error {
			_, err := w.book().Set(request(Ask{limitName, 786432}, Ask{udp, 20}))
			return err
		}},
	{"revert", func(w *world) error {
		_, err := w.book().Set(request(Ask{limitName, 524288}, Ask{udp, 10}))
		return err
	},
		func(w *world) error { _, err := w.book().Revert(nil, 0); return err }},
	{"expire", func(w *world) error {
		_, err := w.book().Set(request(Ask{limitName, 524288}, Ask{udp, 10}))
		return err
	},
		func(w *world) error { w.pass(3 * time.Hour); _, err := w.book().Expire(); return err }},
}

// What happens after a process has died, and what must be then. found are the values
// before anything.
var aftermaths = []struct {
	name string
	do   func(*world)
	want func(w *world) string // what is wrong
}{
	{"its time is over", func(w *world) { w.pass(3 * time.Hour) }, func(w *world) string { return w.differs(262144, 30) }},
	{"the clock is set back", func(w *world) { w.pass(3 * time.Hour); w.now = w.now.Add(-24 * time.Hour) },
		func(w *world) string { return w.differs(262144, 30) }},
	{"others write", func(w *world) { w.values[limitName], w.values[udp] = 400000, 60; w.pass(3 * time.Hour) },
		func(w *world) string { return w.differs(400000, 60) }},
	{"others write less", func(w *world) { w.values[limitName], w.values[udp] = 1000, 1; w.pass(3 * time.Hour) },
		func(w *world) string { return w.differs(1000, 1) }},
	{"a reboot", func(w *world) { w.reboot(map[string]uint64{limitName: 262144, udp: 30}); w.written = nil },
		func(w *world) string { return w.differs(262144, 30) + w.wrote() }},
	{"a reboot with other defaults", func(w *world) { w.reboot(map[string]uint64{limitName: 131072, udp: 25}); w.written = nil },
		func(w *world) string { return w.differs(131072, 25) + w.wrote() }},
	{"a reboot that keeps it", func(w *world) { w.reboot(map[string]uint64{limitName: 524288, udp: 10}); w.written = nil },
		func(w *world) string { return w.differs(524288, 10) + w.wrote() }},
}

func (w *world) differs(limit, timeout uint64) string {
	if w.values[limitName] == limit && w.values[udp] == timeout {
		return ""
	}
	return fmt.Sprintf("%s=%d %s=%d, want %d %d ", limitName, w.values[limitName], udp, w.values[udp], limit, timeout)
}

func (w *world) wrote() string {
	if len(w.written) == 0 {
		return ""
	}
	return fmt.Sprintf("wrote %v", w.written)
}

// A process is killed before, within and after each of its steps. Whoever comes next
// puts the found values back, or leaves those of others alone; nothing stays open, and
// the limit is never written lower than it was found.
func TestDeathAtEachStep(t *testing.T) {
	cases := 0
	for _, act := range acts {
		for _, how := range []string{"before", "torn", "after"} {
			for dieAt, alive := 1, false; !alive; dieAt++ {
				for _, later := range aftermaths {
					w := newWorld()
					if act.before != nil {
						if err := act.before(w); err != nil {
							t.Fatal(err)
						}
					}
					w.steps, w.dieAt, w.how = 0, dieAt, how
					alive = w.lives(func() {
						if err := act.do(w); err != nil {
							t.Fatal(err)
						}
					})
					later.do(w)
					name := fmt.Sprintf("%s, killed %s step %d, then %s", act.name, how, dieAt, later.name)
					if _, err := w.book().Expire(); err != nil {
						t.Errorf("%s: %v", name, err)
					}
					if wrong := later.want(w); wrong != "" {
						t.Errorf("%s: %s", name, wrong)
					}
					if n := w.open(t); n > 0 {
						t.Errorf("%s: %d are open", name, n)
					}
					for _, a := range w.written {
						if a.Sysctl == limitName && a.Value < 262144 {
							t.Errorf("%s: the limit was %d", name, a.Value)
						}
					}
					cases++
				}
			}
		}
	}
	t.Logf("%d cases", cases)
	if cases < 500 {
		t.Errorf("only %d cases", cases)
	}
}

// The same while the change still holds: what was written goes on, until its time.
func TestDeathThenItHolds(t *testing.T) {
	for _, how := range []string{"before", "torn", "after"} {
		for dieAt, alive := 1, false; !alive; dieAt++ {
			w := newWorld()
			w.dieAt, w.how = dieAt, how
			alive = w.lives(func() { w.mustSet(t, Ask{limitName, 524288}) })
			had := w.values[limitName]
			if _, err := w.book().Expire(); err != nil {
				t.Fatal(err)
			}
			if w.values[limitName] != had {
				t.Errorf("killed %s step %d: %d, it was %d", how, dieAt, w.values[limitName], had)
			}
			for _, c := range w.all(t) {
				if !c.Open() && c.State != Failed {
					t.Errorf("killed %s step %d: %s, and nobody else has written", how, dieAt, c.State)
				}
			}
			if n := w.open(t); n == 1 != (had == 524288) {
				t.Errorf("killed %s step %d: the limit is %d and %d are open", how, dieAt, had, n)
			}
		}
	}
}
