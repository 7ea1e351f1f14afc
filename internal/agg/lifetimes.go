package agg

import (
	"cmp"
	"maps"
	"math/bits"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// Lifetimes are histograms of how long entries lived, by protocol, by the TCP
// state at the end, and by whether they were answered.
type Lifetimes map[LifetimeKey]*Histogram

// LifetimeKey names a histogram.
type LifetimeKey struct {
	Proto    uint8
	State    event.TCPState // TCPNone for others than TCP
	Answered bool           // a packet in the other direction was seen
}

// Histogram counts by powers of two: bucket i holds times from 2^i us to less
// than 2^(i+1) us, the first also all below, the last all above.
type Histogram struct {
	N       uint64
	Sum     time.Duration
	Buckets [40]uint64 // the last begins at 6.4 days
}

func (l Lifetimes) add(e *event.Event, n uint64) {
	if !e.HasLifetime {
		return
	}
	k := LifetimeKey{Proto: e.Orig.Proto, State: e.TCPState, Answered: e.Status&event.SeenReply != 0}
	h := l[k]
	if h == nil { // 256 protocols, and a few states of one: bounded
		h = &Histogram{}
		l[k] = h
	}
	h.N += n
	h.Sum += e.Lifetime * time.Duration(n)
	us := uint64(max(1, e.Lifetime.Microseconds()))
	h.Buckets[min(bits.Len64(us)-1, len(h.Buckets)-1)] += n
}

func (l Lifetimes) clone() Lifetimes {
	out := make(Lifetimes, len(l))
	for k, h := range l {
		c := *h
		out[k] = &c
	}
	return out
}

// Keys returns what there are histograms of, in order.
func (l Lifetimes) Keys() []LifetimeKey {
	return slices.SortedFunc(maps.Keys(l), func(a, b LifetimeKey) int {
		return cmp.Or(cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.State, b.State), compareBool(b.Answered, a.Answered))
	})
}

// Mean returns the mean lifetime, 0 of nothing.
func (h *Histogram) Mean() time.Duration {
	if h.N == 0 {
		return 0
	}
	return time.Duration(float64(h.Sum) / float64(h.N))
}
