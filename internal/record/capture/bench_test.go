package capture

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/cputime"
)

// gateway is what a NAT gateway does: n events of connections that come some 10 us
// apart, live for a while, and go.
func gateway(n int) []event.Event {
	r := rand.New(rand.NewPCG(1, 2))
	out := make([]event.Event, 0, n)
	var live []event.Event
	now := event.Ktime(5e15)
	for len(out) < n {
		now += event.Ktime(r.ExpFloat64() * 10_000)
		if len(live) > 2000 && r.IntN(2) == 0 {
			i := r.IntN(len(live))
			e := live[i]
			live[i] = live[len(live)-1]
			live = live[:len(live)-1]
			e.Kind, e.Lifetime, e.HasLifetime, e.Cause, e.TCPState = event.Destroy, now.Sub(e.Time), true, event.TimeoutGC, event.TCPTimeWait
			e.Time, e.Status, e.CPU = now, e.Status|event.SeenReply|event.Assured, uint16(r.IntN(4))
			out = append(out, e)
			continue
		}
		e := event.Event{Time: now, Kind: event.New, CPU: uint16(r.IntN(4)), NetNS: 4026531840, Status: event.Confirmed | event.SrcNAT,
			Ptr: 0xffff888000000000 + uint64(r.IntN(1<<20))*256, IIf: 2, OIf: 3, Hook: 4}
		e.Orig = event.Tuple{Src: netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(8)), byte(r.ExpFloat64() * 20)}), Dst: netip.AddrFrom4([4]byte{93, byte(r.ExpFloat64() * 6), byte(r.ExpFloat64() * 9), 7}),
			Sport: uint16(32768 + r.IntN(28000)), Dport: []uint16{443, 443, 443, 80, 53}[r.IntN(5)], Proto: event.ProtoTCP}
		e.Reply = event.Tuple{Src: e.Orig.Dst, Dst: netip.AddrFrom4([4]byte{203, 0, 113, 5}), Sport: e.Orig.Dport, Dport: e.Orig.Sport, Proto: e.Orig.Proto}
		live, out = append(live, e), append(out, e)
	}
	return out
}

// BenchmarkWrite is what an event costs a Writer, and how many bytes it takes.
func BenchmarkWrite(b *testing.B) {
	events := gateway(1 << 17)
	b.ReportAllocs()
	size, begin := int64(0), cputime.Process()
	for b.Loop() {
		c, err := NewWriter(io.Discard, Header{})
		must(b, err)
		must(b, c.Events(events))
		must(b, c.Close(nil))
		size = c.Size()
	}
	b.ReportMetric(float64((cputime.Process()-begin).Nanoseconds())/float64(b.N)/float64(len(events)), "cpu-ns/event")
	b.ReportMetric(float64(size)/float64(len(events)), "bytes/event")
}

// record has a Recorder store events, as many at a time as a reader of rings hands over,
// and never more than it has room for.
func record(t testing.TB, d Disk, events []event.Event) {
	f, err := NewFile(d, Header{})
	must(t, err)
	r := NewRecorder(f)
	given := 0
	for part := range slices.Chunk(events, 256) {
		for given-int(r.Stats().Events) > (chunks-2)*chunkEvents {
			time.Sleep(100 * time.Microsecond)
		}
		r.Events(Events, part)
		given += len(part)
	}
	must(t, r.Close(nil))
	if s := r.Stats(); s.Events != uint64(len(events)) || s.Lost != 0 {
		t.Fatalf("%d given: %+v", len(events), s)
	}
}

// null is a disk that keeps nothing.
type null struct{}

func (null) Write(b []byte) (int, error)        { return len(b), nil }
func (null) Truncate(int64) error               { return nil }
func (null) Seek(n int64, _ int) (int64, error) { return n, nil }
func (null) Sync() error                        { return nil }
func (null) Close() error                       { return nil }

// BenchmarkRecord is what an event costs a Recorder and its Writer, both threads and the
// garbage collector; the issue allows .3 us.
func BenchmarkRecord(b *testing.B) {
	events := gateway(1 << 18)
	b.ReportAllocs()
	begin := cputime.Process()
	for b.Loop() {
		record(b, null{}, events)
	}
	b.ReportMetric(float64((cputime.Process()-begin).Nanoseconds())/float64(b.N)/float64(len(events)), "cpu-ns/event")
}

// BenchmarkRead is what an event costs to read; the issue asks for two million a second.
func BenchmarkRead(b *testing.B) {
	events := gateway(1 << 17)
	var out bytes.Buffer
	c, err := NewWriter(&out, Header{})
	must(b, err)
	must(b, c.Events(events))
	must(b, c.Close(nil))
	b.ReportAllocs()
	begin := cputime.Process()
	for b.Loop() {
		r, err := NewReader(bytes.NewReader(out.Bytes()))
		must(b, err)
		n := 0
		for {
			x, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			must(b, err)
			n += len(x.Events)
		}
		if n != len(events) {
			b.Fatal(n)
		}
	}
	b.ReportMetric(float64((cputime.Process()-begin).Nanoseconds())/float64(b.N)/float64(len(events)), "cpu-ns/event")
}
