package agg

import (
	"unsafe"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/wyhash"
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
	p := &s.places[0]
	s.locate(p, c.NetNS, c.Zone, &c.Orig)
	for _, d := range s.cfg.Dims {
		if r := s.dims[d].find(&p.key[d], p.hash[d]); r != nil {
			judge(&r.outcomes, gain, numOutcomes)
		} else {
			s.dims[d].judged(gain, numOutcomes)
		}
	}
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

// recentSet remembers the last few hashes of each of many sets, in one cache
// line each: of the values that fall into a set the eight that were added last.
type recentSet struct {
	sets []recentLine // a power of two
}

type recentLine [8]uint64

func newRecentSet(values int) recentSet {
	n := 128
	for n*len(recentLine{}) < values {
		n *= 2
	}
	return recentSet{make([]recentLine, n)}
}

func (s *recentSet) line(h uint64) *recentLine { return &s.sets[h>>20&uint64(len(s.sets)-1)] }

// add says whether h, which is not 0, was not there.
func (s *recentSet) add(h uint64) bool {
	line := s.line(h)
	for _, v := range line {
		if v == h {
			return false
		}
	}
	copy(line[1:], line[:len(line)-1])
	line[0] = h
	return true
}

func (s *recentSet) bytes() int { return len(s.sets) * int(unsafe.Sizeof(recentLine{})) }

// Hashes of values that are counted as distinct: without a secret, so that the
// estimates of two runs are the same.
func distinctAddr(a *[16]byte, flags uint8) uint32 {
	return uint32(wyhash.Addr(a, uint64(flags)) >> 32)
}

func endpointPort(t *event.Tuple) uint32 {
	return uint32(wyhash.Mix(uint64(t.Dport), uint64(t.Proto)) >> 32)
}
