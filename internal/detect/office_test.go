package detect

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// Section 4 of the definitions: what looks like abuse and is none gets nothing that
// anybody is woken for or that a list takes.
func TestOfficeIsForInformation(t *testing.T) {
	for name, plan := range map[string]func(*world){
		"load balancer": func(w *world) { // 50 backends, 10 dead
			for i := range 50 {
				f := closed
				if i%5 == 0 {
					f = refusing
				}
				w.every(2*time.Second, time.Duration(i)*31*time.Millisecond, 15*minute, "10.0.0.2", fmt.Sprintf("10.0.3.%d", i+1), 8080, f, 5*time.Millisecond)
			}
		},
		"two load balancers, a backend dies": func(w *world) {
			for i := range 10 {
				for _, src := range []string{"10.0.0.2", "10.0.0.3"} {
					dst := fmt.Sprintf("10.0.3.%d", i+1)
					at := time.Duration(i) * 31 * time.Millisecond
					if i != 0 {
						w.every(time.Second, at, 10*minute, src, dst, 8080, closed, 5*time.Millisecond)
						continue
					}
					w.every(time.Second, at, 5*minute, src, dst, 8080, closed, 5*time.Millisecond)
					w.every(time.Second, 5*minute, 10*minute, src, dst, 8080, refusing, 0)
				}
			}
		},
		"Prometheus": func(w *world) { // 30 % dead, half of these black holes
			for i := range 60 {
				f := closed
				switch i % 20 {
				case 0, 1, 2:
					f = refusing
				case 3, 4, 5:
					f = silent
				}
				w.every(15*time.Second, time.Duration(i)*211*time.Millisecond, 20*minute, "10.0.0.4", fmt.Sprintf("10.0.4.%d", i+1), 9100, f, 20*time.Millisecond)
			}
		},
		"resolver": func(w *world) { // 20 % of its name servers are dead
			for i := range 4000 {
				f := closed
				if i%5 == 0 {
					f = silent
				}
				n := i * 7919 % 1500
				w.connect(time.Duration(i)*100*time.Millisecond, "10.0.0.53", fmt.Sprintf("192.0.%d.%d", n/250, n%250), 53, event.ProtoUDP, f, 0)
			}
		},
		"client of the resolver": func(w *world) { // a socket for each question
			for i := range 20000 {
				w.connect(time.Duration(i)*20*time.Millisecond, "10.0.0.9", "10.0.0.53", 53, event.ProtoUDP, closed, 0)
			}
		},
		"no pool": func(w *world) {
			w.every(20*time.Millisecond, 0, 5*minute, "10.0.0.7", "10.0.0.5", 5432, closed, 10*time.Millisecond)
		},
		"mail": func(w *world) { // 40 % of the exchangers are dead, and asked again
			for i := range 600 {
				f := closed
				if i%5 < 2 {
					f = silent
				}
				for again := range 3 {
					w.connect(time.Duration(i)*time.Second+time.Duration(again)*5*minute, "10.0.0.25", fmt.Sprintf("192.0.%d.%d", i/250, i%250), 25, event.ProtoTCP, f, time.Second)
				}
			}
		},
		"deploy": func(w *world) { // of a service that everybody asks for at once
			w.every(time.Second, 0, 45*minute, "10.0.0.8", "10.0.0.5", 443, closed, time.Second)
			for i := range 20 {
				w.every(40*time.Millisecond, 40*minute, 42*minute, fmt.Sprintf("10.0.1.%d", i+1), "10.0.0.6", 8080, closed, 50*time.Millisecond)
			}
		},
		"a crowd": func(w *world) {
			for i := range 3000 {
				w.connect(time.Duration(i)*10*time.Millisecond, fmt.Sprintf("198.51.%d.%d", i%7, i%241), "10.0.0.5", 443, event.ProtoTCP, closed, time.Second)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Config{})
			plan(w)
			w.run(50 * minute)
			for _, f := range w.told {
				if f.Severity != agg.Info {
					t.Errorf("%s %s %s %s: %s", f.Time.Sub(time.Unix(1700000000, 0)), f.Class, f.State, f.Severity, f.Why)
				}
			}
		})
	}
}

// The same events give the same findings whatever the hash tables are seeded with, to
// the letter.
func TestSeedTellsNothing(t *testing.T) {
	var before []agg.Finding
	for _, seed := range []uint64{1, 99} {
		w := newWorld(t, Config{Seed: seed})
		down(w, 7, silent, minute)
		w.every(time.Second, 0, 3*minute, "203.0.113.7", "10.0.0.5", 22, closed, 2*time.Second)
		w.every(500*time.Millisecond, 0, 30*minute, "10.0.0.7", "10.0.0.5", 3306, unclosed, 0)
		w.every(20*time.Millisecond, 8*minute, 9*minute, "203.0.113.7", "10.0.0.6", 25, refusing, 0)
		for i := range 300 {
			w.connect(10*minute+time.Duration(i)*50*time.Millisecond, "203.0.113.9", fmt.Sprintf("10.1.%d.%d", i/250, i%250), 23, event.ProtoTCP, silent, 0)
		}
		w.state.Tables = []agg.TableState{{NetNS: 1, Max: 1000, Entries: 960}}
		w.run(30 * minute)
		classes := map[string]bool{}
		for _, f := range w.told {
			classes[f.Class] = true
		}
		if len(classes) < 6 {
			t.Fatalf("too little to compare: %v", classes)
		}
		if before == nil {
			before = w.told
			continue
		}
		if a, b := lines(before), lines(w.told); a != b {
			t.Errorf("with another seed:\n%s\nnot\n%s", b, a)
		}
	}
}

func lines(all []agg.Finding) string {
	var out []string
	for _, f := range all {
		out = append(out, fmt.Sprintf("%+v", f))
	}
	return strings.Join(slices.Clip(out), "\n")
}
