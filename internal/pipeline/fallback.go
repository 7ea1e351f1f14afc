package pipeline

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/probe"
)

// Fallback is the source of events for kernels that take no function hooks.
// With netfilter links (OpenNetfilter) new entries and losses are exact and
// destroys come from ctnetlink's events; without (OpenNetlink) all comes from
// there and losses are totals of the kernel's statistics. It finds network
// namespaces by itself, once a second.
type Fallback struct {
	nf   *probe.NFProbe // nil: netlink only
	list func() ([]ctnl.NS, error)
	m    *merge

	mu      sync.Mutex // guards what follows; taken before a net's reading
	nets    map[event.NetNS]*fallbackNet
	gone    map[event.NetNS]*account // namespaces that are no more
	buried  account                  // sums of those that are no more in gone
	past    ctnl.Counts              // of their listeners
	refused map[event.NetNS]error    // namespaces that could not be watched
	own     uint64                   // events made here: totals without packets
	listErr error
	closed  bool
	readers sync.WaitGroup
}

// fallbackNet is one network namespace.
type fallbackNet struct {
	ns      ctnl.NS
	conn    *ctnl.Conn
	account *account

	listener  *ctnl.Listener // nil when err says why
	err       error
	eventsOff bool // the sysctl is 0: no entry will ever tell
}

// window is how long events of several listeners wait for each other, where there
// is no probe.
const window = 25 * time.Millisecond

// step is how long what is in the merge waits between two looks.
const step = 2 * time.Millisecond

// OpenNetfilter opens the netfilter backend in every network namespace.
func OpenNetfilter(o probe.Options) (*Fallback, error) {
	return openNetfilter(o, ctnl.ListNetNS)
}

func openNetfilter(o probe.Options, list func() ([]ctnl.NS, error)) (*Fallback, error) {
	nf, err := probe.OpenNetfilter(o)
	if err != nil {
		return nil, err
	}
	return openFallback(nf, list)
}

// OpenNetlink opens the netlink backend in every network namespace.
func OpenNetlink(probe.Options) (*Fallback, error) { return openNetlink(ctnl.ListNetNS) }

func openNetlink(list func() ([]ctnl.NS, error)) (*Fallback, error) { return openFallback(nil, list) }

func openFallback(nf *probe.NFProbe, list func() ([]ctnl.NS, error)) (*Fallback, error) {
	f := &Fallback{nf: nf, list: list, m: newMerge(), nets: map[event.NetNS]*fallbackNet{}, gone: map[event.NetNS]*account{}, refused: map[event.NetNS]error{}}
	err := f.follow()
	if err == nil {
		err = f.usable()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// usable says what keeps the backend from being one: it works when it works in
// one namespace. The rest is in Report.
func (f *Fallback) usable() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	errs := slices.Collect(maps.Values(f.refused))
	for _, n := range f.nets {
		if n.err == nil || f.nf != nil {
			return nil
		}
		errs = append(errs, n.err)
	}
	if errors.Is(errors.Join(errs...), ctnl.ErrNotLoaded) {
		return probe.ErrNotLoaded
	}
	return fmt.Errorf("no network namespace: %w: %w", probe.ErrNotPossible, errors.Join(append(errs, f.listErr)...))
}

// Run delivers events in the order of their time until ctx ends, then what is
// left, and returns nil. fn must not keep the event it is given.
func (f *Fallback) Run(ctx context.Context, fn func(*event.Event) error) error {
	defer probe.GoFirst()() // the merge holds little when its sources go first
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f.runProbe(ctx, cancel) }()
	err := f.loop(ctx, fn)
	cancel()
	f.m.unblock()
	err = errors.Join(err, <-done)
	if err != nil {
		return err
	}
	f.settle()
	time.Sleep(2 * time.Millisecond) // what was just taken is on its way into the merge
	return f.deliver(1<<63-1, fn)
}

