package detect

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

var (
	victim  = v4(10, 2, 0, 2)
	begins  = 90 * time.Second // after warmUp
	clients = func(i int) netip.Addr { return v4(198, 51, i>>8, i) }
)

// usual is a service with 200 clients that come back, and five new ones a second.
func usual(r *rand.Rand, x *traffic, until time.Duration, port uint16, f ending) {
	x.flow(r, 0, until, 100, func(i int) conn {
		return conn{orig: tcp(clients(r.IntN(200)), uint16(1024+i%60000), victim, port), ending: f}
	})
	x.flow(r, 0, until, 5, func(i int) conn {
		return conn{orig: tcp(v4(203, 0, i>>8, i), 40000, victim, port), ending: f}
	})
}

func TestFloods(t *testing.T) {
	type want struct {
		class    string
		target   agg.Target
		spoofed  float64
		attempts int // of those raised at the end, 0 for not asked
	}
	cases := []struct {
		name string
		make func(r *rand.Rand, x *traffic)
		want []want
	}{
		{"spoofed SYNs, open port", func(r *rand.Rand, x *traffic) {
			x.flow(r, begins, 10*time.Second, 3000, func(i int) conn {
				return conn{orig: tcp(anywhere(r), uint16(r.Uint32()), victim, 80), ending: synAcked}
			})
		}, []want{{"syn_flood", agg.Target{Addr: victim, Proto: 6, Port: 80}, 1, 30000}}},
		{"spoofed SYNs, busy service", func(r *rand.Rand, x *traffic) {
			usual(r, x, begins+20*time.Second, 80, finishes)
			x.flow(r, begins, 10*time.Second, 3000, func(i int) conn {
				return conn{orig: tcp(anywhere(r), uint16(r.Uint32()), victim, 80), ending: synAcked}
			})
		}, []want{{"syn_flood", agg.Target{Addr: victim, Proto: 6, Port: 80}, 1, 0}}},
		{"spoofed SYNs, closed port", func(r *rand.Rand, x *traffic) {
			x.flow(r, begins, 10*time.Second, 3000, func(i int) conn {
				return conn{orig: tcp(anywhere(r), uint16(r.Uint32()), victim, 81), ending: rejected}
			})
		}, []want{{"syn_flood", agg.Target{Addr: victim, Proto: 6, Port: 81}, 1, 30000}}},
		{"spoofed SYNs, black hole", func(r *rand.Rand, x *traffic) {
			x.flow(r, begins, 10*time.Second, 3000, func(i int) conn {
				return conn{orig: tcp(anywhere(r), uint16(r.Uint32()), victim, 80), ending: mute}
			})
		}, []want{{"syn_flood", agg.Target{Addr: victim, Proto: 6, Port: 80}, 1, 30000}}},
		{"one source, open port", func(r *rand.Rand, x *traffic) {
			x.flow(r, begins, 10*time.Second, 2000, func(i int) conn {
				return conn{orig: tcp(v4(45, 1, 2, 3), uint16(i), victim, 80), ending: rstByClient}
			})
		}, []want{{"syn_flood", agg.Target{Addr: victim, Proto: 6, Port: 80}, 0, 20000}}},
		{"spoofed SYNs over ports", func(r *rand.Rand, x *traffic) {
			x.flow(r, begins, 10*time.Second, 3000, func(i int) conn {
				return conn{orig: tcp(anywhere(r), uint16(r.Uint32()), victim, uint16(1+r.UintN(65535))), ending: rejected}
			})
		}, []want{{"syn_flood", agg.Target{Addr: victim, Proto: 6}, 1, 0}}},
		{"spoofed SYNs over four ports", func(r *rand.Rand, x *traffic) {
			x.flow(r, begins, 10*time.Second, 3000, func(i int) conn {
				return conn{orig: tcp(anywhere(r), uint16(r.Uint32()), victim, []uint16{22, 80, 443, 8080}[i%4]), ending: synAcked}
			})
		}, []want{{"syn_flood", agg.Target{Addr: victim, Proto: 6}, 1, 0}}},
		{"spoofed SYNs over hosts", func(r *rand.Rand, x *traffic) {
			x.flow(r, begins, 10*time.Second, 3000, func(i int) conn {
				return conn{orig: tcp(anywhere(r), uint16(r.Uint32()), v4(10, 2, 5, r.IntN(256)), 80), ending: mute}
			})
		}, []want{{"syn_flood", agg.Target{Proto: 6, Port: 80}, 1, 0}}},
		{"spoofed from one network over ports", func(r *rand.Rand, x *traffic) {
			x.flow(r, begins, 10*time.Second, 3000, func(i int) conn {
				return conn{orig: tcp(v4(45, 7, r.IntN(256), r.IntN(256)), uint16(r.Uint32()), victim, uint16(1+r.UintN(65535))), ending: rejected}
			})
		}, []want{{"syn_flood", agg.Target{Addr: victim, Proto: 6}, 1, 0}}},
		{"bots", func(r *rand.Rand, x *traffic) {
			x.flow(r, begins, 10*time.Second, 5000, func(i int) conn {
				return conn{orig: tcp(v4(45, 7, r.IntN(4), r.IntN(256)), uint16(r.Uint32()), victim, 443), ending: mute}
			})
		}, []want{{"syn_flood", agg.Target{Addr: victim, Proto: 6, Port: 443}, 0, 50000}}},
		{"UDP, spoofed", func(r *rand.Rand, x *traffic) {
			x.flow(r, begins, 5*time.Second, 2900, func(i int) conn {
				return conn{orig: udp(anywhere(r), uint16(r.Uint32()), victim, 53), ending: mute}
			})
		}, []want{{"udp_flood", agg.Target{Addr: victim, Proto: 17, Port: 53}, 1, 14500}}},
		{"UDP, spoofed, at once", func(r *rand.Rand, x *traffic) {
			x.flow(r, 2300*ms, 5*time.Second, 2900, func(i int) conn {
				return conn{orig: udp(anywhere(r), uint16(r.Uint32()), victim, 53), ending: mute}
			})
		}, []want{{"udp_flood", agg.Target{Addr: victim, Proto: 17, Port: 53}, 1, 14500}}},
		{"flash crowd", func(r *rand.Rand, x *traffic) {
			x.flow(r, begins, 10*time.Second, 4000, func(i int) conn {
				return conn{orig: tcp(anywhere(r), uint16(r.Uint32()), victim, 443), ending: finishes, rtt: time.Duration(5+r.IntN(600)) * ms}
			})
		}, nil},
		{"busy name server", func(r *rand.Rand, x *traffic) {
			x.flow(r, 0, begins, 2000, func(i int) conn {
				return conn{orig: udp(v4(198, 51, r.IntN(100), r.IntN(256)), uint16(r.Uint32()), victim, 53), ending: finishes, rtt: time.Duration(1+r.IntN(300)) * ms}
			})
		}, nil},
		{"service goes down", func(r *rand.Rand, x *traffic) {
			usual(r, x, begins, 80, finishes)
			// new clients as before, everybody tries again three times a second
			x.flow(r, begins, 30*time.Second, 600, func(i int) conn {
				return conn{orig: tcp(clients(r.IntN(200)), uint16(1024+i%60000), victim, 80), ending: mute}
			})
			x.flow(r, begins, 30*time.Second, 100, func(i int) conn {
				return conn{orig: tcp(v4(203, 1, i/16>>8, i/16), 40000+uint16(i%16), victim, 80), ending: mute}
			})
		}, nil},
		{"scan of all ports by one", func(r *rand.Rand, x *traffic) {
			x.flow(r, begins, 650*ms, 100000, func(i int) conn {
				return conn{orig: tcp(v4(45, 1, 2, 3), uint16(30000+i%3), victim, uint16(i)), ending: rejected, rtt: ms}
			})
		}, []want{{class: "scan"}}},
		{"closed loop at a closed port", func(r *rand.Rand, x *traffic) {
			x.flow(r, begins, 10*time.Second, 2000, func(i int) conn {
				return conn{orig: tcp(v4(10, 1, 0, 2), uint16(i), victim, 5432), ending: rejected, rtt: ms}
			})
		}, nil},
		{"connections by one that are taken up", func(r *rand.Rand, x *traffic) {
			x.flow(r, begins, 10*time.Second, 5000, func(i int) conn {
				return conn{orig: tcp(v4(45, 1, 2, 3), uint16(i), victim, 80), ending: finishes}
			})
		}, nil},
		{"flow export from a thousand routers at the start", func(r *rand.Rand, x *traffic) {
			x.flow(r, 0, 30*time.Second, 300, func(i int) conn {
				return conn{orig: udp(v4(10, 9, i>>8, i), 2055, victim, 2055), ending: mute}
			})
		}, nil},
		{"just too slow", func(r *rand.Rand, x *traffic) {
			x.flow(r, begins, 10*time.Second, 90, func(i int) conn {
				return conn{orig: tcp(anywhere(r), uint16(r.Uint32()), victim, 80), ending: synAcked}
			})
		}, []want{{class: "distributed_scan"}}}, // of the only host there is
		{"just fast enough", func(r *rand.Rand, x *traffic) {
			x.flow(r, begins, 10*time.Second, 130, func(i int) conn {
				return conn{orig: tcp(anywhere(r), uint16(r.Uint32()), victim, 80), ending: synAcked}
			})
		}, []want{{"syn_flood", agg.Target{Addr: victim, Proto: 6, Port: 80}, 1, 0}}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var x traffic
			c.make(rand.New(rand.NewPCG(1, 2)), &x)
			_, told := x.run(t, begins+4*time.Minute, Config{})
			got := raised(told)
			if len(got) != len(c.want) {
				for _, f := range got[:min(len(got), 5)] {
					t.Logf("%s %s %v %s", f.Time, f.Class, f.Target, f.Why)
				}
				t.Fatalf("%d findings, want %d", len(got), len(c.want))
			}
			for i, w := range c.want {
				f := &got[i]
				if f.Class == w.class && w.target == (agg.Target{}) {
					continue
				}
				if f.Class != w.class || f.Target != w.target || numberOf(t, f, "spoofed") != w.spoofed {
					t.Errorf("got %s of %v, spoofed %v; want %+v", f.Class, f.Target, numberOf(t, f, "spoofed"), w)
				}
				if late := f.Time.Sub(f.First); late > 2*time.Second && c.name != "just fast enough" {
					t.Errorf("told %v after its evidence begins", late)
				}
				last := newest(told, f.ID)
				if last.State != agg.Cleared {
					t.Errorf("at the end it is %s", last.State)
				}
				x.holds(t, f)
				x.holds(t, &last)
				if w.attempts > 0 && int(last.Evidence.Attempts) < w.attempts*19/20 {
					t.Errorf("%d attempts, want most of %d", last.Evidence.Attempts, w.attempts)
				}
			}
		})
	}
}

