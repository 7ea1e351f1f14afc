package detect

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

func TestAmplification(t *testing.T) {
	reflector := func(i int) netip.Addr { return v4(45, i>>8, i, 53) }
	// answers that n reflectors send from a port to random ports of the victim
	answers := func(n int, perSecond float64, sport uint16, f ending) func(r *rand.Rand, x *traffic) {
		return func(r *rand.Rand, x *traffic) {
			x.flow(r, begins, 20*time.Second, perSecond, func(i int) conn {
				return conn{orig: udp(reflector(i%n), sport, victim, uint16(1024+r.IntN(60000))), ending: f}
			})
		}
	}
	cases := []struct {
		name string
		make func(r *rand.Rand, x *traffic)
		want int
		by   time.Duration
	}{
		{"known port, few", answers(20, 10, 123, mute), 1, 4 * time.Second},
		{"known port, one too few", answers(19, 10, 123, mute), 0, 0},
		{"other port", answers(60, 10, 4444, mute), 1, 8 * time.Second},
		{"other port, too few", answers(49, 10, 4444, mute), 0, 0},
		{"much", answers(5000, 5000, 53, mute), 1, 2 * time.Second},
		{"much, to one port", func(r *rand.Rand, x *traffic) {
			x.flow(r, begins, 20*time.Second, 2000, func(i int) conn {
				return conn{orig: udp(reflector(i), 11211, victim, 80), ending: mute}
			})
		}, 1, 2 * time.Second},
		{"clients of a time server, from its port", func(r *rand.Rand, x *traffic) {
			x.flow(r, begins, 20*time.Second, 20, func(i int) conn {
				return conn{orig: udp(reflector(i), 123, victim, 123), ending: finishes}
			})
		}, 0, 0},
		{"clients from ports of their own", func(r *rand.Rand, x *traffic) {
			x.flow(r, begins, 20*time.Second, 20, func(i int) conn {
				return conn{orig: udp(reflector(i), uint16(r.Uint32()), victim, 53), ending: mute}
			})
		}, 0, 0},
		{"answers that come late", func(r *rand.Rand, x *traffic) {
			answers(60, 10, 53, mute)(r, x)
			for i := range 60 {
				x.conns = append(x.conns, conn{at: 60 * time.Second, orig: udp(victim, 33333, reflector(i), 53), ending: mute})
			}
		}, 0, 0},
		{"answers to a question to a group", func(r *rand.Rand, x *traffic) {
			x.conns = append(x.conns, conn{at: begins - time.Second, orig: udp(victim, 33333, v4(239, 255, 255, 250), 1900), ending: mute})
			x.flow(r, begins, 5*time.Second, 20, func(i int) conn {
				return conn{orig: udp(v4(192, 168, 1, i), 1900, victim, 33333), ending: mute}
			})
		}, 0, 0},
		{"what everybody tells a group", func(r *rand.Rand, x *traffic) {
			x.flow(r, begins, 5*time.Second, 20, func(i int) conn {
				return conn{orig: udp(v4(192, 168, 1, i), 5353, v4(224, 0, 0, 251), 5353), ending: mute}
			})
		}, 0, 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var x traffic
			c.make(rand.New(rand.NewPCG(1, 2)), &x)
			_, told := x.run(t, begins+3*time.Minute, Config{})
			got := raised(told)
			if c.want == 0 { // a scan it may be
				got = slices.DeleteFunc(got, func(f agg.Finding) bool { return f.Class != "amplification" })
			}
			if len(got) != c.want {
				for _, f := range got[:min(len(got), 5)] {
					t.Log(f.Class, f.Why)
				}
				t.Fatalf("%d findings, want %d", len(got), c.want)
			}
			for i := range got {
				f := &got[i]
				if late := f.Time.Sub(time.Unix(1700000000, 0).Add(begins)); f.Class != "amplification" || f.Target.Addr != victim || late > c.by {
					t.Errorf("%s of %v after %v, want by %v", f.Class, f.Target, late, c.by)
				}
				t.Log(f.Why)
				last := newest(told, f.ID)
				n, clock := uint64(0), event.Clock{Wall: time.Unix(1700000000, 0).UTC()}
				for i := range x.conns {
					if at := clock.At(event.Ktime(x.conns[i].at)); !at.Before(last.First) && !at.After(last.Last) {
						n++
					}
				}
				if last.Evidence.Attempts != n || last.State != agg.Cleared {
					t.Errorf("%d entries, in the events %d; %s", last.Evidence.Attempts, n, last.State)
				}
			}
		})
	}
}

// TestReflector: somebody has a service of ours answer to a victim.
func TestReflector(t *testing.T) {
	for _, c := range []struct {
		name   string
		src    netip.Addr
		port   uint16
		rate   float64
		proven bool
		want   int
	}{
		{"abused", v4(45, 1, 2, 3), 123, 60, false, 1},
		{"too slow", v4(45, 1, 2, 3), 123, 45, false, 0},
		{"one of ours", v4(10, 1, 2, 3), 123, 60, false, 0},
		{"has finished a handshake", v4(45, 1, 2, 3), 123, 60, true, 0},
		{"DNS", v4(45, 1, 2, 3), 53, 60, false, 0},
		{"no such service", v4(45, 1, 2, 3), 4444, 60, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var x traffic
			r := rand.New(rand.NewPCG(1, 2))
			x.flow(r, begins, 10*time.Second, c.rate, func(i int) conn {
				return conn{orig: udp(c.src, uint16(1024+i), victim, c.port), ending: finishes}
			})
			if c.proven {
				x.conns = append(x.conns, conn{at: time.Second, orig: tcp(c.src, 4000, victim, 443), ending: finishes, rtt: ms})
			}
			_, told := x.run(t, begins+time.Minute, Config{})
			ids := map[string]bool{}
			for _, f := range told {
				if f.Class == "amplification" && f.State == agg.Suspect {
					ids[f.ID] = true
					if f.Severity != agg.Info || f.Source.Addr() != c.src || f.Target.Port != c.port {
						t.Errorf("%+v", f)
					}
				}
			}
			if len(ids) != c.want {
				t.Errorf("%d findings, want %d", len(ids), c.want)
			}
		})
	}
}
