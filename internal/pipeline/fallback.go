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

// window is how long events of ctnetlink and of the probe wait for each other.
// The probe holds its own for 10 ms.
const window = 25 * time.Millisecond

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

// follow takes up namespaces that are new and lets go of those that nobody but
// us keeps alive.
func (f *Fallback) follow() error {
	list, err := f.list()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.listErr = err; err != nil || f.closed {
		return err
	}
	clear(f.refused)
	found := map[event.NetNS]bool{}
	for _, ns := range list {
		found[ns.Inode] = true
		if f.nets[ns.Inode] == nil {
			if err := f.add(ns); err != nil {
				f.refused[ns.Inode] = err
			}
		}
	}
	var errs []error
	for ino, n := range f.nets {
		if !found[ino] {
			errs = append(errs, f.remove(n))
		}
	}
	return errors.Join(errs...)
}

// add begins to watch a namespace. One that vanishes meanwhile is no error.
func (f *Fallback) add(ns ctnl.NS) error {
	n := &fallbackNet{ns: ns}
	var err error
	if n.conn, err = ctnl.Dial(ns); err != nil {
		return f.vanished(ns, err)
	}
	if f.nf != nil {
		if err := f.nf.AttachNetNS(ns.Path, ns.Inode); err != nil {
			return errors.Join(f.vanished(ns, err), n.conn.Close())
		}
	}
	p, err := f.read(n)
	if err != nil && f.nf == nil {
		n.err = err
	}
	if n.account = f.gone[ns.Inode]; n.account == nil {
		n.account = newAccount(p)
	} else { // the number is used again, by a namespace that counts from 0
		delete(f.gone, ns.Inode)
		n.account.restart(p)
	}
	if v, err := ns.EventsSysctl(); err == nil && v == 0 {
		n.eventsOff = true
	}
	groups := ctnl.DestroyEvents
	if f.nf == nil {
		groups |= ctnl.NewEvents
	}
	if n.listener, err = ctnl.Listen(ns, ctnl.ListenConfig{Groups: groups}); err != nil {
		n.err = err
	} else {
		f.readers.Go(func() { f.listen(n) })
	}
	f.nets[ns.Inode] = n
	return nil
}

// vanished is nil when the namespace is gone.
func (f *Fallback) vanished(ns ctnl.NS, err error) error {
	if _, oerr := ctnl.OpenNS(ns.Path); oerr != nil {
		return nil
	}
	return err
}

// listen passes the events of one namespace on until its listener is closed.
func (f *Fallback) listen(n *fallbackNet) {
	for {
		err := n.listener.Read(func(e *event.Event) {
			f.mu.Lock()
			switch e.Kind {
			case event.New:
				n.account.news++
			case event.Destroy:
				n.account.causes[e.Cause]++
			}
			f.mu.Unlock()
			f.m.push(e)
		})
		if err != nil {
			f.mu.Lock()
			if !errors.Is(err, ctnl.ErrClosed) && !errors.Is(err, ctnl.ErrTimeout) {
				n.err = err
			}
			f.mu.Unlock()
			return
		}
	}
}

// remove ends watching a namespace; what was counted stays.
func (f *Fallback) remove(n *fallbackNet) error {
	f.update(n)
	var errs []error
	if f.nf != nil {
		errs = append(errs, f.nf.ForgetNetNS(n.ns.Inode))
	}
	if n.listener != nil {
		errs = append(errs, n.listener.Close())
		addCounts(&f.past, n.listener.Counts())
	}
	errs = append(errs, n.conn.Close())
	delete(f.nets, n.ns.Inode)
	f.gone[n.ns.Inode] = n.account
	return errors.Join(errs...)
}

func addCounts(to *ctnl.Counts, c ctnl.Counts) {
	to.Messages += c.Messages
	to.Decoded += c.Decoded
	to.Undecodable += c.Undecodable
	to.Skipped += c.Skipped
	to.Foreign += c.Foreign
	to.Overruns += c.Overruns
	to.Lost += c.Lost
}

// read takes a reading of a namespace.
func (f *Fallback) read(n *fallbackNet) (point, error) {
	var p point
	var err error
	if p.at, err = probe.Now(); err != nil {
		return p, err
	}
	if f.nf != nil {
		p.raw = countersOf(f.nf.Counters(), n.ns.Inode)
	}
	if p.stats, err = n.conn.Stats(); err == nil {
		p.fill, err = n.conn.Fill()
	}
	return p, err
}

func countersOf(all []probe.Counters, ns event.NetNS) probe.Counters {
	i, ok := slices.BinarySearchFunc(all, ns, func(c probe.Counters, ns event.NetNS) int { return int(c.NetNS) - int(ns) })
	if !ok {
		return probe.Counters{NetNS: ns}
	}
	return all[i]
}

// update brings the account of a namespace up to now, as far as it can be read.
func (f *Fallback) update(n *fallbackNet) {
	p, err := f.read(n)
	switch {
	case err != nil:
	case f.nf != nil:
		n.account.next(p)
	default:
		for r, count := range n.account.losses(p) {
			f.own++
			f.m.squeeze(&event.Event{Time: p.at, Kind: event.Drop, Reason: r, NetNS: n.ns.Inode, Sample: uint32(min(count, 1<<32-1)), BestEffort: true})
		}
	}
}

// Run delivers events in the order of their time until ctx ends, then what is
// left, and returns nil. fn must not keep the event it is given.
func (f *Fallback) Run(ctx context.Context, fn func(*event.Event) error) error {
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
		f.m.push(e)
		return nil
	})
}

// loop delivers what has waited long enough, and looks for namespaces.
func (f *Fallback) loop(ctx context.Context, fn func(*event.Event) error) error {
	tick, second := time.NewTicker(5*time.Millisecond), time.NewTicker(time.Second)
	defer tick.Stop()
	defer second.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-second.C:
			_ = f.follow() // what cannot be watched is in Report; next second again
			f.poll()
		case <-tick.C:
			now, err := probe.Now()
			if err == nil {
				err = f.deliver(now-event.Ktime(window), fn)
			}
			if err != nil {
				return err
			}
		}
	}
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
	l.Late += f.m.late.Load()
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
