package agg

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ctsight/ctsight/internal/event"
)

func v4(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

func flow(src, dst uint32, sport, dport uint16) event.Tuple {
	return event.Tuple{Src: v4(src), Dst: v4(dst), Sport: sport, Dport: dport, Proto: event.ProtoTCP}
}

// A world is a conntrack table, the events that it tells late, and the truth.
type world struct {
	live   map[event.Tuple]uint64 // to its address
	nextAt uint64
	free   []uint64
	now    event.Ktime
	queue  []event.Event // told, not yet read
}

func (w *world) insert(t event.Tuple) {
	if _, there := w.live[t]; there {
		return
	}
	var ptr uint64
	if n := len(w.free); n > 0 { // memory is used again at once
		ptr, w.free = w.free[n-1], w.free[:n-1]
	} else {
		w.nextAt++
		ptr = 1<<63 | w.nextAt<<8
	}
	w.live[t] = ptr
	w.now++
	w.queue = append(w.queue, event.Event{Kind: event.New, Time: w.now, NetNS: 1, Orig: t, Ptr: ptr})
}

func (w *world) destroy(t event.Tuple, c event.Cause) {
	ptr, there := w.live[t]
	if !there {
		return
	}
	delete(w.live, t)
	w.free = append(w.free, ptr)
	w.now++
	w.queue = append(w.queue, event.Event{Kind: event.Destroy, Cause: c, Time: w.now, NetNS: 1, Orig: t, Ptr: ptr})
}

// TestSeedProperty starts in the middle of traffic: entries are there before the
// first event, a dump walks over them in any order while they come and go, and
// events are read late. At the end the live entries of each source are the truth.
func TestSeedProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pointers := rapid.Bool().Draw(t, "pointers")
		all := make([]event.Tuple, 0, 40)
		for i := range uint32(40) {
			all = append(all, flow(i%4, 99, uint16(i), 80))
		}
		w := world{live: map[event.Tuple]uint64{}}
		step := func(label string) {
			x := all[rapid.IntRange(0, len(all)-1).Draw(t, label)]
			if rapid.Bool().Draw(t, "insert") {
				w.insert(x)
			} else {
				w.destroy(x, event.TimeoutGC)
			}
		}
		for range rapid.IntRange(0, 60).Draw(t, "before") {
			step("early")
		}
		w.queue = nil // nobody listened
		s := NewCensus(CensusConfig{Dims: []Dim{BySrc, ByNetNS}}, 1)
		read := func(n int) {
			for ; n > 0 && len(w.queue) > 0; n-- {
				e := w.queue[0]
				w.queue = w.queue[1:]
				if !pointers {
					e.Ptr = 0
				}
				s.Add(&e)
			}
		}
		for range rapid.IntRange(0, 10).Draw(t, "attached") {
			step("attached")
		}
		read(rapid.IntRange(0, 10).Draw(t, "read"))
		s.BeginSeed()
		// The dump visits every tuple's bucket once; what it finds is passed on late.
		var told []event.Tuple
		for _, i := range rapid.Permutation(indexes(len(all))).Draw(t, "order") {
			for range rapid.IntRange(0, 3).Draw(t, "meanwhile") {
				step("during")
			}
			read(rapid.IntRange(0, 3).Draw(t, "read"))
			if _, there := w.live[all[i]]; there {
				told = append(told, all[i])
				if rapid.IntRange(0, 9).Draw(t, "twice") == 0 {
					told = append(told, all[i])
				}
			}
			for n := rapid.IntRange(0, 2).Draw(t, "passed"); n > 0 && len(told) > 0; n-- {
				s.Seed(1, 0, &told[0])
				told = told[1:]
			}
		}
		for i := range told {
			s.Seed(1, 0, &told[i])
		}
		s.EndSeed(w.now, true)
		for range rapid.IntRange(0, 60).Draw(t, "after") {
			step("late")
		}
		read(math.MaxInt)

		want := map[netip.Addr]uint64{}
		for x := range w.live {
			want[x.Src]++
		}
		top := s.Top(BySrc, ColLive, 100, w.now, nil)
		for _, r := range top.Rows {
			if r.Live != want[r.Src] {
				t.Fatalf("%s: %d live, truth %d", r.Src, r.Live, want[r.Src])
			}
			delete(want, r.Src)
		}
		for a, n := range want {
			t.Fatalf("%s: not there, truth %d", a, n)
		}
		if s.Live() != len(w.live) || top.Total.Live != uint64(len(w.live)) || top.Other.Live != 0 {
			t.Fatalf("%d entries, total %d, other %d, truth %d", s.Live(), top.Total.Live, top.Other.Live, len(w.live))
		}
	})
}

