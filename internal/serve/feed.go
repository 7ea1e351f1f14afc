package serve

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/config"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/feed"
	"github.com/ctsight/ctsight/internal/view"
	"github.com/ctsight/ctsight/internal/web"
)

// feeds are where findings go, and who is never blocked.
type feeds struct {
	allow   atomic.Pointer[feed.Allow]
	policy  *feed.Policy
	lists   *feed.Lists
	outlets *feed.Outlets
	file    *feed.File // nil without
	blocker *feed.Blocker
	own     feed.Place // where our own table is

	stop    context.CancelFunc // of the outlets: who tells ends before them
	stopped context.Context

	mu     sync.Mutex
	vital  []feed.Vital
	passed passed
}

// passed are the prefixes of an allow list at a time.
type passed struct {
	of       *feed.Allow
	at       time.Time
	prefixes []netip.Prefix
}

// newFeeds opens what can be opened, so that a file that cannot be written is known
// before anything is attached.
func (s *server) newFeeds(c *config.Config) (*feeds, error) {
	own, err := ownNetNS()
	if err != nil {
		return nil, err
	}
	f := &feeds{own: feed.Place{NetNS: own}}
	f.stopped, f.stop = context.WithCancel(context.Background())
	f.vital = s.lookupVital()
	f.allow.Store(feed.NewAllow(c.Detect.Allow, f.vital))
	f.policy = &feed.Policy{Allow: f.allow.Load}
	f.lists = &feed.Lists{Policy: f.policy, Now: time.Now, Findings: func() []agg.Finding { return s.keeper.Status().Findings }}
	f.outlets = &feed.Outlets{Policy: f.policy, Now: time.Now}
	f.blocker = &feed.Blocker{Want: s.blocks, Print: s.stdout(), Log: s.log}
	return f, s.open(f, c)
}

// open makes the outlets.
func (s *server) open(f *feeds, c *config.Config) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("feed: name of this host: %w", err)
	}
	o := feed.Options{Names: s.o.Names, Host: host}
	if c.Feed.File != "" {
		form, err := feed.NewFormat(c.Feed.Format, o)
		if err != nil {
			return err
		}
		if f.file, err = feed.OpenFile(c.Feed.File, form); err != nil {
			return err
		}
		f.outlets.All = append(f.outlets.All, feed.NewOutlet("file", f.file, s.log))
	}
	if c.Feed.NATS.URL != "" {
		form, err := feed.NewFormat("json", o)
		if err != nil {
			return err
		}
		sink, err := feed.NewNATS(c.Feed.NATS, form, host, s.log)
		if err != nil {
			return err
		}
		f.outlets.All = append(f.outlets.All, feed.NewOutlet("nats", sink, s.log))
	}
	return nil
}

func (s *server) stdout() io.Writer {
	if s.o.Stdout != nil {
		return s.o.Stdout
	}
	return os.Stdout
}

// ownNetNS is the network namespace that this process is in.
func ownNetNS() (event.NetNS, error) {
	st, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		return 0, fmt.Errorf("own network namespace: %w", err)
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("own network namespace: no inode")
	}
	return event.NetNS(sys.Ino), nil
}

// found takes a finding as it is told.
func (s *server) found(f *agg.Finding) { s.feeds.outlets.Tell(f) }

// allowed says who allows a source.
func (s *server) allowed(a netip.Addr, at time.Time) string { return s.feeds.allow.Load().Why(a, at) }

// blocks is what our table of nftables should have: who attacks this host or through it.
// The addresses of another network namespace may be those of other hosts.
func (s *server) blocks(now time.Time) (mode int, r *feed.Ruleset) {
	c := &s.cfg.Config().Feed.NFT
	switch {
	case c.DryRun:
		return feed.Dry, s.ruleset(now)
	case c.Enable:
		return feed.On, s.ruleset(now)
	}
	return feed.Off, nil
}

func (s *server) ruleset(now time.Time) *feed.Ruleset {
	c := &s.cfg.Config().Feed.NFT
	r := &feed.Ruleset{Hook: c.Hook, Action: c.Action, Block: s.feeds.lists.In(s.feeds.own).Entries()}
	if len(r.Block) > 0 {
		r.Allow = s.feeds.pass(now)
	}
	return r
}

