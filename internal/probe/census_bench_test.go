package probe

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/abi"
	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/cputime"
)

// BenchmarkReader is all that one core does for a connection, insert and
// destroy: it takes the records from the ring, decodes them, and counts them in
// a census with 200,000 live entries, as Watch does. The gate is 4 million events
// a second, 500 ns for a connection, with the dimension of sources and 100,000 of
// them. The time is that of the thread's CPU, since other work of the machine is
// none of ours; writing the records is not in it.
func BenchmarkReader(b *testing.B) {
	one, all := []agg.Dim{agg.BySrc}, []agg.Dim{agg.BySrc, agg.ByDst, agg.ByEdge, agg.ByPrefix, agg.ByNetNS}
	for _, dims := range [][]agg.Dim{one, all} {
		for _, sources := range []uint64{100_000, 1_000_000} {
			zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.1, 1, sources-1)
			uniform := rand.New(rand.NewPCG(3, 4))
			b.Run(fmt.Sprintf("dims=%d/sources=%d/uniform", len(dims), sources), func(b *testing.B) {
				benchReader(b, dims, func() uint64 { return uniform.Uint64N(sources) })
			})
			b.Run(fmt.Sprintf("dims=%d/sources=%d/zipf", len(dims), sources), func(b *testing.B) {
				benchReader(b, dims, zipf.Uint64)
			})
		}
	}
}

func benchReader(b *testing.B, dims []agg.Dim, source func() uint64) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const slots = 8192 // of a ring, 1 MiB
	p, ws := madeRings(1, slots, 0)
	c := agg.NewCensus(agg.CensusConfig{Dims: dims, Seed: 7}, 1)
	d := &drain{p: p, evictions: map[uint32][]event.Event{}, out: make([]event.Event, 0, agg.Batch), many: func(e []event.Event) error {
		c.AddAll(e)
		return nil
	}}
	t := newTraffic(source)
	read := func() (took time.Duration) {
		for t.write(ws[0]) {
		}
		began := cputime.Thread()
		if _, err := d.pass(math.MaxInt64 - 1); err != nil {
			b.Fatal(err)
		}
		return cputime.Thread() - began
	}
	for t.i < 4*liveEntries { // until all tables are as large as they get
		read()
	}
	var took time.Duration
	first := t.i
	for b.Loop() { // a ring full; what is reported is of one connection
		took += read()
	}
	n := float64(t.i - first)
	b.ReportMetric(float64(took.Nanoseconds())/n, "ns/op")
	b.ReportMetric(2*n/took.Seconds()/1e6, "Mevents/s")
}

const liveEntries = 200_000

// traffic is a million connections a second, each of which lives for as long as
// it takes until another 200,000 have come.
type traffic struct {
	source func() uint64
	open   []abi.ConntrackCtRec // of each live connection, a ring
	i      uint64               // connections so far
	new    abi.ConntrackCtRec   // to be written
}

func newTraffic(source func() uint64) *traffic {
	t := &traffic{source: source, open: make([]abi.ConntrackCtRec, liveEntries)}
	t.next()
	return t
}

// next makes the record of a connection at an address that a slab cache gives:
// entries of 256 bytes, 32 in a block, blocks anywhere.
func (t *traffic) next() {
	r := &t.new
	*r = abi.ConntrackCtRec{Kind: uint8(event.New), Ts: t.i*1000 + 2, Netns: 4026531840}
	at := t.i % (2 * liveEntries)
	r.Ptr = 0xffff888000000000 + at/32*0x9E3779B1%(1<<23)<<13 + at%32*256
	r.Orig = abi.ConntrackCtTuple{L3num: unix.AF_INET, Proto: event.ProtoTCP}
	binary.BigEndian.PutUint32(r.Orig.Src[:], 0x0a000000+uint32(t.source()))
	binary.BigEndian.PutUint32(r.Orig.Dst[:], 0x0b000000+uint32(t.i%16))
	binary.BigEndian.PutUint16(r.Orig.Sport[:], uint16(t.i))
	binary.BigEndian.PutUint16(r.Orig.Dport[:], 443)
}

// write puts the next connection and the end of the oldest into a ring, and says
// whether there was room for both.
func (t *traffic) write(w *writer) bool {
	if w.state.Head-w.state.Tail+2 > uint64(len(w.recs))-ringSlack {
		return false
	}
	old := &t.open[t.i%liveEntries]
	if t.i >= liveEntries {
		old.Kind, old.Code, old.Ts = uint8(event.Destroy), uint8(event.TimeoutGC), t.new.Ts-1
		w.put(*old, nil)
	}
	w.put(t.new, nil)
	*old = t.new
	t.i++
	t.next()
	return true
}
