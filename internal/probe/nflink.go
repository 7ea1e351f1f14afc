package probe

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"

	"github.com/ctsight/ctsight/internal/abi"
	"github.com/ctsight/ctsight/internal/event"
)

// NFProbe is the backend for kernels that take no function hooks: programs at
// netfilter's own hooks in each network namespace (BPF netfilter links, 6.4),
// and one where packets are freed. It sees new entries and losses exactly, with
// coarser reasons; destroys it does not see.
//
// What is known only after the fact is told late: an entry counts as new when
// its packet is about to be inserted, and a loss right after that takes it back.
// Events therefore wait for Options.Window, 10 ms by default.
type NFProbe struct {
	p     *Probe // rings, counters, loss; its hook table is not used
	progs map[string]*ebpf.Program
	kfree *attached

	mu      sync.Mutex // guards what follows
	nets    map[event.NetNS]*nfNet
	modules map[string][2]uint64
	symErr  error
	closed  bool

	hold *hold
	upTo atomic.Int64
}

// NetNSPath names a network namespace: a path that leads to it, and the inode
// that it must have.
type NetNSPath struct {
	Inode event.NetNS
	Path  string
}

// NetNSLinks says what is attached in one network namespace.
type NetNSLinks struct {
	NetNS event.NetNS
	Links int
	// Shifted lists the places where the priority wanted was taken and the
	// next one out was used: between the two another BPF program sits.
	Shifted []string
	Err     error // what is missing, nil for nothing
}

// OpenNetfilter loads the programs and attaches them in the given namespaces.
// It returns an error that wraps ErrNotPossible when this kernel has no BPF
// netfilter links or no kfree_skb tracepoint for BPF.
func OpenNetfilter(o Options, namespaces ...NetNSPath) (*NFProbe, error) {
	if o.RingBytes == 0 {
		o.RingBytes = 2 << 20
	}
	if o.Window == 0 {
		o.Window = 10 * time.Millisecond
	}
	if o.Kernel == nil {
		o.Kernel = new(Kernel)
	}
	o.Sums = nil // these programs have none
	n := &NFProbe{
		p:     &Probe{opts: o, hooks: map[*hook]*attached{}, jiffy: Jiffy()},
		progs: map[string]*ebpf.Program{},
		nets:  map[event.NetNS]*nfNet{},
		hold:  newHold(!o.Filter.On || o.Filter.Kinds == 0 || o.Filter.Kinds>>event.New&1 != 0),
	}
	err := n.open()
	for _, ns := range namespaces {
		if err == nil {
			err = n.AttachNetNS(ns.Path, ns.Inode)
		}
	}
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *NFProbe) open() error {
	if !conntrackPresent(readModules()) {
		return ErrNotLoaded // the programs need its types
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("raise the memory lock limit: %w", explain(err))
	}
	if err := features.HaveProgramType(ebpf.Netfilter); errors.Is(err, ebpf.ErrNotSupported) {
		return fmt.Errorf("this kernel has no BPF netfilter links (Linux 6.4): %w: %w", ErrNotPossible, err)
	}
	var err error
	if n.p.obj, err = newNFObjects(n.p.opts, n.p.jiffy); err != nil {
		return err
	}
	if err := n.p.mapMemory(); err != nil {
		return err
	}
	if err := n.refresh(); err != nil {
		return err
	}
	for _, name := range []string{nfLast, nfPost, nfPre} {
		if n.progs[name], err = n.p.obj.program(name, false); err != nil {
			return fmt.Errorf("program %s: %w: %w", name, ErrNotPossible, explain(short(err)))
		}
	}
	return n.attachKfree()
}

// nfKfree is the one hook that is not a netfilter link.
var nfKfree = hook{symbol: "kfree_skb", group: core, entry: "nf_kfree", lost: "all losses, and new entries that were lost at insert count as new"}

func (n *NFProbe) attachKfree() error {
	prog, err := n.p.obj.program(nfKfree.entry, false)
	if err != nil {
		return fmt.Errorf("program %s: %w: %w", nfKfree.entry, ErrNotPossible, explain(short(err)))
	}
	n.kfree = &attached{symbol: nfKfree.symbol, first: copies{progs: []*ebpf.Program{prog}}, names: []string{nfKfree.entry}, backend: Netfilter}
	n.p.hooks[&nfKfree] = n.kfree // for its misses
	l, err := link.AttachTracing(link.TracingOptions{Program: prog})
	if err != nil {
		return fmt.Errorf("attach %s: %w: %w", nfKfree.entry, ErrNotPossible, explain(err))
	}
	n.kfree.first.links = append(n.kfree.first.links, l)
	return nil
}

