package forecast

import (
	"math"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ctsight/ctsight/internal/event"
)

func TestClassOf(t *testing.T) {
	state := func(name string) event.TCPState {
		s, ok := event.ParseTCPState(name)
		if !ok {
			t.Fatal(name)
		}
		return s
	}
	for _, tc := range []struct {
		proto  uint8
		status event.Status
		state  string
		want   Class
	}{
		{event.ProtoTCP, 0, "SYN_SENT", TCPUnreplied},
		{event.ProtoTCP, 0, "SYN_SENT2", TCPUnreplied},
		{event.ProtoTCP, event.SeenReply, "SYN_RECV", TCPReplied},
		{event.ProtoTCP, event.SeenReply | event.Assured, "ESTABLISHED", TCPAssured},
		{event.ProtoTCP, event.SeenReply | event.Assured, "FIN_WAIT", TCPClosing},
		{event.ProtoTCP, event.SeenReply | event.Assured, "TIME_WAIT", TCPClosing},
		{event.ProtoTCP, event.SeenReply, "CLOSE", TCPClosing},
		{event.ProtoUDP, 0, "", UDPUnreplied},
		{event.ProtoUDPLite, event.SeenReply, "", UDPReplied},
		{event.ProtoUDP, event.SeenReply | event.Assured, "", UDPAssured},
		{event.ProtoICMPv6, 0, "", ICMP},
		{event.ProtoGRE, event.Assured, "", Other},
	} {
		s := event.TCPNone
		if tc.state != "" {
			s = state(tc.state)
		}
		if got := ClassOf(tc.proto, tc.status, s); got != tc.want {
			t.Errorf("%s %v %s: class %d, want %d", event.ProtoName(tc.proto), tc.status.Names(), tc.state, got, tc.want)
		}
	}
}

