package detect

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

const minute = 60 * time.Second

// office plans two minutes of clients who ask for services of theirs, a cut of the
// uplink for a minute, and two minutes after it. A crawler, who begins 5 s before the
// cut, asks for new hosts all the time.
func office(w *world, clients, services, perSecond int) {
	const cut, back = 2 * minute, 3 * minute
	fate := func(at time.Duration) fate {
		if at >= cut && at < back {
			return silent
		}
		return closed
	}
	for i := range 300 * perSecond {
		at := time.Duration(i) * time.Second / time.Duration(perSecond)
		w.connect(at, fmt.Sprintf("10.0.0.%d", i%clients+1), fmt.Sprintf("192.0.2.%d", (i/clients+i%clients)%services+1), 443, event.ProtoTCP, fate(at), time.Second)
	}
	for i := range 2000 {
		at := cut - 5*time.Second + time.Duration(i)*20*time.Millisecond
		w.connect(at, "10.0.0.200", fmt.Sprintf("198.51.%d.%d", i/250, i%250), 443, event.ProtoTCP, fate(at), time.Second)
	}
	for i := range 200 { // one who comes when nothing goes
		at := cut + time.Duration(i)*100*time.Millisecond
		w.connect(at, "10.0.0.201", fmt.Sprintf("203.0.%d.%d", i/250, i%250), 443, event.ProtoTCP, fate(at), time.Second)
	}
	for i := range 500 { // and one who comes just before it is over
		at := back - 2200*time.Millisecond + time.Duration(i)*20*time.Millisecond
		w.connect(at, "10.0.0.202", fmt.Sprintf("203.1.%d.%d", i/250, i%250), 443, event.ProtoTCP, fate(at), time.Second)
	}
	w.run(5*minute + 10*time.Second)
}

func TestOutage(t *testing.T) {
	for name, c := range map[string]struct{ clients, services, perSecond int }{
		"many":       {8, 20, 40},
		"one client": {1, 8, 20},
		"slow":       {20, 10, 10},
		"slower":     {4, 12, 3},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Config{})
			office(w, c.clients, c.services, c.perSecond)
			w.only("upstream_outage")
			all := w.of("upstream_outage")
			if len(all) < 2 {
				t.Fatalf("%d told", len(all))
			}
			first, last := all[0], all[len(all)-1]
			begin := time.Unix(1700000000, 0).Add(2 * minute)
			if late := first.Time.Sub(begin); first.State != agg.Confirmed || first.Severity != agg.Page || late > 7*time.Second {
				t.Errorf("%v late: %+v", late, first)
			}
			if off := first.First.Sub(begin); off < -2*time.Second || off > time.Second {
				t.Errorf("begins %v off", off)
			}
			if last.State != agg.Cleared || last.Time.Sub(begin) > minute+8*time.Second || last.Raised != 1 {
				t.Errorf("not over: %+v", last)
			}
			// All that asked for a service in its minute are in it, but for those of whom
			// nothing was known yet when it was over.
			least := uint64(57 * c.perSecond)
			if last.Evidence.Unanswered < least || last.Evidence.Unanswered > uint64(60*c.perSecond) {
				t.Errorf("%d unanswered, want %d: %s", last.Evidence.Unanswered, 60*c.perSecond, last.Why)
			}
			for _, f := range all {
				if f.ID != first.ID {
					t.Errorf("another incident: %+v", f)
				}
			}
		})
	}
}

// One scanner among clients who get what they ask for is none, even with a history.
func TestOutageNotOfOne(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 2400 {
		at := time.Duration(i) * 50 * time.Millisecond
		w.connect(at, fmt.Sprintf("10.0.0.%d", i%10+1), fmt.Sprintf("192.0.2.%d", i%7+1), 443, event.ProtoTCP, closed, time.Second)
	}
	for i := range 500 {
		w.connect(minute+time.Duration(i)*20*time.Millisecond, "10.0.0.3", fmt.Sprintf("198.51.%d.%d", i/250, i%250), 22, event.ProtoTCP, silent, 0)
	}
	w.run(3 * minute)
	if all := w.of("upstream_outage"); len(all) > 0 {
		t.Errorf("%+v", all[0])
	}
	var found bool
	for _, f := range w.of("scan") {
		late := f.Time.Sub(time.Unix(1700000000, 0).Add(minute))
		found = found || f.State == agg.Confirmed && late < 4500*time.Millisecond
	}
	if !found {
		t.Errorf("the scan was not confirmed in time: %+v", w.of("scan"))
	}
}

// What half of a population fails at makes failing weigh less, and no outage.
func TestOutageShare(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 6000 {
		f := closed
		if i/12%10%3 == 2 {
			f = refusing
		}
		at := time.Duration(i) * 20 * time.Millisecond
		w.connect(at, fmt.Sprintf("10.0.0.%d", i%12+1), fmt.Sprintf("192.0.%d.%d", i/250, i%250), 443, event.ProtoTCP, f, time.Second)
	}
	w.run(2 * minute)
	if p := w.d.outage.p; p < .25 || p > .35 {
		t.Errorf("median %v, want .3", p)
	}
	if want := 1.0; w.d.scan.failure >= want { // ln(.8/.45) = .58
		t.Errorf("a failure counts %v", w.d.scan.failure)
	}
	w.only()
}

