package probe

import (
	"sync/atomic"

	"github.com/ctsight/ctsight/internal/event"
)

// kindCancel takes back a NEW and says nothing else (bpf/nflink.bpf.c).
const kindCancel event.Kind = 8

// maxHeld bounds the events that wait, of some 300 bytes each; beyond it the oldest go
// early. In 10 ms there are so many at 1,600,000 a second.
const maxHeld = 1 << 14

// A hold keeps events until it is known whether an entry that was about to be
// inserted really was. The loss is told within the same run of the kernel, some
// microseconds later unless the CPU was taken away in between.
type hold struct {
	told  bool          // the filter lets NEW pass
	queue []event.Event // in order of time; a ring would save moving, rarely
	first int           // queue[:first] is delivered
	base  uint64        // number of queue[0]
	news  map[uint64]uint64
	gone  map[uint64]bool // numbers that were taken back

	taken, merged, late atomic.Uint64
	wait                atomic.Int64
}

func newHold(told bool) *hold {
	return &hold{told: told, news: map[uint64]uint64{}, gone: map[uint64]bool{}}
}

// push takes the next event in the order of time.
func (h *hold) push(e *event.Event) error {
	h.taken.Add(1)
	if h.told && (e.Kind == kindCancel || lostAtInsert(e)) {
		h.takeBack(e)
	}
	if e.Kind == kindCancel {
		h.merged.Add(1)
		return nil
	}
	if e.Kind == event.New {
		h.news[e.Ptr] = h.base + uint64(len(h.queue))
	}
	h.queue = append(h.queue, *e)
	h.wait.Add(1)
	return nil
}

// lostAtInsert says whether the programs have told a NEW for this loss.
func lostAtInsert(e *event.Event) bool {
	return e.Kind == event.Drop && (e.Reason == event.ConfirmUnknown || e.Reason == event.NATExhausted)
}

// takeBack forgets the NEW of a loss. The address alone is not enough: when the
// NEW did not fit into the ring, an earlier entry may have had it.
func (h *hold) takeBack(e *event.Event) {
	n, ok := h.news[e.Ptr]
	if !ok || h.queue[n-h.base].Orig != e.Orig {
		h.late.Add(1)
		return
	}
	delete(h.news, e.Ptr)
	h.gone[n] = true
	h.merged.Add(1)
}

// release delivers what is not younger than horizon.
func (h *hold) release(horizon event.Ktime, fn func(*event.Event) error) error {
	for h.first < len(h.queue) {
		e := &h.queue[h.first]
		if e.Time > horizon && len(h.queue)-h.first <= maxHeld {
			break
		}
		n := h.base + uint64(h.first)
		h.first++
		h.wait.Add(-1)
		if h.gone[n] {
			delete(h.gone, n)
			continue
		}
		if e.Kind == event.New && h.news[e.Ptr] == n {
			delete(h.news, e.Ptr)
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	h.compact()
	return nil
}

// full says that something is to be released before more is pushed.
func (h *hold) full() bool { return len(h.queue)-h.first > maxHeld }

// compact moves what is left to the front, once it is the smaller part.
func (h *hold) compact() {
	if h.first == 0 || h.first < len(h.queue)/2 {
		return
	}
	n := copy(h.queue, h.queue[h.first:])
	h.base += uint64(h.first)
	h.queue, h.first = h.queue[:n], 0
}

func (h *hold) waiting() bool { return h.wait.Load() > 0 }

func (h *hold) counts() (taken, merged, late uint64) {
	return h.taken.Load(), h.merged.Load(), h.late.Load()
}