// runProbe feeds the probe's events into the merge; its end is the end.
func (f *Fallback) runProbe(ctx context.Context, cancel func()) error {
	if f.nf == nil {
		return nil
	}
	defer cancel()
	return f.nf.Run(ctx, func(e *event.Event) error {
		e.Ptr = 0 // ctnetlink tells no address of what it destroys: one entry must not go by two names
		f.m.push(e)
		return nil
	})
}

// loop delivers what has waited long enough, and looks for namespaces.
func (f *Fallback) loop(ctx context.Context, fn func(*event.Event) error) error {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	wait := time.NewTimer(step)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-second.C:
			_ = f.follow() // what cannot be watched is in Report; next second again
			f.poll()
		case <-f.m.more:
			wait.Reset(step)
		case <-wait.C:
			horizon, err := f.horizon()
			if err == nil {
				err = f.deliver(horizon, fn)
			}
			if err != nil {
				return err
			}
			if f.m.holds() { // else there is nothing to wake up for
				wait.Reset(step)
			}
		}
	}
}

// horizon is the time before which no source has anything more to tell.
func (f *Fallback) horizon() (event.Ktime, error) {
	if f.nf != nil { // has held its own for 10 ms; the listeners, who tell when they read, are done by then
		return f.nf.UpTo(), nil
	}
	t, err := probe.Now()
	return t - event.Ktime(window), err
}

// poll reads the statistics where they are the only source of losses.
func (f *Fallback) poll() {
	if f.nf != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.nets {
		f.update(n)
	}
}

