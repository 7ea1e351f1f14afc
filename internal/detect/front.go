package detect

import (
	"slices"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/wyhash"
)

// front is where sources come in that have never been served there: an endpoint, a
// host with all its ports, a port of all hosts, or all. Counts are of the time since the
// last tick. It is small, and there is a bounded number: a scan makes one of every
// port. What is counted in detail is in its crowd, which those have where much
// comes in.
type front struct {
	hash     uint64
	tick     uint32 // number of the tick that the counts are before
	ticks    uint32 // that the averages are of, up to averageOver
	fresh    uint32 // first contacts of strangers: of sources that nobody has ever answered
	tries    uint32 // of sources that were never served here
	refused  uint32
	lost     uint32 // packets that found no room in the table
	answered uint32 // first contacts that were
	failed   uint32 // and that were not
	flooded  uint32 // the last second of a flood, 0 for never
	good     float32
	bad      float32 // averages of answered and failed a second
	crowd    *crowd
}

// scope is what a front is of.
type scope uint8

const (
	ofEndpoint scope = iota
	ofHost
	ofPort
	ofAll // of a protocol
	scopes
)

const (
	// averageOver is the time constant of the averages, in ticks; younger ones are
	// plain means.
	averageOver = 600
	maxCrowds   = 64
	maxFronts   = 1 << 14
	// looksEach is how many entries of a crowd are looked at in each eighth of a
	// second, lookAt when: most of what is made by people has its handshake done
	// after one round trip, also over a satellite.
	looksEach = 8
	slot      = event.Ktime(1e9 / 8)
	lookAt    = event.Ktime(750e6)
	maxLooks  = 1 << 13
)

// crowdAt is from how many between two ticks on a front that surges is followed. It is
// higher for hosts and ports, so that the one endpoint of a host or the one host of
// a port is followed instead.
var crowdAt = [scopes]uint32{100, 200, 200, 1000}

// awaitMost is how many contacts are looked at between two ticks for the scan test:
// those with others need places too, and in three seconds there is room for no more.
var awaitMost = [scopes]uint32{1 << 14, 1 << 15, 1 << 15, 1 << 15}

// fronts are those of an engine.
type fronts struct {
	table  *table[front]
	hot    []*front // with a crowd
	seed   uint64
	tick   uint32
	ticked event.Ktime
	queue  queue
	until  uint32 // some front is, or was lately, flooded: the last second of coverFor

	followed [scopes]int // how many of each
	entries  uint64      // since the last tick
	shed     map[domain]uint64
	most     float64 // for one entry there were so many, by the sums of the tick before
}

// domain is what a sum is of, beside its source.
type domain struct {
	netns event.NetNS
	zone  uint16
}

func newFronts(seed uint64, start event.Ktime) fronts {
	return fronts{table: newTable(maxFronts, idler), seed: seed, tick: 1, ticked: start, queue: queue{limit: maxLooks}, shed: map[domain]uint64{}, most: 1}
}

// idler says whether a is missed less than b.
func idler(a, b *front) bool {
	switch {
	case (a.crowd == nil) != (b.crowd == nil):
		return a.crowd == nil
	case (a.flooded == 0) != (b.flooded == 0):
		return a.flooded == 0
	case a.good+a.bad != b.good+b.bad:
		return a.good+a.bad < b.good+b.bad
	}
	return a.tick < b.tick
}

// at is where a contact belongs on a scope.
func (w *fronts) at(l scope, p *place, ns event.NetNS, zone uint16, t *event.Tuple) uint64 {
	switch l {
	case ofEndpoint:
		return p.endpoint
	case ofHost:
		return max(1, wyhash.Mix(p.dst, uint64(t.Proto)|1<<32))
	case ofAll:
		return max(1, wyhash.Mix(w.seed^(uint64(ns)|uint64(zone)<<32), uint64(t.Proto)|1<<34))
	}
	return max(1, wyhash.Mix(w.seed^(uint64(ns)|uint64(zone)<<32), uint64(t.Dport)<<8|uint64(t.Proto)|1<<33))
}

// get returns a front with the counts of this tick.
func (w *fronts) get(h uint64) *front {
	f, fresh := w.table.get(h, w.gone)
	if fresh {
		f.hash, f.tick = h, w.tick
	}
	w.roll(f)
	return f
}

