package agg

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ctsight/ctsight/internal/event"
)

func u64(n uint64) *uint64 { return &n }
func i64(n int64) *int64   { return &n }

// all counters of the balance.
const allCounters = CounterSet(1<<NumCounters - 1)

// TestBalance has a different power of two in each count, so that a term that
// is missing or in the wrong sum shows in the difference.
func TestBalance(t *testing.T) {
	x := Exact{NetNS: 5, Traced: allCounters, New: 1 << 40, UserInserts: 1 << 41, UserNoSpace: 1 << 42, ExtStalePre: 1 << 43, ExtStalePost: 1 << 44}
	for r := range x.Reasons {
		x.Reasons[r] = 1 << (r % 35)
	}
	reason := func(rs ...event.Reason) (n uint64) {
		for _, r := range rs {
			n += x.Reasons[r]
		}
		return n
	}
	clash := reason(event.ClashSameFlow, event.ClashReverse, event.NATExhausted, event.NATRace, event.ClashOther)
	x.Causes[event.EarlyDrop], x.Causes[event.TimeoutGC], x.Causes[event.EarlyDropGC], x.Causes[23] = 1<<20, 1<<21, 1<<22, 1<<23
	k := KernelDelta{
		NetNS:        5,
		Drop:         u64(clash + x.ExtStalePost + reason(event.TableFull, event.CTNoMem, event.TCPReopenRace, event.SeqAdj, event.ConfirmUnknown, event.LookupUnknown)),
		EarlyDrop:    u64(1 << 20), // the garbage collector's has no counter
		InsertFailed: u64(clash + x.ExtStalePre + reason(event.CTDying, event.ChainTooLong, event.ConfirmUnknown)),
		ClashResolve: u64(reason(event.ClashMerged, event.ClashNATReplyOnly)),
		ChainTooLong: u64(reason(event.ChainTooLong) + x.UserNoSpace),
		Insert:       u64(x.UserInserts),
		Invalid:      u64(reason(event.InvalidPacket, event.TCPReopenRace)),
		Error:        u64(reason(event.ICMPErrorPacket)),
		CountBefore:  u64(1000),
		CountAfter:   u64(1000 + 1<<40 + 1<<41 + 1<<44 + reason(event.ClashNATReplyOnly) - 1<<20 - 1<<21 - 1<<22 - 1<<23),
	}
	rows := Balance(x, k)
	if len(rows) != int(NumCounters) {
		t.Fatalf("%d rows", len(rows))
	}
	for i, r := range rows {
		if r.Counter != Counter(i) || r.NetNS != 5 || r.Difference == nil || *r.Difference != 0 {
			t.Errorf("%s: traced %d, kernel %d", r.Counter, *r.Traced, *r.Kernel)
		}
	}
	*k.Drop += 3
	if d := Balance(x, k)[CounterDrop].Difference; *d != -3 {
		t.Errorf("three drops not seen: difference %d", *d)
	}
}

func TestBalanceUnknown(t *testing.T) {
	x := Exact{Traced: Counters(CounterDrop, CounterEntries), New: 2}
	x.Reasons[event.TableFull] = 12
	x.Causes[event.TimeoutGC] = 5
	got := Balance(x, KernelDelta{Drop: u64(12), EarlyDrop: u64(7), CountBefore: u64(10), CountAfter: u64(6)})
	entriesNote := "the kernel's count includes packets not yet inserted and entries not yet freed"
	want := []BalanceRow{
		{Counter: CounterDrop, Traced: i64(12), Kernel: i64(12), Difference: i64(0)},
		{Counter: CounterEarlyDrop, Kernel: i64(7)}, // not traced: no difference, not a wrong one
		{Counter: CounterInsertFailed},
		{Counter: CounterClashResolve},
		{Counter: CounterChainTooLong},
		{Counter: CounterInsert},
		{Counter: CounterInvalid},
		{Counter: CounterError},
		{Counter: CounterEntries, Traced: i64(-3), Kernel: i64(-4), Difference: i64(1), Note: entriesNote},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestBalanceOld: before 5.10 there is no clash_resolve, and insert_failed
// counts every clash.
func TestBalanceOld(t *testing.T) {
	x := Exact{Traced: allCounters}
	x.Reasons[event.ClashMerged], x.Reasons[event.ClashSameFlow] = 4, 2
	rows := Balance(x, KernelDelta{Drop: u64(2), InsertFailed: u64(6)})
	if r := rows[CounterInsertFailed]; *r.Difference != 0 || r.Note == "" {
		t.Errorf("insert_failed: %+v", r)
	}
	if r := rows[CounterClashResolve]; r.Kernel != nil || r.Difference != nil || *r.Traced != 4 {
		t.Errorf("clash_resolve: %+v", r)
	}
}

func TestLoss(t *testing.T) {
	l := Loss{Seen: 100, Delivered: 70, Aggregated: 25, Lost: 5}
	if l.Residual() != 0 {
		t.Errorf("residual %d", l.Residual())
	}
	l.Lost = 6
	if l.Residual() != -1 {
		t.Errorf("residual %d", l.Residual())
	}
}
