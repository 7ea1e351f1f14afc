package pipeline

import (
	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// Reckoning sets what was traced against the kernel's counters, from the first to the
// last reading of both in a recording.
type Reckoning struct {
	before, after map[event.NetNS]reading // nil where there is none
	part          map[event.NetNS]reading // of one that is read
	read          event.Ktime             // the first had ended
	ends          event.Ktime             // the last began
	final         bool                    // and is that of the end
}

// Take takes a step of one recording. What is no reading it passes over.
func (r *Reckoning) Take(t *Told) {
	if t.counts == nil {
		return
	}
	if r.part == nil {
		r.part = map[event.NetNS]reading{}
	}
	for i := range t.counts.NetNS {
		c := &t.counts.NetNS[i]
		r.part[c.NetNS] = c.reading()
	}
	if t.counts.More {
		return
	}
	if r.before == nil {
		r.before, r.read = r.part, event.Ktime(t.counts.Done)
	}
	r.after, r.ends, r.final, r.part = r.part, t.At, t.counts.Last, nil
}

// Balance returns the balance of a recording that comes from there, with the times
// between which it was counted: none without two readings.
func (r *Reckoning) Balance(o Origin) (rows []agg.BalanceRow, from, to event.Ktime) {
	var doc agg.Doc
	r.account(&doc, o)
	return doc.Balance, r.read, r.ends
}

// account fills in the kernel's side, and says whether there is one.
func (r *Reckoning) account(doc *agg.Doc, o Origin) bool {
	if r.before == nil || r.ends <= r.read {
		return false
	}
	has := hooks{}
	if o.header != nil {
		for _, symbol := range o.header.Hooks {
			has[symbol] = true
		}
	}
	has.account(doc, r.before, r.after)
	return true
}
