package config

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Change is a part of a reload that is ready and not yet in effect. Commit puts it
// into effect and cannot fail; Discard throws it away, when another part failed.
// Either may be nil. One of the two is called, once.
type Change struct{ Commit, Discard func() }

// Hook gets a part of the program ready for the next configuration, or says why it
// cannot be. now is what runs.
type Hook func(ctx context.Context, now, next *Config) (Change, error)

// State is how reloads went. At the start the last one was a success.
type State struct {
	Success     bool      // of the last one
	LastSuccess time.Time // when the configuration that runs came into effect
	Err         error     // why the last one failed
	Failed      uint64    // reloads since the start
}

// Result is what a reload changed.
type Result struct {
	Live    []string // keys with new values that are in effect
	Restart []string // keys with new values that take effect after a restart
}

// Reloader holds the configuration that runs. All methods may be called at any
// time from anywhere; reloads are one after the other.
type Reloader struct {
	load  func() (*Config, error)
	hooks []Hook
	now   func() time.Time

	one     chan struct{} // held by the reload in progress
	current atomic.Pointer[Config]

	mu    sync.Mutex
	state State
}

// NewReloader starts with what load returns: a Load, and then the flags. now is
// the clock. Hooks are not called for the first configuration.
func NewReloader(load func() (*Config, error), now func() time.Time, hooks ...Hook) (*Reloader, error) {
	c, err := load()
	if err != nil {
		return nil, err
	}
	r := &Reloader{load: load, hooks: hooks, now: now, one: make(chan struct{}, 1)}
	r.current.Store(c)
	r.state = State{Success: true, LastSuccess: now()}
	return r, nil
}

// AddHook adds a hook for reloads to come: parts of the program that exist only
// once the configuration was read.
func (r *Reloader) AddHook(h Hook) {
	r.one <- struct{}{}
	defer func() { <-r.one }()
	r.hooks = append(r.hooks, h)
}

// Config is the configuration that runs. Nobody may change it.
func (r *Reloader) Config() *Config { return r.current.Load() }

// State says how the reloads went.
func (r *Reloader) State() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// Reload reads the configuration again. On an error, of the file or of a hook, all
// stays as it was. Values that need a restart do not make it fail: it would keep
// everything else from changing; they are named in the result.
func (r *Reloader) Reload(ctx context.Context) (Result, error) {
	select {
	case r.one <- struct{}{}:
		defer func() { <-r.one }()
	case <-ctx.Done():
		return Result{}, fmt.Errorf("reload: another one is in progress: %w", ctx.Err())
	}
	res, err := r.reload(ctx)
	r.note(err)
	return res, err
}

func (r *Reloader) reload(ctx context.Context) (Result, error) {
	file, err := r.load()
	if err != nil {
		return Result{}, fmt.Errorf("reload: %w", err)
	}
	now := r.Config()
	var res Result
	res.Live, res.Restart = now.Diff(file)
	next := now.reloaded(file)
	changes, err := r.prepare(ctx, now, next)
	if err != nil {
		return Result{}, fmt.Errorf("reload: %w", err)
	}
	r.current.Store(next)
	for _, c := range changes {
		call(c.Commit)
	}
	return res, nil
}

// prepare asks every hook, and throws away what is ready when one refuses.
func (r *Reloader) prepare(ctx context.Context, now, next *Config) ([]Change, error) {
	var ready []Change
	for _, h := range r.hooks {
		c, err := h(ctx, now, next)
		if err != nil {
			for i := len(ready) - 1; i >= 0; i-- {
				call(ready[i].Discard)
			}
			return nil, err
		}
		ready = append(ready, c)
	}
	return ready, nil
}

func call(f func()) {
	if f != nil {
		f()
	}
}

func (r *Reloader) note(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.Success, r.state.Err = err == nil, err
	if err != nil {
		r.state.Failed++
		return
	}
	r.state.LastSuccess = r.now()
}
