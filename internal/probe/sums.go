package probe

import (
	"encoding/binary"
	"math"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/ctsight/ctsight/internal/abi"
	"github.com/ctsight/ctsight/internal/event"
)

const (
	sumsPerCPU = 2048 // a power of two: 128 KiB
	scratches  = 4    // SCRATCHES of bpf/shed.h
	// sweepEvery bounds how often sums that stay are read: a burst is to be
	// seen within 10 ms.
	sweepEvery = event.Ktime(5 * time.Millisecond)
)

// sums is the reader's side of bpf/shed.h: what was summed up while a ring ran
// full, taken over bit by bit. Programs only ever let a place grow, until its
// key has to go: then its last state comes through the ring.
type sums struct {
	at    func(place int) *abi.ConntrackCtSum
	taken []taken // by place
	swept event.Ktime
	seen  []uint64 // ct_cpu.summed at the last sweep, by CPU
}

// taken is what was taken over of a place. epoch is that of its next K_SUM
// record, so that none is taken twice: a place that is ahead of the records that
// were read is left alone.
type taken struct {
	epoch      uint32
	n, evicted uint64
	last       event.Ktime
}

func newSums(ncpu int, at func(int) *abi.ConntrackCtSum) *sums {
	return &sums{at: at, taken: make([]taken, ncpu*sumsPerCPU), seen: make([]uint64, ncpu)}
}

// gone takes the last state of a place from its record.
func (s *sums) gone(r *abi.ConntrackCtRec) (event.Sum, bool) {
	place := int(r.Aux[0])
	if place >= len(s.taken) {
		return event.Sum{}, false
	}
	t := &s.taken[place]
	out, ok := t.take(&abi.ConntrackCtSum{Src: r.Orig.Src, L3num: r.Orig.L3num, Netns: r.Netns, Zone: r.Zone, Kind: r.Hook, Code: r.Code,
		N: r.Ptr, Evicted: binary.NativeEndian.Uint64(r.Reply.Src[:8]), Last: binary.NativeEndian.Uint64(r.Reply.Src[8:])})
	*t = taken{epoch: r.Aux[1] + 1}
	s.seen[place/sumsPerCPU] = math.MaxUint64 // whoever has the place now is to be looked at
	return out, ok
}

// stays takes what a place holds since it was last looked at.
func (s *sums) stays(place int) (event.Sum, bool) {
	p, t := s.at(place), &s.taken[place]
	if atomic.LoadUint32(&p.Epoch) != t.epoch {
		return event.Sum{}, false // its record comes first
	}
	n := atomic.LoadUint64(&p.N)
	if n == t.n || n == 0 {
		return event.Sum{}, false
	}
	now := abi.ConntrackCtSum{N: n, Evicted: atomic.LoadUint64(&p.Evicted), Last: atomic.LoadUint64(&p.Last),
		Src: p.Src, L3num: p.L3num, Netns: p.Netns, Zone: p.Zone, Kind: p.Kind, Code: p.Code}
	if atomic.LoadUint32(&p.Epoch) != t.epoch {
		return event.Sum{}, false // another's by now
	}
	return t.take(&now)
}

// take returns what is new of a place.
func (t *taken) take(p *abi.ConntrackCtSum) (event.Sum, bool) {
	if p.N < t.n || p.N == t.n && p.Evicted <= t.evicted {
		return event.Sum{}, false
	}
	out := event.Sum{NetNS: event.NetNS(p.Netns), Zone: p.Zone, Src: addr(&p.Src, p.L3num), Kind: event.Kind(p.Kind),
		N: p.N - t.n, Evicted: p.Evicted - min(t.evicted, p.Evicted), From: t.last, Last: event.Ktime(p.Last)}
	switch {
	case p.Kind == kindEvictor:
		out.Kind = 0
	case out.Kind == event.Destroy:
		out.Cause = event.Cause(p.Code)
	default:
		out.Reason = event.Reason(p.Code)
	}
	t.n, t.evicted, t.last = p.N, p.Evicted, event.Ktime(p.Last)
	return out, true
}

// sweep takes what all places of the CPUs hold that have summed up since; not
// more often than every sweepEvery but the last time.
func (d *drain) sweep(now event.Ktime, last bool) {
	s := d.p.sums
	if s == nil || !last && now-s.swept < sweepEvery {
		return
	}
	before := s.swept
	s.swept = now
	for cpu := range d.p.rings {
		n := atomic.LoadUint64(&d.p.rings[cpu].state.Summed)
		if n == s.seen[cpu] {
			continue
		}
		s.seen[cpu] = n
		for place := cpu * sumsPerCPU; place < (cpu+1)*sumsPerCPU; place++ {
			if x, ok := s.stays(place); ok {
				d.sum(&x, before)
			}
		}
	}
}

// sum hands a sum over; before is when its place was last looked at.
func (d *drain) sum(x *event.Sum, before event.Ktime) {
	d.p.aggregated.Add(x.N)
	x.From = min(max(x.From, before), x.Last)
	d.p.opts.Sums(x)
}

// mapSums maps the places into this process.
func (p *Probe) mapSums() error {
	if p.opts.Sums == nil {
		return nil
	}
	var err error
	if p.sumMem, err = mapShared(p.obj.maps["sums"], false); err != nil {
		return err
	}
	if p.untoldMem, err = mapShared(p.obj.maps["untold"], false); err != nil {
		return err
	}
	p.sums = newSums(p.obj.ncpu, func(i int) *abi.ConntrackCtSum {
		return (*abi.ConntrackCtSum)(unsafe.Pointer(p.sumMem.elem(i)))
	})
	return nil
}

// untoldDestroy is UNTOLD_DESTROY of bpf/wire.h.
const untoldDestroy = 64

// Untold returns the inserts and destroys that were summed up or lost, and so did
// not come as events: with those that came it is all there was, where Options.Sums
// is set.
func (p *Probe) Untold() (u event.ProtoCounts) {
	if p.untoldMem == nil || p.untoldMem.mem == nil {
		return u
	}
	for cpu := range p.obj.ncpu {
		c := (*abi.ConntrackCtUntold)(unsafe.Pointer(p.untoldMem.elem(cpu)))
		for f := range u.New {
			for i := range u.New[f] {
				u.New[f][i] += atomic.LoadUint64(&c.N[f<<4|i])
			}
		}
		for i := range u.Destroy {
			for j := range u.Destroy[i] {
				u.Destroy[i][j] += atomic.LoadUint64(&c.N[untoldDestroy+i<<5+j])
			}
		}
	}
	return u
}
