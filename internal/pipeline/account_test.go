package pipeline

import (
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/probe"
)

// reading makes a point from the probe's raw counts and the kernel's.
func readingOf(count uint32, raw map[event.Reason]uint64, stats map[ctnl.Counter]uint32) point {
	p := point{fill: ctnl.Fill{Count: count, Max: 1000}, raw: probe.Counters{New: 100}}
	for r, n := range raw {
		p.raw.Reasons[r] = n
	}
	s := ctnl.CPUStats{Known: 1<<ctnl.NumCounters - 1}
	for c, n := range stats {
		s.N[c] = n
	}
	p.stats = []ctnl.CPUStats{s}
	return p
}

func TestAccount(t *testing.T) {
	type raw = map[event.Reason]uint64
	type stats = map[ctnl.Counter]uint32
	for _, tc := range []struct {
		name   string
		points []point
		want   map[event.Reason]uint64
		last   verdict
	}{
		{"table full", []point{readingOf(1000, raw{event.LookupUnknown: 7}, stats{ctnl.StatDrop: 7})},
			raw{event.TableFull: 7}, verdict{event.TableFull, event.ClashSameFlow, event.NATExhausted}},
		{"refused, table not full", []point{readingOf(500, raw{event.LookupUnknown: 7}, stats{ctnl.StatDrop: 7})},
			raw{event.LookupUnknown: 7}, verdict{event.LookupUnknown, event.ClashSameFlow, event.NATExhausted}},
		{"the kernel counted fewer", []point{readingOf(1000, raw{event.LookupUnknown: 7}, stats{ctnl.StatDrop: 6})},
			raw{event.LookupUnknown: 7}, verdict{event.LookupUnknown, event.ClashSameFlow, event.NATExhausted}},
		{"clashes", []point{readingOf(10, raw{event.ConfirmUnknown: 2, event.NATExhausted: 3}, stats{ctnl.StatDrop: 5, ctnl.StatInsertFailed: 5})},
			raw{event.ClashSameFlow: 2, event.NATExhausted: 3}, verdict{event.LookupUnknown, event.ClashSameFlow, event.NATExhausted}},
		{"chains, the kernel ahead", []point{
			readingOf(10, raw{event.ConfirmUnknown: 90}, stats{ctnl.StatChainTooLong: 100, ctnl.StatInsertFailed: 100}),
			readingOf(10, raw{event.ConfirmUnknown: 150, event.NATExhausted: 50}, stats{ctnl.StatChainTooLong: 200, ctnl.StatInsertFailed: 200})},
			raw{event.ChainTooLong: 200}, verdict{event.LookupUnknown, event.ChainTooLong, event.ChainTooLong}},
		{"some of each", []point{readingOf(10, raw{event.ConfirmUnknown: 10}, stats{ctnl.StatChainTooLong: 4, ctnl.StatInsertFailed: 10, ctnl.StatDrop: 6})},
			raw{event.ConfirmUnknown: 10}, undecided},
		{"a helper's", []point{readingOf(10, raw{event.ConfirmUnknown: 3}, stats{})},
			raw{event.ConfirmUnknown: 3}, undecided},
		{"merged", []point{readingOf(10, nil, stats{ctnl.StatClashResolve: 4})},
			raw{event.ClashMerged: 4}, verdict{event.LookupUnknown, event.ClashSameFlow, event.NATExhausted}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := newAccount(readingOf(0, nil, nil))
			for _, p := range tc.points {
				a.next(p)
			}
			got := a.counters(a.last.raw)
			want := probe.Counters{New: 100 - tc.want[event.ClashMerged]}
			for r, n := range tc.want {
				want.Reasons[r] = n
			}
			if got != want || a.verdict != tc.last {
				t.Errorf("got  %v %v\nwant %v %v", got, a.verdict, want, tc.last)
			}
		})
	}
}

func TestMergeOrder(t *testing.T) {
	m := newMerge()
	for i, at := range []event.Ktime{5, 3, 9, 3, 1, 7} {
		m.push(&event.Event{Time: at, Mark: uint32(i)})
	}
	var got []uint32
	for e := m.pop(7); e != nil; e = m.pop(7) {
		got = append(got, e.Mark)
		m.done(e)
	}
	want := []uint32{4, 1, 3, 0, 5} // equal times in the order of arrival
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
	m.push(&event.Event{Time: 2})
	if e := m.pop(7); e == nil || m.late.Load() != 1 {
		t.Errorf("a late event: %v, counted %d", e, m.late.Load())
	}
	m.pushRead(&event.Event{Time: 2})
	if e := m.pop(7); e == nil || e.Time != 7 || m.late.Load() != 1 {
		t.Errorf("one that makes way: %v, late %d", e, m.late.Load())
	}
}

// The probe goes on when the listeners have filled their side: what they told
// can only be delivered once the probe has told what is older.
func TestMergeSides(t *testing.T) {
	m := newMerge()
	for range mergeLimit {
		m.pushRead(&event.Event{Time: 100})
	}
	done := make(chan bool)
	go func() {
		m.push(&event.Event{Time: 1})
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the probe waits for the listeners")
	}
	if e := m.pop(1); e == nil || e.Time != 1 {
		t.Errorf("first comes %v", e)
	}
	go m.pushRead(&event.Event{Time: 200})
	for at := event.Ktime(100); at < 200; { // ends when the one that waits got in
		if e := m.pop(200); e != nil {
			at = e.Time
		}
	}
}
