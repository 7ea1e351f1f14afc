package probe

import (
	"cmp"
	"errors"
	"math"
	"slices"
	"testing"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/ctsight/ctsight/internal/abi"
	"github.com/ctsight/ctsight/internal/event"
)

// ringSlack is RING_SLACK of bpf/emit.h.
const ringSlack = 16

// writer does to a ring in ordinary memory what the programs do (bpf/emit.h).
type writer struct {
	*ring
	recs []abi.ConntrackCtRec
}

// reserve takes n slots and returns the first position; false when the ring is
// full, which is counted.
func (w *writer) reserve(n uint64) (uint64, bool) {
	c := w.state
	c.Seen++
	if c.Head-c.Tail > uint64(len(w.recs))-ringSlack {
		c.Lost++
		return 0, false
	}
	pos := c.Head
	c.Head += n
	return pos, true
}

// write fills slots without committing them.
func (w *writer) write(pos uint64, rec abi.ConntrackCtRec, ext *abi.ConntrackCtExt) {
	keep := func(p uint64) uint32 { return w.recs[p&w.mask].Seq } // what an earlier lap has left
	rec.Seq = keep(pos)
	if ext != nil {
		rec.Flags |= flagExt
		x := *ext
		x.Seq, x.Kind = keep(pos+1), kindExt
		w.recs[(pos+1)&w.mask] = *(*abi.ConntrackCtRec)(unsafe.Pointer(&x))
	}
	w.recs[pos&w.mask] = rec
}

func (w *writer) commit(pos uint64) { w.recs[pos&w.mask].Seq = uint32(pos + 1) }

// put writes a whole record, as a program does that nothing interrupts.
func (w *writer) put(rec abi.ConntrackCtRec, ext *abi.ConntrackCtExt) bool {
	n := uint64(1)
	if ext != nil {
		n = 2
	}
	pos, ok := w.reserve(n)
	if !ok {
		return false
	}
	w.write(pos, rec, ext)
	for i := range n {
		w.commit(pos + n - 1 - i)
	}
	return true
}

// madeRings returns a probe that reads n rings of a size from ordinary memory.
// All positions begin at first, as if the rings had been used that long.
func madeRings(n, slots int, first uint64) (*Probe, []*writer) {
	p := &Probe{jiffy: tick, rings: make([]ring, n)}
	ws := make([]*writer, n)
	for i := range p.rings {
		recs := make([]abi.ConntrackCtRec, slots)
		for s := range recs { // the lap before
			pos := first - uint64(slots) + uint64(s)
			recs[pos&uint64(slots-1)].Seq = uint32(pos + 1)
		}
		p.rings[i] = ring{
			slots: unsafe.Slice((*byte)(unsafe.Pointer(&recs[0])), slots*recSize),
			mask:  uint64(slots - 1),
			state: &abi.ConntrackCtCpu{Head: first, Tail: first},
			next:  first, read: first,
		}
		ws[i] = &writer{ring: &p.rings[i], recs: recs}
	}
	return p, ws
}

// at is a record of kind New at a time; id goes where a test finds it again.
func at(ts event.Ktime, id uint64) abi.ConntrackCtRec {
	return abi.ConntrackCtRec{Kind: uint8(event.New), Ts: uint64(ts), Ptr: id, Orig: wireTuple(tup(event.ProtoUDP, "10.0.0.1", uint16(id), "10.0.0.2", 53))}
}

// collect returns a drain and what it has delivered.
func collect(p *Probe) (*drain, *[]event.Event) {
	got := &[]event.Event{}
	return &drain{p: p, evictions: map[uint32][]event.Event{}, fn: func(e *event.Event) error {
		*got = append(*got, *e)
		return nil
	}}, got
}

