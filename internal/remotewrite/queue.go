package remotewrite

import (
	"sync"
	"time"
)

// queue holds what a receiver has not taken yet, the oldest first, and the account
// of it: gathered = sent + failed + dropped + pending, at any time.
type queue struct {
	maxBytes, maxBatches int

	mu      sync.Mutex
	waiting []batch
	flying  *batch // being sent
	bytes   int    // of both
	account Account
	filled  chan struct{} // has one when something came
}

// Account is what became of the samples of one receiver, native histograms among
// them. Gathered is the sum of the others.
type Account struct {
	Gathered uint64
	Sent     uint64 // the receiver took them
	Failed   uint64 // it refused them
	Dropped  uint64 // they were given up: no room, or the end
	Pending  uint64 // they wait
	Success  time.Time
}

func newQueue(maxBytes, maxBatches int) *queue {
	return &queue{maxBytes: maxBytes, maxBatches: maxBatches, filled: make(chan struct{}, 1)}
}

// push adds a batch and gives up the oldest that have no room beside it. It never
// waits.
func (q *queue) push(b batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.account.Gathered += uint64(b.samples())
	q.account.Pending += uint64(b.samples())
	q.bytes += len(b.packed)
	q.waiting = append(q.waiting, b)
	q.fit()
	select {
	case q.filled <- struct{}{}:
	default:
	}
}

// fit leaves alone what is being sent: it may have arrived.
func (q *queue) fit() {
	n := len(q.waiting)
	if q.flying != nil {
		n++
	}
	for ; len(q.waiting) > 0 && (q.bytes > q.maxBytes || n > q.maxBatches); n-- {
		q.settle(&q.waiting[0], 0, 0)
		q.waiting[0] = batch{}
		q.waiting = q.waiting[1:]
	}
}

// settle ends the waiting of a batch: what was neither taken nor refused is dropped.
func (q *queue) settle(b *batch, sent, failed int) {
	n := b.samples()
	q.bytes -= len(b.packed)
	q.account.Pending -= uint64(n)
	q.account.Sent += uint64(sent)
	q.account.Failed += uint64(failed)
	q.account.Dropped += uint64(n - sent - failed)
}

// take returns the oldest to be sent; until settled or put back it is in flight.
func (q *queue) take() (batch, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		return batch{}, false
	}
	b := q.waiting[0]
	q.waiting[0] = batch{}
	q.waiting = q.waiting[1:]
	q.flying = &b
	return b, true
}

// landed accounts for the batch in flight; good says that the receiver took it.
func (q *queue) landed(sent, failed int, good bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.settle(q.flying, sent, failed)
	q.flying = nil
	if good {
		q.account.Success = time.Now()
	}
}

// putBack has the batch in flight wait again, as the oldest.
func (q *queue) putBack() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append([]batch{*q.flying}, q.waiting...)
	q.flying = nil
	q.fit()
}

// drop gives up all that waits.
func (q *queue) drop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.waiting {
		q.settle(&q.waiting[i], 0, 0)
	}
	q.waiting = nil
}

// look returns the account.
func (q *queue) look() Account {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.account
}
