package detect

import (
	"net/netip"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// link is a source with an endpoint that it comes to often: three times in a minute
// at first. It is counted from then on, entries made before are not in it. There are
// a bounded number (maxLinks); when there is no room a newcomer needs eight, and takes
// the place of one that has been idle for longest among the next few, of so many a
// second at most.
//
// What an insert pays is a counter in the cache line that it reads anyway, and for a
// link one more look-up; the rest belongs to ticks.
type link struct {
	// What every entry needs is together: two cache lines.
	made, ended uint64 // entries since then
	since       event.Ktime
	lastGood    event.Ktime // contact that was answered
	now         lately
	last        uint32 // second
	minute      uint32 // number of the minutes that are full
	open        minuteOf
	netns       event.NetNS
	zone        uint16
	fresh       bool // the source had not come to the endpoint within a day before
	told        tellings

	before [slices5]lately // the slices before that of now

	hash, endpoint, src uint64
	tuple               event.Tuple // Sport is 0
	streak              *streak     // failures since the last success
	hammer              *hammer
	older               lives // entries of before it was followed
	minutes             [minutesKept]minuteOf
}

// tellings is what was told of a link.
type tellings uint8

const (
	toldStorm tellings = 1 << iota
	toldNew
	toldPool
)

// lately is what came in five seconds.
type lately struct{ slot, made, failed, good uint32 }

// lives sums how long connections were open.
type lives struct {
	n, short uint64
	open     time.Duration
}

// minuteOf is a minute of a link.
type minuteOf struct {
	made, ended uint32
	live        uint32 // at its end
	lives       lives
}

const (
	maxLinks     = 1 << 12
	hotFrom      = 3
	hotWhenFull  = 8
	newLinks     = 256 // a second, when there is no room
	slices5      = 12  // of 5 s, which make a minute
	sliceSeconds = 5
	minutesKept  = 30
	shortOpen    = 10 * time.Second
)

// Bits of seen.hash that are no hash: how often in this minute, whether it began
// with the first contact, and whether it is a link.
const (
	seenCount  = 1<<14 - 1
	seenFresh  = 1 << 14
	seenLinked = 1 << 15
	seenNotes  = 1<<16 - 1
)

// come counts a contact, and says whether it is one of a link or may become one.
func (s *seen) come(sec uint32, first bool) bool {
	if s.last/60 != sec/60 {
		s.hash &^= seenCount | seenFresh
	}
	if first {
		s.hash |= seenFresh
	}
	if s.hash&seenCount < seenCount {
		s.hash++
	}
	return s.hash&seenLinked != 0 || s.hash&seenCount >= hotFrom
}

// links are those that are followed.
type links struct {
	table  *table[link]
	second uint32
	n      int // newcomers of this second
}

func idlest(a, b *link) bool { return a.last < b.last }

// follow takes a new entry of what may be a link. missed says that nothing is known
// of it, which may be because the cache has forgotten.
func (d *Engine) follow(e *event.Event, p *place, s *seen, sec uint32) {
	x := d.linkAt(p)
	if x == nil {
		if s.hash&seenCount < hotFrom {
			return
		}
		if x = d.admit(e, p, s, sec); x == nil {
			return
		}
	}
	s.hash |= seenLinked
	x.last = sec
	x.made++
	x.at(sec).made++
	x.open.made++
}

// admit makes a link, nil if there is no room.
func (d *Engine) admit(e *event.Event, p *place, s *seen, sec uint32) *link {
	l := &d.links
	if l.table.n == maxLinks {
		if l.second != sec {
			l.second, l.n = sec, 0
		}
		if n := s.hash & seenCount; n < hotWhenFull {
			if n == hotFrom {
				d.over.Links++
			}
			return nil
		}
		if l.n++; l.n > newLinks {
			d.over.Links++
			return nil
		}
	}
	x, _ := l.table.get(p.edge, d.unfollow)
	*x = link{hash: p.edge, endpoint: p.endpoint, src: p.src, tuple: e.Orig, netns: e.NetNS, zone: e.Zone, since: e.Time,
		fresh: s.hash&seenFresh != 0, minute: 0}
	x.tuple.Sport = 0
	if x.tuple.IsICMP() {
		x.tuple.Dport = 0
	}
	return x
}

// unfollow makes room.
func (d *Engine) unfollow(x *link) {
	d.over.Links++
	if s := d.edges.find(x.hash); s != nil {
		s.hash &^= seenLinked
	}
}

// at is the slice of now.
func (x *link) at(sec uint32) *lately {
	slot := sec / sliceSeconds
	switch {
	case slot == x.now.slot:
		return &x.now
	case slot > x.now.slot:
		x.before[x.now.slot%slices5] = x.now
		x.now = lately{slot: slot}
		return &x.now
	}
	w := &x.before[slot%slices5]
	if w.slot != slot {
		*w = lately{slot: slot}
	}
	return w
}

// sum is of the last slices, that of now among them.
func (x *link) sum(sec uint32, n uint32) (all lately) {
	slot := sec / sliceSeconds
	add := func(w *lately) {
		if w.slot+n > slot {
			all.made, all.failed, all.good = all.made+w.made, all.failed+w.failed, all.good+w.good
		}
	}
	for i := range x.before {
		add(&x.before[i])
	}
	add(&x.now)
	return all
}

// live is how many of its entries there are.
func (x *link) live() uint64 { return x.made - x.ended }

// part takes an entry of a link that has gone; it was made at a time.
func (d *Engine) part(e *event.Event, p *place, made event.Ktime, known bool) {
	x := d.linkAt(p)
	if x == nil || !known {
		return
	}
	older := made < x.since
	if !older {
		x.ended = min(x.ended+1, x.made)
		x.open.ended++
	}
	if e.Orig.Proto != event.ProtoTCP || e.Status&event.Assured == 0 {
		return
	}
	x.lastGood = max(x.lastGood, made)
	open, is := openFor(e, e.Time.Sub(made))
	if !is {
		return
	}
	if older {
		x.older.add(open)
		return
	}
	x.open.lives.add(open)
	if open < shortOpen {
		d.hammered(x, e, made)
	}
}

func (l *lives) add(open time.Duration) {
	l.n++
	l.open += open
	if open < shortOpen {
		l.short++
	}
}

func (l *lives) mean() time.Duration { return l.open / time.Duration(max(1, l.n)) }

// openFor is how long a TCP connection was open, from how long its entry was there:
// without the timeout of the state it was in when it was closed (the kernel's
// defaults, nf_conntrack_proto_tcp.c) and the time the kernel was late. False where
// it was not closed.
func openFor(e *event.Event, life time.Duration) (time.Duration, bool) {
	idle := time.Duration(0)
	switch e.TCPState {
	case event.TCPTimeWait, event.TCPFinWait:
		idle = 120 * time.Second
	case event.TCPCloseWait:
		idle = 60 * time.Second
	case event.TCPLastAck:
		idle = 30 * time.Second
	case event.TCPClose:
		idle = 10 * time.Second
	case event.TCPNone: // not told
		if idle = 10 * time.Second; life >= 120*time.Second {
			idle = 120 * time.Second
		}
	default:
		return 0, false
	}
	if e.Timeout > 0 { // it did not expire
		idle -= e.Timeout
	}
	open := life - idle + min(0, e.Timeout)
	return max(0, open), open > -time.Second
}

// fared takes the outcome of a contact.
func (d *Engine) fared(s *subject, j *judgement, client bool) {
	if j.o == Accepted || j.o == Invalid {
		return
	}
	x := d.linkAt(j.place)
	fails := j.o == Refused || j.o == Unanswered
	switch {
	case fails && (j.judged || d.excused(j.At)):
	case fails:
		if x != nil {
			d.failed(x, j)
		}
		d.serviceFails(s, j, x, client)
	default:
		if x != nil {
			d.succeeded(x, j)
		}
		d.serviceAnswers(j.place.endpoint, j.At)
	}
	if j.first && j.o == Answered && s.hasPast().fan.add(j.sec, s.burst.known(j.sec)) {
		d.fannedOut(s)
	}
}

// tick looks at all links once in five seconds.
func (l *links) tick(d *Engine) {
	sec := d.second(d.now)
	if l.second = max(l.second, sec); sec%sliceSeconds != 0 {
		return
	}
	l.table.all(func(x *link) {
		if full := uint32((d.now - x.since) / event.Ktime(time.Minute)); full > x.minute {
			x.turn(full)
			d.leaks(x)
			d.poolLost(x)
			d.hammeredMore(x)
		}
		d.newPattern(x, sec)
	})
}

// turn ends a minute. Without a tick for longer, those between are empty.
func (x *link) turn(full uint32) {
	x.open.live = uint32(x.live())
	for ; x.minute < full; x.minute++ {
		x.minutes[x.minute%minutesKept] = x.open
		x.open = minuteOf{live: x.open.live}
	}
}

// back is a minute that was, 0 the last.
func (x *link) back(i uint32) *minuteOf { return &x.minutes[(x.minute-1-i)%minutesKept] }

// kept is how many minutes are.
func (x *link) kept() uint32 { return min(x.minute, minutesKept) }

func (x *link) incident(class string) incidentKey {
	return incidentKey{class: class, netns: x.netns, zone: x.zone, source: netip.PrefixFrom(x.tuple.Src, x.tuple.Src.BitLen()), target: x.target()}
}

func (x *link) target() agg.Target {
	return agg.Target{Addr: x.tuple.Dst, Proto: x.tuple.Proto, Port: x.tuple.Dport}
}

// again returns the link of an incident while it is the same.
func (d *Engine) linkOf(hash uint64, since event.Ktime) *link {
	if x := d.links.table.find(hash); x != nil && x.since == since {
		return x
	}
	return nil
}

// show opens the incident of a link, or notes that it goes on. It is told when it
// was not open. fill writes it from the link as it is then.
func (d *Engine) show(x *link, class string, first event.Ktime, quiet time.Duration, state, severity string, fill func(*link, *agg.Finding)) {
	k := x.incident(class)
	i := d.book.find(k)
	if i == nil || i.f.State == agg.Cleared {
		i = d.begin(k, first)
	}
	i.last, i.changed, i.quiet = d.now, true, quiet
	hash, since := x.hash, x.since
	i.refill = func() {
		if x := d.linkOf(hash, since); x != nil {
			fill(x, &i.f)
		}
	}
	if i.f.State == agg.Confirmed || i.f.State == state {
		return
	}
	i.f.State, i.f.Severity = state, severity
	i.fill()
	d.book.tell(i, d.now)
}

// over clears the incident of a link, if there is one.
func (d *Engine) finish(x *link, class, why string) {
	if i := d.book.find(x.incident(class)); i != nil && i.f.State != agg.Cleared {
		i.fill()
		i.refill = nil
		i.f.Why += why
		d.book.clear(i, d.now)
	}
}