func pass(t testing.TB, d *drain, horizon event.Ktime) int {
	t.Helper()
	n, err := d.pass(horizon)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func ids(events []event.Event) []uint64 {
	out := []uint64{}
	for _, e := range events {
		out = append(out, e.Ptr)
	}
	return out
}

func wantIDs(t testing.TB, got []event.Event, want ...uint64) {
	t.Helper()
	if !slices.Equal(ids(got), want) {
		t.Errorf("delivered %v, want %v", ids(got), want)
	}
}

func TestRingWrapsAround(t *testing.T) {
	for _, first := range []uint64{0, 1<<32 - 5, math.MaxUint64 - 5} { // seq, and the position itself, wrap too
		p, w := madeRings(1, 32, first)
		d, got := collect(p)
		var want []uint64
		for id := range uint64(200) {
			if !w[0].put(at(event.Ktime(id), id), nil) {
				t.Fatalf("from %d: no room for %d", first, id)
			}
			want = append(want, id)
			if id%7 == 0 {
				pass(t, d, 1000)
			}
		}
		pass(t, d, 1000)
		wantIDs(t, *got, want...)
		if s := w[0].state; s.Seen != 200 || s.Lost != 0 || s.Tail != s.Head || p.delivered.Load() != 200 {
			t.Errorf("from %d: %+v, delivered %d", first, s, p.delivered.Load())
		}
	}
}

func TestSecondHalfAcrossTheEnd(t *testing.T) {
	for shift := range uint64(4) {
		p, w := madeRings(1, 32, 29+shift) // records begin at 29 to 32, at and around the end
		d, got := collect(p)
		for id := range uint64(20) {
			x := &abi.ConntrackCtExt{Pid: uint32(id), Comm: comm16("task")}
			r := at(event.Ktime(id), id)
			r.Flags = flagTask
			if !w[0].put(r, x) {
				t.Fatalf("no room for %d", id)
			}
			pass(t, d, 1000)
		}
		for i, e := range *got {
			if want := (event.Task{PID: uint32(i), Comm: "task"}); e.Task != want || e.Ptr != uint64(i) {
				t.Errorf("event %d: %d, %+v", i, e.Ptr, e.Task)
			}
		}
		if len(*got) != 20 || w[0].state.Tail != w[0].state.Head {
			t.Errorf("%d delivered, tail %d, head %d", len(*got), w[0].state.Tail, w[0].state.Head)
		}
	}
}

func TestHoles(t *testing.T) {
	p, w := madeRings(2, 32, 0)
	d, got := collect(p)
	hole, _ := w[0].reserve(2) // a program that has been interrupted
	w[0].put(at(20, 2), nil)   // by one that is done
	w[1].put(at(30, 3), nil)
	pass(t, d, 100)
	wantIDs(t, *got, 3)
	if w[0].state.Tail != 0 {
		t.Error("the tail has passed a record that is not whole")
	}
	w[0].write(hole, at(10, 1), &abi.ConntrackCtExt{})
	pass(t, d, 100)
	wantIDs(t, *got, 3)
	w[0].commit(hole) // the first half alone does not do
	pass(t, d, 100)
	wantIDs(t, *got, 3)
	w[0].commit(hole + 1)
	pass(t, d, 100)
	wantIDs(t, *got, 3, 1, 2)
	if n := p.late.Load(); n != 2 {
		t.Errorf("%d late, want 2: both came after a younger one", n)
	}
}

func TestFullRing(t *testing.T) {
	p, w := madeRings(1, 64, 0)
	d, got := collect(p)
	for id := range uint64(1000) {
		w[0].put(at(event.Ktime(id), id), nil)
	}
	fits := uint64(64 - ringSlack + 1)
	s := w[0].state
	if s.Seen != 1000 || s.Lost != 1000-fits {
		t.Errorf("seen %d, lost %d, want 1000 and %d", s.Seen, s.Lost, 1000-fits)
	}
	pass(t, d, 5000)
	if n := uint64(len(*got)); n != fits || s.Seen != p.delivered.Load()+s.Lost {
		t.Errorf("delivered %d (%d) + lost %d of %d", n, p.delivered.Load(), s.Lost, s.Seen)
	}
	if !w[0].put(at(2000, 2000), nil) {
		t.Error("no room in a ring that has been read")
	}
	pass(t, d, 5000)
	if last := (*got)[len(*got)-1].Ptr; last != 2000 {
		t.Errorf("after recovery: %d", last)
	}
	// Nested programs may all see room for the last one: it is what the slack
	// is for, with second halves.
	for range 64 {
		w[0].put(at(3000, 1), &abi.ConntrackCtExt{})
	}
	if over := s.Head - s.Tail; over > 64 {
		t.Errorf("%d slots written that have not been read, of 64", over)
	}
}

func TestMergeInOrderOfTime(t *testing.T) {
	p, w := madeRings(4, 64, 0)
	d, got := collect(p)
	var want []uint64
	for ts := range 100 {
		w[ts*7%4].put(at(event.Ktime(ts), uint64(ts)), nil)
		want = append(want, uint64(ts))
	}
	if n := pass(t, d, 49); n != 50 {
		t.Errorf("%d records up to the horizon, want 50", n)
	}
	wantIDs(t, *got, want[:50]...)
	pass(t, d, 1000)
	wantIDs(t, *got, want...)
	if n := p.late.Load(); n != 0 {
		t.Errorf("%d late", n)
	}
}

func TestLateIsCounted(t *testing.T) {
	p, w := madeRings(2, 32, 0)
	d, got := collect(p)
	w[0].put(at(50, 1), nil)
	pass(t, d, 60)
	w[1].put(at(40, 2), nil) // its CPU was slower than the window
	w[1].put(at(50, 3), nil) // the same moment is not late
	w[1].put(at(70, 4), nil)
	pass(t, d, 100)
	wantIDs(t, *got, 1, 2, 3, 4)
	if n := p.late.Load(); n != 1 {
		t.Errorf("%d late, want 1", n)
	}
}

// An error of the consumer ends a pass; what it was given is not given again.
func TestConsumerError(t *testing.T) {
	p, w := madeRings(1, 32, 0)
	enough := errors.New("enough")
	var got []uint64
	d := &drain{p: p, evictions: map[uint32][]event.Event{}, fn: func(e *event.Event) error {
		got = append(got, e.Ptr)
		return enough
	}}
	for id := range uint64(3) {
		w[0].put(at(event.Ktime(id), id), nil)
	}
	for range 3 {
		if _, err := d.pass(100); !errors.Is(err, enough) {
			t.Fatalf("pass: %v", err)
		}
	}
	if _, err := d.pass(100); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, []uint64{0, 1, 2}) || p.delivered.Load() != 3 {
		t.Errorf("given %v, counted %d, want 0, 1, 2", got, p.delivered.Load())
	}
}

