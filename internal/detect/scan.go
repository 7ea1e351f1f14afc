package detect

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// D1 and D2: scans, fast and slow, by one source or out of one prefix.
//
// A sequential test (Wald; Jung, Paxson, Berger, Balakrishnan 2004) reflected at 0,
// so that nobody earns trust with successes, of the outcomes of first contacts,
// for each port, each destination and all of a source:
//
//	L <- max(0, L + increment), increment = ln((1-theta1)/(1-theta0)) of a failure,
//	ln(theta1/theta0) of a success, theta1 = .2, theta0 = .8 or less when everybody
//	fails (outage.go); half of it for what is half open, and for UDP that stays
//	unanswered where others of the source's have been answered
//
// It is crossed at L >= ln(.99/alpha), alpha = 1e-6, with ten endpoints that failed.
// There is no window: ten failures in a day are ten failures (retention). L is a
// natural logarithm of a likelihood ratio. Crossed, it is suspect; confirmed makes
// it what nothing benign explains.
const (
	alpha       = 1e-6
	theta1      = .2
	theta0      = .8
	leastFailed = 10
	blockSides  = 5 // destinations and ports at least, to test all of a source as one
	sureFailed  = 25
	newWindow   = 30 * time.Second
	// Who comes back to what fails is no scanner: failures per endpoint, and for
	// how long no new endpoint has failed. A scanner asks again too, but soon.
	revisits  = 3
	revisitIn = 2 * time.Minute
	soon      = 30 * time.Second
	doubtFor  = 15 * time.Minute // a confirmed one may yet turn out as polling
	p2pGood   = .1               // answered share of peer-to-peer, at least
	p2pSide   = 1.5              // endpoints per destination or port, whichever there are more of, at most
	p2pSpread = 4                // and of which there are fewer
	p2pWide   = .5               // networks on the Internet per endpoint of one port, at least
	// Ports that traceroute counts through, whatever host it asks for (IANA has the
	// first as traceroute).
	traceFirst   = 33434
	traceLast    = 33533
	roundWindows = 6  // 30 s each: longer than a round of checks
	otherUDP     = 10 // UDP endpoints that have answered make others that do not count half
)

var threshold = math.Log(.99 / alpha)

// prefixPenalty: among a hundred prefixes as among a thousand sources.
var prefixPenalty = math.Log(10)

// prefixSources is how many sources of a prefix have to fail.
const prefixSources = 3

// scan is the state of the test beside that of the subjects.
type scan struct {
	failure, success float64 // increments
	open             []uint64
	prefixes         []uint64 // to be looked at with the next tick
}

func newScan() scan {
	return scan{failure: math.Log((1 - theta1) / (1 - theta0)), success: math.Log(theta1 / theta0)}
}

// judge takes the outcome of a contact of s.
func (n *scan) judge(d *Engine, s *subject, j *judgement) {
	if r := s.record; r != nil && j.now-r.last > event.Ktime(retention) {
		d.letGo(s)
		s.forgive()
	}
	if !j.first || j.o == Accepted {
		n.repeat(d, s, j)
		return
	}
	n.count(d, s, j, threshold)
	if j.o != Invalid { // made up sources of a network may send some at random
		n.prefix(d, s, j)
	}
}

// repeat takes the outcome of a contact that is not the first with its endpoint.
func (n *scan) repeat(d *Engine, s *subject, j *judgement) {
	r := s.record
	failed := r != nil && r.failed.has(j.place.endpoint)
	switch {
	case failed && j.o == Answered:
		n.recovers(d, s, j)
		return
	case !j.o.failure() || j.judged:
		return
	case failed:
		n.again(r, j)
	case r == nil && s.first != nil && s.first.hash == j.place.endpoint:
		s.first.again++
	default:
		return
	}
	d.step(s, j, nil, 0, "tried again")
}

// prefix counts for the network of a source what the source itself is not known for,
// and failures of those only that nobody has answered: an office whose firewall drops
// NTP or mail is many sources that fail a little, and are answered by others.
func (n *scan) prefix(d *Engine, s *subject, j *judgement) {
	if s.record != nil && s.record.begun != 0 || j.o.failure() && !j.judged && s.answered > 0 {
		return
	}
	p := d.network(s)
	p.last = j.sec
	n.count(d, p, j, threshold+prefixPenalty)
	if r := p.record; r != nil && j.o.failure() {
		r.from.add(s.hash)
	}
	if p.record != nil && p.flags&watched == 0 {
		p.flags |= watched
		n.prefixes = append(n.prefixes, p.hash)
	}
}

