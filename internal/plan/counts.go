package plan

import (
	"cmp"
	"slices"

	"github.com/ctsight/ctsight/internal/event"
)

// Count is how many entries the kernel said that there were.
type Count struct {
	At event.Ktime
	N  uint64
}

// aVisit is how many entries have to go within a second for a visit of the collector, and
// not lookups, to be what they went by.
const aVisit = 8

// endSilent gives an end to those who told none. What the kernel counted less than there
// would be without their ends is how many had gone by then, and who expired first has gone
// first. Where nobody had expired they were entries that nothing is known of: those that
// the reading of a table removes. Of a table that was not counted they go at the
// collector's next visit after their timeout.
func (r *Record) endSilent(counts []Count) {
	type unheard struct {
		*Conn
		since event.Ktime // it may have gone
	}
	var silent []unheard
	var begun, ended []event.Ktime
	for i := range r.Conns {
		c := &r.Conns[i]
		switch {
		case c.Refused:
			continue
		case c.Silent:
			since := c.Expires
			if c.Expires == 0 {
				since, c.Expires = c.Start, c.Start+event.Ktime(r.Kernel.Timeouts[r.timers[i]])
			}
			c.End, c.Cause = r.To, event.Timeout
			silent = append(silent, unheard{c, since})
		case c.End != 0:
			ended = append(ended, c.End)
		}
		if !c.Before {
			begun = append(begun, c.Start)
		}
	}
	slices.SortStableFunc(silent, func(a, b unheard) int { return cmp.Compare(a.Expires, b.Expires) })
	if len(counts) < 2 {
		for _, c := range silent {
			if k, _ := slices.BinarySearch(r.scans, c.Expires); k < len(r.scans) {
				c.End = r.scans[k]
			}
		}
		return
	}
	slices.Sort(ended)
	var late []event.Ktime // where no visit was seen
	next, unknown := 0, 0
	for k, gone := range missing(counts, begun, ended) {
		if next+unknown >= gone {
			continue
		}
		found := 0
		at, seen := r.visit(counts[k-1].At, counts[k].At)
		for ; next+unknown < gone && next < len(silent) && silent[next].since-event.Ktime(whole) <= counts[k].At; next++ {
			c := silent[next]
			c.End, c.Expires = at, min(c.Expires, at)
			found++
		}
		unknown = gone - next
		if !seen && found >= aVisit {
			late = append(late, slices.Repeat([]event.Ktime{at}, found)...)
		}
	}
	r.scans = append(r.scans, r.crowds(late)...)
	slices.Sort(r.scans)
}

// missing is for each count how many entries are fewer than at the first, beside those
// that are known to have begun and ended since. An event that comes a little before or
// after the count it is in makes one too many for a moment.
func missing(counts []Count, begun, ended []event.Ktime) []int {
	by := func(times []event.Ktime, at event.Ktime) int {
		n, _ := slices.BinarySearch(times, at+1)
		return n
	}
	known := func(at event.Ktime) int { return by(begun, at) - by(ended, at) }
	out, first := make([]int, len(counts)), int(counts[0].N)-known(counts[0].At)
	least := 1 << 62
	for k, c := range slices.Backward(counts) {
		least = min(least, first+known(c.At)-int(c.N))
		out[k] = least
	}
	return out
}

// visit is when the collector was seen after a time and until another, or the middle.
func (r *Record) visit(from, to event.Ktime) (at event.Ktime, seen bool) {
	if k, _ := slices.BinarySearch(r.scans, from+1); k < len(r.scans) && r.scans[k] <= to {
		return r.scans[k], true
	}
	return from + (to-from)/2, false
}
