package capture

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// anything is an event with something in every field that its kind may have, and more.
func anything(r *rand.Rand, at event.Ktime) event.Event {
	addr := func() netip.Addr {
		switch r.IntN(8) {
		case 0:
			return netip.Addr{}
		case 1:
			var b [16]byte
			for i := range b {
				b[i] = byte(r.Uint32())
			}
			return netip.AddrFrom16(b)
		case 2:
			return netip.MustParseAddr("::ffff:1.2.3.4")
		}
		return netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(4)), byte(r.Uint32())})
	}
	tuple := func() event.Tuple {
		return event.Tuple{Src: addr(), Dst: addr(), Sport: uint16(r.Uint32()), Dport: uint16(r.Uint32()), Proto: uint8(r.Uint32())}
	}
	few := func(n int) uint64 { return r.Uint64() >> (64 - r.IntN(n) - 1) * uint64(r.IntN(2)) }
	e := event.Event{Time: at, Kind: event.Kind(1 + r.IntN(5)), CPU: uint16(few(8)), NetNS: event.NetNS(r.Uint32()), Zone: uint16(few(16)), Mark: uint32(few(32)),
		Reason: event.Reason(few(8)), Cause: event.Cause(few(8)), Orig: tuple(), Status: event.Status(few(16)), TCPState: event.TCPState(few(4)),
		Lifetime: time.Duration(few(62)), HasLifetime: r.IntN(2) == 0, Timeout: time.Duration(few(62)) - time.Duration(few(40)),
		Task: event.Task{PID: uint32(few(32)), Cgroup: few(64)}, ByUser: r.IntN(9) == 0, ReplyOnly: r.IntN(9) == 0, IIf: uint32(few(10)), OIf: uint32(few(10)),
		Hook: event.Hook(few(3)), TCPFlags: event.TCPFlags(few(8)), HasTCPFlags: r.IntN(5) == 0, Ptr: few(64), KfreeReason: uint32(few(32)), Location: few(64),
		Sample: uint32(few(10)), BestEffort: r.IntN(3) == 0}
	switch r.IntN(3) {
	case 0:
		e.Reply = e.Orig.Inverse()
	case 1:
		e.Reply = tuple()
	}
	if r.IntN(4) == 0 {
		e.By, e.Task.Comm = tuple(), []string{"conntrack", "a\x00b", "\xff\xfe"}[r.IntN(3)]
	}
	return e
}

// wrote is what was put into a recording, and where each frame ended.
type wrote struct {
	file []byte
	all  []Item
	ends []int
}

