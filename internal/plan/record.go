package plan

import (
	"cmp"
	"math"
	"slices"
	"sort"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// The garbage collector's bounds (GC_SCAN_INTERVAL_*, nf_conntrack_core.c).
const (
	gcMin   = time.Second
	gcMax   = 60 * time.Second
	gcClamp = 300 * time.Second
	gcPrior = 100 // GC_SCAN_INITIAL_COUNT
	// onePass is how far apart two removals of one pass through the table are at most:
	// it sleeps for a second at least.
	onePass = 500 * time.Millisecond
	// readTold is how long after a table was read it may be told what that has removed.
	readTold = 2 * time.Second
)

// Read takes all connections and finds out when the last packet of each came.
func Read(in Input, k Kernel) *Record {
	r := &Record{Kernel: k, Conns: slices.Collect(in.All()), Pools: in.Pools(), read: in.Read()}
	r.From, r.To = in.Window()
	slices.SortStableFunc(r.Conns, func(a, b Conn) int { return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.ID, b.ID)) })
	r.timers = make([]Timer, len(r.Conns))
	var coarse []event.Ktime // ends by a timeout that somebody found
	for i := range r.Conns {
		c := &r.Conns[i]
		r.cause(c)
		r.timers[i] = r.timerOf(c)
		switch c.Cause {
		case event.TimeoutGC:
			r.scans = append(r.scans, c.End)
		case event.Timeout:
			coarse = append(coarse, c.End)
		}
	}
	r.scans = append(r.scans, r.crowds(coarse)...)
	slices.Sort(r.scans)
	r.endSilent(in.Counts())
	for _, t := range r.scans {
		if n := len(r.passes); n > 0 && t-r.passes[n-1].end <= event.Ktime(onePass) {
			r.passes[n-1].end = t
			continue
		}
		r.passes = append(r.passes, pass{t, t})
	}
	r.Lagless = r.lagless()
	for i := range r.Conns {
		r.expiry(i)
	}
	if !r.Lagless && k.Pause == 0 {
		r.findOthers()
	}
	return r
}

// crowds are those of the times at which more entries go than by chance: where a backend
// does not tell who found them, the collector finds many at once, and lookups a few all
// the time. Of these some meet in a quarter of a second; 4 standard deviations more do
// not.
func (r *Record) crowds(times []event.Ktime) (out []event.Ktime) {
	const width = event.Ktime(250 * time.Millisecond)
	count := map[event.Ktime]int{}
	for _, t := range times {
		count[(t-r.From)/width]++
	}
	mean := float64(len(times)) / max(1, float64((r.To-r.From)/width))
	least := mean + 4*math.Sqrt(mean)
	// Who read the table before that has removed what had expired.
	after := max(r.From+event.Ktime(time.Second), r.read+event.Ktime(readTold))
	for _, t := range times {
		if t >= after && float64(count[(t-r.From)/width]) > least {
			out = append(out, t)
		}
	}
	return out
}

// cause takes for a timeout what a backend without causes tells the end of, when the
// entry was old enough.
func (r *Record) cause(c *Conn) {
	if c.End == 0 || c.Cause != event.CauseUnknown {
		return
	}
	as := *c
	as.Cause = event.Timeout
	if t := r.timerOf(&as); t != NoTimer && (c.Before || r.age(c) >= r.Kernel.Timeouts[t]-onePass) {
		c.Cause = event.Timeout
	}
}

// lagless asks those that no second packet refreshes: SYN_SENT, and most one-way UDP.
func (r *Record) lagless() bool {
	const exact = 20 * time.Millisecond
	same, all := 0, 0
	for i := range r.Conns {
		c := &r.Conns[i]
		if t := r.timers[i]; c.Before || !timedOut(c.Cause) || t != SynSent && (t != UDP || c.Replied) {
			continue
		}
		all++
		if lag := r.age(c) - r.Kernel.Timeouts[r.timers[i]]; lag >= -exact && lag < exact {
			same++
		}
	}
	return all > 0 && 2*same > all
}

// expiry fills in when a timeout ended. Where the kernel did not tell, an entry
// expired after the collector had come by for the last time and before it was found:
// at Start plus its timeout if that is in between, else it was refreshed, and the
// middle is as good as any.
func (r *Record) expiry(i int) {
	c, timeout := &r.Conns[i], r.Kernel.Timeouts[r.timers[i]]
	once := c.Start + event.Ktime(timeout)
	switch {
	case r.timers[i] == NoTimer || c.Expires != 0 || c.Refused:
	case c.End == 0:
		if c.Expires = once; r.timers[i] == Established || once <= r.lastPass() && r.timers[i] != SynSent {
			c.Expires = r.To + event.Ktime(timeout) // in use until now, for all we know
		}
	case evicted(c.Cause):
		if c.Expires = once; once <= c.End {
			c.Expires = c.End + event.Ktime(timeout/2)
		}
	case !timedOut(c.Cause):
		c.Expires = c.End + event.Ktime(timeout) // a packet was the end
	case r.age(c) < timeout-gcMin && !c.Before:
		r.timers[i] = NoTimer
		r.Early++
	case r.Lagless, c.Before && c.End < once:
		c.Expires = c.End
	default:
		before := r.scanBefore(c.End)
		if once > before {
			c.Expires = min(once, c.End)
			break
		}
		c.Expires = before + (c.End-before)/2
	}
}

// pass is one of the collector through the table, from its first removal to its last.
type pass struct{ begin, end event.Ktime }

// scanBefore is when the collector ended the pass before the one that removed an entry.
func (r *Record) scanBefore(t event.Ktime) event.Ktime {
	before := t - event.Ktime(r.Kernel.longest())
	i := sort.Search(len(r.passes), func(i int) bool { return r.passes[i].begin > t })
	if i > 0 && t-r.passes[i-1].end <= event.Ktime(onePass) {
		i--
	}
	if i > 0 {
		before = max(before, r.passes[i-1].end)
	}
	return before
}

// lastPass is when the collector was last in the window: what had expired by then is not
// there any more.
func (r *Record) lastPass() event.Ktime {
	if r.Lagless {
		return r.To
	}
	return r.scanBefore(r.To + event.Ktime(2*onePass))
}

// touched is when the last packet came.
func (r *Record) touched(i int) event.Ktime {
	return r.Conns[i].Expires - event.Ktime(r.Kernel.Timeouts[r.timers[i]])
}
