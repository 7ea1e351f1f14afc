package filter

import (
	"math"
	"net/netip"

	"github.com/ctsight/ctsight/internal/event"
)

// Kernel conjunctions form a lattice: both is the intersection, which is again
// a conjunction; either is the smallest conjunction around two, which is exact
// only where it holds nothing that neither of them holds.

// what is the part of a Kernel about kinds, reasons and causes.
type what struct {
	kinds   uint32
	reasons uint64
	causes  uint32
}

// tidy drops kinds that no value is left for, and values that no kind is left
// for, so that equal sets are equal values.
func (w what) tidy() what {
	if w.reasons == 0 {
		w.kinds &^= reasonKinds
	}
	if w.kinds&reasonKinds == 0 {
		w.reasons = 0
	}
	if w.causes == 0 {
		w.kinds &^= causeKinds
	}
	if w.kinds&causeKinds == 0 {
		w.causes = 0
	}
	return w
}

func (w what) within(x what) bool {
	return w.kinds&^x.kinds == 0 && w.reasons&^x.reasons == 0 && w.causes&^x.causes == 0
}

// or returns the hull of two tidy sets and whether it is their union. Causes
// have one kind only, so only the reasons of different kinds can mix.
func (w what) or(x what) (what, bool) {
	u := what{w.kinds | x.kinds, w.reasons | x.reasons, w.causes | x.causes}
	a, b := w.kinds&reasonKinds, x.kinds&reasonKinds
	within := func(a, b uint32, r, s uint64) bool { return a&^b == 0 && r&^s == 0 }
	exact := a == b || w.reasons == x.reasons || within(a, b, w.reasons, x.reasons) || within(b, a, x.reasons, w.reasons)
	return u, exact
}

// ports is a range; any is from 0 to 65535.
type ports struct{ lo, hi uint16 }

var anyPorts = ports{0, math.MaxUint16}

func (p ports) match(t *event.Tuple, port uint16) bool {
	return p == anyPorts || !t.IsICMP() && p.lo <= port && port <= p.hi
}

func (p ports) within(q ports) bool { return q.lo <= p.lo && p.hi <= q.hi }

func (p ports) and(q ports) (ports, bool) {
	r := ports{max(p.lo, q.lo), min(p.hi, q.hi)}
	return r, r.lo <= r.hi
}

// or is no union if there is a gap, or if two ranges without ICMP make the one
// that means any.
func (p ports) or(q ports) (ports, bool) {
	r := ports{min(p.lo, q.lo), max(p.hi, q.hi)}
	touch := int(max(p.lo, q.lo)) <= int(min(p.hi, q.hi))+1
	return r, touch && (r != anyPorts || p == anyPorts || q == anyPorts)
}

// prefixWithin takes the invalid prefix for any.
func prefixWithin(p, q netip.Prefix) bool {
	return !q.IsValid() || p.IsValid() && q.Bits() <= p.Bits() && q.Contains(p.Addr())
}

func prefixAnd(p, q netip.Prefix) (netip.Prefix, bool) {
	switch {
	case prefixWithin(p, q):
		return p, true
	case prefixWithin(q, p):
		return q, true
	}
	return netip.Prefix{}, false
}

// prefixOr returns the longest prefix around both; it is their union if one
// holds the other or if they are its two halves.
func prefixOr(p, q netip.Prefix) (netip.Prefix, bool) {
	if prefixWithin(p, q) {
		return q, true
	}
	if prefixWithin(q, p) {
		return p, true
	}
	if p.Addr().Is4() != q.Addr().Is4() {
		return netip.Prefix{}, false
	}
	r := p
	for !r.Contains(q.Addr()) {
		r = netip.PrefixFrom(r.Addr(), r.Bits()-1).Masked()
	}
	return r, p.Bits() == q.Bits() && r.Bits() == p.Bits()-1
}

