package detect

import (
	"math"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// Outcome is what became of a contact.
type Outcome uint8

// Outcomes of contacts.
const (
	Answered   Outcome = iota // a TCP handshake was finished, of others a packet came back
	Refused                   // killed by an RST before anything else came back
	Unanswered                // nothing came back within 3 s
	HalfOpen                  // the client took back what the server had accepted
	Invalid                   // a probe that no entry is made for
	Accepted                  // the server has accepted and the client is silent; of no sort until it ends
)

var outcomeNames = [...]string{"answered", "refused", "unanswered", "half_open", "invalid", "accepted"}

// String returns the word of the contract.
func (o Outcome) String() string { return outcomeNames[min(int(o), len(outcomeNames)-1)] }

// failure says whether it speaks for a scan.
func (o Outcome) failure() bool { return o != Answered && o != Accepted }

const (
	retention = 24 * time.Hour // of contacts and of evidence
	knownFor  = time.Hour      // an endpoint that has answered may fail for so long without being evidence
	// refusedWithin: a TCP entry that goes away unreplied so soon was refused, on
	// backends that do not tell causes. The shortest timeout is that of CLOSE, 10 s.
	refusedWithin = 9 * time.Second
	// sampled is how many contacts with endpoints that were good are looked at each
	// second.
	sampled = 512
)

// used is where outcomes came from.
type used struct {
	destroy, peek, query, invalid bool
}

// arrive takes a new entry.
func (d *Engine) arrive(e *event.Event, p *place) {
	sec := d.second(e.Time)
	s := d.source(e.NetNS, e.Zone, e.Orig.Src, p)
	s.last = sec
	if e.ByUser {
		return
	}
	d.fronts.entries++
	crossed := s.burst.count(sec, 1)
	if e.Orig.Dport == 53 && e.Orig.Proto == event.ProtoUDP {
		s.burst.dns++
	}
	if crossed {
		d.burst(s)
	}
	edge, first := d.edges.get(p.edge)
	forgotten := first
	if !first && sec-edge.last > uint32(retention/time.Second) {
		edge.good, first = 0, true
	}
	if edge.come(sec, first) || forgotten {
		d.follow(e, p, edge, sec)
	}
	edge.last = sec
	served, fine := edge.served(), edge.fine()
	switch {
	case served:
		d.mirrors.reflect(d, e, p, s, sec)
		d.fronts.served(d, e, p)
	case d.fronts.arrive(d, e, p, s, first), d.mirrors.arrive(d, e, p, s):
		if first {
			s.flags |= unlooked
		}
		return
	}
	flags := pendFlags(0)
	if first {
		flags = pendFirst
	}
	if first || !fine || d.sample(sec) {
		d.await(e, p, s, flags)
	}
}

// AddSum counts new entries that were not told one by one: for the rate of their
// source, and with a flood for how much of it is not told in detail.
func (d *Engine) AddSum(x *event.Sum) {
	if x.Kind != event.New || x.N == 0 || !x.Src.IsValid() {
		return
	}
	d.now = max(d.now, x.Last)
	sec := d.second(x.Last)
	var p place
	d.locateTuple(&p, x.NetNS, x.Zone, &event.Tuple{Src: x.Src})
	s := d.source(x.NetNS, x.Zone, x.Src, &p)
	s.last = max(s.last, sec)
	s.flags |= unlooked
	if s.burst.count(sec, uint32(min(x.N, math.MaxInt32))) {
		d.burst(s)
	}
	d.fronts.shed[domain{x.NetNS, x.Zone}] += x.N
}

// Seed takes an entry that was there before the start: its endpoint is one that
// answers.
func (d *Engine) Seed(e *event.Event) {
	if e.Status&event.SeenReply == 0 || e.Orig.Proto == event.ProtoTCP && e.Status&event.Assured == 0 {
		return
	}
	var p place
	d.locate(&p, e)
	sec := d.second(d.now)
	good, _ := d.goods.get(p.endpoint)
	good.last, good.good = sec, sec
	edge, _ := d.edges.get(p.edge)
	edge.last, edge.good = sec, sec
}

// sample says whether a contact with an endpoint that was good for its source is
// looked at.
func (d *Engine) sample(sec uint32) bool {
	if d.sampling.second != sec {
		d.sampling.second, d.sampling.n = sec, 0
	}
	d.sampling.n++
	return d.sampling.n <= sampled
}

type sampling struct{ second, n uint32 }

// depart takes an entry that has gone: what it says of the contact.
func (d *Engine) depart(e *event.Event, p *place) {
	was, waits := d.pending.Remove(p.id)
	if waits && was.t > e.Time { // of an entry before it
		d.pending.Insert(p.id, was)
		waits = false
	}
	made := was.t
	var s *subject
	if waits {
		s = d.settle(&e.Orig, p, &was)
	} else if made = e.Time; e.HasLifetime {
		made -= event.Ktime(e.Lifetime)
	}
	d.part(e, p, made, waits || e.HasLifetime)
	d.filling.note(e)
	o, known := ended(e, e.Time.Sub(made))
	if known && o == Refused {
		d.fronts.depart(d, e, p, made)
	}
	if known && (waits || o != Answered) {
		d.outcome(&Contact{At: made, Orig: e.Orig, NetNS: e.NetNS, Zone: e.Zone}, p, e.Time, was.flags, o, "destroy")
		return
	}
	d.recheck(s)
}

// ended is what the end of an entry says of the contact that made it.
func ended(e *event.Event, age time.Duration) (Outcome, bool) {
	tcp, replied := e.Orig.Proto == event.ProtoTCP, e.Status&event.SeenReply != 0
	expired := false
	switch e.Cause {
	case event.TimeoutGC, event.TimeoutLookup, event.TimeoutDump, event.Timeout, event.CauseUnknown:
		expired = true
	}
	unsaid := e.Cause == event.Timeout || e.Cause == event.CauseUnknown
	switch {
	case e.Cause == event.TCPRstUnreplied, tcp && !replied && unsaid && age < refusedWithin:
		return Refused, true
	case replied && (!tcp || e.Status&event.Assured != 0):
		return Answered, true
	case replied && (expired || e.Cause == event.TCPReopen):
		return HalfOpen, true
	case !replied && expired:
		return Unanswered, true
	}
	return 0, false // evicted, deleted, or its namespace went: says nothing of the contact
}

// outcome takes what became of a contact; flags say what was known of it before.
func (d *Engine) outcome(c *Contact, p *place, now event.Ktime, flags pendFlags, o Outcome, how string) {
	d.now = max(d.now, now)
	sec := d.second(now)
	s := d.source(c.NetNS, c.Zone, c.Orig.Src, p)
	s.last = sec
	j := judgement{Contact: c, place: p, now: now, sec: sec, o: o, first: flags&pendFirst != 0, how: how}
	switch {
	case flags&pendSilent != 0:
		j.before, j.judged = Unanswered, true
	case flags&pendHalf != 0:
		j.before, j.judged = HalfOpen, true
	}
	if j.judged && j.before == o {
		return
	}
	good := d.goods.find(p.endpoint)
	j.known = good.known(sec)
	edge := d.edges.find(p.edge)
	client := edge != nil && edge.served()
	switch {
	case o == Answered:
		if good == nil {
			good, _ = d.goods.get(p.endpoint)
		}
		good.last, good.good = sec, sec
		if edge != nil {
			edge.good = sec
		}
		if c.Orig.Proto == event.ProtoTCP {
			s.flags |= proven
			s.shake(p, sec, j.first)
		}
	case o.failure():
		if edge != nil {
			edge.fail()
		}
	}
	if j.first {
		d.fronts.judge(s, &j)
	}
	if o.failure() && !j.judged && d.fronts.covers(d, &j) {
		return
	}
	if j.first {
		d.spread.judge(d, s, &j)
	} else {
		d.spread.again(d, &j)
	}
	if flags&pendLooked != 0 {
		d.common(s, &j)
	}
	d.fared(s, &j, client)
	d.scan.judge(d, s, &j)
}

// shake notes a handshake that a source has finished.
func (s *subject) shake(p *place, sec uint32, first bool) {
	if !first {
		return
	}
	x := s.hasPast()
	x.shook, x.shookAt = p.dst, sec
	if s.record != nil && s.record.dst.has(p.dst) {
		s.record.proof = true
	}
}

// judgement is a contact with its outcome.
type judgement struct {
	*Contact
	place  *place
	now    event.Ktime
	sec    uint32
	o      Outcome
	before Outcome        // as it was judged before
	judged bool           // it was
	first  bool           // first contact of the source with the endpoint
	known  bool           // the endpoint was good for somebody within the last hour
	flags  event.TCPFlags // of an invalid segment
	how    string         // destroy, peek, query, invalid
}

func (d *Engine) example(j *judgement) agg.Contacted {
	return agg.Contacted{At: d.cfg.Clock.At(j.At), Orig: j.Orig, Outcome: j.o.String()}
}

func (u *used) add(how string) {
	switch how {
	case "destroy":
		u.destroy = true
	case "peek":
		u.peek = true
	case "query":
		u.query = true
	case "invalid":
		u.invalid = true
	}
}

// names are for the finding.
func (u *used) names() (out []string) {
	for _, x := range []struct {
		is   bool
		name string
	}{{u.destroy, "destroy"}, {u.peek, "peek"}, {u.query, "query"}, {u.invalid, "invalid"}} {
		if x.is {
			out = append(out, x.name)
		}
	}
	return out
}