// write makes a recording of everything there is.
func write(t testing.TB, r *rand.Rand, frames, each int) (w wrote) {
	t.Helper()
	var out bytes.Buffer
	c, err := NewWriter(&out, Header{Tool: "test", Kernel: "6.12", Wall: time.Unix(1700000000, 5).UTC(), Mono: 77, Start: 80, Seed: 9,
		Sysctls: map[string]map[string]string{"1": {"nf_conntrack_max": "7"}}})
	must(t, err)
	w.ends = append(w.ends, out.Len())
	at := event.Ktime(1e9)
	for i := range frames {
		var events []event.Event
		for range each {
			at += event.Ktime(r.IntN(1e6)) - 1e4
			events = append(events, anything(r, at))
		}
		kind, add := Events, c.Events
		if i%7 == 3 {
			kind, add = Entries, c.Entries
		}
		must(t, add(events))
		w.all = append(w.all, Item{Kind: kind, Events: events})
		switch i % 4 {
		case 1:
			x := event.Sum{NetNS: 4026531840, Zone: 3, Src: netip.MustParseAddr([]string{"10.0.0.7", "2001:db8::1"}[i/4%2]), Kind: event.New, N: r.Uint64(), Evicted: 3, From: at - 5, Last: at}
			must(t, c.Sum(&x))
			w.all = append(w.all, Item{Kind: Sums, Sums: []event.Sum{x}})
		case 2:
			must(t, c.JSON(Second, at, map[string]int{"entries": i}))
			w.all = append(w.all, Item{Kind: Second, At: at, JSON: fmt.Appendf(nil, `{"entries":%d}`, i)})
		case 3:
			must(t, c.Gap(at, Missing{Events: 5, Why: "no room"}))
			w.all = append(w.all, Item{Kind: Gap, At: at, JSON: []byte(`{"events":5,"why":"no room"}`), Lost: Missing{Events: 5, Why: "no room"}})
		}
		must(t, c.Flush())
		w.ends = append(w.ends, out.Len())
	}
	must(t, c.Close([]byte(`{"a":1}`)))
	w.file = out.Bytes()
	return w
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// read reads everything; items of events are put together.
func read(t testing.TB, r *Reader) (all []Item) {
	t.Helper()
	for {
		x, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		y := *x
		y.Events, y.Sums, y.JSON = slices.Clone(x.Events), slices.Clone(x.Sums), slices.Clone(x.JSON)
		all = append(all, y)
	}
}

// TestRoundTrip: what was written is read, every field of it, and in the same order.
func TestRoundTrip(t *testing.T) {
	w := write(t, rand.New(rand.NewPCG(1, 2)), 40, 300)
	r, err := NewReader(bytes.NewReader(w.file))
	must(t, err)
	got := read(t, r)
	if len(got) != len(w.all) {
		t.Fatalf("%d items, want %d", len(got), len(w.all))
	}
	for i := range got {
		if !reflect.DeepEqual(got[i], w.all[i]) {
			t.Fatalf("item %d:\n%+v\nwant\n%+v", i, got[i], w.all[i])
		}
	}
	h := r.Header
	if h.Tool != "test" || h.Mono != 77 || h.Start != 80 || h.Seed != 9 || h.Sysctls["1"]["nf_conntrack_max"] != "7" || !h.Wall.Equal(time.Unix(1700000000, 5)) {
		t.Errorf("header %+v", h)
	}
	if r.End == nil || r.End.Events == 0 || string(r.End.Ledger) != `{"a":1}` || r.End.Lost != 50 || r.Lost.Events != 50 || r.Lost.Bytes != 0 {
		t.Errorf("end %+v, lost %+v", r.End, r.Lost)
	}
}

// TestCut: a file that is cut anywhere gives every frame that is whole, and says what is
// not.
func TestCut(t *testing.T) {
	w := write(t, rand.New(rand.NewPCG(3, 4)), 9, 5)
	whole, err := NewReader(bytes.NewReader(w.file))
	must(t, err)
	want := read(t, whole)
	for n := range len(w.file) + 1 {
		r, err := NewReader(bytes.NewReader(w.file[:n]))
		if n < w.ends[0] {
			if err == nil {
				t.Fatalf("%d bytes: no error", n)
			}
			continue
		}
		must(t, err)
		frames := 0
		for frames+1 < len(w.ends) && w.ends[frames+1] <= n {
			frames++
		}
		got := read(t, r)
		gaps := len(got) > 0 && got[len(got)-1].Kind == Gap && got[len(got)-1].Lost.Why == "the file ends within a frame"
		if gaps {
			got = got[:len(got)-1]
		}
		if !reflect.DeepEqual(got, want[:len(got)]) && len(got) > 0 {
			t.Fatalf("%d bytes: something else was read", n)
		}
		if n := itemsIn(frames); len(got) != n {
			t.Fatalf("cut at %d: %d items of %d frames, want %d", n, len(got), frames, n)
		}
		at := n == len(w.file)
		for _, e := range w.ends {
			at = at || n == e
		}
		if at && gaps {
			t.Fatalf("%d bytes are whole frames, and one is said to be cut", n)
		}
		if closed := r.End != nil; closed && n <= w.ends[len(w.ends)-1] || !closed && n == len(w.file) {
			t.Fatalf("%d bytes of %d: end %v", n, len(w.file), r.End)
		}
	}
}

// itemsIn is how many items write puts into so many frames.
func itemsIn(frames int) (n int) {
	for i := range frames {
		if n++; i%4 != 0 {
			n++
		}
	}
	return n
}

// TestFlip: a bit that is another anywhere costs no more than the frame that it is in,
// and nothing that is read differs.
func TestFlip(t *testing.T) {
	w := write(t, rand.New(rand.NewPCG(5, 6)), 12, 20)
	whole, err := NewReader(bytes.NewReader(w.file))
	must(t, err)
	want := read(t, whole)
	rnd := rand.New(rand.NewPCG(7, 8))
	for range 3000 {
		bit := rnd.IntN(8 * len(w.file))
		file := slices.Clone(w.file)
		file[bit/8] ^= 1 << (bit % 8)
		r, err := NewReader(bytes.NewReader(file))
		if err != nil {
			if bit/8 >= w.ends[0] {
				t.Fatalf("bit %d, behind the header: %v", bit, err)
			}
			continue
		}
		rest, items := want, 0
		for _, x := range read(t, r) {
			if x.Kind == Gap && x.Lost.Why != "no room" {
				continue
			}
			items++
			i := slices.IndexFunc(rest, func(y Item) bool { return reflect.DeepEqual(x, y) })
			if i < 0 {
				t.Fatalf("bit %d: something was read that was not written: %+v", bit, x)
			}
			rest = rest[i+1:]
		}
		if len(want)-items > 2 {
			t.Fatalf("bit %d: %d items are missing", bit, len(want)-items)
		}
		if items < len(want) && r.Lost.Frames == 0 && r.Lost.Bytes == 0 {
			t.Fatalf("bit %d: items are missing and nothing says so", bit)
		}
	}
}

// TestGarbageBetween: what is no frame is passed over, whatever its size.
func TestGarbageBetween(t *testing.T) {
	w := write(t, rand.New(rand.NewPCG(9, 1)), 6, 50)
	rnd := rand.New(rand.NewPCG(2, 2))
	for _, n := range []int{1, 3, 47, 48, 49, 1 << 16, 1<<16 - 47, 5 << 20} {
		junk := make([]byte, n)
		for i := range junk {
			junk[i] = byte(rnd.Uint32())
			if i%101 == 0 && i+4 < n {
				copy(junk[i:], magicBytes[:])
			}
		}
		at := w.ends[3]
		file := slices.Concat(w.file[:at], junk, w.file[at:])
		r, err := NewReader(bytes.NewReader(file))
		must(t, err)
		lost, items := int64(0), 0
		for _, x := range read(t, r) {
			if x.Lost.Why == "this is no frame" {
				lost += x.Lost.Bytes
			} else {
				items++
			}
		}
		if lost != int64(n) || items != len(w.all) || r.End == nil {
			t.Errorf("%d bytes of junk: %d are said to be lost, %d items of %d, end %v", n, lost, items, len(w.all), r.End)
		}
	}
}

// TestSeek: the last snapshot that began by a time is found, with the index and without,
// and nothing is where there is none.
func TestSeek(t *testing.T) {
	const frames = 30
	var out bytes.Buffer
	c, err := NewWriter(&out, Header{})
	must(t, err)
	r, ends := rand.New(rand.NewPCG(11, 1)), 0
	began := func(i int) event.Ktime { return event.Ktime(i+1) * 1e9 }
	for i := range frames {
		if i%3 == 2 { // 2, 5, 8 ...
			must(t, c.JSON(Snapshot, began(i), i))
		}
		must(t, c.Events([]event.Event{anything(r, began(i)+5e8)}))
		must(t, c.Flush())
		ends = out.Len()
	}
	must(t, c.Close([]byte(`{}`)))
	for name, size := range map[string]int{"closed": out.Len(), "killed": ends} {
		for i := range frames + 5 {
			r, err := NewReader(bytes.NewReader(out.Bytes()[:size]))
			must(t, err)
			for range i % 4 { // from wherever it is
				_, err := r.Next()
				must(t, err)
			}
			went, err := r.SeekSnapshot(began(i))
			must(t, err)
			x, err := r.Next()
			must(t, err)
			last := (min(i, frames-1)+1)/3*3 - 1
			switch {
			case last < 0 && (!went || x.Kind != Events || x.Events[0].Time != began(0)+5e8):
				t.Errorf("%s: before there was a snapshot: went %t, and then %v", name, went, x.Kind)
			case last >= 0 && (!went || x.Kind != Snapshot || x.At != began(last)):
				t.Errorf("%s: at %d went %t, %v at %v, want that of %d", name, i, went, x.Kind, x.At, last)
			}
		}
	}
}

// TestRefused: what is no recording, or one of another format, gets a sentence.
func TestRefused(t *testing.T) {
	if _, err := NewReader(bytes.NewReader([]byte("1234567\tN\t"))); !errors.Is(err, ErrNotCapture) {
		t.Errorf("text: %v", err)
	}
	body := []byte(`{"major":2,"minor":0,"tool":"9.9"}`)
	newer := append([]byte(Magic), storedAs(body)...)
	if _, err := NewReader(bytes.NewReader(newer)); err == nil || !bytes.Contains([]byte(err.Error()), []byte(`format 2.0`)) {
		t.Errorf("a newer format: %v", err)
	}
}

// storedAs is a header frame that is not compressed.
func storedAs(body []byte) []byte {
	f := frame{kind: frameHeader, stored: uint32(len(body)), raw: uint32(len(body)), crc: crc(body)}
	return append(f.append(nil), body...)
}

// TestBomb: however much a frame claims or unpacks to, memory stays within bounds.
func TestBomb(t *testing.T) {
	var out bytes.Buffer
	c, err := NewWriter(&out, Header{})
	must(t, err)
	stored := c.enc.EncodeAll(make([]byte, 200<<20), nil)
	file := bytes.Clone(out.Bytes())
	for _, raw := range []uint32{100, maxRaw} {
		f := frame{kind: frameData, flags: flagZstd, seq: 1, stored: uint32(len(stored)), raw: raw, crc: crc(stored)}
		file = append(f.append(file), stored...)
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r, err := NewReader(bytes.NewReader(file))
	must(t, err)
	for _, x := range read(t, r) {
		if x.Kind != Gap {
			t.Errorf("a bomb was taken for %v", x.Kind)
		}
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 || r.Lost.Frames < 2 {
		t.Errorf("%d MB for a bomb; lost %+v", grown>>20, r.Lost)
	}
}

func FuzzReader(f *testing.F) {
	for seed := range uint64(3) {
		w := write(f, rand.New(rand.NewPCG(seed, 1)), int(seed)*2+1, 4)
		f.Add(w.file)
		f.Add(w.file[:len(w.file)*2/3])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := NewReader(bytes.NewReader(b))
		if err != nil {
			return
		}
		for range 10_000 {
			x, err := r.Next()
			if err != nil {
				return
			}
			if len(x.Events) > maxBatch {
				t.Fatal(len(x.Events))
			}
		}
	})
}

// FuzzBatch reads what is behind all checksums.
func FuzzBatch(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 9))
	f.Add(newBatchWriter().append(nil, gateway(300)))
	for _, n := range []int{1, 3, 60} {
		var events []event.Event
		for range n {
			events = append(events, anything(r, 5))
		}
		f.Add(newBatchWriter().append(nil, events))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var x batchReader
		events, err := x.read(b)
		if err != nil {
			return
		}
		var again batchReader
		back, err := again.read(newBatchWriter().append(nil, slices.Clone(events)))
		if err != nil || !reflect.DeepEqual(events, back) {
			t.Fatalf("%v: %+v was read and then %+v", err, events, back)
		}
	})
}

