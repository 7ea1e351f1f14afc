// Package pipeline joins a source of events to what is made of them: it chooses
// the backend, waits for nf_conntrack, gives destroys their lifetime, applies
// the filter, and draws up the ledger against the kernel's own counters. It owns
// the goroutines and the loss counts; it prints nothing.
package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/filter"
	"github.com/ctsight/ctsight/internal/probe"
)

// Source is where events come from. *probe.Probe is one; so are the backends
// of this package that need no function hooks.
type Source interface {
	// Run delivers events in the order of their time until ctx ends, then
	// what is left. The event must not be kept.
	Run(ctx context.Context, fn func(*event.Event) error) error
	Report() probe.Report
	Loss() probe.Loss
	Counters() []probe.Counters
	// Detach ends the counting; everything stays readable until Close.
	Detach() error
	Close() error
}

// Config says what to trace.
type Config struct {
	Backend   string // probe.Auto, Fentry, Kprobe, Netfilter, Netlink
	Filter    *filter.Filter
	RingBytes int
	Invalid   bool
	Audit     bool
	// Sums says that a Watch will run: programs may sum up by source what they
	// have no room to tell (probe.Options.Sums), where the filter allows it.
	Sums bool
	// Live is how many live entries have a known age, 0 for LiveLimit.
	Live int
	// Tracing is called when a ledger has taken its first reading; may be nil.
	Tracing func()
	// Waiting is called once when nf_conntrack is not loaded and Open waits
	// for it. nil: do not wait.
	Waiting func()
}

// LiveLimit bounds the table of live entries, which gives destroys their
// lifetime, and LiveBytes is what it may take.
const (
	LiveLimit = 4 << 20
	LiveBytes = LiveLimit * 32
)

// Pipeline is an open source and the state that its events pass.
type Pipeline struct {
	Source
	// Refused is why no better backend works here; nil with the best, and
	// with the one that was asked for.
	Refused error

	cfg  Config
	live *agg.Live[event.Ktime]
	sums func(*event.Sum) // of the Watch; nil where there are none
}

// Open chooses a backend by trying and attaches it.
func Open(ctx context.Context, cfg Config) (*Pipeline, error) {
	p := &Pipeline{cfg: cfg, live: agg.NewLive[event.Ktime](cmp.Or(cfg.Live, LiveLimit), 1024)}
	o := probe.Options{Backend: cfg.Backend, RingBytes: cfg.RingBytes, Filter: kernelFilter(cfg.Filter), Invalid: cfg.Invalid, Audit: cfg.Audit}
	if cfg.Sums && summable(cfg.Filter) {
		p.sums = func(*event.Sum) {} // until there is a Watch
		o.Sums = func(x *event.Sum) { p.sums(x) }
	}
	var err error
	if p.Source, p.Refused, err = open(ctx, cfg.Waiting, o); err != nil {
		return nil, err
	}
	if _, hooks := p.Source.(*probe.Probe); !hooks {
		p.sums = nil // the other backends cannot
	}
	return p, nil
}

// summable says whether programs can decide alone what passes a filter. A filter
// by kind or reason lets only some of what happens to an entry through.
func summable(f *filter.Filter) bool {
	k, all := f.Kernel(), filter.AnyKernel()
	return k.Exact && k.Kinds == all.Kinds && k.ReasonMask == all.ReasonMask && k.CauseMask == all.CauseMask
}

// open tries the backends in turn, best first, and waits where that helps.
func open(ctx context.Context, waiting func(), o probe.Options) (src Source, refused, err error) {
	waited := false
	for {
		src, refused, err = try(o)
		if !errors.Is(err, probe.ErrNotLoaded) || waiting == nil {
			return src, refused, err
		}
		if !waited {
			if err := mayTrace(); err != nil { // nor when it is loaded
				return nil, nil, err
			}
			waited = true
			waiting()
		}
		if err := waitModule(ctx); err != nil {
			return nil, nil, fmt.Errorf("%w (%w)", probe.ErrNotLoaded, err)
		}
	}
}

