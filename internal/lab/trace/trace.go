// Package trace is the proof: it runs the probe while a test provokes the
// kernel, and holds what was traced against what the kernel counted. For
// tests only, inside a VM of the lab.
//
//	func TestMain(m *testing.M) { os.Exit(trace.Main(m)) }
//
//	func TestTableFull(t *testing.T) {
//		r := ...                        // a netlab.Router, sysctls, rules
//		run := trace.Start(t, r.R)      // the namespaces to watch
//		truth, err := r.SendFlows(...)  // returns when R has dealt with all of it
//		run.Check()                     // all equalities, or the test fails
//		run.In(r.R).Is(t, trace.Want{New: 8, Reasons: trace.Reasons{event.TableFull: 12}})
//		run.In(r.R).AccountsFor(t, truth)
//	}
//
// Check waits until nothing moves any more and then asserts, for every
// namespace given to Start, the equalities I1 to I10 of the hook map (section
// 3) with residual 0; that as many events came out of the rings as the
// programs counted, kind by kind, reason by reason, cause by cause; and that
// no record was lost, no program skipped by the kernel, no stash full. It may
// be called several times; each call covers everything since Start.
//
// One probe serves all tests of a binary, since opening it takes seconds on
// an emulated machine: counters are read as differences, events are told
// apart by namespace. StartWith opens one of its own for a test that needs
// other options. The probe hooks what is loaded when Start is called, so load
// modules (or make the rules that do) before.
//
// What a test must do itself: wait until its packets are through. The senders
// of netlab do, Router.Drain does for the rest. What happens later, in a
// work queue of the kernel, is waited for with Run.Until.
package trace

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
)

// Modules are those whose functions the probe hooks, and that netlab's rules
// need. Those that a kernel does not have are left out.
var Modules = []string{"nf_conntrack", "nf_conntrack_netlink", "nf_nat", "nf_tables", "nft_ct", "nft_chain_nat",
	"nft_masq", "nf_conncount", "nf_synproxy_core", "nfnetlink_queue", "nft_queue", "veth"}

// Options of the probe that Start uses.
var Options = probe.Options{Audit: true, Invalid: true, RingBytes: 4 << 20, Kernel: new(probe.Kernel)}

// patience is how long Check and Until wait. An emulated machine may stop for
// seconds.
const patience = 20 * time.Second

// tracer is an open probe and everything it has told.
type tracer struct {
	p    *probe.Probe
	stop context.CancelFunc
	done chan error

	mu     sync.Mutex
	events []event.Event
}

// sharedTracer is the one that Start uses; opened by the first test that asks.
var sharedTracer = sync.OnceValues(func() (*tracer, error) {
	opened = true
	return open(Options)
})

var opened bool

// Main runs the tests of a package and closes the shared probe.
func Main(m *testing.M) int {
	code := m.Run()
	if !opened {
		return code
	}
	if tr, err := sharedTracer(); err == nil {
		if err := tr.close(); err != nil {
			fmt.Println("close the probe:", err)
			return max(code, 1)
		}
	}
	return code
}

// LoadModules loads all Modules that this kernel has.
func LoadModules() {
	for _, m := range Modules {
		_ = exec.Command("modprobe", m).Run() // built in, or not there: the hooks will tell
	}
}

func open(o probe.Options) (*tracer, error) {
	LoadModules()
	p, err := probe.Open(o)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	tr := &tracer{p: p, stop: stop, done: make(chan error, 1)}
	go func() { tr.done <- p.Run(ctx, tr.take) }()
	return tr, nil
}

// take keeps a copy of an event.
func (tr *tracer) take(e *event.Event) error {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.events = append(tr.events, *e)
	return nil
}

// close detaches, lets the reader finish and frees everything.
func (tr *tracer) close() error {
	err := tr.p.Detach()
	tr.stop()
	return errors.Join(err, <-tr.done, tr.p.Close())
}

// since returns the events of a namespace after the first n of all.
func (tr *tracer) since(n int, ns event.NetNS) []event.Event {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	var out []event.Event
	for _, e := range tr.events[n:] {
		if e.NetNS == ns {
			out = append(out, e)
		}
	}
	return out
}

