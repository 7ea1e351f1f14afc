// Package capacity holds what ctsight plan predicts against what the kernel then does: the
// entries in its table, by its own count. Nearly all of a test is waiting for the garbage
// collector.
package capacity

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
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
	"github.com/ctsight/ctsight/internal/probe"
	"github.com/ctsight/ctsight/internal/triage"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// planned is a lab whose router is planned for.
type planned struct {
	*testing.T
	r  *netlab.Router
	ns ctnl.NS
}

func newPlanned(t *testing.T) *planned {
	t.Helper()
	lab.NeedVM(t)
	if testing.Short() {
		t.Skip("long: the garbage collector of an idle machine comes once a minute")
	}
	trace.LoadModules()                                                                   // the sysctls of conntrack are there with its module only
	r, err := netlab.NewRouter(netlab.Options{Name: fmt.Sprintf("plan-%d", os.Getpid())}) // where every backend finds it
	must(t, err)
	t.Cleanup(func() { must(t, r.Close()) })
	all, err := ctnl.ListNetNS()
	must(t, err)
	i := slices.IndexFunc(all, func(n ctnl.NS) bool { return n.Inode == r.R.Inode() })
	if i < 0 {
		t.Fatalf("no netns %d among %v", r.R.Inode(), all)
	}
	return &planned{T: t, r: r, ns: all[i]}
}

// timeout is that of UDP which nobody answers, in seconds.
func (p *planned) timeout(s int) {
	p.Helper()
	must(p, p.r.SetSysctl(p.r.R, "net.netfilter.nf_conntrack_udp_timeout", strconv.Itoa(s)))
}

// limit is that of the table, for the whole machine, and the number of its buckets.
func (p *planned) limit(most, buckets int) {
	p.Helper()
	must(p, p.r.SetSysctl(nil, "net.netfilter.nf_conntrack_max", strconv.Itoa(most)))
	must(p, p.r.SetSysctl(nil, "net.netfilter.nf_conntrack_buckets", strconv.Itoa(buckets)))
}

// send sends flows of one packet that nobody answers: so many to each of some servers.
func (p *planned) send(ctx context.Context, n, servers int, rate float64) {
	f := netlab.Flows{Proto: event.ProtoUDP, Src: netlab.OneAddr(netlab.ClientV4), Dst: netlab.Addrs{First: netlab.Sink(0), N: servers},
		SPorts: netlab.Ports{First: 1024, N: n}, DPorts: netlab.OnePort(53)}
	if _, err := p.r.SendFlows(ctx, f, netlab.SendOptions{Rate: rate}); err != nil && ctx.Err() == nil {
		p.Error(err)
	}
}

// stream sends them until the test ends.
func (p *planned) stream(rate float64) {
	ctx, stop := context.WithCancel(p.Context())
	var sending sync.WaitGroup
	sending.Go(func() { p.send(ctx, 60_000, 4, rate) })
	p.Cleanup(func() { stop(); sending.Wait() })
}

// collect records connections for a while by each of the backends, in which something else
// is done.
func (p *planned) collect(d time.Duration, during func(), backends ...string) []*plan.Record {
	p.Helper()
	k, err := pipeline.PlanKernel(p.ns)
	must(p, err)
	only, err := filter.Parse("netns "+p.ns.Inode.String(), filter.Options{})
	must(p, err)
	sources := make([]*pipeline.Pipeline, len(backends))
	for i, b := range backends {
		sources[i], err = pipeline.Open(p.Context(), pipeline.Config{Filter: only, Backend: b})
		must(p, err)
	}
	ctx, cancel := context.WithTimeout(p.Context(), d)
	defer cancel()
	recs := make([]*plan.Record, len(backends))
	var all sync.WaitGroup
	for i, src := range sources {
		all.Go(func() {
			c, problems, err := src.Plan(ctx, p.ns)
			if loss := src.Loss(); err != nil || len(problems) > 0 || loss.Lost > 0 {
				p.Errorf("%s: %v, %v, %+v", backends[i], err, problems, loss)
				return
			}
			recs[i] = plan.Read(c, k)
		})
	}
	during()
	all.Wait()
	for _, src := range sources {
		must(p, src.Close())
	}
	if p.Failed() {
		p.FailNow()
	}
	return recs
}

// recording begins ctsight record for so long, and returns what ctsight plan makes of it
// then.
func (p *planned) recording(d time.Duration) func(whatIf ...string) *prediction {
	p.Helper()
	file := filepath.Join(p.TempDir(), "plan.ctsight")
	var stderr bytes.Buffer
	record := exec.CommandContext(p.Context(), "ctsight", "record", "-o", file, "--netns", p.ns.Inode.String(), "--for", d.String())
	record.Stderr = &stderr
	must(p, record.Start())
	ended := make(chan error, 1)
	go func() { ended <- record.Wait() }()
	p.Cleanup(func() { record.Process.Kill() })
	return func(whatIf ...string) *prediction {
		p.Helper()
		if err := <-ended; err != nil {
			p.Fatalf("%v: %s", err, stderr.String())
		}
		out, err := exec.CommandContext(p.Context(), "ctsight", append([]string{"plan", file, "-o", "json"}, whatIf...)...).Output()
		must(p, err)
		doc := &prediction{}
		must(p, json.Unmarshal(out, doc))
		return doc
	}
}

