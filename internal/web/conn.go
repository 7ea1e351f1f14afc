package web

import (
	"container/list"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"
)

// conn is a connection that its gate knows. It notes how long its client lets us
// wait: that, and not how long we take ourselves when there is much to do, is what
// a client may be sent away for.
type conn struct {
	net.Conn
	gate *gate

	read, write wait
	waited      atomic.Int64 // ns in Reads that have ended

	// The gate's.
	place place
	at    *list.Element
}

// wait is when what has not ended yet began, Unix ns; 0 if nothing has.
type wait struct{ since atomic.Int64 }

func (w *wait) begin() { w.since.Store(time.Now().UnixNano()) }

// end returns how long it took, in ns.
func (w *wait) end() int64 { return time.Now().UnixNano() - w.since.Swap(0) }

// lasts returns for how long, 0 if nothing is waited for.
func (w *wait) lasts(now time.Time) time.Duration {
	if since := w.since.Load(); since != 0 {
		return time.Duration(now.UnixNano() - since)
	}
	return 0
}

// Read reads; there is one at a time.
func (c *conn) Read(b []byte) (int, error) {
	c.read.begin()
	n, err := c.Conn.Read(b)
	c.waited.Add(c.read.end())
	return n, err
}

// piece is how much is written at once, so that progress is seen.
const piece = 16 << 10

// Write writes in pieces; there is one at a time.
func (c *conn) Write(b []byte) (n int, err error) {
	defer c.write.end()
	for {
		c.write.begin()
		m, err := c.Conn.Write(b[:min(len(b), piece)])
		n += m
		if b = b[m:]; err != nil || len(b) == 0 {
			return n, err
		}
	}
}

// owes says how long the header of the first request has been waited for.
func (c *conn) owes(now time.Time) time.Duration {
	return time.Duration(c.waited.Load()) + c.read.lasts(now)
}

// Close gives the place back.
func (c *conn) Close() error {
	c.gate.move(c, gone)
	return c.Conn.Close()
}

// CloseWrite is what net/http calls when it has refused a request, and then it
// sleeps for half a second, so that the answer arrives before the reset. Only a few
// may do that at a time: of the rest the goroutine ends here, as if it returned.
func (c *conn) CloseWrite() error {
	if !c.gate.linger(c) {
		runtime.Goexit()
	}
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// ours finds the conn below a connection of net/http, nil if there is none.
func ours(c net.Conn) *conn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	own, _ := c.(*conn)
	return own
}

// connState is the hook of http.Server that tells of the end of an answer.
// StateActive would tell of the first byte of a request, which is all that a slow
// attacker sends; that its header is whole is for the handler to say, see begin.
func connState(c net.Conn, s http.ConnState) {
	if own := ours(c); own != nil && s == http.StateIdle {
		own.gate.move(own, idle)
	}
}

type connKey struct{}

// connContext is the hook of http.Server by which requests know their conn.
func connContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, ours(c))
}

// begin says that the header of a request is whole.
func begin(r *http.Request) {
	if c, _ := r.Context().Value(connKey{}).(*conn); c != nil {
		c.gate.move(c, busy)
	}
}