// disown takes a source that is found by itself out of the test of its prefix: one
// incident is told once.
func (n *scan) disown(d *Engine, s *subject) {
	h, _ := d.networkHash(s)
	p := d.subjects.find(h)
	if p == nil || p.record == nil || p.record.begun != 0 {
		return
	}
	less := n.failure * float64(p.record.from.take(s.hash))
	for i := range slots {
		p.record.ports[i].lambda = max(0, p.record.ports[i].lambda-less)
		p.record.dsts[i].lambda = max(0, p.record.dsts[i].lambda-less)
	}
	p.record.all.lambda = max(0, p.record.all.lambda-less)
}

// networkHash is where the prefix of a source is in the table.
func (d *Engine) networkHash(s *subject) (uint64, netip.Prefix) {
	net := prefixOf(s.addr)
	t := event.Tuple{Src: net.Addr(), Dst: net.Addr(), Proto: uint8(net.Bits()), Dport: 1}
	var at place
	d.locateTuple(&at, s.netns, s.zone, &t)
	return at.edge, net
}

// network returns the prefix of a source.
func (d *Engine) network(s *subject) *subject {
	if x := s.past; x != nil && x.net != nil && x.netEpoch == d.subjects.epoch {
		return x.net
	}
	h, net := d.networkHash(s)
	d.subjects.keep = s
	p, fresh := d.subjects.get(h, d.gone)
	d.subjects.keep = nil
	if fresh {
		p.hash, p.addr, p.bits, p.netns, p.zone = h, net.Addr(), uint8(net.Bits()), s.netns, s.zone
	}
	if x := s.past; x != nil {
		x.net, x.netEpoch = p, d.subjects.epoch
	}
	return p
}

// count weighs the first contact of a subject.
func (n *scan) count(d *Engine, s *subject, j *judgement, h float64) {
	fails, failed := j.o.failure(), j.judged
	switch {
	case !failed:
		s.contacts++
	case !fails:
		s.failed -= min(s.failed, 1)
	}
	switch {
	case !fails:
		s.mark(j.sec)
		s.answered++
		s.flags |= heard
		if j.Orig.Proto == event.ProtoUDP && s.udp < math.MaxUint16 {
			s.udp++
		}
	case !failed:
		s.failed++
	}
	why := ""
	if fails && !failed {
		why = d.excuse(j)
	}
	if why != "" {
		s.contacts--
		s.failed--
		if s.record != nil {
			s.record.tally.excused++
		} else if s.spared < math.MaxUint16 {
			s.spared++
		}
		s.spend(d, j)
		d.step(s, j, nil, 0, why)
		return
	}
	if s.record == nil && !n.begin(d, s, j) {
		return
	}
	r := s.record
	r.used.add(j.how)
	switch {
	case !fails && failed:
		n.takeBack(d, s, j)
		n.retract(d, s, "what was silent has answered late")
	case !fails:
		r.tally.answered++
		r.each(j.Orig, func(k *key) { n.good(d, s, j, k) })
		s.hasPast().serve(&j.Orig)
		n.through(d, s, j)
	case failed:
		n.change(d, s, j)
	default:
		n.fail(d, s, j)
	}
	if s.bits == 0 {
		n.check(d, s, j.now, h)
	}
}

// excuse is why a failing contact is evidence of nothing, "" when it is. Nothing
// excuses a segment that opens no connection.
func (d *Engine) excuse(j *judgement) string {
	t := &j.Orig
	switch {
	case j.o == Invalid:
	case j.known:
		return "the endpoint was good within the hour"
	case d.excused(j.At):
		return "everybody fails"
	case t.Proto == event.ProtoUDP && t.Dport >= traceFirst && t.Dport <= traceLast:
		return "a port of traceroute"
	case d.otherwise(j):
		return "the service is good over another protocol"
	}
	return ""
}

