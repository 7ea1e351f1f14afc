package detect

import (
	"fmt"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// D9: a client that fails at the same endpoint again and again. Failures are refused,
// unanswered, or packets that we dropped, in a row without a success:
//
//	20 in 60 s and no success in 60 s, or
//	for 10 s max(5/s, five times its own rate) or more, and no success in these
//
// It is never a scan: a scan test counts an endpoint once. Where five sources fail at
// one endpoint the service is down, and that is told instead (service.go).
const (
	stormLeast  = 20
	stormRate   = 5. // per second
	stormTimes  = 5.
	stormSlices = 2
	stormQuiet  = 2 * time.Minute
)

// streak is failures in a row, by the time of the contact.
type streak struct {
	first, last                  event.Ktime
	refused, unanswered, dropped uint64
	reason                       event.Reason
	samples                      []agg.Contacted
	used                         used
}

func (s *streak) n() uint64 { return s.refused + s.unanswered + s.dropped }

func (s *streak) add(d *Engine, j *judgement) {
	if s.n() == 0 || j.At < s.first {
		s.first = j.At
	}
	s.last = max(s.last, j.At)
	s.used.add(j.how)
	if j.o == Refused {
		s.refused++
	} else {
		s.unanswered++
	}
	s.sample(d.example(j))
}

// sample keeps the first two and the last.
func (s *streak) sample(c agg.Contacted) {
	if len(s.samples) < samples {
		s.samples = append(s.samples, c)
		return
	}
	s.samples[samples-1] = c
}

// failed takes a failure of a link.
func (d *Engine) failed(x *link, j *judgement) {
	if x.streak == nil {
		x.streak = &streak{}
	}
	x.streak.add(d, j)
	x.at(j.sec).failed++
	d.storms(x, j.sec)
}

// succeeded ends the streak that began before.
func (d *Engine) succeeded(x *link, j *judgement) {
	x.lastGood = max(x.lastGood, j.At)
	x.at(j.sec).good++
	if x.streak == nil {
		return
	}
	if x.told&toldStorm != 0 {
		x.told &^= toldStorm
		d.finish(x, "retry_storm", "; then it was answered")
	}
	x.streak = nil
}

// storms asks whether a streak is a storm.
func (d *Engine) storms(x *link, sec uint32) {
	if x.told&toldStorm == 0 && (x.streak.n() < stormLeast || !x.stormy(d.now, sec)) {
		return
	}
	if v := d.services.find(x.endpoint); v != nil && (v.down || v.upAt != 0 && d.now-v.upAt < event.Ktime(downSettles)) {
		return
	}
	x.told |= toldStorm
	d.show(x, "retry_storm", x.streak.first, stormQuiet, agg.Confirmed, agg.Info, func(x *link, f *agg.Finding) {
		if x.streak != nil {
			x.streak.fill(d, x, f)
		}
	})
}

func (x *link) stormy(now event.Ktime, sec uint32) bool {
	if w := x.sum(sec, slices5); w.failed >= stormLeast && (x.lastGood == 0 || now-x.lastGood >= event.Ktime(time.Minute)) {
		return true
	}
	// whole slices only: that of now has just begun
	w, now5 := x.sum(sec, stormSlices+1), *x.at(sec)
	return w.good == 0 && float64(w.failed-now5.failed) >= stormSlices*sliceSeconds*max(stormRate, stormTimes*x.usual())
}

// usual is how many entries a second it makes, by the minutes before the last two.
func (x *link) usual() float64 {
	n, made := uint32(0), uint64(0)
	for i := uint32(2); i < x.kept(); i++ {
		made += uint64(x.back(i).made)
		n++
	}
	return float64(made) / float64(60*max(1, n))
}

func (s *streak) fill(d *Engine, x *link, f *agg.Finding) {
	f.Spoofable = x.lastGood == 0
	f.Statistic, f.Threshold = float64(s.n()), stormLeast
	f.Evidence = agg.Evidence{Attempts: s.n(), Refused: s.refused, Unanswered: s.unanswered, Dsts: 1, Dports: 1,
		Figures: []agg.Figure{{Name: "dropped_by_us", Value: float64(s.dropped)}}, Samples: slices.Clone(s.samples), Used: s.used.names()}
	since := "and no success is known"
	if x.lastGood != 0 {
		since = "the last success is " + brief(d.now.Sub(x.lastGood)) + " ago"
	}
	f.Why = fmt.Sprintf("%s failed %d times in a row at %s in %s: %s; %s", x.tuple.Src, s.n(), endpointName(&x.tuple),
		brief(s.last.Sub(s.first)), s.says(), since)
}

// says how they ended.
func (s *streak) says() string {
	out := ""
	for _, x := range []struct {
		n    uint64
		word string
	}{{s.refused, "refused"}, {s.unanswered, "unanswered"}, {s.dropped, "dropped by us (" + s.reason.String() + ")"}} {
		if x.n > 0 {
			out += fmt.Sprintf(", %d %s", x.n, x.word)
		}
	}
	return out[min(2, len(out)):]
}
