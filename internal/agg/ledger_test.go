package agg

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/ctsight/ctsight/internal/event"
)

var compareAddrs = cmpopts.EquateComparable(netip.Addr{})

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func drop(r event.Reason, src, dst string, dport uint16) event.Event {
	return event.Event{Kind: event.Drop, Reason: r, NetNS: 1,
		Orig: event.Tuple{Src: addr(src), Dst: addr(dst), Sport: 999, Dport: dport, Proto: event.ProtoUDP}}
}

func TestLedger(t *testing.T) {
	l := NewLedger(LedgerConfig{})
	evicted := event.Tuple{Src: addr("10.0.0.7"), Dst: addr("10.0.0.1"), Sport: 1, Dport: 2, Proto: 17}
	by := event.Tuple{Src: addr("10.6.6.6"), Dst: addr("10.0.0.2"), Sport: 3, Dport: 4, Proto: 6}
	full := drop(event.TableFull, "10.0.0.7", "10.0.0.53", 53)
	sampled := full
	sampled.Sample = 8
	six := drop(event.TableFull, "::ffff:10.0.0.7", "2001:db8::1", 53) // not the IPv4 address
	for _, e := range []event.Event{
		full, sampled, six,
		drop(event.ChainTooLong, "10.0.0.7", "10.0.0.53", 53),
		drop(event.RulesetNew, "10.0.0.8", "10.0.0.53", 5555),
		drop(200, "10.0.0.9", "10.0.0.53", 1),
		{Kind: event.Drop, Reason: event.LookupUnknown, NetNS: 1}, // nobody knows whose
		{Kind: event.New, Sample: 4}, {Kind: event.New},
		{Kind: event.Destroy, Cause: event.TimeoutGC},
		{Kind: event.Destroy, Cause: event.EarlyDrop, NetNS: 1, Orig: evicted, By: by},
		{Kind: event.Destroy, Cause: event.EarlyDrop, NetNS: 1, Orig: evicted, By: by, Sample: 2},
		{Kind: event.Destroy, Cause: event.EarlyDrop, NetNS: 1, Orig: evicted},
		{Kind: event.Note, Reason: event.ClashMerged},
		{Kind: event.Invalid, Reason: event.InvalidPacket, Sample: 2},
		{Kind: 77},
	} {
		l.Add(&e)
	}
	row := func(r event.Reason, src, dst netip.Addr, proto uint8, dport uint16, n uint64) DropRow {
		return DropRow{NetNS: 1, Reason: r, Src: src, Dst: dst, Proto: proto, Dport: dport, Count: n}
	}
	dns := addr("10.0.0.53")
	want := Snapshot{
		Drops: []DropRow{
			row(event.TableFull, addr("10.0.0.7"), dns, 17, 53, 9),
			row(event.TableFull, addr("::ffff:10.0.0.7"), addr("2001:db8::1"), 17, 53, 1),
			row(event.ChainTooLong, addr("10.0.0.7"), dns, 17, 53, 1),
			row(event.LookupUnknown, netip.Addr{}, netip.Addr{}, 0, 0, 1),
			row(200, addr("10.0.0.9"), dns, 17, 1, 1),
		},
		Ruleset: []DropRow{row(event.RulesetNew, addr("10.0.0.8"), dns, 17, 5555, 1)},
		Evictions: []EvictionRow{
			{NetNS: 1, Victim: addr("10.0.0.7"), Culprit: addr("10.6.6.6"), Count: 3, Entry: evicted, By: by},
			{NetNS: 1, Victim: addr("10.0.0.7"), Count: 1, Entry: evicted},
		},
		Totals: Totals{
			Events: 16, New: 5,
			Drop: []ReasonCount{{event.TableFull, 10}, {event.ChainTooLong, 1}, {event.RulesetNew, 1},
				{event.LookupUnknown, 1}, {200, 1}},
			Note:    []ReasonCount{{event.ClashMerged, 1}},
			Invalid: []ReasonCount{{event.InvalidPacket, 2}},
			Destroy: []CauseCount{{event.TimeoutGC, 1}, {event.EarlyDrop, 4}},
		},
	}
	if diff := cmp.Diff(want, l.Snapshot(), compareAddrs); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestLedgerBounds: whatever comes, rows stay within the bound, all rows and
// other add up to the totals, and who drops much is seen.
func TestLedgerBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 20).Draw(t, "limit")
		l := NewLedger(LedgerConfig{MaxRows: limit, MaxPairs: limit})
		var drops, evictions uint64
		for range rapid.IntRange(0, 400).Draw(t, "events") {
			src := netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "src")})
			e := event.Event{Kind: event.Drop, Reason: event.TableFull, Orig: event.Tuple{Src: src, Dst: src}, Sample: uint32(rapid.IntRange(0, 4).Draw(t, "sample"))}
			n := uint64(max(1, e.Sample))
			if rapid.Bool().Draw(t, "evict") {
				e.Kind, e.Cause, e.By = event.Destroy, event.EarlyDrop, e.Orig
				evictions += n
			} else {
				drops += n
			}
			l.Add(&e)
		}
		s := l.Snapshot()
		gotDrops, gotEvictions := s.DropsOther.Count, s.EvictionsOther.Count
		for _, r := range s.Drops {
			gotDrops += r.Count
		}
		for _, r := range s.Evictions {
			gotEvictions += r.Count
			if r.Entry.Src != r.Victim || r.By.Src != r.Culprit {
				t.Fatalf("the example of %+v is of others", r)
			}
		}
		if gotDrops != drops || gotEvictions != evictions {
			t.Fatalf("drops %d of %d, evictions %d of %d", gotDrops, drops, gotEvictions, evictions)
		}
		if len(s.Drops) > limit || len(s.Evictions) > limit || len(l.examples) > limit {
			t.Fatalf("%d drops, %d evictions, %d examples, limit %d", len(s.Drops), len(s.Evictions), len(l.examples), limit)
		}
	})
}

