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

func lifetimeKey(e *event.Event) LifetimeKey {
	return LifetimeKey{Proto: e.Orig.Proto, State: e.TCPState, Answered: e.Status&event.SeenReply != 0}
}

// of returns the histogram of a key, made where there is none.
func (l Lifetimes) of(k LifetimeKey) *Histogram {
	h := l[k]
	if h == nil { // 256 protocols, and a few states of one: bounded
		h = &Histogram{}
		l[k] = h
	}
	return h
}

func (h *Histogram) add(d time.Duration, n uint64) {
	h.N += n
	h.Sum += d * time.Duration(n)
	us := uint64(max(1, d.Microseconds()))
	h.Buckets[min(bits.Len64(us)-1, len(h.Buckets)-1)] += n
}

// lived are the lifetimes of everything, with the histograms that were used last
// at hand: there are a few, and a map costs 20 ns each time.
type lived struct {
	all    Lifetimes
	recent [16]struct {
		k LifetimeKey
		h *Histogram
	}
}

func (l *lived) add(e *event.Event, n uint64) {
	if !e.HasLifetime {
		return
	}
	k := lifetimeKey(e)
	r := &l.recent[(k.Proto^uint8(k.State)<<1)%uint8(len(l.recent))]
	if r.h == nil || r.k != k {
		r.k, r.h = k, l.all.of(k)
	}
	r.h.add(e.Lifetime, n)
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
