// Package serve is the sidecar: one pipeline and many outputs, from the first look
// at its configuration until SIGTERM. It knows who starts and ends when; what each
// part does is for the packages of their names.
package serve

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/config"
	"github.com/ctsight/ctsight/internal/filter"
	"github.com/ctsight/ctsight/internal/metrics"
	"github.com/ctsight/ctsight/internal/notify"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/remotewrite"
	"github.com/ctsight/ctsight/internal/sandbox"
	"github.com/ctsight/ctsight/internal/view"
	"github.com/ctsight/ctsight/internal/web"
)

// Options are what the command line knows.
type Options struct {
	// Load reads the configuration: the file, and the flags over it.
	Load       func() (*config.Config, error)
	ConfigFile string // "" for none
	Filter     *filter.Filter
	Names      view.Names
	Version    string
	Log        *slog.Logger
	Level      *slog.LevelVar   // of Log; a reload sets it
	Hangup     <-chan os.Signal // SIGHUP: reload
	Stdout     io.Writer        // of a dry run; nil for that of the process
	// Attached is told once that tracing has begun.
	Attached func(*pipeline.Pipeline)
}

// dims are the tables of rows that are kept: all but edges, of which there are too
// many for a process that runs for months.
var dims = []agg.Dim{agg.BySrc, agg.ByDst, agg.ByPrefix, agg.ByNetNS}

// server is a running sidecar.
type server struct {
	o        Options
	log      *slog.Logger
	cfg      *config.Reloader
	keeper   *pipeline.Keeper
	exporter *metrics.Exporter
	scrapes  *metrics.Handler
	remote   *remotewrite.Sender
	feeds    *feeds
	reliefs  *reliefs
	flight   *flights
	web      *web.Server
	ready    chan struct{} // closed when it traces, or waits for the module

	mu       sync.Mutex
	confined *sandbox.Options // nil: no Landlock
	untold   string           // why systemd could not be told last time
}

// Run serves until ctx ends, or a part of it fails.
func Run(ctx context.Context, o Options) error {
	s, err := newServer(o)
	if err != nil {
		return err
	}
	return s.run(ctx)
}

func newServer(o Options) (s *server, err error) {
	s = &server{o: o, log: o.Log, ready: make(chan struct{})}
	if s.cfg, err = config.NewReloader(o.Load, time.Now); err != nil {
		return nil, err
	}
	c := s.cfg.Config()
	s.apply(c)
	clock, err := pipeline.NewClock()
	if err != nil {
		return nil, err
	}
	if s.flight, err = s.newFlights(c); err != nil {
		return nil, err
	}
	s.keeper = pipeline.NewKeeper(clock, s.keeperConfig(c))
	if s.feeds, err = s.newFeeds(c); err != nil {
		return nil, err
	}
	if s.reliefs, err = s.newReliefs(c); err != nil {
		return nil, err
	}
	if s.remote, err = s.newRemote(c); err != nil {
		return nil, err
	}
	s.exporter = metrics.New(metrics.Options{
		TopPrefixes: c.Metrics.TopPrefixes, NetNS: o.Names.NetNS, Log: o.Log,
		Peaks: newClientPeaks(s.keeper.Peaks, time.Now).of,
		Extra: []prometheus.Collector{reloads{s.cfg.State}, s.remote, s.feeds, s.reliefs, s.flight, crowd{func() uint64 { return s.web.Evicted() }}},
	})
	s.scrapes = s.exporter.Handler(func(*http.Request) (*agg.Status, error) { return s.keeper.Status(), nil })
	s.cfg.AddHook(s.reach)
	s.cfg.AddHook(s.remote.Hook)
	s.cfg.AddHook(s.allowHook)
	s.cfg.AddHook(s.live)
	s.web, err = s.newWeb(c)
	return s, err
}

