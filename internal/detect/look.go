package detect

import (
	"math"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/prefetch"
)

// When a contact that nothing has decided is looked at. The first look finds what
// was answered at once, so that failures, which a RST tells within a round trip, are
// not weighed while successes made beside them are still unknown. The second is the
// time within which a contact has to be answered (detection.md, tau). The others
// find late answers, which take back what silence has counted: the second and the
// fifth retransmission of a SYN come after 3 and 63 s.
var lookAfter = [stages]time.Duration{200 * time.Millisecond, 3 * time.Second, 30 * time.Second, 90 * time.Second}

const (
	early = iota
	judged
	late
	latest
	stages
	ofCrowd // a sample of what comes in at a front
)

// Places in the queues: of the contacts of 3 s at some 20,000 a second, and of some
// of those that stayed unanswered.
var queueLimit = [stages]int{1 << 16, 1 << 16, 1 << 13, 1 << 13}

// Look is an entry that is to be looked at.
type Look struct {
	Ptr uint64 // kernel address, 0 where it is not known
	Contact

	id    uint64
	stage uint8
}

// Seen is what a look has shown.
type Seen struct {
	Known    bool // false where it could not be looked: only its destroy will tell
	Query    bool // by a query over netlink, not by a look into memory
	Live     bool // in the table; otherwise its destroy tells, or has told
	Status   event.Status
	TCPState event.TCPState
}

// how says where it was looked.
func (s *Seen) how() string {
	if s.Query {
		return "query"
	}
	return "peek"
}

// pending is an entry whose outcome is not known, or was silence.
type pending struct {
	t event.Ktime // of its insert
	// early is its number in the first queue plus one while it waits there.
	early uint32
	flags pendFlags
}

type pendFlags uint8

const (
	pendFirst  pendFlags = 1 << iota // first contact
	pendSilent                       // counts as unanswered
	pendHalf                         // counts as half open
	pendLooked                       // it is looked at, whatever becomes of it
)

// waiting is a place in a queue.
type waiting struct {
	t      event.Ktime // of the insert
	ptr    uint64
	id     uint64
	orig   event.Tuple
	netns  event.NetNS
	before uint32 // number of the contact of this source before it plus one, in the first queue
	zone   uint16
}

// queue is a ring of contacts in the order of their time. Numbers count up from the
// first that ever was in it.
type queue struct {
	ring       []waiting
	head, tail uint32 // numbers
	limit      int
}

func newQueues() (q [stages]queue) {
	for i := range q {
		q[i].limit = queueLimit[i]
	}
	return q
}

func (q *queue) len() int { return int(q.tail - q.head) }

func (q *queue) at(n uint32) *waiting { return &q.ring[n&uint32(len(q.ring)-1)] }

// resize takes a power of two.
func (q *queue) resize(to int) {
	ring := make([]waiting, to)
	for n := q.head; n != q.tail; n++ {
		ring[n&uint32(to-1)] = *q.at(n)
	}
	q.ring = ring
}

// shrink gives back what a burst has needed: a ring that is mostly empty goes round
// through memory that no cache holds.
func (q *queue) shrink() {
	if n := len(q.ring); n > leastRing && q.len() <= n/8 {
		q.resize(n / 2)
	}
}

// leastRing is the size of the smallest ring.
const leastRing = 256

// push returns the number of what it has put in, false when there is no room.
func (q *queue) push(w *waiting) (uint32, bool) {
	if q.len() == len(q.ring) {
		if len(q.ring) == q.limit {
			return 0, false
		}
		q.resize(max(leastRing, 2*len(q.ring)))
	}
	*q.at(q.tail) = *w
	q.tail++
	return q.tail - 1, true
}

