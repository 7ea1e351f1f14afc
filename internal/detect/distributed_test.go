package detect

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

func TestDistributedScan(t *testing.T) {
	bot := func(i int) netip.Addr { return v4(45, i, 7, 9) }
	host := func(i int) netip.Addr { return v4(10, 2, 5, i) }
	// sweep: sources that each try some hosts once, one contact each tenth of a second
	sweep := func(sources, hosts, n int, f ending) func(r *rand.Rand, x *traffic) {
		return func(r *rand.Rand, x *traffic) {
			x.flow(r, begins, time.Duration(n)*100*ms, 10, func(i int) conn {
				return conn{orig: tcp(bot(i%sources), uint16(4000+i), host((i+i/sources)%hosts), 23), ending: f}
			})
		}
	}
	cases := []struct {
		name string
		make func(r *rand.Rand, x *traffic)
		want int
		by   time.Duration // from begins on, at the latest
	}{
		{"silent", sweep(40, 50, 200, mute), 1, 7 * time.Second},
		{"refused", sweep(40, 50, 200, rejected), 1, 5 * time.Second},
		{"half open", sweep(40, 50, 200, rstByClient), 1, 7 * time.Second},
		{"as many sources as it takes", sweep(30, 50, 200, mute), 1, 10 * time.Second},
		{"one source too few", sweep(29, 50, 200, mute), 0, 0},
		{"one endpoint too few, and others", func(r *rand.Rand, x *traffic) {
			sweep(40, 29, 200, mute)(r, x)
			x.flow(r, 0, begins, 10, func(i int) conn { // what is tried anyway, on many hosts and ports
				return conn{orig: tcp(bot(i%200), uint16(i), v4(10, 2, i%250, 1), uint16(i)), ending: mute}
			})
		}, 0, 0},
		{"one host is all there is", sweep(40, 1, 200, mute), 1, 8 * time.Second},
		{"answered", sweep(40, 50, 200, finishes), 0, 0},
		{"answered late", func(r *rand.Rand, x *traffic) {
			sweep(40, 50, 200, finishes)(r, x)
			for i := range x.conns {
				x.conns[i].rtt = 3500 * ms
			}
		}, 0, 0},
		{"sources that are known", func(r *rand.Rand, x *traffic) {
			sweep(40, 50, 200, mute)(r, x)
			for i := range 40 {
				x.conns = append(x.conns, conn{at: time.Second, orig: tcp(bot(i), 999, victim, 443), ending: finishes, rtt: ms})
			}
		}, 0, 0},
		{"a service that was good", func(r *rand.Rand, x *traffic) {
			sweep(40, 50, 200, mute)(r, x)
			for i := range 50 {
				x.conns = append(x.conns, conn{at: time.Second, orig: tcp(victim, uint16(999+i), host(i), 23), ending: finishes, rtt: ms})
			}
		}, 0, 0},
		{"slower than the window", func(r *rand.Rand, x *traffic) {
			x.flow(r, begins, 200*time.Second, .4, func(i int) conn {
				return conn{orig: tcp(bot(i), 4000, host(i), 23), ending: mute}
			})
		}, 0, 0},
		{"as always", func(r *rand.Rand, x *traffic) { // one when it starts, none after
			x.flow(r, 0, begins+time.Minute, 1, func(i int) conn {
				return conn{orig: tcp(anywhere(r), 4000, host(r.IntN(256)), 23), ending: mute}
			})
		}, 1, 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var x traffic
			c.make(rand.New(rand.NewPCG(1, 2)), &x)
			_, told := x.run(t, begins+10*time.Minute, Config{})
			var got []agg.Finding
			for _, f := range raised(told) {
				if f.Class == "distributed_scan" {
					got = append(got, f)
				}
			}
			if len(got) != c.want {
				t.Fatalf("%d findings, want %d", len(got), c.want)
			}
			for i := range got {
				f := &got[i]
				t.Logf("%v: %s", f.Time.Sub(time.Unix(1700000000, 0).Add(begins)), f.Why)
				if f.Target != (agg.Target{Proto: event.ProtoTCP, Port: 23}) {
					t.Errorf("target %v", f.Target)
				}
				if late := f.Time.Sub(time.Unix(1700000000, 0).Add(begins)); c.by > 0 && late > c.by {
					t.Errorf("told after %v, want %v", late, c.by)
				}
				last := newest(told, f.ID)
				t.Log(last.Why)
				if last.State != agg.Cleared {
					t.Errorf("at the end it is %s", last.State)
				}
				if c.by > 0 {
					x.tried(t, &last)
				}
			}
		})
	}
}

// tried compares the counts of a finding with those of the connections: all failed.
func (x *traffic) tried(t *testing.T, f *agg.Finding) {
	t.Helper()
	n := uint64(0)
	sources, hosts := map[netip.Addr]bool{}, map[netip.Addr]bool{}
	first := map[[2]netip.Addr]bool{}
	for i := range x.conns {
		o := &x.conns[i].orig
		if k := [2]netip.Addr{o.Src, o.Dst}; !first[k] {
			first[k] = true
			n++
			sources[o.Src], hosts[o.Dst] = true, true
		}
	}
	e := &f.Evidence
	if e.Contacts != n || e.Refused+e.Unanswered+e.HalfOpen != n || e.Sources != uint64(len(sources)) || e.Dsts != uint64(len(hosts)) {
		t.Errorf("%d contacts (%d, %d, %d) of %d sources with %d hosts; in the events %d, %d, %d",
			e.Contacts, e.Refused, e.Unanswered, e.HalfOpen, e.Sources, e.Dsts, n, len(sources), len(hosts))
	}
}
