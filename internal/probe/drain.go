package probe

import (
	"github.com/ctsight/ctsight/internal/abi"
	"github.com/ctsight/ctsight/internal/event"
)

// publishEvery is how many records are read between two stores of the tail:
// each store takes a cache line away from the programs.
const publishEvery = 256

// holdEvictions is how long an eviction waits for its culprit (ns). Both are
// written in one run of the kernel, some microseconds apart.
const holdEvictions = 100e6

// A drain reads all rings and puts their records in order of time. Events
// younger than the horizon of a pass wait for the next one, so that a CPU that
// was a little slow to write is still merged in order.
type drain struct {
	p    *Probe
	fn   func(*event.Event) error
	last event.Ktime
	ev   event.Event
	// evictions waits for the record of the packet that caused them, by link.
	evictions map[uint32][]event.Event
	oldest    event.Ktime
}

// pass delivers everything up to horizon and returns how many records it took.
func (d *drain) pass(horizon event.Ktime) (int, error) {
	n := 0
	for {
		cpu, rec, ext := d.first(horizon)
		if rec == nil {
			break
		}
		if err := d.one(cpu, rec, ext); err != nil {
			return n, err
		}
		r := &d.p.rings[cpu]
		r.take(ext != nil)
		if n++; n%publishEvery == 0 {
			r.publish()
		}
	}
	for i := range d.p.rings {
		d.p.rings[i].publish()
	}
	return n, d.expire(horizon)
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
	d.p.delivered.Add(1)
	if rec.Kind == kindEvictor {
		return d.culprit(rec)
	}
	decode(&d.ev, rec, ext, cpu, d.p.jiffy)
	if d.ev.Time < d.last {
		d.p.late.Add(1)
	}
	d.last = max(d.last, d.ev.Time)
	if d.ev.Cause == event.EarlyDrop && rec.Aux[1] != 0 {
		if len(d.evictions) == 0 {
			d.oldest = d.ev.Time
		}
		d.evictions[rec.Aux[1]] = append(d.evictions[rec.Aux[1]], d.ev)
		return nil
	}
	return d.fn(&d.ev)
}

// culprit delivers the evictions that this packet caused.
func (d *drain) culprit(rec *abi.ConntrackCtRec) error {
	by := tuple(&rec.Orig)
	victims := d.evictions[rec.Aux[1]]
	delete(d.evictions, rec.Aux[1])
	for i := range victims {
		victims[i].By = by
		if err := d.fn(&victims[i]); err != nil {
			return err
		}
	}
	return nil
}

// expire delivers evictions whose culprit was lost with a full ring.
func (d *drain) expire(horizon event.Ktime) error {
	if len(d.evictions) == 0 || horizon-d.oldest < holdEvictions {
		return nil
	}
	return d.flush()
}

func (d *drain) flush() error {
	for link, victims := range d.evictions {
		delete(d.evictions, link)
		for i := range victims {
			if err := d.fn(&victims[i]); err != nil {
				return err
			}
		}
	}
	return nil
}
