package pipeline

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/probe"
)

// nothing is a source that has told all it knows.
type nothing struct{ Source }

func (nothing) Counters() []probe.Counters { return nil }

// BenchmarkWatch is what a Watch does for a connection, insert and destroy, of
// 100,000 sources with 200,000 live: the census by source and namespace, and what
// the forecast learns. Beside BenchmarkReader of package probe it shows what the
// Watch adds.
func BenchmarkWatch(b *testing.B) {
	const live = 200_000
	p := &Pipeline{Source: nothing{}}
	w := p.NewWatch(event.Clock{}, agg.CensusConfig{Dims: []agg.Dim{agg.BySrc, agg.ByNetNS}, Seed: 7})
	rng := rand.New(rand.NewPCG(1, 2))
	open := make([]event.Event, live)
	n := 0
	step := func() {
		old := &open[n%live]
		if old.Ptr != 0 {
			e := *old
			e.Kind, e.Cause, e.Time = event.Destroy, event.TimeoutGC, w.start+event.Ktime(n)*1000+1
			w.add(&e, false)
		}
		src := rng.Uint32N(100_000)
		*old = event.Event{Kind: event.New, Time: w.start + event.Ktime(n)*1000 + 2, NetNS: 4026531840, Ptr: 0xffff888000000000 + uint64(n%(2*live))*0x9E3779B1%(1<<33)&^255,
			Orig: event.Tuple{Src: netip.AddrFrom4([4]byte{10, byte(src >> 16), byte(src >> 8), byte(src)}), Dst: netip.AddrFrom4([4]byte{11, 0, 0, byte(n % 16)}),
				Sport: uint16(n), Dport: 443, Proto: event.ProtoTCP}}
		w.add(old, false)
		n++
	}
	for range 3 * live {
		step()
	}
	for b.Loop() {
		step()
	}
}
