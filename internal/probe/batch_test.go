package probe

import (
	"cmp"
	"errors"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/ctsight/ctsight/internal/event"
)

// TestBatchesProperty: whatever comes, in batches it comes the same and in the same
// order as one by one, evictions and their culprits too.
func TestBatchesProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		one, w1 := madeRings(2, 64, 0)
		many, w2 := madeRings(2, 64, 0)
		var got, want []event.Event
		d1 := &drain{p: one, evictions: map[uint32][]event.Event{}, fn: func(e *event.Event) error { want = append(want, *e); return nil }}
		most := rapid.IntRange(1, 9).Draw(t, "batch")
		d2 := &drain{p: many, evictions: map[uint32][]event.Event{}, out: make([]event.Event, 0, most), many: func(e []event.Event) error {
			if len(e) == 0 || len(e) > most {
				t.Fatalf("%d events at a time", len(e))
			}
			got = append(got, e...)
			return nil
		}}
		look := func(d *drain, horizon event.Ktime) {
			if _, err := d.pass(horizon); err != nil {
				t.Fatal(err)
			}
		}
		clock := event.Ktime(0)
		for id := range uint64(rapid.IntRange(1, 100).Draw(t, "records")) {
			clock += event.Ktime(rapid.IntRange(0, 3).Draw(t, "pause")) * 1e9
			rec := at(clock, id)
			link := uint32(rapid.IntRange(1, 3).Draw(t, "link"))
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				rec.Kind, rec.Code, rec.Aux[1] = uint8(event.Destroy), uint8(event.EarlyDrop), link
			case 1:
				rec.Kind, rec.Aux[1] = kindEvictor, link
			}
			cpu := rapid.IntRange(0, 1).Draw(t, "cpu")
			w1[cpu].put(rec, nil)
			w2[cpu].put(rec, nil)
			if rapid.IntRange(0, 5).Draw(t, "pass") == 0 {
				look(d1, clock)
				look(d2, clock)
				if len(d2.out) > 0 {
					t.Fatalf("%d events wait at the end of a pass", len(d2.out))
				}
			}
		}
		for _, d := range []*drain{d1, d2} {
			look(d, math.MaxInt64-1)
			if err := d.flush(); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.EqualFunc(got, want, func(a, b event.Event) bool { return a.Time == b.Time }) {
			t.Fatalf("%d events, want %d, or another order", len(got), len(want))
		}
		for _, x := range [][]event.Event{got, want} { // of those of one moment any may be first
			slices.SortFunc(x, func(a, b event.Event) int { return cmp.Or(cmp.Compare(a.Time, b.Time), cmp.Compare(a.Ptr, b.Ptr)) })
		}
		if !slices.Equal(got, want) {
			t.Fatalf("told %v, want %v", got, want)
		}
	})
}

// A consumer that fails gets nothing twice.
func TestBatchFails(t *testing.T) {
	p, w := madeRings(1, 64, 0)
	broken, calls := errors.New("broken"), 0
	d := &drain{p: p, evictions: map[uint32][]event.Event{}, out: make([]event.Event, 0, 4), many: func(e []event.Event) error {
		if calls++; calls == 1 {
			return broken
		}
		if e[0].Ptr != 4 {
			t.Errorf("begins again with %d", e[0].Ptr)
		}
		return nil
	}}
	for id := range uint64(6) {
		w[0].put(at(event.Ktime(id), id), nil)
	}
	if _, err := d.pass(100); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	pass(t, d, 100)
	if calls != 2 {
		t.Errorf("%d calls", calls)
	}
}
