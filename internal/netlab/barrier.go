package netlab

import (
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Barrier lets a fixed number of threads go on at the same moment, again and
// again. Waiting threads spin: that is what makes the moment the same.
type Barrier struct {
	size    atomic.Int32
	waiting atomic.Int32
	round   atomic.Uint32
}

// NewBarrier returns a barrier for n threads.
func NewBarrier(n int) *Barrier {
	b := &Barrier{}
	b.size.Store(int32(n))
	return b
}

// Wait returns when all threads have called it.
func (b *Barrier) Wait() {
	round := b.round.Load()
	b.waiting.Add(1)
	b.release()
	for spins := 1; b.round.Load() == round; spins++ {
		// Somebody else may need this CPU, or this place among Go's
		// threads. Giving away the latter makes for a late start.
		switch {
		case spins%(1<<20) == 0 || runtime.GOMAXPROCS(0) == 1:
			runtime.Gosched()
		case spins > 1<<14:
			unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		}
	}
}

// Leave takes a thread out for good, so that the others need not wait for it.
func (b *Barrier) Leave() {
	b.size.Add(-1)
	b.release()
}

// release opens the barrier when everybody is there.
func (b *Barrier) release() {
	n := b.waiting.Load()
	if n > 0 && n >= b.size.Load() && b.waiting.CompareAndSwap(n, 0) {
		b.round.Add(1)
	}
}
