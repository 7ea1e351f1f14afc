package scenario

import (
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/filter"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/plan"
)

// planned is a lab with a stream of UDP flows that nobody answers.
type planned struct {
	*testing.T
	r  *netlab.Router
	ns ctnl.NS
}

// collect records connections for a while, in which something else is done.
func (p *planned) collect(d time.Duration, during func()) *plan.Record {
	p.Helper()
	k, err := pipeline.PlanKernel(p.ns)
	must(p, err)
	only, err := filter.Parse("netns "+p.ns.Inode.String(), filter.Options{})
	must(p, err)
	src, err := pipeline.Open(p.Context(), pipeline.Config{Filter: only})
	must(p, err)
	ctx, cancel := context.WithTimeout(p.Context(), d)
	defer cancel()
	done := make(chan struct{})
	go func() { defer close(done); during() }()
	c, problems, err := src.Plan(ctx, p.ns)
	<-done
	must(p, err)
	if loss := src.Loss(); len(problems) > 0 || loss.Lost > 0 {
		p.Errorf("%v, %+v", problems, loss)
	}
	must(p, src.Close())
	return plan.Read(c, k)
}

// entries are the kernel's own count, ten times a second.
func (p *planned) entries(d time.Duration) (mean, peak float64) {
	p.Helper()
	n := 0.0
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		c, err := p.r.R.ConntrackCount()
		must(p, err)
		mean, peak, n = mean+float64(c), max(peak, float64(c)), n+1
	}
	return mean / n, peak
}

func newPlanned(t *testing.T) *planned {
	t.Helper()
	r := router(t, netlab.Options{Name: fmt.Sprintf("plan-%d", os.Getpid())}) // where every backend finds it
	all, err := ctnl.ListNetNS()
	must(t, err)
	i := slices.IndexFunc(all, func(n ctnl.NS) bool { return n.Inode == r.R.Inode() })
	if i < 0 {
		t.Fatalf("no netns %d among %v", r.R.Inode(), all)
	}
	return &planned{T: t, r: r, ns: all[i]}
}

// stats are the kernel's counters; flush empties the table.
func (p *planned) stats() ctnl.Totals {
	p.Helper()
	c, err := trace.Dial(p.r.R)
	must(p, err)
	defer c.Close()
	all, err := c.Stats()
	must(p, err)
	return ctnl.Sum(all)
}

func (p *planned) flush() {
	p.Helper()
	c, err := trace.Dial(p.r.R)
	must(p, err)
	defer c.Close()
	must(p, c.Flush())
}

func within(t *testing.T, what string, got, want, part float64) {
	t.Helper()
	t.Logf("%s: predicted %.1f, the kernel has %.1f: %+.2f %%", what, got, want, 100*(got/want-1))
	if math.Abs(got-want) > part*want {
		t.Errorf("%s: predicted %.1f, the kernel has %.1f", what, got, want)
	}
}

// mean of a curve from a second on.
func mean(r plan.Run, from int) float64 {
	var sum float64
	for _, n := range r.Curve[from:] {
		sum += float64(n)
	}
	return sum / float64(len(r.Curve)-from)
}

// What plan predicts of another timeout is what the kernel then does, within 5 %: the
// table with 5 s is recorded, and then the timeout is 10 s. Most of what an entry stays
// longer than that is the collector's: it is modelled as it is from 5.15 on.
func TestPlanTimeout(t *testing.T) {
	if testing.Short() {
		t.Skip("long: the garbage collector of an idle machine comes once a minute")
	}
	if lab.KernelName() == "5.10" {
		t.Skip("before 5.15 the garbage collector is another one")
	}
	const rate, short, long = 400, 5, 10
	p := newPlanned(t)
	sysctl(t, p.r, "nf_conntrack_udp_timeout", short)
	ctx, stop := context.WithCancel(t.Context())
	sent := make(chan error, 1)
	go func() {
		f := netlab.Flows{Proto: event.ProtoUDP, Src: netlab.Addrs{First: netlab.ClientV4, N: 1}, Dst: netlab.Addrs{First: netlab.Sink(0), N: 4},
			SPorts: netlab.Ports{First: 1024, N: 60000}, DPorts: netlab.OnePort(53)}
		_, err := p.r.SendFlows(ctx, f, netlab.SendOptions{Rate: rate})
		sent <- err
	}()
	defer func() { stop(); <-sent }()

	time.Sleep(75 * time.Second) // the collector has come, and comes more often now
	var now, high float64
	rec := p.collect(60*time.Second, func() { now, high = p.entries(60 * time.Second) })
	today := rec.Simulate(plan.WhatIf{})
	within(t, "measured, mean", today.Mean, now, 0.03)
	within(t, "measured, at most", float64(today.Peak), high, 0.05)
	if rec.Early > 0 || rec.Lagless {
		t.Errorf("%d timed out early; lagless %v", rec.Early, rec.Lagless)
	}
	then := rec.Simulate(plan.WhatIf{Timeouts: []plan.Change{{Timer: plan.UDP, To: long * time.Second}}})

	sysctl(t, p.r, "nf_conntrack_udp_timeout", long)
	time.Sleep(40 * time.Second)
	got, most := p.entries(60 * time.Second)
	within(t, "udp=10s, mean", mean(then, 25), got, 0.05)
	t.Logf("at most: predicted %d, the kernel has %.0f", then.Peak, most)
}

// And of another limit: what comes is recorded with room for all of it, and then sent
// once more where there is not. Assured connections stay; of the rest early drop takes
// what is in its eight buckets.
func TestPlanMax(t *testing.T) {
	const most, buckets, assuredN, flows, span = 1500, 512, 900, 3000, 25 * time.Second
	p := newPlanned(t)
	limit(t, p.r, 20_000, buckets)
	create(t, p.r, assuredN)
	// offer sends the flows, and counts entries meanwhile and a little longer.
	offer := func() float64 {
		sent := make(chan error, 1)
		go func() {
			_, err := p.r.SendFlows(t.Context(), udp(flows), netlab.SendOptions{Rate: 150})
			sent <- err
		}()
		mean, _ := p.entries(span)
		must(t, <-sent)
		return mean
	}
	rec := p.collect(span+5*time.Second, func() { time.Sleep(2 * time.Second); offer() })
	today := rec.Simulate(plan.WhatIf{})
	if today.Peak != assuredN+flows {
		t.Errorf("recorded %d at most, want %d", today.Peak, assuredN+flows)
	}
	then := rec.Simulate(plan.WhatIf{Max: most})
	t.Logf("predicted: %d evicted, %d by the collector, %d refused, peak %d", then.Evicted, then.EvictedGC, then.Drops, then.Peak)

	p.flush()
	limit(t, p.r, most, buckets)
	create(t, p.r, assuredN)
	before := p.stats()
	got := offer()
	now := p.stats()
	first := 2 // when the first came
	within(t, "max=1500, mean", mean(plan.Run{Curve: then.Curve[:first+int(span/time.Second)]}, first), got, 0.05)
	end, err := p.r.R.ConntrackCount()
	must(t, err)
	within(t, "max=1500, at the end", float64(then.Curve[len(then.Curve)-1]), float64(end), 0.05)
	evicted, refused := now.N[ctnl.StatEarlyDrop]-before.N[ctnl.StatEarlyDrop], now.N[ctnl.StatDrop]-before.N[ctnl.StatDrop]
	t.Logf("the kernel: %d evicted, %d refused", evicted, refused)
	within(t, "max=1500, evicted", float64(then.Evicted), float64(evicted), 0.10)
}
