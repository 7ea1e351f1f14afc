package agg

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/ctsight/ctsight/internal/event"
)

// natted is an event of an entry that 203.0.113.1 stands for, with its n-th port.
func natted(kind event.Kind, orig event.Tuple, ptr uint64, n uint16) event.Event {
	reply := orig.Inverse()
	reply.Dst, reply.Dport = v4(0xcb007101), n
	return event.Event{Kind: kind, NetNS: 1, Orig: orig, Reply: reply, Status: event.SrcNAT | event.SrcNATDone, Ptr: ptr}
}

// TestPoolsProperty begins in the middle of traffic, as TestSeedProperty does, of
// which a part is translated: at the end the ports in use of each pool are the
// truth. Where more pools come than there is room for, they are at most that.
func TestPoolsProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.SampledFrom([]int{3, 100}).Draw(t, "limit")
		all := make([]event.Tuple, 0, 40)
		for i := range uint32(40) {
			all = append(all, flow(7, i%8, uint16(2000+i), 80))
		}
		translated := func(x *event.Tuple) bool { return x.Sport%5 > 0 }
		told := func(e event.Event) event.Event {
			if !translated(&e.Orig) {
				e.Reply = e.Orig.Inverse()
				return e
			}
			n := natted(e.Kind, e.Orig, e.Ptr, e.Orig.Sport)
			n.Time, n.Cause = e.Time, e.Cause
			return n
		}
		w := world{live: map[event.Tuple]uint64{}}
		step := func() {
			x := all[rapid.IntRange(0, len(all)-1).Draw(t, "which")]
			if rapid.Bool().Draw(t, "insert") {
				w.insert(x)
			} else {
				w.destroy(x, event.TimeoutGC)
			}
		}
		for range rapid.IntRange(0, 60).Draw(t, "before") {
			step()
		}
		w.queue = nil
		s := NewCensus(CensusConfig{Dims: []Dim{ByNetNS}, MaxPools: limit}, 1)
		read := func(n int) {
			for ; n > 0 && len(w.queue) > 0; n-- {
				e := told(w.queue[0])
				w.queue = w.queue[1:]
				s.Add(&e)
			}
		}
		for range rapid.IntRange(0, 10).Draw(t, "attached") {
			step()
		}
		read(rapid.IntRange(0, 10).Draw(t, "read"))
		s.BeginSeed()
		for _, i := range rapid.Permutation(indexes(len(all))).Draw(t, "order") {
			for range rapid.IntRange(0, 3).Draw(t, "meanwhile") {
				step()
			}
			read(rapid.IntRange(0, 3).Draw(t, "read"))
			_, there := w.live[all[i]]
			for n := rapid.IntRange(1, 2).Draw(t, "told"); there && n > 0; n-- {
				if e := told(event.Event{Kind: event.New, NetNS: 1, Orig: all[i]}); s.Seed(1, 0, &e.Orig) {
					s.SeedPool(&e)
				}
			}
		}
		s.EndSeed(w.now, true)
		for range rapid.IntRange(0, 60).Draw(t, "after") {
			step()
		}
		read(math.MaxInt)

		want, sum := map[Key]uint64{}, uint64(0)
		for x := range w.live {
			if translated(&x) {
				want[Key{NetNS: 1, Src: v4(0xcb007101), Dst: x.Dst, Dport: 80, Proto: event.ProtoTCP}]++
				sum++
			}
		}
		got, about := s.Pools(100, nil)
		if len(got) > limit || about.Known != len(got) {
			t.Fatalf("%d pools of %d, %+v", len(got), limit, about)
		}
		for _, p := range got {
			if p.InUse > want[p.Key] || about.Folded == 0 && p.InUse != want[p.Key] {
				t.Fatalf("%v: %d in use, truth %d, %+v", p.Key, p.InUse, want[p.Key], about)
			}
			sum -= p.InUse
			delete(want, p.Key)
		}
		if limit == 100 && sum > 0 || sum > about.Lost {
			t.Fatalf("%d entries are in no pool, %+v", sum, about)
		}
	})
}

