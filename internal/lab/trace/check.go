package trace

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
)

// Account is what happened in one namespace since Start, as of the last Check.
type Account struct {
	NS     *netlab.NS
	Events []event.Event // in the order in which they were delivered
	Traced probe.Counters
	Kernel ctnl.Totals // the kernel's own statistics

	CountBefore, Count uint64 // nf_conntrack_count
	Entries            uint64 // rows of a dump

	before     state
	rowsBefore uint64
}

// Check waits until everything stands still and asserts all equalities.
func (r *Run) Check() {
	r.t.Helper()
	// The dump comes first, for it changes things: it reaps what has
	// expired. What expires between it and the rest makes for another round.
	var rows []uint64
	var now []state
	for deadline := time.Now().Add(patience); ; {
		before := r.settle()
		rows = r.rows()
		now = r.settle()
		if slices.EqualFunc(before, now, state.equal) {
			break
		}
		if time.Now().After(deadline) {
			r.t.Fatal("entries never cease to expire")
		}
	}
	for i, a := range r.accounts {
		a.fill(r, now[i], rows[i])
		a.check(r.t, now[i].gone)
	}
	r.checkLoss()
}

func (r *Run) rows() []uint64 {
	r.t.Helper()
	out := make([]uint64, len(r.accounts))
	for i, a := range r.accounts {
		if a.NS.FD() < 0 {
			continue
		}
		var err error
		if out[i], err = entries(a.NS); err != nil {
			r.t.Fatalf("count entries of namespace %d: %v", a.NS.Inode(), err)
		}
	}
	return out
}

func (a *Account) fill(r *Run, now state, rows uint64) {
	a.Traced = sub(now.counters, a.before.counters)
	a.Kernel = ctnl.Sum(ctnl.Sub(now.stats, a.before.stats))
	a.CountBefore, a.Count, a.Entries = uint64(a.before.fill.Count), uint64(now.fill.Count), rows
	a.Events = r.tr.since(r.first, a.NS.Inode())
}

// check asserts the equalities of one namespace.
func (a *Account) check(t testing.TB, gone bool) {
	t.Helper()
	x := &a.Traced
	// I1: what is allocated and not freed is what the kernel counts.
	a.equal(t, "I1 count", int64(x.Alloc)-int64(x.Free), int64(a.Count)-int64(a.CountBefore))
	if !gone {
		a.balance(t)
		// I9
		a.equal(t, "I9 found", int64(x.Taken), int64(a.Kernel.N[ctnl.StatFound]))
	}
	// I10, by the rows of a dump. Entries for replies only are not in it.
	inTable := int64(x.New+x.NewByUser+x.ExtPost) - int64(destroys(x)) + int64(a.replyOnlyGone())
	a.equal(t, "I10 entries", inTable, int64(a.Entries)-int64(a.rowsBefore))
	a.events(t)
}

// replyOnlyGone counts destroys of entries that a clash left for replies only.
func (a *Account) replyOnlyGone() (n uint64) {
	for i := range a.Events {
		if e := &a.Events[i]; e.Kind == event.Destroy && e.Status&event.NATClash != 0 {
			n++
		}
	}
	return n
}

// balance asserts I2 to I8 and the count, as `ctsight drops` shows them.
func (a *Account) balance(t testing.TB) {
	t.Helper()
	x := &a.Traced
	exact := agg.Exact{
		NetNS: a.NS.Inode(), Traced: ^agg.CounterSet(0), Reasons: x.Reasons, Causes: x.Causes, New: x.New,
		UserInserts: x.NewByUser, UserNoSpace: x.ChainByUser, ExtStalePre: x.Reasons[event.ExtStale], ExtStalePost: x.ExtPost,
	}
	k := func(c ctnl.Counter) *uint64 {
		if n, ok := a.Kernel.Get(c); ok {
			return &n
		}
		return nil
	}
	for _, row := range agg.Balance(exact, agg.KernelDelta{
		NetNS: a.NS.Inode(), Drop: k(ctnl.StatDrop), EarlyDrop: k(ctnl.StatEarlyDrop), InsertFailed: k(ctnl.StatInsertFailed),
		ClashResolve: k(ctnl.StatClashResolve), ChainTooLong: k(ctnl.StatChainTooLong), Insert: k(ctnl.StatInsert),
		Invalid: k(ctnl.StatInvalid), Error: k(ctnl.StatError), Found: k(ctnl.StatFound),
		CountBefore: &a.CountBefore, CountAfter: &a.Count,
	}) {
		switch {
		case row.Difference == nil && row.Counter != agg.CounterChainTooLong: // that one is not before 5.15
			t.Errorf("netns %d: the kernel does not tell %s", a.NS.Inode(), row.Counter)
		case row.Difference != nil:
			a.equal(t, row.Counter.String(), *row.Traced, *row.Kernel)
		}
	}
}

func (a *Account) equal(t testing.TB, what string, traced, kernel int64) {
	t.Helper()
	if traced != kernel {
		t.Errorf("netns %d: %s: traced %d, kernel %d, residual %d", a.NS.Inode(), what, traced, kernel, traced-kernel)
	}
}

// events asserts that as many events came as were counted, of each kind.
func (a *Account) events(t testing.TB) {
	t.Helper()
	got, want := count(a.Events), a.Traced
	if got.New != want.New || got.NewByUser != want.NewByUser {
		t.Errorf("netns %d: %d new events and %d by user space, counted %d and %d", a.NS.Inode(), got.New, got.NewByUser, want.New, want.NewByUser)
	}
	want.Reasons[event.ExtStale] += want.ExtPost
	for i, n := range want.Reasons {
		if got.Reasons[i] != n {
			t.Errorf("netns %d: %d events of reason %s, counted %d", a.NS.Inode(), got.Reasons[i], event.Reason(i), n)
		}
	}
	for i, n := range want.Causes {
		if got.Causes[i] != n {
			t.Errorf("netns %d: %d events of cause %s, counted %d", a.NS.Inode(), got.Causes[i], event.Cause(i), n)
		}
	}
	for i := range a.Events {
		if e := &a.Events[i]; e.Cause == event.EarlyDrop && e.By.IsZero() {
			t.Errorf("netns %d: evicted %v, by nobody", a.NS.Inode(), e.Orig)
		}
	}
}

// checkLoss asserts the account of records.
func (r *Run) checkLoss() {
	r.t.Helper()
	l, drained := r.tr.drained()
	if !drained {
		r.t.Errorf("seen %d, delivered %d, aggregated %d, lost %d: residual %d", l.Seen, l.Delivered, l.Aggregated, l.Lost,
			int64(l.Seen-l.Delivered-l.Aggregated-l.Lost))
	}
	for _, stage := range slices.Sorted(maps.Keys(l.ByStage)) {
		if n := l.ByStage[stage] - r.loss.ByStage[stage]; n != 0 {
			r.t.Errorf("lost at stage %s: %d", stage, n)
		}
	}
}
