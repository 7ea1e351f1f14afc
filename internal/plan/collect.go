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
		s.scan = s.r.From + event.Ktime(s.interval())
	}
}

// collect is gc_worker, without the time that it takes: what has expired goes, and in
// a table that is nearly full, where early drop has failed, what is not assured, or is
// closing, too: in the order of a hash, until the table is less full.
func (s *sim) collect() {
	for s.expired.first() <= s.at {
		if i := s.expired.pop(); s.all[i].pos > 0 {
			s.remove(i)
			if s.at >= s.r.From+(s.r.To-s.r.From)/2 {
				s.late += s.at.Sub(s.all[i].expires).Seconds()
				s.found++
			}
		}
	}
	if s.refused {
		s.refused = false
		s.makeRoom(s.out.Max / 100 * 95)
	}
	s.scan = s.at + event.Ktime(s.r.Kernel.wheel(s.interval()))
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

// interval is how long the collector sleeps.
func (s *sim) interval() time.Duration {
	if s.r.Kernel.Pause > 0 {
		return s.r.Kernel.Pause
	}
	return s.r.Kernel.sleep(len(s.live), func(i int) time.Duration {
		e := &s.all[s.live[i]]
		if e.expires == never {
			return gcClamp
		}
		return time.Duration(min(e.expires-s.at, e.most))
	}, s.r.others)
}

// sleep is how long the collector sleeps that has met n entries and others: the running
// mean of what they have left, in whole jiffies as the kernel has it. Its steps are cut
// off, so that late ones change nothing; so does the order, which is that of a hash. Each
// entry is in the table twice.
func (k *Kernel) sleep(n int, left func(int) time.Duration, o others) time.Duration {
	jiffy := k.jiffy()
	low, clamp := int64(gcMin/jiffy), int64(gcClamp/jiffy)
	mean, count := int64(gcMax/jiffy), int64(gcPrior)
	nodes := 2 * (n + o.n)
	step := coprime(nodes)
	for at := 0; at < nodes && count <= clamp; at++ {
		d := o.left
		if i := at * step % nodes / 2; i < n {
			d = left(i)
		}
		count++
		mean += (min(max(int64(d/jiffy), low), clamp) - mean) / count
	}
	return time.Duration(min(max(mean, low), int64(gcMax/jiffy))) * jiffy
}

func (k *Kernel) jiffy() time.Duration { return time.Second / time.Duration(cmp.Or(k.HZ, DefaultHZ)) }

// wheel is when a timer goes off that was set for so long where one as long went off: the
// kernel's wheel has steps, the longer the coarser, and takes the next one that is later
// (calc_index, kernel/time/timer.c).
func (k *Kernel) wheel(after time.Duration) time.Duration {
	step := k.jiffy()
	for level := 63 * step; after >= level && step < k.jiffy()<<15; level *= 8 {
		step *= 8
	}
	return (after/step + 1) * step
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
