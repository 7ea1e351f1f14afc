package detect

import (
	"fmt"
	"iter"
	"math"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// Common mode: when everybody fails, failing is evidence of nothing.
//
// Two views of it, both of contacts that are looked at whatever becomes of them, so
// that failures are not counted more often than successes:
//
//   - p, the median over sources with 20 successes in the last hour, five or more of
//     these, of the failed share of their contacts (weights exp(-t/30 s)). A scanner
//     with a history is one source among them, and who fails more than succeeds has
//     none. The scan test takes theta0 = 1 - min(.6, max(.2, 1.5 p)), and with p > .5
//     nothing is evidence, if all their contacts say so together: more than half of
//     them fail by three standard deviations, at five endpoints or more;
//   - contacts with endpoints that had been good within the hour, by the second they
//     were made in: of those since one of the last 30 seconds, ten or more with five
//     endpoints or more that failed, more than half of the contacts and of the
//     endpoints have failed. That takes no second source; where there is none, 20
//     contacts in a row have to fail, those with new endpoints among them.
//
// Silence shows 3 s after a contact, and an outage when there is enough of it. What
// was counted against somebody meanwhile is remembered (blame.go) and taken back when
// the outage shows; while three such endpoints are silent, and for the first moment
// of a test that rests on silence alone, nothing is told.
//
// It is over when most contacts of the last seconds are answered. Contacts that were
// made while it lasted stay without weight.
const (
	panelSize     = 256
	panelLeast    = 5
	panelWeight   = 10 // contacts of one source that count at most
	healthyLeast  = 20
	healthyFor    = 3600 // seconds
	healthTau     = 30.
	outageShare   = .5
	outageWindow  = 32 // seconds; the last 3 have no silence yet
	outageLeast   = 10
	outageEnds    = 5
	doubtEnds     = 3
	doubtMost     = 5 * time.Second
	answersBy     = 400 * time.Millisecond // a refusal is known at once, a success with the first look
	loneLeast     = 20                     // failures, where there is one source
	overSeconds   = 5
	worksFrom     = 4 // seconds ago
	worksSeconds  = 12
	overLeast     = 5
	outageForgets = 10 * time.Minute // without a contact that tells
	panelRest     = time.Minute      // p is slow: after it is over it says nothing
	endsKept      = 32               // endpoints of a second
	outageNames   = 8
)

// frozen says whether everybody fails.
func (d *Engine) frozen() bool { return d.outage.is }

// excused says whether a failing contact made at a time is evidence of nothing.
func (d *Engine) excused(at event.Ktime) bool {
	o := &d.outage
	return o.is || at >= o.begin && at <= o.end
}

// outage is the state of common mode.
type outage struct {
	is         bool
	byPanel    bool
	begin, end event.Ktime // of contacts; end of the last one when it is over
	from       event.Ktime // contacts are counted, a little before begin
	told       event.Ktime // last contact that told
	panel      []uint64    // sources with a history
	p          float64     // median of their failed shares, 0 when they are too few
	of         int         // how many these are
	most       bool        // p is more than half, and not by chance
	moments    [outageWindow]moment
	looked     event.Ktime
	doubt      event.Ktime // since when, 0 for not
	ends       set         // scratch
	blamed     []blame     // a ring
	next       int
	held       []held
	count      outageCount
}

// moment is what became of contacts with good endpoints, made in one second.
type moment struct {
	second                    uint32
	refused, unanswered, good uint32
	failedEnds, goodEnds      [endsKept]uint64
	failedEndsN, goodEndsN    uint8
	netns                     event.NetNS
	firstAt                   event.Ktime // of those that failed
	src                       uint64      // one that failed
	several                   bool        // and not alone
	fresh                     uint32      // answered contacts with endpoints that were not known
}

// outageCount is of the contacts with good endpoints that were made since it began.
type outageCount struct {
	refused, unanswered, answered uint64
	ends                          set
	samples                       []agg.Contacted
	names                         []string
	netns                         event.NetNS
	key                           incidentKey
}

// health is how a source fares.
type health struct {
	second  uint32 // of the last outcome
	hour    uint32 // when the hour of ok began
	ok, had uint16 // successes in this hour, and in the one before
	bad     uint16 // failures in this hour
	fair    bool   // at the last success there were no more failures than successes: no scanner
	inPanel bool
	all     float32 // contacts, fading
	failed  float32
	end     uint64 // the last endpoint that failed
}

// fade is exp(-t/healthTau) for whole seconds.
var fade = func() (f [256]float32) {
	for i := range f {
		f[i] = float32(math.Exp(-float64(i) / healthTau))
	}
	return f
}()

// add takes an outcome, and says whether the source has a history.
func (h *health) add(sec uint32, fails bool) bool {
	f := fade[min(sec-min(sec, h.second), uint32(len(fade)-1))]
	h.all, h.failed, h.second = h.all*f+1, h.failed*f, max(sec, h.second)
	if fails {
		h.failed++
		h.bad = min(h.bad, math.MaxUint16-1) + 1
	} else {
		if passed := sec - min(sec, h.hour); passed >= healthyFor {
			h.had = h.ok
			if passed >= 2*healthyFor {
				h.had = 0
			}
			h.ok, h.bad, h.hour = 0, 0, sec
		}
		h.ok = min(h.ok, math.MaxUint16-1) + 1
		h.fair = h.bad <= h.ok
	}
	return h.healthy(sec)
}

// healthy says whether it has had enough successes within the hour: those of the hour
// before count by the part of it that is within.
func (h *health) healthy(sec uint32) bool {
	passed := min(sec-min(sec, h.hour), 2*healthyFor)
	ok, had := float64(h.ok), float64(h.had)
	if passed >= healthyFor {
		ok, had, passed = 0, ok, passed-healthyFor
	}
	return h.fair && ok+had*(1-float64(passed)/healthyFor) >= healthyLeast
}

// common takes the outcome of a contact that was looked at.
func (d *Engine) common(s *subject, j *judgement) {
	if j.o == Accepted || j.o == Invalid {
		return
	}
	o, fails := &d.outage, j.o.failure() && j.o != HalfOpen
	if s.past != nil || j.o == Answered { // how others fare shows nothing
		h := &s.hasPast().health
		if fails {
			h.end = j.place.endpoint
		}
		if !j.judged && h.add(j.sec, fails) && !h.inPanel && len(o.panel) < panelSize {
			h.inPanel = true
			o.panel = append(o.panel, s.hash)
		}
	}
	if !j.known {
		if !fails {
			o.at(d, j.At, func(m *moment) { m.fresh++ })
		}
		return
	}
	o.contact(d, j, fails)
	if fails && j.now-o.looked >= event.Ktime(100*time.Millisecond) {
		o.look(d)
	}
}

// contact counts one with an endpoint that was good.
func (o *outage) contact(d *Engine, j *judgement, fails bool) {
	o.told = j.now
	if o.is && j.At >= o.from {
		o.count.take(d, j, fails)
	}
	o.at(d, j.At, func(m *moment) { m.take(j, fails) })
}

// at calls fn for the moment of a time, if it is kept.
func (o *outage) at(d *Engine, t event.Ktime, fn func(*moment)) {
	sec := d.second(t)
	m := &o.moments[sec%outageWindow]
	if m.second < sec {
		*m = moment{second: sec}
	}
	if m.second == sec {
		fn(m)
	}
}

func (m *moment) take(j *judgement, fails bool) {
	if j.judged && j.before == Unanswered {
		m.unanswered -= min(m.unanswered, 1)
	}
	ends, n := &m.goodEnds, &m.goodEndsN
	switch {
	case !fails:
		m.good++
	default:
		if ends, n = &m.failedEnds, &m.failedEndsN; j.o == Refused {
			m.refused++
		} else {
			m.unanswered++
		}
		if m.src == 0 {
			m.src = j.place.src
		}
		m.several = m.several || m.src != j.place.src
		if m.netns = j.NetNS; m.firstAt == 0 || j.At < m.firstAt {
			m.firstAt = j.At
		}
	}
	if *n < endsKept && !slices.Contains(ends[:*n], j.place.endpoint) {
		ends[*n] = j.place.endpoint
		*n++
	}
}

func (c *outageCount) take(d *Engine, j *judgement, fails bool) {
	if j.judged && j.before == Unanswered {
		c.unanswered -= min(c.unanswered, 1)
	}
	switch {
	case !fails:
		c.answered++
		return
	case j.o == Refused:
		c.refused++
	default:
		c.unanswered++
	}
	if len(c.samples) < samples {
		c.samples = append(c.samples, d.example(j))
	}
	if c.ends.add(j.place.endpoint) && len(c.names) < outageNames {
		c.names = append(c.names, endpointName(&j.Orig))
	}
}

// recent are the moments since the last outage of which all answers are known, the
// newest first.
func (o *outage) recent(d *Engine, now uint32) iter.Seq[*moment] {
	return func(yield func(*moment) bool) {
		for back := range uint32(outageWindow) {
			m := &o.moments[(now-back)%outageWindow]
			if o.end != 0 && now-back <= d.second(o.end) {
				return // that one is over
			}
			if m.second == now-back && d.now-d.instant(now-back+1) >= event.Ktime(answersBy) && !yield(m) {
				return
			}
		}
	}
}

// mostFail says whether more contacts failed than were answered, over any time up to now.
func (o *outage) mostFail(d *Engine, now uint32) bool {
	failed, good := uint32(0), uint32(0)
	for m := range o.recent(d, now) {
		if failed, good = failed+m.refused+m.unanswered, good+m.good; failed > good {
			return true
		}
	}
	return false
}

// look asks whether good endpoints fail, all at once: over the last seconds, as many
// of them as speak for it most.
func (o *outage) look(d *Engine) {
	o.looked = d.now
	if o.is {
		return
	}
	now, doubted := d.second(d.now), false
	if !o.mostFail(d, now) {
		o.doubt = 0
		return
	}
	o.ends = set{}
	failed, good, failedEnds := uint32(0), uint32(0), 0
	goodEnds, lone := set{}, loner{}
	for m := range o.recent(d, now) {
		failed, good = failed+m.refused+m.unanswered, good+m.good
		lone.add(m)
		for _, h := range m.failedEnds[:m.failedEndsN] {
			o.ends.add(h)
		}
		for _, h := range m.goodEnds[:m.goodEndsN] {
			goodEnds.add(h)
		}
		failedEnds = o.ends.len()
		if failed <= good || failedEnds <= goodEnds.len() || lone.doubtful(failed, good) {
			continue
		}
		if failed >= outageLeast && failedEnds >= outageEnds {
			o.freeze(d, o.since(now), false)
			return
		}
		doubted = doubted || failedEnds >= doubtEnds
	}
	switch {
	case !doubted:
		o.doubt = 0
	case o.doubt == 0:
		o.doubt = d.now
	}
}

// loner says whether all that fails is of one source: of it an outage takes that
// nothing is answered, of whatever it asks for. A peer-to-peer client fails at more
// than half of those it has met before.
type loner struct {
	src     uint64
	several bool
	fresh   uint32
}

func (l *loner) add(m *moment) {
	if l.src == 0 {
		l.src = m.src
	}
	l.several = l.several || m.several || m.src != 0 && m.src != l.src
	l.fresh += m.fresh
}

func (l *loner) doubtful(failed, good uint32) bool {
	return !l.several && (good+l.fresh > 0 || failed < loneLeast)
}

// since is when the run of seconds began in which more good endpoints failed than
// were answered.
func (o *outage) since(now uint32) (begin event.Ktime) {
	for back := range uint32(outageWindow) {
		m := &o.moments[(now-back)%outageWindow]
		switch {
		case m.second != now-back || m.refused+m.unanswered+m.good == 0:
		case m.refused+m.unanswered > 0 && (m.refused+m.unanswered >= m.good || begin == 0):
			begin = m.firstAt
		case begin != 0:
			if m.refused+m.unanswered > 0 { // it began in the midst of this second
				begin = m.firstAt
			}
			return begin
		}
	}
	return begin
}

// freeze begins an outage.
func (o *outage) freeze(d *Engine, begin event.Ktime, byPanel bool) {
	o.is, o.byPanel, o.begin, o.end, o.doubt = true, byPanel, begin, 0, 0
	o.count = outageCount{}
	from := d.second(begin)
	for back := uint32(outageWindow); back > 0; back-- {
		m := &o.moments[(d.second(d.now)-back+1)%outageWindow]
		if m.second < from || m.second > d.second(d.now) {
			continue
		}
		o.count.refused += uint64(m.refused)
		o.count.unanswered += uint64(m.unanswered)
		o.count.answered += uint64(m.good)
		for _, h := range m.failedEnds[:m.failedEndsN] {
			o.count.ends.add(h)
		}
		if m.netns != 0 && o.count.netns == 0 {
			o.count.netns = m.netns
		}
	}
	o.count.key = incidentKey{class: "upstream_outage", netns: o.count.netns}
	d.takeBlameBack(begin)
	d.forgive(begin)
	o.from = d.instant(from)
	i := d.begin(o.count.key, o.from)
	i.quiet, i.last, i.changed = 2*outageForgets, d.now, true
	i.refill = func() { o.fill(d, i) }
	i.f.State = agg.Confirmed
	i.fill()
	d.book.tell(i, d.now)
}

func (o *outage) fill(d *Engine, i *incident) {
	c, f := &o.count, &i.f
	f.Severity = agg.Page
	all := c.refused + c.unanswered + c.answered
	f.Statistic, f.Threshold = float64(c.refused+c.unanswered)/float64(max(1, all)), outageShare
	f.Evidence = agg.Evidence{Contacts: all, Answered: c.answered, Refused: c.refused, Unanswered: c.unanswered,
		Figures: []agg.Figure{{Name: "failed_endpoints", Value: float64(c.ends.len())}, {Name: "failed_share_median", Value: o.p},
			{Name: "sources_with_history", Value: float64(o.of)}},
		Samples: slices.Clone(c.samples), Items: slices.Clone(c.names)}
	f.Why = fmt.Sprintf("%d endpoints that were good within the hour fail: of %d contacts in %s %d went unanswered and %d were refused",
		c.ends.len(), all, brief(d.now.Sub(i.first)), c.unanswered, c.refused)
	if o.byPanel {
		f.Statistic = o.p
		f.Why = fmt.Sprintf("of %d sources with a history half fail in %.0f %% of their contacts or more; ", o.of, 100*o.p) + f.Why
	}
	f.WhyNotBenign = "they are many endpoints at once, and no scan test counts what fails meanwhile"
}

// tick looks at the sources with a history, and whether it is over.
func (o *outage) tick(d *Engine) {
	o.median(d)
	rests := o.end != 0 && d.now-o.end < event.Ktime(panelRest)
	theta := 1 - min(.6, max(1-theta0, 1.5*o.p))
	if rests {
		theta = theta0
	}
	d.scan.failure, d.scan.success = math.Log((1-theta1)/(1-theta)), math.Log(theta1/theta)
	switch {
	case o.is:
		if i := d.book.find(o.count.key); i != nil {
			i.last, i.changed = d.now, true
		}
		if o.over(d) {
			o.thaw(d)
		}
	case o.most && !rests:
		o.freeze(d, d.now-event.Ktime(healthTau*float64(time.Second)), true)
	default:
		o.look(d)
	}
	d.release(d.now)
}

// median is of the failed shares of those that have a history and are active.
func (o *outage) median(d *Engine) {
	sec := d.second(d.now)
	var shares []float64
	var all, failed float64
	o.ends = set{}
	o.panel = slices.DeleteFunc(o.panel, func(h uint64) bool {
		s := d.subjects.find(h)
		if s == nil || s.past == nil {
			return true
		}
		v := &s.past.health
		if sec-min(sec, v.second) <= healthTau && v.all >= 1 {
			share, weight := float64(v.failed/v.all), float64(min(v.all, panelWeight))
			shares, all, failed = append(shares, share), all+weight, failed+share*weight
			if share > outageShare {
				o.ends.add(v.end)
			}
		}
		v.inPanel = v.healthy(sec)
		return !v.inPanel
	})
	if o.p, o.of, o.most = 0, len(shares), false; o.of >= panelLeast {
		slices.Sort(shares)
		o.p = (shares[(o.of-1)/2] + shares[o.of/2]) / 2
		o.most = o.p > outageShare && failed > all/2+1.5*math.Sqrt(all) && o.ends.len() >= outageEnds && !o.works(d)
	}
}

// works says whether endpoints that were good within the hour are answered: then who
// fails asks for what is not there, as twenty hosts do that have the same worm. What
// silence has not shown yet is left out.
func (o *outage) works(d *Engine) bool {
	good, failed, now := uint32(0), uint32(0), d.second(d.now)
	for back := uint32(worksFrom); back < worksFrom+worksSeconds; back++ {
		if m := &o.moments[(now-back)%outageWindow]; m.second == now-back {
			good, failed = good+m.good, failed+m.refused+m.unanswered
		}
	}
	return good >= overLeast && good > failed
}

// over says whether the contacts of the last seconds are answered again.
func (o *outage) over(d *Engine) bool {
	if o.byPanel {
		return o.p <= outageShare || o.works(d)
	}
	good, failed, now := uint32(0), uint32(0), d.second(d.now)
	var goodEnds, failedEnds set
	for back := range uint32(overSeconds) {
		m := &o.moments[(now-back)%outageWindow]
		if m.second != now-back {
			continue
		}
		good, failed = good+m.good, failed+m.refused+m.unanswered
		for _, h := range m.goodEnds[:m.goodEndsN] {
			goodEnds.add(h)
		}
		for _, h := range m.failedEnds[:m.failedEndsN] {
			failedEnds.add(h)
		}
	}
	// Who retries what is dead does so often: the endpoints tell as well.
	return good >= overLeast && (good > failed || goodEnds.len() >= failedEnds.len()) || d.now-o.told > event.Ktime(outageForgets)
}

func (o *outage) thaw(d *Engine) {
	o.is, o.end = false, d.now
	if i := d.book.find(o.count.key); i != nil {
		i.last = d.now
		i.fill()
		i.f.Why += "; it is over"
		i.refill = nil
		d.book.clear(i, d.now)
	}
}
