package pipeline

import (
	"cmp"
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/probe"
	"github.com/ctsight/ctsight/internal/triage"
)

// errNoWalk is why a backend does not know who holds the table.
var errNoWalk = errors.New("this backend cannot read the table without dumping it")

// NewTriage is NewWatch for a table that may be full: it is walked without a
// lock, not dumped.
func (p *Pipeline) NewTriage(clock event.Clock, c agg.CensusConfig) *Watch {
	w := p.NewWatch(clock, c)
	w.walks = true
	return w
}

// walkOnce returns what reads the tables of all namespaces, the first time it is
// called.
func (w *Watch) walkOnce() func(context.Context, ctnl.NS) error {
	walk := sync.OnceValue(func() error {
		found := seeds{w: w}
		defer found.flush()
		_, err := w.walkAll(func() func(*probe.Peek) {
			return func(q *probe.Peek) { // one that is told again counts once
				found.add(event.Event{Kind: event.New, NetNS: q.NetNS, Zone: q.Zone, Orig: q.Orig, Status: q.Status})
			}
		})
		return err
	})
	return func(context.Context, ctnl.NS) error { return walk() }
}

// walkAll reads the whole table. begin is called for what takes the entries, again
// when the table was replaced meanwhile.
func (w *Watch) walkAll(begin func() func(*probe.Peek)) (probe.Walked, error) {
	p, ok := w.p.Source.(walker)
	if !ok {
		return probe.Walked{}, errNoWalk
	}
	var walked probe.Walked
	err := error(probe.ErrResized)
	for tries := 0; errors.Is(err, probe.ErrResized) && tries < 3; tries++ {
		take := begin()
		walked, err = p.Walk(0, 0, func(q *probe.Peek) error {
			take(q)
			return nil
		})
	}
	return walked, err
}

// Triage returns what is known after Finish, of one namespace or, with 0, of the
// fullest. own is the namespace that commands are typed in.
func (w *Watch) Triage(focus, own event.NetNS, rows int) *triage.Doc {
	top := w.Top(agg.ByNetNS, agg.ColLive, 0, nil)
	d := &triage.Doc{From: top.From, To: top.To, Backend: top.Backend, Table: top.Table, Loss: top.Loss}
	for _, t := range d.Table {
		if t.NetNS == focus || focus == 0 && (d.Focus.NetNS == 0 || fuller(&t, &d.Focus)) {
			d.Focus = t
		}
	}
	ns := d.Focus.NetNS
	d.Holders = w.topOf(agg.BySrc, agg.ColLive, rows, ns)
	d.Arrivals = w.topOf(agg.BySrc, agg.ColNewRate, rows, ns)
	d.Targets = w.topOf(agg.ByDst, agg.ColLive, rows, ns)
	d.Prefixes = w.topOf(agg.ByPrefix, agg.ColLive, rows, ns)
	var err error
	if d.Held, d.Memory.Buckets, err = w.holdings(ns); err != nil {
		d.HeldErr = err.Error()
	}
	d.Memory.Object = EntrySize()
	w.lost(d, ns)
	d.Pools = w.exhaustedPools(ns)
	for _, t := range w.all() {
		if t.ns.Inode != ns {
			continue
		}
		d.Timeouts = t.ns.Timeouts()
		if ns != own {
			if d.Enter = triage.EnterName(t.ns.Name); t.ns.Name == "" {
				d.Enter = triage.EnterPath(t.ns.Path)
			}
		}
	}
	d.Judge()
	return d
}

// fuller is the order in which namespaces deserve a look.
func fuller(a, b *agg.TableState) bool {
	return cmp.Or(cmp.Compare(a.Fill(), b.Fill()), cmp.Compare(a.NewRate, b.NewRate)) > 0
}

// topOf is Top of one namespace; its Total and Tracked are that one's.
func (w *Watch) topOf(by agg.Dim, c agg.Column, n int, ns event.NetNS) agg.Top {
	w.lock()
	defer w.mu.Unlock()
	at := w.now()
	t := w.census.Top(by, c, n, at, func(k *agg.Key) bool { return k.NetNS == ns })
	t.Total, t.Tracked = w.census.NetNS(ns, at), t.Kept
	return t
}

// holdings reads the table once more: who holds it now, in which state.
func (w *Watch) holdings(ns event.NetNS) (*agg.Holdings, uint64, error) {
	var h *agg.Holdings
	walked, err := w.walkAll(func() func(*probe.Peek) {
		h = &agg.Holdings{}
		return func(q *probe.Peek) {
			if q.NetNS == ns {
				h.Add(&q.Orig, q.Status, q.TCPState, q.Timeout)
			}
		}
	})
	if err != nil {
		return nil, 0, err
	}
	return h, uint64(walked.Buckets), nil
}

// lost fills in what the programs counted since the beginning.
func (w *Watch) lost(d *triage.Doc, ns event.NetNS) {
	x := exact(w.p.countersOf(ns), w.first[ns])
	for r, n := range x.Reasons {
		if n > 0 && event.Reason(r).Kind() == event.Drop {
			d.Drops = append(d.Drops, agg.ReasonCount{Reason: event.Reason(r), Count: n})
		}
	}
	for _, c := range []event.Cause{event.EarlyDrop, event.EarlyDropGC} {
		if n := x.Causes[c]; n > 0 {
			d.Evicted = append(d.Evicted, agg.CauseCount{Cause: c, Count: n})
		}
	}
	slices.SortStableFunc(d.Drops, func(a, b agg.ReasonCount) int { return cmp.Compare(b.Count, a.Count) })
}

// EntrySize is the size of an entry's slab object, 0 where the kernel does not
// show it.
func EntrySize() int {
	b, err := os.ReadFile("/sys/kernel/slab/nf_conntrack/slab_size")
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return n
}
