package web

import (
	"container/list"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// conn is a connection that its gate knows.
type conn struct {
	net.Conn
	gate  *gate
	wrote atomic.Int64 // when the client last took something, Unix ns

	preface bool // of HTTP/2 is there; the hook's

	// The gate's.
	place  place
	served bool // had a whole header
	since  time.Time
	at     *list.Element
}

// piece is how much is written at once, so that progress is seen.
const piece = 16 << 10

// Write writes in pieces.
func (c *conn) Write(b []byte) (n int, err error) {
	for {
		m, err := c.Conn.Write(b[:min(len(b), piece)])
		n += m
		if m > 0 {
			c.wrote.Store(time.Now().UnixNano())
		}
		if b = b[m:]; err != nil || len(b) == 0 {
			return n, err
		}
	}
}

// Close gives the place back.
func (c *conn) Close() error {
	c.gate.leave(c)
	return c.Conn.Close()
}

// CloseWrite is what net/http asks for when it refuses a request, so that the
// answer arrives before the reset.
func (c *conn) CloseWrite() error {
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

// connState is the hook of http.Server. With HTTP/2 a connection is active once
// when its preface is there and from then on while it has streams; with HTTP/1
// from the first byte, so there the handler says when, see begin.
func connState(c net.Conn, s http.ConnState) {
	own := ours(c)
	if own == nil {
		return
	}
	switch s {
	case http.StateIdle:
		own.gate.end(own)
	case http.StateActive:
		if t, ok := c.(*tls.Conn); !ok || t.ConnectionState().NegotiatedProtocol != "h2" {
			return
		}
		if own.preface {
			own.gate.begin(own)
		}
		own.preface = true
	}
}

type connKey struct{}

// connContext is the hook of http.Server by which requests know their conn.
func connContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, ours(c))
}

// begin says that the header of a request is whole. Not of HTTP/2, whose handler
// may start when its stream is gone again and nothing would end it.
func begin(r *http.Request) {
	if c, _ := r.Context().Value(connKey{}).(*conn); c != nil && r.ProtoMajor == 1 {
		c.gate.begin(c)
	}
}
