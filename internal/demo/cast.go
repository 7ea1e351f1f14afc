package demo

import (
	"net/netip"

	"github.com/ctsight/ctsight/internal/netlab"
)

// role is a part in the play: some sources that behave alike.
type role struct {
	name  string
	first netip.Addr
	n     int
}

// The cast. Every source plays in one act only, so what is traced of a source
// is what it did there.
var (
	clients   = role{"clients", netip.MustParseAddr("10.1.0.1"), 20}
	burster   = role{"burst", netip.MustParseAddr("10.66.0.6"), 1}
	scanner   = role{"scanner", netip.MustParseAddr("10.66.0.7"), 1}
	longLived = role{"long-lived", netip.MustParseAddr("10.2.0.1"), 20}
	sensor    = role{"sensor", netip.MustParseAddr("10.3.0.1"), 1}
	customers = role{"customer", netip.MustParseAddr("10.4.0.1"), 4}
	flooder   = role{"flood", netip.MustParseAddr("10.66.0.8"), 1}

	cast = []role{clients, burster, scanner, longLived, sensor, customers, flooder}
)

func (r role) addrs() netlab.Addrs { return netlab.Addrs{First: r.first, N: r.n} }

func (r role) has(a netip.Addr) bool {
	return a.Is4() && r.first.Compare(a) <= 0 && a.Compare(r.addrs().At(r.n-1)) <= 0
}

// net is the /24 of the role.
func (r role) net() netip.Prefix { return netip.PrefixFrom(r.first, 24).Masked() }

// text names the addresses: 10.1.0.1, or 10.1.0.1 to 20.
func (r role) text() string {
	if r.n == 1 {
		return r.first.String()
	}
	last := r.addrs().At(r.n - 1).As4()
	return r.first.String() + " to " + itoa(uint64(last[3]))
}

// roleOf returns the role of a source, "" for what is not of the cast.
func roleOf(a netip.Addr) string {
	for _, r := range cast {
		if r.has(a) {
			return r.name
		}
	}
	return ""
}

// who is a source with its role.
func who(a netip.Addr) string {
	switch n := roleOf(a); {
	case !a.IsValid():
		return "?"
	case n == "":
		return a.String()
	default:
		return a.String() + " " + n
	}
}
