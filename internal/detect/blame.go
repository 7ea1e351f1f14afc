package detect

import (
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// blame is a failing contact that was counted against a subject a moment ago.
type blame struct {
	subject, endpoint, dst uint64
	c                      Contact
	o                      Outcome
	w                      float64 // of the log likelihood ratio
}

const (
	blameMost = 1 << 12 // the last of them are remembered
	// A test that rests on silence is told this much later than it is crossed: within
	// it others go silent too when it is the uplink.
	silenceTold = 200 * time.Millisecond
	heldMost    = 1 << 10
)

// held is a subject whose test was crossed and is not told.
type held struct {
	hash  uint64
	since event.Ktime
}

func (d *Engine) blame(s *subject, j *judgement, w float64) {
	if j.o == Invalid { // an outage does not explain it
		return
	}
	o := &d.outage
	b := blame{s.hash, j.place.endpoint, j.place.dst, *j.Contact, j.o, w}
	if len(o.blamed) < blameMost {
		o.blamed = append(o.blamed, b)
		return
	}
	o.blamed[o.next] = b
	o.next = (o.next + 1) % blameMost
}

// reblame is for what has turned out as another failure than it was counted as.
func (d *Engine) reblame(s *subject, j *judgement, w float64) {
	o := &d.outage
	for i := range o.blamed {
		if b := &o.blamed[i]; b.subject == s.hash && b.endpoint == j.place.endpoint {
			b.o, b.w = j.o, b.w+w
		}
	}
}

// takeBlameBack undoes what contacts have counted that were made since a time: an
// outage began then.
func (d *Engine) takeBlameBack(begin event.Ktime) {
	o := &d.outage
	var of []uint64
	for i := range o.blamed { // the last first: the first of a subject is there twice
		if b := &o.blamed[(o.next+len(o.blamed)-1-i)%len(o.blamed)]; b.c.At >= begin && d.unblame(b) && !slices.Contains(of, b.subject) {
			of = append(of, b.subject)
		}
	}
	o.blamed, o.next = o.blamed[:0], 0
	for _, h := range of {
		if s := d.subjects.find(h); s != nil && s.record != nil {
			d.scan.reconsider(d, s, begin)
		}
	}
}

func (d *Engine) unblame(b *blame) bool {
	s := d.subjects.find(b.subject)
	if s == nil {
		return false
	}
	r := s.record
	switch {
	case r == nil && s.first != nil && s.first.hash == b.endpoint:
		s.forgive()
	case r == nil || !r.failed.has(b.endpoint): // it was answered late
		return false
	default:
		r.failed.remove(b.endpoint)
		r.dst.remove(b.dst)
		r.port.remove(uint64(port(&b.c.Orig))<<8 | uint64(b.c.Orig.Proto) + 1)
		r.net.remove(wide(b.c.Orig.Dst))
		if t := r.tally.of(b.o); *t > 0 {
			*t--
		}
		r.tally.excused++
		r.each(b.c.Orig, func(k *key) {
			k.lambda = max(0, k.lambda-b.w)
			k.failing -= min(k.failing, 1)
			k.contacts -= min(k.contacts, 1)
		})
	}
	s.contacts -= min(s.contacts, 1)
	s.failed -= min(s.failed, 1)
	return true
}

// reconsider clears a scan of which too little is left.
func (n *scan) reconsider(d *Engine, s *subject, begin event.Ktime) {
	r := s.record
	r.sample = slices.DeleteFunc(r.sample, func(c agg.Contacted) bool { return !c.At.Before(d.cfg.Clock.At(begin)) })
	if r.begun == 0 || r.leading(s.threshold()) != nil {
		return
	}
	r.begun = 0
	if i := d.book.find(s.incident("scan")); i != nil && i.f.State != agg.Cleared {
		i.fill()
		i.f.Why += "; everybody fails since then"
		i.f.Excused = true
		i.refill = nil
		d.book.clear(i, d.now)
	}
}

// recovers takes back what an endpoint has counted that failed first and is good when it
// is tried again: it was not there yet, as while something starts. A scanner does not
// come back to wait for it.
func (n *scan) recovers(d *Engine, s *subject, j *judgement) {
	o := &d.outage
	i := slices.IndexFunc(o.blamed, func(b blame) bool { return b.subject == s.hash && b.endpoint == j.place.endpoint })
	if i < 0 {
		return
	}
	b := o.blamed[i]
	if o.blamed[i] = (blame{}); !d.unblame(&b) || s.record == nil {
		return
	}
	d.step(s, j, nil, -b.w, "good when tried again")
	r := s.record
	r.sample = slices.DeleteFunc(r.sample, func(c agg.Contacted) bool { return c.Orig.Dst == b.c.Orig.Dst && c.Orig.Dport == b.c.Orig.Dport })
	n.retract(d, s, "what failed is good since")
}

// retract clears a scan of which next to nothing is left.
func (n *scan) retract(d *Engine, s *subject, why string) {
	r := s.record
	if r.begun == 0 || r.failed.len() >= leastFailed/2 {
		return
	}
	r.begun = 0
	if i := d.book.find(s.incident("scan")); i != nil && i.f.State != agg.Cleared {
		i.fill()
		i.f.Why += "; " + why
		i.f.Excused = true
		i.refill = nil
		d.book.clear(i, d.now)
	}
}

// hold says whether what is to be told of a test has to wait, and remembers it.
func (d *Engine) hold(s *subject, now event.Ktime) bool {
	o, t := &d.outage, &s.record.tally
	if t.invalid >= leastFailed { // nobody's outage makes these
		return false
	}
	i := slices.IndexFunc(o.held, func(h held) bool { return h.hash == s.hash })
	since := now
	if i >= 0 {
		since = o.held[i].since
	}
	doubted := o.doubt != 0 && now-o.doubt < event.Ktime(doubtMost)
	silent := s.record.begun == 0 && t.unanswered > t.refused+t.half+t.invalid && now-since < event.Ktime(silenceTold)
	if !o.is && !doubted && !silent || i < 0 && len(o.held) >= heldMost {
		return false
	}
	if i < 0 {
		o.held = append(o.held, held{s.hash, now})
	}
	return true
}

// release looks at those again that had to wait.
func (d *Engine) release(now event.Ktime) {
	o := &d.outage
	if o.is {
		o.held = o.held[:0]
	}
	for _, h := range slices.Clone(o.held) {
		s := d.subjects.find(h.hash)
		if s == nil || s.record == nil || !d.scan.check(d, s, now, s.threshold()) {
			o.held = slices.DeleteFunc(o.held, func(x held) bool { return x.hash == h.hash })
		}
	}
}

// threshold is that of the scan test.
func (s *subject) threshold() float64 {
	if s.bits > 0 {
		return threshold + prefixPenalty
	}
	return threshold
}