func indexes(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// TestCensusCounts has every kind of event, and reads all dimensions.
func TestCensusCounts(t *testing.T) {
	s := NewCensus(CensusConfig{}, 1)
	a, b := flow(0x0a000001, 0x0a010001, 1000, 53), flow(0x0a000002, 0x0a010001, 1000, 53)
	ev := func(e event.Event, x event.Tuple) {
		e.Orig, e.NetNS = x, 7
		s.Add(&e)
	}
	ms := event.Ktime(time.Millisecond)
	ev(event.Event{Kind: event.New, Time: 10 * ms, Ptr: 0xf1}, a)
	ev(event.Event{Kind: event.New, Time: 11 * ms, Ptr: 0xf2}, b)
	ev(event.Event{Kind: event.Drop, Reason: event.TableFull, Time: 12 * ms, Sample: 4}, a)
	ev(event.Event{Kind: event.Drop, Reason: event.RulesetNew, Time: 12 * ms}, a) // the operator's own
	ev(event.Event{Kind: event.Note, Reason: event.ClashNATReplyOnly, ReplyOnly: true, Time: 13 * ms, Ptr: 0xf3}, b)
	gone := event.Event{Kind: event.Destroy, Cause: event.EarlyDrop, Time: 20 * ms, Ptr: 0xf1, By: b, Orig: a, NetNS: 7}
	s.Add(&gone)
	if gone.Lifetime != 10*time.Millisecond || !gone.HasLifetime {
		t.Errorf("lifetime %v", gone.Lifetime)
	}
	ev(event.Event{Kind: event.Destroy, Cause: event.TimeoutGC, Time: 21 * ms, Ptr: 0xee}, flow(0x0a000003, 1, 1, 1)) // from before

	want := map[string]Sums{
		"10.0.0.1": {New: 1, Destroyed: 1, Drops: 4, Evicted: 1},
		"10.0.0.2": {New: 1, Live: 2, Evictor: 1},
		"10.0.0.3": {Destroyed: 1},
	}
	var all Sums
	for _, r := range s.Top(BySrc, ColNew, 10, 0, nil).Rows {
		if r.Sums != want[r.Src.String()] {
			t.Errorf("%s: %+v, want %+v", r.Src, r.Sums, want[r.Src.String()])
		}
		all.Plus(&r.Sums)
	}
	for d := range NumDims {
		top := s.Top(d, ColNew, 1, 0, nil)
		sum := top.Other
		for _, r := range top.Rows {
			sum.Plus(&r.Sums)
		}
		if len(top.Rows) != 1 || sum != all || top.Total.Sums != all {
			t.Errorf("by %s: %+v, total %+v, want %+v", d, sum, top.Total.Sums, all)
		}
	}
	r := s.Top(BySrc, ColDrops, 1, 0, nil).Rows[0]
	if len(r.Why) != 2 || r.Why[0] != (WhyCount{Drop: true, Reason: event.TableFull, Count: 4}) || r.Why[1] != (WhyCount{Cause: event.EarlyDrop, Count: 1}) {
		t.Errorf("why: %+v", r.Why)
	}
	if d := s.Top(ByDst, ColNew, 1, 0, nil).Rows[0]; d.Dst != v4(0x0a010001) || d.Dport != 53 || d.Proto != event.ProtoTCP || d.DistinctDsts != 2 || d.Src.IsValid() {
		t.Errorf("endpoint: %+v", d)
	}
	if p := s.Top(ByPrefix, ColNew, 1, 0, nil).Rows[0]; p.Src != v4(0x0a000000) || p.Bits != 24 || p.New != 2 {
		t.Errorf("prefix: %+v", p)
	}
}

// TestOutcomes: each first contact has one outcome, by the look after 3 s or by
// its destroy, and an answer that comes late takes the silence back.
func TestOutcomes(t *testing.T) {
	s := NewCensus(CensusConfig{Dims: []Dim{BySrc}}, 1)
	sec := event.Ktime(time.Second)
	new := func(at event.Ktime, ptr uint64, dport uint16) {
		s.Add(&event.Event{Kind: event.New, Time: at, Ptr: ptr, NetNS: 1, Orig: flow(1, 2, uint16(ptr), dport)})
	}
	gone := func(at event.Ktime, ptr uint64, dport uint16, c event.Cause, st event.Status) {
		s.Add(&event.Event{Kind: event.Destroy, Cause: c, Status: st, Time: at, Ptr: ptr, NetNS: 1, Orig: flow(1, 2, uint16(ptr), dport)})
	}
	for i := range uint64(7) {
		new(sec, i+1, uint16(i+1))
	}
	new(sec, 100, 1) // not the first contact with port 1
	gone(2*sec, 1, 1, event.TCPRstUnreplied, 0)
	gone(2*sec, 2, 2, event.TimeoutGC, event.SeenReply|event.Assured)
	gone(2*sec, 3, 3, event.EarlyDrop, 0) // our doing: nobody knows
	due := s.Due(4*sec, make([]Contact, 0, 10))
	if len(due) != 4 || due[0].Orig.Dport != 4 {
		t.Fatalf("due: %+v", due)
	}
	s.Judge(&due[0], true)
	s.Judge(&due[1], false)
	s.Judge(&due[2], false)
	gone(5*sec, 7, 7, event.TimeoutGC, 0)
	s.Judge(&due[3], false) // has ended meanwhile
	gone(6*sec, 5, 5, event.TimeoutGC, event.SeenReply)
	gone(6*sec, 6, 6, event.TimeoutGC, 0)
	gone(6*sec, 100, 1, event.TCPRstUnreplied, 0)
	r := s.Top(BySrc, ColNew, 1, 7*sec, nil).Rows[0]
	if r.Answered != 3 || r.Refused != 1 || r.Unanswered != 2 {
		t.Errorf("answered %d, refused %d, unanswered %d", r.Answered, r.Refused, r.Unanswered)
	}
	if more := s.Due(99*sec, due); len(more) != 0 {
		t.Errorf("judged twice: %+v", more)
	}
}

// TestFoldKeepsSums: ten times more sources than rows, in random order, with
// destroys of entries whose row has gone; a heavy one among them stays.
func TestFoldKeepsSums(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	const limit = 2000
	s := NewCensus(CensusConfig{MaxRows: limit}, 1)
	var want Sums
	live := map[uint64]event.Tuple{}
	heavy := uint64(0)
	for i := range uint64(10 * limit) {
		x := flow(uint32(i), rnd.Uint32(), uint16(i), uint16(rnd.Uint32()))
		if i%50 == 0 {
			x.Src, x.Dst, x.Dport = v4(0xffffffff), v4(1), 80
			heavy++
		}
		now := event.Ktime(i) * event.Ktime(time.Millisecond)
		s.Add(&event.Event{Kind: event.New, Time: now + 1, Ptr: 1<<63 | i, NetNS: 1, Orig: x})
		live[1<<63|i] = x
		want.New++
		want.Live++
		if i%3 == 0 {
			s.Add(&event.Event{Kind: event.Drop, Reason: event.TableFull, Time: now + 2, NetNS: 1, Orig: x})
			want.Drops++
		}
		if i%2 == 0 && i > 100 {
			ptr := 1<<63 | i - 1 - 2*rnd.Uint64N(50)
			if y, ok := live[ptr]; ok {
				delete(live, ptr)
				s.Add(&event.Event{Kind: event.Destroy, Cause: event.EarlyDrop, Time: now + 3, Ptr: ptr, NetNS: 1, Orig: y, By: x})
				want.Destroyed, want.Evicted, want.Evictor, want.Live = want.Destroyed+1, want.Evicted+1, want.Evictor+1, want.Live-1
			}
		}
	}
	for d := range NumDims {
		top := s.Top(d, ColNew, 5, 0, nil)
		sum := top.Other
		for _, r := range top.Rows {
			sum.Plus(&r.Sums)
		}
		if sum.Answered, sum.Refused, sum.Unanswered = 0, 0, 0; sum != want {
			t.Errorf("by %s: %+v, want %+v", d, sum, want)
		}
		if top.Tracked > limit || d != ByNetNS && d != ByPrefix && top.Folded < limit {
			t.Errorf("by %s: %d rows, %d folded", d, top.Tracked, top.Folded)
		}
		if d == BySrc && (top.Rows[0].Src != v4(0xffffffff) || top.Rows[0].New != heavy) {
			t.Errorf("the heavy source: %+v, want %d", top.Rows[0].Sums, heavy)
		}
	}
}

// TestRowsProperty compares the open-addressing table with a map.
func TestRowsProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 40).Draw(t, "limit")
		r := newRows(BySrc, limit, 5, &blocks{})
		r.index = make([]uint64, 4) // wraps and collides
		want := map[rowKey]uint64{}
		var sum, kept uint64
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			x := flow(uint32(rapid.IntRange(0, 80).Draw(t, "src")), 1, 1, 1)
			k := BySrc.keyFor(1, 0, &x)
			h := k.hash(r.seed)
			got := r.get(&k, h)
			if got.key != k || got.new != 0 && got.new != want[k] {
				t.Fatalf("row of %v: %v with %d, want %d", k.public(), got.key.public(), got.new, want[k])
			}
			if got.new == 0 {
				want[k] = 0
			}
			got.new++
			want[k]++
			sum++
			if f := r.find(&k, h); f != got {
				t.Fatal("find differs from get")
			}
		}
		for i := range r.n {
			kept += r.at(i).new
			if k := r.at(i).key; r.find(&k, k.hash(r.seed)) != r.at(i) {
				t.Fatal("a row is lost")
			}
		}
		if kept+r.other.New != sum || r.n > limit {
			t.Fatalf("%d in %d rows and %d, want %d", kept, r.n, r.other.New, sum)
		}
	})
}

