// Package probe sees what the kernel does to the connection tracking table: it
// chooses how to look (the backend), loads and attaches the programs of bpf/,
// drains their rings and decodes records into events. It is the only room that
// knows github.com/cilium/ebpf. What events mean together is for others.
package probe

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/ctsight/ctsight/internal/abi"
	"github.com/ctsight/ctsight/internal/event"
)

// The names of the backends.
const (
	Auto      = "auto"
	Fentry    = "fentry"
	Kprobe    = "kprobe"
	Netfilter = "netfilter"
	Netlink   = "netlink"
)

// Options of a probe. The zero value is a good default.
type Options struct {
	Backend   string // one of the names above; "" is Auto
	RingBytes int    // per CPU; 0 is 2 MiB, at most 4 MiB, a power of two
	Filter    Filter
	Invalid   bool // hook every packet to see what conntrack calls invalid
	Audit     bool // also count what equalities I1 and I9 need
	// Window is how long events wait so that those of other CPUs can be put
	// before them; 0 is 1 ms.
	Window time.Duration
	// Sums, if not nil, lets programs sum up by source what they have to tell
	// while a ring is more than three quarters full, and is given the sums by the
	// goroutine of Run. The events told meanwhile are a sample (Event.Sample).
	Sums func(*event.Sum)
	// Only, for tests and benchmarks, says which kernel functions to hook;
	// nil is all. What the rest would tell is then missing.
	Only func(symbol string) bool
	// Kernel, if not nil, is shared with other probes of this process.
	Kernel *Kernel
}

// HookStatus is one line of Report.
type HookStatus struct {
	Symbol   string
	At       string // the function hooked instead, if it is another
	Backend  string // "" when it is not attached
	Programs []string
	Err      error // what the kernel answered to the means that did not work
	Lost     string
	Core     bool
	Audit    bool // attached for checking the ledger only
	// Missed counts runs of its programs that the kernel skipped and that cost an
	// event or a detail of one, since Open.
	Missed uint64
}

// Report says what this kernel lets the probe see.
type Report struct {
	Backend             string
	Hooks               []HookStatus
	RingBytes, MapBytes uint64
	NetNSPlaces         int
	SymbolsErr          error // addresses unknown: some causes cannot be told
}

// Loss is the account of records. Seen = Delivered + Aggregated + Lost once
// the rings are drained.
type Loss struct {
	Seen       uint64 // records the programs wanted to send, after the filter
	Delivered  uint64
	Aggregated uint64 // told as part of a Sum
	Lost       uint64
	Filtered   uint64 // events the filter kept back: not in Seen
	// ByStage: ring (no room), recursion (the kernel skipped a program that
	// interrupted itself: the event is not even counted), stash (an event may
	// lack a detail).
	ByStage map[string]uint64
	Late    uint64 // delivered after a younger event
	// Covered counts runs that the kernel skipped like those of stage
	// recursion, but where another program was there to act.
	Covered uint64
}

// Probe is a set of attached programs and the reader of their rings.
type Probe struct {
	opts                 Options
	obj                  *objects
	tryFentry, tryKprobe bool

	mu      sync.Mutex // guards hooks, modules, symErr
	hooks   map[*hook]*attached
	errs    map[*hook]error
	modules map[string][2]uint64
	loads   map[string]uint64
	symErr  error
	closed  bool

	rings           []ring
	ringMem, cpuMem *shared
	cntMem, peekMem *shared
	sumMem          *shared
	untoldMem       *shared
	sums            *sums // nil without Options.Sums
	places          *places
	peekProg        *ebpf.Program
	walkProg        *ebpf.Program
	peekMu          sync.Mutex // guards peekProg, walkProg, peekMem, peekClosed
	peekClosed      bool
	wake            *waker
	jiffy           time.Duration
	delivered, late atomic.Uint64
	aggregated      atomic.Uint64
	missed          map[*hook][losesNothing + 1]uint64 // of what is detached
}

