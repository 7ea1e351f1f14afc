package serve

import (
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
)

// clientsKept is how many clients have peaks of their own: two Prometheus, an
// agent, somebody who looks. Who comes after them takes the place of the one that
// has been silent the longest.
const clientsKept = 64

// clientPeaks gives each client the peaks since it looked last, so that none takes
// a burst away from another. A client is an address: ports change.
type clientPeaks struct {
	since func(time.Time) agg.Peaks
	now   func() time.Time
	start time.Time

	mu   sync.Mutex
	last map[string]time.Time
}

func newClientPeaks(since func(time.Time) agg.Peaks, now func() time.Time) *clientPeaks {
	return &clientPeaks{since: since, now: now, start: now(), last: map[string]time.Time{}}
}

// of returns the peaks since the last request of the client that sent r.
func (c *clientPeaks) of(r *http.Request) agg.Peaks {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr // a unix socket
	}
	return c.since(c.turn(host))
}

// turn notes that a client looks, and returns when it did before.
func (c *clientPeaks) turn(client string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	was, known := c.last[client]
	if !known {
		was = c.start
		if len(c.last) >= clientsKept {
			c.forget()
		}
	}
	c.last[client] = now
	return was
}

// forget gives up the client that has been silent the longest.
func (c *clientPeaks) forget() {
	var oldest string
	for k, t := range c.last {
		if oldest == "" || t.Before(c.last[oldest]) {
			oldest = k
		}
	}
	delete(c.last, oldest)
}