// otherwise says whether the service has answered over the other of TCP and UDP within
// the last hour: a browser tries UDP first, a resolver TCP when an answer was cut, and
// where one of the two is filtered it fails with everybody.
func (d *Engine) otherwise(j *judgement) bool {
	t := j.Orig
	switch t.Proto {
	case event.ProtoTCP:
		t.Proto = event.ProtoUDP
	case event.ProtoUDP:
		t.Proto = event.ProtoTCP
	default:
		return false
	}
	var at place
	d.locateTuple(&at, j.NetNS, j.Zone, &t)
	return d.goods.find(at.endpoint).known(j.sec)
}

// begin keeps the first failing contact, and says whether there is a record, which
// begins with the second.
func (n *scan) begin(d *Engine, s *subject, j *judgement) bool {
	if s.first == nil && j.o.failure() {
		s.first = new(once)
	}
	f := s.first
	if f != nil && j.now-f.at > event.Ktime(retention) {
		s.forgive()
	}
	switch {
	case !j.o.failure():
		if f != nil && f.hash == j.place.endpoint && j.judged {
			s.forgive()
		}
		s.hasPast().serve(&j.Orig)
		return false
	case f.hash == 0:
		*f = once{c: *j.Contact, at: j.now, outcome: j.o, flags: j.flags, hash: j.place.endpoint}
		s.base, s.lead, s.spared = s.answered, s.lately(j.sec), 0
		d.blame(s, j, 0)
		return false
	case f.hash == j.place.endpoint:
		f.outcome = j.o
		return false
	}
	r := d.promote(s)
	r.tally.answered, r.before = uint64(s.answered-s.base), uint64(s.lead)
	r.tally.excused, r.tally.again = uint64(s.spared), uint64(f.again)
	was := *j
	var at place
	d.locateTuple(&at, s.netns, s.zone, &f.c.Orig)
	was.Contact, was.place, was.now, was.o, was.sec, was.judged = &f.c, &at, f.at, f.outcome, d.second(f.at), false
	was.flags = f.flags
	n.fail(d, s, &was)
	if s.answered > s.base { // between the two, of whichever port
		r.each(f.c.Orig, func(k *key) { k.lambda = max(0, k.lambda+n.success*float64(s.answered-s.base)) })
	}
	return true
}

// again counts an endpoint that failed once more.
func (n *scan) again(r *record, j *judgement) {
	r.tally.again++
	if r.used.add(j.how); j.o != Invalid && j.At-r.fresh > event.Ktime(soon) {
		r.returned++
	}
}

// weight is what a failure counts. Half-open are the aborts of browsers too, but not
// of those who never finish a handshake.
func (n *scan) weight(s *subject, j *judgement, o Outcome) float64 {
	if o == HalfOpen && s.answered > 0 || o == Unanswered && j.Orig.Proto == event.ProtoUDP && s.udp >= otherUDP {
		return n.failure / 2
	}
	return n.failure
}

func (n *scan) good(d *Engine, s *subject, j *judgement, k *key) {
	k.contacts++
	k.answered++
	k.last = j.sec
	k.lambda = max(0, k.lambda+n.success)
	d.step(s, j, k, n.success, "")
}

// spend has a contact that was not counted not take back anything later.
func (s *subject) spend(d *Engine, j *judgement) {
	if p := d.pending.Get(j.place.id); p != nil && p.t == j.At && s.bits == 0 {
		p.flags &^= pendFirst
	}
}

