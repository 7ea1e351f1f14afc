package forecast

import (
	"math"
	"testing"
)

const onset = 60.0 // s of common traffic before something begins

// runs is the number of runs of a case, each with a seed of its own; -count
// does not change them. The main cases get all, the variations fewer.
func runs(few bool) uint64 {
	if few || testing.Short() {
		return 4
	}
	return 20
}

// TestTimeToFull compares forecasts with what the simulated table did then.
func TestTimeToFull(t *testing.T) {
	const max = 262_144
	cases := []struct {
		few   bool
		name  string
		rate  func(kind, float64) float64
		max   uint64
		tweak func(*sim)
		after []float64 // s from the onset
		bound []float64 // of the error, relative to the time that is left
	}{
		{false, "SYN flood 5000", on(1, onset, synSent, flat(5000)), max, nil, []float64{1, 2, 3, 10}, []float64{.2, .15, .1, .1}},
		{false, "SYN flood 3000", on(1, onset, synSent, flat(3000)), max, nil, []float64{1, 2, 3, 10}, []float64{.25, .2, .15, .1}},
		{true, "SYN-ACK flood 5000", on(1, onset, synRecv, flat(5000)), max, nil, []float64{2, 3, 10}, []float64{.15, .1, .1}},
		{false, "UDP flood 5000 in 65536", on(.25, onset, udpLost, flat(5000)), 65_536, nil, []float64{1, 2, 3}, []float64{.2, .2, .2}},
		{true, "connections 4000", on(1, onset, shortConn, flat(4000)), max, nil, []float64{2, 3, 10}, []float64{.2, .15, .1}},
		{true, "leak 200", on(1, onset, leaked, flat(200)), max, nil, []float64{30, 40, 60}, []float64{.2, .2, .2}},
		{true, "ramp 100/s per s", on(1, onset, synSent, func(s float64) float64 { return 100 * s }), max, nil, []float64{20, 30, 40}, []float64{.2, .1, .1}},
		{true, "flood, bursts of 10", on(1, onset, synSent, flat(5000)), max, func(s *sim) { s.burst = 10 }, []float64{3}, []float64{.2}},
		{true, "flood, late gc", on(1, onset, synSent, flat(5000)), max, func(s *sim) { s.gc = 60 }, []float64{3}, []float64{.1}},
		{true, "flood, steps of 0.2 s", on(1, onset, synSent, flat(5000)), max, func(s *sim) { s.dt, s.sample = .2, 400 }, []float64{3}, []float64{.1}},
		{true, "flood, steps of 10 s", on(1, onset, synSent, flat(2000)), max, func(s *sim) { s.dt = 10 }, []float64{10, 20}, []float64{.2, .15}},
		{true, "flood at the start", on(1, 0, synSent, flat(5000)), max, nil, []float64{2, 3, 10}, []float64{.2, .15, .1}},
		{true, "flood, nothing sampled", on(1, onset, synSent, flat(5000)), max, func(s *sim) { s.sample = 0 }, []float64{2, 3, 10}, []float64{.2, .15, .1}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			worst, mean := make([]float64, len(tc.after)), make([]float64, len(tc.after))
			inside := 0
			for seed := range runs(tc.few) {
				s := newSim(seed, tc.max, tc.rate)
				if tc.tweak != nil {
					tc.tweak(s)
				}
				begin := onset
				if tc.name == "flood at the start" {
					begin = 0
				}
				got, full := follow(s, begin, tc.after)
				for i, f := range got {
					left := full - begin - tc.after[i]
					err := math.Abs(f.TimeToFull.Seconds()-left) / left
					worst[i], mean[i] = math.Max(worst[i], err), mean[i]+err/float64(runs(tc.few))
					if at := seconds(left); f.Low <= at && at <= f.High {
						inside++
					}
					if err > tc.bound[i] {
						t.Errorf("seed %d, +%g s: says %v [%v, %v], true %.1f s", seed, tc.after[i], f.TimeToFull, f.Low, f.High, left)
					}
					if f.Confident != (s.sample > 0) && tc.after[i] >= 3 {
						t.Errorf("seed %d, +%g s: confident %v", seed, tc.after[i], f.Confident)
					}
				}
			}
			t.Logf("%d of %d in the band", inside, len(tc.after)*int(runs(tc.few)))
			for i, a := range tc.after {
				t.Logf("+%g s: error mean %.1f %%, worst %.1f %%", a, 100*mean[i], 100*worst[i])
			}
		})
	}
}

// follow returns the forecasts at these times after `begin` and when the table
// was full; +Inf when it was not within a quarter of an hour.
func follow(s *sim, begin float64, after []float64) (got []Forecast, full float64) {
	s.warm()
	f := New(Config{})
	for len(got) < len(after) {
		out := f.Step(s.step())
		if s.t >= begin+after[len(got)]-1e-6 {
			got = append(got, out)
		}
	}
	for s.blind = true; s.full == 0; s.step() {
		if s.t > begin+900 {
			return got, math.Inf(1)
		}
	}
	return got, s.full
}

// TestNoAlarm asks for Never at every step where the table saturates below
// full, or nothing happens at all.
func TestNoAlarm(t *testing.T) {
	const max = 262_144
	double := func(k kind, t float64) float64 {
		if t > onset {
			return 2 * base(k)
		}
		return base(k)
	}
	quiet := func(k kind, t float64) float64 { return base(k) }
	born := func(k kind, t float64) float64 {
		if t < 0 {
			return 0
		}
		return base(k)
	}
	cases := []struct {
		few   bool
		name  string
		rate  func(kind, float64) float64
		until float64
		burst float64
	}{
		{false, "SYN flood 1000", on(1, onset, synSent, flat(1000)), 260, 1},
		{false, "doubling", double, 200, 1},
		{true, "common traffic", quiet, 150, 1},
		{true, "common traffic in bursts of 10", quiet, 150, 10},
		{true, "empty table at the start", born, 150, 1},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			for seed := range runs(tc.few) {
				s := newSim(seed, max, tc.rate)
				s.burst = tc.burst
				s.warm()
				f := New(Config{})
				until := tc.until
				if seed%10 > 0 {
					until = min(until, onset+60)
				}
				for s.t < until {
					out := f.Step(s.step())
					if out.TimeToFull != Never || out.Leak > 0 {
						t.Errorf("seed %d, %g s: full in %v, saturation %.0f, rate %.0f, leak %.2f", seed, s.t, out.TimeToFull, out.Saturation, out.Rate, out.Leak)
					}
				}
			}
		})
	}
}