// evicted and evictor are the two records of an early drop.
func evicted(ts event.Ktime, id uint64, link uint32) abi.ConntrackCtRec {
	r := at(ts, id)
	r.Kind, r.Code, r.Aux = uint8(event.Destroy), uint8(event.EarlyDrop), [2]uint32{100, link}
	return r
}

func evictor(ts event.Ktime, link uint32, by event.Tuple) abi.ConntrackCtRec {
	return abi.ConntrackCtRec{Kind: kindEvictor, Ts: uint64(ts), Orig: wireTuple(by), Aux: [2]uint32{1, link}}
}

func TestEvictionsFindTheirCulprit(t *testing.T) {
	p, w := madeRings(2, 64, 0)
	d, got := collect(p)
	a, b := tup(event.ProtoTCP, "10.0.0.8", 1, "10.0.0.9", 80), tup(event.ProtoUDP, "2001:db8::1", 2, "2001:db8::2", 53)
	w[0].put(evicted(10, 1, 7), nil) // one packet, two victims
	w[0].put(evicted(11, 2, 7), nil)
	w[1].put(evicted(10, 3, 9), nil) // at the same time on the other CPU
	w[0].put(evictor(12, 7, a), nil)
	w[1].put(evictor(13, 9, b), nil)
	w[0].put(at(14, 4), nil)
	pass(t, d, 100)
	by := map[uint64]event.Tuple{}
	for _, e := range *got {
		by[e.Ptr] = e.By
	}
	if len(*got) != 4 || by[1] != a || by[2] != a || by[3] != b || by[4] != (event.Tuple{}) {
		t.Errorf("%d events, by %v", len(*got), by)
	}
	if p.delivered.Load() != 6 {
		t.Errorf("%d records counted, want 6", p.delivered.Load())
	}
	if len(d.evictions) != 0 {
		t.Errorf("%d still wait", len(d.evictions))
	}
}