func (n *scan) fail(d *Engine, s *subject, j *judgement) {
	r := s.record
	if !r.failed.add(j.place.endpoint) { // it did so more than a day ago
		n.again(r, j)
		s.spend(d, j)
		return
	}
	if j.before = j.o; r.failed.full {
		d.over.Contacts++
	}
	r.dst.add(j.place.dst)
	// Anybody can send SYNs in the name of a client that has handshakes of its own. It
	// is the scanner's when a new endpoint of what it scans was taken up within the hour.
	if x := s.past; x != nil && x.shook == j.place.dst && j.sec-min(j.sec, x.shookAt) <= uint32(knownFor/time.Second) {
		r.proof = true
	}
	r.port.add(uint64(port(&j.Orig))<<8 | uint64(j.Orig.Proto) + 1)
	if !d.cfg.Internal(j.Orig.Dst) {
		r.net.add(wide(j.Orig.Dst))
	}
	*r.tally.of(j.o)++
	r.last, r.fresh, r.returned = j.now, j.now, 0
	if e := d.example(j); len(r.sample) < samples {
		r.sample = append(r.sample, e)
	} else {
		r.sample[samples-1] = e
	}
	if j.o == Invalid && len(r.flags) < flagsNamed && !slices.Contains(r.flags, j.flags) {
		r.flags = append(r.flags, j.flags)
	}
	w := n.weight(s, j, j.o)
	d.blame(s, j, w)
	window := uint32(j.now/event.Ktime(newWindow)) + 1
	r.each(j.Orig, func(k *key) {
		if j.o == Invalid && sent(j.flags) && !k.what.IsValid() {
			return
		}
		k.contacts++
		k.failing++
		k.last = j.sec
		k.lambda += w
		if k.window != window {
			k.window = window
			k.windows++
			if r.begun != 0 && window != uint32(r.begun/event.Ktime(newWindow))+1 {
				k.after++
			}
		}
		d.step(s, j, k, w, "")
	})
}

// samples of contacts in a finding: the first two and the last.
const samples = 3

// takeBack undoes what silence has counted: the contact was answered after all.
func (n *scan) takeBack(d *Engine, s *subject, j *judgement) {
	r := s.record
	if !r.failed.has(j.place.endpoint) {
		return
	}
	r.failed.remove(j.place.endpoint)
	r.dst.remove(j.place.dst)
	r.port.remove(uint64(port(&j.Orig))<<8 | uint64(j.Orig.Proto) + 1)
	r.net.remove(wide(j.Orig.Dst))
	if t := r.tally.of(j.before); *t > 0 {
		*t--
	}
	r.tally.answered++
	undo := -n.weight(s, j, j.before) + n.success
	r.each(j.Orig, func(k *key) {
		k.failing -= min(k.failing, 1)
		k.answered++
		k.last = j.sec
		k.lambda = max(0, k.lambda+undo)
		d.step(s, j, k, undo, "answered late")
	})
}

// change is for silence that turned out as something else that is no success.
func (n *scan) change(d *Engine, s *subject, j *judgement) {
	r := s.record
	if !r.failed.has(j.place.endpoint) {
		return
	}
	if t := r.tally.of(j.before); *t > 0 {
		*t--
	}
	*r.tally.of(j.o)++
	r.last = j.now
	w := n.weight(s, j, j.o) - n.weight(s, j, j.before)
	d.reblame(s, j, w)
	r.each(j.Orig, func(k *key) {
		k.lambda = max(0, k.lambda+w)
		d.step(s, j, k, w, "was "+j.before.String())
	})
}

func (t *tally) of(o Outcome) *uint64 {
	switch o {
	case Refused:
		return &t.refused
	case HalfOpen:
		return &t.half
	case Invalid:
		return &t.invalid
	}
	return &t.unanswered
}

// step tells who explains.
func (d *Engine) step(s *subject, j *judgement, k *key, w float64, note string) {
	if d.cfg.Step == nil {
		return
	}
	x := &Step{At: j.now, Contact: *j.Contact, Outcome: j.o, Subject: s.prefix(), Increment: w, Note: note}
	if k != nil {
		x.Key, x.Statistic = k.name(), k.lambda
	}
	d.cfg.Step(x)
}

func (k *key) name() string {
	switch {
	case k.what.IsValid():
		return "destination " + k.what.String()
	case k.used:
		return "port " + event.ProtoName(k.proto) + "/" + fmt.Sprint(k.port)
	}
	return "source"
}

// crossed says whether a test is: what may yet be answered counts as if it had
// been.
func (k *key) crossed(h float64) bool {
	return k.lambda >= h && k.failing >= leastFailed && 2*(k.answered+k.pend) < k.contacts+k.pend
}