// await has a contact looked at.
func (d *Engine) await(e *event.Event, p *place, s *subject, flags pendFlags) {
	w := waiting{t: e.Time, ptr: e.Ptr, id: p.id, orig: e.Orig, netns: e.NetNS, zone: e.Zone, before: s.newest}
	n, ok := d.queues[early].push(&w)
	if ok && d.pending.Len() == d.pending.Cap() {
		d.sweep()
	}
	if !ok || s.pend == math.MaxUint16 || !d.pending.Insert(p.id, pending{t: e.Time, early: n + 1, flags: flags | pendLooked}) {
		d.over.Contacts++
		s.flags |= unlooked
		return
	}
	s.newest = n + 1
	if flags&pendFirst != 0 {
		s.pend++
		if r := s.record; r != nil {
			r.each(e.Orig, func(k *key) { k.pend++ })
		}
	}
}

// sweep forgets entries that are so old that their destroy may have been lost.
func (d *Engine) sweep() {
	if d.now-d.swept < event.Ktime(time.Minute) {
		return
	}
	d.swept = d.now
	var old []uint64
	for id, p := range d.pending.All() {
		if d.now-p.t > event.Ktime(sweepAfter) {
			old = append(old, id)
		}
	}
	for _, id := range old {
		d.pending.Remove(id)
	}
}

// sweepAfter is longer than an entry lives that was never answered: 120 s for a
// SYN, 300 s for an ACK.
const sweepAfter = 10 * time.Minute

// Due takes the entries that are to be looked at now, at most as many as fit into
// into. Called until there are none, ten times a second of event time.
func (d *Engine) Due(now event.Ktime, into []Look) []Look {
	into = into[:0]
	if len(d.outage.held) > 0 {
		d.release(now)
	}
	for stage := range d.queues {
		q := &d.queues[stage]
		for ; q.len() > 0 && len(into) < cap(into); q.head++ {
			w := q.at(q.head)
			if w.t+event.Ktime(lookAfter[stage]) > now {
				break
			}
			if p := d.pending.Get(w.id); p != nil && p.t == w.t {
				into = append(into, Look{Ptr: w.ptr, Contact: Contact{At: w.t, Orig: w.orig, NetNS: w.netns, Zone: w.zone}, id: w.id, stage: uint8(stage)})
			}
		}
		q.shrink()
	}
	return d.fronts.due(now, into)
}

// ready asks for what seen will read of each look, as touch does for events.
func (d *Engine) ready(looks []Look) {
	lines, places := d.lines[:0], d.places[:len(looks)]
	for i := range looks {
		l, p := &looks[i], &places[i]
		d.locateTuple(p, l.NetNS, l.Zone, &l.Orig)
		lines = append(lines, d.subjects.line(p.src), d.edges.line(p.edge), d.goods.line(p.endpoint), d.pending.Line(l.id),
			d.fronts.table.line(p.endpoint), d.fronts.table.line(d.fronts.at(ofHost, p, l.NetNS, l.Zone, &l.Orig)))
	}
	prefetch.Lines(lines)
	lines = lines[:0]
	for i := range places {
		p := &places[i]
		if p.near = (near{epoch: d.subjects.epoch, subject: d.subjects.find(p.src)}); p.near.subject != nil {
			lines = append(lines, prefetch.Of(p.near.subject))
		}
	}
	prefetch.Lines(lines)
	lines = lines[:0]
	for i := range places {
		if s := places[i].near.subject; s != nil {
			lines = append(lines, prefetch.Of(&s.hash), prefetch.Of(&s.addr))
		}
	}
	prefetch.Lines(lines)
}

// NextDue is when there will be something to look at, false for never.
func (d *Engine) NextDue() (at event.Ktime, any bool) {
	for stage := range d.queues {
		if q := &d.queues[stage]; q.len() > 0 {
			if t := q.at(q.head).t + event.Ktime(lookAfter[stage]); !any || t < at {
				at, any = t, true
			}
		}
	}
	for _, h := range d.outage.held {
		if t := h.since + event.Ktime(silenceTold); t > d.now && (!any || t < at) {
			at, any = t, true
		}
	}
	if q := &d.fronts.queue; q.len() > 0 {
		if t := q.at(q.head).t + lookAt; !any || t < at {
			at, any = t, true
		}
	}
	return at, any
}

