package plan

import (
	"cmp"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// The collector goes by what all entries of the machine have left, and a record has those
// of one namespace. What the others are to it follows from how long it slept: with the
// entries of the record alone it would have slept for so long, and it has slept for longer
// or shorter.

// others are the entries of other namespaces, as the collector meets them: each is in the
// table twice.
type others struct {
	n    int64
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
	// maxPauses is how many pauses are looked at, the last ones.
	maxPauses = 8
)

// pause is one that the collector has made, and the one that it would have made with the
// entries of the record alone.
type pause struct {
	was, own float64 // seconds
	nodes    float64 // that the mean is of, those that it begins with among them
}

// findOthers fills in others.
func (r *Record) findOthers() {
	var all []pause
	for k := len(r.passes) - 2; k >= 0 && len(all) < maxPauses; k-- {
		slept := r.passes[k+1].begin.Sub(r.passes[k].begin)
		late := r.Kernel.wheel(event.Ktime(slept))
		if slept >= gcMin && slept <= gcMax+time.Duration(late)+onePass { // longer: it came and found nothing
			all = append(all, r.pauseAfter(k, slept))
		}
	}
	if len(all) == 0 {
		return
	}
	middle := func(of func(p pause) float64) float64 {
		slices.SortFunc(all, func(a, b pause) int { return cmp.Compare(of(a), of(b)) })
		return of(all[len(all)/2])
	}
	was, own := middle(func(p pause) float64 { return p.was }), middle(func(p pause) float64 { return p.own })
	const near, most = 0.05, float64(gcMax / time.Second)
	switch {
	case was > own*(1+near) && was > most*(1-near): // how many more there are cannot be told
		r.others = others{othersAll, othersLong}
	case was > own*(1+near):
		r.others = others{int64(middle(func(p pause) float64 { return p.nodes * (p.was - p.own) / (othersLong.Seconds() - p.was) })), othersLong}
	case was < own*(1-near):
		left := min(othersShort, seconds(was/2))
		r.others = others{int64(middle(func(p pause) float64 { return max(0, p.nodes*(p.own-p.was)/(p.was-left.Seconds())) })), left}
	}
}

// pauseAfter is the one behind a pass.
func (r *Record) pauseAfter(k int, slept time.Duration) pause {
	at, sum, n := r.passes[k].begin, gcMax.Seconds()*gcPrior, float64(gcPrior)
	for i := range r.Conns {
		c := &r.Conns[i]
		if c.Start > at || c.End != 0 && c.End <= r.passes[k].end || c.Refused {
			continue
		}
		left := gcClamp
		if t := r.timers[i]; t != NoTimer {
			if c.Expires <= at {
				continue
			}
			left = min(max(c.Expires.Sub(at), gcMin), r.Kernel.Timeouts[t], gcClamp)
		}
		sum, n = sum+2*left.Seconds(), n+2
	}
	slept -= time.Duration(r.Kernel.late(event.Ktime(slept)))
	return pause{slept.Seconds(), min(max(sum/n, gcMin.Seconds()), gcMax.Seconds()), n}
}

// mean is what the collector begins with: the bias that it always has, and the others.
func (o *others) mean(jiffy event.Ktime) (mean, count int64) {
	mean, count = int64(event.Ktime(gcMax)/jiffy), gcPrior
	if o.n > 0 {
		mean, count = (mean*count+o.n*int64(event.Ktime(o.left)/jiffy))/(count+o.n), count+o.n
	}
	return mean, count
}
