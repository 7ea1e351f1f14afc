package detect

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// TestSameFloods: the same events give the same findings, to the byte, and so they do
// whatever the hashes are.
func TestSameFloods(t *testing.T) {
	tell := func(seed uint64) (out string) {
		r := rand.New(rand.NewPCG(1, 2))
		var x traffic
		usual(r, &x, 2*begins, 443, finishes)
		x.flow(r, begins, 20*time.Second, 2000, func(i int) conn {
			return conn{orig: tcp(anywhere(r), uint16(r.Uint32()), victim, 443), ending: synAcked}
		})
		x.flow(r, begins+30*time.Second, 20*time.Second, 10, func(i int) conn {
			return conn{orig: tcp(v4(45, i%40, 7, 9), uint16(4000+i), v4(10, 2, 5, (i+i/40)%50), 23), ending: mute}
		})
		x.flow(r, begins+60*time.Second, 20*time.Second, 10, func(i int) conn {
			return conn{orig: udp(v4(46, i%40, 7, 9), 123, v4(10, 2, 6, 1), uint16(1024+r.IntN(60000))), ending: mute}
		})
		x.flow(r, begins+90*time.Second, 10*time.Second, 1000, func(i int) conn {
			return conn{orig: udp(anywhere(r), uint16(r.Uint32()), v4(10, 2, 7, r.IntN(200)), uint16(r.Uint32())), ending: mute}
		})
		_, told := x.run(t, 2*begins+3*time.Minute, Config{Seed: seed})
		for _, f := range told {
			out += fmt.Sprintf("%+v\n", f)
		}
		if n := len(raised(told)); n != 4 {
			t.Errorf("%d findings, want one of each of four", n)
		}
		return out
	}
	first := tell(1)
	for _, seed := range []uint64{1, 2, 3} {
		if again := tell(seed); again != first {
			t.Errorf("seed 1:\n%s\nseed %d:\n%s", first, seed, again)
		}
	}
}

// TestTogether: many events and looks at once are as one after the other, also where
// sources take the place of others all the time: what was found of one ahead of time is
// not taken for what is there by then.
func TestTogether(t *testing.T) {
	tell := func(together bool) (out string) {
		r := rand.New(rand.NewPCG(1, 2))
		x := traffic{together: together}
		for i := range 40 { // clients that come again and again: links
			x.flow(r, time.Duration(i)*ms, time.Minute, 1, func(n int) conn {
				return conn{orig: tcp(v4(10, 0, 3, i), uint16(2000+n), v4(10, 2, 0, 1+i%3), 443), ending: finishes}
			})
		}
		x.flow(r, 10*time.Second, 10*time.Second, 100, func(i int) conn { // a link within one call
			return conn{orig: tcp(v4(10, 0, 3, 200), uint16(2000+i), v4(10, 2, 0, 9), 443), ending: finishes}
		})
		x.flow(r, 0, time.Minute, 50, func(i int) conn {
			return conn{orig: tcp(v4(45, r.IntN(4), 7, r.IntN(40)), uint16(r.Uint32()), v4(10, 2, r.IntN(4), r.IntN(50)), uint16(20+r.IntN(9))), ending: []ending{mute, rejected, finishes}[r.IntN(3)]}
		})
		x.flow(r, 5*time.Second, 10*time.Second, 20, func(i int) conn {
			return conn{orig: tcp(v4(46, 0, 0, 7), uint16(4000+i), v4(10, 2, 9, i%200), 22), ending: rejected}
		})
		d, told := x.run(t, 2*time.Minute, Config{Seed: 3, MaxSubjects: 48})
		for _, f := range told {
			out += fmt.Sprintf("%+v\n", f)
		}
		over := d.Overflow()
		if over.Subjects < 1000 || len(told) < 3 {
			t.Errorf("%d sources made room, %d findings were told: too few to show anything", over.Subjects, len(told))
		}
		for i := range d.subjects.n {
			s := d.subjects.at(i)
			out += fmt.Sprintf("%s %d/%d of %d\n", s.prefix(), s.failed, s.answered, s.contacts)
		}
		d.links.table.all(func(x *link) { out += fmt.Sprintf("%v %d %d\n", &x.tuple, x.made, x.ended) })
		return out + fmt.Sprintf("%+v", over)
	}
	if one, all := tell(false), tell(true); one != all {
		t.Errorf("one by one:\n%s\ntogether:\n%s", one, all)
	}
}

// TestNetworkSparesItsSource: where the table is full, a prefix does not take the place
// of the source that it is made for.
func TestNetworkSparesItsSource(t *testing.T) {
	d := New(Config{MaxSubjects: 4}, 0)
	for i := range 100 {
		var p place
		o := tcp(v4(10, i, 0, 1), 1, v4(10, 2, 0, 1), 80)
		d.locateTuple(&p, 1, 0, &o)
		s := d.source(1, 0, o.Src, &p)
		n := d.network(s)
		if n == s || s.addr != o.Src || s.bits != 0 || n.bits != 24 {
			t.Fatalf("source %d: %s, its prefix %s", i, s.prefix(), n.prefix())
		}
		if again := d.network(s); again != n {
			t.Fatalf("source %d has two prefixes: %s and %s", i, n.prefix(), again.prefix())
		}
	}
}

// TestQueueShrinks: what a burst has needed is given back, and nothing is lost by it.
func TestQueueShrinks(t *testing.T) {
	q := queue{limit: 1 << 14}
	next := uint64(0)
	for i := range uint64(10_000) {
		if _, ok := q.push(&waiting{id: i}); !ok {
			t.Fatal("no room")
		}
	}
	for q.len() > 0 {
		if w := q.at(q.head); w.id != next {
			t.Fatalf("%d, want %d", w.id, next)
		}
		q.head++
		next++
		q.shrink()
	}
	if next != 10_000 || len(q.ring) != leastRing {
		t.Errorf("%d came out, the ring has %d places", next, len(q.ring))
	}
}