func TestBins(t *testing.T) {
	for i := range Bins {
		if got := Bin(BinAge(i)); got != i {
			t.Errorf("Bin(BinAge(%d)) = %d", i, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		age := time.Duration(rapid.Int64().Draw(t, "age"))
		b := Bin(age)
		if s := age.Seconds(); b > 0 && s < edges[b]*(1-1e-9) || b < Bins-1 && s > edges[b+1]*(1+1e-9) {
			t.Fatalf("%v is in bin %d, from %g to %g s", age, b, edges[b], edges[b+1])
		}
	})
}

// TestFloodProperty draws a table, common traffic and a flood of any kind that
// fills it before its own entries die: the error is at most a fifth, or five
// standard deviations of what nobody can know. One in some 1,000 misses that; two of
// a run's hundred may.
func TestFloodProperty(t *testing.T) {
	t.Parallel()
	var missed atomic.Int32
	rapid.Check(t, func(t *rapid.T) {
		scale := rapid.Float64Range(.02, .1).Draw(t, "scale")
		k := rapid.SampledFrom([]kind{synSent, synRecv, udpLost, shortConn, conn, leaked, dns, ping}).Draw(t, "kind")
		most := 60.0
		if k == udpLost || k == dns || k == ping {
			most = 18
		}
		if k == synRecv {
			most = 45
		}
		left := rapid.Float64Range(12, most).Draw(t, "time to full")
		perSec := max(300, rapid.Float64Range(1, 10).Draw(t, "factor")*800*scale)
		s := newSim(rapid.Uint64().Draw(t, "seed"), 0, on(scale, onset, k, flat(perSec)))
		s.max = uint64(121_000*scale + perSec*left)
		s.burst = rapid.SampledFrom([]float64{1, 1, 3}).Draw(t, "burst")
		s.gc = rapid.Float64Range(1, 40).Draw(t, "gc")
		s.warm()
		got, lefts := follow(s, New(Config{}), onset, []float64{4, 5})
		for i, f := range got {
			left := lefts[i]
			arrive := (perSec + 800*scale) * (2*s.burst - 1) // their variance per second
			noise := math.Hypot(math.Sqrt(arrive/4)/perSec, math.Sqrt(2*arrive*left)/perSec/left)
			if err := math.Abs(f.TimeToFull.Seconds()-left) / left; err > max(.2, 5*noise) && missed.Add(1) > 2 {
				t.Fatalf("says %v [%v, %v], true %.1f s", f.TimeToFull, f.Low, f.High, left)
			}
		}
	})
}

// TestSaturationProperty draws traffic of any mix that grows or shrinks by a
// factor and gets company of entries that are never answered, all of which stays
// below .85 of the table: nothing is said to fill within 5 minutes, once
// the change is 3 s old.
func TestSaturationProperty(t *testing.T) {
	t.Parallel()
	lives := [numKinds]float64{synSent: 122, synRecv: 62, conn: 152, shortConn: 122.2, dns: 32, udpLost: 32, ping: 32}
	kinds := []kind{synSent, synRecv, refused, conn, shortConn, dns, udpLost, ping}
	rapid.Check(t, func(t *rapid.T) {
		var mix [2][numKinds]float64
		var load [2]float64
		factor := rapid.Float64Range(.2, 3).Draw(t, "factor")
		flood := rapid.SampledFrom([]kind{synSent, synRecv, udpLost, refused}).Draw(t, "flood")
		for _, k := range kinds {
			if rapid.Bool().Draw(t, "used") {
				mix[0][k] = rapid.Float64Range(1, 40).Draw(t, "rate")
			}
			mix[1][k] = factor * mix[0][k]
			if k == flood {
				mix[1][k] += rapid.Float64Range(0, 200).Draw(t, "flood rate")
			}
			load[0] += mix[0][k] * lives[k]
			load[1] += mix[1][k] * lives[k]
		}
		s := newSim(rapid.Uint64().Draw(t, "seed"), 0, func(k kind, t float64) float64 {
			if t > onset {
				return mix[1][k]
			}
			return mix[0][k]
		})
		s.sample = rapid.SampledFrom([]int{500, 2000}).Draw(t, "sample")
		s.max = uint64(max(load[0], load[1], load[0]+(load[1]-factor*load[0]), 5000) / .85) // old and new meet
		s.warm()
		f := New(Config{})
		for s.t < onset+60 {
			out := f.Step(s.step())
			if (s.t <= onset && s.t > 10 || s.t >= onset+3) && out.TimeToFull < 300*time.Second {
				t.Fatalf("%g s: full in %v, saturation %.0f of %d, %+v", s.t, out.TimeToFull, out.Saturation, s.max, out)
			}
		}
	})
}

// TestPool is the port pool of one NAT address: the same steps, of which
// someone may know less.
func TestPool(t *testing.T) {
	const ports = 64_512
	for _, tc := range []struct {
		name string
		less func(*Step)
	}{
		{"all is known", func(*Step) {}},
		{"no samples", func(s *Step) { s.Sample = nil }},
		{"counts only", func(s *Step) { *s = Step{At: s.At, Entries: s.Entries, Max: s.Max, New: s.New} }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSim(1, ports, on(.25, onset, shortConn, flat(800)))
			s.warm()
			f := New(Config{})
			for s.t < onset+5 {
				step := s.step()
				tc.less(&step)
				out := f.Step(step)
				if s.t <= onset {
					if out.TimeToFull != Never {
						t.Fatalf("%g s: full in %v", s.t, out.TimeToFull)
					}
					continue
				}
				if s.t < onset+3 {
					continue
				}
				if left := (ports-30_200)/800. - (s.t - onset); math.Abs(out.TimeToFull.Seconds()-left) > .2*left {
					t.Errorf("%g s: full in %v, want %.1f s", s.t, out.TimeToFull, left)
				}
			}
		})
	}
}

func TestFull(t *testing.T) {
	f := New(Config{})
	for i, entries := range []uint64{100, 700, 850, 950, 1000, 1100} {
		out := f.Step(Step{At: event.Ktime(i) * 1e9, Entries: entries, Max: 1000, New: 150})
		if full := entries >= 1000; full != (out.TimeToFull == 0) || full && out.High != 0 {
			t.Errorf("%d of 1000: full in %v", entries, out.TimeToFull)
		}
	}
}

