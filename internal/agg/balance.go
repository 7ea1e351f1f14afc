package agg

import (
	"github.com/ctsight/ctsight/internal/event"
)

// Counter names one equality between what was traced and what the kernel
// counted. They are I2 to I8 and I10 of the hook map, section 3.
type Counter uint8

// The counters in the order of the balance.
const (
	CounterDrop         Counter = iota // I2
	CounterEarlyDrop                   // I5
	CounterInsertFailed                // I3
	CounterClashResolve                // I6
	CounterChainTooLong                // I4
	CounterInsert                      // I7
	CounterInvalid                     // I8
	CounterError                       // I8
	CounterEntries                     // I10
	// NumCounters is how many there are.
	NumCounters
)

var counterNames = [NumCounters]string{"drop", "early_drop", "insert_failed", "clash_resolve", "chaintoolong",
	"insert", "invalid", "error", "entries"}

// String returns the word of conntrack -S.
func (c Counter) String() string {
	if c < NumCounters {
		return counterNames[c]
	}
	return ""
}

// CounterSet has bit c set for Counter c.
type CounterSet uint16

// Counters makes a set.
func Counters(cs ...Counter) CounterSet {
	var s CounterSet
	for _, c := range cs {
		s |= 1 << c
	}
	return s
}

// Has says whether c is in the set.
func (s CounterSet) Has(c Counter) bool { return s&(1<<c) != 0 }

// Exact holds what the BPF programs counted in one network namespace in the
// interval, whether or not a record of it was delivered.
type Exact struct {
	NetNS event.NetNS
	// Traced are the counters that the hooks of this backend see in full;
	// the others have no traced side in the balance.
	Traced CounterSet

	Reasons [event.NumReasons]uint64 // drops, notes and invalid packets
	Causes  [event.NumCauses]uint64  // destroys
	New     uint64                   // inserted by packets in both directions, notes not among them
	// By nf_conntrack_hash_check_insert, that is by netlink and BPF: entries
	// inserted, and those refused because the chain was too long.
	UserInserts, UserNoSpace uint64
	// Reasons[ExtStale] in its two parts: packets lost before the insert, and
	// entries that were inserted, found stale and killed again.
	ExtStalePre, ExtStalePost uint64
}

// BalanceRow is one equality. A side that is not known is nil, and so is the
// difference then.
type BalanceRow struct {
	NetNS      event.NetNS
	Counter    Counter
	Traced     *int64
	Kernel     *int64
	Difference *int64 // Traced - Kernel: negative is what we did not see
	Note       string // why a difference is to be expected, "" mostly
}

// Balance sets what was traced against the kernel's counters, one row for each
// counter. It hides nothing: a counter that either side lacks has its row too.
func Balance(traced Exact, kernel KernelDelta) []BalanceRow {
	sides := [NumCounters]struct {
		traced uint64
		kernel *uint64
	}{
		CounterDrop:         {traced.drop(), kernel.Drop},
		CounterEarlyDrop:    {traced.Causes[event.EarlyDrop], kernel.EarlyDrop},
		CounterInsertFailed: {traced.insertFailed(kernel.before510()), kernel.InsertFailed},
		CounterClashResolve: {traced.resolved(), kernel.ClashResolve},
		CounterChainTooLong: {traced.Reasons[event.ChainTooLong] + traced.UserNoSpace, kernel.ChainTooLong},
		CounterInsert:       {traced.UserInserts, kernel.Insert},
		CounterInvalid:      {traced.Reasons[event.InvalidPacket] + traced.Reasons[event.TCPReopenRace], kernel.Invalid},
		CounterError:        {traced.Reasons[event.ICMPErrorPacket], kernel.Error},
		CounterEntries:      {uint64(traced.entries()), kernel.entries()},
	}
	rows := make([]BalanceRow, 0, NumCounters)
	for c, s := range sides {
		row := BalanceRow{NetNS: kernel.NetNS, Counter: Counter(c), Note: traced.note(Counter(c), kernel)}
		if traced.Traced.Has(Counter(c)) {
			row.Traced = signed(s.traced)
		}
		if s.kernel != nil {
			row.Kernel = signed(*s.kernel)
		}
		if row.Traced != nil && row.Kernel != nil {
			row.Difference = signed(uint64(*row.Traced - *row.Kernel))
		}
		rows = append(rows, row)
	}
	return rows
}

func signed(n uint64) *int64 {
	i := int64(n)
	return &i
}

func (x *Exact) sum(rs ...event.Reason) (n uint64) {
	for _, r := range rs {
		n += x.Reasons[r]
	}
	return n
}

// clashes are packets dropped at confirm because an equal tuple was there.
func (x *Exact) clashes() uint64 {
	return x.sum(event.ClashSameFlow, event.ClashReverse, event.NATExhausted, event.NATRace, event.ClashOther)
}

// drop is I2.
func (x *Exact) drop() uint64 {
	return x.clashes() + x.ExtStalePost +
		x.sum(event.TableFull, event.CTNoMem, event.TCPReopenRace, event.SeqAdj, event.ConfirmUnknown, event.LookupUnknown)
}

// insertFailed is I3. Kernels before 5.10 count a clash that ended well too.
func (x *Exact) insertFailed(before510 bool) uint64 {
	n := x.clashes() + x.ExtStalePre + x.sum(event.CTDying, event.ChainTooLong, event.ConfirmUnknown)
	if before510 {
		n += x.resolved()
	}
	return n
}

// resolved is I6.
func (x *Exact) resolved() uint64 { return x.sum(event.ClashMerged, event.ClashNATReplyOnly) }

// entries is I10. An entry that was found stale right after its insert was
// never counted as new, but its destroy was.
func (x *Exact) entries() int64 {
	n := int64(x.New + x.UserInserts + x.Reasons[event.ClashNATReplyOnly] + x.ExtStalePost)
	for _, d := range x.Causes {
		n -= int64(d)
	}
	return n
}

func (x *Exact) note(c Counter, k KernelDelta) string {
	switch c {
	case CounterDrop, CounterInsertFailed, CounterChainTooLong:
		if x.Reasons[event.ConfirmUnknown] > 0 {
			return "confirm_unknown may be a clash (drop, insert_failed) or a long chain (chaintoolong, insert_failed)"
		}
		if c == CounterInsertFailed && k.before510() {
			return "before Linux 5.10 insert_failed counts merged clashes too"
		}
	case CounterEntries:
		return "the kernel's count includes packets not yet inserted and entries not yet freed"
	}
	return ""
}

// before510 recognises the older statistics: they have no clash_resolve.
func (k *KernelDelta) before510() bool { return k.InsertFailed != nil && k.ClashResolve == nil }

func (k *KernelDelta) entries() *uint64 {
	if k.CountBefore == nil || k.CountAfter == nil {
		return nil
	}
	d := *k.CountAfter - *k.CountBefore
	return &d
}
