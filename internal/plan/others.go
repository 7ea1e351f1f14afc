package plan

import (
	"math"
	"sort"
	"time"
)

// The collector goes by what all entries of the machine have left, and a record has those
// of one namespace. What the others are to it follows from how long it slept: with the
// entries of the record alone it would have slept for so long, and it has slept for longer
// or shorter.

// others are the entries of other namespaces, as the collector meets them: each is in the
// table twice.
type others struct {
	n    int
	left time.Duration
}

const (
	// othersLong is what entries have left that make the collector come later: those of
	// established connections have more than it takes for the most.
	othersLong = gcClamp
	// othersShort is what those have left that make it come sooner: half of the timeout of
	// UDP.
	othersShort = 15 * time.Second
	// othersAll are so many that those of the record do not count.
	othersAll = 1 << 20
	// maxPauses is how many pauses are looked at, the last ones, and maxLeft of how many
	// entries: one pause of a large table tells enough.
	maxPauses, maxLeft = 16, 1 << 20
	// othersNear is by how much two pauses differ without a reason.
	othersNear = 0.05
)

// pause is one that the collector has made.
type pause struct {
	slept time.Duration
	left  []time.Duration // of the entries of the record
}

// with is how long it would have been with the entries of the record, and others.
func (p *pause) with(k *Kernel, o others) time.Duration {
	return k.wheel(k.sleep(len(p.left), func(i int) time.Duration { return p.left[i] }, o))
}

// findOthers fills in others.
func (r *Record) findOthers() {
	all := r.pauses()
	if len(all) == 0 {
		return
	}
	with := func(o others) (sum time.Duration) {
		for i := range all {
			sum += all[i].with(&r.Kernel, o)
		}
		return sum / time.Duration(len(all))
	}
	var was time.Duration
	for _, p := range all {
		was += p.slept / time.Duration(len(all))
	}
	near := func(a, b time.Duration) bool { return math.Abs(a.Seconds()/b.Seconds()-1) <= othersNear }
	own, left := with(others{}), othersLong
	switch {
	case near(own, was):
		return
	case near(was, r.Kernel.wheel(gcMax)): // how many more there are cannot be told
		r.others = others{othersAll, left}
		return
	case was < own:
		left = min(othersShort, was/2)
	}
	r.others = others{left: left, n: sort.Search(othersAll, func(n int) bool {
		slept := with(others{n, left})
		return slept == was || slept > was == (left == othersLong)
	})}
}

// pauses are the last that the collector has made between two visits that were seen.
func (r *Record) pauses() (all []pause) {
	entries := 0
	for k := len(r.passes) - 2; k >= 0 && len(all) < maxPauses && entries < maxLeft; k-- {
		slept := r.passes[k+1].begin.Sub(r.passes[k].begin)
		if slept >= gcMin && slept <= r.Kernel.wheel(gcMax)+onePass { // longer: it came and found nothing
			p := pause{slept, r.leftAfter(k)}
			all, entries = append(all, p), entries+len(p.left)
		}
	}
	return all
}

// leftAfter is what the entries have left that a pass leaves in the table.
func (r *Record) leftAfter(k int) (left []time.Duration) {
	at := r.passes[k].begin
	for i := range r.Conns {
		c, t := &r.Conns[i], r.timers[i]
		switch {
		case c.Start > at, c.End != 0 && c.End <= r.passes[k].end, c.Refused:
		case t == NoTimer:
			left = append(left, gcClamp)
		case c.Expires > at:
			left = append(left, min(c.Expires.Sub(at), r.Kernel.Timeouts[t]))
		}
	}
	return left
}
