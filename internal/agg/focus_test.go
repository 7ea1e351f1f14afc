package agg

import (
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// TestHolds: the edges of a row are those of its source, endpoint, prefix or
// namespace, and of no other.
func TestHolds(t *testing.T) {
	s := NewCensus(CensusConfig{}, 1)
	add := func(ns event.NetNS, zone uint16, x event.Tuple) {
		s.Add(&event.Event{Kind: event.New, Time: 5, NetNS: ns, Zone: zone, Orig: x})
	}
	a := flow(0x0a000001, 0x0b000001, 1, 53)
	add(1, 0, a)
	add(1, 0, flow(0x0a000001, 0x0b000002, 1, 53))
	add(1, 0, flow(0x0a0000ff, 0x0b000001, 1, 53)) // same prefix
	add(1, 0, flow(0x0a000101, 0x0b000001, 1, 53)) // another
	add(1, 0, flow(0x0a000001, 0x0b000001, 1, 54))
	add(1, 3, a)
	add(2, 0, a)
	for d, want := range map[Dim]int{BySrc: 3, ByDst: 3, ByEdge: 1, ByPrefix: 4, ByNetNS: 6} {
		key := d.keyFor(1, 0, &a)
		k := key.public()
		if back := k.private(); back != key {
			t.Errorf("by %s: %+v is not %+v", d, back, key)
		}
		if got := s.Top(ByEdge, ColNew, 100, 0, k.Holds); got.Kept != want {
			t.Errorf("by %s: %d edges, want %d", d, got.Kept, want)
		}
		if r, ok := s.Row(d, k, 9); !ok || r.Key != k || r.New == 0 {
			t.Errorf("by %s: row %+v, %v", d, r, ok)
		}
		k.NetNS = 77
		if _, ok := s.Row(d, k, 9); ok {
			t.Errorf("by %s: a row of a namespace that is not", d)
		}
	}
}

// TestFocus: lifetimes of one row, from the first time that they are asked for.
func TestFocus(t *testing.T) {
	s := NewCensus(CensusConfig{}, 1)
	live := func(src uint32, ptr uint64, d time.Duration) {
		x := flow(src, 2, uint16(ptr), 80)
		s.Add(&event.Event{Kind: event.New, Time: 10, Ptr: 1<<63 | ptr, Orig: x})
		s.Add(&event.Event{Kind: event.Destroy, Cause: event.TimeoutGC, Time: 10 + event.Ktime(d), Ptr: 1<<63 | ptr, Orig: x,
			TCPState: event.TCPTimeWait, Status: event.SeenReply})
	}
	n := func(l Lifetimes) (n uint64) {
		for _, k := range l.Keys() {
			n += l[k].N
		}
		return n
	}
	a, b := Key{Src: v4(1)}, Key{Src: v4(7)}
	live(1, 1, time.Second)
	if got := n(s.Focus(BySrc, a)); got != 0 {
		t.Errorf("%d from before", got)
	}
	live(1, 2, 3*time.Second)
	live(7, 3, time.Second)
	l := s.Focus(BySrc, a)
	k := LifetimeKey{Proto: event.ProtoTCP, State: event.TCPTimeWait, Answered: true}
	if n(l) != 1 || l[k].Mean() != 3*time.Second || l[k].Buckets[21] != 1 { // 2^21 us and more
		t.Errorf("%+v", l[k])
	}
	live(1, 4, time.Second)
	if n(l) != 1 {
		t.Error("what was returned has changed")
	}
	if got := n(s.Focus(BySrc, b)); got != 0 {
		t.Errorf("another row has %d", got)
	}
	if got := n(s.Lifetimes()); got != 4 {
		t.Errorf("%d in all", got)
	}
}

func TestHoldings(t *testing.T) {
	var h Holdings
	x := flow(1, 2, 3, 4)
	u := x
	u.Proto = event.ProtoUDP
	h.Add(&x, event.SeenReply|event.Assured|event.SrcNAT, event.TCPEstablished, 100*time.Second)
	h.Add(&x, event.SeenReply|event.Assured, event.TCPEstablished, 200*time.Second)
	h.Add(&u, 0, event.TCPNone, -time.Second)
	rows := h.Rows()
	if len(rows) != 2 || rows[0].N != 2 || rows[0].Left != 150*time.Second || rows[1].Proto != event.ProtoUDP || rows[1].Left != 0 {
		t.Errorf("%+v", rows)
	}
	if h.N != 3 || h.NAT != 1 || h.Unreplied != 1 || h.Assured != 2 || h.Expired != 1 {
		t.Errorf("%+v", h)
	}
}
