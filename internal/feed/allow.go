package feed

import (
	"net/netip"
	"slices"
	"time"

	"github.com/gaissmai/bart"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/config"
)

// Allow is who is never blocked: what the operator has written, and what a host cannot
// do without. A value: it does not change, a reload makes another one.
type Allow struct {
	table bart.Table[entry]
	size  int
}

// entry is what holds for a prefix. The same prefix may be there for several reasons.
type entry struct {
	until time.Time // zero for ever
	why   string
}

func (e entry) holds(at time.Time) bool { return e.until.IsZero() || e.until.After(at) }

// NewAllow makes it from what the operator has written, where no prefix is there twice,
// and from what is vital, which holds for ever.
func NewAllow(list []config.Allow, vital []Vital) *Allow {
	a := &Allow{}
	for _, c := range list {
		a.add(c.Prefix.Prefix, entry{c.Until.Time, why(c)})
	}
	for _, v := range vital {
		a.add(v.Prefix, entry{why: v.What})
	}
	return a
}

func (a *Allow) add(p netip.Prefix, e entry) {
	p, ok := normal(p)
	if !ok {
		return
	}
	if old, known := a.table.Get(p); known {
		if old.until.IsZero() {
			return
		}
	} else {
		a.size++
	}
	a.table.Insert(p, e)
}

func why(c config.Allow) string {
	s := "allowed by " + c.Owner
	if c.Until.IsZero() {
		s += " for good"
	} else {
		s += " until " + c.Until.UTC().Format("2006-01-02T15:04:05Z")
	}
	if c.Reason != "" {
		s += ": " + c.Reason
	}
	return s
}

// Why says who allows an address at a time, "" for nobody: what detect.Config.Allow
// asks for. It does not allocate.
func (a *Allow) Why(addr netip.Addr, at time.Time) string {
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() {
		return ""
	}
	e, ok := a.table.Lookup(addr)
	if !ok || e.holds(at) {
		return e.why
	}
	return a.wider(netip.PrefixFrom(addr, addr.BitLen()), at)
}

// WhyPrefix says who allows all of a prefix or any part of it: who blocks the whole
// would block that too.
func (a *Allow) WhyPrefix(p netip.Prefix, at time.Time) string {
	p, ok := normal(p)
	if !ok {
		return ""
	}
	if s := a.wider(p, at); s != "" {
		return s
	}
	for _, e := range a.table.Subnets(p) {
		if e.holds(at) {
			return e.why
		}
	}
	return ""
}

func (a *Allow) wider(p netip.Prefix, at time.Time) string {
	for _, e := range a.table.Supernets(p) {
		if e.holds(at) {
			return e.why
		}
	}
	return ""
}

// Len is how many prefixes there are.
func (a *Allow) Len() int { return a.size }

// Prefixes are those that hold at a time, each address once, IPv4 first.
func (a *Allow) Prefixes(at time.Time) []netip.Prefix {
	var out []netip.Prefix
	for p, e := range a.table.AllSorted() {
		if !e.holds(at) {
			continue
		}
		if n := len(out); n > 0 && out[n-1].Overlaps(p) { // the wider one came first
			continue
		}
		out = append(out, p)
	}
	return out
}

// Ending are entries that end within a time: a scanner of the operator's own that is
// forgotten here is blocked.
func Ending(list []config.Allow, at time.Time, within time.Duration) (out []config.Allow) {
	for _, c := range list {
		if until := c.Until.Time; !until.IsZero() && until.After(at) && !until.After(at.Add(within)) {
			out = append(out, c)
		}
	}
	return out
}

// Ended are entries that hold no more.
func Ended(list []config.Allow, at time.Time) (out []config.Allow) {
	return slices.DeleteFunc(slices.Clone(list), func(c config.Allow) bool { return entry{until: c.Until.Time}.holds(at) })
}

// normal is a prefix of the family that its addresses are really of, without bits
// behind its length.
func normal(p netip.Prefix) (netip.Prefix, bool) {
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked(), p.IsValid()
}

// Policy says who may be blocked. Its methods may be called by any goroutine.
type Policy struct {
	// Allow returns the list that holds now; required.
	Allow func() *Allow
}

// Why says why the source of a finding is on no block list, "" when it may be.
func (p *Policy) Why(f *agg.Finding, now time.Time) string {
	if why := f.Unlisted(now); why != "" {
		return why
	}
	return p.Allow().WhyPrefix(f.Source, now)
}

// Vital is what a host cannot do without.
type Vital struct {
	Prefix netip.Prefix
	What   string
}