// roll brings a front that is not followed to this tick.
func (w *fronts) roll(f *front) {
	if f.tick == w.tick || f.crowd != nil {
		return
	}
	f.average(float32(f.answered), float32(f.failed), w.tick-f.tick)
	f.clear(w.tick)
}

func (f *front) clear(tick uint32) {
	f.tick, f.fresh, f.tries, f.refused, f.lost, f.answered, f.failed = tick, 0, 0, 0, 0, 0, 0
}

// average takes a second into the averages, and those since in which nothing came.
func (f *front) average(good, bad float32, ticks uint32) {
	f.ticks = min(f.ticks+1, averageOver)
	f.good += (good - f.good) / float32(f.ticks)
	f.bad += (bad - f.bad) / float32(f.ticks)
	if idle := ticks - 1; idle > 0 && f.good+f.bad > 0 {
		n := min(f.ticks+idle, averageOver)
		keep := float32(f.ticks) / float32(f.ticks+idle)
		if f.ticks == averageOver {
			keep = decay(idle)
		}
		f.good, f.bad, f.ticks = f.good*keep, f.bad*keep, n
	}
}

// decay is (1-1/averageOver)^n.
func decay(n uint32) float32 {
	keep, x := float32(1), float32(1-1./averageOver)
	for ; n > 0; n >>= 1 {
		if n&1 != 0 {
			keep *= x
		}
		x *= x
	}
	return keep
}

// gone lets go of a front whose place is needed.
func (w *fronts) gone(f *front) {
	if f.crowd != nil {
		w.leave(f)
	}
}

// follow gives a front a crowd; it begins with what comes after e.
func (w *fronts) follow(f *front, e *event.Event, l scope) {
	if len(w.hot) >= maxCrowds && !w.makeRoom(e.Time, f.tries) {
		return
	}
	c := &crowd{scope: l, netns: e.NetNS, zone: e.Zone, after: e.Time}
	c.target.Proto = e.Orig.Proto
	if l == ofEndpoint || l == ofHost {
		c.target.Addr = e.Orig.Dst
	}
	if l == ofEndpoint || l == ofPort {
		c.target.Port = e.Orig.Dport
	}
	c.sources.seed, c.networks.seed, c.dsts.seed, c.ports.seed = w.seed, w.seed, w.seed, w.seed
	f.crowd = c
	w.hot = append(w.hot, f)
	w.followed[l]++
}

// surges says whether so much comes in that the statistic may rise: it does where
// more comes to nothing than all that usually comes.
func (f *front) surges() bool { return float32(f.tries) >= 2*max(f.good, f.bad) }

// makeRoom stops following the front where the least comes in, if less than tries.
func (w *fronts) makeRoom(now event.Ktime, tries uint32) bool {
	var least *front
	for _, f := range w.hot {
		if c := f.crowd; !c.open() && !c.mayReopen(now) && (least == nil || f.comes() < least.comes()) {
			least = f
		}
	}
	if least == nil || least.comes() >= tries {
		return false
	}
	w.leave(least)
	return true
}

// comes is how much comes in between two ticks.
func (f *front) comes() uint32 { return max(f.tries, f.crowd.recent) }

// leave ends it.
func (w *fronts) leave(f *front) {
	i := slices.Index(w.hot, f)
	w.hot = slices.Delete(w.hot, i, i+1)
	w.followed[f.crowd.scope]--
	f.crowd = nil
}

func tracked(proto uint8) bool { return proto == event.ProtoTCP || proto == event.ProtoUDP }

// scale is how many entries there were for each that was told in detail.
func (w *fronts) scale(k domain) float64 {
	return min(scaleMost, 1+float64(w.shed[k])/float64(max(1, w.entries)))
}

// scaleMost: of an endpoint of which less is told nothing is known.
const scaleMost = 50

