package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/probe"
)

// A reading is the kernel's counters of one namespace and ours, taken so close
// together that nothing was counted in between, if the traffic let us.
type reading struct {
	ns     ctnl.NS
	cookie uint64 // 0 where the kernel does not tell
	ours   probe.Counters
	stats  ctnl.Totals
	fill   ctnl.Fill
	err    error
	torn   bool // ours moved while the kernel's were read
	exists bool
}

// readings takes one of every namespace. Of numbers that no namespace has now
// it has our counters, from before it looked for namespaces: all of what is
// counted in one that begins after that belongs to the interval.
func (p *Pipeline) readings() (map[event.NetNS]reading, error) {
	out := map[event.NetNS]reading{}
	for _, c := range p.Counters() {
		out[c.NetNS] = reading{ns: ctnl.NS{Inode: c.NetNS}, ours: c}
	}
	all, err := ctnl.ListAllNetNS()
	if err != nil {
		return nil, err
	}
	for _, ns := range all {
		out[ns.Inode] = p.reading(ns)
	}
	return out, nil
}

// reading retries until our counters stand still around the kernel's.
func (p *Pipeline) reading(ns ctnl.NS) reading {
	r := reading{ns: ns, exists: true, ours: p.countersOf(ns.Inode)}
	conn, err := ctnl.Dial(ns)
	if err != nil {
		r.err = err
		return r
	}
	defer conn.Close() // until then nobody else gets the number
	r.cookie = conn.Cookie()
	for range 50 {
		before := p.countersOf(ns.Inode)
		stats, err := conn.Stats()
		if err == nil {
			r.fill, err = conn.Fill()
		}
		if err != nil {
			r.err = err
			return r
		}
		r.stats, r.ours = ctnl.Sum(stats), p.countersOf(ns.Inode)
		if r.torn = r.ours != before; !r.torn {
			break
		}
	}
	return r
}

func (p *Pipeline) countersOf(ns event.NetNS) probe.Counters {
	for _, c := range p.Counters() {
		if c.NetNS == ns {
			return c
		}
	}
	return probe.Counters{NetNS: ns}
}