// prediction is what the tests ask of plan -o json.
type prediction struct {
	Today, Then struct {
		Mean      float64  `json:"entries_mean"`
		EarlyDrop uint64   `json:"early_drop"`
		Entries   []uint32 `json:"entries"`
	}
	WhatIf struct {
		Settles float64 `json:"settles_at"`
	} `json:"what_if"`
}

// entries are the kernel's own count, ten times a second.
func (p *planned) entries(d time.Duration) (curve []uint32) {
	p.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		c, err := p.r.R.ConntrackCount()
		must(p, err)
		curve = append(curve, uint32(c))
	}
	return curve
}

// conn talks to a namespace's table.
func (p *planned) conn(ns *netlab.NS) *ctnl.Conn {
	p.Helper()
	c, err := trace.Dial(ns)
	must(p, err)
	p.Cleanup(func() { c.Close() })
	return c
}

// create makes entries that are answered and assured, so that early drop spares them.
func (p *planned) create(ns *netlab.NS, n int, timeout time.Duration) {
	p.Helper()
	c := p.conn(ns)
	for i := range n {
		o := event.Tuple{Src: netip.MustParseAddr("192.0.2.1"), Dst: netlab.Sink(0), Sport: uint16(1024 + i), Dport: 9, Proto: event.ProtoUDP}
		must(p, c.Create(&ctnl.Entry{Orig: o, Reply: o.Inverse(), Status: event.SeenReply | event.Assured, Timeout: timeout}))
	}
}

func within(t *testing.T, what string, got, want, part float64) {
	t.Helper()
	t.Logf("%s: predicted %.1f, the kernel has %.1f: %+.2f %%", what, got, want, 100*(got/want-1))
	if math.Abs(got-want) > part*want {
		t.Errorf("%s: predicted %.1f, the kernel has %.1f", what, got, want)
	}
}

// mean is that of a curve.
func mean(curve []uint32) float64 {
	var sum float64
	for _, n := range curve {
		sum += float64(n)
	}
	return sum / float64(len(curve))
}

// cycles is the part of a curve from the first visit of the collector to the last: where
// parts of a cycle are left over, the mean says when somebody looked.
func cycles(curve []uint32) []uint32 {
	var visits []int
	for i := 1; i < len(curve); i++ {
		if float64(curve[i]) < .8*float64(curve[i-1]) {
			visits = append(visits, i)
		}
	}
	if len(visits) < 2 {
		return curve
	}
	return curve[visits[0]:visits[len(visits)-1]]
}