// Open loads and attaches. It returns an error that wraps ErrNotPossible when
// neither fentry nor kprobe works here; the caller then has other backends.
func Open(o Options) (*Probe, error) {
	if o.RingBytes == 0 {
		o.RingBytes = 2 << 20
	}
	if o.Window == 0 {
		o.Window = time.Millisecond
	}
	if o.Kernel == nil {
		o.Kernel = new(Kernel)
	}
	p := &Probe{opts: o, hooks: map[*hook]*attached{}, errs: map[*hook]error{}}
	switch o.Backend {
	case "", Auto:
		p.tryFentry, p.tryKprobe = true, true
	case Fentry:
		p.tryFentry = true
	case Kprobe:
		p.tryKprobe = true
	default:
		return nil, fmt.Errorf("backend %q: %w", o.Backend, ErrNotPossible)
	}
	if err := p.open(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Probe) open() error {
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("raise the memory lock limit: %w", explain(err))
	}
	var err error
	if p.obj, err = newObjects(p.opts); err != nil {
		return err
	}
	if err := p.mapMemory(); err != nil {
		return err
	}
	p.jiffy = Jiffy()
	if err := p.Rescan(); err != nil {
		return err
	}
	return p.coreAttached()
}

// mapMemory maps rings, states and counters into this process.
func (p *Probe) mapMemory() error {
	var err error
	if p.ringMem, err = mapShared(p.obj.maps["rings"], false); err != nil {
		return err
	}
	if p.cpuMem, err = mapShared(p.obj.maps["cpus"], true); err != nil {
		return err
	}
	if p.cntMem, err = mapShared(p.obj.maps["counts"], true); err != nil {
		return err
	}
	p.places = newPlaces(p.cntMem, p.obj)
	if err = p.mapSums(); err != nil {
		return err
	}
	if p.wake, err = newWaker(p.obj.maps["wake"]); err != nil {
		return err
	}
	p.rings = make([]ring, p.obj.ncpu)
	slots := p.ringMem.stride / recSize
	for i := range p.rings {
		p.rings[i] = ring{
			slots: p.ringMem.mem[i*p.ringMem.stride : (i+1)*p.ringMem.stride],
			mask:  uint64(slots - 1),
			state: (*abi.ConntrackCtCpu)(p.cpuMem.elem(i)),
		}
	}
	return nil
}

// wanted says whether the options ask for a hook.
func (p *Probe) wanted(h *hook) bool {
	if p.opts.Only != nil && !p.opts.Only(h.symbol) {
		return false
	}
	switch h.group {
	case invalid:
		return p.opts.Invalid
	case audit:
		return p.opts.Audit
	}
	return true
}

// Rescan attaches hooks that are missing, and refreshes the addresses programs
// compare with, if modules have come or gone since the last call. Cheap when
// nothing has changed.
func (p *Probe) Rescan() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	mods, loads := readModules(), moduleLoads()
	if p.modules != nil && maps.Equal(mods, p.modules) && maps.Equal(loads, p.loads) {
		return nil
	}
	p.modules, p.loads = mods, loads
	syms, types, err := p.opts.Kernel.look()
	p.symErr, p.obj.types = err, types
	if syms == nil {
		return err
	}
	kernel, _ := p.obj.types.Kernel()
	if err := p.obj.vars["ksyms"].Set(syms.ksyms(kernel)); err != nil {
		return fmt.Errorf("write kernel addresses: %w", err)
	}
	stale := p.dropStale()
	for i := range hooks {
		h := &hooks[i]
		if p.hooks[h] != nil || !p.wanted(h) {
			continue
		}
		if err == nil && syms.addr[h.symbol] == 0 && h.symbol != "kfree_skb" {
			p.errs[h] = fmt.Errorf("no symbol %s in this kernel: %w", h.symbol, os.ErrNotExist)
			continue
		}
		a, aerr := p.attach(h)
		if p.errs[h] = aerr; a != nil {
			a.module = syms.in[h.symbol]
			a.load = loads[a.module]
			p.hooks[h] = a
		}
	}
	return stale
}

// dropStale takes off the hooks of modules that were unloaded since they were
// attached. fentry does not let a module go; kprobes do, and do not come back
// with it.
func (p *Probe) dropStale() error {
	var errs []error
	for h, a := range p.hooks {
		if a.module != "" && a.load != p.loads[a.module] {
			p.noteMisses(h, a)
			errs = append(errs, a.close())
			delete(p.hooks, h)
		}
	}
	return errors.Join(errs...)
}

// coreAttached checks that the hooks that make this backend are in place.
func (p *Probe) coreAttached() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range hooks {
		h := &hooks[i]
		if h.group != core || p.hooks[h] != nil || !p.wanted(h) {
			continue
		}
		if !conntrackPresent(p.modules) {
			return ErrNotLoaded
		}
		return fmt.Errorf("hook %s: %w: %w", h.symbol, ErrNotPossible, explain(p.errs[h]))
	}
	return nil
}

