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

func seconds(x float64) *float64 { return &x }

// The forecast is of a mean and of the mean less 1.5 deviations: with 40 and 100 s,
// eight of ten are within 73.7 s.
func TestHeading(t *testing.T) {
	for _, c := range []struct {
		full, high *float64
		used       uint64
		known      bool
		want       level
	}{
		{seconds(30), seconds(40), 50, true, critical},
		{seconds(50), seconds(67), 50, true, critical}, // 59.5
		{seconds(50), seconds(69), 50, true, warning},  // 60.7
		{seconds(290), seconds(300), 50, true, warning},
		{seconds(290), seconds(320), 50, true, fine}, // 306.8
		{seconds(30), nil, 99, true, fine},           // it may never fill
		{nil, nil, 99, true, fine},
		{nil, nil, 94, false, fine},
		{nil, nil, 95, false, critical},
		{nil, nil, 100, true, critical},
	} {
		h := heading{used: c.used, limit: 100, known: c.known, full: c.full, high: c.high}
		if h.judge(); h.level != c.want {
			t.Errorf("%+v: level %d, by %.1f", c, h.level, h.by)
		}
	}
}

func TestTableFilling(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 400 { // one source makes four of five new entries
		src := "10.0.0.7"
		if i%5 == 0 {
			src = fmt.Sprintf("10.0.1.%d", i%50)
		}
		w.connect(time.Duration(i)*25*time.Millisecond, src, "192.0.2.1", 443, event.ProtoTCP, unclosed, 0)
	}
	for i := range 120 {
		w.at(time.Duration(i)*time.Second, func() {
			s := agg.TableState{NetNS: 1, Name: "gw", Max: 1000, Entries: uint64(min(900, 100*i)), Forecast: true, NewRate: 40}
			if i > 2 && i < 60 {
				s.TimeToFull, s.FullHigh = seconds(float64(max(0, 200-20*i))), seconds(float64(max(0, 220-20*i)))
			}
			w.state = State{Tables: []agg.TableState{s}}
		})
	}
	w.run(2 * time.Minute)
	all := w.of("table_filling")
	if len(all) < 3 {
		t.Fatalf("%d told: %+v", len(all), all)
	}
	for i, want := range []struct {
		state string
		level string
	}{{agg.Confirmed, "level_warning"}, {agg.Confirmed, "level_critical"}} {
		f := all[i]
		if f.State != want.state || figure(&f, want.level) != 1 || f.Severity != agg.Page || f.ID != all[0].ID {
			t.Errorf("%+v", f)
		}
	}
	if f := all[1]; !strings.Contains(f.Why, "netns gw") || len(f.Evidence.Items) == 0 || !strings.HasPrefix(f.Evidence.Items[0], "10.0.0.7 (80 %") {
		t.Errorf("%s %v", f.Why, f.Evidence.Items)
	}
	if f := all[len(all)-1]; !slices.Contains(f.Evidence.Items, "10.0.0.7 to 192.0.2.1:443/tcp (318 entries live)") {
		t.Errorf("who holds it: %v", f.Evidence.Items)
	}
	if f := all[len(all)-1]; f.State != agg.Cleared || f.Raised != 1 {
		t.Errorf("not over: %+v", f)
	}
	w.only("table_filling")
}

// A table that settles below its limit has no time to full; close to it for two
// minutes it has no room, which is for who looks.
func TestTableRoom(t *testing.T) {
	for share, want := range map[float64]int{.85: 0, .95: 1} {
		w := newWorld(t, Config{})
		w.at(time.Second, func() {
			w.state.Tables = []agg.TableState{{NetNS: 1, Max: 1000, Entries: 800, Forecast: true, Saturation: share * 1000}}
		})
		w.run(119 * time.Second)
		w.only()
		w.run(5 * time.Minute)
		all := w.of("table_filling")
		if len(all) < want || want == 0 && len(all) > 0 {
			t.Fatalf("%v: %d told", share, len(all))
		}
		for _, f := range all {
			if f.Severity != agg.Info || figure(&f, "level_capacity") != 1 {
				t.Errorf("%+v", f)
			}
		}
	}
}

// A table that evicts is full, known or not, and what was lost is counted.
func TestTableEvicts(t *testing.T) {
	for name, c := range map[string]struct {
		state []agg.TableState
		n     int
	}{
		"known":   {[]agg.TableState{{NetNS: 1, Name: "gw", Max: 1000, Entries: 990, Forecast: true}}, 50},
		"unknown": {nil, 50},
		"nothing": {[]agg.TableState{{NetNS: 1, Max: 1000, Entries: 990, Forecast: true}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Config{})
			w.state.Tables = c.state
			for i := range c.n {
				at := time.Second + time.Duration(i)*100*time.Millisecond
				w.drop(at, "10.0.0.7", "10.0.0.5", 443, event.TableFull)
				e := event.Event{Kind: event.Destroy, Cause: event.EarlyDrop, NetNS: 1, Lifetime: time.Second, HasLifetime: true,
					Orig: event.Tuple{Src: addr("10.0.0.8"), Dst: addr("10.0.0.53"), Sport: uint16(i), Dport: 53, Proto: event.ProtoUDP}}
				w.at(at+7*time.Millisecond, func() { e.Time = w.now; w.d.Add(&e) })
			}
			w.run(minute)
			w.only("table_filling")
			all := w.of("table_filling")
			if c.n == 0 {
				w.only()
				return
			}
			if len(all) < 2 {
				t.Fatalf("%d told", len(all))
			}
			first, last := all[0], all[len(all)-1]
			if first.Severity != agg.Page || !first.First.Equal(time.Unix(1700000001, 0)) || first.Time.Sub(first.First) > time.Second {
				t.Errorf("%+v", first)
			}
			if last.State != agg.Cleared || figure(&last, "evicted") != 50 || figure(&last, "dropped_by_us") != 50 {
				t.Errorf("%+v", last)
			}
		})
	}
}

func TestPoolFilling(t *testing.T) {
	w := newWorld(t, Config{})
	k := agg.Key{NetNS: 1, Src: addr("203.0.113.9"), Dst: addr("198.51.100.1"), Dport: 443, Proto: event.ProtoTCP}
	for i := range 20 {
		w.at(time.Duration(i)*time.Second, func() {
			p := agg.Pool{Key: k, InUse: 64512, Capacity: 64512, New: uint64(64512 + i), Drops: 7}
			if i < 10 {
				p.InUse, p.Drops = 40000, 0
			}
			w.state.Pools = []agg.PoolState{{Pool: p}}
		})
	}
	w.run(9 * time.Second)
	w.only()
	w.run(90 * time.Second)
	all := w.of("nat_pool_filling")
	if len(all) == 0 {
		t.Fatal("nothing told")
	}
	f := all[0]
	if f.Source.IsValid() || f.Target != (agg.Target{Addr: k.Dst, Proto: k.Proto, Port: k.Dport}) || f.Severity != agg.Page ||
		figure(&f, "dropped_by_us") != 7 || !strings.Contains(f.Why, "203.0.113.9") {
		t.Errorf("%+v", f)
	}
	w.only("nat_pool_filling")
}