// TestPeak: 200 connections within 50 ms are a rate of 4000/s, whatever the mean
// over a second says; and the highest of any 10 ms is not missed by the grid.
func TestPeak(t *testing.T) {
	for offset := range 20 {
		var r row
		at := event.Ktime(5*time.Second) + event.Ktime(offset)*event.Ktime(time.Millisecond)/2
		for i := range 200 {
			r.arrive(at+event.Ktime(i)*event.Ktime(50*time.Millisecond)/200, 1)
		}
		got := r.ratesAt(at+event.Ktime(time.Second), 1)
		if got.Peak10ms < 4000*5/6 || got.Peak10ms > 4100 {
			t.Errorf("offset %d: peak %.0f/s, truth 4000", offset, got.Peak10ms)
		}
		if got.S1 > 210 {
			t.Errorf("offset %d: %.0f/s over a second", offset, got.S1)
		}
	}
}

// TestRates compares the windows with the true number in each, within a slot.
func TestRates(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	var r row
	var times []event.Ktime
	now := event.Ktime(100 * time.Second)
	began := now
	for range 5000 {
		now += event.Ktime(rnd.ExpFloat64() * float64(20*time.Millisecond))
		r.arrive(now, 1)
		times = append(times, now)
		got := r.ratesAt(now, began)
		for _, w := range []struct {
			name string
			got  float64
			d    time.Duration
			step event.Ktime
		}{{"1 s", got.S1, time.Second, step1}, {"10 s", got.S10, 10 * time.Second, step10}, {"1 min", got.M1, time.Minute, step60}} {
			from := max(began, now-event.Ktime(w.d))
			most, least := 0, 0
			for i := len(times) - 1; i >= 0 && times[i] >= from-w.step; i-- {
				most++
				if times[i] >= from+w.step {
					least++
				}
			}
			n := w.got * now.Sub(from).Seconds()
			if n > float64(most)+1e-6 || n < float64(least)-1e-6 {
				t.Fatalf("%s at %v: %.2f, between %d and %d", w.name, now.Sub(began), n, least, most)
			}
		}
	}
}

