package plan

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// Class is a sort of connections by what they cost a table.
type Class uint8

// Classes.
const (
	TCPEstablished Class = iota // open
	TCPClosed                   // with a FIN or RST behind it: most of its time it waits
	TCPHalfOpen                 // answered, never completed
	TCPUnanswered               // a SYN and nothing
	TCPRefused                  // reset at once, the entry went with it
	UDPOneWay
	UDPAnswered // within two seconds, and nothing since
	UDPFlow     // a stream to the kernel
	ICMPEcho
	Other
	numClasses
)

var classNames = [numClasses]string{"tcp_established", "tcp_closed", "tcp_half_open", "tcp_unanswered", "tcp_refused",
	"udp_one_way", "udp_answered", "udp_stream", "icmp", "other"}

func (c Class) String() string { return classNames[c] }

func (r *Record) classOf(i int) Class {
	c := &r.Conns[i]
	switch t := r.timers[i]; {
	case c.Proto == event.ProtoTCP:
		switch {
		case !c.Replied && c.Cause == event.TCPRstUnreplied:
			return TCPRefused
		case t == SynSent || !c.Replied:
			return TCPUnanswered
		case t == SynRecv:
			return TCPHalfOpen
		case t.closing(), t == NoTimer:
			return TCPClosed
		}
		return TCPEstablished
	case t == UDPStream:
		return UDPFlow
	case c.Proto == event.ProtoUDP || c.Proto == event.ProtoUDPLite:
		if c.Replied {
			return UDPAnswered
		}
		return UDPOneWay
	case t == ICMP, t == ICMPv6:
		return ICMPEcho
	}
	return Other
}

// Cost is what connections of a class, or all, cost.
type Cost struct {
	Class     Class
	Arrivals  uint64
	Refused   uint64  // of them, by a full table
	Rate      float64 // arrivals a second
	Peak1s    uint64  // arrivals in the busiest second
	Peak10ms  uint64  // and in the busiest 10 ms
	Mean      float64 // entries in the table, over the time of the window
	Peak      uint64
	Life      time.Duration // mean, of those that come
	AtLeast   bool          // of Life: some are older than any that ended
	Offered   float64       // Rate x Life, or Mean where that is more: what it settles at
	Dispersed float64       // index of dispersion of the arrivals, at least 1
	Share     float64       // of Offered
}

// Costs are of every class that occurs, most offered first, and of all.
func (r *Record) Costs() (classes []Cost, all Cost) {
	groups := make([][]int32, numClasses)
	every := make([]int32, len(r.Conns))
	for i := range r.Conns {
		c := r.classOf(i)
		groups[c] = append(groups[c], int32(i))
		every[i] = int32(i)
	}
	all = r.cost(every)
	all.Offered, all.Life, all.AtLeast = 0, 0, false
	for c, g := range groups {
		if len(g) == 0 {
			continue
		}
		x := r.cost(g)
		x.Class = Class(c)
		classes = append(classes, x)
		all.Offered += x.Offered
		all.AtLeast = all.AtLeast || x.AtLeast
		all.Life += seconds(x.Life.Seconds() * share(float64(x.Arrivals), float64(all.Arrivals)))
	}
	for i := range classes {
		classes[i].Share = share(classes[i].Offered, all.Offered)
	}
	all.Share = share(all.Offered, all.Offered)
	slices.SortStableFunc(classes, func(a, b Cost) int { return cmp.Compare(b.Offered, a.Offered) })
	return classes, all
}

func share(n, of float64) float64 {
	if of <= 0 {
		return 0
	}
	return n / of
}

// cost is of the connections with these numbers.
func (r *Record) cost(of []int32) (x Cost) {
	var times []event.Ktime
	var area float64
	var ends []event.Ktime
	now, e := uint64(0), 0
	for _, i := range of {
		c := &r.Conns[i]
		if !c.Before {
			x.Arrivals++
			times = append(times, c.Start)
		}
		if c.Refused {
			x.Refused++
			continue
		}
		area += r.age(c).Seconds()
		ends = append(ends, r.end(c))
	}
	slices.Sort(ends)
	for _, i := range of {
		if c := &r.Conns[i]; !c.Refused {
			for ; ends[e] < c.Start; e++ {
				now--
			}
			now++
			x.Peak = max(x.Peak, now)
		}
	}
	span := r.span()
	x.Mean, x.Rate = share(area, span), share(float64(x.Arrivals), span)
	x.Peak1s, x.Peak10ms = r.busiest(times, time.Second), r.busiest(times, 10*time.Millisecond)
	x.Life, x.AtLeast = r.life(of)
	x.Dispersed = r.dispersion(times, x.Life)
	x.Offered = max(x.Rate*x.Life.Seconds(), x.Mean)
	return x
}

// busiest is the most arrivals in any whole interval of the window.
func (r *Record) busiest(times []event.Ktime, width time.Duration) (most uint64) {
	var n uint64
	var last event.Ktime
	for _, t := range times {
		if bin := (t - r.From) / event.Ktime(width); bin != last {
			last, n = bin, 0
		}
		n++
		most = max(most, n)
	}
	return most
}

// leastBins is what an index of dispersion is made of at least: with 16 it errs by a
// third.
const leastBins = 16