func TestLedgerKeepsTheLarge(t *testing.T) {
	l := NewLedger(LedgerConfig{MaxRows: 100})
	noisy := drop(event.TableFull, "10.0.0.7", "10.0.0.53", 53)
	for i := range 100_000 {
		if i%10 == 0 {
			l.Add(&noisy)
		}
		e := noisy
		e.Orig.Src = netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)})
		l.Add(&e)
	}
	s := l.Snapshot()
	if s.Drops[0].Src != noisy.Orig.Src || s.Drops[0].Count < 9_990 {
		t.Errorf("first row %+v", s.Drops[0])
	}
	if s.DropsOther.Rows < 99_000 {
		t.Errorf("other %+v", s.DropsOther)
	}
}

func TestPartition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.SliceOfN(rapid.IntRange(0, 50), 0, 60).Draw(t, "keys")
		n := rapid.IntRange(0, len(keys)).Draw(t, "n")
		want := slices.Sorted(slices.Values(keys))
		partition(keys, n, func(a, b int) int { return a - b })
		slices.Sort(keys[:n])
		slices.Sort(keys[n:])
		if !slices.Equal(keys, want) {
			t.Fatalf("first %d: %v, want %v", n, keys, want)
		}
	})
}

// TestLedgerRepeats: the same events leave the same rows, ties and all.
func TestLedgerRepeats(t *testing.T) {
	run := func() Snapshot {
		l := NewLedger(LedgerConfig{MaxRows: 50})
		e := drop(event.TableFull, "10.0.0.7", "10.0.0.53", 53)
		for i := range 1234 {
			e.Orig.Src = netip.AddrFrom4([4]byte{11, 0, byte(i * 7 >> 8), byte(i * 7)})
			l.Add(&e)
		}
		return l.Snapshot()
	}
	if diff := cmp.Diff(run(), run(), compareAddrs); diff != "" {
		t.Error(diff)
	}
}

func TestSnapshotIsACopy(t *testing.T) {
	l := NewLedger(LedgerConfig{})
	e := drop(event.TableFull, "10.0.0.7", "10.0.0.53", 53)
	l.Add(&e)
	s := l.Snapshot()
	l.Add(&e)
	if s.Drops[0].Count != 1 || s.Totals.Drop[0].Count != 1 {
		t.Error("a snapshot changed after it was taken")
	}
}

func BenchmarkLedgerAdd(b *testing.B) {
	for _, tc := range []struct {
		name    string
		sources uint32
	}{{"1000 sources", 1000}, {"spoofed", 1 << 24}} {
		b.Run(tc.name, func(b *testing.B) {
			l := NewLedger(LedgerConfig{})
			e := drop(event.TableFull, "10.0.0.7", "10.0.0.53", 53)
			b.ReportAllocs()
			var i uint32
			for b.Loop() {
				n := i * 0x9E3779B1 % tc.sources
				e.Orig.Src = netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
				l.Add(&e)
				i++
			}
		})
	}
}
