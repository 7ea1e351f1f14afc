package web

import (
	"cmp"
	"container/list"
	"net"
	"sync"
	"time"
)

// place says what a client has sent, which decides whether its connection may be
// closed when others wait.
type place uint8

const (
	leaving place = iota // was refused, and waits half a second
	fresh                // no whole header yet; may go when it owes that for grace
	idle                 // an answer was given, the next request is not there; may go when many are
	busy                 // is being answered; may go when it takes nothing for grace
	gone
)

const (
	// grace is what a client has for a step of its own when others wait: a healthy
	// one sends its header with the end of the handshake, and takes what it asked
	// for. A flood of whoever does not is held to limit/grace connections per second.
	grace = 125 * time.Millisecond
	// recheck is how often one who waits looks whether a grace has passed, or the gate is shut.
	recheck = 10 * time.Millisecond
)

// gate holds the number of connections at a limit. Whoever comes when it is
// reached takes the place of one that it does little harm to close; is there none, he
// waits, and those behind him stay in the kernel's queue.
type gate struct {
	max int

	mu      sync.Mutex
	room    sync.Cond
	in      [gone]list.List // of *conn, the longest in their place first
	n       int
	closing int // that have no place any more, but a descriptor
	shut    bool
	evicted uint64 // to make room
}

func newGate(limit int) *gate {
	g := &gate{max: limit}
	g.room.L = &g.mu
	return g
}

// admit takes a connection in; false when the gate is shut.
func (g *gate) admit(c *conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for !g.shut && g.n >= g.max {
		if v := g.victim(time.Now()); v != nil && g.closing <= g.max/8 {
			g.evict(v)
			g.evicted++
			continue
		}
		t := time.AfterFunc(recheck, g.room.Broadcast)
		g.room.Wait()
		t.Stop()
	}
	if g.shut {
		return false
	}
	g.n++
	c.place = fresh
	c.at = g.in[fresh].PushBack(c)
	return true
}

// victim returns whom to close, nil if nobody. Those who were answered keep half of
// the places, so that a flood of others does not cost a scraper its connection; the
// other half turns over once in a grace.
func (g *gate) victim(now time.Time) *conn {
	return cmp.Or(
		g.first(fresh, func(c *conn) bool { return c.owes(now) >= grace }),
		g.first(busy, func(c *conn) bool { return c.write.lasts(now) >= grace }),
		g.first(idle, func(*conn) bool { return g.in[idle].Len() > g.max/2 }),
	)
}

// first returns who has been in a place the longest, of those who may go.
func (g *gate) first(p place, may func(*conn) bool) *conn {
	for e := g.in[p].Front(); e != nil; e = e.Next() {
		if c := e.Value.(*conn); may(c) {
			return c
		}
	}
	return nil
}

// move says what a client has done. Those that have left do not come back.
func (g *gate) move(c *conn, to place) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.put(c, to)
}

// linger says whether a connection may wait until its client has read why it was
// refused.
func (g *gate) linger(c *conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.in[leaving].Len() > g.max/8 {
		return false
	}
	g.put(c, leaving)
	return true
}

// put is move with the lock held.
func (g *gate) put(c *conn, to place) {
	if c.place == gone || c.place == to {
		return
	}
	g.in[c.place].Remove(c.at)
	c.place = to
	if to == gone {
		g.n--
	} else {
		c.at = g.in[to].PushBack(c)
	}
	if to == idle || to == gone {
		g.room.Signal()
	}
}

// evict closes a connection, which waits for the goroutine that reads it.
func (g *gate) evict(c *conn) {
	g.put(c, gone)
	g.closing++
	go func() {
		_ = c.Conn.Close()
		g.mu.Lock()
		defer g.mu.Unlock()
		g.closing--
		g.room.Signal()
	}()
}

// close lets nobody in any more and closes all that are not being answered:
// http.Server.Shutdown would wait for those without a header.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
	for _, p := range []place{fresh, idle} {
		for e := g.in[p].Front(); e != nil; e = g.in[p].Front() {
			g.evict(e.Value.(*conn))
		}
	}
}

// gated is a listener behind the gate.
type gated struct {
	net.Listener
	gate *gate
}

// Accept returns the next connection that there is room for.
func (l *gated) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: raw, gate: l.gate}
	if !l.gate.admit(c) {
		_ = raw.Close()
		return nil, net.ErrClosed
	}
	return c, nil
}
