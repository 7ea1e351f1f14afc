// Package remotewrite pushes what a scrape would get to receivers of Prometheus
// remote write, version 2 of the protocol and, where that is not known, version 1.
//
//	Gather -> series -> batch (compressed) -> queue of a receiver -> POST
//
// A queue has a bound and gives up the oldest; nothing here makes a tracer wait. What
// the metrics mean is for the package metrics, what a file says for config.
package remotewrite

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/ctsight/ctsight/internal/config"
)

// Options of a Sender. Gather is required.
type Options struct {
	// Gather returns what a scrape by this client would get; others may read it at
	// the same time.
	Gather func(client string) ([]*dto.MetricFamily, error)
	// Instance is the label of that name, where the configuration has no other.
	Instance string
	// Version goes into the User-Agent.
	Version string
	Log     *slog.Logger // nil for none
}

// limits bound what a receiver costs.
type limits struct {
	bytes, batches         int // of a queue
	timeout                time.Duration
	backoffMin, backoffMax time.Duration
	finish                 time.Duration // at the end
}

// An hour of gathering each 15 s is 240 batches, some 15 kB each: as long as a
// Prometheus takes samples that come late.
var defaults = limits{bytes: 4 << 20, batches: 240, timeout: 30 * time.Second,
	backoffMin: time.Second, backoffMax: 30 * time.Second, finish: 3 * time.Second}

// Sender sends to any number of receivers. It is a prometheus.Collector of what became
// of the samples.
type Sender struct {
	o      Options
	limits limits

	mu        sync.Mutex
	ctx       context.Context // of Run; nil before and after
	receivers []*receiver
	running   sync.WaitGroup
}

// New returns a Sender without receivers.
func New(o Options) *Sender {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Sender{o: o, limits: defaults}
}

// Run sends until ctx ends, and then for three seconds at most: what waits, and that
// all series have ended.
func (s *Sender) Run(ctx context.Context) error {
	s.mu.Lock()
	s.ctx = ctx
	for _, r := range s.receivers {
		s.start(r)
	}
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()   // whoever comes after us starts none any more
	s.mu.Unlock() //nolint:staticcheck // and the last gathering needs the lock
	s.running.Wait()
	return nil
}

// start runs a receiver. The caller holds the lock.
func (s *Sender) start(r *receiver) {
	if s.ctx == nil {
		return
	}
	var ctx context.Context
	ctx, r.stop = context.WithCancel(s.ctx)
	s.running.Go(func() { r.run(ctx) })
}

// Hook is a config.Hook: receivers that are new, changed or gone. One that stays, by
// its url, keeps what waits and its account.
func (s *Sender) Hook(_ context.Context, _, next *config.Config) (config.Change, error) {
	clients := make([]*client, len(next.RemoteWrite))
	for i, c := range next.RemoteWrite {
		var err error
		if clients[i], err = newClient(c, "ctsight/"+s.o.Version, s.limits.timeout); err != nil {
			return config.Change{}, err
		}
	}
	return config.Change{Commit: func() { s.commit(clients) }}, nil
}

func (s *Sender) commit(clients []*client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.receivers
	s.receivers = nil
	for _, c := range clients {
		i := slices.IndexFunc(old, func(r *receiver) bool { return r.config().URL == c.cfg.URL })
		if i >= 0 {
			old[i].set(c)
			s.receivers = append(s.receivers, old[i])
			old = slices.Delete(slices.Clone(old), i, i+1)
			continue
		}
		r := newReceiver(s, s.nameOf(c.cfg.URL, old), c)
		s.receivers = append(s.receivers, r)
		s.start(r)
	}
	for _, r := range old {
		if r.stop != nil {
			r.stop()
		}
	}
}

// nameOf is an address without user and query, which may have secrets in them, and
// unlike all others.
func (s *Sender) nameOf(address string, old []*receiver) string {
	name := "receiver"
	if u, err := url.Parse(address); err == nil {
		name = (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
	}
	taken := func(n string) bool {
		same := func(r *receiver) bool { return r.name == n }
		return slices.ContainsFunc(s.receivers, same) || slices.ContainsFunc(old, same)
	}
	free := name
	for i := 2; taken(free); i++ {
		free = fmt.Sprintf("%s#%d", name, i)
	}
	return free
}

// Accounts are what became of the samples, by receiver.
func (s *Sender) Accounts() map[string]Account {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]Account{}
	for _, r := range s.receivers {
		out[r.name] = r.queue.look()
	}
	return out
}
