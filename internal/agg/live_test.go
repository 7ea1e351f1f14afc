package agg

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/ctsight/ctsight/internal/event"
)

// TestLiveProperty compares the table with a map, with keys that collide and a
// table that wraps round its end.
func TestLiveProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(0, 60).Draw(t, "limit")
		l := NewLive[event.Ktime](limit, 0)
		l.slots = make([]liveSlot[event.Ktime], rapid.IntRange(2, 80).Draw(t, "slots")) // smaller than NewLive makes them
		want := map[uint64]event.Ktime{}
		var refused, replaced uint64
		stride := rapid.SampledFrom([]uint64{1, 8, 256, 1 << 40, 0x0fffffffffffffff}).Draw(t, "stride")
		for i := range rapid.IntRange(1, 300).Draw(t, "steps") {
			ptr := stride * uint64(rapid.IntRange(0, 80).Draw(t, "ptr"))
			now := event.Ktime(i)
			if rapid.Bool().Draw(t, "insert") {
				_, had := want[ptr]
				ok := ptr != 0 && (had || len(want) < limit)
				if got := l.Insert(ptr, now); got != ok {
					t.Fatalf("Insert(%#x) = %v", ptr, got)
				}
				switch {
				case !ok:
					refused++
				case had:
					replaced++
				}
				if ok {
					want[ptr] = now
				}
			} else {
				wantT, had := want[ptr]
				if got := l.Get(ptr); (got != nil) != had || had && *got != wantT {
					t.Fatalf("Get(%#x) = %v, want %d, %v", ptr, got, wantT, had)
				}
				if got, ok := l.Remove(ptr); got != wantT || ok != had {
					t.Fatalf("Remove(%#x) = %d, %v, want %d, %v", ptr, got, ok, wantT, had)
				}
				delete(want, ptr)
			}
			if l.Len() != len(want) || l.Refused() != refused || l.Replaced() != replaced {
				t.Fatalf("len %d refused %d replaced %d, want %d %d %d", l.Len(), l.Refused(), l.Replaced(), len(want), refused, replaced)
			}
		}
		for ptr, at := range l.All() {
			if wantT, ok := want[ptr]; !ok || wantT != at {
				t.Fatalf("All: %#x at %d, want %d, %v", ptr, at, wantT, ok)
			}
			delete(want, ptr)
		}
		if len(want) != 0 {
			t.Fatalf("All misses %v", want)
		}
	})
}

// slab returns the address of the i-th object of a slab cache as the kernel
// lays them out: 256 bytes each, 32 in a block of 8 KiB, blocks anywhere.
func slab(i uint64) uint64 {
	block := i / 32 * 0x9E3779B1 % (1 << 23)
	return 0xffff888000000000 + block<<13 + i%32*256
}

func TestLiveMemory(t *testing.T) {
	l := NewLive[event.Ktime](2_000_000, 0)
	for i := range uint64(1_500_000) {
		l.Insert(slab(i), 1)
		if i >= minSlots && l.Bytes() > 32*l.Len()+64 {
			t.Fatalf("%d entries take %d bytes", l.Len(), l.Bytes())
		}
	}
	if l.Len() != 1_500_000 || l.Refused() != 0 {
		t.Fatalf("len %d, refused %d", l.Len(), l.Refused())
	}
	full := NewLive[event.Ktime](1000, 1000)
	for i := range uint64(1_000_000) {
		full.Insert(slab(i), 1)
	}
	if full.Len() != 1000 || full.Refused() != 999_000 || full.Bytes() > 32*1000 {
		t.Errorf("len %d refused %d bytes %d", full.Len(), full.Refused(), full.Bytes())
	}
}

// BenchmarkLive is one connection of a table in balance: an insert, a lookup
// as a detector does it and the removal of the oldest.
func BenchmarkLive(b *testing.B) {
	for _, n := range []uint64{100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l := NewLive[event.Ktime](2*int(n), int(n))
			for i := range n {
				l.Insert(slab(i), event.Ktime(i))
			}
			b.ReportAllocs()
			i := n
			for b.Loop() {
				l.Insert(slab(i), event.Ktime(i))
				l.Get(slab(i - n/2))
				if _, ok := l.Remove(slab(i - n)); !ok {
					b.Fatal("an entry is missing")
				}
				i++
			}
			b.ReportMetric(float64(l.Bytes())/float64(l.Len()), "B/entry")
		})
	}
}
