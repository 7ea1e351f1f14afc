package scenario

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/pipeline"
)

// flood sends flows at a rate until the test ends or they are used up.
func flood(t *testing.T, r *netlab.Router, f netlab.Flows, rate float64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = r.SendFlows(ctx, f, netlab.SendOptions{Rate: rate, Burst: max(1, int(rate/100))})
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}

// tableOf returns what is known of one table now, and how many entries came.
func tableOf(w *pipeline.Watch, ns event.NetNS) (agg.TableState, uint64) {
	top := w.Top(agg.BySrc, agg.ColNew, 0, nil)
	for _, s := range top.Table {
		if s.NetNS == ns {
			return s, top.Total.New
		}
	}
	return agg.TableState{}, top.Total.New
}

// A flood of 1,000 a second fills a table of 15,000: three seconds in, the time
// to full is right within a fifth, and stays so.
func TestForecastFills(t *testing.T) {
	r := router(t, netlab.Options{})
	const most = 15000
	limit(t, r, most, 16384)
	w, _ := watch(t)
	begin := time.Now()
	flood(t, r, sources("198.51.100.1", 50, 1000, netlab.Sink(0)), 1000)
	type said struct {
		at   time.Duration
		left float64
		came uint64
	}
	var all []said
	var full time.Duration
	for last := uint64(0); full == 0; time.Sleep(100 * time.Millisecond) {
		s, came := tableOf(w, r.R.Inode())
		at := time.Since(begin)
		switch {
		case came >= most: // none of them ends before
			full = at
		case at > 3*time.Minute:
			t.Fatalf("not full after %v: %+v", at, s)
		case s.Entries == last: // no new reading
		case s.TimeToFull != nil:
			all = append(all, said{at, *s.TimeToFull, came})
		case at > 8*time.Second:
			t.Errorf("at +%v with %d entries there is no time to full", at, s.Entries)
		}
		last = s.Entries
	}
	judged, unsteady := 0, 0
	for _, x := range all {
		left := (full - x.at).Seconds()
		t.Logf("at +%.1f s: full in %.1f s, truth %.1f s", x.at.Seconds(), x.left, left)
		// The generator cannot always keep its rate where the machine is slow:
		// only while it has. A reading of the kernel's count is up to a second old.
		steady := float64(x.came) / x.at.Seconds() * full.Seconds() / most
		switch {
		case x.at < 3*time.Second || left <= 4:
		case steady < 0.9 || steady > 1.1:
			unsteady++
		default:
			judged++
			if math.Abs(x.left-left) > 0.2*left+1 {
				t.Errorf("at +%.1f s it says %.1f s, truth %.1f s", x.at.Seconds(), x.left, left)
			}
		}
	}
	if judged < 3 && unsteady > 0 {
		t.Skipf("this machine did not keep the rate of the flood (%d of %d readings)", unsteady, judged+unsteady)
	}
	if judged < 3 {
		t.Errorf("only %d forecasts", judged)
	}
}

// Entries that live for 5 seconds and come at 200 a second stay far below a
// table of 20,000, however long the garbage collector takes: no alarm, ever.
func TestForecastSaturates(t *testing.T) {
	r := router(t, netlab.Options{})
	limit(t, r, 20000, 16384)
	sysctl(t, r, "nf_conntrack_udp_timeout", 5)
	w, _ := watch(t)
	flood(t, r, sources("198.51.100.1", 50, 1000, netlab.Sink(0)), 200)
	known, most := 0, uint64(0)
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		s, _ := tableOf(w, r.R.Inode())
		most = max(most, s.Entries)
		if s.Forecast && s.Entries > 200 {
			known++
		}
		if s.TimeToFull != nil {
			t.Errorf("with %d of %d entries: full in %.0f s", s.Entries, s.Max, *s.TimeToFull)
		}
	}
	if known < 20 || most > 16000 {
		t.Errorf("%d forecasts, at most %d entries", known, most)
	}
}
