package probe_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
)

// patience is how long to wait for what must happen: an emulated machine may
// stop for seconds.
const patience = time.Minute

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// needed are the modules whose functions are hooked, and those of the rules
// that the tests make.
var needed = []string{"nf_conntrack", "nf_conntrack_netlink", "nf_nat", "nf_tables", "nft_ct", "nft_chain_nat", "nft_masq", "nf_conncount", "veth"}

func loadModules() {
	for _, m := range needed {
		_ = exec.Command("modprobe", m).Run() // built in, or not there: the hooks will tell
	}
}

// router builds a lab with conntrack in the router, for tests in the VM.
func router(t *testing.T) *netlab.Router {
	t.Helper()
	lab.NeedVM(t)
	loadModules()
	r, err := netlab.NewRouter(netlab.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, r.Close()) })
	limit(t, r, 1<<20)
	return r
}

// limit sets nf_conntrack_max of the machine until the lab closes.
func limit(t *testing.T, r *netlab.Router, most int) {
	t.Helper()
	must(t, r.SetSysctl(nil, "net.netfilter.nf_conntrack_max", strconv.Itoa(most)))
}

// kernel is shared by all probes: an emulated machine reads long at it.
var kernel probe.Kernel

// open opens a probe that is closed when the test ends.
func open(t testing.TB, o probe.Options) *probe.Probe {
	t.Helper()
	lab.NeedVM(t)
	loadModules()
	o.Kernel = &kernel
	p, err := probe.Open(o)
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	return p
}

// tracer is a probe that is read, and what it has told.
type tracer struct {
	*probe.Probe
	t    testing.TB
	stop func()

	mu     sync.Mutex
	events []event.Event
}

// trace opens a probe and reads it until the test ends.
func trace(t testing.TB, o probe.Options) *tracer {
	t.Helper()
	return read(t, open(t, o))
}

// read reads a probe until stop is called or the test ends.
func read(t testing.TB, p *probe.Probe) *tracer {
	t.Helper()
	tr := &tracer{Probe: p, t: t}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, tr.take) }()
	tr.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(tr.stop)
	return tr
}

// makeRoom makes room for n events, so that their reader is not held up by
// copying tens of megabytes when it runs out: under load an emulated machine
// took two seconds for that, and the rings overflowed.
func (tr *tracer) makeRoom(n int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	room := make([]event.Event, len(tr.events)+n)
	clear(room) // writes to the memory, so that it is there
	tr.events = room[:copy(room, tr.events)]
}

func (tr *tracer) take(e *event.Event) error {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.events = append(tr.events, *e)
	return nil
}

// told returns the events of a namespace.
func (tr *tracer) told(ns *netlab.NS) []event.Event {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	var out []event.Event
	for _, e := range tr.events {
		if e.NetNS == ns.Inode() {
			out = append(out, e)
		}
	}
	return out
}

// count counts the events of a namespace that fulfil a condition.
func (tr *tracer) count(ns *netlab.NS, want func(*event.Event) bool) (n uint64) {
	for _, e := range tr.told(ns) {
		if want(&e) {
			n++
		}
	}
	return n
}

// settle waits until everything that the programs have written is read.
func (tr *tracer) settle() probe.Loss {
	tr.t.Helper()
	var l probe.Loss
	wait(tr.t, "all records read", func() bool {
		l = tr.Loss()
		return l.Seen == l.Delivered+l.Aggregated+l.Lost
	})
	time.Sleep(150 * time.Millisecond) // evictions wait for their culprit
	return l
}

// countersOf are the exact counts of a namespace.
func countersOf(p interface {
	CountersOf(event.NetNS) probe.Counters
}, ns *netlab.NS) probe.Counters {
	return p.CountersOf(ns.Inode())
}

func destroyed(c probe.Counters) (n uint64) {
	for _, x := range c.Causes {
		n += x
	}
	return n
}

// wait waits until a condition holds.
func wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if !within(patience, ok) {
		t.Fatalf("after %v still not: %s", patience, what)
	}
}

func within(d time.Duration, ok func() bool) bool {
	for end := time.Now().Add(d); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// dial opens ctnetlink in a namespace of the lab.
func dial(t testing.TB, ns *netlab.NS) *ctnl.Conn {
	t.Helper()
	n, err := ctnl.OpenNS(fmt.Sprintf("/proc/self/fd/%d", ns.FD()))
	must(t, err)
	c, err := ctnl.Dial(n)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// send sends one packet of each flow and waits until the router has had them.
func send(t testing.TB, r *netlab.Router, f netlab.Flows) *netlab.Truth {
	t.Helper()
	truth, err := r.SendFlows(context.Background(), f, netlab.SendOptions{})
	must(t, err)
	must(t, r.Drain())
	return truth
}

// flows are UDP flows from a client address to where nobody answers.
func flows(src netlab.Addrs, ports int, dst int) netlab.Flows {
	return netlab.Flows{Proto: event.ProtoUDP, Src: src, Dst: netlab.OneAddr(netlab.Sink(dst)), SPorts: netlab.Ports{First: 1024, N: ports}, DPorts: netlab.OnePort(53)}
}

// one is the client's own address.
var one = netlab.OneAddr(netlab.ClientV4)

// flush empties the router's table.
func flush(t testing.TB, c *ctnl.Conn) {
	t.Helper()
	for {
		err := c.Flush()
		if !errors.Is(err, ctnl.ErrTimeout) {
			must(t, err)
			return
		}
	}
}

func ignore(*event.Event) error { return nil }
