package detect

import (
	"fmt"
	"math"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// D8: what becomes of a link. lambda is its entries per second, W how long they live,
// L = lambda W how many there are (Little): a link that holds more has more of one or
// the other.
//
// A leak is W: over 10 to 30 minutes L rises in nearly every one (Mann 1945, Kendall
// 1975: S = sum of signs of all later minus earlier, z = (S - 1)/sqrt(n(n-1)(2n+5)/18)
// >= 3.1), N entries came and D went with N - D >= 5 sqrt(N + D) and fifty at least,
// it still rises, and lambda is not up by more than a fifth. It is suspect at ten
// minutes and confirmed at thirty: what lives for long rises as long when it begins.
//
// A pool is lost when lambda is up three times and at one a second at least, W is
// down to a third, and four of five connections are short, in two minutes against those
// before; where the link was seldom before, against its connections that were open
// then.
//
// A new pattern is a link that was not there in the day before, is answered, and
// makes 20 a second for 10 s or holds a hundredth of the table; or a source with more
// than 50 new endpoints that answer in five minutes, and ten times its own most.
// Nothing is new in the first half hour, and a source's own most takes as long.
const (
	leakMinutes = 10
	leakSure    = 30
	leakSkips   = 4 // minutes at first: TIME_WAIT fills up
	leakZ       = 3.1
	leakSigma   = 5.
	leakLeast   = 50
	leakSteady  = 1.2
	leakQuiet   = 10 * time.Minute

	lostTimes   = 3.
	lostRate    = 60 // a minute
	lostOpen    = 3
	lostShort   = .8
	lostMinutes = 2
	lostQuiet   = 30 * time.Minute

	newRate    = 20 // per second
	newShare   = .01
	newLearns  = 30 * time.Minute
	newQuiet   = 10 * time.Minute
	newFollows = 10 * time.Minute
	fanLeast   = 50
	fanTimes   = 10
	fanSeconds = 300
	fanKeeps   = 7 * 24 * 3600 / fanSeconds
)

// mannKendall is z of a series.
func mannKendall(x []float64) float64 {
	s, n := 0., float64(len(x))
	for i := range x {
		for _, y := range x[i+1:] {
			switch {
			case y > x[i]:
				s++
			case y < x[i]:
				s--
			}
		}
	}
	if s <= 0 {
		return 0
	}
	return (s - 1) / math.Sqrt(n*(n-1)*(2*n+5)/18)
}

// leaking is a link's last minutes as the test sees them.
type leaking struct {
	minutes     int
	z           float64
	made, ended uint64
	from, to    uint64 // live
	lambda      float64
}

func (x *link) leaking() (l leaking, is bool) {
	n := min(x.kept(), max(x.minute, leakSkips)-leakSkips)
	if n < leakMinutes {
		return l, false
	}
	live := make([]float64, n)
	early, late := 0., 0.
	for i := range n {
		m := x.back(n - 1 - i)
		live[i] = float64(m.live)
		l.made, l.ended = l.made+uint64(m.made), l.ended+uint64(m.ended)
		switch {
		case i < n/3:
			early += float64(m.made)
		case i >= n-n/3:
			late += float64(m.made)
		}
	}
	l.minutes, l.from, l.to, l.z = int(n), uint64(live[0]), uint64(live[n-1]), mannKendall(live)
	l.lambda = float64(l.made) / 60 / float64(n)
	grown := float64(l.made) - float64(l.ended)
	half := live[n-1] - live[n-1-n/2]
	return l, l.z >= leakZ && grown >= leakLeast && grown >= leakSigma*math.Sqrt(float64(l.made+l.ended)) &&
		late <= leakSteady*early && half >= .25*(live[n-1]-live[0])
}

func (d *Engine) leaks(x *link) {
	l, is := x.leaking()
	if !is || x.tuple.Proto != event.ProtoTCP || x.lastGood == 0 {
		return
	}
	state := agg.Suspect
	if l.minutes >= leakSure {
		state = agg.Confirmed
	}
	first := d.now - event.Ktime(l.minutes)*event.Ktime(time.Minute)
	d.join(x, "connection_leak", first, leakQuiet, state, func(x *link, f *agg.Finding) {
		if l, is := x.leaking(); is {
			l.fill(x, f)
		}
	})
}

func (l *leaking) fill(x *link, f *agg.Finding) {
	f.Statistic, f.Threshold = l.z, leakZ
	perHour := float64(l.to-min(l.to, l.from)) / float64(l.minutes) * 60
	f.Evidence = agg.Evidence{Dsts: 1, Dports: 1, Figures: []agg.Figure{{Name: "made", Value: float64(l.made)}, {Name: "ended", Value: float64(l.ended)},
		{Name: "live_before", Value: float64(l.from)}, {Name: "live", Value: float64(l.to)}, {Name: "per_hour", Value: perHour}, {Name: "minutes", Value: float64(l.minutes)}}}
	f.Why = fmt.Sprintf("%s holds more and more connections to %s: %d, %d min ago %d; it makes %.2g per second as before, and of %d only %d have ended; %.0f more each hour",
		x.tuple.Src, endpointName(&x.tuple), l.to, l.minutes, l.from, l.lambda, l.made, l.ended, perHour)
	f.WhyNotBenign = "more load would show in how many it makes"
}

// lost is a link before and after it has lost its pool.
type lost struct {
	before, after       float64 // per minute
	openBefore, openNow time.Duration
	short               float64 // share
	made                uint64
}

func (x *link) lost() (l lost, is bool) {
	if x.minute < lostMinutes+1 {
		return l, false
	}
	var then, now lives
	minutes := 0.
	for i := range x.kept() {
		m := x.back(i)
		switch {
		case i < lostMinutes:
			now.n, now.short, now.open = now.n+m.lives.n, now.short+m.lives.short, now.open+m.lives.open
			l.made += uint64(m.made)
		case i >= lostMinutes+3: // entries go two minutes after their connections
			then.n, then.open = then.n+m.lives.n, then.open+m.lives.open
			l.before += float64(m.made)
			minutes++
		}
	}
	if minutes < leakMinutes { // it was seldom before
		if x.fresh {
			return l, false
		}
		l.before, minutes, then = hotFrom, 1, x.older
	}
	l.before /= minutes
	l.after = float64(l.made) / lostMinutes
	l.openBefore, l.openNow = then.mean(), now.mean()
	l.short = float64(now.short) / float64(max(1, now.n))
	return l, l.after >= lostRate && l.after >= lostTimes*l.before && then.n > 0 && now.n >= hammerLeast &&
		l.openNow <= l.openBefore/lostOpen && l.short >= lostShort
}

func (d *Engine) poolLost(x *link) {
	l, is := x.lost()
	if !is {
		return
	}
	first := d.now - event.Ktime(lostMinutes*time.Minute)
	d.join(x, "pool_lost", first, lostQuiet, agg.Confirmed, func(_ *link, f *agg.Finding) { l.fill(x, f) })
}

func (l *lost) fill(x *link, f *agg.Finding) {
	f.Statistic, f.Threshold = l.after/max(1, l.before), lostTimes
	f.Evidence = agg.Evidence{Dsts: 1, Dports: 1, Figures: []agg.Figure{{Name: "made", Value: float64(l.made)}, {Name: "per_minute_before", Value: l.before},
		{Name: "per_minute", Value: l.after}, {Name: "open_before_seconds", Value: l.openBefore.Seconds()}, {Name: "open_seconds", Value: l.openNow.Seconds()}, {Name: "short_share", Value: l.short}}}
	f.Why = fmt.Sprintf("%s makes %.0f connections a minute to %s, before it was %.0f, and they are open for %s, where it was %s: it does not keep them any more",
		x.tuple.Src, l.after, endpointName(&x.tuple), l.before, brief(l.openNow), brief(l.openBefore))
	f.WhyNotBenign = "more load would leave them open as long"
}

// newPattern looks at a link that was not there before, and follows it for a while.
func (d *Engine) newPattern(x *link, sec uint32) {
	age := d.now - x.since
	if !x.fresh || x.lastGood == 0 || x.since-d.start < event.Ktime(newLearns) || age > event.Ktime(time.Hour) ||
		x.told&toldNew != 0 && age > event.Ktime(newFollows) {
		return
	}
	w, now := x.sum(sec, 3), *x.at(sec)
	p := pattern{made: x.made, live: x.live(), rate: float64(w.made-now.made) / (2 * sliceSeconds), share: d.shareOf(x)}
	if x.told&toldNew == 0 && p.rate < newRate && p.share < newShare {
		return
	}
	x.told |= toldNew
	d.join(x, "new_connection_pattern", x.since, newQuiet, agg.Confirmed, func(x *link, f *agg.Finding) { p.fill(d, x, f) })
}

// pattern is a new link as of a tick.
type pattern struct {
	made, live  uint64
	rate, share float64
}

func (p *pattern) fill(d *Engine, x *link, f *agg.Finding) {
	f.Statistic, f.Threshold = p.rate, newRate
	if p.rate < newRate {
		f.Statistic, f.Threshold = p.share, newShare
	}
	f.Evidence = agg.Evidence{Dsts: 1, Dports: 1, Figures: []agg.Figure{{Name: "made", Value: float64(p.made)}, {Name: "live", Value: float64(p.live)},
		{Name: "per_second", Value: p.rate}, {Name: "table_share", Value: p.share}}}
	f.Why = fmt.Sprintf("%s connects to %s, which it did not in the day before: %d connections since %s, %.0f per second, %d of them live (%.1f %% of the table)",
		x.tuple.Src, endpointName(&x.tuple), p.made, d.cfg.Clock.At(x.since).Format("15:04:05"), p.rate, p.live, 100*p.share)
}

// shareOf is the part of the table that a link holds, 0 where its size is not known.
func (d *Engine) shareOf(x *link) float64 {
	for i := range d.state.Tables {
		if t := &d.state.Tables[i]; t.NetNS == x.netns && t.Max > 0 {
			return float64(x.live()) / float64(t.Max)
		}
	}
	return 0
}

// fan counts new endpoints of a source that answer, in spans of five minutes.
type fan struct {
	slot    uint32
	n, most uint16
	mostAt  uint32
}

// add says whether there are more than ever; age is how long the source is known.
func (f *fan) add(sec, age uint32) bool {
	if slot := sec / fanSeconds; f.slot != slot {
		if f.n >= f.most || slot-f.mostAt > fanKeeps {
			f.most, f.mostAt = f.n, f.slot
		}
		f.slot, f.n = slot, 0
	}
	if f.n < math.MaxUint16 {
		f.n++
	}
	return age >= uint32(newLearns/time.Second) && f.n > fanLeast && int(f.n) > fanTimes*int(f.most)
}

// fannedOut tells of a source that finds many new endpoints.
func (d *Engine) fannedOut(s *subject) {
	k := s.incident("new_connection_pattern")
	i := d.book.find(k)
	first := d.instant(s.past.fan.slot * fanSeconds)
	if i == nil || i.f.State == agg.Cleared {
		i = d.begin(k, first)
	}
	i.last, i.changed, i.quiet = d.now, true, newQuiet
	if i.f.State == agg.Confirmed {
		return
	}
	i.f.State, i.f.Severity = agg.Confirmed, agg.Info
	hash := s.hash
	i.refill = func() {
		if s := d.subjects.find(hash); s != nil && s.past != nil && d.instant(s.past.fan.slot*fanSeconds) == i.first {
			f, fan := &i.f, &s.past.fan
			f.Statistic, f.Threshold = float64(fan.n), max(fanLeast, fanTimes*float64(fan.most))
			f.Evidence = agg.Evidence{Answered: uint64(fan.n), Figures: []agg.Figure{{Name: "most_before", Value: float64(fan.most)}}}
			f.Why = fmt.Sprintf("%s was answered by %d endpoints in five minutes to which it had not come before; its most was %d", s.addr, fan.n, fan.most)
		}
	}
	i.fill()
	d.book.tell(i, d.now)
}