func TestEvictionsWhoseCulpritIsLost(t *testing.T) {
	p, w := madeRings(1, 64, 0)
	d, got := collect(p)
	w[0].put(evicted(10, 1, 7), nil)
	w[0].put(evicted(20, 2, 9), nil)
	w[0].put(evicted(30, 3, 11), nil)
	pass(t, d, 100)
	wantIDs(t, *got)
	pass(t, d, 10+holdEvictions)
	wantIDs(t, *got, 1) // and not the others, who have waited less
	if err := d.flush(); err != nil {
		t.Fatal(err)
	}
	wantIDs(t, *got, 1, 2, 3) // in order of time
	for _, e := range *got {
		if e.By != (event.Tuple{}) {
			t.Errorf("%d evicted by %v, which nobody told", e.Ptr, e.By)
		}
	}
}

// While evictions never cease to wait (many CPUs, a flood), each waits for its
// own culprit, however long ago the first of them began.
func TestEvictionsThatOverlap(t *testing.T) {
	p, w := madeRings(2, 64, 0)
	d, got := collect(p)
	by := tup(event.ProtoTCP, "10.0.0.8", 1, "10.0.0.9", 80)
	const step = holdEvictions / 8
	now, n := event.Ktime(0), uint32(40)
	for link := uint32(1); link <= n; link++ {
		now += step
		if link > 1 { // the one before is answered after this one has begun
			w[1].put(evicted(now-2, uint64(link), link), nil)
			w[0].put(evictor(now, link-1, by), nil)
			w[0], w[1] = w[1], w[0]
		} else {
			w[0].put(evicted(now-2, 1, 1), nil)
		}
		pass(t, d, now)
	}
	for _, e := range *got {
		if e.By != by {
			t.Errorf("eviction %d has lost its culprit", e.Ptr)
		}
	}
	if len(*got) != int(n-1) {
		t.Errorf("%d delivered, want %d", len(*got), n-1)
	}
}

// An eviction is told when its culprit is known. What was told meanwhile is
// younger, and that is counted.
func TestEvictionsAreLateWhenOthersCameBetween(t *testing.T) {
	p, w := madeRings(2, 64, 0)
	d, got := collect(p)
	by := tup(event.ProtoTCP, "10.0.0.8", 1, "10.0.0.9", 80)
	w[0].put(evicted(10, 1, 7), nil)
	w[1].put(at(11, 2), nil)
	w[0].put(evictor(12, 7, by), nil)
	pass(t, d, 100)
	wantIDs(t, *got, 2, 1)
	if n := p.late.Load(); n != 1 {
		t.Errorf("%d late, want 1", n)
	}
}

// TestInterleavings: whatever the interleaving of interrupted programs on
// several CPUs and of a reader, every committed record is delivered once; each
// ring in its order; what is late is counted; and as long as programs commit
// within the window, nothing is late.
func TestInterleavings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			m.step(t)
		}
		m.finish(t)
	})
}

// model is a set of rings with unfinished programs, and what must come out.
type model struct {
	p      *Probe
	w      []*writer
	d      *drain
	got    *[]event.Event
	clock  event.Ktime
	window event.Ktime // 0: programs may take any time
	id     uint64
	open   [][]reserved // of each ring, the innermost last
	want   map[uint64]bool
	lost   uint64
}

type reserved struct {
	pos, n uint64
	rec    abi.ConntrackCtRec
	since  event.Ktime
}

func newModel(t *rapid.T) *model {
	n := rapid.IntRange(1, 4).Draw(t, "rings")
	p, w := madeRings(n, 32, rapid.SampledFrom([]uint64{0, 31, 1<<32 - 20}).Draw(t, "first"))
	m := &model{p: p, w: w, open: make([][]reserved, n), want: map[uint64]bool{}, clock: 1000}
	m.window = rapid.SampledFrom([]event.Ktime{0, 20}).Draw(t, "window")
	m.d, m.got = collect(p)
	return m
}

