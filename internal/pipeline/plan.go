package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/filter"
	"github.com/ctsight/ctsight/internal/plan"
	"github.com/ctsight/ctsight/internal/probe"
	"github.com/ctsight/ctsight/internal/record"
	"github.com/ctsight/ctsight/internal/record/capture"
	"github.com/ctsight/ctsight/internal/triage"
)

// Planned is what a capture has for a plan: of the kernel that it was made on what it
// tells, and the kernel's own timeouts elsewhere.
type Planned struct {
	*plan.Collector
	NetNS  event.NetNS // 0 in text
	Kernel plan.Kernel
	Object int // bytes of an entry in its slab, 0 for not known
}

// ErrNoNetNS says that text has no namespaces to choose from.
var ErrNoNetNS = errors.New("a capture in text has no network namespaces")

// PlanCapture reads a capture for a plan, or so much of its time; 0 is all of it. Of a
// recording it takes one namespace, that with most connections when ns is 0.
func PlanCapture(ctx context.Context, in Capture, ns event.NetNS, limit time.Duration) (Planned, error) {
	switch in := in.(type) {
	case text:
		if ns != 0 {
			in.Close()
			return Planned{}, ErrNoNetNS
		}
		c, err := planText(ctx, in.Lines, limit)
		return Planned{Collector: c, Kernel: plan.Kernel{Timeouts: plan.DefaultTimeouts()}}, err
	case recording:
		defer in.Close()
		return planRecording(ctx, in.r, ns, limit)
	}
	in.Close()
	return Planned{}, fmt.Errorf("capture of an unknown kind: %T", in)
}

func planText(ctx context.Context, in Lines, limit time.Duration) (*plan.Collector, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	blocks, done := readAhead(ctx, in)
	c := plan.NewCollector(0, true)
	var first, last event.Ktime
	end := func(err error) (*plan.Collector, error) {
		c.Close(last)
		return c, err
	}
	for {
		select {
		case <-ctx.Done():
			return end(nil)
		case b := <-blocks:
			for i := range b.lines {
				l := &b.lines[i]
				if first == 0 {
					c, first = plan.NewCollector(l.Time, true), l.Time
				}
				if limit > 0 && l.Time.Sub(first) >= limit {
					last = first + event.Ktime(limit)
					return end(nil)
				}
				last = l.Time
				if err := planLine(c, l); err != nil {
					return end(err)
				}
			}
			switch {
			case errors.Is(b.err, io.EOF):
				return end(nil)
			case b.err != nil:
				return end(b.err)
			}
			done <- b.lines[:0]
		}
	}
}

func planLine(c *plan.Collector, l *line) error {
	if l.what == record.Replied || l.what == record.Assured {
		c.Assured(&l.Event)
		return nil
	}
	return c.Add(&l.Event)
}

// recorded is a recording that is read for a plan.
type recorded struct {
	from, to event.Ktime
	limit    time.Duration
	only     event.NetNS
	nets     map[event.NetNS]*plan.Collector
	max      map[event.NetNS]uint64
	counted  bool // what the kernel counts is what is recorded
}

// seedsWithin is how long after its beginning a recording tells what was in the tables.
const seedsWithin = time.Minute

func planRecording(ctx context.Context, in capture.Source, ns event.NetNS, limit time.Duration) (Planned, error) {
	start := event.Ktime(in.About().Start)
	r := recorded{from: start, to: start, limit: limit, only: ns, nets: map[event.NetNS]*plan.Collector{}, max: map[event.NetNS]uint64{}}
	f, err := filter.Parse(in.About().Filter, filter.Options{})
	r.counted = err == nil && !slices.ContainsFunc(f.Fields(), func(of string) bool { return of != "netns" })
	switch err := eachItem(ctx, in, r.take); {
	case errors.Is(err, errEnough):
		r.to = start + event.Ktime(limit)
	case err != nil:
		return Planned{}, err
	}
	netlink := in.About().Backend == probe.Netfilter || in.About().Backend == probe.Netlink
	for n, c := range r.nets {
		if c.Close(r.to); netlink {
			c.Mute()
		}
		if best := r.nets[ns]; best == nil || c.Len() > best.Len() || c.Len() == best.Len() && n < ns {
			ns = n
		}
	}
	h := in.About()
	sysctls := sysctlsIn(h, ns)
	p := Planned{Collector: r.nets[ns], NetNS: ns, Object: h.EntryBytes, Kernel: plan.Kernel{
		Max: r.max[ns], Buckets: uint64(sysctls["buckets"]), HZ: h.HZ, Timeouts: plan.TimeoutsOf(sysctls), Pause: plan.PauseOf(h.Kernel)}}
	if p.Collector == nil {
		p.Collector = plan.NewCollector(r.from, false)
		p.Close(r.from)
	}
	return p, nil
}

