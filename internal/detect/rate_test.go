package detect

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// poisson draws with Knuth's method.
func poisson(r *rand.Rand, mean float64) (n int) {
	for p := r.Float64(); p > math.Exp(-mean); p *= r.Float64() {
		n++
	}
	return n
}

// steady feeds a rate with seconds of a Poisson process and returns in which of them,
// if any, the test was crossed.
func steady(r *rate, random *rand.Rand, from, to uint32, perSecond float64) (at uint32) {
	for sec := from; sec < to; sec++ {
		for range poisson(random, perSecond) {
			if r.count(sec, 1) && at == 0 {
				at = sec
			}
		}
	}
	return at
}

// Detection delays of detection.md, D7, and no alarm in a day of a steady source.
func TestRate(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for _, mean := range []float64{.05, .2, 3, 50} {
		var r rate
		if at := steady(&r, random, 1, 86400, mean); at != 0 {
			t.Errorf("steady %v per second: crossed after %d s", mean, at)
		}
		for _, factor := range []float64{3, 10} {
			b := r
			// h phi / (lambda1 ln rho - lambda0 (rho-1)), or the seconds of a hundred entries
			delay := max(rateCross/(factor*mean*math.Log(rateRho)-mean*(rateRho-1)), burstLeast/(factor*mean))
			at := steady(&b, random, 86400, 86400+4000, factor*mean)
			if mean >= rateFloor && (at == 0 || float64(at-86400) > 1.5*delay+5) {
				t.Errorf("%v times %v: crossed in second %d, want within %.1f", factor, mean, at, 1.5*delay+5)
			}
		}
	}
}

// Browsers come in bursts: a source that always did is not bursting.
func TestRateOverdispersed(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	var r rate
	for sec := uint32(1); sec < 6*3600; sec++ {
		if random.IntN(30) == 0 {
			for range 20 + random.IntN(60) {
				if r.count(sec, 1) {
					t.Fatalf("crossed in second %d: %+v", sec, r)
				}
			}
		}
	}
}

// between counts the entries of a source that a test has made, as its log has them.
func (w *world) between(src string, f *agg.Finding) (n float64) {
	for _, e := range w.log {
		at := w.d.cfg.Clock.At(e.Time)
		if e.Kind == event.New && e.Orig.Src == addr(src) && !at.Before(f.First) && !at.After(f.Last) {
			n++
		}
	}
	return n
}

func TestRateBurst(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 600 {
		w.connect(time.Duration(i)*time.Second, "10.0.0.7", "192.0.2.1", 443, event.ProtoTCP, closed, time.Second)
	}
	for i := range 600 {
		w.connect(10*time.Minute+time.Duration(i)*50*time.Millisecond, "10.0.0.7", "192.0.2.1", 443, event.ProtoTCP, closed, time.Second)
	}
	w.run(20 * time.Minute)
	all := w.of("rate_burst")
	if len(all) < 2 {
		t.Fatalf("%d told", len(all))
	}
	if f := all[0]; f.Severity != agg.Info || f.Source.Addr() != addr("10.0.0.7") || f.Spoofable || f.Time.Sub(f.First) > 8*time.Second {
		t.Errorf("%+v", f)
	}
	for _, f := range all {
		if n, want := figure(&f, "new_entries"), w.between("10.0.0.7", &f); n != want {
			t.Errorf("%v new entries, in the log %v: %+v", n, want, f)
		}
	}
	last := all[len(all)-1]
	if n := figure(&last, "new_entries"); last.State != agg.Cleared || n < 595 || n > 605 {
		t.Errorf("%v new entries: %+v", n, last)
	}
	w.only("rate_burst", "pool_lost")
}

// The first minutes of a source are no burst, however busy it is.
func TestRateOfNewcomer(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 5000 {
		w.connect(time.Duration(i)*10*time.Millisecond, "10.0.0.7", "192.0.2.1", 443, event.ProtoTCP, closed, time.Second)
	}
	w.run(time.Minute)
	if all := w.of("rate_burst"); len(all) > 0 {
		t.Errorf("%+v", all[0])
	}
}

// A client that asks for each name from a new socket is called what it is.
func TestDNSStorm(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 600 {
		w.connect(time.Duration(i)*time.Second, "10.0.0.7", "10.0.0.53", 53, event.ProtoUDP, closed, 0)
	}
	for i := range 3000 {
		w.connect(10*minute+time.Duration(i)*10*time.Millisecond, "10.0.0.7", "10.0.0.53", 53, event.ProtoUDP, closed, 0)
	}
	w.run(14 * minute)
	w.only("rate_burst")
	all := w.of("rate_burst")
	if len(all) == 0 {
		t.Fatal("nothing told")
	}
	f := all[len(all)-1]
	if f.Target != (agg.Target{Proto: event.ProtoUDP, Port: 53}) || figure(&f, "dns_questions") != figure(&f, "new_entries") ||
		figure(&f, "new_entries") < 3000 || f.Severity != agg.Info {
		t.Errorf("%+v", f)
	}
}