// settle waits until the listeners have taken what the kernel had told them,
// but not for long: where traffic goes on they may never be done.
func (f *Fallback) settle() {
	for range 100 {
		if !f.queued() {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (f *Fallback) queued() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.nets {
		if n.listener == nil {
			continue
		}
		if q, err := n.listener.Queued(); err == nil && q > 0 {
			return true
		}
	}
	return false
}

// stopListening ends all listeners after what they have taken is passed on.
func (f *Fallback) stopListening() error {
	f.mu.Lock()
	var errs []error
	for _, n := range f.nets {
		if n.listener != nil {
			errs = append(errs, ignoreClosed(n.listener.SetReadDeadline(time.Unix(1, 0))))
		}
	}
	f.mu.Unlock()
	f.readers.Wait()
	return errors.Join(errs...)
}

func ignoreClosed(err error) error {
	if errors.Is(err, ctnl.ErrClosed) {
		return nil
	}
	return err
}

func (f *Fallback) deliver(horizon event.Ktime, fn func(*event.Event) error) error {
	for {
		e := f.m.pop(horizon)
		if e == nil {
			return nil
		}
		if f.nf != nil && unsure(e) {
			f.explain(e)
		}
		if err := fn(e); err != nil {
			return err
		}
		f.m.done(e)
	}
}

// explain refines a loss by the first reading after it, which it takes when
// there is none yet: one for all the losses that wait.
func (f *Fallback) explain(e *event.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.nets[e.NetNS]; n != nil {
		if e.Time > n.account.last.at && !f.closed {
			f.update(n)
		}
		n.account.refine(e)
	} else if a := f.gone[e.NetNS]; a != nil {
		a.refine(e)
	}
}

// Report describes what is in place.
func (f *Fallback) Report() probe.Report {
	r := probe.Report{Backend: probe.Netlink}
	if f.nf != nil {
		r = f.nf.Report()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	destroy := probe.HookStatus{Symbol: "ctnetlink destroy", Lost: "destroyed entries and their cause"}
	errs := []error{f.listErr}
	for _, ino := range slices.Sorted(maps.Keys(f.nets)) {
		n := f.nets[ino]
		if n.listener != nil {
			destroy.Backend = probe.Netlink
		}
		if n.err != nil {
			errs = append(errs, fmt.Errorf("netns %s: %w", ino, n.err))
		}
		if n.eventsOff {
			errs = append(errs, fmt.Errorf("netns %s: sysctl nf_conntrack_events is 0, entries tell nothing", ino))
		}
	}
	for _, ino := range slices.Sorted(maps.Keys(f.refused)) {
		errs = append(errs, fmt.Errorf("netns %s is not watched: %w", ino, f.refused[ino]))
	}
	destroy.Err = errors.Join(errs...)
	r.Hooks = append(r.Hooks, destroy)
	if f.nf == nil {
		news := destroy
		news.Symbol, news.Lost, news.Core = "ctnetlink new", "new connections", true
		stats := probe.HookStatus{Symbol: "ctnetlink statistics", Backend: probe.Netlink, Lost: "totals of lost packets", Err: f.listErr}
		r.Hooks = append(r.Hooks, news, stats)
	}
	return r
}

// Loss returns the account of records and messages so far. Stage netlink is
// what the kernel could not put into our sockets.
func (f *Fallback) Loss() probe.Loss {
	l := probe.Loss{ByStage: map[string]uint64{}}
	if f.nf != nil {
		l = f.nf.Loss()
	}
	f.mu.Lock()
	c, own := f.past, f.own
	for _, n := range f.nets {
		if n.listener != nil {
			addCounts(&c, n.listener.Counts())
		}
	}
	f.mu.Unlock()
	lost := c.Lost
	if lost == 0 {
		lost = c.Overruns // no memory for a message: at least one each
	}
	l.Seen += c.Decoded + c.Undecodable + lost + own
	l.Delivered += c.Decoded + own
	l.Lost += c.Undecodable + lost
	l.ByStage["netlink"] = lost
	l.ByStage["netlink_undecodable"] = c.Undecodable
	l.Late = f.m.late.Load() // what the probe told late the merge may have put in order
	return l
}

// Counters returns the counts of every namespace seen, sorted. With netfilter
// links New and the sums of losses are exact up to the moment of the call;
// causes, and all of the netlink backend, are as good as ctnetlink's events.
func (f *Fallback) Counters() []probe.Counters {
	var raw []probe.Counters
	if f.nf != nil {
		raw = f.nf.Counters()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[event.NetNS]probe.Counters{}
	for _, c := range raw {
		out[c.NetNS] = c
	}
	for ino, a := range f.gone {
		c := out[ino]
		c.NetNS = ino
		out[ino] = a.counters(c)
	}
	if c := f.buried.counters(out[probe.OtherNetNS]); c != (probe.Counters{}) {
		c.NetNS = probe.OtherNetNS
		out[probe.OtherNetNS] = c
	}
	for ino, n := range f.nets {
		c := out[ino]
		c.NetNS = ino
		if !f.closed && (f.nf == nil || c != n.account.last.raw) {
			f.update(n)
			if f.nf != nil {
				c = n.account.last.raw
				c.NetNS = ino
			}
		}
		if c = n.account.counters(c); c != (probe.Counters{NetNS: ino}) {
			out[ino] = c
		}
	}
	all := make([]probe.Counters, 0, len(out))
	for _, ino := range slices.Sorted(maps.Keys(out)) {
		all = append(all, out[ino])
	}
	return all
}

// Detach ends the counting; everything stays readable until Close. Messages
// that the kernel has put into our sockets are read first.
func (f *Fallback) Detach() error {
	var errs []error
	if f.nf != nil {
		errs = append(errs, f.nf.Detach())
	}
	f.m.unblock()
	f.settle()
	errs = append(errs, f.stopListening())
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		for _, n := range f.nets {
			f.update(n)
		}
	}
	f.closed = true
	for _, n := range f.nets {
		if n.listener != nil {
			errs = append(errs, n.listener.Close())
		}
		errs = append(errs, n.conn.Close())
	}
	return errors.Join(errs...)
}

// Close detaches and frees everything. Safe to call twice.
func (f *Fallback) Close() error {
	errs := []error{f.Detach()}
	if f.nf != nil {
		errs = append(errs, f.nf.Close())
	}
	return errors.Join(errs...)
}