// try opens the backend asked for, or the first that works and says why the
// best does not.
func try(o probe.Options) (src Source, refused, err error) {
	switch o.Backend {
	case probe.Fentry, probe.Kprobe:
		src, err = wrap(probe.Open(o))
		return src, nil, err
	case probe.Netfilter:
		src, err = wrap(OpenNetfilter(o))
		return src, nil, err
	case probe.Netlink:
		src, err = wrap(OpenNetlink(o))
		return src, nil, err
	case "", probe.Auto:
		return tryAll(o)
	}
	return nil, nil, fmt.Errorf("unknown backend %q: auto, fentry, kprobe, netfilter or netlink", o.Backend)
}

func tryAll(o probe.Options) (src Source, refused, err error) {
	src, err = wrap(probe.Open(o))
	if err == nil || !errors.Is(err, probe.ErrNotPossible) {
		return src, nil, err
	}
	for _, next := range []func(probe.Options) (*Fallback, error){OpenNetfilter, OpenNetlink} {
		if src, lesser := wrap(next(o)); lesser == nil {
			return src, err, nil
		}
	}
	return nil, nil, err // why the best does not work says most
}

// wrap keeps a nil pointer from becoming a Source that is not nil.
func wrap[T Source](s T, err error) (Source, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

// mayTrace says what no backend can do without.
func mayTrace() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&hdr, &caps[0]); err != nil || caps[0].Effective>>unix.CAP_NET_ADMIN&1 == 1 {
		return nil
	}
	return fmt.Errorf("%w: CAP_NET_ADMIN is missing: run as root", probe.ErrNotPossible)
}

// waitModule returns when nf_conntrack has appeared or ctx has ended.
func waitModule(ctx context.Context) error {
	t := time.NewTicker(200 * time.Millisecond)
	defer t.Stop()
	for {
		if conntrackLoaded() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}

// conntrackLoaded says whether nf_conntrack is in the kernel. Where it is not, nobody
// may ask over netlink: the kernel would load it for us.
func conntrackLoaded() bool {
	_, err := os.Stat("/proc/sys/net/netfilter/nf_conntrack_max")
	return err == nil
}

// Run delivers the events that match the filter, destroys with their lifetime.
func (p *Pipeline) Run(ctx context.Context, fn func(*event.Event) error) error {
	return p.Source.Run(ctx, func(e *event.Event) error {
		p.age(e)
		if !p.cfg.Filter.Match(e) {
			return nil
		}
		return fn(e)
	})
}

// age keeps the table of live entries. The slab reuses addresses, so an entry
// is known by its address from its insert to its destroy and no longer.
func (p *Pipeline) age(e *event.Event) {
	switch {
	case e.Ptr == 0:
	case e.Kind == event.New, e.ReplyOnly:
		p.live.Insert(e.Ptr, e.Time)
	case e.Kind == event.Destroy:
		if t, ok := p.live.Remove(e.Ptr); ok && e.Time >= t {
			e.Lifetime, e.HasLifetime = e.Time.Sub(t), true
		}
	}
}

// kernelFilter is the part of a filter that programs check. New entries are
// let through wherever destroys are, for the sake of lifetimes.
func kernelFilter(f *filter.Filter) probe.Filter {
	k := f.Kernel()
	if k.Any() {
		return probe.Filter{}
	}
	if k.Kinds>>event.Destroy&1 != 0 {
		k.Kinds |= 1<<event.New | 1<<event.Note
		k.ReasonMask |= 1 << event.ClashNATReplyOnly
	}
	if k.Kinds == 0 {
		k.Kinds = 1 << 30 // nothing passes, and 0 would mean everything
	}
	return probe.Filter{On: true, Kinds: k.Kinds, Reasons: k.ReasonMask, Causes: k.CauseMask, NetNS: k.NetNS, Zone: int(k.Zone),
		Proto: k.Proto, Src: k.Src, Dst: k.Dst, SportMin: k.SportMin, SportMax: k.SportMax, DportMin: k.DportMin, DportMax: k.DportMax}
}
