package probe

import (
	"net/netip"
	"testing"

	"github.com/ctsight/ctsight/internal/event"
)

func TestHold(t *testing.T) {
	tu := func(p uint16) event.Tuple {
		a := netip.MustParseAddr("10.0.0.1")
		return event.Tuple{Src: a, Dst: a, Sport: p, Proto: event.ProtoUDP}
	}
	h := newHold(true)
	var got []event.Ktime
	release := func(to event.Ktime) {
		if err := h.release(to, func(e *event.Event) error { got = append(got, e.Time); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range []event.Event{
		{Time: 1, Kind: event.New, Ptr: 0x10, Orig: tu(1)},
		{Time: 2, Kind: event.New, Ptr: 0x20, Orig: tu(2)},
		{Time: 3, Kind: event.Drop, Reason: event.ConfirmUnknown, Ptr: 0x20, Orig: tu(2)}, // takes 2 back
		{Time: 4, Kind: event.New, Ptr: 0x20, Orig: tu(3)},
		{Time: 5, Kind: event.Drop, Reason: event.RulesetNew, Ptr: 0x20, Orig: tu(3)}, // takes nothing back
		{Time: 6, Kind: kindCancel, Reason: event.NATExhausted, Ptr: 0x20, Orig: tu(3)},
		{Time: 7, Kind: event.Drop, Reason: event.ConfirmUnknown, Ptr: 0x10, Orig: tu(9)}, // not the tuple of 1
	} {
		if err := h.push(&e); err != nil {
			t.Fatal(err)
		}
	}
	release(3)
	if !h.waiting() {
		t.Error("nothing waits")
	}
	release(100)
	want := []event.Ktime{1, 3, 5, 7}
	if len(got) != len(want) {
		t.Fatalf("delivered %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("delivered %v, want %v", got, want)
		}
	}
	taken, merged, late := h.counts()
	if taken != 7 || merged != 3 || late != 1 || h.waiting() || len(h.gone)+len(h.news) != 0 {
		t.Errorf("taken %d, merged %d, late %d, %d gone, %d new", taken, merged, late, len(h.gone), len(h.news))
	}
}

// UpTo moves on before each event: whoever is given one may wait until
// everything older has gone through.
func TestUpTo(t *testing.T) {
	n := &NFProbe{hold: newHold(true)}
	for at := range event.Ktime(3) {
		if err := n.hold.push(&event.Event{Time: 10 + at, Kind: event.Drop}); err != nil {
			t.Fatal(err)
		}
	}
	err := n.deliver(20, func(e *event.Event) error {
		if n.UpTo() != e.Time-1 {
			t.Errorf("at the event of %d: up to %d", e.Time, n.UpTo())
		}
		return nil
	})
	if err != nil || n.UpTo() != 20 {
		t.Errorf("up to %d, %v", n.UpTo(), err)
	}
}

// A burst beyond the bound goes out early, in order.
func TestHoldBound(t *testing.T) {
	h := newHold(true)
	n := 0
	for i := range maxHeld + 1000 {
		e := event.Event{Time: event.Ktime(i), Kind: event.New, Ptr: uint64(i + 1)}
		if err := h.push(&e); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.release(-1, func(*event.Event) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	if n != 1000 {
		t.Errorf("%d went early, want 1000", n)
	}
}

// However many records the rings have, no more are held than the bound says.
func TestHoldRoom(t *testing.T) {
	const all = 10 * maxHeld
	n := &NFProbe{hold: newHold(true)}
	told := 0
	fn := func(e *event.Event) error {
		if told++; e.Time != event.Ktime(told) {
			t.Fatalf("event %d comes as number %d", e.Time, told)
		}
		return nil
	}
	for i := range event.Ktime(all) {
		if err := n.take(&event.Event{Time: i + 1, Kind: event.New, Ptr: uint64(i + 1)}, all, fn); err != nil {
			t.Fatal(err)
		}
	}
	if cap(n.hold.queue) > 3*maxHeld || len(n.hold.news) > 2*maxHeld || n.UpTo() >= all {
		t.Errorf("room for %d, %d new ones, up to %d", cap(n.hold.queue), len(n.hold.news), n.UpTo())
	}
	if err := n.deliver(all, fn); err != nil || told != all || n.UpTo() != all {
		t.Errorf("%d told, up to %d, %v", told, n.UpTo(), err)
	}
}