// Ledger traces until ctx ends and returns the account of that time. each, if
// not nil, sees every event that the filter lets through.
func (p *Pipeline) Ledger(ctx context.Context, clock event.Clock, each func(*event.Event) error) (*agg.Doc, error) {
	before, err := p.readings()
	if err != nil {
		return nil, err
	}
	in := interval{Ledger: agg.NewLedger(agg.LedgerConfig{}), from: now(), to: math.MaxInt64}
	if p.cfg.Tracing != nil {
		p.cfg.Tracing()
	}
	err = p.Run(ctx, func(e *event.Event) error {
		in.add(e)
		if each != nil {
			return each(e)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	in.to = now()
	after, err := p.readings()
	if err != nil {
		return nil, err
	}
	doc := &agg.Doc{From: clock.At(in.from), To: clock.At(in.to), Backend: p.Report().Backend}
	if err := errors.Join(p.Detach(), p.rest(&in)); err != nil {
		return nil, err
	}
	doc.Snapshot = in.Snapshot()
	p.hooked().account(doc, before, after)
	doc.Loss = p.loss()
	return doc, nil
}

// An interval adds up the events between two readings of the counters.
type interval struct {
	*agg.Ledger
	from, to event.Ktime
}

func (in *interval) add(e *event.Event) {
	if e.Time >= in.from && e.Time <= in.to {
		in.Add(e)
	}
}

// rest takes what is still in the rings after the programs are off.
func (p *Pipeline) rest(in *interval) error {
	done, cancel := context.WithCancel(context.Background())
	cancel()
	return p.Run(done, func(e *event.Event) error {
		in.add(e)
		return nil
	})
}

// now is the monotonic clock; NewClock has found that it works.
func now() event.Ktime {
	k, _ := probe.Now()
	return k
}

// account fills in the kernel's side and the balance, for every namespace in
// which something was counted by either side.
func (h hooks) account(doc *agg.Doc, before, after map[event.NetNS]reading) {
	traced, turns := h.traced(), h.seesTurns()
	var lacking string
	if after[probe.OtherNetNS].ours != before[probe.OtherNetNS].ours {
		lacking = errTooMany.Error() + ", some of it may be missing here"
	}
	for _, ns := range slices.Sorted(maps.Keys(after)) {
		b, a := before[ns], after[ns]
		if a.err = cmp.Or(a.err, b.err); a.err == nil {
			a.err = succession(b, a, turns)
		}
		x := exact(a.ours, b.ours)
		x.Traced = traced
		k := kernelDelta(b, a)
		if quiet(x, k) {
			continue
		}
		note := lacking
		if a.torn || b.torn {
			note = join(note, "counters moved while they were read")
		}
		rows := agg.Balance(x, k)
		for i := range rows {
			if a.err != nil { // there is no difference to explain
				rows[i].Note = a.err.Error()
			} else {
				rows[i].Note = join(rows[i].Note, note)
			}
		}
		doc.Kernel = append(doc.Kernel, k)
		doc.Balance = append(doc.Balance, rows...)
	}
}

// Why the kernel's counters cannot be compared with ours.
var (
	errReused     = errors.New("the number went from one network namespace to another meanwhile; the kernel's counters of the first are gone with it")
	errOverlooked = errors.New("the network namespace was not found at the beginning; the kernel's counters of then are not known")
	errTooMany    = errors.New("more network namespaces at once than places for counters")
	errHidden     = errors.New("the network namespace has not ended but is not found: it is about to end, or only processes hold it that may not be looked at; give it a name (ip netns attach), or see sandbox.landlock and cap_sys_ptrace")
)

// succession says why the kernel's counters of two readings of a number are not
// those of one namespace from the beginning, or from its own beginning, to the
// end; nil when they are. turns says that the programs count who comes and goes:
// each namespace that had begun before them does so once, any other twice.
func succession(b, a reading, turns bool) error {
	n := a.ours.Turns - b.ours.Turns
	switch {
	case a.ns.Inode == probe.OtherNetNS:
		return errTooMany
	case !a.exists && turns && n%2 == 0 == (b.exists || n == 0):
		return errHidden
	case !a.exists:
		return ctnl.ErrNetNSGone
	case b.exists && b.cookie != a.cookie, b.exists && n > 0, n > 1, b.exists && fellBack(b, a):
		return errReused
	case !b.exists && n == 0 && turns:
		return errOverlooked
	}
	return nil
}

// fellBack says whether a counter of the kernel lies behind where it was, by
// 32-bit arithmetic: all that tells a reused number by on kernels before 5.14
// without programs, and only where the first namespace had counted more.
func fellBack(b, a reading) bool {
	for c, now := range a.stats.N {
		if int32(uint32(now-b.stats.N[c])) < 0 {
			return true
		}
	}
	return false
}

// seesTurns says whether both hooks of Counters.Turns are in place.
func (h hooks) seesTurns() bool {
	return h["nf_conntrack_init_net"] && h["nf_conntrack_expect_pernet_fini"]
}

func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}

// traced is the set of counters that the attached hooks see in full.
func (h hooks) traced() (set agg.CounterSet) {
	add := func(c agg.Counter, symbols ...string) {
		for _, s := range symbols {
			if !h[s] {
				return
			}
		}
		set |= agg.Counters(c)
	}
	add(agg.CounterDrop, "__nf_conntrack_alloc", "__nf_conntrack_confirm", "nf_ct_resolve_clash")
	add(agg.CounterInsertFailed, "__nf_conntrack_confirm")
	add(agg.CounterClashResolve, "__nf_conntrack_confirm", "nf_ct_resolve_clash")
	add(agg.CounterChainTooLong, "__nf_conntrack_confirm", "nf_conntrack_hash_check_insert", "nf_ct_resolve_clash")
	add(agg.CounterEarlyDrop, "early_drop", "nf_ct_helper_destroy")
	add(agg.CounterInsert, "nf_conntrack_hash_check_insert")
	add(agg.CounterInvalid, "nf_conntrack_in")
	add(agg.CounterError, "nf_conntrack_in")
	add(agg.CounterEntries, "__nf_conntrack_confirm", "nf_conntrack_hash_check_insert", "nf_ct_helper_destroy")
	return set
}

// hooks is the set of functions with programs in place.
type hooks map[string]bool

func (p *Pipeline) hooked() hooks {
	has := hooks{}
	for _, h := range p.Report().Hooks {
		has[h.Symbol] = h.Backend != ""
	}
	return has
}

// exact is what our counters gained.
func exact(a, b probe.Counters) agg.Exact {
	x := agg.Exact{NetNS: a.NetNS, New: a.New - b.New, UserInserts: a.NewByUser - b.NewByUser, UserNoSpace: a.ChainByUser - b.ChainByUser,
		ExtStalePost: a.ExtPost - b.ExtPost}
	for i := range x.Reasons {
		x.Reasons[i] = a.Reasons[i] - b.Reasons[i]
	}
	for i := range x.Causes {
		x.Causes[i] = a.Causes[i] - b.Causes[i]
	}
	x.ExtStalePre = x.Reasons[event.ExtStale]
	return x
}

// kernelDelta is what the kernel's counters gained. A namespace that was not
// there before started from zero.
func kernelDelta(b, a reading) agg.KernelDelta {
	k := agg.KernelDelta{NetNS: a.ns.Inode, Name: a.ns.Name}
	if a.err != nil {
		return k
	}
	get := func(c ctnl.Counter) *uint64 {
		now, ok := a.stats.Get(c)
		if !ok {
			return nil
		}
		old, _ := b.stats.Get(c)
		d := uint64(uint32(now - old))
		return &d
	}
	k.Drop, k.EarlyDrop, k.InsertFailed = get(ctnl.StatDrop), get(ctnl.StatEarlyDrop), get(ctnl.StatInsertFailed)
	k.ClashResolve, k.ChainTooLong = get(ctnl.StatClashResolve), get(ctnl.StatChainTooLong)
	k.Insert, k.Invalid, k.Error, k.Found = get(ctnl.StatInsert), get(ctnl.StatInvalid), get(ctnl.StatError), get(ctnl.StatFound)
	was, is, limit := uint64(b.fill.Count), uint64(a.fill.Count), uint64(a.fill.Max)
	k.CountBefore, k.CountAfter, k.Max = &was, &is, &limit
	return k
}

// quiet says that nothing happened in a namespace: it gets no rows.
func quiet(x agg.Exact, k agg.KernelDelta) bool {
	moved := x.New + x.UserInserts + x.UserNoSpace + x.ExtStalePost
	for _, n := range x.Reasons {
		moved += n
	}
	for _, n := range x.Causes {
		moved += n
	}
	for _, n := range []*uint64{k.Drop, k.EarlyDrop, k.InsertFailed, k.ClashResolve, k.ChainTooLong, k.Insert, k.Invalid, k.Error} {
		if n != nil {
			moved += *n
		}
	}
	return moved == 0
}

func (p *Pipeline) loss() agg.Loss {
	l := p.Loss()
	out := agg.Loss{Seen: l.Seen, Delivered: l.Delivered, Aggregated: l.Aggregated, Lost: l.Lost}
	for _, stage := range []string{"ring", "recursion", "stash", "netlink"} {
		if n, ok := l.ByStage[stage]; ok {
			out.ByStage = append(out.ByStage, agg.StageLoss{Stage: stage, Lost: n})
		}
	}
	return out
}

// NewClock reads both clocks several times and keeps the closest pair.
func NewClock() (event.Clock, error) {
	var best event.Clock
	width := time.Duration(1<<63 - 1)
	for range 10 {
		a, err := probe.Now()
		if err != nil {
			return best, fmt.Errorf("read the monotonic clock: %w", err)
		}
		wall := time.Now().Round(0)
		b, err := probe.Now()
		if err != nil {
			return best, err
		}
		if d := b.Sub(a); d < width {
			width, best = d, event.Clock{Mono: a + event.Ktime(d/2), Wall: wall}
		}
	}
	return best, nil
}
