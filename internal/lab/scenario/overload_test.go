package scenario

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/pipeline"
)

// until waits for something that may take long in an emulated machine.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after two minutes still not: %s", what)
		}
	}
}

// A table of 99 overflows while the rings, of 512 records, overflow as well,
// because their reader sleeps: what came of each source, was lost and evicted, and
// what is live, is exact all the same, from sums.
func TestCensusOverload(t *testing.T) {
	r := router(t, netlab.Options{})
	limit(t, r, noGC, 4096)
	w, finish := watchWith(t, pipeline.Config{RingBytes: 64 << 10, Sums: true}, func(e *event.Event) error {
		if e.NetNS == r.R.Inode() {
			time.Sleep(time.Millisecond)
		}
		return nil
	})
	truth := send(t, r, sources("198.51.100.1", 20, 250, netlab.Sink(0)))
	finish()
	l := w.Top(agg.BySrc, agg.ColNew, 0, nil).Loss
	if l.Aggregated == 0 || l.Lost != 0 || l.Residual() != 0 {
		t.Errorf("%+v, want nothing lost and something in sums", l)
	}
	rows, left := sameLive(t, w, r.R), held(t, r.R)
	var evicted, evictor uint64
	for a, sent := range truth.FlowsBySource() {
		got := rows[a]
		if got.New+got.Drops != sent || got.Evicted != got.New-left[a] || got.Destroyed != got.Evicted {
			t.Errorf("%s: %+v, sent %d, left %d", a, got.Sums, sent, left[a])
		}
		evicted += got.Evicted
		evictor += got.Evictor
	}
	if evicted == 0 || evictor != evicted {
		t.Errorf("%d evicted, %d for somebody", evicted, evictor)
	}
	t.Logf("%d sent, %d evicted, %+v", truth.Flows(), evicted, l)
}

// Events are lost for good, inserts and destroys. When that is over the tables
// are read again, and live entries are right again, of endpoints too, without a
// restart.
func TestCensusAfterLoss(t *testing.T) {
	r := router(t, netlab.Options{})
	limit(t, r, 1<<17, 1<<14)
	must(t, r.SetSysctl(r.R, "net.netfilter.nf_conntrack_udp_timeout", "3600"))
	var stalled atomic.Bool
	w, finish := watchWith(t, pipeline.Config{RingBytes: 64 << 10}, func(*event.Event) error {
		for stalled.Load() {
			time.Sleep(time.Millisecond)
		}
		return nil
	})
	send(t, r, sources("198.51.100.1", 4, 100, netlab.Sink(0)))
	stalled.Store(true)
	send(t, r, sources("198.51.100.3", 4, 1000, netlab.Sink(1)))
	run(t, r, "conntrack", "-D", "-s", "198.51.100.2")
	run(t, r, "conntrack", "-D", "-s", "198.51.100.4")
	stalled.Store(false)
	until(t, "the tables are read again", func() bool {
		for _, s := range w.Top(agg.BySrc, agg.ColNew, 0, nil).Table {
			if s.NetNS == r.R.Inode() {
				return s.Seeded && s.Known == s.Entries && s.Entries > 0
			}
		}
		return false
	})
	lost := w.Top(agg.BySrc, agg.ColNew, 0, nil).Loss.Lost
	end(t, w, r, sources("198.51.100.5", 1, 1000, netlab.Sink(1)))
	finish()
	l := w.Top(agg.BySrc, agg.ColNew, 0, nil).Loss
	if lost == 0 || l.Lost != lost {
		t.Errorf("%d lost at first, then %+v", lost, l)
	}
	rows := sameLive(t, w, r.R)
	var live uint64
	for _, d := range w.Top(agg.ByDst, agg.ColLive, 100, func(k *agg.Key) bool { return k.NetNS == r.R.Inode() }).Rows {
		want := map[bool]uint64{true: 200, false: 2000}[d.Dst == netlab.Sink(0)]
		if d.Live != want {
			t.Errorf("towards %s: %d live, want %d", d.Dst, d.Live, want)
		}
		live += d.Live
	}
	if live != 2200 {
		t.Errorf("%d live by endpoint, want 2200; by source %v", live, rows)
	}
}

// end deletes the entries of a source, whose events come to the census as any: no
// more at a time than a small ring holds, however long its reader is kept waiting.
func end(t *testing.T, w *pipeline.Watch, r *netlab.Router, f netlab.Flows) {
	t.Helper()
	c, err := trace.Dial(r.R)
	must(t, err)
	defer c.Close()
	src := f.Src.First
	before := rowsOf(w, r.R.Inode())[src]
	for i := range f.Len() {
		must(t, c.Delete(f.Tuple(i), 0))
		if gone := uint64(i + 1); gone%100 == 0 || i+1 == f.Len() {
			until(t, "the census knows of the deletions", func() bool {
				row := rowsOf(w, r.R.Inode())[src]
				return row.Destroyed == before.Destroyed+gone && row.Live == before.Live-gone
			})
		}
	}
}
