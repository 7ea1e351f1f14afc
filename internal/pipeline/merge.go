package pipeline

import (
	"sync"
	"sync/atomic"

	"github.com/ctsight/ctsight/internal/event"
)

// A side is where an event comes from. The limit is each side's own: what the
// horizon waits for comes from the probe, which may not wait for the listeners
// to make room. They cannot before it has gone on.
type side int

const (
	probed side = iota
	read
	sides
)

// mergeLimit bounds the events of each side that wait in a merge, of some 350 bytes
// each. That is enough for what has to wait for others; what waits because nobody takes
// it waits in the ring or the socket, in less room.
const mergeLimit = 1 << 14

// A merge puts the events of several sources into the order of their time. An
// event waits until no source can have an older one any more; how long that is
// the caller knows. When a side is full, its push waits, so that events are lost
// where losses are counted: in the ring or the socket of the source.
type merge struct {
	mu   sync.Mutex
	room [sides]sync.Cond
	held [sides]int
	heap []waiting
	free []*event.Event
	more chan struct{} // gets something when the heap was empty and is not
	seq  uint64
	open bool // push never waits

	last event.Ktime // of the newest popped
	late atomic.Uint64
}

// waiting is an event in the heap; events of one time stay in their order.
type waiting struct {
	at  event.Ktime
	seq uint64
	of  side
	ev  *event.Event
}

func (w waiting) before(o waiting) bool {
	return w.at < o.at || w.at == o.at && w.seq < o.seq
}

func newMerge() *merge {
	m := &merge{more: make(chan struct{}, 1)}
	for i := range m.room {
		m.room[i].L = &m.mu
	}
	return m
}

// push takes a copy of an event; it waits for room.
func (m *merge) push(e *event.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wait(probed)
	m.put(probed, e)
}

// pushRead is push for an event whose time is when it was read: it makes way
// for what has been delivered meanwhile.
func (m *merge) pushRead(e *event.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wait(read)
	e.Time = max(e.Time, m.last)
	m.put(read, e)
}

// wait waits until a side has room.
func (m *merge) wait(of side) {
	for m.held[of] >= mergeLimit && !m.open {
		m.room[of].Wait()
	}
}

// squeeze is pushRead without waiting, for the few that may not.
func (m *merge) squeeze(e *event.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e.Time = max(e.Time, m.last)
	m.put(read, e)
}

func (m *merge) put(of side, e *event.Event) {
	var c *event.Event
	if n := len(m.free); n > 0 {
		c, m.free = m.free[n-1], m.free[:n-1]
	} else {
		c = new(event.Event)
	}
	*c = *e
	if len(m.heap) == 0 {
		select {
		case m.more <- struct{}{}:
		default:
		}
	}
	m.seq++
	m.held[of]++
	m.heap = append(m.heap, waiting{e.Time, m.seq, of, c})
	m.up(len(m.heap) - 1)
}

// unblock lets push go on without room, for the last events at the end.
func (m *merge) unblock() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open = true
	for i := range m.room {
		m.room[i].Broadcast()
	}
}

// pop returns the oldest event that is not younger than horizon, nil for none.
// done gives it back.
func (m *merge) pop(horizon event.Ktime) *event.Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.heap) == 0 || m.heap[0].at > horizon {
		return nil
	}
	w := m.heap[0]
	n := len(m.heap) - 1
	m.heap[0], m.heap[n] = m.heap[n], waiting{}
	m.heap = m.heap[:n]
	m.down(0)
	m.held[w.of]--
	m.room[w.of].Signal()
	if w.at < m.last {
		m.late.Add(1)
	}
	m.last = max(m.last, w.at)
	return w.ev
}

// holds says whether something waits.
func (m *merge) holds() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.heap) > 0
}

// done ends the use of an event that pop returned.
func (m *merge) done(e *event.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.free) < mergeLimit {
		m.free = append(m.free, e)
	}
}

func (m *merge) up(i int) {
	for i > 0 {
		p := (i - 1) / 2
		if !m.heap[i].before(m.heap[p]) {
			return
		}
		m.heap[i], m.heap[p] = m.heap[p], m.heap[i]
		i = p
	}
}

func (m *merge) down(i int) {
	for {
		c := 2*i + 1
		if c >= len(m.heap) {
			return
		}
		if c+1 < len(m.heap) && m.heap[c+1].before(m.heap[c]) {
			c++
		}
		if !m.heap[c].before(m.heap[i]) {
			return
		}
		m.heap[i], m.heap[c] = m.heap[c], m.heap[i]
		i = c
	}
}