// TestPoolCapacity fills ranges as the kernel does: it tries some ports at a few
// random places and gives up. What is learned is the range, as far as it was used.
func TestPoolCapacity(t *testing.T) {
	for _, ports := range []int{2, 100, 1000, 30_000, 64_512} {
		t.Run(fmt.Sprint(ports), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(uint64(ports), 1))
			s := NewCensus(CensusConfig{Dims: []Dim{ByNetNS}}, 1)
			used := make([]bool, ports)
			find := func() int {
				for tries := min(128, ports); tries >= 8; tries /= 2 {
					for i, at := 0, rnd.IntN(ports); i < tries; i++ {
						if !used[(at+i)%ports] {
							return (at + i) % ports
						}
					}
					if tries == ports {
						break
					}
				}
				return -1
			}
			inUse, drops, most := 0, 0, 0
			for i := range ports + max(ports/2, 100) {
				orig := flow(uint32(i), 99, 40_000, 443)
				e := natted(event.New, orig, 1<<63|uint64(i), 0)
				at := find()
				if ports == 2 && inUse < 2 { // too small for the loop above
					at = inUse
				}
				if at < 0 {
					e.Kind, e.Reason, e.Status, e.Ptr = event.Drop, event.NATExhausted, 0, 0
					drops++
				} else {
					used[at] = true
					inUse++
				}
				e.Time = event.Ktime(i + 1)
				s.Add(&e)
				p, _ := s.Pools(1, nil)
				most = max(most, int(p[0].Capacity))
			}
			p, _ := s.Pools(1, nil)
			want := Pool{Key: p[0].Key, InUse: uint64(inUse), Capacity: uint64(inUse), Learned: true, New: uint64(inUse), Drops: uint64(drops)}
			if ports == 64_512 {
				want.Capacity, want.Learned = 64_512, false
			}
			if p[0] != want || inUse < ports*99/100 || drops == 0 || most != 64_512 {
				t.Errorf("%+v\nwant %+v of %d ports; at most %d", p[0], want, ports, most)
			}
		})
	}
}

func TestPoolLearning(t *testing.T) {
	s := NewCensus(CensusConfig{Dims: []Dim{ByNetNS}}, 1)
	n := uint32(0)
	add := func(kind event.Kind, sport uint16) Pool {
		n++
		e := natted(kind, flow(n, 99, sport, 443), 1<<63|uint64(n), 5000)
		e.Time = event.Ktime(n)
		if kind == event.Drop {
			e.Reason = event.NATExhausted
		}
		s.Add(&e)
		p, _ := s.Pools(1, nil)
		return p[0]
	}
	for range 100 {
		add(event.New, 40_000)
	}
	for range 20 {
		if p := add(event.Drop, 700); p.Learned {
			t.Fatalf("a client with a low port teaches %+v", p)
		}
	}
	for range 20 { // one in four finds a port
		for range 3 {
			add(event.Drop, 40_000)
		}
		if p := add(event.New, 40_000); p.Learned {
			t.Fatalf("learned while ports are found: %+v", p)
		}
	}
	for range 4 {
		add(event.Drop, 40_000)
	}
	p := add(event.New, 40_000)
	if !p.Learned || p.Capacity != 121 || p.InUse != 121 || p.Fill() != 1 {
		t.Errorf("%+v", p)
	}
	for range 20 {
		p = add(event.New, 40_000)
	}
	if p.Learned || p.Capacity != 64_512 {
		t.Errorf("the range has grown, and it says %+v", p)
	}
	icmp := natted(event.New, event.Tuple{Src: v4(1), Dst: v4(2), Sport: 7, Dport: 8 << 8, Proto: event.ProtoICMP}, 1<<62, 0)
	gre := natted(event.New, event.Tuple{Src: v4(1), Dst: v4(2), Proto: event.ProtoGRE}, 1<<62|1, 0)
	plain := natted(event.New, flow(1, 2, 3, 4), 1<<62|2, 0)
	plain.Status = event.DstNAT
	for _, e := range []event.Event{icmp, gre, plain} {
		e.Time = event.Ktime(n + 1)
		s.Add(&e)
	}
	all, _ := s.Pools(10, nil)
	if len(all) != 2 || all[1].Capacity != 65_536 || all[1].Dst != v4(2) || all[1].Dport != 0 {
		t.Errorf("pools %+v", all)
	}
}

// TestPoolScan scans through a gateway that has one busy destination: the many
// pools of one entry make room for each other and leave that one alone.
func TestPoolScan(t *testing.T) {
	s := NewCensus(CensusConfig{Dims: []Dim{ByNetNS}, MaxPools: 64}, 1)
	for i := range uint32(10_000) {
		to := flow(i, 1000+i, 40_000, 22)
		if i%10 == 0 {
			to = flow(i, 99, 40_000, 443)
		}
		e := natted(event.New, to, 1<<63|uint64(i), uint16(i))
		e.Time = event.Ktime(i + 1)
		s.Add(&e)
	}
	p, about := s.Pools(1, nil)
	if p[0].Dport != 443 || p[0].InUse < 990 || about.Known != 64 || about.Folded < 8000 || about.Lost < about.Folded {
		t.Errorf("%+v, %+v", p[0], about)
	}
}

// BenchmarkPools is the insert and the destroy of one entry, of 1,000 pools.
func BenchmarkPools(b *testing.B) {
	for _, status := range []event.Status{0, event.SrcNAT} {
		b.Run(fmt.Sprint(status.Names()), func(b *testing.B) {
			events := make([]event.Event, 1000)
			for i := range events {
				events[i] = natted(event.New, flow(uint32(i), uint32(i), 40_000, 443), 1<<63|uint64(i), 1)
				events[i].Status = status
			}
			s := pools{limit: DefaultPools}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				e := &events[i%len(events)]
				if e.Time = 1; pooled(e) {
					s.enter(e, 1, false)
				}
				if pooled(e) {
					s.leave(e, 1, 1)
				}
			}
		})
	}
}
