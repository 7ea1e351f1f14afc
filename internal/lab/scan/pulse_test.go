package scan

import (
	"sync"
	"time"
)

// beat is how often a pulse wants to wake.
const beat = 20 * time.Millisecond

// pulse knows when the machine stood still: an emulated one that shares its CPUs with
// others does at times, and whatever waits in it then waits longer. It sleeps all the
// time, and notes by how much it woke too late.
type pulse struct {
	mu   sync.Mutex
	late []lateBeat
	done chan struct{}
}

type lateBeat struct {
	due time.Time
	by  time.Duration
}

func newPulse() *pulse {
	p := &pulse{done: make(chan struct{})}
	go func() {
		for due := time.Now().Add(beat); ; due = time.Now().Add(beat) {
			select {
			case <-p.done:
				return
			case <-time.After(time.Until(due)):
			}
			if by := time.Since(due); by > beat {
				p.mu.Lock()
				p.late = append(p.late, lateBeat{due, by})
				p.mu.Unlock()
			}
		}
	}()
	return p
}

func (p *pulse) stop() { close(p.done) }

// still is for how long it stood still in a time.
func (p *pulse) still(from, to time.Time) (sum time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.late {
		a, b := l.due, l.due.Add(l.by)
		if a.Before(from) {
			a = from
		}
		if b.After(to) {
			b = to
		}
		sum += max(0, b.Sub(a))
	}
	return sum
}