// newNFObjects prepares the specification and creates the maps it uses; the
// source shares a header with programs that need more of them.
func newNFObjects(o Options, jiffy time.Duration) (*objects, error) {
	ncpu, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count processors: %w", err)
	}
	obj := &objects{ncpu: ncpu, places: 256}
	_, obj.types, _ = o.Kernel.look() // what is wrong with the symbols refresh says
	if obj.spec, err = abi.LoadNflink(); err != nil {
		return nil, fmt.Errorf("read the embedded programs: %w", err)
	}
	dropUnusedMaps(obj.spec)
	slots := ringSlots(o.RingBytes)
	obj.spec.Maps["rings"].MaxEntries = uint32(ncpu)
	obj.spec.Maps["rings"].ValueSize = slots * uint32(recSize)
	obj.spec.Maps["rings"].Value = nil // its BTF is that of one record
	obj.spec.Maps["cpus"].MaxEntries = uint32(ncpu)
	obj.spec.Maps["counts"].MaxEntries = uint32(ncpu * (obj.places + 1))
	for name, v := range map[string]any{
		"cfg_ring_slots":  slots,
		"cfg_count_slots": uint32(obj.places),
		"cfg_filter":      nfFilter(o.Filter).wire(),
		"cfg_hz":          uint32(time.Second / jiffy),
	} {
		if err := obj.spec.Variables[name].Set(v); err != nil {
			return nil, fmt.Errorf("set %s: %w", name, err)
		}
	}
	spec := obj.spec.Copy()
	spec.Programs = nil
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("create maps: %w", explain(err))
	}
	obj.maps, obj.vars = coll.Maps, coll.Variables
	return obj, nil
}

func dropUnusedMaps(spec *ebpf.CollectionSpec) {
	used := map[string]bool{}
	for _, p := range spec.Programs {
		for m := range mapsOf(p) {
			used[m] = true
		}
	}
	maps.DeleteFunc(spec.Maps, func(name string, _ *ebpf.MapSpec) bool { return !used[name] })
}

// nfFilter widens a filter to what the programs can tell: the reasons of losses
// at lookup and at insert are found out in user space.
func nfFilter(f Filter) Filter {
	const lookup = 1<<event.TableFull | 1<<event.CTNoMem | 1<<event.TCPReopenRace | 1<<event.LookupUnknown
	var insert uint64 = 1<<event.ConfirmUnknown | 1<<event.SeqAdj | 1<<event.HelperDrop
	for r := event.ClashSameFlow; r <= event.ExtStale; r++ {
		insert |= 1 << r
	}
	if f.Reasons&lookup != 0 {
		f.Reasons |= lookup
	}
	if f.Reasons&insert != 0 {
		f.Reasons |= insert
	}
	return f
}

// refresh renews the addresses that the programs compare with, when modules
// have come or gone.
func (n *NFProbe) refresh() error {
	mods := readModules()
	if n.modules != nil && maps.Equal(mods, n.modules) {
		return nil
	}
	n.modules = mods
	syms, types, err := n.p.opts.Kernel.look()
	n.p.obj.types = types
	if n.symErr = err; syms == nil {
		return err
	}
	kernel, _ := n.p.obj.types.Kernel()
	if err := n.p.obj.vars["ksyms"].Set(syms.ksyms(kernel)); err != nil {
		return fmt.Errorf("write kernel addresses: %w", err)
	}
	return nil
}

// Run delivers events in the order of their time until ctx ends, then what is
// left in the rings, and returns nil. fn must not keep the event it is given.
func (n *NFProbe) Run(ctx context.Context, fn func(*event.Event) error) error {
	defer GoFirst()()
	kicked := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { n.p.wake.kick(); close(kicked) })
	defer func() {
		if !stop() { // it writes to a descriptor that Close gives back
			<-kicked
		}
	}()
	defer n.p.places.keepTidy()()
	var horizon event.Ktime
	d := drain{p: n.p, evictions: map[uint32][]event.Event{}, fn: func(e *event.Event) error { return n.take(e, horizon, fn) }}
	lastScan := time.Now()
	var idle pause
	for ctx.Err() == nil {
		t := now()
		horizon = t - event.Ktime(n.p.opts.Window)
		taken, err := d.pass(t - 1e6)
		if err == nil {
			err = n.deliver(horizon, fn)
		}
		if err != nil {
			return err
		}
		if time.Since(lastScan) > time.Second {
			lastScan = time.Now()
			if err := n.rescan(); err != nil {
				return err
			}
		}
		n.p.rest(&idle, taken > 0 || n.hold.waiting())
	}
	if _, err := d.pass(now()); err != nil {
		return err
	}
	return n.deliver(1<<63-1, fn)
}

