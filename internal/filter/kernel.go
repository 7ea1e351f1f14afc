package filter

import (
	"math"
	"net/netip"

	"github.com/ctsight/ctsight/internal/event"
)

// Kernel is one conjunction of tests that a BPF program can make before it
// sends a record. It lets through at least what the filter it came from
// matches; when it is Exact it lets through nothing else.
//
// Every field has a value that lets all through, the one of AnyKernel. With
// Kinds 0 nothing passes.
type Kernel struct {
	// Kinds has bit k set for event.Kind k; bit 31 stands for 31 and above.
	Kinds uint32
	// ReasonMask has bit r set for event.Reason r; bit 63 stands for 63 and
	// above. It is looked at for drops, notes and invalid packets only.
	ReasonMask uint64
	// CauseMask has bit c set for event.Cause c; bit 31 stands for 31 and
	// above. It is looked at for destroys only.
	CauseMask uint32
	NetNS     event.NetNS // 0 any
	Zone      int32       // -1 any
	Proto     uint8       // 0 any
	// Src and Dst are of the original direction; invalid is any. A prefix of
	// length 0 still tells IPv4 from IPv6.
	Src, Dst netip.Prefix
	// Ports of the original direction, both ends included. 0 to 65535 is
	// any; every other range does not fit ICMP and ICMPv6.
	SportMin, SportMax uint16
	DportMin, DportMax uint16
	// Exact is set when the conjunction is the whole filter, so that user
	// space need not look again.
	Exact bool
}

// kinds with a reason, and the one with a cause, as bits of Kernel.Kinds.
const (
	reasonKinds uint32 = 1<<event.Drop | 1<<event.Note | 1<<event.Invalid
	causeKinds  uint32 = 1 << event.Destroy
)

// AnyKernel lets everything through.
func AnyKernel() Kernel {
	return Kernel{Kinds: math.MaxUint32, ReasonMask: math.MaxUint64, CauseMask: math.MaxUint32,
		Zone: -1, SportMax: math.MaxUint16, DportMax: math.MaxUint16, Exact: true}
}

// noKernel lets nothing through.
func noKernel() Kernel {
	k := AnyKernel()
	k.Kinds = 0
	return k
}

// Any says whether everything passes.
func (k Kernel) Any() bool {
	a := AnyKernel()
	a.Exact = k.Exact
	return k == a
}

// Match does in Go what the BPF program does.
func (k Kernel) Match(e *event.Event) bool {
	if k.Kinds>>min(e.Kind, 31)&1 == 0 {
		return false
	}
	switch {
	case hasReason(e.Kind) && k.ReasonMask>>min(e.Reason, 63)&1 == 0,
		e.Kind == event.Destroy && k.CauseMask>>min(e.Cause, 31)&1 == 0,
		k.NetNS != 0 && k.NetNS != e.NetNS,
		k.Zone >= 0 && k.Zone != int32(e.Zone),
		k.Proto != 0 && k.Proto != e.Orig.Proto,
		k.Src.IsValid() && !k.Src.Contains(e.Orig.Src),
		k.Dst.IsValid() && !k.Dst.Contains(e.Orig.Dst):
		return false
	}
	o := &e.Orig
	return (ports{k.SportMin, k.SportMax}).match(o, o.Sport) && (ports{k.DportMin, k.DportMax}).match(o, o.Dport)
}

// Kernel returns the strongest single conjunction that the filter implies,
// as far as BPF can check it.
func (f *Filter) Kernel() Kernel {
	if f.All() {
		return AnyKernel()
	}
	k := f.root.kernel(false)
	w := what{k.Kinds, k.ReasonMask, k.CauseMask}.tidy()
	if w.kinds == 0 {
		return noKernel()
	}
	k.Kinds, k.ReasonMask, k.CauseMask = w.kinds, w.reasons, w.causes
	// A mask that no kind looks at is not a restriction.
	if k.Kinds&reasonKinds == 0 {
		k.ReasonMask = math.MaxUint64
	}
	if k.Kinds&causeKinds == 0 {
		k.CauseMask = math.MaxUint32
	}
	return k
}

