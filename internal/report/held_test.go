package report

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"testing"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/view"
)

// Who held a table is who is counted there when every entry is looked at by itself, by
// protocol, source, state and port; what has no name is summed, whatever had been there
// before.
func TestHeldTree(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 5))
		g := New(Options{})
		g.advance(1)
		tab, other := g.table(1), g.table(2)
		type at struct{ proto, src, state, port string }
		want := map[at]uint64{}
		n := uint64(0)
		for i := range 1 + r.IntN(3000) {
			o := event.Tuple{Proto: []uint8{event.ProtoTCP, event.ProtoUDP, event.ProtoICMP, 50, 132, 47}[min(r.IntN(8), r.IntN(6))], Src: netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(1 + r.IntN(250)))}),
				Dst: netip.MustParseAddr("10.9.0.1"), Sport: uint16(i), Dport: uint16(80 + min(r.IntN(9), r.IntN(9)))}
			e := event.Event{Time: 1, Kind: event.New, NetNS: 1, Ptr: uint64(1000 + i), Orig: o, Status: []event.Status{0, event.SeenReply, event.SeenReply | event.Assured}[r.IntN(3)]}
			in := tab
			if r.IntN(5) == 0 {
				e.NetNS, in = 2, other
			}
			g.enter(&e, in, 1)
			switch {
			case r.IntN(4) == 0:
				g.leave(&e)
			case in == tab:
				c := classOf(o.Proto, e.Status)
				k := at{event.ProtoName(o.Proto), view.AddrText(o.Src), stateName(c), "port " + strconv.Itoa(int(o.Dport))}
				if o.IsICMP() {
					k.port = "no port"
				}
				want[k]++
				n++
			}
		}
		got := g.look(tab, 1).tree
		if got.N != n {
			t.Fatalf("seed %d: %d entries, want %d", seed, got.N, n)
		}
		// check compares a node with what is below its path.
		var check func(h *Holder, depth int, in func(at) bool)
		check = func(h *Holder, depth int, in func(at) bool) {
			if depth == len(breadth) {
				return
			}
			name := func(k at) string { return [...]string{k.proto, k.src, k.state, k.port}[depth] }
			sums := map[string]uint64{}
			for k, n := range want {
				if in(k) {
					sums[name(k)] += n
				}
			}
			var largest []uint64
			for _, n := range sums {
				largest = append(largest, n)
			}
			slices.SortFunc(largest, func(a, b uint64) int { return cmp.Compare(b, a) })
			all := uint64(0)
			for i, p := range h.Parts {
				all += p.N
				if i == breadth[depth] && len(sums) > breadth[depth]+1 { // the others
					if want := strconv.Itoa(len(sums)-breadth[depth]) + " others"; p.Name != want {
						t.Errorf("seed %d: %q, want %q", seed, p.Name, want)
					}
					continue
				}
				if p.N != sums[p.Name] || p.N != largest[i] {
					t.Errorf("seed %d: depth %d, place %d: %s has %d, want %d, the place %d", seed, depth, i, p.Name, p.N, sums[p.Name], largest[i])
				}
				check(p, depth+1, func(k at) bool { return in(k) && name(k) == p.Name })
			}
			if all != h.N || len(h.Parts) > breadth[depth]+1 {
				t.Errorf("seed %d: depth %d: %d in %d parts, want %d", seed, depth, all, len(h.Parts), h.N)
			}
		}
		check(got, 0, func(at) bool { return true })
		if t.Failed() {
			return
		}
	}
}
