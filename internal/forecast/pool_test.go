package forecast

import (
	"math"
	"testing"

	"github.com/ctsight/ctsight/internal/event"
)

const ports = 64_512 // of one NAT address towards one destination

// watchPool calls fn with the forecast of each step of a pool, in which no entries
// are looked at: of the samples of a table none says which pool it is of.
func watchPool(s *sim, proto uint8, until float64, fn func(Forecast)) {
	s.sample = 0
	s.warm()
	f := New(Config{Proto: proto})
	for s.t < until {
		fn(f.Step(s.step()))
	}
}

// TestPoolFills: three seconds in the time to full is right within a fifth.
func TestPoolFills(t *testing.T) {
	for _, tc := range []struct {
		name        string
		proto       uint8
		base, flood float64
		kind, of    kind
		onset       float64
	}{
		{"UDP streams at 500/s", event.ProtoUDP, 200, 500, stream, stream, onset},
		{"one UDP packet each at 3000/s", event.ProtoUDP, 200, 3000, dns, udpLost, onset},
		{"a new UDP pool at 3000/s", event.ProtoUDP, 0, 3000, dns, dns, 0},
		{"short TCP connections at 800/s", event.ProtoTCP, 200, 800, shortConn, shortConn, onset},
		{"a new TCP pool at 1500/s", event.ProtoTCP, 0, 1500, shortConn, shortConn, 0},
		{"pings at 4000/s", event.ProtoICMP, 100, 4000, ping, ping, onset},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			for seed := range runs(true) {
				s := newSim(seed, ports, func(k kind, at float64) (r float64) {
					if k == tc.kind {
						r = tc.base
					}
					if k == tc.of && at > tc.onset {
						r += tc.flood
					}
					return r
				})
				var said []Forecast
				watchPool(s, tc.proto, tc.onset+10, func(f Forecast) {
					if s.t >= tc.onset+3 {
						said = append(said, f)
					}
				})
				for s.blind = true; s.full == 0 && s.t < 400; {
					s.step()
				}
				for i, f := range said {
					left := s.full - tc.onset - 3 - float64(i)
					if err := math.Abs(f.TimeToFull.Seconds()-left) / left; !(err <= .2) {
						t.Errorf("seed %d, +%d s: says %v [%v, %v], true %.1f s", seed, 3+i, f.TimeToFull, f.Low, f.High, left)
					}
				}
			}
		})
	}
}

// TestPoolSaturates: pools in which ports come free as fast as they are taken.
func TestPoolSaturates(t *testing.T) {
	for _, tc := range []struct {
		name        string
		proto       uint8
		base, flood float64
		kind        kind
		onset       float64
	}{
		{"DNS at 1800/s", event.ProtoUDP, 300, 1500, dns, onset},
		{"a new pool of DNS at 1200/s", event.ProtoUDP, 0, 1200, dns, 0},
		{"short TCP connections at 480/s", event.ProtoTCP, 200, 280, shortConn, onset},
		{"a new pool of pings at 1200/s", event.ProtoICMP, 0, 1200, ping, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			for seed := range runs(true) {
				s := newSim(seed, ports, func(k kind, at float64) float64 {
					if k != tc.kind {
						return 0
					}
					if at > tc.onset {
						return tc.base + tc.flood
					}
					return tc.base
				})
				watchPool(s, tc.proto, tc.onset+180, func(f Forecast) {
					if f.TimeToFull != Never {
						t.Errorf("seed %d, %g s: full in %v, saturation %.0f, rate %.0f", seed, s.t, f.TimeToFull, f.Saturation, f.Rate)
					}
				})
			}
		})
	}
}