func (m *model) step(t *rapid.T) {
	m.clock += event.Ktime(rapid.IntRange(0, 5).Draw(t, "pause"))
	if m.window > 0 { // nobody takes longer than the window
		for cpu := range m.open {
			for len(m.open[cpu]) > 0 && m.open[cpu][0].since+m.window-5 <= m.clock {
				m.commit(cpu)
			}
		}
	}
	cpu := rapid.IntRange(0, len(m.w)-1).Draw(t, "cpu")
	switch rapid.IntRange(0, 3).Draw(t, "what") {
	case 0, 1:
		m.begin(t, cpu)
	case 2:
		if len(m.open[cpu]) > 0 {
			m.commit(cpu)
		}
	case 3:
		if _, err := m.d.pass(m.clock - m.window); err != nil {
			t.Fatal(err)
		}
	}
}

// begin reserves and writes a record; with a window its time is that of its
// reservation, so that a ring is in order.
func (m *model) begin(t *rapid.T, cpu int) {
	m.clock++
	n := uint64(rapid.IntRange(1, 2).Draw(t, "halves"))
	pos, ok := m.w[cpu].reserve(n)
	if !ok {
		m.lost++
		return
	}
	ts := m.clock
	if m.window == 0 {
		ts -= event.Ktime(rapid.IntRange(0, 30).Draw(t, "age"))
	}
	m.id++
	var x *abi.ConntrackCtExt
	if n == 2 {
		x = &abi.ConntrackCtExt{Other: m.id}
	}
	rec := at(ts, m.id)
	m.w[cpu].write(pos, rec, x)
	m.open[cpu] = append(m.open[cpu], reserved{pos: pos, n: n, rec: rec, since: m.clock})
	m.want[m.id] = true
}

// commit ends the innermost program of a CPU, or any of them: a task that was
// preempted commits when it runs again.
func (m *model) commit(cpu int) {
	o := m.open[cpu]
	i := len(o) - 1
	if m.window > 0 {
		i = 0 // the oldest: it must not take longer
	}
	r := o[i]
	m.open[cpu] = slices.Delete(o, i, i+1)
	for k := range r.n {
		m.w[cpu].commit(r.pos + r.n - 1 - k)
	}
}

func (m *model) finish(t *rapid.T) {
	for cpu := range m.open {
		for len(m.open[cpu]) > 0 {
			m.commit(cpu)
		}
	}
	if _, err := m.d.pass(math.MaxInt64 - 1); err != nil {
		t.Fatal(err)
	}
	last, late := event.Ktime(0), uint64(0)
	for _, e := range *m.got {
		if !m.want[e.Ptr] {
			t.Fatalf("record %d was not written, or delivered before", e.Ptr)
		}
		delete(m.want, e.Ptr)
		if e.Time < last {
			late++
		}
		last = max(last, e.Time)
	}
	if len(m.want) > 0 {
		t.Fatalf("%d records never delivered", len(m.want))
	}
	if n := m.p.late.Load(); n != late {
		t.Fatalf("%d late, counted %d", late, n)
	}
	if m.window > 0 && late > 0 {
		t.Fatalf("%d late although all were within the window", late)
	}
	if !slices.IsSortedFunc(*m.got, func(a, b event.Event) int { return cmp.Compare(a.Time, b.Time) }) && late == 0 {
		t.Fatal("not in order, and none counted as late")
	}
	var seen, lost uint64
	for _, w := range m.w {
		seen += w.state.Seen
		lost += w.state.Lost
	}
	if lost != m.lost || seen != m.p.delivered.Load()+lost {
		t.Fatalf("seen %d, delivered %d, lost %d (%d)", seen, m.p.delivered.Load(), lost, m.lost)
	}
}

func TestPause(t *testing.T) {
	var p pause
	if got := p.next(true); got != 1 {
		t.Errorf("after events %d ms", got)
	}
	slept := 0
	for slept < 20 {
		slept += p.next(false)
	}
	if got := p.next(false); got > 2 {
		t.Errorf("after 20 ms without events %d ms", got)
	}
	for range 1000 {
		p.next(false)
	}
	if got := p.next(false); got != 50 || p != longestPause {
		t.Errorf("when nothing comes %d ms", got)
	}
}
