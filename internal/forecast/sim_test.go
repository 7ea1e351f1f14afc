package forecast

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// kind is what becomes of an entry of the simulated table.
type kind uint8

const (
	synSent   kind = iota // never answered
	synRecv               // SYN-ACK, then nothing
	refused               // RST within a millisecond
	conn                  // 30 s of traffic, then TIME_WAIT
	shortConn             // .2 s of traffic, then TIME_WAIT
	longConn              // an hour of traffic
	leaked                // assured, never closed
	dns                   // one answer
	udpLost               // no answer
	stream                // a minute of UDP both ways
	ping
	numKinds
)

// flow is one entry; times are seconds from its birth.
type flow struct {
	born         float64
	active, ends float32 // last packet or first FIN; destroy
	kind         kind
	place        int32 // in sim.live
	next         int32 // that dies in the same step
}

// sim is a table of entries, each with a life of its own, cut into steps.
type sim struct {
	seed   uint64
	rng    *rand.Rand
	max    uint64
	dt     float64
	gc     float64 // the garbage collector is up to this late
	burst  float64 // mean size of a batch of arrivals; 1 is Poisson
	sample int     // entries looked at per step
	rate   func(k kind, t float64) float64

	t      float64
	start  float64 // of the observer
	flows  []flow
	free   []int32 // flows that have ended
	live   []int32
	dying  []int32 // by number of the step, the last that dies then; 0 none, else one more
	births []int   // alive, by birth in units of grain
	recent quarters
	dead   [NumClasses][Bins]uint64
	count  []Death
	drawn  []Sample
	full   float64 // when the table was full; 0 not yet
	blind  bool    // nobody looks any more: run on for the truth
}

const grain = .125

func newSim(seed uint64, max uint64, rate func(kind, float64) float64) *sim {
	return &sim{seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), max: max, dt: 1, gc: 4, burst: 1, sample: 2000, rate: rate, flows: make([]flow, 0, 1<<15)}
}

func (s *sim) draw(k kind) (active, ends float64) {
	late := s.rng.Float64() * s.gc
	exp := s.rng.ExpFloat64
	switch k {
	case synSent:
		return 0, 120 + late
	case synRecv:
		return .02, 60 + late
	case refused:
		return 0, .001
	case conn:
		active = 30 * exp()
		return active, active + 120 + late
	case shortConn:
		return .2, 120.2 + late
	case longConn:
		active = 3600 * exp()
		return active, active + 120 + late
	case leaked:
		return 1e9, 1e9
	case stream:
		active = 60 * exp()
		if active < 2 {
			return active, active + 30 + late
		}
		return active, active + 120 + late
	}
	return .02, 30 + late // dns, udpLost, ping
}

// cloneTo makes of `to`, whose memory is used again, the same table with a future
// of its own.
func (s *sim) cloneTo(to *sim, rate func(kind, float64) float64) {
	old := *to
	*to = *s
	to.rng, to.rate, to.count, to.drawn = rand.New(rand.NewPCG(s.seed, 2)), rate, nil, old.drawn
	to.flows, to.live = append(old.flows[:0], s.flows...), append(old.live[:0], s.live...)
	to.births, to.free = append(old.births[:0], s.births...), append(old.free[:0], s.free...)
	to.dying = append(old.dying[:0], s.dying...)
}

// clone is a Forecaster with the same memory.
func (f *Forecaster) clone() *Forecaster {
	c := *f
	c.arrivals.b, c.arrivals.diffs = slices.Clone(f.arrivals.b), nil
	c.out = outlook{}
	return &c
}

// watched is a table with common traffic, scaled, and who has watched it until the
// onset.
type watched struct {
	s     *sim
	f     *Forecaster
	alarm []Forecast // that were not never
}

func watch(seed uint64, scale float64) (w watched) {
	w.s, w.f = newSim(seed, uint64(most*scale), on(scale, onset, synSent, flat(0))), New(Config{})
	for w.s.warm(); w.s.t < onset; {
		if out := w.f.Step(w.s.step()); out.TimeToFull != Never || out.Leak > 0 {
			w.alarm = append(w.alarm, out)
		}
	}
	return w
}

// common is watch at full scale, once for each seed.
var common = func() (all []func() watched) {
	for seed := range runs(false) {
		all = append(all, sync.OnceValue(func() watched { return watch(seed, 1) }))
	}
	return all
}()

// then goes on with another future, in a table whose memory is used again.
func (w watched) then(s *sim, rate func(kind, float64) float64) *Forecaster {
	w.s.cloneTo(s, rate)
	return w.f.clone()
}

// warm fills the table with what is there at time 0.
func (s *sim) warm() {
	for k := range numKinds {
		past := 330.0
		if k == longConn {
			past = 20_000
		}
		for n := s.poisson(s.rate(k, -1) * past); n > 0; n-- {
			s.birth(k, -past*s.rng.Float64())
		}
	}
}

func (s *sim) poisson(mean float64) int {
	if mean <= 0 {
		return 0
	}
	if mean > 50 {
		return max(0, int(math.Round(mean+math.Sqrt(mean)*s.rng.NormFloat64())))
	}
	n := 0
	for p := s.rng.ExpFloat64(); p < mean; p += s.rng.ExpFloat64() {
		n++
	}
	return n
}

// arrivals draws how many come: batches of geometric size.
func (s *sim) arrivals(mean float64) int {
	if s.burst <= 1 {
		return s.poisson(mean)
	}
	n := 0
	for b := s.poisson(mean / s.burst); b > 0; b-- {
		n += 1 + int(math.Log(1-s.rng.Float64())/math.Log(1-1/s.burst))
	}
	return n
}