// leading is the test that is crossed with the most endpoints, nil for none.
func (r *record) leading(h float64) (best *key) {
	take := func(k *key) {
		if k.crossed(h) && (best == nil || k.failing > best.failing || k.failing == best.failing && k.lambda > best.lambda) {
			best = k
		}
	}
	for i := range slots {
		take(&r.dsts[i])
		take(&r.ports[i])
	}
	if r.dst.len() >= blockSides && r.port.len() >= blockSides {
		take(&r.all)
	}
	return best
}

// check looks whether something is to be told of a subject, and says whether that has
// to wait.
func (n *scan) check(d *Engine, s *subject, now event.Ktime, h float64) (waits bool) {
	r := s.record
	if r.begun == 0 {
		if r.top() < h {
			return false
		}
	}
	k := r.leading(h)
	switch {
	case k == nil:
		return false
	case r.begun == 0 && d.hold(s, now):
		return true
	}
	if r.begun == 0 {
		r.begun = now
		n.open = append(n.open, s.hash)
		if s.bits == 0 {
			n.disown(d, s)
		}
	}
	i := d.book.open(s.incident("scan"), r.first, now)
	i.quiet = retention
	i.changed = i.changed || i.last != r.last || i.f.Evidence.Attempts != r.attempts() // in the same instant as what told it
	i.last = r.last
	state := agg.Suspect
	if i.f.State == agg.Confirmed || r.sure(k) {
		state = agg.Confirmed
	}
	switch {
	case state == i.f.State:
		return false
	case i.f.State == agg.Suspect && d.hold(s, now):
		return true
	}
	r.fill(d, s, k, h, i)
	hash := s.hash
	i.refill = func() { // s may be another's by then
		if s := d.subjects.find(hash); s != nil && s.record == r {
			if best := r.leading(h); best != nil {
				k = best
			}
			r.fill(d, s, k, h, i)
		}
	}
	i.f.State = state
	d.book.tell(i, now)
	return false
}

// through notes that a scanner was let in: the first endpoint that took up its
// connection after it was confirmed.
func (n *scan) through(d *Engine, s *subject, j *judgement) {
	r := s.record
	if r.through.IsValid() || r.begun == 0 || j.Orig.Proto != event.ProtoTCP || j.At < r.last {
		return
	}
	i := d.book.find(s.incident("scan"))
	if i == nil || i.f.State != agg.Confirmed {
		return
	}
	r.through = netip.AddrPortFrom(j.Orig.Dst, j.Orig.Dport)
	i.fill()
	d.book.tell(i, j.now)
}

// incident says which one it is.
func (s *subject) incident(class string) incidentKey {
	return incidentKey{class: class, netns: s.netns, zone: s.zone, source: s.prefix()}
}

// sure says whether a test that is crossed is more than suspect.
func (r *record) sure(k *key) bool {
	if r.p2p(k) {
		return false
	}
	good := float64(k.answered) / float64(max(1, k.contacts))
	again := float64(r.tally.again) / float64(max(1, r.failed.len()))
	switch {
	case k.what.IsValid() && k.answered == 0: // ten ports of one host, none ever good
		return true
	case k.failing >= sureFailed && good < theta1:
		return true
	case good >= theta1: // may be a round of checks, which takes minutes and then comes again
		return k.windows >= roundWindows && r.tally.again == 0
	}
	return (k.after >= 2 || k.windows >= 4) && again+1 < revisits
}

// p2p says whether the contacts of a test look like those of peer-to-peer: some
// answer, and where one port is tested, it is tried all over the Internet, of which
// scanners find less; where a source is, there are about as many endpoints as there
// are destinations or ports, and many of either.
func (r *record) p2p(k *key) bool {
	d, p, n := r.dst.len(), r.port.len(), float64(r.failed.len())
	if k.used && !k.what.IsValid() && 2*int(k.failing) >= r.failed.len() {
		return someAnswer(float64(k.answered), float64(k.contacts)) && float64(r.net.len()) >= p2pWide*n
	}
	return d >= blockSides && p >= blockSides && n <= p2pSide*float64(max(d, p)) && n <= p2pSpread*float64(min(d, p)) &&
		someAnswer(float64(r.tally.answered+r.before), float64(r.tally.answered+r.before)+n)
}

// someAnswer says whether of n contacts as many were answered as of peers are. Fewer by
// chance is as many: below the first percentile of what a share of p2pGood gives.
func someAnswer(answered, n float64) bool {
	mean := p2pGood * n
	return answered > 0 && answered >= mean-2.33*math.Sqrt(mean*(1-p2pGood))
}

