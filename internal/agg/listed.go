package agg

import (
	"net/netip"
	"slices"
	"time"
)

// blockable are the classes whose source alone is to blame, and whose whole traffic
// nobody misses. Not among them: what a mistake of a client looks like (a leak, a
// retry storm, dead targets), what a busy client looks like (hammering, a burst), and
// reflectors of an amplification, which are servers that others need.
var blockable = []string{"scan", "syn_flood", "udp_flood"}

// The widest prefixes that may be listed. A network of IPv6 is one customer, and what a
// host has many addresses of; neighbours in IPv4, or in a /48, may be anybody.
const (
	widest4 = 32
	widest6 = 64
)

// Unlisted says why no block list takes the source of f at a time, "" when it may. It
// holds whatever is configured; an allow list comes on top of it. Whatever is in doubt
// is not listed: a block that is missing is noticed later than one that is wrong, but
// it costs less.
func (f *Finding) Unlisted(now time.Time) string {
	switch {
	case f.State != Confirmed:
		return "it is not confirmed"
	case !f.Source.IsValid():
		return "it names no source"
	case f.Spoofable:
		return "its source may be spoofed"
	case f.Suppress != "":
		return f.Suppress
	case f.Severity != Page && f.Severity != Feed:
		return "it is for information only"
	case !slices.Contains(blockable, f.Class):
		return "sources of this class are not to be blocked"
	case f.Expires.IsZero():
		return "it has no end"
	case !f.Expires.After(now):
		return "it has expired"
	}
	return unblockable(f.Source)
}

// unblockable says why a prefix is on no block list.
func unblockable(p netip.Prefix) string {
	a, bits := p.Addr(), p.Bits()
	if a.Is4In6() {
		a, bits = a.Unmap(), max(0, bits-96)
	}
	switch {
	case a.Is4() && bits < widest4, a.Is6() && bits < widest6:
		return "its prefix is too wide"
	case a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a.IsLinkLocalUnicast(), a == broadcast:
		return "nobody can be blocked by such an address"
	}
	return ""
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})
