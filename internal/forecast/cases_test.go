package forecast

import (
	"fmt"
	"math"
	"sync"
	"testing"
)

const onset = 60.0 // s of common traffic before something begins

// runs is the number of runs of a case, each with a seed of its own; -count
// does not change them. The main cases get all, the variations fewer.
func runs(few bool) uint64 {
	if few {
		return 4
	}
	return 20
}

// fillCase is a table that fills; without a tweak it is the one that all share.
type fillCase struct {
	few   bool
	name  string
	rate  func(kind, float64) float64
	tweak func(*sim)
	begin float64   // s
	after []float64 // s from the beginning
	bound []float64 // of the error, relative to the time that is left
}

var fillCases = []fillCase{
	{false, "SYN flood 5000", on(1, onset, synSent, flat(5000)), nil, onset, []float64{1, 2, 3, 10}, []float64{.2, .15, .1, .1}},
	{false, "SYN flood 3000", on(1, onset, synSent, flat(3000)), nil, onset, []float64{1, 2, 3, 10}, []float64{.25, .2, .15, .1}},
	{true, "SYN-ACK flood 5000", on(1, onset, synRecv, flat(5000)), nil, onset, []float64{2, 3, 10}, []float64{.15, .1, .1}},
	{false, "UDP flood 5000 in 65536", on(.25, onset, udpLost, flat(5000)), func(s *sim) { s.max = 65_536 }, onset, []float64{1, 2, 3}, []float64{.2, .2, .2}},
	{true, "connections 4000", on(1, onset, shortConn, flat(4000)), nil, onset, []float64{2, 3, 10}, []float64{.2, .15, .1}},
	{true, "connections 2000", on(1, onset, conn, flat(2000)), nil, onset, []float64{3, 10, 20}, []float64{.2, .1, .1}},
	{true, "leak 200", on(1, onset, leaked, flat(200)), nil, onset, []float64{30, 40, 60}, []float64{.2, .2, .2}},
	{false, "ramp 100/s per s", on(1, onset, synSent, func(s float64) float64 { return 100 * s }), nil, onset, []float64{10, 20, 30, 40}, []float64{.2, .1, .1, .1}},
	{false, "ramp 400/s per s", on(1, onset, synSent, func(s float64) float64 { return 400 * s }), nil, onset, []float64{4, 5, 10}, []float64{.2, .2, .2}},
	{false, "ramp 2000/s per s in 65536", on(.25, onset, udpLost, func(s float64) float64 { return 2000 * s }), func(s *sim) { s.max = 65_536 }, onset, []float64{3, 4}, []float64{.2, .2}},
	{true, "flood, bursts of 10", on(1, onset, synSent, flat(5000)), func(s *sim) { s.burst = 10 }, onset, []float64{3}, []float64{.2}},
	{true, "flood, late gc", on(1, onset, synSent, flat(5000)), func(s *sim) { s.gc = 60 }, onset, []float64{3}, []float64{.1}},
	{true, "flood, steps of 0.2 s", on(1, onset, synSent, flat(5000)), func(s *sim) { s.dt, s.sample = .2, 400 }, onset, []float64{3}, []float64{.1}},
	{true, "flood, steps of 10 s", on(1, onset, synSent, flat(2000)), func(s *sim) { s.dt = 10 }, onset, []float64{10, 20}, []float64{.2, .15}},
	{true, "flood at the start", on(1, 0, synSent, flat(5000)), func(*sim) {}, 0, []float64{2, 3, 10}, []float64{.2, .15, .1}},
	{true, "flood, nothing sampled", on(1, onset, synSent, flat(5000)), func(s *sim) { s.sample = 0 }, onset, []float64{2, 3, 10}, []float64{.2, .15, .1}},
}

const most = 262_144 // entries

// TestTimeToFull compares forecasts with what the simulated table did then.
func TestTimeToFull(t *testing.T) {
	worst, mean := map[string][]float64{}, map[string][]float64{}
	var mu sync.Mutex
	t.Run("seed", func(t *testing.T) {
		for seed := range runs(false) {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				all, s := common[seed](), &sim{}
				for _, tc := range fillCases {
					if tc.few && seed >= runs(true) {
						continue
					}
					var f *Forecaster
					if tc.tweak == nil {
						f = all.then(s, tc.rate)
					} else {
						s, f = newSim(seed, most, tc.rate), New(Config{})
						tc.tweak(s)
						s.warm()
					}
					got, left := follow(s, f, tc.begin, tc.after)
					mu.Lock()
					for i, f := range got {
						err := math.Abs(f.TimeToFull.Seconds()-left[i]) / left[i]
						if len(worst[tc.name]) <= i {
							worst[tc.name], mean[tc.name] = append(worst[tc.name], 0), append(mean[tc.name], 0)
						}
						worst[tc.name][i] = max(worst[tc.name][i], err)
						mean[tc.name][i] += err / float64(runs(tc.few))
						if !(err <= tc.bound[i]) {
							t.Errorf("%s, +%g s: says %v [%v, %v], true %.1f s", tc.name, tc.after[i], f.TimeToFull, f.Low, f.High, left[i])
						}
						if f.Confident != (s.sample > 0) && tc.after[i] >= 3 {
							t.Errorf("%s, +%g s: confident %v", tc.name, tc.after[i], f.Confident)
						}
					}
					mu.Unlock()
				}
			})
		}
	})
	for _, tc := range fillCases {
		for i, a := range tc.after {
			t.Logf("%s, +%g s: error mean %.1f %%, worst %.1f %%", tc.name, a, 100*mean[tc.name][i], 100*worst[tc.name][i])
		}
	}
}