// sysctlsIn are those of a namespace by their names after nf_conntrack_.
func sysctlsIn(h *capture.Header, ns event.NetNS) map[string]int {
	out := map[string]int{}
	for name, value := range h.Sysctls[ns.String()] {
		if _, name, ok := strings.Cut(name, "nf_conntrack_"); ok {
			if v, err := strconv.Atoi(value); err == nil {
				out[name] = v
			}
		}
	}
	return out
}

func (r *recorded) take(x *capture.Item) error {
	switch x.Kind {
	case capture.Events:
		for i := range x.Events {
			e := &x.Events[i]
			if r.limit > 0 && e.Time.Sub(r.from) >= r.limit {
				return errEnough
			}
			r.to = max(r.to, e.Time)
			if c := r.of(e); c != nil && e.Time >= r.from {
				if err := c.Add(e); err != nil {
					return err
				}
			}
		}
	case capture.Entries:
		for i := range x.Events {
			e := &x.Events[i]
			if c := r.of(e); c != nil {
				if err := c.Begin(&plan.Held{At: e.Time, Event: *e, Left: e.Timeout, Has: e.Timeout > 0}); err != nil {
					return err
				}
			}
		}
	case capture.Second:
		return r.second(x)
	}
	return nil
}

// of is the collector of an event's namespace, nil for none.
func (r *recorded) of(e *event.Event) *plan.Collector {
	if r.only != 0 && e.NetNS != r.only {
		return nil
	}
	c := r.nets[e.NetNS]
	if c == nil {
		c = plan.NewCollector(r.from, false)
		r.nets[e.NetNS] = c
	}
	return c
}

func (r *recorded) second(x *capture.Item) error {
	s, err := sectionOf[secondState](x)
	if err != nil {
		return err
	}
	for i := range s.Tables {
		t := &s.Tables[i]
		r.max[t.NetNS] = t.Max
		if c := r.nets[t.NetNS]; c != nil && t.Err == "" && r.counted {
			c.Counted(plan.Count{At: x.At, N: t.Entries})
		}
	}
	if r.limit == 0 || x.At.Sub(r.from) < r.limit {
		r.to = max(r.to, x.At)
	}
	if x.At.Sub(r.from) > seedsWithin {
		for _, c := range r.nets {
			c.Begun()
		}
	}
	return nil
}

