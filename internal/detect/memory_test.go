package detect

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// mostGrowth is how much the engine may grow under ten million spoofed sources.
const mostGrowth = 64 << 20

// TestMemory sends floods of ten million different sources, or one where the tables
// are full long before, through an engine that has watched a busy gateway for a
// while, at 150,000 a second, and counts what is on the heap on the way.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("ten million sources")
	}
	one := func(i uint32, _ *rand.Rand) event.Tuple { return tcp(spoofed(i), uint16(i), victim, 443) }
	for _, c := range []struct {
		name    string
		sources uint32
		refused bool
		make    func(i uint32, r *rand.Rand) event.Tuple
	}{
		{"one endpoint", 10_000_000, false, one},
		{"ports of a host", 1_000_000, true, func(i uint32, r *rand.Rand) event.Tuple {
			return tcp(spoofed(i), uint16(i), victim, uint16(r.Uint32()))
		}},
		{"ports of hosts", 1_000_000, true, func(i uint32, r *rand.Rand) event.Tuple {
			return tcp(spoofed(i), uint16(i), v4(10, 3, r.IntN(64), r.IntN(256)), uint16(r.Uint32()))
		}},
		{"UDP to hosts", 1_000_000, false, func(i uint32, r *rand.Rand) event.Tuple {
			return udp(spoofed(i), 53, v4(10, 3, r.IntN(64), r.IntN(256)), uint16(r.Uint32()))
		}},
		{"UDP, six", 1_000_000, false, func(i uint32, r *rand.Rand) event.Tuple {
			var b [16]byte
			binary.BigEndian.PutUint64(b[:], 0x2001_0db8_0000_0000|uint64(i)*0x9E3779B9&0xffffffff)
			binary.BigEndian.PutUint64(b[8:], r.Uint64())
			return udp(netip.AddrFrom16(b), uint16(i), netip.MustParseAddr("2001:db8:ffff::1"), 53)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			told, known := map[string]int{}, map[string]bool{}
			d := New(Config{Clock: event.Clock{Wall: time.Unix(1700000000, 0)}, Tell: func(f *agg.Finding) {
				if !known[f.ID] {
					known[f.ID] = true
					told[f.Class]++
				}
			}}, 0)
			g := gateway{d: d}
			r := rand.New(rand.NewPCG(1, 2))
			for i := range uint32(100_000) { // a busy gateway
				g.add(tcp(v4(10, 9, int(i>>8)&3, int(i)), uint16(i), v4(198, 18, int(i>>3)&15, int(i)), 443), event.Ktime(10*time.Microsecond), true, false)
			}
			before := heap()
			most := uint64(0)
			for i := range c.sources {
				g.add(c.make(i, r), event.Ktime(time.Second)/150_000, false, c.refused)
				if i%(c.sources/6) == c.sources/6-1 {
					most = max(most, heap())
				}
			}
			t.Logf("grew by %.1f MB; %v; %+v", (float64(most)-float64(before))/(1<<20), told, d.Overflow())
			if most > before+mostGrowth {
				t.Errorf("grew by %d bytes", most-before)
			}
			if n := told["syn_flood"] + told["udp_flood"] + told["amplification"]; n != 1 || len(told) != 1 {
				t.Errorf("told %v, want one flood", told)
			}
			runtime.KeepAlive(d)
		})
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// spoofed are addresses that are all different and in no order.
func spoofed(i uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], i*0x9E3779B9)
	return netip.AddrFrom4(b)
}

// gateway feeds an engine with connections of which nothing is kept but what is to
// be answered in the looks.
type gateway struct {
	d     *Engine
	now   event.Ktime
	n     uint64
	batch []event.Event
	looks []Look
}

// add makes a connection some time after the one before.
func (g *gateway) add(o event.Tuple, after event.Ktime, finishes, refused bool) {
	before := g.now
	g.now += after
	g.n++
	ptr := g.n << 1
	if finishes {
		ptr |= 1
	}
	g.batch = append(g.batch, event.Event{Kind: event.New, Time: g.now, NetNS: 1, Ptr: ptr, Orig: o})
	if refused {
		g.batch = append(g.batch, event.Event{Kind: event.Destroy, Time: g.now + 1, NetNS: 1, Ptr: ptr, Orig: o, Cause: event.TCPRstUnreplied, Lifetime: 1, HasLifetime: true})
	}
	if len(g.batch) >= batch {
		g.d.AddAll(g.batch)
		g.batch = g.batch[:0]
	}
	const step = event.Ktime(100 * time.Millisecond)
	if g.now/step == before/step {
		return
	}
	if g.looks == nil {
		g.looks = make([]Look, 0, 256)
	}
	for g.looks = g.d.Due(g.now, g.looks); len(g.looks) > 0; g.looks = g.d.Due(g.now, g.looks) {
		for i := range g.looks {
			s := Seen{Known: true, Live: true, Status: event.SeenReply, TCPState: event.TCPSynRecv}
			if g.looks[i].Orig.Proto != event.ProtoTCP {
				s.Status = 0
			}
			if g.looks[i].Ptr&1 != 0 {
				s.Status = event.SeenReply | event.Assured
			}
			g.d.Seen(&g.looks[i], g.now, s)
		}
	}
	if g.now/event.Ktime(time.Second) != before/event.Ktime(time.Second) {
		g.d.Tick(g.now, State{})
	}
}