// wide is the network of an address that a provider has: /16, or /32 of IPv6. Never 0.
func wide(a netip.Addr) uint64 {
	b := a.As16()
	if a.Is4() {
		return uint64(b[12])<<8 | uint64(b[13]) | 1<<16
	}
	return uint64(binary.BigEndian.Uint32(b[:4])) | 1<<32
}

// tick looks after prefixes, and after those that may turn out to be polling.
func (n *scan) tick(d *Engine) {
	for _, h := range n.prefixes {
		p := d.subjects.find(h)
		if p == nil || p.record == nil {
			continue
		}
		if p.flags &^= watched; d.fronts.explains(d, p) {
			d.letGo(p) // before the flood was known
			p.forgive()
			continue
		}
		if p.record.from.len() >= prefixSources {
			n.check(d, p, d.now, threshold+prefixPenalty)
		}
	}
	n.prefixes = n.prefixes[:0]
	n.open = slices.DeleteFunc(n.open, func(h uint64) bool {
		s := d.subjects.find(h)
		return s == nil || s.record == nil || n.settled(d, s)
	})
}

// settled says whether a suspect needs no more looking after.
func (n *scan) settled(d *Engine, s *subject) bool {
	r := s.record
	i := d.book.find(s.incident("scan"))
	if i == nil || i.f.State == agg.Cleared {
		return true
	}
	if failed := uint64(r.failed.len()); r.returned >= failed && r.tally.again >= (revisits-1)*failed && d.now-r.fresh >= event.Ktime(revisitIn) {
		n.polling(d, s, i)
		return true
	}
	return i.f.State == agg.Confirmed && d.now-r.begun > event.Ktime(doubtFor)
}

// polling explains a scan away: who is back at the same endpoints again and again
// asks for something that is not there any more.
func (n *scan) polling(d *Engine, s *subject, i *incident) {
	r := s.record
	p := d.book.open(s.incident("polling_dead_targets"), r.first, d.now)
	p.quiet, p.last = time.Hour, r.last
	r.fill(d, s, &r.all, threshold, p)
	f := &p.f
	f.State, f.Severity, f.Shape = agg.Confirmed, agg.Info, ""
	f.Statistic, f.Threshold = float64(r.tally.again)/float64(r.failed.len())+1, revisits
	f.Why = fmt.Sprintf("%s came back to %d endpoints that do not answer, %d times in all, and to no new one for %s",
		s.prefix().Addr(), r.failed.len(), r.tally.again, d.now.Sub(r.fresh).Round(time.Second))
	f.WhyNotBenign = ""
	d.book.tell(p, d.now)
	i.fill()
	i.f.Why += "; it is polling dead targets"
	i.f.Excused = true
	d.book.clear(i, d.now)
	r.begun = 0
	for k := range slots {
		r.ports[k].lambda, r.dsts[k].lambda = 0, 0
	}
	r.all.lambda = 0
}

// shape is the shape of what has failed.
func (r *record) shape() string {
	d, p, n := r.dst.len(), r.port.len(), r.failed.len()
	switch {
	case d >= 3 && p >= 3 && float64(n) >= .8*float64(d*p):
		return "strobe"
	case p <= 3 && d > p:
		return "horizontal"
	case d <= 3:
		return "vertical"
	}
	return "block"
}

// attempts is how many connections failed.
func (r *record) attempts() uint64 { return uint64(r.failed.len()) + r.tally.again }

