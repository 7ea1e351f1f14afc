package pipeline

import (
	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/probe"
)

// An account of one namespace compares what the backend saw with the kernel's
// statistics, from one reading to the next, and draws from it what neither
// tells alone: why packets were lost in that interval, and how many were merged
// into the entry of another. Pure: readings are arguments.
type account struct {
	first, last point
	verdict     verdict
	chains      uint64 // long chains told by the kernel and not yet by the probe

	// moved is what the raw counters of reasons become by the verdicts so
	// far: added to one reason what is taken from another.
	moved  [event.NumReasons]int64
	merged uint64 // packets, by clash_resolve
	before uint64 // merged of those that had this number earlier
	// totals are losses by reason that nobody saw as packets (netlink).
	totals [event.NumReasons]uint64

	news   uint64 // told over netlink
	causes [event.NumCauses]uint64
}

// A point is one reading of a namespace.
type point struct {
	at    event.Ktime
	raw   probe.Counters // zero without a probe
	stats []ctnl.CPUStats
	fill  ctnl.Fill
}

// A verdict says what the unknown losses of an interval were.
type verdict struct {
	lookup event.Reason // refused at lookup
	insert event.Reason // lost at insert
	nat    event.Reason // the same, of a translated flow
}

var undecided = verdict{event.LookupUnknown, event.ConfirmUnknown, event.ConfirmUnknown}

func newAccount(p point) *account { return &account{first: p, last: p, verdict: undecided} }

// restart begins at 0 for a namespace whose number was used before.
func (a *account) restart(p point) {
	a.before = a.merged
	a.first, a.last, a.verdict, a.chains = p, p, undecided, 0
}

// insertLosses are the raw reasons of packets lost at insert.
func insertLosses(c *probe.Counters) uint64 {
	return c.Reasons[event.ConfirmUnknown] + c.Reasons[event.NATExhausted]
}

// statDelta returns a counter's gain between two readings, 0 where the kernel
// does not have it.
func statDelta(now, old point, c ctnl.Counter) uint64 {
	t := ctnl.Sum(ctnl.Sub(now.stats, old.stats))
	n, _ := t.Get(c)
	return n
}

// full says whether the table was at its limit, as far as one look can tell:
// entries come and go between the refusal and the look.
func full(f ctnl.Fill) bool { return f.Max > 0 && f.Count >= f.Max-f.Max/64 }

// next takes the following reading of a probe's namespace.
func (a *account) next(p point) {
	a.verdict = a.judge(p)
	for raw, to := range map[event.Reason]event.Reason{
		event.LookupUnknown:  a.verdict.lookup,
		event.ConfirmUnknown: a.verdict.insert,
		event.NATExhausted:   a.verdict.nat,
	} {
		n := int64(p.raw.Reasons[raw] - a.last.raw.Reasons[raw])
		a.moved[raw] -= n
		a.moved[to] += n
	}
	a.merged = a.before + statDelta(p, a.first, ctnl.StatClashResolve)
	a.last = p
}

// judge decides only what the kernel's counters bear out. drop counts what was
// refused at lookup and clashes, insert_failed clashes and long chains,
// chaintoolong the latter (equalities I2 to I4). The statistics are read after
// the probe's counters and may be ahead of them: compared are sums since the
// first reading, and long chains are kept for the next interval.
func (a *account) judge(p point) verdict {
	v := undecided
	chain := a.chains + statDelta(p, a.last, ctnl.StatChainTooLong)
	allChain := statDelta(p, a.first, ctnl.StatChainTooLong)
	failed := statDelta(p, a.first, ctnl.StatInsertFailed)
	dropped := statDelta(p, a.first, ctnl.StatDrop)
	refused := p.raw.Reasons[event.LookupUnknown] - a.first.raw.Reasons[event.LookupUnknown]
	lost := insertLosses(&p.raw) - insertLosses(&a.first.raw)
	lostNow := insertLosses(&p.raw) - insertLosses(&a.last.raw)
	clashes := lost - min(lost, allChain)
	if dropped >= refused+clashes && full(p.fill) {
		v.lookup = event.TableFull
	}
	a.chains = 0
	switch {
	case failed < lost: // a helper or a sequence adjustment lost some
	case chain == 0:
		v.insert, v.nat = event.ClashSameFlow, event.NATExhausted
	case chain >= lostNow:
		v.insert, v.nat = event.ChainTooLong, event.ChainTooLong
		a.chains = chain - lostNow
	}
	return v
}

// refine gives a loss of the last interval its reason. All but the unknown
// reasons are guesses, if good ones.
func (a *account) refine(e *event.Event) {
	switch e.Reason {
	case event.LookupUnknown:
		e.Reason = a.verdict.lookup
	case event.ConfirmUnknown:
		e.Reason = a.verdict.insert
	case event.NATExhausted:
		e.Reason = a.verdict.nat
	}
	e.BestEffort = e.Reason != event.LookupUnknown && e.Reason != event.ConfirmUnknown
}

// unsure says whether refine has something to say about an event.
func unsure(e *event.Event) bool {
	return e.Kind == event.Drop && (e.Reason == event.LookupUnknown || e.Reason == event.ConfirmUnknown || e.Reason == event.NATExhausted)
}

// counters returns the backend's counts with all that is known by now.
func (a *account) counters(raw probe.Counters) probe.Counters {
	for i, n := range a.moved {
		raw.Reasons[i] = uint64(int64(raw.Reasons[i]) + n)
	}
	for i, n := range a.totals {
		raw.Reasons[i] += n
	}
	raw.Reasons[event.ClashMerged] += a.merged
	raw.New -= min(raw.New, a.merged)
	raw.New += a.news
	for i, n := range a.causes {
		raw.Causes[i] += n
	}
	return raw
}

// plus adds what another account has added up.
func (a *account) plus(o *account) {
	for i := range a.moved {
		a.moved[i] += o.moved[i]
		a.totals[i] += o.totals[i]
	}
	for i := range a.causes {
		a.causes[i] += o.causes[i]
	}
	a.news += o.news
}

// losses takes the following reading where there is no probe, and returns what
// was lost since the last one, by reason.
func (a *account) losses(p point) map[event.Reason]uint64 {
	chain := statDelta(p, a.last, ctnl.StatChainTooLong)
	failed := statDelta(p, a.last, ctnl.StatInsertFailed)
	dropped := statDelta(p, a.last, ctnl.StatDrop)
	clashes := failed - min(failed, chain)
	refused := event.LookupUnknown
	if full(p.fill) {
		refused = event.TableFull
	}
	out := map[event.Reason]uint64{
		event.ChainTooLong:   chain,
		event.ConfirmUnknown: clashes,
		refused:              dropped - min(dropped, clashes),
	}
	for r, n := range out {
		if a.totals[r] += n; n == 0 {
			delete(out, r)
		}
	}
	a.merged = a.before + statDelta(p, a.first, ctnl.StatClashResolve)
	a.last = p
	return out
}
