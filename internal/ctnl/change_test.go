package ctnl

import (
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ti-mo/conntrack"
)

// A call that returns when its time is up is late although nobody has ended it yet:
// what ends it will, and nobody may use it then.
func TestWithin(t *testing.T) {
	broken := errors.New("broken")
	for _, tt := range []struct {
		name  string
		takes time.Duration
		err   error
		late  bool
	}{
		{"soon", time.Second, nil, false},
		{"fails", time.Second, broken, false},
		{"just in time", 5*time.Second - 1, nil, false},
		{"late", 5*time.Second + 1, nil, true},
		{"ended", 5*time.Second + 1, os.ErrClosed, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			late, err := within(5*time.Second, func() error { time.Sleep(tt.takes); return tt.err }, func() { time.Sleep(time.Minute) })
			if late != tt.late || !errors.Is(err, tt.err) {
				t.Errorf("%s: late %t, %v", tt.name, late, err)
			}
			time.Sleep(2 * time.Minute) // until end is through
		})
	}
}

// The machine stood still during a call, and the time was up when it had gone well.
func TestChangeAfterLate(t *testing.T) {
	c := mustDial(t, testNS(t))
	synctest.Test(t, func(t *testing.T) {
		slow := func(*conntrack.Conn) error { time.Sleep(replyTimeout + 1); return nil }
		if err := c.change(slow); err != nil {
			t.Errorf("a call that went well: %v", err)
		}
		if err := c.Flush(); err != nil {
			t.Errorf("the next: %v", err)
		}
	})
}
