package forecast

import (
	"math"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

const (
	aggressive = .95  // fill from which the kernel kills early
	enough     = 50.0 // recent samples that make classes known
	sampleTime = 10.0 // s; what recent means there
	lagPrior   = 5.0  // s
	tiny       = .02  // entries that are not worth a look ahead
	priorSize  = 20.0 // entries that outweigh a timeout from the sysctls, or lagPrior
	bandWidth  = 1.5  // standard deviations either side
)

// Step takes the next interval and looks ahead. A step that takes no time is
// not learnt from; one from the past begins a new history.
func (f *Forecaster) Step(s Step) Forecast {
	dt := s.At.Sub(f.last).Seconds()
	if f.started && dt < 0 {
		*f = *New(f.cfg)
	}
	if !f.started {
		f.started, f.first, f.last, dt = true, s.At, s.At, 0
		f.entries = s.Entries
	}
	if dt > 0 {
		f.arrivals.add(s.At, dt, float64(s.New)-youngDeaths(s.Dead))
		f.fade(dt)
		f.look(s.Sample)
	}
	f.arrivals.fine = s.Recent
	r := f.arrivals.now()
	mix, samples := f.arrivals.mixture(r.window)
	f.place(&s, &mix, samples)
	if dt > 0 && float64(s.Entries) < aggressive*float64(s.Max) {
		f.learn(&s, dt)
	}
	f.last, f.entries, f.max = s.At, s.Entries, s.Max
	f.fit()
	if dt > 0 {
		f.leak.judge(&f.arrivals, r, mix[tcpConn], &f.curves[tcpConn], dt)
	}
	f.expect(r, &mix, samples)
	return f.tell(&s, r, samples)
}

func youngDeaths(dead []Death) (n float64) {
	for _, d := range dead {
		if d.Age >= 0 && d.Age < time.Second {
			n += float64(d.Count)
		}
	}
	return n
}

// fade weighs all that was seen down by dt seconds. The living of an age bin
// are others after a fraction of that age, so samples of it are soon old.
func (f *Forecaster) fade(dt float64) {
	keep := weights(dt)
	for t := range f.tables {
		f.tables[t].fade(&keep)
		f.timeout[t].fade(math.Exp(-dt / memory))
	}
	f.lag.fade(math.Exp(-dt / memory))
	f.recent *= math.Exp(-dt / sampleTime)
	f.closing *= math.Exp(-dt / sampleTime)
	f.open *= math.Exp(-dt / f.cfg.Timeouts[TCPClosing].Seconds())
	for b := range Bins + 1 {
		k := math.Exp(-dt)
		if b < Bins {
			k = math.Exp(-dt / min(max(1, edges[b]/4), memory))
		}
		for t := range f.seen {
			f.seen[t][b] *= k
			if b < Bins {
				f.dated[t][b] *= k
			}
		}
	}
}

// look takes in a sample of live entries.
func (f *Forecaster) look(sample []Sample) {
	f.recent += float64(len(sample))
	for _, e := range sample {
		c := min(e.Class, Other)
		t := trackOf[c]
		if e.Age < 0 {
			if left := f.timeoutOf(t) - e.Left.Seconds(); t.doomed() {
				f.dated[t][Bin(seconds(max(1, left)))]++
			} else {
				f.seen[t][Bins]++
			}
			continue
		}
		b, age := Bin(e.Age), float64(e.Age)/1e9
		f.seen[t][b]++
		born := f.arrivals.born(age)
		if born != nil && age >= mixYoungest && age < mixOldest {
			born.mix[t]++
		}
		if c == TCPClosing {
			f.closing++
		}
		if t == tcpConn && age >= mixYoungest && age < leakOldest {
			f.leak.look(b, c == TCPAssured, born)
		}
		if t.doomed() && b >= settled && e.Left > 0 {
			f.timeout[t].add(age+e.Left.Seconds(), 1)
		}
	}
}

// connLife returns how long a TCP connection lives if none has died yet: those
// that are closing now were closed within one timeout, by all that were open
// then.
func (f *Forecaster) connLife() float64 {
	close, most := f.cfg.Timeouts[TCPClosing].Seconds(), f.cfg.Timeouts[TCPAssured].Seconds()
	if f.recent < enough || f.closing < 1 {
		return most
	}
	return min(most, close+f.open/max(1, f.closing/f.recent*float64(f.entries)))
}

// timeoutOf returns the timeout of a doomed track, as its entries had it.
func (f *Forecaster) timeoutOf(t track) float64 {
	return f.timeout[t].mean(f.cfg.Timeouts[classOf[t]].Seconds(), priorSize)
}

// place distributes the living over tracks and ages. Their number at each age
// is exact, the shares of the tracks are from samples; where there are none they
// are as in the next younger bin, and for the youngest as among births.
func (f *Forecaster) place(s *Step, mix *[numClassed]float64, samples float64) {
	var known float64
	for _, n := range s.Live {
		known += float64(n)
	}
	scale := 1.0
	unknown := float64(s.Entries) - known
	if unknown < 0 { // a destroy was missed
		scale, unknown = float64(s.Entries)/known, 0
	}
	f.n = [numTracks][Bins + 1]float64{}
	var all [numClassed]float64
	for t := range all {
		for b := range f.seen[t] {
			all[t] += f.seen[t][b]
		}
	}
	spread(&all, &all, 0)
	if samples > 0 {
		for t := range all {
			mix[t] = (mix[t]*samples + all[t]) / (samples + 1)
		}
	} else {
		*mix = all
	}
	younger := *mix
	for b, n := range s.Live {
		if n == 0 {
			continue
		}
		live := float64(n) * scale
		f.n[anyTrack][b] = live
		share := *mix
		if b >= settled {
			for t := range share {
				share[t] = f.seen[t][b]
			}
			spread(&share, &younger, .1)
			younger = share
		}
		for t := range share {
			f.n[t][b] = live * share[t]
		}
	}
	f.n[anyTrack][Bins] = unknown
	f.placeUnknown(unknown, &all)
}

// placeUnknown gives an age to those entries of before our time that live no
// longer than their timeout; the others keep an unknown one.
func (f *Forecaster) placeUnknown(unknown float64, all *[numClassed]float64) {
	var sum float64
	for t := range all {
		sum += f.seen[t][Bins]
		for _, n := range f.dated[t] {
			sum += n
		}
	}
	for t := range all {
		if sum == 0 {
			f.n[t][Bins] = unknown * all[t]
			continue
		}
		f.n[t][Bins] = unknown * f.seen[t][Bins] / sum
		for b, n := range f.dated[t] {
			f.n[t][b] += unknown * n / sum
		}
	}
}

// spread makes shares of counts, to which `like` adds that many.
func spread(p, like *[numClassed]float64, that float64) {
	sum := that
	for _, n := range p {
		sum += n
	}
	for t := range p {
		p[t] = (p[t] + that*like[t]) / max(sum, 1e-9)
	}
}

// learn enters the interval into the life tables.
func (f *Forecaster) learn(s *Step, dt float64) {
	for t := range f.tables {
		for b := range f.n[t] {
			f.tables[t].risk[b] += f.n[t][b] * dt
		}
	}
	if f.recent > 0 {
		var conns float64
		for _, n := range f.n[tcpConn] {
			conns += n
		}
		f.open += dt * max(0, conns-f.closing/f.recent*float64(s.Entries))
	}
	for _, d := range s.Dead {
		t, n := trackOf[min(d.Class, Other)], float64(d.Count)
		b := Bins
		if d.Age >= 0 {
			if b = Bin(d.Age); b < settled {
				continue
			}
		}
		f.tables[t].dead[b] += n
		f.tables[anyTrack].dead[b] += n
		if timeout := f.timeoutOf(t); t.doomed() && d.Age.Seconds() > .8*timeout {
			f.lag.add(d.Age.Seconds()-timeout, n)
		}
	}
	if gone := float64(f.entries) + float64(s.New) - float64(s.Entries); len(s.Dead) == 0 && gone > 0 {
		f.tables[anyTrack].dead[Bins] += gone // only counts are known here
	}
}

// least and life of table.fit.
func (f *Forecaster) prior(t track) (least, life float64) {
	switch t {
	case udpConn, icmp:
		least = f.cfg.Timeouts[classOf[t]].Seconds()
		return least, least / 2
	case tcpConn:
		return 0, f.connLife()
	case anyTrack:
		switch f.cfg.Proto {
		case event.ProtoUDP, event.ProtoUDPLite:
			return f.prior(udpConn)
		case event.ProtoICMP, event.ProtoICMPv6:
			return f.prior(icmp)
		case event.ProtoTCP:
			least = f.cfg.Timeouts[TCPReplied].Seconds()
			return least, max(1, f.cfg.Timeouts[TCPClosing].Seconds()-least)
		}
		return 0, f.cfg.Timeouts[TCPClosing].Seconds()
	}
	return 0, f.cfg.Timeouts[classOf[t]].Seconds()
}

func (f *Forecaster) fit() {
	lag := max(.5, f.lag.mean(lagPrior, priorSize))
	for t := range numTracks {
		if t.doomed() {
			f.tables[t].fitDoomed(&f.curves[t], f.timeoutOf(t), lag)
		} else {
			least, life := f.prior(t)
			f.tables[t].fit(&f.curves[t], least, life, f.last.Sub(f.first).Seconds())
		}
	}
}

// classed says whether classes of live entries are known.
func (f *Forecaster) classed() bool { return f.recent >= enough }

// expect puts together what the occupancy is made of.
func (f *Forecaster) expect(r rate, mix *[numClassed]float64, samples float64) {
	o := &f.out
	o.live, o.in, o.rate, o.samples, o.ahead = o.live[:0], o.in[:0], r, samples, 0
	from, to := anyTrack, numTracks
	if f.classed() {
		from, to = 0, numClassed
	}
	leakAge := -1.0
	if f.leak.on {
		leakAge = f.last.Sub(f.leak.since).Seconds()
		f.leak.mix(&f.leaky, &f.curves[tcpConn])
	}
	for t := from; t < to; t++ {
		for b, n := range f.n[t] {
			if n < tiny {
				continue
			}
			if b == Bins {
				_, life := f.prior(t)
				o.live = append(o.live, group{n: n, hazard: f.tables[t].unknownHazard(life), err: unsure(f.tables[t].dead[Bins]), t: t})
				continue
			}
			c := &f.curves[t]
			if t == tcpConn && edges[b] < leakAge {
				c = &f.leaky
			}
			o.alive(n, (edges[b]+edges[b+1])/2, c, t)
		}
		in := inflow{share: 1, c: &f.curves[t], t: t}
		if t < numClassed {
			if in.share = mix[t]; in.share == 0 {
				continue
			}
			if t == tcpConn && f.leak.on {
				in.c = &f.leaky
			}
		}
		o.in = append(o.in, in)
	}
}

// tell sums up.
func (f *Forecaster) tell(s *Step, r rate, samples float64) Forecast {
	out := Forecast{Rate: r.perSec, Growth: r.slope, Leak: f.leak.frac, TimeToFull: Never, Low: Never, High: Never}
	out.Saturation, _, _ = f.out.at(horizon)
	out.Confident = f.classed() && samples >= 30
	if s.Max == 0 {
		return out
	}
	out.Fill = float64(s.Entries) / float64(s.Max)
	if out.Fill >= 1 {
		out.TimeToFull, out.Low, out.High = 0, 0, 0
		return out
	}
	x := f.out.reach(float64(s.Max), bandWidth)
	out.TimeToFull, out.Low, out.High = seconds(x.mean), seconds(x.low), seconds(x.high)
	return out
}

// At returns the expected number of entries h from the last step, and its
// standard deviation. It does not know of Max: what is above does not fit.
func (f *Forecaster) At(h time.Duration) (mean, sd float64) {
	mean, v, _ := f.out.at(max(0, h.Seconds()))
	return mean, math.Sqrt(v)
}

// ProbFull returns the probability that the table is full h from the last step.
func (f *Forecaster) ProbFull(h time.Duration) float64 {
	mean, sd := f.At(h)
	return math.Erfc((float64(f.max)-mean)/(math.Sqrt2*max(sd, 1e-9))) / 2
}
