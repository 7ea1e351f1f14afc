package serve

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ctsight/ctsight/internal/config"
	"github.com/ctsight/ctsight/internal/notify"
	"github.com/ctsight/ctsight/internal/sandbox"
	"github.com/ctsight/ctsight/internal/view"
)

// hangups reloads on each SIGHUP until ctx ends.
func (s *server) hangups(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.o.Hangup:
			s.feeds.reopen()
			s.told(notify.Reloading())
			_ = s.Reload(ctx) // logged
			s.told(notify.Ready(""))
		}
	}
}

// Reload reads the configuration again. What is wrong with it is logged and
// returned, and the old one stays.
func (s *server) Reload(ctx context.Context) error {
	r, err := s.cfg.Reload(ctx)
	if err != nil {
		s.log.Error("the configuration stays as it was", "answer", view.OneLine(err))
		return err
	}
	s.log.Info("configuration reloaded", "changed", strings.Join(r.Live, " "))
	if len(r.Restart) > 0 {
		s.log.Warn("takes effect after a restart", "keys", strings.Join(r.Restart, " "))
	}
	return nil
}

// live is the hook of what needs no preparation.
func (s *server) live(_ context.Context, _, next *config.Config) (config.Change, error) {
	return config.Change{Commit: func() { s.apply(next) }}, nil
}

// reach is the hook that refuses what Landlock would: it cannot be widened.
func (s *server) reach(_ context.Context, _, next *config.Config) (config.Change, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.confined == nil {
		return config.Change{}, nil
	}
	want := s.opened(next)
	for _, p := range want.Connect {
		if sandbox.RestrictsPorts() && !slices.Contains(s.confined.Connect, p) {
			return config.Change{}, fmt.Errorf("remote_write: Landlock allows no connection to port %d since the start: restart, or sandbox.landlock: off", p)
		}
	}
	for _, dir := range want.Read {
		if !slices.Contains(s.confined.Read, dir) {
			return config.Change{}, fmt.Errorf("%s: Landlock allows no reading of it since the start: restart, or sandbox.landlock: off", dir)
		}
	}
	return config.Change{}, nil
}