// Report describes what is attached.
func (p *Probe) Report() Report {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := Report{Backend: Fentry, NetNSPlaces: p.obj.places, SymbolsErr: p.symErr}
	r.RingBytes, r.MapBytes = p.obj.bytes()
	for i := range hooks {
		h := &hooks[i]
		if !p.wanted(h) {
			continue
		}
		missed := p.missesOf(h)
		s := HookStatus{Symbol: h.symbol, Lost: h.lost, Core: h.group == core, Audit: h.group == audit, Err: p.errs[h],
			Missed: missed[losesEvent] + missed[losesDetail]}
		if a := p.hooks[h]; a != nil {
			s.Backend, s.Programs = a.backend, a.names
			if a.symbol != h.symbol {
				s.At = a.symbol
			}
			if h.group == core && a.backend == Kprobe {
				r.Backend = Kprobe
			}
		}
		r.Hooks = append(r.Hooks, s)
	}
	return r
}

// Run delivers events in the order of their time until ctx ends, then what is
// left in the rings, and returns nil. fn must not keep the event it is given.
func (p *Probe) Run(ctx context.Context, fn func(*event.Event) error) error {
	return p.run(ctx, &drain{p: p, fn: fn, evictions: map[uint32][]event.Event{}})
}

// RunBatches is Run for a consumer that is faster with many events: it gets at
// most n at a time, and at the end of each look at the rings what there is. It may
// change them. What it has not taken when it fails is lost.
func (p *Probe) RunBatches(ctx context.Context, n int, fn func([]event.Event) error) error {
	return p.run(ctx, &drain{p: p, many: fn, out: make([]event.Event, 0, n), evictions: map[uint32][]event.Event{}})
}

// scanEvery is how often a running probe looks whether modules have come or gone.
const scanEvery = time.Second

func (p *Probe) run(ctx context.Context, d *drain) error {
	defer GoFirst()()
	kicked := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { p.wake.kick(); close(kicked) })
	defer func() {
		if !stop() { // it writes to a descriptor that Close gives back
			<-kicked
		}
	}()
	defer p.places.keepTidy()()
	lastScan, every := time.Now(), scanEvery
	var idle pause
	// A rescan takes long when a module has come; the rings go on meanwhile.
	scan, scanning := make(chan error, 1), false
	defer func() {
		if scanning {
			<-scan
		}
	}()
	for ctx.Err() == nil {
		n, err := d.pass(now() - event.Ktime(p.opts.Window))
		if err != nil {
			return err
		}
		if !scanning && time.Since(lastScan) > every {
			scanning = true
			go func() { scan <- p.Rescan() }()
		}
		select {
		case err := <-scan:
			if scanning, lastScan, every = false, time.Now(), scanEvery; err != nil {
				return err
			}
			if p.coreAttached() != nil { // its module has gone and may come back any moment
				every = scanEvery / 5
			}
		default:
		}
		p.rest(&idle, n > 0)
	}
	if _, err := d.pass(now()); err != nil {
		return err
	}
	d.sweep(now(), true)
	return d.flush()
}

// Detach takes all programs off their hooks, so that no event happens any
// more; rings and counters stay readable until Close. Safe to call twice.
func (p *Probe) Detach() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	var errs []error
	for i := len(hooks) - 1; i >= 0; i-- {
		if a := p.hooks[&hooks[i]]; a != nil && !a.closed {
			p.noteMisses(&hooks[i], a)
			errs = append(errs, a.close())
		}
	}
	return errors.Join(errs...)
}

// Close detaches in reverse order and frees everything. Safe to call twice.
func (p *Probe) Close() error {
	errs := []error{p.Detach()}
	p.peekMu.Lock()
	for _, prog := range []**ebpf.Program{&p.peekProg, &p.walkProg} {
		errs = append(errs, (*prog).Close()) // nil is nothing
		*prog = nil
	}
	p.peekClosed = true
	p.peekMu.Unlock()
	p.rings = nil // Loss and Counters after this are empty, and no crash
	for _, s := range []*shared{p.ringMem, p.cpuMem, p.cntMem, p.peekMem, p.sumMem, p.untoldMem} {
		errs = append(errs, s.close())
	}
	if p.wake != nil {
		p.wake.close()
	}
	if p.obj != nil {
		errs = append(errs, p.obj.close())
	}
	return errors.Join(errs...)
}