// A dead service that everybody asks for again and again is no outage.
func TestOutageNotOfService(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 6000 {
		at := time.Duration(i) * 20 * time.Millisecond
		f := closed
		if i%10 > 2 && at > minute {
			f = refusing
		}
		service := i % 10
		if service > 2 {
			service = 3
		}
		w.connect(at, fmt.Sprintf("10.0.0.%d", i%3+1), fmt.Sprintf("192.0.2.%d", service), 443, event.ProtoTCP, f, time.Second)
	}
	w.run(2 * minute)
	if all := w.of("upstream_outage"); len(all) > 0 {
		t.Errorf("%+v", all[0])
	}
}

// A peer-to-peer client alone on a gateway fails at most of the peers that it had met.
func TestOutageNotOfPeers(t *testing.T) {
	w := newWorld(t, Config{})
	peer := func(n int) string { return fmt.Sprintf("198.51.%d.%d", n/250, n%250) }
	for i := range 3000 {
		at := time.Duration(i) * 200 * time.Millisecond
		f := closed
		if i > 600 && w.random.IntN(100) < 85 {
			f = silent
		}
		w.connect(at, "10.0.0.7", peer(w.random.IntN(300)), uint16(6881), event.ProtoTCP, f, time.Second)
		f = silent
		if w.random.IntN(100) < 20 {
			f = closed
		}
		w.connect(at, "10.0.0.7", peer(1000+i), uint16(6881), event.ProtoTCP, f, time.Second)
	}
	w.run(12 * minute)
	if all := w.of("upstream_outage"); len(all) > 0 {
		t.Errorf("%d times: %s", len(all), all[0].Why)
	}
}

// Five dead services that are asked ten times as often as ten others are none.
func TestOutageNotOfRetries(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 15 {
		src, dst := fmt.Sprintf("10.0.0.%d", i%4+1), fmt.Sprintf("192.0.2.%d", i+1)
		skew := time.Duration(i) * 17 * time.Millisecond
		if i >= 5 {
			w.every(time.Second, skew, 3*minute, src, dst, 443, closed, time.Second)
			continue
		}
		w.every(time.Second, skew, minute, src, dst, 443, closed, time.Second)
		w.every(100*time.Millisecond, minute+skew, 3*minute, src, dst, 443, refusing, 0)
	}
	w.run(3 * minute)
	if all := w.of("upstream_outage"); len(all) > 0 {
		t.Errorf("%+v", all[0])
	}
}

// Sources that only ever ask for what is new have nothing that was good: there the
// median tells.
func TestOutageByMedian(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 7200 {
		at := time.Duration(i) * 50 * time.Millisecond
		f := closed
		if at >= 3*minute && at < 5*minute {
			f = silent
		}
		w.connect(at, fmt.Sprintf("10.0.0.%d", i%7+1), fmt.Sprintf("192.%d.%d.%d", i/62500, i/250%250, i%250), 443, event.ProtoTCP, f, time.Second)
	}
	w.run(8 * minute)
	w.only("upstream_outage", "new_connection_pattern")
	all := w.of("upstream_outage")
	if len(all) < 2 {
		t.Fatalf("%d told", len(all))
	}
	first, last := all[0], all[len(all)-1]
	if late := first.Time.Sub(time.Unix(1700000000, 0).Add(3 * minute)); late > 40*time.Second || figure(&first, "sources_with_history") != 7 {
		t.Errorf("%v late: %+v", late, first)
	}
	if late := last.Time.Sub(time.Unix(1700000000, 0).Add(5 * minute)); last.State != agg.Cleared || late > time.Minute {
		t.Errorf("over %v late: %+v", late, last)
	}
}

// What failed in an outage is not held against a service that nobody asks for after it.
func TestOutageForgivesServices(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 10 {
		src := fmt.Sprintf("10.0.0.%d", i+1)
		skew := time.Duration(i) * 23 * time.Millisecond
		w.every(300*time.Millisecond, skew, 2*minute, src, "192.0.2.1", 443, closed, time.Second)
		w.every(300*time.Millisecond, 2*minute+skew, 2*minute+2*time.Second, src, "192.0.2.1", 443, silent, 0)
		for k := range 8 {
			dst := fmt.Sprintf("192.0.2.%d", k+2)
			at := skew + time.Duration(k)*211*time.Millisecond
			w.every(4*time.Second, at, 2*minute, src, dst, 443, closed, time.Second)
			w.every(4*time.Second, 2*minute+at, 3*minute, src, dst, 443, silent, 0)
			w.every(4*time.Second, 3*minute+at, 5*minute, src, dst, 443, closed, time.Second)
		}
	}
	w.run(5 * minute)
	w.only("upstream_outage")
	if len(w.of("upstream_outage")) == 0 {
		t.Error("no outage")
	}
}

// Silence is told a moment later than refusal, which is no sign of a cut.
func TestSilenceWaits(t *testing.T) {
	for f, want := range map[fate][2]time.Duration{silent: {3200 * time.Millisecond, 3900 * time.Millisecond}, refusing: {0, 300 * time.Millisecond}} {
		w := newWorld(t, Config{})
		for i := range 60 {
			w.connect(time.Second+time.Duration(i)*5*time.Millisecond, "203.0.113.7", fmt.Sprintf("10.0.0.%d", i+1), 22, event.ProtoTCP, f, 0)
		}
		w.run(10 * time.Second)
		all := w.of("scan")
		if len(all) == 0 {
			t.Fatalf("%v: nothing told", f)
		}
		if late := all[0].Time.Sub(time.Unix(1700000001, 0)); late < want[0] || late > want[1] {
			t.Errorf("%v: told after %v", f, late)
		}
		if !strings.Contains(all[0].Why, "tried") {
			t.Error(all[0].Why)
		}
	}
}