func TestDistinct(t *testing.T) {
	p := &blocks{limit: 10}
	var d distinct
	seen := map[uint32]bool{}
	rnd := rand.New(rand.NewPCG(5, 6))
	for len(seen) < 200_000 {
		h := rnd.Uint32()
		seen[h] = true
		d.add(h, p)
		d.add(h, p)
		n := len(seen)
		if n <= 64 {
			if got := d.count(p); got != uint64(n) {
				t.Fatalf("%d for %d", got, n)
			}
		} else if n&(n-1) == 0 {
			if got := float64(d.count(p)); math.Abs(got/float64(n)-1) > 0.2 { // 3 sigma
				t.Errorf("%.0f for %d", got, n)
			}
		}
	}
	p.release(&d)
	if d.count(p) != 0 || len(p.free) != 1 {
		t.Errorf("after release: %d", d.count(p))
	}
	none := &blocks{}
	for i := range uint32(100) {
		d.add(i*7919, none)
	}
	if d.count(none) != smallSet || none.refused != 100-smallSet {
		t.Errorf("without room: %d, refused %d", d.count(none), none.refused)
	}
}

// TestCensusMemory holds the bounds of the design page: 64 bytes for a live
// entry, about 300 for a source, and no more than the cap for ten million.
func TestCensusMemory(t *testing.T) {
	n := uint32(500_000)
	if testing.Short() {
		n = 50_000
	}
	s := NewCensus(CensusConfig{Dims: []Dim{BySrc}, MaxRows: int(n)}, 1)
	for i := range n {
		s.Add(&event.Event{Kind: event.New, Time: event.Ktime(i) + 1, Ptr: slab(uint64(i)), NetNS: 1, Orig: flow(i, 1, 1, 1)})
	}
	live, source := float64(s.live.Bytes())/float64(n), float64(s.dims[BySrc].bytes())/float64(n)
	t.Logf("%d: %.1f bytes for a live entry, %.1f for a source (row %d), %d in all", n, live, source, rowBytes, s.Bytes())
	if live > 64 || source > 345 {
		t.Errorf("%.1f bytes for a live entry, %.1f for a source", live, source)
	}
	capped := s.Bytes()
	for i := n; i < 4*n; i++ {
		s.Add(&event.Event{Kind: event.New, Time: event.Ktime(i) + 1, Ptr: slab(uint64(i)), NetNS: 1, Orig: flow(i, 1, 1, 1)})
		s.Add(&event.Event{Kind: event.Destroy, Cause: event.TimeoutGC, Time: event.Ktime(i) + 2, Ptr: slab(uint64(i - n)), NetNS: 1, Orig: flow(i-n, 1, 1, 1)})
	}
	if full := CensusBytes(int(NumDims)); full < 1<<28 || full > 1<<30 {
		t.Errorf("a full census takes %d bytes", full)
	}
	top := s.Top(BySrc, ColNew, 1, 0, nil)
	if sum := top.Other.New + top.Rows[0].New; sum != uint64(4*n) || top.Other.Live+top.Rows[0].Live != uint64(n) {
		t.Errorf("%d new and %d live", sum, top.Other.Live+top.Rows[0].Live)
	}
	if s.Bytes() > capped+capped/10+32<<20 {
		t.Errorf("%d bytes grew to %d", capped, s.Bytes())
	}
}