// dispersion is the index of dispersion of the counts, variance over mean: 1 of
// independent arrivals. It is the highest of those over 1, 2, 4 seconds and so on, up to
// a lifetime: what comes in one is what is in the table at once.
func (r *Record) dispersion(times []event.Ktime, life time.Duration) float64 {
	most := 1.0
	for width := event.Ktime(time.Second); (r.To-r.From)/width >= leastBins && width <= max(event.Ktime(life), event.Ktime(time.Second)); width *= 2 {
		bins := int64((r.To - r.From) / width)
		var n, sum, squares float64
		var last int64 = -1
		add := func() { sum, squares = sum+n, squares+n*n }
		for _, t := range times {
			bin := int64((t - r.From) / width)
			if bin >= bins { // the last is not whole
				break
			}
			if bin != last {
				add()
				last, n = bin, 0
			}
			n++
		}
		add()
		if mean := sum / float64(bins); mean >= 1 {
			variance := (squares - float64(bins)*mean*mean) / float64(bins-1)
			most = max(most, variance/mean)
		}
	}
	return most
}

// life is the mean lifetime: the area under the Kaplan-Meier estimate of the survival
// (Kaplan and Meier, J. Am. Stat. Assoc. 53, 1958). An entry that is still there and
// idle ends when its timeout does; one that is in use, or was evicted, has lived that
// long at least. Those from before the window have no age.
func (r *Record) life(of []int32) (mean time.Duration, atLeast bool) {
	type age struct {
		s    float64
		ends bool
	}
	var ages []age
	for _, i := range of {
		c := &r.Conns[i]
		switch {
		case c.Before || c.Refused:
		case c.End == 0 && r.timers[i] != Established && r.timers[i] != NoTimer && c.Expires > r.To:
			ages = append(ages, age{c.Expires.Sub(c.Start).Seconds(), true})
		case c.End == 0, evicted(c.Cause):
			ages = append(ages, age{r.age(c).Seconds(), false})
		default:
			ages = append(ages, age{r.age(c).Seconds(), true})
		}
	}
	slices.SortFunc(ages, func(a, b age) int { return cmp.Compare(a.s, b.s) })
	area, alive, past := 0.0, 1.0, 0.0
	for i := 0; i < len(ages); {
		n, ended, at := len(ages)-i, 0, ages[i].s
		for ; i < len(ages) && ages[i].s == at; i++ {
			if ages[i].ends {
				ended++
			}
		}
		area += alive * (at - past)
		past = at
		alive *= 1 - float64(ended)/float64(n)
	}
	return seconds(area), alive > 1e-9 && len(ages) > 0
}

// settles is what a change of timeouts makes of the offered load in the end: those that
// wait for them wait so much longer, and all of them until the collector comes, which goes
// by what is left of them: late then instead of now.
func (r *Record) settles(offered float64, w *WhatIf, late time.Duration) float64 {
	later := 0.0
	if was := r.late(); len(w.Timeouts) > 0 && was > 0 && late > 0 {
		later = (late - was).Seconds()
	}
	for i := range r.Conns {
		c := &r.Conns[i]
		if c.Before || c.Refused || r.timers[i] == NoTimer || c.End != 0 && !timedOut(c.Cause) && !evicted(c.Cause) {
			continue
		}
		by := later
		for _, ch := range w.Timeouts {
			if r.timers[i] == ch.Timer {
				by += (ch.To - r.Kernel.Timeouts[ch.Timer]).Seconds()
			}
		}
		offered += share(by, r.span())
	}
	if w.Factor != 0 {
		offered *= w.Factor
	}
	return max(0, offered)
}

// late is how long after its timeout an entry was removed, on average; 0 for not known.
func (r *Record) late() time.Duration {
	var sum time.Duration
	n := 0
	for i := range r.Conns {
		if c := &r.Conns[i]; r.timers[i] != NoTimer && !c.Before && timedOut(c.Cause) && c.End >= c.Expires && c.Expires != 0 {
			sum += c.End.Sub(c.Expires)
			n++
		}
	}
	return sum / time.Duration(max(1, n))
}

// PoolNeed is what a NAT port pool needs.
type PoolNeed struct {
	Pool
	Peak      uint64 // entries at once
	Addresses uint64 // that hold them, with headroom
}

// Pools are the n pools that hold most at once.
func (r *Record) PoolNeeds(n int) (out []PoolNeed) {
	type step struct {
		at event.Ktime
		by int64
	}
	steps := make([][]step, len(r.Pools))
	for i := range r.Conns {
		if c := &r.Conns[i]; c.Pool > 0 && int(c.Pool) <= len(steps) && !c.Refused {
			s := &steps[c.Pool-1]
			*s = append(*s, step{c.Start, 1}, step{r.end(c), -1})
		}
	}
	for i, s := range steps {
		slices.SortFunc(s, func(a, b step) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.by, b.by)) })
		var now, most int64
		for _, x := range s {
			now += x.by
			most = max(most, now)
		}
		if most > 0 {
			need := math.Ceil(float64(most) / Levels[0] / natPorts)
			out = append(out, PoolNeed{r.Pools[i], uint64(most), uint64(need)})
		}
	}
	slices.SortStableFunc(out, func(a, b PoolNeed) int { return cmp.Compare(b.Peak, a.Peak) })
	return out[:min(n, len(out))]
}

// natPorts are what NAT chooses from, for clients with ports from 1024 on
// (nf_nat_l4proto_unique_tuple).
const natPorts = 65536 - 1024