// TestInserts: a destroy that refers to its insert comes back whole, also where the
// address was used again, the tuple is another, or the lifetime is not that between them.
func TestInserts(t *testing.T) {
	events := gateway(30_000)
	r := rand.New(rand.NewPCG(4, 4))
	for i := range events {
		e := &events[i]
		if e.Kind != event.Destroy {
			continue
		}
		switch r.IntN(12) {
		case 0:
			e.Lifetime++
		case 1:
			e.HasLifetime = false
		case 2:
			e.Orig.Sport++
		case 3:
			e.Ptr = 0
		case 4:
			e.Zone = 4
		case 5:
			e.HasLifetime, e.Lifetime = false, 0
		}
	}
	var out bytes.Buffer
	c, err := NewWriter(&out, Header{})
	must(t, err)
	must(t, c.Events(events))
	must(t, c.Close(nil))
	rd, err := NewReader(&out)
	must(t, err)
	k, referred := 0, 0
	for _, x := range read(t, rd) {
		for i := range x.Events {
			if !reflect.DeepEqual(x.Events[i], events[k]) {
				t.Fatalf("event %d: %+v, want %+v", k, x.Events[i], events[k])
			}
			k++
		}
	}
	w := newBatchWriter()
	w.append(nil, events[:maxBatch])
	for _, n := range w.refs {
		if n > 0 {
			referred++
		}
	}
	if k != len(events) || referred < 100 {
		t.Errorf("%d events of %d, %d that refer to their insert", k, len(events), referred)
	}
}