// Loss returns the account of records so far.
func (p *Probe) Loss() Loss {
	l := Loss{Delivered: p.delivered.Load(), Aggregated: p.aggregated.Load(), Late: p.late.Load(), ByStage: map[string]uint64{}}
	var stash uint64
	for i := range p.rings {
		s := p.rings[i].state
		l.Seen += atomic.LoadUint64(&s.Seen)
		l.Lost += atomic.LoadUint64(&s.Lost)
		l.Filtered += atomic.LoadUint64(&s.Filtered)
		stash += atomic.LoadUint64(&s.StashFail)
	}
	l.ByStage["ring"] = l.Lost
	p.mu.Lock()
	defer p.mu.Unlock()
	var missed [losesNothing + 1]uint64
	for _, n := range p.missed {
		missed = plus(missed, n)
	}
	for _, a := range p.hooks {
		if !a.closed {
			missed = plus(missed, a.misses())
		}
	}
	l.ByStage["recursion"], l.Covered = missed[losesEvent], missed[losesNothing]
	l.ByStage["stash"] = stash + missed[losesDetail]
	return l
}

// noteMisses keeps what is known of a hook that is about to be taken off; it may
// be none of the table (nil).
func (p *Probe) noteMisses(h *hook, a *attached) {
	if p.missed == nil {
		p.missed = map[*hook][losesNothing + 1]uint64{}
	}
	p.missed[h] = plus(p.missed[h], a.misses())
}

// missesOf returns what a hook has missed since Open.
func (p *Probe) missesOf(h *hook) [losesNothing + 1]uint64 {
	if a := p.hooks[h]; a != nil && !a.closed {
		return plus(p.missed[h], a.misses())
	}
	return p.missed[h]
}

func plus(a, b [losesNothing + 1]uint64) [losesNothing + 1]uint64 {
	for i := range a {
		a[i] += b[i]
	}
	return a
}

// Counters are the exact counts of one network namespace since Open, summed
// over CPUs. They do not depend on the rings or the filter.
type Counters struct {
	NetNS event.NetNS // OtherNetNS: all that found no place of their own
	New   uint64      // inserted by packets
	// NewByUser counts entries made by user space or BPF; ChainByUser those
	// refused because the chain was too long.
	NewByUser, ChainByUser uint64
	ExtPost                uint64 // ext_stale after the insert
	Alloc, Free, Taken     uint64 // with Options.Audit
	// Turns counts how often a namespace with this number came or went.
	Turns           uint64
	EvictingPackets uint64 // packets that made early drop evict
	Reasons         [event.NumReasons]uint64
	Causes          [event.NumCauses]uint64
}

// OtherNetNS stands for all namespaces beyond Report.NetNSPlaces.
const OtherNetNS event.NetNS = 0xffffffff

// Counters returns the exact counts, sorted by namespace.
func (p *Probe) Counters() []Counters {
	if p.cntMem == nil || p.cntMem.mem == nil {
		return nil
	}
	sum := p.places.all()
	out := make([]Counters, 0, len(sum))
	for _, ns := range slices.Sorted(maps.Keys(sum)) {
		out = append(out, *sum[ns])
	}
	return out
}

// CountersOf returns the exact counts of one namespace.
func (p *Probe) CountersOf(ns event.NetNS) Counters {
	if p.cntMem == nil || p.cntMem.mem == nil {
		return Counters{NetNS: ns}
	}
	return p.places.of(ns)
}

// Plus adds what another namespace has counted.
func (t *Counters) Plus(o *Counters) {
	t.New += o.New
	t.NewByUser += o.NewByUser
	t.ChainByUser += o.ChainByUser
	t.ExtPost += o.ExtPost
	t.Alloc += o.Alloc
	t.Free += o.Free
	t.Taken += o.Taken
	t.Turns += o.Turns
	t.EvictingPackets += o.EvictingPackets
	for i, n := range o.Reasons {
		t.Reasons[i] += n
	}
	for i, n := range o.Causes {
		t.Causes[i] += n
	}
}

func (t *Counters) add(c *abi.ConntrackCtCount) {
	ld := func(p *uint64) uint64 { return atomic.LoadUint64(p) }
	t.New += ld(&c.New)
	t.NewByUser += ld(&c.NewUser)
	t.ChainByUser += ld(&c.ChainUser)
	t.ExtPost += ld(&c.ExtPost)
	t.Alloc += ld(&c.Alloc)
	t.Free += ld(&c.Free)
	t.Taken += ld(&c.Taken)
	t.Turns += ld(&c.Turns)
	t.EvictingPackets += ld(&c.EvictScope)
	for i := range t.Reasons {
		t.Reasons[i] += ld(&c.Reason[i])
	}
	for i := range t.Causes {
		t.Causes[i] += ld(&c.Cause[i])
	}
}
