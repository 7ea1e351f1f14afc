package pipeline

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/metrics"
	"github.com/ctsight/ctsight/internal/probe"
)

func (nothing) Report() probe.Report { return probe.Report{Backend: probe.Fentry} }
func (nothing) Loss() probe.Loss     { return probe.Loss{} }

// fullKeeper knows live entries of so many sources.
func fullKeeper(tb testing.TB, sources, live int) *Keeper {
	tb.Helper()
	clock, err := NewClock()
	must(tb, err)
	k := NewKeeper(clock, KeeperConfig{Census: agg.CensusConfig{Dims: []agg.Dim{agg.BySrc, agg.ByDst, agg.ByPrefix, agg.ByNetNS}, Seed: 7}, Prefixes: 10})
	k.p = &Pipeline{Source: nothing{}}
	k.w, k.journal = k.p.NewWatch(clock, k.cfg.Census), newJournal(false)
	k.w.keeps = k.journal
	for n := range live {
		k.w.addAll([]event.Event{connection(k.w.start, sources, n)})
	}
	k.rank()
	return k
}

// connection is the n-th new one.
func connection(start event.Ktime, sources, n int) event.Event {
	src := n % sources
	return event.Event{Kind: event.New, Time: start + event.Ktime(n)*1000, NetNS: 4026531840, Ptr: 0xffff888000000000 + uint64(n)<<8,
		Orig: event.Tuple{Src: netip.AddrFrom4([4]byte{10, byte(src >> 16), byte(src >> 8), byte(src)}), Dst: netip.AddrFrom4([4]byte{11, 0, 0, byte(n % 16)}),
			Sport: uint16(n), Dport: 443, Proto: event.ProtoTCP}}
}

func (k *Keeper) exporter() http.Handler {
	x := metrics.New(metrics.Options{TopPrefixes: 10})
	return x.Handler(func(*http.Request) (*agg.Status, error) { return k.Status(), nil })
}

// scrapeAlone is a scrape that shares its rendering with nobody.
func scrapeAlone(k *Keeper) (size int) {
	w := httptest.NewRecorder()
	k.exporter().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return w.Body.Len()
}

// BenchmarkScrape is a whole scrape while events come as fast as they are taken,
// with few and with a million live entries; wait-us is the longest that an event
// had to wait for the lock.
func BenchmarkScrape(b *testing.B) {
	for _, size := range []struct{ sources, live int }{{1000, 10_000}, {100_000, 1_000_000}} {
		b.Run(fmt.Sprintf("sources=%d/live=%d", size.sources, size.live), func(b *testing.B) {
			k := fullKeeper(b, size.sources, size.live)
			var stop atomic.Bool
			longest := make(chan time.Duration, 1)
			go func() { longest <- feed(k, size.sources, size.live, &stop) }()
			for b.Loop() {
				if scrapeAlone(k) == 0 {
					b.Fatal("empty")
				}
			}
			stop.Store(true)
			b.ReportMetric(float64((<-longest).Microseconds()), "wait-us")
		})
	}
}

// feed replaces old connections by new ones until stop, and returns the longest
// time that one of them took.
func feed(k *Keeper, sources, live int, stop *atomic.Bool) (longest time.Duration) {
	for n := live; !stop.Load(); n++ {
		e := connection(k.w.start, sources, n)
		begin := time.Now()
		k.w.addAll([]event.Event{e})
		longest = max(longest, time.Since(begin))
	}
	return longest
}

// What a scrape costs does not grow with what is live: all that takes long was
// done before.
func TestScrapeIsFlat(t *testing.T) {
	small, large := fullKeeper(t, 1000, 10_000), fullKeeper(t, 50_000, 300_000)
	cost := func(k *Keeper) int64 {
		return testing.Benchmark(func(b *testing.B) {
			for b.Loop() {
				scrapeAlone(k)
			}
		}).NsPerOp()
	}
	few, many := cost(small), cost(large)
	t.Logf("%d us with 10,000 live, %d us with 300,000", few/1000, many/1000)
	if many > 3*few {
		t.Errorf("a scrape takes %d us with 30 times the entries, %d us before", many/1000, few/1000)
	}
}

// Whose packets were lost comes with the reasons, and of those that lost none nothing.
func TestLosers(t *testing.T) {
	k := fullKeeper(t, 100, 1000)
	for n, lost := range map[int]int{3: 7, 5: 2} {
		for range lost {
			e := connection(k.w.start, 100, n)
			e.Kind, e.Reason = event.Drop, event.TableFull
			k.w.addAll([]event.Event{e})
		}
	}
	k.rank()
	l := k.Status().Losers
	if len(l) != 2 || l[0].Src != netip.MustParseAddr("10.0.0.3") || l[0].Drops != 7 || l[1].Drops != 2 ||
		len(l[0].Why) != 1 || l[0].Why[0] != (agg.WhyCount{Drop: true, Reason: event.TableFull, Count: 7}) {
		t.Errorf("%+v", l)
	}
}