// take holds an event, and makes room for it where it has to: the rings have more than
// that, and what nobody takes waits there in a third of the space.
func (n *NFProbe) take(e *event.Event, horizon event.Ktime, fn func(*event.Event) error) error {
	if n.hold.full() {
		if err := n.release(horizon, fn); err != nil {
			return err
		}
	}
	return n.hold.push(e)
}

func (n *NFProbe) deliver(horizon event.Ktime, fn func(*event.Event) error) error {
	err := n.release(horizon, fn)
	n.advance(horizon)
	return err
}

// release is deliver when there may be more before horizon in the rings.
func (n *NFProbe) release(horizon event.Ktime, fn func(*event.Event) error) error {
	return n.hold.release(horizon, func(e *event.Event) error {
		n.advance(e.Time - 1) // before fn, which may wait until UpTo has passed what it has
		return fn(e)
	})
}

func (n *NFProbe) advance(t event.Ktime) { n.upTo.Store(max(n.upTo.Load(), int64(t))) }

// UpTo returns the time up to which Run has delivered everything. It moves on
// with every event, not only with every look at the rings.
func (n *NFProbe) UpTo() event.Ktime { return event.Ktime(n.upTo.Load()) }

func (n *NFProbe) rescan() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	return n.refresh()
}

// Report describes what is attached.
func (n *NFProbe) Report() Report {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := Report{Backend: Netfilter, NetNSPlaces: n.p.obj.places, SymbolsErr: n.symErr}
	r.RingBytes, r.MapBytes = n.p.obj.bytes()
	r.Hooks = append(r.Hooks, HookStatus{Symbol: nfKfree.symbol, Backend: Netfilter, Programs: n.kfree.names, Lost: nfKfree.lost, Core: true})
	for _, family := range nfFamilies {
		for i := range nfSites {
			r.Hooks = append(r.Hooks, n.siteStatus(family, &nfSites[i]))
		}
	}
	return r
}

// siteStatus joins what happened at one place in all namespaces.
func (n *NFProbe) siteStatus(family link.NetfilterProtocolFamily, s *nfSite) HookStatus {
	h := HookStatus{Symbol: s.name(family, s.at(family)), Lost: s.lost, Core: s.program == nfLast}
	var errs []error
	for _, ns := range slices.Sorted(maps.Keys(n.nets)) {
		net := n.nets[ns]
		if net.has[nfPlace{family, s}] {
			h.Backend, h.Programs = Netfilter, []string{s.program}
		}
		if err := net.errs[nfPlace{family, s}]; err != nil {
			errs = append(errs, fmt.Errorf("netns %s: %w", ns, err))
		}
	}
	h.Err = errors.Join(errs...)
	return h
}

// Loss returns the account of records so far. Records that took each other
// back count as aggregated: they are told together, as one drop or not at all.
func (n *NFProbe) Loss() Loss {
	l := n.p.Loss()
	taken, merged, late := n.hold.counts()
	l.Aggregated = merged
	l.Delivered = taken - min(taken, merged)
	l.ByStage["late_cancel"] = late
	return l
}

// Counters returns the exact counts, sorted by namespace. New is what was
// about to be inserted less what was lost there; a packet that was merged into
// the entry of another (clash_resolve) is still in it.
func (n *NFProbe) Counters() []Counters {
	out := n.p.Counters()
	for i := range out {
		lessLost(&out[i])
	}
	return out
}

// CountersOf returns the exact counts of one namespace.
func (n *NFProbe) CountersOf(ns event.NetNS) Counters {
	c := n.p.CountersOf(ns)
	lessLost(&c)
	return c
}

func lessLost(c *Counters) {
	lost := c.Reasons[event.ConfirmUnknown] + c.Reasons[event.NATExhausted]
	c.New -= min(c.New, lost)
}

// Detach takes all programs off their hooks, so that no event happens any
// more; rings and counters stay readable until Close. Safe to call twice.
func (n *NFProbe) Detach() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	var errs []error
	for ns, net := range n.nets {
		errs = append(errs, n.forget(ns, net))
	}
	if n.kfree != nil && !n.kfree.closed {
		n.p.mu.Lock()
		n.p.noteMisses(nil, n.kfree)
		errs = append(errs, n.kfree.close())
		n.p.mu.Unlock()
	}
	return errors.Join(errs...)
}

// Close detaches and frees everything. Safe to call twice.
func (n *NFProbe) Close() error {
	errs := []error{n.Detach()}
	for name, prog := range n.progs {
		if prog != nil {
			errs = append(errs, prog.Close())
		}
		delete(n.progs, name)
	}
	return errors.Join(append(errs, n.p.Close())...)
}