// holds compares the counts of a finding with those of the connections.
func (x *traffic) holds(t *testing.T, f *agg.Finding) {
	t.Helper()
	clock := event.Clock{Wall: time.Unix(1700000000, 0).UTC()}
	var attempts, refused uint64
	sources, networks := map[netip.Addr]bool{}, map[netip.Prefix]bool{}
	for i := range x.conns {
		c := &x.conns[i]
		at := clock.At(event.Ktime(c.at))
		o := c.orig
		if at.Before(f.First) || at.After(f.Last) || o.Proto != f.Target.Proto || f.Target.Addr.IsValid() && o.Dst != f.Target.Addr || f.Target.Port != 0 && o.Dport != f.Target.Port {
			continue
		}
		attempts++
		sources[o.Src], networks[prefixOf(o.Src)] = true, true
		if end, cause, _ := c.ends(); cause == event.TCPRstUnreplied && end < f.Time.Sub(clock.Wall) {
			refused++
		}
	}
	e := &f.Evidence
	if f.State == agg.Cleared { // the last that were refused came after the last second that counted
		refused = min(refused, e.Refused)
	}
	if e.Attempts != attempts || e.Refused != refused {
		t.Errorf("%d attempts, %d refused; in the events %d, %d", e.Attempts, e.Refused, attempts, refused)
	}
	if !e.Estimated && (e.Sources != uint64(len(sources)) || numberOf(t, f, "source_networks") != float64(len(networks))) {
		t.Errorf("%d sources of %v networks, in the events %d, %d", e.Sources, numberOf(t, f, "source_networks"), len(sources), len(networks))
	}
	if off := float64(e.Sources) / float64(len(sources)); off < .93 || off > 1.07 {
		t.Errorf("%d sources, in the events %d", e.Sources, len(sources))
	}
}

func newest(told []agg.Finding, id string) (f agg.Finding) {
	for i := range told {
		if told[i].ID == id {
			f = told[i]
		}
	}
	return f
}
