package probe

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cilium/ebpf/rlimit"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/netlab"
)

// peeker is a Probe that has attached nothing and can only peek, so that this
// runs on kernels which take no function hooks.
func peeker(t testing.TB) *Probe {
	t.Helper()
	lab.NeedRoot(t)
	must(t, rlimit.RemoveMemlock())
	p := &Probe{jiffy: Jiffy()}
	var err error
	p.obj, err = newObjects(Options{Kernel: new(Kernel)})
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	return p
}

// addresses makes n entries in a router and learns where they are from the
// netfilter hooks.
func addresses(t testing.TB, r *netlab.Router, n int) []Peek {
	t.Helper()
	nf, err := OpenNetfilter(Options{}, NetNSPath{Inode: r.R.Inode(), Path: fmt.Sprintf("/proc/self/fd/%d", r.R.FD())})
	if errors.Is(err, ErrNotPossible) {
		t.Skip(err)
	}
	must(t, err)
	defer nf.Close()
	f := netlab.Flows{Proto: event.ProtoUDP, Src: netlab.OneAddr(netlab.ClientV4), Dst: netlab.OneAddr(netlab.Sink(0)),
		SPorts: netlab.Ports{First: 1024, N: n}, DPorts: netlab.OnePort(53)}
	_, err = r.SendFlows(context.Background(), f, netlab.SendOptions{})
	must(t, err)
	must(t, r.Drain())
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	var q []Peek
	must(t, nf.Run(ctx, func(e *event.Event) error {
		if e.Kind == event.New {
			q = append(q, Peek{Ptr: e.Ptr, Orig: e.Orig, Zone: e.Zone, NetNS: e.NetNS})
		}
		return nil
	}))
	if len(q) != n {
		t.Fatalf("%d entries told, want %d", len(q), n)
	}
	return q
}

// TestPeekWithoutHooks: on any kernel with BPF netfilter links, also the one
// this is developed on, peek tells what a dump tells.
func TestPeekWithoutHooks(t *testing.T) {
	p := peeker(t)
	r := nfLab(t, netlab.Options{})
	const n = 5000
	q := addresses(t, r, n)
	must(t, p.Peek(q))
	best := time.Duration(1 << 62)
	var looked time.Time // before the last look
	for range 20 {
		looked = time.Now()
		must(t, p.Peek(q))
		best = min(best, time.Since(looked))
	}
	t.Logf("%d entries in %v: %d ns per entry", n, best, best.Nanoseconds()/n)

	ns, err := ctnl.OpenNS(fmt.Sprintf("/proc/self/fd/%d", r.R.FD()))
	must(t, err)
	c, err := ctnl.Dial(ns)
	must(t, err)
	defer c.Close()
	table := map[event.Tuple]ctnl.Entry{}
	must(t, c.Dump(context.Background(), func(e *ctnl.Entry) error { table[e.Orig] = *e; return nil }))
	most := time.Since(looked) + time.Second // a dump tells whole seconds
	for _, k := range q {
		e, ok := table[k.Orig]
		if d := k.Timeout - e.Timeout; !ok || k.Result != PeekLive || k.Status != e.Status || d < -time.Second || d > most {
			t.Fatalf("%+v, netlink tells %+v (%t)", k, e, ok)
		}
	}
	must(t, c.Flush())
	must(t, p.Peek(q))
	for _, k := range q {
		if k.Result != PeekGone {
			t.Fatalf("%v is %d after a flush", k.Orig, k.Result)
		}
	}
}

// TestPeekAnywhere: no address does harm.
func TestPeekAnywhere(t *testing.T) {
	p := peeker(t)
	var q []Peek
	for shift := range 64 {
		for _, ptr := range []uint64{1 << shift, 1<<shift - 1, ^uint64(0) << shift, 0xffff888000000000 | 1<<shift, 0xffffffff81000000 ^ 1<<shift} {
			q = append(q, Peek{Ptr: ptr})
		}
	}
	must(t, p.Peek(q))
	faults := 0
	for _, k := range q {
		if k.Result == PeekLive {
			t.Errorf("%#x is live", k.Ptr)
		}
		if k.Result == PeekFault {
			faults++
		}
	}
	t.Logf("%d of %d addresses fault", faults, len(q))
	if faults == 0 {
		t.Error("none faults")
	}
}