// What plan predicts of another timeout is what the kernel then does, within 5 %: the table
// with one of 5 s is recorded, and then it is another. Most of what an entry stays longer
// than its timeout is the collector's, which goes by the entries of all namespaces. Live, of
// a recording, and what the backend that does not know who removes entries has measured.
// Nothing of it depends on the kernel but that the collector comes every two minutes before
// 5.15: each runs some.
func TestPlanTimeout(t *testing.T) {
	const short = 5
	for _, c := range []struct {
		rate    float64 // of flows a second
		long    int     // seconds
		others  int     // entries of another namespace that live long
		kernels []string
		// warm is until the collector comes as it will, span is looked at, settled of it
		// until the new timeout is at work.
		warm, span, settled time.Duration
	}{
		{400, 10, 0, []string{"6.1", "6.12", "newest"}, 75 * time.Second, 90 * time.Second, 35 * time.Second},
		{100, 10, 30, []string{"newest"}, 75 * time.Second, 90 * time.Second, 45 * time.Second},
		{4, 15, 0, []string{"6.12"}, 70 * time.Second, 130 * time.Second, 65 * time.Second},
		{4, 15, 60, []string{"6.1"}, 70 * time.Second, 130 * time.Second, 65 * time.Second},
		{4, 15, 60, []string{"5.10"}, 70 * time.Second, 250 * time.Second, 130 * time.Second},
	} {
		t.Run(fmt.Sprintf("%g a second beside %d", c.rate, c.others), func(t *testing.T) {
			if lab.NeedVM(t); !slices.Contains(c.kernels, lab.KernelName()) {
				t.Skip("waits for minutes, and nothing else in it depends on the kernel: runs on " + c.kernels[0])
			}
			p := newPlanned(t)
			ns, err := netlab.NewNS()
			must(t, err)
			t.Cleanup(func() { must(t, ns.Close()) })
			p.create(ns, c.others, time.Hour)
			p.timeout(short)
			p.stream(c.rate)
			time.Sleep(c.warm)
			backends := []string{"", probe.Netlink}
			ofRecording := p.recording(c.span)
			var during []uint32
			recs := p.collect(c.span, func() { during = p.entries(c.span) }, backends...)
			now, high := mean(during), float64(slices.Max(during))
			x := ofRecording("--timeout", fmt.Sprintf("udp=%ds", c.long))
			p.timeout(c.long)
			time.Sleep(c.settled)
			after := p.entries(c.span)
			got, settled := mean(cycles(after)), int(c.settled/time.Second)
			within(t, "recording, measured, mean", x.Today.Mean, now, 0.10) // of other seconds
			within(t, "recording, then, mean", mean(cycles(x.Then.Entries[settled:])), got, 0.05)
			within(t, "recording, then, settles at", x.WhatIf.Settles, got, 0.08)
			for i, b := range backends {
				today := recs[i].Simulate(plan.WhatIf{})
				same := 1.0
				if b == probe.Netlink { // it sees neither the first entries go nor who removes any
					same = 3
				}
				within(t, b+" measured, mean", today.Mean, now, 0.03*same)
				within(t, b+" measured, at most", float64(today.Peak), high, 0.05*same)
				if recs[i].Early > 0 || recs[i].Lagless {
					t.Errorf("%d timed out early; lagless %v", recs[i].Early, recs[i].Lagless)
				}
				d, err := plan.Make(recs[i], plan.WhatIf{Timeouts: []plan.Change{{Timer: plan.UDP, To: time.Duration(c.long) * time.Second}}}, triage.Memory{})
				must(t, err)
				if b == probe.Netlink { // docs/plan.md says how far off it may be
					t.Logf("%s then: %.1f, the kernel has %.1f", b, d.Then.Mean, got)
					continue
				}
				within(t, b+" then, mean", mean(cycles(d.Then.Curve[settled:])), got, 0.05)
				within(t, b+" then, settles at", d.Settles, got, 0.08)
				t.Logf("at most: predicted %d, the kernel has %d", d.Then.Peak, slices.Max(after))
			}
		})
	}
}

// And of another limit: what comes is recorded with room for all of it, and then sent once
// more where there is not. Assured connections stay; of the rest early drop takes what is
// in its eight buckets.
func TestPlanMax(t *testing.T) {
	const most, buckets, assured, flows, span = 1500, 512, 900, 3000, 25 * time.Second
	p := newPlanned(t)
	p.timeout(600)
	p.limit(20_000, buckets)
	p.create(p.r.R, assured, 600*time.Second)
	// offer sends the flows, and counts entries meanwhile and a little longer.
	offer := func() float64 {
		var sending sync.WaitGroup
		sending.Go(func() { p.send(p.Context(), flows, 1, 150) })
		m := mean(p.entries(span))
		sending.Wait()
		return m
	}
	ofRecording := p.recording(span + 5*time.Second)
	rec := p.collect(span+5*time.Second, func() { time.Sleep(2 * time.Second); offer() }, "")[0]
	x := ofRecording("--max", strconv.Itoa(most))
	today := rec.Simulate(plan.WhatIf{})
	if today.Peak != assured+flows {
		t.Errorf("recorded %d at most, want %d", today.Peak, assured+flows)
	}
	then := rec.Simulate(plan.WhatIf{Max: most})
	t.Logf("predicted: %d evicted, %d by the collector, %d refused, peak %d", then.Evicted, then.EvictedGC, then.Drops, then.Peak)

	stats := func() ctnl.Totals {
		all, err := p.conn(p.r.R).Stats()
		must(t, err)
		return ctnl.Sum(all)
	}
	must(t, p.conn(p.r.R).Flush())
	p.limit(most, buckets)
	p.create(p.r.R, assured, 600*time.Second)
	before := stats()
	got := offer()
	now := stats()
	first := 2 // when the first came
	within(t, "max=1500, mean", mean(then.Curve[first:first+int(span/time.Second)]), got, 0.05)
	end, err := p.r.R.ConntrackCount()
	must(t, err)
	within(t, "recording, max=1500, mean", mean(x.Then.Entries[first:first+int(span/time.Second)]), got, 0.05)
	within(t, "max=1500, at the end", float64(then.Curve[len(then.Curve)-1]), float64(end), 0.05)
	evicted, refused := now.N[ctnl.StatEarlyDrop]-before.N[ctnl.StatEarlyDrop], now.N[ctnl.StatDrop]-before.N[ctnl.StatDrop]
	t.Logf("the kernel: %d evicted, %d refused", evicted, refused)
	within(t, "max=1500, evicted", float64(then.Evicted), float64(evicted), 0.10)
	within(t, "recording, max=1500, evicted", float64(x.Then.EarlyDrop), float64(evicted), 0.10)
}
