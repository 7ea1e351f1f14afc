package pipeline

import (
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// Each second of a source's past is what it opened then, from its first sample on,
// however seldom the walk over all rows comes; and that one too when it was found in
// the second in which it began.
func TestArrivals(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		k := fullKeeper(t, 1, 0)
		at := k.w.start
		opened := map[netip.Addr]map[int]uint64{}
		began, walked := map[netip.Addr]int{}, map[int]bool{}
		ptr := uint64(0xffff888000000000)
		for second := range 30 {
			for s := range 3 {
				n := rapid.IntRange(0, 5).Draw(rt, "new") * rapid.IntRange(0, 1).Draw(rt, "busy")
				src := netip.AddrFrom4([4]byte{10, 0, 0, byte(s)})
				for range n {
					ptr += 256
					at = max(at+1, now())
					k.w.addAll([]event.Event{{Kind: event.New, Time: at, NetNS: 1, Ptr: ptr,
						Orig: event.Tuple{Src: src, Dst: netip.AddrFrom4([4]byte{10, 9, 9, 9}), Sport: uint16(ptr >> 8), Dport: 1, Proto: event.ProtoUDP}}})
				}
				if opened[src] == nil {
					opened[src] = map[int]uint64{}
				}
				opened[src][second] += uint64(n)
				if _, had := began[src]; n > 0 && !had {
					began[src] = second
				}
			}
			if second == 0 || rapid.IntRange(0, 3).Draw(rt, "walk") == 0 {
				k.rank()
				walked[second] = true
			}
			k.takeSample(k.clock.Wall.Add(time.Duration(second) * time.Second))
		}
		seen := map[netip.Addr]bool{}
		for second, x := range k.past() {
			told := map[netip.Addr]uint64{}
			for _, c := range x.Sources {
				told[c.Src] = c.New
			}
			for src, by := range opened {
				found := by[second] > 0 && began[src] == second && walked[second]
				if (seen[src] || found) && told[src] != by[second] {
					rt.Fatalf("second %d: %v opened %d, told %d", second, src, by[second], told[src])
				}
				seen[src] = seen[src] || told[src] > 0
			}
		}
	})
}

// Sources that are looked at are bounded, and of those that fall silent the busy keep
// their places.
func TestArrivalsBounded(t *testing.T) {
	var a arrivals
	counts := map[agg.Key]uint64{}
	row := func(k agg.Key) (agg.TopRow, bool) {
		return agg.TopRow{Key: k, Sums: agg.Sums{New: counts[k]}}, true
	}
	key := func(i int) agg.Key { return agg.Key{NetNS: event.NetNS(i)} }
	for i := range 500 {
		var busy []agg.TopRow
		for j := range rankRows {
			counts[key(i*rankRows+j)]++
			busy = append(busy, agg.TopRow{Key: key(i*rankRows + j)})
		}
		counts[key(0)]++
		a.look(0, busy, row)
		if len(a.keys) > watchedRows || len(a.had) > watchedRows+rankRows {
			t.Fatalf("%d keys, %d counts", len(a.keys), len(a.had))
		}
	}
	if got := a.look(0, nil, row); len(got) != 0 {
		t.Errorf("nothing came, told %v", got)
	}
	counts[key(0)] += 7
	if got := a.look(0, nil, row); len(got) != 1 || got[0] != (agg.SourceCount{New: 7}) {
		t.Errorf("told %v", got)
	}
}
