package probe

import (
	"cmp"
	"math"
	"slices"

	"github.com/ctsight/ctsight/internal/abi"
	"github.com/ctsight/ctsight/internal/event"
)

// publishEvery is how many records are read between two stores of the tail:
// each store takes a cache line away from the programs.
const publishEvery = 256

// holdEvictions is how long an eviction waits for its culprit (ns). Both are
// written in one run of the kernel, some microseconds apart; but a virtual
// machine short of CPU may stop in between (seen: 182 ms), and so may a sender
// that is preempted. Only a culprit lost with a full ring makes it wait in vain.
const holdEvictions = 2e9

// A drain reads all rings and puts their records in order of time. Events
// younger than the horizon of a pass wait for the next one, so that a CPU that
// was a little slow to write is still merged in order.
type drain struct {
	p    *Probe
	fn   func(*event.Event) error  // takes events one by one, or
	many func([]event.Event) error // many at a time, some at the end of a pass
	out  []event.Event             // for many: not delivered yet, with room for one more
	last event.Ktime
	ev   event.Event
	// evictions waits for the record of the packet that caused them, by link.
	evictions map[uint32][]event.Event
	oldest    event.Ktime // none of them is older
}

// pass delivers everything up to horizon and returns how many records it took.
func (d *drain) pass(horizon event.Ktime) (n int, err error) {
	for {
		cpu, rec, ext := d.first(horizon)
		if rec == nil {
			break
		}
		r := &d.p.rings[cpu]
		r.take(ext != nil) // before the consumer may fail: nothing comes twice
		n++
		if err = d.one(cpu, rec, ext); err != nil {
			break
		}
		if n%publishEvery == 0 {
			r.publish()
		}
	}
	for i := range d.p.rings {
		d.p.rings[i].publish()
	}
	if err == nil {
		err = d.expire(horizon - holdEvictions)
	}
	if err == nil {
		err = d.pour()
	}
	if err == nil {
		d.sweep(horizon, false)
	}
	return n, err
}

// first returns the oldest record of all rings that is not beyond horizon.
func (d *drain) first(horizon event.Ktime) (cpu int, rec *abi.ConntrackCtRec, ext *abi.ConntrackCtExt) {
	best := uint64(horizon) + 1
	for i := range d.p.rings {
		r, x := d.p.rings[i].head()
		if r != nil && r.Ts < best {
			cpu, rec, ext, best = i, r, x, r.Ts
		}
	}
	return cpu, rec, ext
}

// one decodes a record and delivers what it tells.
func (d *drain) one(cpu int, rec *abi.ConntrackCtRec, ext *abi.ConntrackCtExt) error {
	if rec.Kind == kindSum {
		if x, ok := d.p.sums.gone(rec); ok {
			d.sum(&x, d.p.sums.swept)
		}
		return nil
	}
	d.p.delivered.Add(1)
	if rec.Kind == kindEvictor {
		return d.culprit(rec)
	}
	e := d.place()
	decode(e, rec, ext, cpu, d.p.jiffy)
	if e.Cause == event.EarlyDrop && rec.Aux[1] != 0 {
		if len(d.evictions) == 0 || e.Time < d.oldest {
			d.oldest = e.Time
		}
		d.evictions[rec.Aux[1]] = append(d.evictions[rec.Aux[1]], *e)
		return nil
	}
	return d.deliver(e)
}

// place is where to decode the next event to.
func (d *drain) place() *event.Event {
	if d.many == nil {
		return &d.ev
	}
	return &d.out[:cap(d.out)][len(d.out)]
}

// pour delivers what is in out.
func (d *drain) pour() error {
	if len(d.out) == 0 {
		return nil
	}
	out := d.out
	d.out = d.out[:0] // also when the consumer fails: nothing comes twice
	return d.many(out)
}

// deliver hands an event over and counts it as late when a younger one went
// before it.
func (d *drain) deliver(e *event.Event) error {
	if e.Time < d.last {
		d.p.late.Add(1)
	}
	d.last = max(d.last, e.Time)
	if d.many == nil {
		return d.fn(e)
	}
	if p := d.place(); p != e {
		*p = *e
	}
	if d.out = d.out[:len(d.out)+1]; len(d.out) == cap(d.out) {
		return d.pour()
	}
	return nil
}

// culprit delivers the evictions that this packet caused. Those that were summed
// up are its as well.
func (d *drain) culprit(rec *abi.ConntrackCtRec) error {
	by := tuple(&rec.Orig)
	victims := d.evictions[rec.Aux[1]]
	delete(d.evictions, rec.Aux[1])
	if n := uint64(rec.Aux[0]); d.p.sums != nil && uint64(len(victims)) < n {
		d.p.opts.Sums(&event.Sum{NetNS: event.NetNS(rec.Netns), Zone: rec.Zone, Src: by.Src, Evicted: n - uint64(len(victims)),
			From: event.Ktime(rec.Ts), Last: event.Ktime(rec.Ts)})
	}
	for i := range victims {
		victims[i].By = by
		if err := d.deliver(&victims[i]); err != nil {
			return err
		}
	}
	return nil
}

// expire delivers the evictions from before a time, whose culprits were lost
// with a full ring.
func (d *drain) expire(before event.Ktime) error {
	if len(d.evictions) == 0 || d.oldest > before {
		return nil
	}
	var due []event.Event
	d.oldest = math.MaxInt64
	for link, victims := range d.evictions {
		if first := victims[0].Time; first > before {
			d.oldest = min(d.oldest, first)
			continue
		}
		delete(d.evictions, link)
		due = append(due, victims...)
	}
	slices.SortFunc(due, func(a, b event.Event) int { return cmp.Compare(a.Time, b.Time) })
	for i := range due {
		if err := d.deliver(&due[i]); err != nil {
			return err
		}
	}
	return nil
}

// flush delivers all evictions that still wait.
func (d *drain) flush() error {
	if err := d.expire(math.MaxInt64); err != nil {
		return err
	}
	return d.pour()
}