// TestAt compares the curve with the forecast made of it.
func TestAt(t *testing.T) {
	s := newSim(1, 60_000, on(.25, onset, synSent, flat(1000)))
	s.warm()
	f := New(Config{})
	var out Forecast
	for s.t < onset+5 {
		out = f.Step(s.step())
	}
	if mean, sd := f.At(0); math.Abs(mean-float64(len(s.live))) > 1 || sd > 1 {
		t.Errorf("now: %.1f +- %.1f, not %d", mean, sd, len(s.live))
	}
	if mean, _ := f.At(out.TimeToFull); math.Abs(mean-60_000) > 200 {
		t.Errorf("expects %.0f when the table is full", mean)
	}
	if a, b := f.ProbFull(out.Low), f.ProbFull(out.High); a > .15 || b < .85 {
		t.Errorf("full with probability %.2f at Low, %.2f at High", a, b)
	}
}

func TestDeterministic(t *testing.T) {
	run := func() (all []Forecast) {
		s := newSim(7, 26_000, on(.1, 20, synSent, flat(300)))
		s.warm()
		f := New(Config{})
		for s.t < 40 {
			all = append(all, f.Step(s.step()))
		}
		return all
	}
	if a, b := run(), run(); !reflect.DeepEqual(a, b) {
		t.Errorf("two runs differ:\n%v\n%v", a, b)
	}
}

// TestNonsense feeds what cannot be and asks for numbers that can.
func TestNonsense(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count := rapid.OneOf(rapid.Uint64Range(0, 5), rapid.Uint64Range(0, 300_000), rapid.Uint64())
		age := rapid.Custom(func(t *rapid.T) time.Duration {
			return time.Duration(rapid.OneOf(rapid.Int64Range(-1, 200e9), rapid.Int64()).Draw(t, "ns"))
		})
		class := rapid.Custom(func(t *rapid.T) Class { return Class(rapid.Uint8().Draw(t, "class")) })
		f := New(Config{})
		var at event.Ktime
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			at += event.Ktime(rapid.OneOf(rapid.Just(int64(1e9)), rapid.Int64Range(-2e9, 20e9), rapid.Int64Range(0, 1e18)).Draw(t, "dt"))
			s := Step{At: at, Entries: count.Draw(t, "entries"), Max: count.Draw(t, "max"), New: count.Draw(t, "new")}
			for range rapid.IntRange(0, 4).Draw(t, "deaths") {
				s.Dead = append(s.Dead, Death{class.Draw(t, "class"), age.Draw(t, "age"), count.Draw(t, "count")})
				s.Live[rapid.IntRange(0, Bins-1).Draw(t, "bin")] = count.Draw(t, "live")
			}
			for range rapid.IntRange(0, 80).Draw(t, "samples") {
				s.Sample = append(s.Sample, Sample{class.Draw(t, "class"), age.Draw(t, "age"), age.Draw(t, "left")})
			}
			out := f.Step(s)
			mean, sd := f.At(age.Draw(t, "ahead"))
			for _, x := range []float64{out.Fill, out.Saturation, out.Rate, out.Growth, out.Leak, mean, sd, f.ProbFull(time.Minute)} {
				if math.IsNaN(x) || math.IsInf(x, 0) {
					t.Fatalf("%+v, at %g +- %g", out, mean, sd)
				}
			}
			if out.TimeToFull < 0 || out.Low < 0 || out.Low > out.TimeToFull || out.TimeToFull > out.High || out.Saturation < 0 || out.Rate < 0 {
				t.Fatalf("%+v", out)
			}
		}
	})
}

func BenchmarkStep(b *testing.B) {
	for _, sample := range []int{0, 1000, 2000} {
		b.Run(map[int]string{0: "blind", 1000: "1000", 2000: "2000"}[sample], func(b *testing.B) {
			s := newSim(1, 262_144, on(1, onset, synSent, flat(5000)))
			s.sample = sample
			s.warm()
			f := New(Config{})
			var step Step
			for s.t < onset+10 {
				step = s.step()
				f.Step(step)
			}
			b.ReportAllocs()
			for b.Loop() {
				step.At += 1e9
				f.Step(step)
			}
		})
	}
}
