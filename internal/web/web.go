// Package web is the HTTP server of `ctsight serve`: metrics, page, JSON API, and
// what a supervisor asks. It holds the walls against clients that are slow, many or
// hostile; what it shows comes from others as values.
package web

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	toolkit "github.com/prometheus/exporter-toolkit/web"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/view"
)

// Limits of a client. What is served is small and made beforehand: whoever takes
// longer is not well, or does not mean it well. HTTP/2 is not spoken: nothing here
// needs it, and with it 200 connections made 600 MB (frames of 1 MB each, pings
// whose answers nobody takes) where HTTP/1 makes ten.
const (
	headerTimeout  = 2 * time.Second
	readTimeout    = 5 * time.Second
	writeTimeout   = 10 * time.Second
	takeTimeout    = 2 * time.Second // of what is made for one client
	idleTimeout    = 2 * time.Minute // more than anybody's scrape interval
	maxHeader      = 8 << 10
	shutdownLimit  = 2 * time.Second
	defaultMaxConn = 100
)

// Source is what the server shows. A RequestError is the client's fault, any other means that there is nothing to show now.
type Source interface {
	Status() *agg.Status
	Top(by agg.Dim, sort agg.Column, n int) (*agg.TopDoc, error)
	Ledger(ctx context.Context) (*agg.Doc, error)
	// Ready says why nothing is traced, nil when all is well.
	Ready() error
	Reload(ctx context.Context) error
}

// RequestError is what a client must change.
type RequestError string

func (e RequestError) Error() string { return string(e) }

// badRequest formats a RequestError.
func badRequest(format string, args ...any) error { return RequestError(fmt.Sprintf(format, args...)) }

// Options of a Server. Source, Metrics and Log are required.
type Options struct {
	Listen         []string // host:port, or unix:/path
	ConfigFile     string   // of exporter-toolkit: TLS and passwords; "" for neither
	TelemetryPath  string
	MaxConnections int
	EnableReload   bool
	Metrics        http.Handler
	Source         Source
	Names          view.Names
	// Page writes the document of "/", nil for none; Assets are what it refers to, by path.
	Page   func(io.Writer, *agg.Status) error
	Assets map[string]Asset
	// Blocklist is served at /blocklist, where there is one.
	Blocklist *Blocklist
	Log       *slog.Logger
}

// Asset is a file that never changes under its name.
type Asset struct {
	Type  string // of content
	Bytes []byte
}

// Server listens from New on and answers from Serve on.
type Server struct {
	o         Options
	gate      *gate
	door      *door
	listeners []net.Listener
	servers   []*http.Server
}

// New opens what is to be listened on, so that a port which is taken is known
// before anything is attached.
func New(o Options) (*Server, error) {
	if o.ConfigFile != "" {
		if err := toolkit.Validate(o.ConfigFile); err != nil {
			return nil, configError(o.ConfigFile, err)
		}
	}
	limit, err := places(cmp.Or(o.MaxConnections, defaultMaxConn))
	if err != nil {
		return nil, err
	}
	s := &Server{o: o, gate: newGate(limit), door: newDoor()}
	handler := s.handler()
	for _, address := range o.Listen {
		l, err := listen(address)
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.listeners = append(s.listeners, &gated{Listener: l, gate: s.gate})
		s.servers = append(s.servers, s.server(handler)) // of its own: exporter-toolkit changes it
	}
	return s, nil
}

func (s *Server) server(h http.Handler) *http.Server {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ConnState:         connState,
		ConnContext:       connContext,
		Protocols:         new(http.Protocols),
		// What net/http has to say is about clients, which may say anything.
		ErrorLog: slog.NewLogLogger(s.o.Log.Handler(), slog.LevelDebug),
	}
	srv.Protocols.SetHTTP1(true)
	// Called once, when exporter-toolkit has put its own handler around ours: what
	// holds for every request holds for those that it refuses too.
	srv.BaseContext = func(net.Listener) context.Context {
		srv.Handler = s.guard(srv.Handler)
		return context.Background()
	}
	return srv
}

// Addrs are where it listens.
func (s *Server) Addrs() (out []net.Addr) {
	for _, l := range s.listeners {
		out = append(out, l.Addr())
	}
	return out
}

// Evicted is how many connections were closed to make room for others.
func (s *Server) Evicted() uint64 {
	s.gate.mu.Lock()
	defer s.gate.mu.Unlock()
	return s.gate.evicted
}

// Serve answers until ctx ends; then those who are being answered have two seconds.
func (s *Server) Serve(ctx context.Context) error {
	ended := make(chan error, len(s.servers))
	quiet := slog.New(levelled{s.o.Log.Handler(), new(atomic.Int64)})
	for i, srv := range s.servers {
		go func() {
			ended <- toolkit.Serve(s.listeners[i], srv, &toolkit.FlagConfig{WebConfigFile: &s.o.ConfigFile}, quiet)
		}()
		s.o.Log.Info("listening", "address", s.listeners[i].Addr().String())
	}
	var err error
	left := len(s.servers)
	select {
	case <-ctx.Done():
	case err = <-ended:
		left--
	}
	stopErr := s.stop()
	for range left {
		err = errors.Join(err, over(<-ended))
	}
	return errors.Join(over(err), stopErr)
}

// over drops the error which says that we have closed the server.
func over(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (s *Server) stop() error {
	s.gate.close()
	ctx, cancel := context.WithTimeout(context.Background(), shutdownLimit)
	defer cancel()
	var err error
	for _, srv := range s.servers {
		if srv.Shutdown(ctx) != nil { // somebody takes too long
			err = errors.Join(err, over(srv.Close()))
		}
	}
	return err
}

func (s *Server) close() (err error) {
	for _, l := range s.listeners {
		err = errors.Join(err, l.Close())
	}
	return err
}

// levelled lowers what exporter-toolkit says at each start to debug, and what it says
// at each request, that its file is broken, but once a minute.
type levelled struct {
	slog.Handler
	next *atomic.Int64 // when an error may be said again, Unix ns
}

func (l levelled) Handle(ctx context.Context, r slog.Record) error {
	if r.Level == slog.LevelInfo || !l.due(r.Time) {
		if r.Level = slog.LevelDebug; !l.Enabled(ctx, r.Level) {
			return nil
		}
	}
	return l.Handler.Handle(ctx, r)
}

func (l levelled) due(now time.Time) bool {
	next := l.next.Load()
	return now.UnixNano() >= next && l.next.CompareAndSwap(next, now.Add(time.Minute).UnixNano())
}
