package agg

import (
	"net/netip"

	"github.com/ctsight/ctsight/internal/event"
)

// Contact is the first contact of a source with an endpoint, whose outcome is
// looked up when it is JudgeAfter old: by peek, where the kernel address is
// known. Without it the destroy tells.
type Contact struct {
	Ptr   uint64
	Time  event.Ktime
	Orig  event.Tuple
	NetNS event.NetNS
	Zone  uint16
}

// firstContact says whether a source had not contacted an endpoint before, as
// far as is remembered.
func (s *Census) firstContact(e *event.Event) bool {
	k := ByEdge.keyFor(e.NetNS, e.Zone, &e.Orig)
	return s.contacts.add(max(1, k.hash(s.cfg.Seed)))
}

// await puts a first contact into the queue.
func (s *Census) await(e *event.Event) {
	if e.Ptr == 0 {
		return
	}
	if s.len == s.cfg.MaxJudged {
		s.unjudged++
		return
	}
	if s.len == len(s.queue) {
		bigger := make([]Contact, min(max(1024, 2*len(s.queue)), s.cfg.MaxJudged))
		n := copy(bigger, s.queue[s.head:])
		copy(bigger[n:], s.queue[:s.head])
		s.queue, s.head = bigger, 0
	}
	s.queue[(s.head+s.len)%len(s.queue)] = Contact{Ptr: e.Ptr, Time: e.Time, Orig: e.Orig, NetNS: e.NetNS, Zone: e.Zone}
	s.len++
}

// Due takes from the queue the first contacts from before t that nothing has
// decided yet, at most as many as fit into into.
func (s *Census) Due(t event.Ktime, into []Contact) []Contact {
	into = into[:0]
	for ; s.len > 0 && len(into) < cap(into) && s.queue[s.head].Time <= t; s.len-- {
		c := s.queue[s.head]
		s.head = (s.head + 1) % len(s.queue)
		if l := s.live.Get(c.Ptr); l != nil && l.t == c.Time|flagFirst {
			into = append(into, c)
		}
	}
	return into
}

// Judge notes what a look at a contact has shown: whether its entry has seen a
// packet in the other direction.
func (s *Census) Judge(c *Contact, answered bool) {
	l := s.live.Get(c.Ptr)
	if l == nil || l.t != c.Time|flagFirst {
		return // destroyed meanwhile, which has judged it
	}
	l.t = c.Time
	gain := Answered
	if !answered {
		gain = Unanswered
		l.t |= flagSilent
	}
	for _, d := range s.cfg.Dims {
		k := d.keyFor(c.NetNS, c.Zone, &c.Orig)
		if r := s.dims[d].find(&k); r != nil {
			judge(&r.outcomes, gain, numOutcomes)
		} else {
			s.dims[d].judged(gain, numOutcomes)
		}
	}
	judge(&s.total.outcomes, gain, numOutcomes)
}

// verdict is what a destroy says of a first contact: the outcome it gains and
// the one it loses, numOutcomes for none.
func verdict(t event.Ktime, e *event.Event) (gain, loss Outcome) {
	gain, loss = numOutcomes, numOutcomes
	if t&(flagFirst|flagSilent) == 0 {
		return gain, loss
	}
	switch {
	case e.Cause == event.TCPRstUnreplied:
		gain = Refused
	case e.Status&event.SeenReply != 0:
		gain = Answered
	case t&flagSilent != 0: // stays
	case e.Cause == event.TimeoutGC, e.Cause == event.TimeoutLookup, e.Cause == event.TimeoutDump:
		gain = Unanswered
	}
	if gain != numOutcomes && t&flagSilent != 0 {
		loss = Unanswered
	}
	return gain, loss
}

func judge(o *[numOutcomes]uint32, gain, loss Outcome) {
	if gain < numOutcomes {
		o[gain]++
	}
	if loss < numOutcomes && o[loss] > 0 {
		o[loss]--
	}
}

// judged is judge for a row that is in other.
func (t *rows) judged(gain, loss Outcome) {
	c := [numOutcomes]*uint64{&t.other.Answered, &t.other.Refused, &t.other.Unanswered}
	if gain < numOutcomes {
		*c[gain]++
	}
	if loss < numOutcomes && *c[loss] > 0 {
		*c[loss]--
	}
}

// recentSet remembers at least the last limit/2 hashes that were added, in two
// tables of which the older is forgotten when the younger is full.
type recentSet struct {
	limit      int
	young, old []uint64
	n          int
}

// add says whether h, which is not 0, was not there.
func (s *recentSet) add(h uint64) bool {
	if s.young == nil {
		s.young = make([]uint64, 1024)
	}
	i := probeFor(s.young, h)
	if s.young[i] == h || len(s.old) > 0 && s.old[probeFor(s.old, h)] == h {
		return false
	}
	if 4*(s.n+1) > 3*len(s.young) {
		if s.n >= s.limit/2 {
			s.old, s.young, s.n = s.young, make([]uint64, len(s.young)), 0
		} else {
			bigger := make([]uint64, 2*len(s.young))
			for _, v := range s.young {
				if v != 0 {
					bigger[probeFor(bigger, v)] = v
				}
			}
			s.young = bigger
		}
		i = probeFor(s.young, h)
	}
	s.young[i] = h
	s.n++
	return true
}

// probeFor returns the place of h in a table whose size is a power of two, or
// the free one where it would go.
func probeFor(t []uint64, h uint64) int {
	mask := len(t) - 1
	i := int(h>>20) & mask
	for t[i] != 0 && t[i] != h {
		i = (i + 1) & mask
	}
	return i
}

func (s *recentSet) bytes() int { return 8 * (len(s.young) + len(s.old)) }

// Hashes of values that are counted as distinct: without a secret, so that the
// estimates of two runs are the same.
func mixAddr16(a netip.Addr) uint32 {
	b := as16(a)
	return uint32(mixAddr(&b, uint64(flags(a))) >> 32)
}

func endpointPort(t *event.Tuple) uint32 {
	return uint32(mix(uint64(t.Dport), uint64(t.Proto)) >> 32)
}