// within says that all that k lets through, l lets through as well.
func (k Kernel) within(l Kernel) bool {
	if k.Kinds == 0 {
		return true
	}
	return what{k.Kinds, k.ReasonMask, k.CauseMask}.tidy().within(what{l.Kinds, l.ReasonMask, l.CauseMask}.tidy()) &&
		(l.NetNS == 0 || l.NetNS == k.NetNS) && (l.Zone < 0 || l.Zone == k.Zone) && (l.Proto == 0 || l.Proto == k.Proto) &&
		prefixWithin(k.Src, l.Src) && prefixWithin(k.Dst, l.Dst) &&
		ports{k.SportMin, k.SportMax}.within(ports{l.SportMin, l.SportMax}) &&
		ports{k.DportMin, k.DportMax}.within(ports{l.DportMin, l.DportMax})
}

// both is the intersection.
func both(k, l Kernel) Kernel {
	w := what{k.Kinds & l.Kinds, k.ReasonMask & l.ReasonMask, k.CauseMask & l.CauseMask}.tidy()
	netns, ok1 := sameOrAny(k.NetNS, l.NetNS, 0)
	zone, ok2 := sameOrAny(k.Zone, l.Zone, -1)
	proto, ok3 := sameOrAny(k.Proto, l.Proto, 0)
	src, ok4 := prefixAnd(k.Src, l.Src)
	dst, ok5 := prefixAnd(k.Dst, l.Dst)
	sport, ok6 := ports{k.SportMin, k.SportMax}.and(ports{l.SportMin, l.SportMax})
	dport, ok7 := ports{k.DportMin, k.DportMax}.and(ports{l.DportMin, l.DportMax})
	if w.kinds == 0 || !ok1 || !ok2 || !ok3 || !ok4 || !ok5 || !ok6 || !ok7 {
		return noKernel()
	}
	return Kernel{Kinds: w.kinds, ReasonMask: w.reasons, CauseMask: w.causes, NetNS: netns, Zone: zone, Proto: proto,
		Src: src, Dst: dst, SportMin: sport.lo, SportMax: sport.hi, DportMin: dport.lo, DportMax: dport.hi,
		Exact: k.Exact && l.Exact}
}

// sameOrAny returns the stricter of two, false if they contradict.
func sameOrAny[T comparable](a, b, anyVal T) (T, bool) {
	if a == anyVal {
		return b, true
	}
	return a, b == anyVal || a == b
}

// either is the smallest conjunction around two. If one holds the other it is
// that one. Otherwise it is exact if they differ in one dimension only and
// their union is one there.
func either(k, l Kernel) Kernel {
	if k.within(l) && (l.Exact || !l.within(k)) {
		return l
	}
	if l.within(k) {
		return k
	}
	u := Kernel{Zone: -1, Exact: k.Exact && l.Exact}
	differ := 0
	dim := func(same, union bool) {
		if !same {
			differ++
			u.Exact = u.Exact && union && differ == 1
		}
	}
	// Of two single values there is no union, only any.
	if dim(k.NetNS == l.NetNS, false); k.NetNS == l.NetNS {
		u.NetNS = k.NetNS
	}
	if dim(k.Zone == l.Zone, false); k.Zone == l.Zone {
		u.Zone = k.Zone
	}
	if dim(k.Proto == l.Proto, false); k.Proto == l.Proto {
		u.Proto = k.Proto
	}
	wk, wl := what{k.Kinds, k.ReasonMask, k.CauseMask}.tidy(), what{l.Kinds, l.ReasonMask, l.CauseMask}.tidy()
	w, union := wk.or(wl)
	dim(wk == wl, union)
	u.Kinds, u.ReasonMask, u.CauseMask = w.kinds, w.reasons, w.causes
	u.Src, union = prefixOr(k.Src, l.Src)
	dim(k.Src == l.Src, union)
	u.Dst, union = prefixOr(k.Dst, l.Dst)
	dim(k.Dst == l.Dst, union)
	u.SportMin, u.SportMax, union = portsOr(k.SportMin, k.SportMax, l.SportMin, l.SportMax)
	dim(k.SportMin == l.SportMin && k.SportMax == l.SportMax, union)
	u.DportMin, u.DportMax, union = portsOr(k.DportMin, k.DportMax, l.DportMin, l.DportMax)
	dim(k.DportMin == l.DportMin && k.DportMax == l.DportMax, union)
	return u
}

func portsOr(klo, khi, llo, lhi uint16) (lo, hi uint16, union bool) {
	r, union := ports{klo, khi}.or(ports{llo, lhi})
	return r.lo, r.hi, union
}