// passAge is how long prefixes of an allow list are not looked at again: one that has
// ended lets its source through for so long.
const passAge = 10 * time.Second

func (f *feeds) pass(now time.Time) []netip.Prefix {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a := f.allow.Load(); f.passed.of != a || now.Sub(f.passed.at) > passAge || now.Before(f.passed.at) {
		f.passed = passed{a, now, a.Prefixes(now)}
	}
	return f.passed.prefixes
}

// blocklist is what the web server serves.
func (s *server) blocklist() *web.Blocklist {
	return &web.Blocklist{
		Text: func() ([]byte, string, bool) {
			l := s.feeds.lists.All()
			return l.Text(), l.ETag(), s.cfg.Config().Feed.Blocklist
		},
		Ruleset: func() []byte { now := time.Now(); return s.ruleset(now).Text(now) },
	}
}

// allowHook is a config.Hook: the allow list is made before, and takes effect at once.
func (s *server) allowHook(_ context.Context, now, next *config.Config) (config.Change, error) {
	s.feeds.mu.Lock()
	defer s.feeds.mu.Unlock()
	a := feed.NewAllow(next.Detect.Allow, s.feeds.vital)
	return config.Change{Commit: func() {
		s.feeds.allow.Store(a)
		s.feeds.lists.Forget()
		s.tellEnding(next)
	}}, nil
}

// vitalEvery is how often addresses, gateways and resolvers are looked up.
const vitalEvery = time.Minute

// mind keeps the allow list true, and tells of entries that end before somebody is
// blocked whom nobody meant.
func (s *server) mind(ctx context.Context) error {
	s.tellEnding(s.cfg.Config())
	tick := time.NewTicker(vitalEvery)
	defer tick.Stop()
	for day := time.Now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			s.lookAgain()
			if now.Sub(day) >= 24*time.Hour {
				day = now
				s.tellEnding(s.cfg.Config())
			}
		}
	}
}

// lookAgain makes a new allow list when this host has other addresses, gateways or
// resolvers.
func (s *server) lookAgain() {
	vital := s.lookupVital()
	f := s.feeds
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.Equal(vital, f.vital) {
		return
	}
	f.vital = vital
	f.allow.Store(feed.NewAllow(s.cfg.Config().Detect.Allow, vital))
	f.lists.Forget()
}

// lookupVital keeps what was known when it cannot be read.
func (s *server) lookupVital() []feed.Vital {
	vital, err := feed.LookupVital()
	if err != nil {
		s.log.Warn("feed: what this host cannot do without is not all known", "answer", view.OneLine(err))
	}
	return vital
}

// warnBefore is how long before its end an entry of the allow list is told of.
const warnBefore = 7 * 24 * time.Hour

func (s *server) tellEnding(c *config.Config) {
	now := time.Now()
	for i, a := range feed.Ending(c.Detect.Allow, now, warnBefore) {
		if i == 10 {
			s.log.Warn("detect.allow: more entries end within a week")
			break
		}
		s.log.Warn("detect.allow: an entry ends within a week", "prefix", a.Prefix.String(), "owner", view.Text(a.Owner), "until", a.Until.Format(time.RFC3339))
	}
	if n := len(feed.Ended(c.Detect.Allow, now)); n > 0 {
		s.log.Warn("detect.allow: entries that have ended hold no more", "entries", n)
	}
}

// keep traces, and lets the outlets end when nobody tells them anything any more.
func (s *server) keep(ctx context.Context) error {
	defer s.feeds.stop()
	return s.keeper.Run(ctx)
}

// parts run until the end; outlets until nobody tells.
func (f *feeds) parts() []func(context.Context) error {
	parts := []func(context.Context) error{f.blocker.Run}
	for _, o := range f.outlets.All {
		parts = append(parts, func(context.Context) error { return o.Run(f.stopped) })
	}
	return parts
}

// reopen has the file opened anew, after logrotate.
func (f *feeds) reopen() {
	if f.file != nil {
		f.file.Reopen()
	}
}
