package web

import (
	"container/list"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// The places of connections. What a client has sent decides whether its
// connection may be closed to make room:
//
//	fresh  no whole header yet; may go once it has had headerGrace
//	idle   an answer was given, the next request is not there; may go
//	busy   a request is being answered; may go when its client takes nothing
//
// net/http's own StateActive begins with the first byte, which is all that a
// slow attacker sends, so a handler's start is what makes a connection busy.
type place uint8

const (
	fresh place = iota
	idle
	busy
	gone
)

const (
	// headerGrace is what a new connection has for its header when others
	// wait: a healthy client sends it with the end of the handshake. It bounds
	// a flood to limit/headerGrace connections per second.
	headerGrace = 100 * time.Millisecond
	// stallGrace is how long an answer may make no progress when others wait.
	stallGrace = time.Second
	// recheck is how often one who waits looks for graces that have passed.
	recheck = 10 * time.Millisecond
)

// gate holds the number of connections at a limit. Whoever comes when it is
// reached takes the place of the oldest that does no harm to close; is there
// none, he waits, and those behind him stay in the kernel's queue.
type gate struct {
	max int

	mu      sync.Mutex
	room    sync.Cond
	in      [gone]list.List // of *conn, by since
	n       int
	shut    bool
	evicted atomic.Uint64
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
		if v := g.victim(time.Now()); v != nil {
			g.put(v, gone)
			g.evicted.Add(1)
			go v.Conn.Close() // may wait for a write lock of the descriptor
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
	c.since, c.place = time.Now(), fresh
	c.at = g.in[fresh].PushBack(c)
	return true
}

// victim returns whom to close, nil if nobody.
func (g *gate) victim(now time.Time) *conn {
	f, i := oldest(&g.in[fresh]), oldest(&g.in[idle])
	if f != nil && now.Sub(f.since) < headerGrace {
		f = nil
	}
	switch {
	case f != nil && (i == nil || f.since.Before(i.since)):
		return f
	case i != nil:
		return i
	}
	for e := g.in[busy].Front(); e != nil; e = e.Next() {
		c := e.Value.(*conn)
		if now.Sub(c.since) >= stallGrace && now.UnixNano()-c.wrote.Load() >= int64(stallGrace) {
			return c
		}
	}
	return nil
}

func oldest(l *list.List) *conn {
	if e := l.Front(); e != nil {
		return e.Value.(*conn)
	}
	return nil
}

// put moves a connection; those that have left do not come back.
func (g *gate) put(c *conn, to place) {
	if c.place == gone || c.place == to {
		return
	}
	g.in[c.place].Remove(c.at)
	c.place, c.since = to, time.Now()
	if to == gone {
		g.n--
	} else {
		c.at = g.in[to].PushBack(c)
	}
	if to != busy {
		g.room.Signal()
	}
}

// begin says that a whole header is there.
func (g *gate) begin(c *conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c.served = true
	g.put(c, busy)
}

// end says that the answer is out. HTTP/2 also says so before its first
// request: such a connection keeps its age.
func (g *gate) end(c *conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.served {
		g.put(c, idle)
	}
}

func (g *gate) leave(c *conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.put(c, gone)
}

// open is the number of connections.
func (g *gate) open() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.n
}

// close lets nobody in any more and closes all that are not being answered:
// http.Server.Shutdown would wait for those without a header.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
	g.room.Broadcast()
	for _, p := range []place{fresh, idle} {
		for c := oldest(&g.in[p]); c != nil; c = oldest(&g.in[p]) {
			g.put(c, gone)
			go c.Conn.Close()
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