// arrive takes an entry of a source that was never served by its endpoint, and says
// whether the looks of the scan test are not needed. What is followed as an
// endpoint is not counted for its host and port, unless these are followed.
func (w *fronts) arrive(d *Engine, e *event.Event, p *place, s *subject, first bool) (skip bool) {
	if !tracked(e.Orig.Proto) {
		return false
	}
	stranger := first && s.flags&(heard|proven) == 0
	below := !stranger
	for l := range scopes {
		var f *front
		h := w.at(l, p, e.NetNS, e.Zone, &e.Orig)
		switch {
		case !below, l == ofEndpoint && !first:
			f = w.get(h)
		case l == ofEndpoint: // one that is known meets an endpoint: worth no place
			if f = w.table.find(h); f == nil {
				continue
			}
			w.roll(f)
		case w.followed[l] == 0:
			continue
		default:
			if f = w.table.find(h); f == nil || f.crowd == nil {
				continue
			}
		}
		skip = w.enter(d, f, e, p, stranger, l) || skip
		below = below || f.crowd != nil
	}
	return skip
}

// enter counts it for one front.
func (w *fronts) enter(d *Engine, f *front, e *event.Event, p *place, stranger bool, l scope) (skip bool) {
	n := max(1, e.Sample)
	if f.tries += n; stranger {
		f.fresh += n
	}
	if c := f.crowd; c != nil {
		c.add(d, e, p, n)
		if c.never += uint64(n); stranger {
			c.strangers += uint64(n)
		}
		w.sample(c, e, l)
	} else if at := uint32(float64(crowdAt[l]) / w.most); f.tries/at != (f.tries-n)/at && f.surges() { // at each multiple, were it not the time or no room
		w.follow(f, e, l)
	}
	return f.tries > awaitMost[l] || d.flooded(f)
}

// served counts an entry of a source that its endpoint has served: only where
// everything is counted.
func (w *fronts) served(d *Engine, e *event.Event, p *place) {
	if len(w.hot) == 0 || !tracked(e.Orig.Proto) {
		return
	}
	w.each(e.NetNS, e.Zone, &e.Orig, p, func(f *front) { f.crowd.add(d, e, p, max(1, e.Sample)) })
}

// each calls fn for the fronts of a contact that are followed.
func (w *fronts) each(ns event.NetNS, zone uint16, t *event.Tuple, p *place, fn func(*front)) {
	for l := range scopes {
		if w.followed[l] == 0 {
			continue
		}
		if f := w.table.find(w.at(l, p, ns, zone, t)); f != nil && f.crowd != nil {
			fn(f)
		}
	}
}

// sample has some of the entries of a crowd looked at.
func (w *fronts) sample(c *crowd, e *event.Event, l scope) {
	if e.Time-c.slot >= slot {
		c.slot, c.inSlot = e.Time, 0
	}
	if c.inSlot++; c.inSlot <= looksEach {
		w.queue.push(&waiting{t: e.Time, ptr: e.Ptr, orig: e.Orig, netns: e.NetNS, zone: e.Zone, before: uint32(l)})
	}
}

// due is Engine.Due for them.
func (w *fronts) due(now event.Ktime, into []Look) []Look {
	for q := &w.queue; q.len() > 0 && len(into) < cap(into); q.head++ {
		x := q.at(q.head)
		if x.t+lookAt > now {
			break
		}
		into = append(into, Look{Ptr: x.ptr, Contact: Contact{At: x.t, Orig: x.orig, NetNS: x.netns, Zone: x.zone}, stage: ofCrowd, id: uint64(x.before)})
	}
	return into
}

// seen takes what such a look has shown. What is gone was refused, which is
// counted, or evicted, which says nothing.
func (w *fronts) seen(d *Engine, l *Look, s *Seen) {
	if !s.Known || !s.Live {
		return
	}
	var p place
	d.locateTuple(&p, l.NetNS, l.Zone, &l.Orig)
	if l.id == uint64(ofMirror) {
		d.mirrors.seen(d, l, &p, s)
		return
	}
	f := w.table.find(w.at(scope(l.id), &p, l.NetNS, l.Zone, &l.Orig))
	if f == nil || f.crowd == nil {
		return
	}
	c := f.crowd
	c.used.add(s.how())
	o := Answered
	switch {
	case s.Status&event.SeenReply == 0:
		c.now.silent++
		o = Unanswered
	case l.Orig.Proto == event.ProtoTCP && s.Status&event.Assured == 0:
		c.now.half++
		o = HalfOpen
	default:
		c.now.done++
	}
	if o != Answered && len(c.samples) < samples && l.At > c.after {
		c.samples = append(c.samples, agg.Contacted{At: d.cfg.Clock.At(l.At), Orig: l.Orig, Outcome: o.String()})
	}
}

