package agg

import (
	"bytes"
	"cmp"
	"net/netip"

	"github.com/ctsight/ctsight/internal/event"
)

// LedgerConfig bounds a Ledger. Zero fields get the defaults.
type LedgerConfig struct {
	MaxRows  int // rows of drops, and the same again for drops by the operator's rules; default 10000
	MaxPairs int // pairs of evicted and evicting source; default 2000
}

// Ledger adds up drops by what, whose and where, and everything else by kind.
// Totals are exact whatever the bounds; each event counts Sample times.
type Ledger struct {
	totals   counts
	drops    bounded[dropKey]
	ruleset  bounded[dropKey]
	pairs    bounded[pairKey]
	examples map[pairKey][2]event.Tuple
}

// counts has a place for every number that fits the wire.
type counts struct {
	events              uint64 // records, not weighted
	new                 uint64
	drop, note, invalid [256]uint64
	destroy             [256]uint64
}

// NewLedger returns an empty ledger.
func NewLedger(c LedgerConfig) *Ledger {
	rows, pairs := cmp.Or(c.MaxRows, 10_000), cmp.Or(c.MaxPairs, 2_000)
	return &Ledger{
		drops:    newBounded(rows, dropKey.compare),
		ruleset:  newBounded(rows, dropKey.compare),
		pairs:    newBounded(pairs, pairKey.compare),
		examples: map[pairKey][2]event.Tuple{},
	}
}

// Add counts one event.
func (l *Ledger) Add(e *event.Event) {
	n := uint64(max(1, e.Sample))
	l.totals.add(e, n)
	switch {
	case e.Kind == event.Destroy && e.Cause == event.EarlyDrop:
		l.evict(e, n)
	case e.Kind == event.Drop && e.Reason.IsRuleset():
		l.ruleset.add(keyOf(e), n)
	case e.Kind == event.Drop:
		l.drops.add(keyOf(e), n)
	}
}

// AddSum counts lost packets that were not told one by one: of them only the
// source is known. Totals, rows and Other stay exact. Evictions in a sum do not say
// for whom, and go to EvictionsOther.
func (l *Ledger) AddSum(x *event.Sum) {
	l.totals.addSum(x)
	k := dropKey{src: as16(x.Src), netns: x.NetNS, reason: x.Reason, known: flags(x.Src)}
	switch {
	case x.Kind == event.Destroy && x.Cause == event.EarlyDrop:
		l.pairs.other.Count += x.N
	case x.Kind != event.Drop:
	case x.Reason.IsRuleset():
		l.ruleset.add(k, x.N)
	default:
		l.drops.add(k, x.N)
	}
}

// add counts an event that stands for n.
func (c *counts) add(e *event.Event, n uint64) {
	c.events++
	switch e.Kind {
	case event.New:
		c.new += n
	case event.Destroy:
		c.destroy[e.Cause] += n
	case event.Drop:
		c.drop[e.Reason] += n
	case event.Note:
		c.note[e.Reason] += n
	case event.Invalid:
		c.invalid[e.Reason] += n
	}
}

// evict notes whose entry was evicted for whose packet, with the first pair of
// tuples as the example.
func (l *Ledger) evict(e *event.Event, n uint64) {
	k := pairKey{netns: e.NetNS, victim: as16(e.Orig.Src), culprit: as16(e.By.Src)}
	k.known = flags(e.Orig.Src) | flags(e.By.Src)<<2
	if _, ok := l.examples[k]; !ok {
		l.examples[k] = [2]event.Tuple{e.Orig, e.By}
	}
	folded := l.pairs.other.Rows
	l.pairs.add(k, n)
	if l.pairs.other.Rows == folded {
		return
	}
	for k := range l.examples {
		if _, ok := l.pairs.rows[k]; !ok {
			delete(l.examples, k)
		}
	}
}

// dropKey is a row of the ledger without pointers, so that it hashes as plain
// memory: a map keyed by netip.Addr is several times slower.
type dropKey struct {
	src, dst [16]byte
	netns    event.NetNS
	dport    uint16
	proto    uint8
	reason   event.Reason
	known    uint8 // family of both addresses, see flags
}

func keyOf(e *event.Event) dropKey {
	o := &e.Orig
	return dropKey{src: as16(o.Src), dst: as16(o.Dst), netns: e.NetNS, dport: o.Dport, proto: o.Proto,
		reason: e.Reason, known: flags(o.Src) | flags(o.Dst)<<2}
}

func (k dropKey) compare(o dropKey) int {
	if c := cmp.Or(cmp.Compare(k.netns, o.netns), cmp.Compare(k.reason, o.reason)); c != 0 {
		return c
	}
	if c := bytes.Compare(k.src[:], o.src[:]); c != 0 {
		return c
	}
	return cmp.Or(bytes.Compare(k.dst[:], o.dst[:]), cmp.Compare(k.proto, o.proto), cmp.Compare(k.dport, o.dport), cmp.Compare(k.known, o.known))
}

type pairKey struct {
	victim, culprit [16]byte
	netns           event.NetNS
	known           uint8
}

func (k pairKey) compare(o pairKey) int {
	return cmp.Or(cmp.Compare(k.netns, o.netns), bytes.Compare(k.victim[:], o.victim[:]),
		bytes.Compare(k.culprit[:], o.culprit[:]), cmp.Compare(k.known, o.known))
}

// flags tells the families apart that share 16 bytes: 0 no address, 1 IPv4,
// 2 IPv6.
func flags(a netip.Addr) uint8 {
	switch {
	case a.Is4():
		return 1
	case a.IsValid():
		return 2
	}
	return 0
}

// as16 is all zeroes for an address that is not valid.
func as16(a netip.Addr) [16]byte { return a.As16() }

// addrOf is the inverse of as16 and flags.
func addrOf(b [16]byte, flags uint8) netip.Addr {
	switch flags & 3 {
	case 0:
		return netip.Addr{}
	case 1:
		return netip.AddrFrom16(b).Unmap()
	}
	return netip.AddrFrom16(b)
}
