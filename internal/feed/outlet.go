package feed

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/view"
)

// Sink is where tellings end up. Its methods are called by one goroutine and may wait.
type Sink interface {
	// Write hands over one telling. After an error it is called with the same again,
	// unless the error is a Lost.
	Write(ctx context.Context, t Telling) error
	io.Closer
}

// Lost is an error that trying again does not mend.
type Lost struct{ Err error }

func (l Lost) Error() string { return l.Err.Error() }

// Unwrap returns the reason.
func (l Lost) Unwrap() error { return l.Err }

// Account is what became of the tellings of an outlet. Told is the sum of the others.
type Account struct {
	Told    uint64
	Written uint64
	Failed  uint64 // the sink cannot take them
	Dropped uint64 // given up: no room, or the end
	Pending uint64
	Errors  uint64 // attempts that failed
}

// limits of an outlet.
type limits struct {
	queue                  int
	backoffMin, backoffMax time.Duration
	finish                 time.Duration // for what waits at the end
}

var defaults = limits{queue: 1024, backoffMin: time.Second, backoffMax: 30 * time.Second, finish: 2 * time.Second}

// Outlet is a queue and the sink behind it. Tell never waits.
type Outlet struct {
	name   string
	sink   Sink
	limits limits
	log    *slog.Logger

	mu      sync.Mutex
	queue   []Telling
	account Account
	filled  chan struct{} // has one when something came

	trouble bool   // the last attempt failed; of Run
	calm    uint64 // lost when all was well
}

// NewOutlet returns an outlet that gathers until Run is called. log is nil for none.
func NewOutlet(name string, s Sink, log *slog.Logger) *Outlet {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Outlet{name: name, sink: s, limits: defaults, log: log.With("feed", name), filled: make(chan struct{}, 1)}
}

// Name is what it is called in logs and metrics.
func (o *Outlet) Name() string { return o.name }

// Tell takes a finding to be written. When there is no room the oldest is given up:
// what is true now is worth more.
func (o *Outlet) Tell(t Telling) {
	o.mu.Lock()
	o.account.Told++
	o.queue = append(o.queue, t)
	if len(o.queue) > o.limits.queue {
		o.queue[0] = Telling{}
		o.queue = o.queue[1:]
		o.account.Dropped++
	}
	o.mu.Unlock()
	select {
	case o.filled <- struct{}{}:
	default:
	}
}

// Account says what became of the tellings.
func (o *Outlet) Account() Account {
	o.mu.Lock()
	defer o.mu.Unlock()
	a := o.account
	a.Pending = a.Told - a.Written - a.Failed - a.Dropped
	return a
}

// Run writes until ctx ends, then what waits for two seconds more, and closes the sink.
// One that hangs even then is left behind.
func (o *Outlet) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		o.work(ctx)
		o.end(ctx)
	}()
	<-ctx.Done()
	select {
	case <-done:
	case <-time.After(2 * o.limits.finish):
		o.log.Warn("feed: hangs, it is left behind")
	}
	return nil
}

// end writes what waits, for a while, and gives up the rest.
func (o *Outlet) end(ctx context.Context) {
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.limits.finish)
	defer cancel()
	for t, ok := o.take(); ok; t, ok = o.take() {
		if last.Err() != nil || o.attempt(last, t) != nil {
			o.putBack(t)
			break
		}
	}
	o.drain()
	if err := o.sink.Close(); err != nil {
		o.log.Warn("feed: close", "answer", view.OneLine(err))
	}
}

func (o *Outlet) work(ctx context.Context) {
	for ctx.Err() == nil {
		t, ok := o.take()
		if !ok {
			select {
			case <-ctx.Done():
			case <-o.filled:
			}
			continue
		}
		o.insist(ctx, t)
	}
}

// insist tries until the sink has taken it, or ctx ends: then it waits again.
func (o *Outlet) insist(ctx context.Context, t Telling) {
	wait := o.limits.backoffMin
	for o.attempt(ctx, t) != nil {
		select {
		case <-ctx.Done():
			o.putBack(t)
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, o.limits.backoffMax)
	}
}

// attempt writes once; nil means that there is nothing more to try.
func (o *Outlet) attempt(ctx context.Context, t Telling) error {
	err := o.sink.Write(ctx, t)
	var lost Lost
	gone := errors.As(err, &lost)
	o.mu.Lock()
	switch {
	case err == nil:
		o.account.Written++
	case gone:
		o.account.Failed++
		o.account.Errors++
	default:
		o.account.Errors++
	}
	a := o.account
	o.mu.Unlock()
	o.say(err, a)
	if gone {
		return nil
	}
	return err
}

// say tells of trouble once, and of its end with what it has cost.
func (o *Outlet) say(err error, a Account) {
	lost := a.Failed + a.Dropped
	switch {
	case err != nil && !o.trouble:
		o.trouble = true
		o.log.Warn("feed: findings cannot be written, they wait and are tried again", "answer", view.OneLine(err))
	case err == nil && o.trouble:
		o.trouble = false
		o.log.Info("feed: findings are written again", "lost", lost-o.calm)
	}
	if err == nil {
		o.calm = lost
	}
}

func (o *Outlet) take() (Telling, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == 0 {
		return Telling{}, false
	}
	t := o.queue[0]
	o.queue[0] = Telling{}
	o.queue = o.queue[1:]
	return t, true
}

func (o *Outlet) putBack(t Telling) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.queue = append([]Telling{t}, o.queue...)
}

// drain gives up what still waits.
func (o *Outlet) drain() {
	o.mu.Lock()
	n := len(o.queue)
	o.queue = nil
	o.account.Dropped += uint64(n)
	o.mu.Unlock()
	if n > 0 {
		o.log.Warn("feed: findings given up at the end", "findings", n)
	}
}

// Outlets give each finding to all of them.
type Outlets struct {
	Policy *Policy
	Now    func() time.Time
	All    []*Outlet
}

// Tell never waits: it may be called where events are read.
func (o *Outlets) Tell(f *agg.Finding) {
	if len(o.All) == 0 {
		return
	}
	t := Telling{Finding: f, Unlisted: o.Policy.Why(f, o.Now())}
	for _, out := range o.All {
		out.Tell(t)
	}
}
