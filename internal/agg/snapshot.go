package agg

import (
	"net/netip"

	"github.com/ctsight/ctsight/internal/event"
)

// DropRow says how many packets of one source to one destination were lost for
// one reason. Of ICMP Dport is type and code, as in event.Tuple.
type DropRow struct {
	NetNS    event.NetNS
	Reason   event.Reason
	Src, Dst netip.Addr
	Proto    uint8
	Dport    uint16
	Count    uint64
}

// EvictionRow says how many entries of one source the kernel evicted for
// packets of another. Culprit is invalid where it is not known.
type EvictionRow struct {
	NetNS           event.NetNS
	Victim, Culprit netip.Addr
	Count           uint64
	Entry, By       event.Tuple // of the first such eviction
}

// ReasonCount and CauseCount are one line of the totals.
type ReasonCount struct {
	Reason event.Reason
	Count  uint64
}

// CauseCount is one line of the totals of destroys.
type CauseCount struct {
	Cause event.Cause
	Count uint64
}

// Totals are exact sums over all events, by kind; what is 0 is left out.
type Totals struct {
	Events              uint64 // records that were added, whatever they stand for
	New                 uint64
	Drop, Note, Invalid []ReasonCount
	Destroy             []CauseCount
}

// Snapshot is the ledger at one moment: plain values, largest count first.
type Snapshot struct {
	Drops          []DropRow
	DropsOther     Other
	Ruleset        []DropRow // drops by the operator's own rules
	RulesetOther   Other
	Evictions      []EvictionRow
	EvictionsOther Other
	Totals         Totals
}

// Snapshot copies the ledger.
func (l *Ledger) Snapshot() Snapshot {
	s := Snapshot{
		Drops: dropRows(&l.drops), DropsOther: l.drops.other,
		Ruleset: dropRows(&l.ruleset), RulesetOther: l.ruleset.other,
		EvictionsOther: l.pairs.other,
		Totals:         l.totals.public(),
	}
	for _, r := range l.pairs.sorted() {
		ex := l.examples[r.key]
		s.Evictions = append(s.Evictions, EvictionRow{NetNS: r.key.netns, Count: r.n, Entry: ex[0], By: ex[1],
			Victim: addrOf(r.key.victim, r.key.known), Culprit: addrOf(r.key.culprit, r.key.known>>2)})
	}
	return s
}

func (c *counts) public() Totals {
	t := Totals{Events: c.events, New: c.new, Drop: reasonCounts(&c.drop), Note: reasonCounts(&c.note), Invalid: reasonCounts(&c.invalid)}
	for c, n := range c.destroy {
		if n > 0 {
			t.Destroy = append(t.Destroy, CauseCount{event.Cause(c), n})
		}
	}
	return t
}

func dropRows(b *bounded[dropKey]) []DropRow {
	var out []DropRow
	for _, r := range b.sorted() {
		k := r.key
		out = append(out, DropRow{NetNS: k.netns, Reason: k.reason, Src: addrOf(k.src, k.known), Dst: addrOf(k.dst, k.known>>2),
			Proto: k.proto, Dport: k.dport, Count: r.n})
	}
	return out
}

func reasonCounts(n *[256]uint64) []ReasonCount {
	var out []ReasonCount
	for r, c := range n {
		if c > 0 {
			out = append(out, ReasonCount{event.Reason(r), c})
		}
	}
	return out
}