// SeenAll takes what looks at a time have shown, in the same order.
func (d *Engine) SeenAll(looks []Look, now event.Ktime, seen []Seen) {
	for len(looks) > 0 {
		n := min(len(looks), batch)
		d.ready(looks[:n])
		for i := range n {
			d.seen(&looks[i], &d.places[i], now, seen[i])
		}
		looks, seen = looks[n:], seen[n:]
	}
}

// Seen is SeenAll of one.
func (d *Engine) Seen(l *Look, now event.Ktime, seen Seen) {
	var at place
	d.locateTuple(&at, l.NetNS, l.Zone, &l.Orig)
	d.seen(l, &at, now, seen)
}

func (d *Engine) seen(l *Look, at *place, now event.Ktime, seen Seen) {
	if l.stage == ofCrowd {
		d.fronts.seen(d, l, &seen)
		return
	}
	p := d.pending.Get(l.id)
	if p == nil || p.t != l.At {
		return // destroyed meanwhile, which has told
	}
	d.now = max(d.now, now)
	if !seen.Known || !seen.Live {
		d.recheck(d.settle(&l.Orig, at, p))
		if seen.Known && l.stage > early { // its destroy is not just on its way: it was lost
			d.pending.Remove(l.id)
			return
		}
		if l.stage == judged { // later, perhaps
			d.over.Contacts++
		}
		d.again(l, at)
		return
	}
	how := seen.how()
	o, known := l.shows(&seen)
	switch {
	case known && o == Answered:
		was := *p
		d.settle(&l.Orig, at, &was)
		d.pending.Remove(l.id)
		d.outcome(&l.Contact, at, now, was.flags, Answered, how)
		return
	case l.stage == early:
		d.recheck(d.settle(&l.Orig, at, p))
	case known && o == HalfOpen && p.flags&pendHalf == 0, l.stage >= judged && !known && p.flags&(pendSilent|pendHalf) == 0:
		if !known {
			o = Unanswered
		}
		flags := p.flags
		if p.flags |= pendHalf; o == Unanswered {
			p.flags |= pendSilent
			p.flags &^= pendHalf
		}
		d.outcome(&l.Contact, at, now, flags, o, how)
	}
	d.again(l, at)
}

// again puts what was looked at into the next queue.
func (d *Engine) again(l *Look, at *place) {
	if next := l.stage + 1; next < stages {
		w := waiting{t: l.At, ptr: l.Ptr, id: l.id, orig: l.Orig, netns: l.NetNS, zone: l.Zone}
		if _, ok := d.queues[next].push(&w); !ok && next == judged {
			d.over.Contacts++
			if s := d.subjectAt(at); s != nil {
				s.flags |= unlooked
			}
		}
	}
}

// shows is what the state of an entry says of the contact. A TCP connection that was
// accepted is no success before the client has taken it up: behind a gateway every
// SYN of a flood gets its SYN-ACK.
func (l *Look) shows(s *Seen) (Outcome, bool) {
	switch {
	case s.Status&event.SeenReply == 0:
		return 0, false
	case l.Orig.Proto != event.ProtoTCP, s.Status&event.Assured != 0:
		return Answered, true
	case s.TCPState == event.TCPClose:
		return HalfOpen, true
	}
	return Accepted, l.stage >= judged
}

// settle ends the time in which a contact may yet be answered at once. Who knows no
// outcome looks whether that decides a test (recheck).
func (d *Engine) settle(t *event.Tuple, at *place, p *pending) *subject {
	if p.early == 0 {
		return nil
	}
	p.early = 0
	if p.flags&pendFirst == 0 {
		return nil
	}
	s := d.subjectAt(at)
	if s == nil {
		return nil
	}
	s.pend -= min(s.pend, 1)
	if s.record != nil {
		s.record.each(*t, func(k *key) { k.pend -= min(k.pend, 1) })
	}
	return s
}

// recheck looks at a test for which one contact less is pending.
func (d *Engine) recheck(s *subject) {
	if s != nil && s.record != nil && s.record.begun == 0 {
		d.scan.check(d, s, d.now, threshold)
	}
}