// TestBand: of 40 runs of each sort the truth is in the band in four of five at
// least, though the table is a quarter of the others and its noise twice theirs.
// Between 80 and 95 of a hundred are aimed at.
func TestBand(t *testing.T) {
	const scale, seeds = .25, 40
	cases := []struct {
		sort  string
		rate  func(kind, float64) float64
		after []float64
	}{
		{"flood", on(scale, onset, synSent, flat(1250)), []float64{1, 3, 10}},
		{"flood", on(scale, onset, synSent, flat(750)), []float64{1, 3, 10}},
		{"flood", on(scale, onset, shortConn, flat(1000)), []float64{1, 3, 10}},
		{"ramp", on(scale, onset, synSent, func(s float64) float64 { return 25 * s }), []float64{20, 30, 40}},
		{"ramp", on(scale, onset, synSent, func(s float64) float64 { return 8 * s }), []float64{20, 30}},
		{"leak", on(scale, onset, leaked, flat(100)), []float64{20, 30, 45}},
	}
	inside, judged := map[string]int{}, map[string]int{}
	var mu sync.Mutex
	t.Run("seed", func(t *testing.T) {
		for seed := range uint64(seeds) {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				all, s := watch(seed, scale), &sim{}
				for _, tc := range cases {
					got, left := follow(s, all.then(s, tc.rate), onset, tc.after)
					mu.Lock()
					for i, f := range got {
						judged[tc.sort]++
						if at := seconds(left[i]); f.Low <= at && at <= f.High {
							inside[tc.sort]++
						}
					}
					mu.Unlock()
				}
			})
		}
	})
	for sort, n := range judged {
		in := float64(inside[sort]) / float64(n)
		t.Logf("%s: %.0f %% of %d in the band", sort, 100*in, n)
		if in < .8 || in > .97 {
			t.Errorf("%s: %.0f %% in the band", sort, 100*in)
		}
	}
}

// follow returns the forecasts at these times after `begin`, and the time that was
// left then; +Inf when the table was not full within half an hour.
func follow(s *sim, f *Forecaster, begin float64, after []float64) (got []Forecast, left []float64) {
	for len(got) < len(after) {
		out := f.Step(s.step())
		if s.t >= begin+after[len(got)]-1e-6 {
			got = append(got, out)
		}
	}
	for s.blind = true; s.full == 0 && s.t < begin+1800; {
		s.step()
	}
	full := s.full
	if full == 0 {
		full = math.Inf(1)
	}
	for _, a := range after {
		left = append(left, full-begin-a)
	}
	return got, left
}

// TestNoAlarm asks for Never at every step where the table saturates below
// full, or nothing happens at all.
func TestNoAlarm(t *testing.T) {
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
		name  string
		rate  func(kind, float64) float64
		until float64
		burst float64
	}{
		{"common traffic in bursts of 10", quiet, 150, 10},
		{"empty table at the start", born, 150, 1},
	}
	never := func(t *testing.T, s *sim, out Forecast) {
		if out.TimeToFull != Never || out.Leak > 0 {
			t.Errorf("%g s: full in %v, saturation %.0f, rate %.0f, leak %.2f", s.t, out.TimeToFull, out.Saturation, out.Rate, out.Leak)
		}
	}
	for _, tc := range cases {
		for seed := range runs(true) {
			t.Run(fmt.Sprint(tc.name, seed), func(t *testing.T) {
				t.Parallel()
				s, f := newSim(seed, most, tc.rate), New(Config{})
				s.burst = tc.burst
				for s.warm(); s.t < tc.until; {
					never(t, s, f.Step(s.step()))
				}
			})
		}
	}
	for seed := range runs(false) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			t.Parallel()
			w, s := common[seed](), &sim{}
			if len(w.alarm) > 0 {
				t.Errorf("common traffic: %+v", w.alarm)
			}
			for _, tc := range []struct {
				name  string
				rate  func(kind, float64) float64
				until float64
			}{{"SYN flood 1000", on(1, onset, synSent, flat(1000)), 260}, {"doubling", double, 200}} {
				until := tc.until
				if seed%10 > 0 {
					until = onset + 60
				}
				for f := w.then(s, tc.rate); s.t < until; {
					out := f.Step(s.step())
					if never(t, s, out); t.Failed() {
						t.Fatal(tc.name)
					}
				}
			}
		})
	}
}