func (s *sim) birth(k kind, at float64) {
	active, ends := s.draw(k)
	if at+ends <= s.t {
		return
	}
	id := int32(len(s.flows))
	if n := len(s.free); n > 0 {
		id, s.free = s.free[n-1], s.free[:n-1]
	} else {
		s.flows = append(s.flows, flow{})
	}
	s.flows[id] = flow{born: at, active: float32(active), ends: float32(ends), kind: k, place: int32(len(s.live))}
	s.live = append(s.live, id)
	if at >= s.start {
		c := int((at - s.start) / grain)
		for len(s.births) <= c {
			s.births = append(s.births, 0)
		}
		s.births[c]++
		if p := s.recent.at(int64(at * 1e9 / float64(fineSlot))); p != nil && ends >= 1 {
			*p++
		}
	}
	if ends < 1e8 {
		n := int(math.Ceil((at + ends) / s.dt))
		for len(s.dying) <= n {
			s.dying = append(s.dying, 0)
		}
		s.flows[id].next, s.dying[n] = s.dying[n], id+1
	}
}

// class returns the class of a flow at an age and what is left of its timeout.
func (f *flow) class(age float64) (Class, float64) {
	since := max(0, age-float64(f.active))
	switch f.kind {
	case synSent, refused:
		return TCPUnreplied, 120 - age
	case synRecv:
		if age < .02 {
			return TCPUnreplied, 120 - age
		}
		return TCPReplied, 60.02 - age
	case udpLost:
		return UDPUnreplied, 30 - age
	case dns, stream, ping:
		switch {
		case f.kind == ping:
			return ICMP, 30 - since
		case age < .02:
			return UDPUnreplied, 30 - age
		case f.active >= 2 && age > 2:
			return UDPAssured, 120 - since
		}
		return UDPReplied, 30 - since
	}
	switch {
	case age < .02:
		return TCPUnreplied, 120 - age
	case age < .04:
		return TCPReplied, 60 - age
	case since > 0:
		return TCPClosing, 120 - since
	}
	return TCPAssured, 432_000
}

func (s *sim) age(f *flow, now float64) time.Duration {
	if f.born < s.start {
		return Unknown
	}
	return time.Duration((now - f.born) * 1e9)
}

// step runs the table for dt seconds and says what an observer saw.
func (s *sim) step() Step {
	from := len(s.live)
	n := int(math.Round(s.t/s.dt)) + 1
	end := float64(n) * s.dt
	var out Step
	for k := range numKinds {
		for c := s.arrivals(s.rate(k, s.t+s.dt/2) * s.dt); c > 0; c-- {
			s.birth(k, s.t+s.dt*s.rng.Float64())
			out.New++
		}
	}
	s.dead = [NumClasses][Bins]uint64{}
	var old [NumClasses]uint64
	var dying int32
	if n < len(s.dying) {
		dying = s.dying[n]
	}
	for dying > 0 {
		id := dying - 1
		f := &s.flows[id]
		dying = f.next
		c, _ := f.class(float64(f.ends))
		if f.born >= s.start {
			s.dead[c][Bin(time.Duration(f.ends*1e9))]++
			s.births[int((f.born-s.start)/grain)]--
		} else {
			old[c]++
		}
		last := s.live[len(s.live)-1]
		s.live[f.place] = last
		s.flows[last].place = f.place
		s.live = s.live[:len(s.live)-1]
		s.free = append(s.free, id)
	}
	if m := float64(s.max); s.full == 0 && float64(len(s.live)) >= m {
		s.full = s.t + s.dt*(m-float64(from))/float64(len(s.live)-from)
	}
	s.t = end
	if !s.blind {
		s.observe(&out, &old)
	}
	return out
}

func (s *sim) observe(out *Step, old *[NumClasses]uint64) {
	out.At, out.Entries, out.Max = event.Ktime(s.t*1e9), min(uint64(len(s.live)), s.max), s.max
	s.count = s.count[:0]
	for c := range s.dead {
		for b, n := range s.dead[c] {
			if n > 0 {
				s.count = append(s.count, Death{Class(c), BinAge(b), n})
			}
		}
		if old[c] > 0 {
			s.count = append(s.count, Death{Class(c), Unknown, old[c]})
		}
	}
	out.Dead = s.count
	out.Recent = s.recent.before(out.At)
	for i, n := range s.births {
		if n > 0 {
			age := s.t - s.start - (float64(i)+.5)*grain
			out.Live[Bin(time.Duration(max(0, age)*1e9))] += uint64(n)
		}
	}
	s.drawn = s.drawn[:0]
	for range min(s.sample, len(s.live)) {
		f := &s.flows[s.live[s.rng.IntN(len(s.live))]]
		c, left := f.class(s.t - f.born)
		s.drawn = append(s.drawn, Sample{c, s.age(f, s.t), time.Duration(left * 1e9)})
	}
	out.Sample = s.drawn
}

// base is common traffic of 800 entries a second, 121,000 at a time.
func base(k kind) float64 {
	return [numKinds]float64{conn: 640, longConn: 5, dns: 120, udpLost: 10, refused: 15, synSent: 5, ping: 5}[k]
}

// on adds to `scale` times the base load from `onset` on.
func on(scale, onset float64, what kind, perSec func(since float64) float64) func(kind, float64) float64 {
	return func(k kind, t float64) float64 {
		r := scale * base(k)
		if k == what && t > onset {
			r += perSec(t - onset)
		}
		return r
	}
}

func flat(r float64) func(float64) float64 { return func(float64) float64 { return r } }
