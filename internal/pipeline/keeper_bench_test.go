package pipeline

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
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
			r := feed(k, size.sources, size.live)
			for b.Loop() {
				if scrapeAlone(k) == 0 {
					b.Fatal("empty")
				}
			}
			b.ReportMetric(float64(r.end().Microseconds()), "wait-us")
		})
	}
}

// reader is told of the end of old connections and of new ones, as fast as it reads.
type reader struct {
	read    atomic.Int64 // events
	longest atomic.Int64 // ns that one of them took, since the last look
	stop    atomic.Bool
	stopped sync.WaitGroup
}

func feed(k *Keeper, sources, live int) *reader {
	r := &reader{}
	r.stopped.Go(func() {
		for n := live; !r.stop.Load(); n++ {
			dead := connection(k.w.start, sources, n-live)
			dead.Kind, dead.Cause = event.Destroy, event.TimeoutGC
			begin := time.Now()
			k.w.addAll([]event.Event{dead, connection(k.w.start, sources, n)})
			r.longest.Store(max(r.longest.Load(), int64(time.Since(begin))))
			r.read.Add(2)
		}
	})
	return r
}

// pause is the longest that an event took since the last call.
func (r *reader) pause() time.Duration { return time.Duration(r.longest.Swap(0)) }

func (r *reader) end() time.Duration {
	r.stop.Store(true)
	r.stopped.Wait()
	return r.pause()
}

// A scrape of a million live entries and 100,000 sources, over loopback, while events
// come and the rows are walked over: it takes a few milliseconds, and the reader of
// events goes on. Windows with and without a scrape alternate, and the median
// of each kind counts: a busy machine does the same to both.
func TestScrapeOfMillion(t *testing.T) {
	const (
		sources, live = 100_000, 1_000_000
		pairs         = 12
		window        = 120 * time.Millisecond // longer than a rendering is shared
		mayTake       = 50 * time.Millisecond
		slowMachine   = 4 // times as slow as it may be
	)
	if lab.InVM() {
		t.Skip("a scrape is measured where nothing is emulated")
	}
	k := fullKeeper(t, sources, live)
	srv := httptest.NewServer(k.exporter())
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var sampling sync.WaitGroup
	sampling.Go(func() { k.sample(ctx) })
	defer sampling.Wait()
	defer cancel()
	r := feed(k, sources, live)
	defer r.end()
	var took, with, without []time.Duration
	var read [2]int64
	for i := range 2 * pairs {
		r.pause()
		before, timer := r.read.Load(), time.After(window)
		if i%2 == 0 {
			took = append(took, scrapeOver(t, srv.URL))
		}
		<-timer
		read[i%2] += r.read.Load() - before
		if i%2 == 0 {
			with = append(with, r.pause())
		} else {
			without = append(without, r.pause())
		}
	}
	rate := func(n int64) float64 { return float64(n) / (pairs * window.Seconds()) }
	t.Logf("a scrape takes %v (longest %v); longest pause of the reader %v with a scrape, %v without; %.0f and %.0f events/s",
		median(took), slices.Max(took), median(with), median(without), rate(read[0]), rate(read[1]))
	if d := median(took); d > slowMachine*mayTake {
		t.Errorf("a scrape takes %v", d)
	}
	if w, o := median(with), median(without); w > 5*o+10*time.Millisecond {
		t.Errorf("the reader of events pauses for %v with a scrape, %v without", w, o)
	}
	if read[0]*2 < read[1] {
		t.Errorf("%d events read with scrapes, %d without", read[0], read[1])
	}
}

// scrapeOver scrapes over HTTP and counts series.
func scrapeOver(t *testing.T, url string) time.Duration {
	t.Helper()
	begin := time.Now()
	a, err := http.Get(url)
	must(t, err)
	defer a.Body.Close()
	body, err := io.ReadAll(a.Body)
	must(t, err)
	took, series := time.Since(begin), 0
	for line := range bytes.Lines(body) {
		if line[0] != '#' {
			series++
		}
	}
	if series == 0 || series > 600 || !bytes.Contains(body, []byte("\nctsight_live_entries 1e+06\n")) {
		t.Errorf("%d series", series)
	}
	return took
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
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