// BenchmarkCensus is one connection, insert and destroy, of as many sources, in
// a table in balance. The gate is 4 million events a second.
func BenchmarkCensus(b *testing.B) {
	for _, dims := range [][]Dim{{BySrc}, {BySrc, ByDst, ByEdge, ByPrefix, ByNetNS}} {
		for _, sources := range []uint32{1000, 100_000, 1_000_000} {
			b.Run(fmt.Sprintf("dims=%d/sources=%d", len(dims), sources), func(b *testing.B) {
				s := NewCensus(CensusConfig{Dims: dims, MaxRows: int(sources) * 2}, 1)
				const live = 200_000
				x := make([]event.Tuple, 1<<20)
				for i := range x {
					x[i] = flow(0x0a000000+rand.Uint32N(sources), 0x0b000000+uint32(i%16), uint16(i), 443)
				}
				var batch []event.Event
				add := func(e *event.Event) {
					if batch = append(batch, *e); len(batch) == Batch {
						s.AddAll(batch)
						batch = batch[:0]
					}
				}
				step := func(i uint64) {
					add(&event.Event{Kind: event.New, Time: event.Ktime(i)*1000 + 1, Ptr: slab(i % (2 * live)), NetNS: 4026531840, Orig: x[i%uint64(len(x))]})
					if i >= live {
						i -= live
						add(&event.Event{Kind: event.Destroy, Time: event.Ktime(i)*1000 + 2, Ptr: slab(i % (2 * live)), NetNS: 4026531840,
							Orig: x[i%uint64(len(x))], Cause: event.TimeoutGC})
					}
				}
				i := uint64(0)
				for ; i < 2*live; i++ {
					step(i)
				}
				b.ReportAllocs()
				for b.Loop() {
					step(i)
					i++
				}
				b.ReportMetric(2*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mevents/s")
			})
		}
	}
}

// Where entries have no address, an insert over one that is known says that the destroy
// of that was lost: there is one live entry, not two.
func TestLostDestroy(t *testing.T) {
	s := NewCensus(CensusConfig{}, 1)
	for i := range event.Ktime(3) {
		s.Add(&event.Event{Kind: event.New, Time: i + 1, NetNS: 1, Orig: flow(1, 2, 3, 80)})
	}
	top := s.Top(BySrc, ColNew, 1, 4, nil)
	if s.Live() != 1 || top.Rows[0].Live != 1 || top.Rows[0].New != 3 {
		t.Errorf("%d live, %+v", s.Live(), top.Rows[0])
	}
}

// After Forget and a dump that is whole nothing is left of what was not told, with or
// without addresses; of what was, the lifetime is. One that is not whole takes nothing.
func TestForgetLost(t *testing.T) {
	const n, live = 100_000, 30_000
	for _, tc := range []struct {
		name    string
		address bool
	}{{"addresses", true}, {"none", false}} {
		t.Run(tc.name, func(t *testing.T) {
			s := NewCensus(CensusConfig{Dims: []Dim{ByNetNS}}, 1)
			at := func(k event.Kind, i uint32, t event.Ktime) *event.Event {
				e := &event.Event{Kind: k, Time: t, NetNS: 1, Orig: flow(i, 1, 1, 80)}
				if tc.address {
					e.Ptr = slab(uint64(i))
				}
				return e
			}
			for i := range uint32(n) {
				s.Add(at(event.New, i, event.Ktime(i)+1))
			}
			s.Forget(live)
			s.BeginSeed()
			s.EndSeed(n+1, false)
			s.BeginSeed()
			for i := range uint32(live) {
				s.Seed(1, 0, &at(event.New, i, 0).Orig)
			}
			s.EndSeed(n+1, true)
			kept := s.live.Bytes()
			if s.old != nil {
				kept += s.old.Bytes()
			}
			if s.Live() != live || kept > live*2*64 {
				t.Errorf("%d live, %d bytes", s.Live(), kept)
			}
			for i := range uint32(live) {
				e := at(event.Destroy, i, 2*n)
				if s.Add(e); !e.HasLifetime || e.Lifetime != time.Duration(2*n-i-1) {
					t.Fatalf("%d: %v %v", i, e.HasLifetime, e.Lifetime)
				}
			}
			if s.Live() != 0 || s.old != nil && s.old.Len() > 0 {
				t.Errorf("%d live at the end", s.Live())
			}
		})
	}
}

// Where nearly all that is known must be gone nothing of it is kept while the tables are
// read; what they hold counts all the same.
func TestForgetNearlyAll(t *testing.T) {
	s := NewCensus(CensusConfig{Dims: []Dim{ByNetNS}}, 1)
	const n, live = 4*minSlots + 1, 10
	for i := range uint32(n) {
		s.Add(&event.Event{Kind: event.New, Time: event.Ktime(i) + 1, NetNS: 1, Orig: flow(i, 1, 1, 80)})
	}
	before := s.Bytes()
	s.Forget(live)
	if grown := s.Bytes() - before; grown > 0 {
		t.Errorf("takes %d bytes more", grown)
	}
	s.BeginSeed()
	for i := range uint32(live) {
		o := flow(i, 1, 1, 80)
		s.Seed(1, 0, &o)
	}
	s.EndSeed(n+1, true)
	e := event.Event{Kind: event.Destroy, Time: 2 * n, NetNS: 1, Orig: flow(1, 1, 1, 80)}
	if s.Add(&e); s.Live() != live-1 || e.HasLifetime {
		t.Errorf("%d live, %+v", s.Live(), e)
	}
}
