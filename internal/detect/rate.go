package detect

import (
	"fmt"
	"math"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// D7: a burst of new entries of a source. A CUSUM of the counts k of whole seconds
// against three times the source's own rate (Page 1954; Lorden 1971), scaled by how
// much burstier than Poisson the source is:
//
//	S <- max(0, S + (k ln rho - lambda (rho - 1)) / phi), rho = 3
//	lambda = max(mean of k over the last hour, .2), phi = max(1, variance / lambda)
//
// in nats; crossed at 20: once in e^20 seconds for a source that does not change. It
// falls by a sixtieth of that at least in a second with no more than usual, so that a
// burst ends within a minute and a half however much it has raised phi.
// Nobody is tested before it has been known for five minutes, and what is fewer than
// a hundred entries is not told. A burst alone is no abuse: for information.
//
// One of questions to name servers from a socket each is a DNS storm: it holds an entry
// for 30 s with each of them (nf_conntrack_udp_timeout).
const (
	rateRho     = 3.
	rateFloor   = .2
	rateCross   = 20.
	rateMost    = 1.5 * rateCross // so that it falls again when the burst is over
	rateFalls   = rateCross / 60
	lnRho       = 1.0986123
	rateHour    = 3600
	rateLearns  = 300 // seconds
	burstLeast  = 100
	burstQuiet  = time.Minute
	burstsAHour = 256 // findings
	stormShare  = .5  // of the entries that are questions
	askedHolds  = 30  // seconds
	rateNever   = math.MaxUint32
)

// rate is the arrival rate of a subject.
type rate struct {
	second uint32 // that n is of
	n      uint32 // new entries in it
	before uint32 // in the one before
	need   uint32 // n with which the test may be crossed
	run    uint32 // entries since S was 0, without n
	since  uint32 // second of the first of these
	dns    uint32 // questions among them and n
	s      float32
	mean   float32
	spread float32 // mean square of k - mean
	age    uint16  // of second, in seconds, up to rateHour
}

// known is for how many seconds there has been a rate, at least.
func (r *rate) known(sec uint32) uint32 { return uint32(r.age) + sec - min(sec, r.second) }

// count takes new entries and says whether the test is crossed with them, once a
// second.
func (r *rate) count(sec, n uint32) bool {
	if r.second != sec {
		r.turn(sec)
	}
	r.n += n
	return r.n >= r.need && r.crossed()
}

// turn ends the second that was, and those without an entry up to sec. It is what
// most entries of many slow sources pay: as few divisions as can be.
func (r *rate) turn(sec uint32) {
	if r.second == 0 {
		*r = rate{second: sec, since: sec, need: rateNever}
		return
	}
	if sec < r.second {
		return
	}
	k, age := float32(r.n), float32(r.age)
	lambda, perPhi := r.scale()
	x := (k*lnRho - lambda*(rateRho-1)) * perPhi
	if k <= lambda {
		x = min(x, -rateFalls)
	}
	r.s = min(rateMost, max(0, r.s+x))
	if r.run += r.n; r.age < rateLearns {
		r.s = 0
	}
	weight, dev := 1/(age+1), k-r.mean
	r.mean += dev * weight
	r.spread += (dev*dev - r.spread) * weight
	r.before = r.n
	if empty := float32(sec - r.second - 1); empty > 0 {
		keep := age / (age + empty)
		r.spread = keep*r.spread + (1-keep)*r.mean*r.mean
		r.mean *= keep
		r.s = max(0, r.s-max(rateFalls, lambda*(rateRho-1)*perPhi)*empty)
		r.before = 0
	}
	if r.s == 0 {
		r.run, r.dns, r.since = 0, 0, sec
	}
	r.age = uint16(min(uint32(r.age)+sec-r.second, rateHour))
	r.n, r.second, r.need = 0, sec, rateNever
	if r.age >= rateLearns {
		r.need = uint32(max(1, (rateCross-r.s)/lnRho)) // if phi were 1 and lambda 0
	}
}

// crossed says whether the entries of this second cross the test.
func (r *rate) crossed() bool {
	lambda, perPhi := r.scale()
	need := ((rateCross-r.s)/perPhi + lambda*(rateRho-1)) / lnRho
	r.need = uint32(max(1, math.Ceil(float64(need))))
	if r.run < burstLeast {
		r.need = max(r.need, burstLeast-r.run)
	}
	if r.n < r.need {
		return false
	}
	r.need = rateNever
	return true
}

// scale is lambda and 1/phi.
func (r *rate) scale() (lambda, perPhi float32) {
	if lambda = max(r.mean, rateFloor); r.spread > lambda {
		return lambda, lambda / r.spread
	}
	return lambda, 1
}

// lately is how many new entries came within the last second or two, at most those
// of one.
func (r *rate) lately(sec uint32) uint32 {
	switch sec - r.second {
	case 0:
		return max(r.n, r.before)
	case 1:
		return r.n
	}
	return 0
}

// bursting bounds what is told of bursts.
type bursting struct {
	hour uint32
	n    int
}

// burst tells of a source whose test is crossed, or that it goes on.
func (d *Engine) burst(s *subject) {
	k := s.incident("rate_burst")
	i := d.book.find(k)
	if i == nil || i.f.State == agg.Cleared {
		if hour := s.burst.second / rateHour; d.bursts.hour != hour {
			d.bursts = bursting{hour: hour}
		}
		if d.bursts.n++; d.bursts.n > burstsAHour {
			d.over.Bursts++
			return
		}
		i = d.begin(k, d.instant(s.burst.since))
	}
	i.last, i.changed, i.quiet = d.now, true, burstQuiet
	if i.f.State == agg.Confirmed {
		return
	}
	hash, base := s.hash, float64(s.burst.mean)
	i.refill = func() {
		if s := d.subjects.find(hash); s != nil && s.burst.s+float32(s.burst.n) > 0 {
			s.burst.fill(d, i, s.addr.String(), base)
		}
	}
	i.f.State, i.f.Severity = agg.Confirmed, agg.Info
	i.f.Spoofable = s.flags&proven == 0
	i.fill()
	d.book.tell(i, d.now)
}

// fill writes the burst into a finding; base is the rate before it.
func (r *rate) fill(d *Engine, i *incident, who string, base float64) {
	if r.since > d.second(i.last) || d.instant(r.since) != i.first {
		return // that one is over
	}
	i.last = max(i.last, min(d.now, d.instant(r.second+1)-1))
	n := r.run + r.n
	took := max(1, d.second(d.now)-r.since+1)
	lambda, perPhi := r.scale()
	f := &i.f
	f.Statistic, f.Threshold = max(rateCross, float64(r.s+(float32(r.n)*lnRho-lambda*(rateRho-1))*perPhi)), rateCross
	f.Evidence = agg.Evidence{Figures: []agg.Figure{{Name: "new_entries", Value: float64(n)}, {Name: "seconds", Value: float64(took)},
		{Name: "usual_per_second", Value: base}, {Name: "variance_to_mean", Value: float64(1 / perPhi)}}}
	f.Why = fmt.Sprintf("%s made %d new entries in %s, where %.2g per second are usual", who, n, plural(int(took), "second"), base)
	f.Target = agg.Target{}
	if float64(r.dns) >= stormShare*float64(n) {
		holds := float64(r.dns) / float64(took) * min(askedHolds, float64(took))
		f.Target = agg.Target{Proto: event.ProtoUDP, Port: 53}
		f.Evidence.Figures = append(f.Evidence.Figures, agg.Figure{Name: "dns_questions", Value: float64(r.dns)}, agg.Figure{Name: "dns_entries_held", Value: math.Round(holds)})
		f.Why += fmt.Sprintf("; %d are questions to name servers, each from a socket of its own, which hold %.0f entries for %d s each", r.dns, holds, askedHolds)
	}
}

// instant is the begin of a second of Engine.second.
func (d *Engine) instant(sec uint32) event.Ktime {
	return d.start + (event.Ktime(sec)-86400)*event.Ktime(time.Second)
}