func (s *server) keeperConfig(c *config.Config) pipeline.KeeperConfig {
	return pipeline.KeeperConfig{
		Config:    pipeline.Config{Backend: c.Backend, Filter: s.o.Filter, Live: c.Limits.Live, Waiting: s.waiting},
		Census:    agg.CensusConfig{Dims: dims, MaxRows: c.Limits.Sources, MaxLive: c.Limits.Live},
		Prefixes:  c.Metrics.TopPrefixes,
		Detection: pipeline.Detection{Found: s.found, Allow: s.allowed},
		Flight:    s.flight.config(c),
		Attached:  s.attached,
		Problem:   func(err error) { s.log.Warn(view.OneLine(err)) },
	}
}

// run runs all parts until the first of them ends.
func (s *server) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	parts := []func(context.Context) error{s.web.Serve, s.keep, s.push, s.hangups, s.starting, s.watchdog, s.mind, s.reliefs.run, s.flight.run}
	parts = append(parts, s.feeds.parts()...)
	ended := make(chan error, len(parts))
	for _, part := range parts {
		go func() { ended <- part(ctx) }()
	}
	stopping := context.AfterFunc(ctx, func() { s.told(notify.Stopping("takes the last reading")) })
	defer stopping()
	var err error
	for range parts {
		if e := <-ended; e != nil {
			err = errors.Join(err, e)
			cancel() // the others have nothing to do without it
		}
	}
	for _, p := range s.keeper.Problems() {
		s.log.Warn(view.OneLine(p))
	}
	return err
}

// starting asks systemd for patience while the verifier reads the programs.
func (s *server) starting(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		select {
		case <-s.ready:
		case <-ctx.Done():
		}
	}()
	s.told(notify.ExtendWhile(ctx, 30*time.Second))
	return nil
}

// hangs is after how long without a sample the keeper counts as stuck; it takes one
// each second.
const hangs = 20 * time.Second

// watchdog lets systemd start us anew when the keeper hangs. Waiting for the module
// is not hanging.
func (s *server) watchdog(ctx context.Context) error {
	return notify.Watchdog(ctx, func() bool {
		at := s.keeper.Alive()
		return at.IsZero() || time.Since(at) < hangs
	}, s.told)
}

// waiting is called when nf_conntrack is not loaded: that is a state and no failure.
func (s *server) waiting() {
	s.log.Info("waiting for nf_conntrack to be loaded (modprobe nf_conntrack)")
	s.begun("waits for nf_conntrack to be loaded")
}

// attached is called when tracing has begun.
func (s *server) attached(p *pipeline.Pipeline) error {
	if s.o.Attached != nil {
		s.o.Attached(p)
	}
	if err := errors.Join(s.confine(s.cfg.Config()), s.flight.check()); err != nil {
		return err
	}
	s.log.Info("tracing", "backend", p.Report().Backend)
	s.begun("traces, backend " + p.Report().Backend)
	return nil
}

// begun tells systemd that the start is through. It may be called twice: waits,
// then traces.
func (s *server) begun(status string) {
	select {
	case <-s.ready:
		s.told(notify.Status(status))
	default:
		close(s.ready)
		s.told(notify.Ready(status))
	}
}

// told notes that systemd could not be told, and the same thing only once.
func (s *server) told(err error) {
	text := ""
	if err != nil {
		text = view.OneLine(err)
	}
	s.mu.Lock()
	again := text == s.untold
	s.untold = text
	s.mu.Unlock()
	if text != "" && !again {
		s.log.Warn(text)
	}
}

// apply puts into effect what needs no preparation.
func (s *server) apply(c *config.Config) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(c.Log.Level)); err == nil { // checked by config
		s.o.Level.Set(l)
	}
	switch _, env := os.LookupEnv("GOMEMLIMIT"); {
	case c.Limits.Memory > 0:
		debug.SetMemoryLimit(int64(c.Limits.Memory))
	case !env:
		debug.SetMemoryLimit(math.MaxInt64)
	}
}
