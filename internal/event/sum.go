package event

import "net/netip"

// Sum is how often something happened to one source while the programs had too
// much to tell to tell each. It is exact, but says neither of which connections,
// nor exactly when.
type Sum struct {
	NetNS NetNS
	Zone  uint16
	Src   netip.Addr // of the original direction
	// Kind with its Reason or Cause is what happened; 0 in the sums of
	// evictors, of which only Evicted counts.
	Kind   Kind
	Reason Reason
	Cause  Cause
	N      uint64 // since the last Sum of this
	// Evicted is how many entries of anybody early drop took to make room for
	// packets of this source.
	Evicted uint64
	// From is no later than the first of them and Last the time of the last.
	From, Last Ktime
}