func (tr *tracer) len() int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return len(tr.events)
}

// drained says whether every record has been read.
func (tr *tracer) drained() (probe.Loss, bool) {
	l := tr.p.Loss()
	return l, l.Seen == l.Delivered+l.Aggregated+l.Lost
}

// Run is one observation, from Start on.
type Run struct {
	t        testing.TB
	tr       *tracer
	first    int // events before Start
	loss     probe.Loss
	accounts []*Account
}

// Start begins to watch namespaces. It skips the test outside the VM.
func Start(t testing.TB, namespaces ...*netlab.NS) *Run {
	t.Helper()
	lab.NeedVM(t)
	tr, err := sharedTracer()
	if err != nil {
		t.Fatalf("open the probe: %v", err)
	}
	return start(t, tr, namespaces)
}

// StartWith is Start with a probe of its own, closed when the test ends.
func StartWith(t testing.TB, o probe.Options, namespaces ...*netlab.NS) *Run {
	t.Helper()
	lab.NeedVM(t)
	tr, err := open(o)
	if err != nil {
		t.Fatalf("open the probe: %v", err)
	}
	t.Cleanup(func() {
		if err := tr.close(); err != nil {
			t.Errorf("close the probe: %v", err)
		}
	})
	return start(t, tr, namespaces)
}

func start(t testing.TB, tr *tracer, namespaces []*netlab.NS) *Run {
	t.Helper()
	if err := tr.p.Rescan(); err != nil {
		t.Fatalf("attach what is missing: %v", err)
	}
	r := &Run{t: t, tr: tr}
	for _, ns := range namespaces {
		r.accounts = append(r.accounts, &Account{NS: ns})
	}
	r.settle()
	rows := r.rows()
	for i, s := range r.settle() {
		r.accounts[i].before, r.accounts[i].rowsBefore = s, rows[i]
	}
	r.first = tr.len()
	r.loss, _ = tr.drained()
	return r
}

// Probe is the probe that watches.
func (r *Run) Probe() *probe.Probe { return r.tr.p }

// In returns the account of a namespace, complete after Check.
func (r *Run) In(ns *netlab.NS) *Account {
	for _, a := range r.accounts {
		if a.NS == ns {
			return a
		}
	}
	r.t.Fatalf("namespace %d was not given to Start", ns.Inode())
	return nil
}

// Counters returns what the programs have counted in a namespace since Start.
func (r *Run) Counters(ns *netlab.NS) probe.Counters {
	return sub(r.tr.p.CountersOf(ns.Inode()), r.In(ns).before.counters)
}

// Until waits until the counters of a namespace since Start fulfil a condition.
func (r *Run) Until(ns *netlab.NS, limit time.Duration, what string, ready func(probe.Counters) bool) {
	r.t.Helper()
	for deadline := time.Now().Add(limit); !ready(r.Counters(ns)); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("after %v still not: %s", limit, what)
		}
	}
}

// Destroyed waits until n entries of a namespace have left the table since Start.
func (r *Run) Destroyed(ns *netlab.NS, n uint64) {
	r.t.Helper()
	r.Until(ns, patience, fmt.Sprintf("%d entries destroyed", n), func(c probe.Counters) bool { return destroys(&c) >= n })
}

// settle returns the state of all namespaces once it stands still and every
// record has been read.
func (r *Run) settle() []state {
	r.t.Helper()
	var last []state
	drained := false
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		before := drained // at the reading before this one
		_, drained = r.tr.drained()
		now := make([]state, len(r.accounts))
		for i, a := range r.accounts {
			var err error
			if now[i], err = r.tr.state(a.NS); err != nil {
				r.t.Fatalf("read state of namespace %d: %v", a.NS.Inode(), err)
			}
		}
		if before && drained && slices.EqualFunc(now, last, state.equal) {
			return now
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("does not come to rest: all records read %t, %+v", drained, now)
		}
		last = now
	}
}