// Plan collects the connections of a namespace until ctx ends, with what is in its
// table before and after. The rest of what it returns is what could not be read.
func (p *Pipeline) Plan(ctx context.Context, ns ctnl.NS) (c *plan.Collector, problems []error, err error) {
	from := now()
	c = plan.NewCollector(from, false)
	before := make(chan []plan.Held, 1)
	var unread error
	go func() {
		held, err := p.held(ctx, ns)
		unread = err
		before <- held
	}()
	counts := make(chan []plan.Count, 1)
	counting, enough := context.WithCancel(ctx)
	defer enough()
	go func() { counts <- countEntries(counting, ns) }()
	begin := func(held []plan.Held) error {
		for i := range held {
			if err := c.Begin(&held[i]); err != nil {
				return err
			}
		}
		c.Begun()
		return nil
	}
	add := func(e *event.Event) error {
		if e.NetNS != ns.Inode || e.Time < from {
			return nil
		}
		select {
		case held := <-before:
			before = nil
			if err := begin(held); err != nil {
				return err
			}
		default:
		}
		return c.Add(e)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err = p.Run(ctx, add)
	cancel()
	end := now()
	gone, stop := context.WithCancel(context.Background())
	stop()
	err = errors.Join(err, p.Detach(), p.Run(gone, func(e *event.Event) error {
		if e.Time > end {
			return nil
		}
		return add(e)
	}))
	if before != nil { // nothing happened since it was read
		err = errors.Join(err, begin(<-before))
	}
	if unread != nil && !errors.Is(unread, context.Canceled) && !errors.Is(unread, context.DeadlineExceeded) {
		problems = append(problems, fmt.Errorf("not known: what was in the table: %w", unread))
	}
	held, unread := p.held(context.Background(), ns)
	if unread == nil {
		c.Ending()
	}
	for i := range held {
		c.Still(&held[i])
	}
	if unread != nil {
		problems = append(problems, fmt.Errorf("not known: how long entries have left: %w", unread))
	}
	enough()
	for _, x := range <-counts {
		c.Counted(x)
	}
	c.Close(end)
	return c, problems, err
}

// countEntries asks the kernel once a second how many entries a table has, until ctx ends:
// what is missing of that tells when those went of which nobody is told. Where it cannot be
// asked that stays a guess.
func countEntries(ctx context.Context, ns ctnl.NS) (out []plan.Count) {
	conn, err := ctnl.Dial(ns)
	if err != nil {
		return nil
	}
	defer conn.Close()
	for tick := time.NewTicker(time.Second); ; {
		fill, err := conn.Fill()
		if err != nil {
			return nil
		}
		out = append(out, plan.Count{At: now(), N: uint64(fill.Count)})
		select {
		case <-ctx.Done():
			return out
		case <-tick.C:
		}
	}
}

// held reads a table: without a lock where the backend can, over netlink elsewhere.
func (p *Pipeline) held(ctx context.Context, ns ctnl.NS) (out []plan.Held, err error) {
	if w, ok := p.Source.(walker); ok {
		err = untilWhole(func() error {
			out = nil
			_, err := w.Walk(0, 0, func(q *probe.Peek) error {
				if q.NetNS == ns.Inode {
					e := event.Event{Kind: event.New, NetNS: q.NetNS, Zone: q.Zone, Orig: q.Orig, Status: q.Status, TCPState: q.TCPState}
					out = append(out, plan.Held{At: now(), Event: e, Left: q.Timeout, Has: true})
				}
				return nil
			})
			return err
		})
		if err == nil {
			return out, nil
		}
	}
	conn, err := ctnl.Dial(ns)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	out = nil
	err = conn.Dump(ctx, func(e *ctnl.Entry) error {
		x := event.Event{Kind: event.New, NetNS: ns.Inode, Zone: e.Zone, Orig: e.Orig, Reply: e.Reply, Status: e.Status, TCPState: e.TCPState}
		out = append(out, plan.Held{At: now(), Event: x, Left: e.Timeout + time.Second/2, Has: e.HasTimeout})
		return nil
	})
	return out, err
}

// kernelRelease is as uname(1) says it, "" for not known.
func kernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// hz is how many jiffies there are in a second.
func hz() int { return int(time.Second / probe.Jiffy()) }

// PlanKernel reads the limits and timeouts of a namespace.
func PlanKernel(ns ctnl.NS) (plan.Kernel, error) {
	k := plan.Kernel{Timeouts: plan.TimeoutsOf(ns.Timeouts()), HZ: hz(), Pause: plan.PauseOf(kernelRelease())}
	conn, err := ctnl.Dial(ns)
	if err != nil {
		return k, err
	}
	fill, err := conn.Fill()
	if k.Max = uint64(fill.Max); err == nil {
		k.Buckets = buckets()
	}
	return k, errors.Join(err, conn.Close())
}

// buckets is the size of the hash table, which all namespaces share; 0 where it is not
// shown.
func buckets() uint64 {
	n, _ := ctnl.ReadSysctl("nf_conntrack_buckets")
	return uint64(n)
}

// EntryMemory is what entries cost on this kernel.
func EntryMemory() triage.Memory { return triage.Memory{Object: EntrySize(), Buckets: buckets()} }

// Fullest is the namespace whose table holds most.
func Fullest() (best ctnl.NS, err error) {
	all, err := ctnl.ListNetNS()
	if err != nil {
		return best, err
	}
	var most uint32
	found := false
	for _, ns := range all {
		conn, err := ctnl.Dial(ns)
		if err != nil {
			continue
		}
		f, err := conn.Fill()
		if errors.Join(err, conn.Close()) == nil && (!found || f.Count > most) {
			best, most, found = ns, f.Count, true
		}
	}
	if !found {
		return best, errors.New("no network namespace could be read")
	}
	return best, nil
}
