package serve

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
)

// Two who scrape at different times both see the time since their own last look,
// and a crowd of others costs no memory.
func TestClientPeaks(t *testing.T) {
	at := time.Unix(1000, 0)
	var asked time.Time
	c := newClientPeaks(func(t time.Time) agg.Peaks { asked = t; return agg.Peaks{In1s: 7} }, func() time.Time { return at })
	look := func(from string) time.Time {
		if p := c.of(&http.Request{RemoteAddr: from}); p.In1s != 7 {
			t.Errorf("peaks %+v", p)
		}
		return asked
	}
	steps := []struct {
		second int64
		from   string
		since  int64
	}{
		{1010, "192.0.2.1:1000", 1000},
		{1015, "192.0.2.2:1000", 1000},
		{1020, "192.0.2.1:2000", 1010}, // another port
		{1030, "192.0.2.2:1", 1015},
		{1031, "@", 1000},
		{1032, "@", 1031},
	}
	for _, s := range steps {
		at = time.Unix(s.second, 0)
		if got := look(s.from); got.Unix() != s.since {
			t.Errorf("%s at %d: since %d, want %d", s.from, s.second, got.Unix(), s.since)
		}
	}
	for i := range 10 * clientsKept {
		at = at.Add(time.Second)
		look(fmt.Sprintf("198.51.%d.%d:1", i/256, i%256))
		if i%10 == 0 {
			look("192.0.2.1:1")
		}
	}
	if n := len(c.last); n != clientsKept {
		t.Errorf("%d clients kept", n)
	}
	last := c.last["192.0.2.1"]
	if got := look("192.0.2.1:1"); got != last {
		t.Errorf("who comes often was forgotten: since %v", got)
	}
}