// kernel lowers the node, or with not its negation: the negation moves down to
// the terms (De Morgan), because only there it is known what is implied.
func (n *node) kernel(not bool) Kernel {
	switch n.op {
	case opTerm:
		return n.term.kernel(not)
	case opNot:
		return n.kids[0].kernel(!not)
	}
	k := n.kids[0].kernel(not)
	for _, kid := range n.kids[1:] {
		if (n.op == opAnd) != not {
			k = both(k, kid.kernel(not))
		} else {
			k = either(k, kid.kernel(not))
		}
	}
	return k
}

// kernel lowers one term. What BPF cannot check lets all through and is not
// exact. Most negations are of that sort: all but one zone is no one zone.
func (t *term) kernel(not bool) Kernel {
	k := AnyKernel()
	switch t.field {
	case fieldEvent:
		k.Kinds = uint32(t.bits(31))
		if not {
			k.Kinds = ^k.Kinds
		}
		return k
	case fieldReason:
		return t.reasonKernel(not)
	case fieldCause:
		return t.causeKernel(not)
	}
	k.Exact = false
	if not {
		return k
	}
	out := noKernel()
	for _, p := range t.nets {
		out = either(out, t.oneAddr(p))
	}
	for _, s := range t.spans {
		out = either(out, t.oneSpan(s))
	}
	if len(t.texts) > 0 {
		return k
	}
	return out
}

// bits returns the values as a mask whose last bit stands for it and above.
func (t *term) bits(last uint32) uint64 {
	var m uint64
	for _, s := range t.spans {
		m |= 1 << min(s.lo, last)
	}
	return m
}

func (t *term) reasonKernel(not bool) Kernel {
	k := AnyKernel()
	m := t.bits(63)
	clipped := m>>63 == 1
	k.Exact = !clipped
	if !not {
		k.Kinds, k.ReasonMask = reasonKinds, m
		return k
	}
	k.ReasonMask = ^m
	if clipped { // another number may share the bit
		k.ReasonMask |= 1 << 63
	}
	return k
}

func (t *term) causeKernel(not bool) Kernel {
	k := AnyKernel()
	m := uint32(t.bits(31))
	clipped := m>>31 == 1
	k.Exact = !clipped
	if !not {
		k.Kinds, k.CauseMask = causeKinds, m
		return k
	}
	k.CauseMask = ^m
	if clipped {
		k.CauseMask |= 1 << 31
	}
	return k
}

func (t *term) oneAddr(p netip.Prefix) Kernel {
	k := AnyKernel()
	switch t.field {
	case fieldSrc:
		k.Src = p
	case fieldDst:
		k.Dst = p
	default:
		k.Exact = false
	}
	return k
}

func (t *term) oneSpan(s span) Kernel {
	k := AnyKernel()
	all := s.lo == 0 && s.hi >= math.MaxUint16 // means any in Kernel, and here all but ICMP
	switch t.field {
	case fieldSport:
		k.SportMin, k.SportMax, k.Exact = uint16(s.lo), uint16(s.hi), !all
	case fieldDport:
		k.DportMin, k.DportMax, k.Exact = uint16(s.lo), uint16(s.hi), !all
	case fieldNetNS:
		k.NetNS, k.Exact = event.NetNS(s.lo), s.lo != 0
	case fieldZone:
		if k.Exact = s.lo == s.hi; k.Exact {
			k.Zone = int32(s.lo)
		}
	case fieldProto:
		k.Proto, k.Exact = uint8(s.lo), s.lo != 0
	case fieldFamily:
		k.Src = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		if s.lo == 4 {
			k.Src = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
	default:
		k.Exact = false
	}
	return k
}
