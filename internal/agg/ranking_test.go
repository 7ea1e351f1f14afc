package agg

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ctsight/ctsight/internal/event"
)

// A walk bit by bit finds what Top finds in one, by every column.
func TestRankingIsTop(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewCensus(CensusConfig{Dims: []Dim{BySrc}, Seed: 1}, 1)
		at := event.Ktime(1e9)
		for i := range rapid.IntRange(0, 200).Draw(t, "events") {
			at += event.Ktime(rapid.IntRange(0, 5e7).Draw(t, "gap"))
			o := event.Tuple{Src: netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 60).Draw(t, "src"))}),
				Dst: netip.AddrFrom4([4]byte{10, 1, 0, 1}), Sport: uint16(i), Dport: 53, Proto: event.ProtoUDP}
			s.Add(&event.Event{Time: at, Kind: event.New, Orig: o, Ptr: uint64(i + 1)})
		}
		n := rapid.IntRange(0, 20).Draw(t, "rows")
		columns := []Column{ColLive, ColNewRate, ColNew}
		r := Ranking{By: BySrc, Columns: columns, N: n}
		for s.Rank(&r, rapid.IntRange(1, 30).Draw(t, "step"), at) {
		}
		for i, c := range columns {
			want := s.Top(BySrc, c, n, at, nil).Rows
			want = slices.DeleteFunc(want, func(x TopRow) bool { return c == ColNewRate && x.S1 == 0 })
			got := s.Ranked(&r, i, at)
			if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
				t.Fatalf("%v: %s", c, d)
			}
		}
	})
}
