package plan

import (
	"cmp"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// firstScan is when the collector was first seen at work; where it was not, when it
// would come by if it had just been.
func (s *sim) firstScan() {
	switch {
	case !s.changes:
	case len(s.r.scans) > 0:
		s.scan = s.r.scans[0]
	default:
		s.scan = s.r.From + s.interval()
	}
}

// collect is gc_worker, without the time that it takes: what has expired goes, and in
// a table that is nearly full, where early drop has failed, what is not assured, or is
// closing, too: in the order of a hash, until the table is less full.
func (s *sim) collect() {
	for s.expired.first() <= s.at {
		if i := s.expired.pop(); s.all[i].pos > 0 {
			s.remove(i)
		}
	}
	if s.refused {
		s.refused = false
		s.makeRoom(s.out.Max / 100 * 95)
	}
	s.scan = s.at + s.interval()
}

func (s *sim) makeRoom(until uint64) {
	var gone []int32
	n := len(s.live)
	for k, step := 0, coprime(n); k < n && uint64(n-len(gone)) >= until; k++ {
		if j := s.live[k*step%n]; s.all[j].assured > s.at || s.all[j].closing <= s.at {
			gone = append(gone, j)
		}
	}
	for _, j := range gone {
		s.remove(j)
	}
	s.out.EvictedGC += uint64(len(gone))
}

// interval is how long the collector sleeps: the running mean of what entries have
// left, in whole jiffies as the kernel has it. Its steps are cut off, so that late
// ones change nothing; so does the order, which is that of a hash. Each entry is in
// the table twice.
func (s *sim) interval() event.Ktime {
	hz := int64(cmp.Or(s.r.Kernel.HZ, DefaultHZ))
	jiffy := int64(time.Second) / hz
	low, clamp := int64(gcMin)/jiffy, int64(gcClamp)/jiffy
	mean, count := int64(gcMax)/jiffy, int64(gcPrior)
	nodes := 2 * len(s.live)
	step := coprime(nodes)
	for k := 0; k < nodes && count <= clamp; k++ {
		e := &s.all[s.live[(k*step%nodes)/2]]
		left := clamp
		if e.expires != never {
			left = min(max(int64(min(e.expires-s.at, e.most))/jiffy, low), clamp)
		}
		count++
		mean += (left - mean) / count
	}
	return event.Ktime(min(max(mean, low), int64(gcMax)/jiffy) * jiffy)
}

// coprime is a step that visits all of n in an order that is none.
func coprime(n int) int {
	if n == 0 {
		return 1
	}
	step := int(float64(n)*0.6180339887) | 1
	for ; gcd(step, n) > 1; step += 2 {
	}
	return step
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// queue is a heap of entries by time.
type queue []due

type due struct {
	at event.Ktime
	i  int32
}

func (q queue) first() event.Ktime {
	if len(q) == 0 {
		return never
	}
	return q[0].at
}

func (q *queue) push(at event.Ktime, i int32) {
	h := append(*q, due{at, i})
	for c := len(h) - 1; c > 0; {
		p := (c - 1) / 2
		if h[p].at <= h[c].at {
			break
		}
		h[p], h[c] = h[c], h[p]
		c = p
	}
	*q = h
}

func (q *queue) pop() int32 {
	h := *q
	top := h[0].i
	h[0] = h[len(h)-1]
	h = h[:len(h)-1]
	for p := 0; ; {
		c := 2*p + 1
		if c >= len(h) {
			break
		}
		if c+1 < len(h) && h[c+1].at < h[c].at {
			c++
		}
		if h[p].at <= h[c].at {
			break
		}
		h[p], h[c] = h[c], h[p]
		p = c
	}
	*q = h
	return top
}
