package probe

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/ctsight/ctsight/internal/abi"
	"github.com/ctsight/ctsight/internal/event"
)

// summer does to places what sum_add does (bpf/shed.h), and keeps what went
// through the ring.
type summer struct {
	places [3]abi.ConntrackCtSum
	ring   []abi.ConntrackCtRec
	now    uint64
}

// add counts an event of a source at a place; the key goes out when it is another.
func (s *summer) add(place int, src byte, evicted uint32) {
	t := &s.places[place]
	s.now++
	if t.N > 0 && t.Src[0] != src {
		r := abi.ConntrackCtRec{Kind: kindSum, Hook: t.Kind, Netns: t.Netns, Ptr: t.N, Ts: s.now, Aux: [2]uint32{uint32(place), t.Epoch}}
		r.Orig.Src, r.Orig.L3num = t.Src, t.L3num
		binary.NativeEndian.PutUint64(r.Reply.Src[:8], t.Evicted)
		binary.NativeEndian.PutUint64(r.Reply.Src[8:], t.Last)
		s.ring = append(s.ring, r)
		t.N, t.Epoch = 0, t.Epoch+1
	}
	if t.N == 0 {
		*t = abi.ConntrackCtSum{Epoch: t.Epoch, Src: [16]uint8{src, 0, 0, 1}, L3num: 2, Netns: 7, Kind: kindEvictor}
	}
	t.N, t.Evicted, t.Last = t.N+1, t.Evicted+uint64(evicted), s.now
}

// TestSumsProperty: whenever the reader looks at the places, and however far it
// has read the ring by then, each event is taken once and for its source.
func TestSumsProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w summer
		s := newSums(1, func(i int) *abi.ConntrackCtSum { return &w.places[i] })
		want, got := map[netip.Addr][2]uint64{}, map[netip.Addr][2]uint64{}
		note := func(x event.Sum, ok bool) {
			if ok {
				n := got[x.Src]
				got[x.Src] = [2]uint64{n[0] + x.N, n[1] + x.Evicted}
			}
			if ok && (x.Last < x.From || x.NetNS != 7 || x.Kind != 0) {
				t.Fatalf("%+v", x)
			}
		}
		read := func() {
			if len(w.ring) > 0 {
				note(s.gone(&w.ring[0]))
				w.ring = w.ring[1:]
			}
		}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			place := rapid.IntRange(0, len(w.places)-1).Draw(t, "place")
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0, 1:
				src, evicted := byte(rapid.IntRange(1, 3).Draw(t, "src")), uint32(rapid.IntRange(0, 2).Draw(t, "evicted"))
				w.add(place, src, evicted)
				a := netip.AddrFrom4([4]byte{src, 0, 0, 1})
				n := want[a]
				want[a] = [2]uint64{n[0] + 1, n[1] + uint64(evicted)}
			case 2:
				note(s.stays(place))
			case 3:
				read()
			}
		}
		for len(w.ring) > 0 {
			read()
		}
		for i := range w.places {
			note(s.stays(i))
		}
		if len(got) != len(want) {
			t.Fatalf("%d sources, want %d", len(got), len(want))
		}
		for a, n := range want {
			if got[a] != n {
				t.Errorf("%v: %v, want %v", a, got[a], n)
			}
		}
	})
}