// fill writes what is known into a finding.
func (r *record) fill(d *Engine, s *subject, k *key, h float64, i *incident) {
	f, t := &i.f, &r.tally
	f.Shape = r.shape()
	f.Statistic, f.Threshold = k.lambda, h
	f.Spoofable = !r.proof || t.invalid > 0 && r.failed.len() < leastFailed+int(t.invalid) // the others alone would not do
	f.Evidence = agg.Evidence{
		Contacts: uint64(r.failed.len()) + t.answered + uint64(s.pend), Attempts: r.attempts(),
		Answered: t.answered, Refused: t.refused, Unanswered: t.unanswered, HalfOpen: t.half, Invalid: t.invalid,
		Pending: uint64(s.pend), Excused: t.excused,
		Dsts: uint64(r.dst.len()), Dports: uint64(r.port.len()), Sources: uint64(r.from.len()),
		Estimated: r.failed.full || r.dst.full || r.port.full || s.flags&unlooked != 0,
		Figures:   []agg.Figure{{Name: "alpha", Value: alpha}},
		Used:      r.used.names(), Samples: slices.Clone(r.sample),
	}
	f.Severity = agg.Feed
	if s.bits == 0 && (d.cfg.Internal(s.addr) || r.through.IsValid()) {
		f.Severity = agg.Page
	}
	if r.p2p(k) {
		f.Severity = agg.Info
	}
	took := r.took()
	what := fmt.Sprintf("%d destinations on %d ports", r.dst.len(), r.port.len())
	switch f.Shape {
	case "vertical":
		what = fmt.Sprintf("%d ports of %s", r.port.len(), plural(r.dst.len(), "destination"))
		if r.dst.len() == 1 && len(r.sample) > 0 {
			what = fmt.Sprintf("%d ports of %s", r.port.len(), r.sample[0].Orig.Dst)
			f.Target = agg.Target{Addr: r.sample[0].Orig.Dst}
		}
	case "horizontal":
		what = fmt.Sprintf("%s of %d destinations", plural(r.port.len(), "port"), r.dst.len())
		if r.port.len() == 1 && len(r.sample) > 0 { // an outage may have taken them back
			o := r.sample[0].Orig
			what = fmt.Sprintf("%s of %d destinations", portName(&o), r.dst.len())
			f.Target = agg.Target{Proto: o.Proto, Port: port(&o)}
		}
	}
	who := s.prefix().Addr().String()
	if s.bits > 0 {
		who = fmt.Sprintf("%d sources of %s", r.from.len(), s.prefix())
	}
	f.Why = fmt.Sprintf("%s tried %s in %s: %s of %d first contacts", who, what, brief(took), r.outcomes(), f.Evidence.Contacts)
	f.WhyNotBenign = fmt.Sprintf("%.0f %% of the contacts of its test were answered, where a client with a role has half or more; it came back to a failed endpoint %d times, where polling does so again and again",
		100*float64(k.answered)/float64(max(1, k.contacts)), t.again)
	if t.invalid > 0 {
		why, not := flagsWhy(r.flags)
		f.Why += why
		f.WhyNotBenign += not
	}
	if r.through.IsValid() {
		f.Why += fmt.Sprintf("; then %s took up its connection", r.through)
	}
	if r.p2p(k) {
		f.WhyNotBenign = ""
		f.Why += "; each destination has a port of its own and some answer, as with peer-to-peer"
	}
	i.last = r.last
	f.Expires = d.cfg.Clock.At(r.last).Add(retention)
}

// took is from the first failing contact to the last, as they were made: silence is
// known 3 s later.
func (r *record) took() time.Duration {
	if len(r.sample) == 0 { // an outage has taken all of them back
		return r.last.Sub(r.first)
	}
	return r.sample[len(r.sample)-1].At.Sub(r.sample[0].At)
}

// outcomes says how the contacts ended, those that there are.
func (r *record) outcomes() string {
	t, out := &r.tally, ""
	for _, x := range []struct {
		n    uint64
		word string
	}{{t.refused, "refused"}, {t.unanswered, "unanswered"}, {t.half, "half open"}, {t.invalid, "invalid"}, {t.answered, "answered"}} {
		if x.n > 0 {
			out += fmt.Sprintf(", %d %s", x.n, x.word)
		}
	}
	return out[min(2, len(out)):]
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

func portName(t *event.Tuple) string {
	if t.IsICMP() {
		return event.ProtoName(t.Proto)
	}
	return fmt.Sprintf("%s/%d", event.ProtoName(t.Proto), t.Dport)
}

// brief is a duration with two or three digits.
func brief(t time.Duration) string {
	for _, unit := range []time.Duration{time.Hour, time.Minute, time.Second, time.Millisecond, time.Microsecond} {
		if t >= unit {
			return t.Round(unit / 10).String()
		}
	}
	return t.String()
}
