package pipeline

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/filter"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
)

// On every backend an entry is known from its insert to its destroy, and no longer:
// no loss, no reading of the table comes to help.
func TestWatchLive(t *testing.T) {
	const sources, each = 100, 10
	for _, backend := range []string{probe.Auto, probe.Netfilter, probe.Netlink} {
		t.Run(backend, func(t *testing.T) {
			l := newLab(t, netlab.Options{Name: "ctsight-live-test"})
			flt, err := filter.Parse(fmt.Sprintf("netns %d", l.R.Inode()), filter.Options{})
			must(t, err)
			p, err := Open(t.Context(), Config{Backend: backend, Filter: flt})
			if errors.Is(err, probe.ErrNotPossible) {
				t.Skip(err)
			}
			must(t, err)
			defer p.Close()
			w := p.NewWatch(event.Clock{}, agg.CensusConfig{Dims: []agg.Dim{agg.BySrc, agg.ByNetNS}})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ran := make(chan error, 1)
			aged := 0
			go func() {
				ran <- w.Run(ctx, func(e *event.Event) error {
					if e.Kind == event.Destroy && e.HasLifetime {
						aged++
					}
					return nil
				})
			}()
			live := func() int {
				w.lock()
				defer w.mu.Unlock()
				return w.census.Live()
			}
			_, err = l.SendFlows(ctx, flows("10.2.0.1", sources, each, netlab.Sink(0)), netlab.SendOptions{})
			must(t, err)
			eventually(t, "all are known", func() bool { return live() == sources*each })
			must(t, conn(t, l.R).Flush())
			eventually(t, "all are gone", func() bool { return live() == 0 })
			for _, r := range w.Top(agg.BySrc, agg.ColLive, 2*sources, nil).Rows {
				if r.Live != 0 || r.New != each || r.Destroyed != each {
					t.Errorf("%v: %d live, %d new, %d destroyed", r.Src, r.Live, r.New, r.Destroyed)
				}
			}
			cancel()
			must(t, <-ran)
			if aged != sources*each {
				t.Errorf("%d destroys with a lifetime", aged)
			}
		})
	}
}

// losing is a source that loses something all the time.
type losing struct {
	nothing
	lost *uint64
}

func (l losing) Loss() probe.Loss { *l.lost++; return probe.Loss{Lost: *l.lost} }

// While events are lost all the time the tables are read again only when far more
// entries are taken for live than they hold, and not when that takes long.
func TestResyncWhileLosing(t *testing.T) {
	const held = 1000
	for _, tc := range []struct {
		name  string
		live  int
		took  time.Duration
		dirty bool
	}{
		{"a few too many", held + held/2 + resyncOver, 0, false},
		{"far too many", held + held/2 + resyncOver + 1, 0, true},
		{"far too many, but it takes long", 2 * resyncOver, time.Second, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := &Pipeline{Source: losing{lost: new(uint64)}}
			w := p.NewWatch(event.Clock{}, agg.CensusConfig{Dims: []agg.Dim{agg.ByNetNS}})
			w.tables[1] = &table{ns: ctnl.NS{Inode: 1}, seeded: true, fill: ctnl.Fill{Count: held}}
			w.sync = syncState{began: time.Now(), took: tc.took}
			w.come(tc.live)
			w.resync()
			if w.sync.dirty != tc.dirty || w.tables[1].seeded == tc.dirty {
				t.Errorf("read again: %v", w.sync.dirty)
			}
		})
	}
}

// No more are taken for live than the tables can hold, or may come until the next look,
// and no more than is configured.
func TestLiveBound(t *testing.T) {
	for _, tc := range []struct {
		name       string
		tables     []ctnl.Fill
		configured int
		come, want int
	}{
		{"one table", []ctnl.Fill{{Count: 0, Max: 1000}, {Count: 1, Max: 1000}}, 0, 100_000, 1000 + resyncOver},
		{"two tables", []ctnl.Fill{{Count: 1, Max: 1000}, {Count: 1, Max: 1000}}, 0, 100_000, 2000 + resyncOver},
		{"all that may come", []ctnl.Fill{{Count: 50, Max: 1 << 20}}, 0, 400_000, 100 + liveFresh + resyncOver},
		{"no maximum", []ctnl.Fill{{Count: 50}}, 0, 400_000, 100 + liveFresh + resyncOver},
		{"configured", []ctnl.Fill{{Count: 50, Max: 1 << 20}}, 500, 1000, 500},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := &Pipeline{Source: nothing{}}
			w := p.NewWatch(event.Clock{}, agg.CensusConfig{Dims: []agg.Dim{agg.ByNetNS}, MaxLive: tc.configured})
			for i, f := range tc.tables {
				ns := event.NetNS(i + 1)
				w.tables[ns] = &table{ns: ctnl.NS{Inode: ns}, fill: f}
			}
			w.bound()
			w.come(tc.come)
			if n := w.census.Live(); n != tc.want {
				t.Errorf("%d live, want %d", n, tc.want)
			}
		})
	}
}

// come adds so many entries.
func (w *Watch) come(n int) {
	for i := range n {
		o := event.Tuple{Src: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), Dst: netlab.Sink(0), Proto: event.ProtoTCP}
		w.addAll([]event.Event{{Kind: event.New, Time: w.start, NetNS: 1, Orig: o}})
	}
}
