package detect

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// TestShedFlood: of a flood one entry in ten is told, the rest as sums by source.
func TestShedFlood(t *testing.T) {
	for _, sums := range []bool{true, false} {
		var told []agg.Finding
		d := New(Config{Tell: func(f *agg.Finding) { told = append(told, *f) }}, 0)
		g := gateway{d: d}
		r := rand.New(rand.NewPCG(1, 2))
		for i := range 500 {
			g.add(tcp(anywhere(r), uint16(i), victim, 80), event.Ktime(20*ms), false, false)
			for range 9 {
				if sums {
					d.AddSum(&event.Sum{NetNS: 1, Src: anywhere(r), Kind: event.New, N: 1, From: g.now, Last: g.now})
				}
			}
		}
		if !sums {
			if len(told) > 0 {
				t.Errorf("50 a second: told %s", told[0].Why)
			}
			continue
		}
		if len(told) != 1 || told[0].Class != "syn_flood" || told[0].Target.Port != 80 {
			t.Fatalf("told %v", told)
		}
		f := &told[0]
		if e := &f.Evidence; !e.Estimated || numberOf(t, f, "shed") < 5*float64(e.Attempts) || !strings.Contains(f.Why, "without detail") {
			t.Errorf("%+v %s", f.Evidence, f.Why)
		}
	}
}

// TestShedBurst: the rate of a source counts what came as sums.
func TestShedBurst(t *testing.T) {
	var told []agg.Finding
	d := New(Config{Tell: func(f *agg.Finding) { told = append(told, *f) }}, 0)
	g := gateway{d: d}
	src := v4(10, 1, 0, 7)
	for i := range 400 {
		g.add(tcp(src, uint16(i), v4(198, 18, 0, i&7), 443), event.Ktime(time.Second), true, false)
	}
	d.AddSum(&event.Sum{NetNS: 1, Src: src, Kind: event.New, N: 1000, From: g.now, Last: g.now + 1000})
	d.AddSum(&event.Sum{NetNS: 1, Src: v4(10, 1, 0, 8), Kind: event.Drop, Reason: event.TableFull, N: 1000, From: g.now, Last: g.now + 1000})
	if len(told) != 1 || told[0].Class != "rate_burst" || told[0].Source.Addr() != src {
		t.Errorf("told %v", told)
	}
}
