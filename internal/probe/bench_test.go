package probe

import (
	"fmt"
	"math"
	"testing"

	"github.com/ctsight/ctsight/internal/abi"
	"github.com/ctsight/ctsight/internal/event"
)

// BenchmarkDrain reads full rings: one operation is one record. task records
// have a second half, which names a process.
func BenchmarkDrain(b *testing.B) {
	const slots = 8192
	for _, bc := range []struct {
		name  string
		rings int
		task  bool
	}{
		{"rings=1", 1, false}, {"rings=1/task", 1, true}, {"rings=2", 2, false}, {"rings=8", 8, false}, {"rings=64", 64, false},
	} {
		b.Run(bc.name, func(b *testing.B) {
			p, ws := madeRings(bc.rings, slots, 0)
			n := fillRings(ws, bc.task)
			seen := 0
			d := &drain{p: p, evictions: map[uint32][]event.Event{}, fn: func(*event.Event) error { seen++; return nil }}
			b.ReportAllocs()
			b.SetBytes(int64(recSize))
			done := 0
			for ; done < b.N; done += n {
				for i := range p.rings { // what is in the rings is new again
					p.rings[i].next, p.rings[i].read = 0, 0
				}
				d.last = 0
				if _, err := d.pass(math.MaxInt64 - 1); err != nil {
					b.Fatal(err)
				}
			}
			if seen != done {
				b.Fatalf("%d of %d records delivered", seen, done)
			}
			b.ReportMetric(float64(done)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(done), "ns/op")
		})
	}
}

// fillRings writes to all rings in turn until they are full and returns how
// many records that were.
func fillRings(ws []*writer, task bool) (n int) {
	var x *abi.ConntrackCtExt
	if task {
		x = &abi.ConntrackCtExt{Pid: 4711, Comm: comm16("curl")}
	}
	for {
		for _, w := range ws {
			r := at(event.Ktime(n), uint64(n)&0xffff)
			if task {
				r.Flags = flagTask
			}
			if !w.put(r, x) {
				return n
			}
			n++
		}
	}
}

// BenchmarkDecode decodes records of several kinds, without a ring.
func BenchmarkDecode(b *testing.B) {
	tcp := at(1, 1)
	tcp.Orig.Proto = event.ProtoTCP
	tcp.Reply = wireTuple(tup(event.ProtoTCP, "10.0.0.2", 53, "10.0.0.1", 1))
	destroy := tcp
	destroy.Kind, destroy.Code = uint8(event.Destroy), uint8(event.Timeout)
	v6 := tcp
	v6.Orig = wireTuple(tup(event.ProtoTCP, "2001:db8::1", 1, "2001:db8::2", 443))
	v6.Reply = wireTuple(tup(event.ProtoTCP, "2001:db8::2", 443, "2001:db8::1", 1))
	x := &abi.ConntrackCtExt{Pid: 4711, Comm: comm16("curl")}
	named := tcp
	named.Flags = flagExt | flagTask
	for _, bc := range []struct {
		name string
		rec  abi.ConntrackCtRec
		ext  *abi.ConntrackCtExt
	}{
		{"new", tcp, nil}, {"destroy", destroy, nil}, {"ipv6", v6, nil}, {"task", named, x},
	} {
		b.Run(bc.name, func(b *testing.B) {
			var e event.Event
			b.ReportAllocs()
			for b.Loop() {
				decode(&e, &bc.rec, bc.ext, 0, tick)
			}
			if e.Kind == 0 {
				b.Fatal(fmt.Sprint("nothing decoded: ", e))
			}
		})
	}
}
