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

// TriageDims are those of the census that a triage is made of.
var TriageDims = []agg.Dim{agg.BySrc, agg.ByDst, agg.ByPrefix, agg.ByNetNS}

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
		p, ok := w.p.Source.(walker)
		if !ok {
			return errNoWalk
		}
		found := seeds{w: w}
		defer found.flush()
		return untilWhole(func() error { // one that is told again counts once
			_, err := p.Walk(0, 0, func(q *probe.Peek) error {
				found.add(event.Event{Kind: event.New, Time: now(), NetNS: q.NetNS, Zone: q.Zone, Orig: q.Orig, Status: q.Status, TCPState: q.TCPState, Timeout: q.Timeout})
				return nil
			})
			return err
		})
	})
	return func(context.Context, ctnl.NS) error { return walk() }
}

// untilWhole calls walk, which reads a whole table, again where that was replaced
// meanwhile; three times at most.
func untilWhole(walk func() error) (err error) {
	for range 3 {
		if err = walk(); !errors.Is(err, probe.ErrResized) {
			break
		}
	}
	return err
}

// Triage returns what is known after Finish, of one namespace or, with 0, of the
// fullest. own is the namespace that commands are typed in.
func (w *Watch) Triage(focus, own event.NetNS, rows int) *triage.Doc {
	return triageOf(w, focus, own, rows)
}

// scene is what a triage looks at: a Watch that has ended, or a Past.
type scene interface {
	Top(by agg.Dim, c agg.Column, n int, keep func(*agg.Key) bool) *agg.TopDoc
	topOf(by agg.Dim, c agg.Column, n int, ns event.NetNS) agg.Top
	memory() (object int, buckets uint64)
	heldIn(ns event.NetNS) (h *agg.Holdings, why string) // or why it is not known
	lostIn(ns event.NetNS) agg.Exact
	exhausted(ns event.NetNS) []agg.Pool
	place(ns event.NetNS) (at ctnl.NS, timeouts map[string]int)
}

func triageOf(s scene, focus, own event.NetNS, rows int) *triage.Doc {
	top := s.Top(agg.ByNetNS, agg.ColLive, 0, nil)
	d := &triage.Doc{From: top.From, To: top.To, Backend: top.Backend, Table: top.Table, Loss: top.Loss}
	for _, t := range d.Table {
		if t.NetNS == focus || focus == 0 && (d.Focus.NetNS == 0 || fuller(&t, &d.Focus)) {
			d.Focus = t
		}
	}
	ns := d.Focus.NetNS
	d.Holders = s.topOf(agg.BySrc, agg.ColLive, rows, ns)
	d.Arrivals = s.topOf(agg.BySrc, agg.ColNewRate, rows, ns)
	d.Targets = s.topOf(agg.ByDst, agg.ColLive, rows, ns)
	d.Prefixes = s.topOf(agg.ByPrefix, agg.ColLive, rows, ns)
	d.Held, d.HeldErr = s.heldIn(ns)
	d.Memory.Object, d.Memory.Buckets = s.memory()
	d.Drops, d.Evicted = lostOf(s.lostIn(ns))
	d.Pools = s.exhausted(ns)
	var at ctnl.NS
	at, d.Timeouts = s.place(ns)
	if at.Path != "" && ns != own {
		if d.Enter = triage.EnterName(at.Name); at.Name == "" {
			d.Enter = triage.EnterPath(at.Path)
		}
	}
	d.Judge()
	return d
}

// fuller is the order in which namespaces deserve a look.
func fuller(a, b *agg.TableState) bool {
	return cmp.Or(cmp.Compare(a.Fill(), b.Fill()), cmp.Compare(a.NewRate, b.NewRate)) > 0
}

func (w *Watch) topOf(by agg.Dim, c agg.Column, n int, ns event.NetNS) agg.Top {
	w.lock()
	defer w.mu.Unlock()
	return topOf(w.census, by, c, n, ns, w.now())
}

// topOf is Top of one namespace; its Total and Tracked are that one's.
func topOf(census *agg.Census, by agg.Dim, c agg.Column, n int, ns event.NetNS, at event.Ktime) agg.Top {
	t := census.Top(by, c, n, at, func(k *agg.Key) bool { return k.NetNS == ns })
	t.Total, t.Tracked = census.NetNS(ns, at), t.Kept
	return t
}

func (w *Watch) memory() (object int, buckets uint64) { return EntrySize(), w.heldSize }

// heldIn says who held the table at the end, in which state.
func (w *Watch) heldIn(ns event.NetNS) (*agg.Holdings, string) {
	if w.heldErr != nil {
		return nil, w.heldErr.Error()
	}
	return cmp.Or(w.holders[ns], &agg.Holdings{}), ""
}

// lostIn is what the programs counted since the beginning; of a recording it is that
// between its readings.
func (w *Watch) lostIn(ns event.NetNS) agg.Exact {
	if w.rec.before != nil {
		return exact(w.rec.after[ns].ours, w.rec.before[ns].ours)
	}
	return exact(w.last[ns], w.first[ns])
}

func (w *Watch) place(ns event.NetNS) (at ctnl.NS, timeouts map[string]int) {
	for _, t := range w.all() {
		if t.ns.Inode == ns {
			return t.ns, t.ns.Timeouts()
		}
	}
	return at, nil
}

func (w *Watch) exhausted(ns event.NetNS) []agg.Pool {
	w.lock()
	defer w.mu.Unlock()
	return exhaustedPools(w.census, ns)
}

// lostOf is what was lost and evicted, the packets most first.
func lostOf(x agg.Exact) (drops []agg.ReasonCount, evicted []agg.CauseCount) {
	for r, n := range x.Reasons {
		if n > 0 && event.Reason(r).Kind() == event.Drop {
			drops = append(drops, agg.ReasonCount{Reason: event.Reason(r), Count: n})
		}
	}
	for _, c := range []event.Cause{event.EarlyDrop, event.EarlyDropGC} {
		if n := x.Causes[c]; n > 0 {
			evicted = append(evicted, agg.CauseCount{Cause: c, Count: n})
		}
	}
	slices.SortStableFunc(drops, func(a, b agg.ReasonCount) int { return cmp.Compare(b.Count, a.Count) })
	return drops, evicted
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
