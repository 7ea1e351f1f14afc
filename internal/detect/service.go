package detect

import (
	"fmt"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// D9: a service is down: five sources or more fail at an endpoint, ten times or more,
// and nobody is answered. One alarm that lists the clients and says whether they are
// refused, stay unanswered, or are dropped by us.
//
// Only what was a service can be down: one that has answered within the hour, and at
// least one of those that fail had been answered; or one that sources of our own
// keep asking, each ten times. So strangers at a closed port are none. A SYN-ACK is
// an answer here, whatever the client makes of it. It is told with a tick, and for
// silence a moment after an outage of everything would have shown.
const (
	downSources  = 5
	downLeast    = 10
	downPatience = 10 // failures of a source, where there never was an answer
	downSilent   = 4500 * time.Millisecond
	downRefused  = 5 * time.Second  // a restart is none
	downSettles  = 10 * time.Second // its clients find out that it is back
	downIdle     = 5 * time.Minute  // without a failure it is counted anew
	downQuiet    = 10 * time.Minute
	downNames    = 16
	maxServices  = 1 << 10
	mostClients  = 1 << 9 // of one that are told apart
	// Our own drops that hit many services are one thing: so many alarms a minute.
	downsAMinute = 16
)

// service is an endpoint at which contacts fail.
type service struct {
	hash   uint64
	tuple  event.Tuple // Src and Sport are those of the last contact
	netns  event.NetNS
	zone   uint16
	down   bool
	had    bool // it has answered
	client bool // one that fails had been answered
	streak streak
	by     set // sources
	names  []string
	last   event.Ktime // outcome
	upAt   event.Ktime // when it was down no longer
}

// services are those that may be down.
type services struct {
	*table[service]
	minute uint32
	raised int // in it
}

func older(a, b *service) bool {
	if a.down != b.down {
		return b.down
	}
	return a.last < b.last
}

func (d *Engine) noService(v *service) {
	d.over.Services++
	if v.down {
		d.serviceUp(v, "; it is not followed any longer")
	}
}

// serviceFails takes a failing contact. x is the link, if it is one.
func (d *Engine) serviceFails(s *subject, j *judgement, x *link, client bool) {
	v := d.services.find(j.place.endpoint)
	keeps := x != nil && x.streak != nil && x.streak.n() >= downPatience && d.cfg.Internal(s.addr)
	if v == nil && !j.known && !keeps {
		return
	}
	if v = d.serviceAt(j.place.endpoint, &j.Orig, j.NetNS, j.Zone, j.now); !v.had && !j.known && !keeps {
		return
	}
	v.had, v.client = v.had || j.known, v.client || client
	v.streak.add(d, j)
	v.add(s)
}

// serviceAt returns a service, anew if nothing has failed for long.
func (d *Engine) serviceAt(h uint64, t *event.Tuple, ns event.NetNS, zone uint16, now event.Ktime) *service {
	v, fresh := d.services.get(h, d.noService)
	if fresh || !v.down && now-v.last > event.Ktime(downIdle) {
		*v = service{hash: h, tuple: *t, netns: ns, zone: zone}
	}
	v.last = now
	return v
}

func (v *service) add(s *subject) {
	if v.by.len() >= mostClients && !v.by.has(s.hash) {
		v.by.full = true
		return
	}
	if v.by.add(s.hash) && len(v.names) < downNames {
		v.names = append(v.names, s.addr.String())
	}
}

// serviceDrops takes a packet that we have dropped on its way to a service.
func (d *Engine) serviceDrops(s *subject, e *event.Event, p *place) {
	good := d.goods.find(p.endpoint)
	if d.services.find(p.endpoint) == nil && (good == nil || good.good == 0) {
		return
	}
	v := d.serviceAt(p.endpoint, &e.Orig, e.NetNS, e.Zone, e.Time)
	v.had, v.client = true, true
	v.streak.drop(e, d.cfg.Clock)
	v.add(s)
}

func (s *streak) drop(e *event.Event, c event.Clock) {
	n := max(1, uint64(e.Sample))
	if s.n() == 0 {
		s.first = e.Time
	}
	s.last = e.Time
	s.dropped += n
	s.reason = e.Reason
	s.sample(agg.Contacted{At: c.At(e.Time), Orig: e.Orig, Outcome: "dropped"})
}

// dropped takes a packet that was dropped, by no rule of the operator.
func (d *Engine) dropped(e *event.Event, p *place) {
	if e.Reason.IsRuleset() || e.Reason.Kind() != event.Drop {
		return
	}
	s := d.subjectAt(p)
	if s == nil {
		return // of nobody we know: a flood, most likely
	}
	if x := d.linkAt(p); x != nil {
		if x.streak == nil {
			x.streak = &streak{}
		}
		sec := d.second(e.Time)
		x.streak.drop(e, d.cfg.Clock)
		x.at(sec).failed += max(1, e.Sample)
		d.storms(x, sec)
	}
	d.serviceDrops(s, e, p)
}

// serviceAnswers ends what began before.
func (d *Engine) serviceAnswers(endpoint uint64, at event.Ktime) {
	if d.services.n == 0 {
		return
	}
	v := d.services.find(endpoint)
	if v == nil || v.streak.n() == 0 || at < v.streak.first {
		return
	}
	if v.down {
		d.serviceUp(v, "; it answers again")
	}
	*v = service{hash: endpoint, tuple: v.tuple, netns: v.netns, zone: v.zone, had: true, last: v.last, upAt: v.upAt}
}

func (v *service) incident() incidentKey {
	return incidentKey{class: "service_down", netns: v.netns, zone: v.zone,
		target: agg.Target{Addr: v.tuple.Dst, Proto: v.tuple.Proto, Port: port(&v.tuple)}}
}

func (d *Engine) serviceUp(v *service, why string) {
	if i := d.book.find(v.incident()); i != nil && i.f.State != agg.Cleared {
		i.fill()
		i.refill = nil
		i.f.Why += why
		d.book.clear(i, d.now)
	}
	v.down, v.upAt = false, d.now
}

// tick tells what is down.
func (w *services) tick(d *Engine) {
	if d.frozen() {
		return
	}
	w.all(func(v *service) {
		switch {
		case v.down:
			i := d.book.find(v.incident())
			if i == nil || i.f.State == agg.Cleared {
				v.down = false
			} else if v.last > i.last {
				i.last, i.changed = v.last, true
			}
		case v.isDown(d):
			w.tell(d, v)
		}
	})
}

func (v *service) isDown(d *Engine) bool {
	s := &v.streak
	if v.by.len() < downSources || s.n() < downLeast || v.had && !v.client {
		return false
	}
	if s.unanswered > s.refused+s.dropped {
		return d.now-s.first >= event.Ktime(downSilent) && (d.outage.doubt == 0 || d.now-d.outage.doubt >= event.Ktime(doubtMost))
	}
	return d.now-s.first >= event.Ktime(downRefused)
}

func (w *services) tell(d *Engine, v *service) {
	if minute := d.second(d.now) / 60; w.minute != minute {
		w.minute, w.raised = minute, 0
	}
	if w.raised++; w.raised > downsAMinute {
		d.over.Services++
		return
	}
	v.down = true
	d.links.table.all(func(x *link) { // each client's storm is this
		if x.endpoint == v.hash && x.told&toldStorm != 0 {
			x.told &^= toldStorm
			d.finish(x, "retry_storm", fmt.Sprintf("; so do %d others: the service is down", v.by.len()-1))
		}
	})
	i := d.begin(v.incident(), v.streak.first)
	i.last, i.quiet, i.changed = v.last, downQuiet, true
	hash := v.hash
	i.refill = func() {
		if v := d.services.find(hash); v != nil && v.down {
			v.fill(d, i)
		}
	}
	i.f.State = agg.Confirmed
	i.fill()
	d.book.tell(i, d.now)
}

func (v *service) fill(d *Engine, i *incident) {
	f, s := &i.f, &v.streak
	i.last = max(i.last, v.last)
	f.Severity = agg.Feed
	if 2*s.dropped > s.n() {
		f.Severity = agg.Page // it is our own fault
	}
	f.Statistic, f.Threshold = float64(v.by.len()), downSources
	f.Evidence = agg.Evidence{Attempts: s.n(), Refused: s.refused, Unanswered: s.unanswered, Sources: uint64(v.by.len()), Dsts: 1, Dports: 1,
		Estimated: v.by.full, Figures: []agg.Figure{{Name: "dropped_by_us", Value: float64(s.dropped)}},
		Samples: slices.Clone(s.samples), Items: slices.Clone(v.names), Used: s.used.names()}
	was := "it had answered within the hour before"
	if !v.had {
		was = "it was never seen to answer"
	}
	sources := fmt.Sprint(v.by.len())
	if v.by.full {
		sources = "more than " + sources
	}
	f.Why = fmt.Sprintf("%s is down for %s sources: %d failures in a row in %s, %s; %s", endpointName(&v.tuple), sources, s.n(),
		brief(s.last.Sub(s.first)), s.says(), was)
	f.WhyNotBenign = "not one contact was answered since the first of these"
}

// forgive forgets failures of contacts that were made since a time, those in a row
// with them too: an outage began then.
func (d *Engine) forgive(begin event.Ktime) {
	d.services.all(func(v *service) {
		if v.streak.last >= begin && !v.down {
			*v = service{hash: v.hash, tuple: v.tuple, netns: v.netns, zone: v.zone, had: v.had, last: v.last}
		}
	})
	d.links.table.all(func(x *link) {
		if x.streak != nil && x.streak.last >= begin && x.told&toldStorm == 0 {
			x.streak = nil
		}
	})
}
