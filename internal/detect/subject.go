package detect

import (
	"net/netip"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// subject is a source, or the prefix of one: who is tested. The first failing
// contact is all that is kept of one that fails once, so that ten million sources
// of a flood cost what the table costs; from the second on there is a record.
//
// What every entry needs is one cache line, and these lie close together; what only
// outcomes need is apart.
type subject struct {
	*dossier
	burst  rate
	last   uint32 // second of its last event
	newest uint32 // number of the newest in the first queue plus one
	pend   uint16 // first contacts that may yet be answered at once
	flags  subjectFlags
	bits   uint8 // of the prefix; 0 for a source
}

// dossier is the part of a subject that outcomes change.
type dossier struct {
	hash     uint64
	record   *record
	first    *once    // nil, or empty, before something has failed
	past     *history // nil before somebody has answered
	contacts uint32   // first contacts with an outcome
	answered uint32
	failed   uint32
	netns    event.NetNS
	zone     uint16
	udp      uint16 // UDP endpoints that have answered
	spared   uint16 // failed since the first that counts, and excused
	sport    uint16 // of its last stray segment
	base     uint32 // answered, when the first failed
	lead     uint32 // of these, just before that
	addr     netip.Addr
}

// history is the part of a subject that answers make.
type history struct {
	net      *subject // its prefix, as it was found last
	netEpoch uint32   // table.epoch then
	shookAt  uint32   // second
	shook    uint64   // the last new endpoint whose handshake it finished: its destination
	marks    marks
	fan      fan
	health   health
	served   [servedPorts]served
}

// hasPast returns the history, an empty one if there was none.
func (s *subject) hasPast() *history {
	if s.past == nil {
		s.past = new(history)
	}
	return s.past
}

// newSubjects returns a table in which a subject keeps its dossier when it becomes
// another's.
func newSubjects(limit int) *table[subject] {
	t := newTable(limit, weaker)
	t.chunk = func(n int) []subject {
		all, dossiers := make([]subject, n), make([]dossier, n)
		for i := range all {
			all[i].dossier = &dossiers[i]
		}
		return all
	}
	t.reset = (*subject).reset
	return t
}

// reset makes it nobody's.
func (s *subject) reset() {
	x := s.dossier
	if s.forgive(); x.past != nil {
		*x.past = history{}
	}
	*x = dossier{first: x.first, past: x.past}
	*s = subject{dossier: x}
}

// forgive forgets what has failed first.
func (s *subject) forgive() {
	if s.first != nil {
		*s.first = once{}
	}
}

type subjectFlags uint8

const (
	proven   subjectFlags = 1 << iota // has finished a handshake: packets with its address do come from there
	watched                           // a prefix that is to be looked at with the next tick
	unlooked                          // there were contacts that nobody looked at
	heard                             // somebody has answered
)

// once is the first failing contact.
type once struct {
	c       Contact
	at      event.Ktime // of the outcome
	outcome Outcome
	flags   event.TCPFlags // of an invalid segment
	again   uint32         // it failed once more
	hash    uint64         // of the endpoint; 0 when there is none
}

// weaker says whether a is missed less than b.
func weaker(a, b *subject) bool {
	if (a.record == nil) != (b.record == nil) {
		return a.record == nil
	}
	if a.record != nil {
		if x, y := a.record.top(), b.record.top(); x != y {
			return x < y
		}
	}
	if x, y := a.contacts, b.contacts; x != y {
		return x < y
	}
	return a.last < b.last
}

// source returns the source of a contact.
func (d *Engine) source(ns event.NetNS, zone uint16, a netip.Addr, p *place) *subject {
	if s := d.near(p); s != nil {
		return s
	}
	s, fresh := d.subjects.get(p.src, d.gone)
	if fresh {
		s.hash, s.addr, s.netns, s.zone = p.src, a, ns, zone
	}
	return s
}

// gone lets go of a subject whose place is needed.
func (d *Engine) gone(s *subject) {
	d.over.Subjects++
	d.letGo(s)
}

func (d *Engine) letGo(s *subject) {
	if s.record != nil {
		d.records--
		s.record = nil
	}
}

// served is how many first contacts on a port were answered. Most successes come
// before there is a record: a round of checks is made at once, and silence is
// known 3 s after the answers. Without them the role of who made it would not show.
type served struct {
	n     uint32
	port  uint16
	proto uint8
}

const servedPorts = 4

// serve counts an answer. What was not seen before takes the place of what has the
// fewest.
func (h *history) serve(t *event.Tuple) {
	least := 0
	for i := range h.served {
		v := &h.served[i]
		if v.n > 0 && v.port == port(t) && v.proto == t.Proto {
			v.n++
			return
		}
		if v.n < h.served[least].n {
			least = i
		}
	}
	h.served[least] = served{1, port(t), t.Proto}
}

// marks say how many first contacts had been answered a while ago: what was tried
// together with what failed first was answered before that was known to fail.
type marks struct {
	second   uint32
	old, new uint32
}

const markEach = 4 // seconds, more than a contact is waited for

// mark is called before an answer is counted.
func (s *subject) mark(sec uint32) {
	if m := &s.hasPast().marks; sec-m.second >= markEach {
		m.old, m.new, m.second = m.new, s.answered, sec
	}
}

// lately is how many were answered in the last 4 to 8 s.
func (s *subject) lately(sec uint32) uint32 {
	if s.past == nil {
		return 0
	}
	switch m := &s.past.marks; {
	case sec-m.second < markEach:
		return s.answered - m.old
	case sec-m.second < 2*markEach:
		return s.answered - m.new
	}
	return 0
}

// prefix says whose prefix it is: that of a single address is the address.
func (s *subject) prefix() netip.Prefix {
	if s.bits > 0 {
		return netip.PrefixFrom(s.addr, int(s.bits))
	}
	return netip.PrefixFrom(s.addr, s.addr.BitLen())
}

// record is the evidence against a subject.
type record struct {
	all      key
	ports    [slots]key           // by port and protocol
	dsts     [slots]key           // by destination
	failed   set                  // endpoints
	dst      counted              // destinations of these
	port     counted              // and their ports
	net      counted              // and those of their networks that are on the Internet
	served   *[servedPorts]served // of the subject
	tally    tally
	before   uint64      // answered just before the first failed
	first    event.Ktime // of the evidence
	last     event.Ktime
	sample   []agg.Contacted
	begun    event.Ktime    // when the test was first crossed, 0 for not yet
	fresh    event.Ktime    // when an endpoint failed that had not failed before
	returned uint64         // failures once more, well after that
	from     counted        // of a prefix: the sources
	proof    bool           // it finished a handshake where it failed: these contacts are its own
	through  netip.AddrPort // what took up a connection after the scan was confirmed
	used     used
	flags    []event.TCPFlags // that its invalid segments had, the first few kinds
}

// slots is how many ports and destinations of a subject are tested at a time; a new
// one takes the place of the one with the fewest contacts.
const slots = 8

// tally counts first contacts by their outcome.
type tally struct {
	refused, unanswered, half, invalid, answered, excused uint64
	again                                                 uint64 // failed once more
}

// key is one test.
type key struct {
	what     netip.Addr // destination, invalid for none
	port     uint16
	proto    uint8
	used     bool
	lambda   float64
	contacts uint32 // first contacts with an outcome
	answered uint32
	failing  uint32 // endpoints that failed
	pend     uint32
	windows  uint32 // of 30 s in which an endpoint failed that had not failed before
	window   uint32 // the last of these
	after    uint32 // those since the test was crossed
	last     uint32 // second
}

// each calls fn for the tests that a contact is for.
func (r *record) each(t event.Tuple, fn func(*key)) {
	fn(&r.all)
	fn(r.portKey(&t))
	fn(keyOf(&r.dsts, t.Dst, 0, t.Proto))
}

// portKey returns the test of a port; a new one begins with what was answered there.
func (r *record) portKey(t *event.Tuple) *key {
	k := keyOf(&r.ports, netip.Addr{}, port(t), t.Proto)
	if k.contacts != 0 || k.pend != 0 || k.failing != 0 {
		return k
	}
	for _, v := range r.served {
		if v.n > 0 && v.port == k.port && v.proto == k.proto {
			k.answered, k.contacts = v.n, v.n
		}
	}
	return k
}

func keyOf(all *[slots]key, a netip.Addr, port uint16, proto uint8) *key {
	weakest := 0
	for i := range all {
		k := &all[i]
		switch {
		case !k.used:
			*k = key{what: a, port: port, proto: proto, used: true}
			return k
		case k.port == port && k.proto == proto && k.what == a:
			return k
		case k.contacts+k.pend < all[weakest].contacts+all[weakest].pend,
			k.contacts+k.pend == all[weakest].contacts+all[weakest].pend && k.last < all[weakest].last:
			weakest = i
		}
	}
	all[weakest] = key{what: a, port: port, proto: proto, used: true}
	return &all[weakest]
}

// top is the highest statistic.
func (r *record) top() (x float64) {
	x = r.all.lambda
	for i := range slots {
		x = max(x, r.ports[i].lambda, r.dsts[i].lambda)
	}
	return x
}

// promote gives a subject a record that begins with its first failing contact.
func (d *Engine) promote(s *subject) *record {
	if d.records >= d.cfg.MaxRecords {
		d.drop()
	}
	d.records++
	r := &record{served: &s.hasPast().served, first: s.first.at, last: s.first.at}
	s.record = r
	r.all.answered, r.all.contacts, r.all.pend = s.base, s.base, uint32(s.pend)
	for n := s.newest; n > d.queues[early].head && n <= d.queues[early].tail; {
		w := d.queues[early].at(n - 1)
		if p := d.pending.Get(w.id); p != nil && p.t == w.t && p.flags&pendFirst != 0 && p.early == n {
			r.portKey(&w.orig).pend++
			keyOf(&r.dsts, w.orig.Dst, 0, w.orig.Proto).pend++
		}
		n = w.before
	}
	return r
}

// drop takes the record from one of the next subjects that have one: from the one
// with the least against it.
func (d *Engine) drop() {
	var worst *subject
	t := d.subjects
	for looked, n := 0, 0; looked < candidates && n < t.n; n++ {
		t.hand = (t.hand + 1) % t.n
		if s := t.at(t.hand); s.record != nil {
			if looked++; worst == nil || s.record.top() < worst.record.top() {
				worst = s
			}
		}
	}
	if worst != nil {
		d.over.Records++
		d.letGo(worst)
	}
}