// depart takes an entry that was refused, and when it was made.
func (w *fronts) depart(d *Engine, e *event.Event, p *place, made event.Ktime) {
	if len(w.hot) == 0 || !tracked(e.Orig.Proto) {
		return
	}
	n := max(1, e.Sample)
	edge := d.edges.find(p.edge)
	never := edge == nil || !edge.served()
	w.each(e.NetNS, e.Zone, &e.Orig, p, func(f *front) {
		if never {
			f.refused += n
		}
		if made > f.crowd.after {
			f.crowd.refused += uint64(n)
		}
	})
}

// drop takes a packet that found no room in the table.
func (w *fronts) drop(e *event.Event, p *place) {
	if len(w.hot) > 0 && tracked(e.Orig.Proto) && (e.Reason == event.TableFull || e.Reason == event.NATExhausted) {
		n := max(1, e.Sample)
		w.each(e.NetNS, e.Zone, &e.Orig, p, func(f *front) { f.lost += n; f.crowd.dropped += uint64(n) })
	}
}

// judge takes the outcome of the first contact of a source.
func (w *fronts) judge(s *subject, j *judgement) {
	if !tracked(j.Orig.Proto) || j.judged {
		return
	}
	for l := range scopes {
		f := w.table.find(w.at(l, j.place, j.NetNS, j.Zone, &j.Orig))
		if f == nil {
			continue
		}
		w.roll(f)
		switch {
		case j.o == Answered:
			f.answered++
		case j.o.failure() && s.answered == 0:
			f.failed++
		}
	}
}

// covers says whether a contact is one of a flood, now or lately, so that it is
// evidence of nothing else.
func (w *fronts) covers(d *Engine, j *judgement) bool {
	return w.until >= j.sec && w.drowns(d, j.place, j.Contact)
}

func (w *fronts) drowns(d *Engine, p *place, c *Contact) bool {
	if !tracked(c.Orig.Proto) {
		return false
	}
	return d.mirrors.covers(p, c) || w.tells(d, p, c)
}

// tells says whether a contact is of a flood that is told, or was lately.
func (w *fronts) tells(d *Engine, p *place, c *Contact) bool {
	for l := range scopes {
		if f := w.table.find(w.at(l, p, c.NetNS, c.Zone, &c.Orig)); f != nil && d.flooded(f) {
			return true
		}
	}
	return false
}

// explains says whether the newest evidence against a prefix is of a flood.
func (w *fronts) explains(d *Engine, s *subject) bool {
	if n := len(s.record.sample); n > 0 {
		return w.drowned(d, &Contact{Orig: s.record.sample[n-1].Orig, NetNS: s.netns, Zone: s.zone})
	}
	return false
}

// drowned says whether a contact is of a flood.
func (w *fronts) drowned(d *Engine, c *Contact) bool {
	if w.until < d.second(d.now) {
		return false
	}
	var p place
	d.locateTuple(&p, c.NetNS, c.Zone, &c.Orig)
	return w.drowns(d, &p, c)
}

// building says whether a contact is of what may be a flood with the next tick.
func (w *fronts) building(d *Engine, c *Contact) (is bool) {
	if len(w.hot) > 0 {
		var p place
		d.locateTuple(&p, c.NetNS, c.Zone, &c.Orig)
		w.each(c.NetNS, c.Zone, &c.Orig, &p, func(f *front) {
			c := f.crowd
			is = is || c.y > 0 && !d.flooded(f) && (c.scope == ofEndpoint || c.spread())
		})
	}
	return is
}

// flooded says whether there is a flood at a front, or was while entries of it may
// live: 120 s as SYN_SENT, with up to 42 s until they are collected.
func (d *Engine) flooded(f *front) bool {
	return f.flooded != 0 && d.second(d.now)-f.flooded <= coverFor
}

const coverFor = 170 // seconds
