// Package native measures on the machine itself what the netfilter backend and
// listeners of ctnetlink cost the traffic for a connection, in nanoseconds of CPU
// time; what the readers use on their own is not in it. Such figures hold for
// one machine and one moment: what counts is their ratio to a round without
// any tap, taken within seconds of each other. internal/lab/bench counts
// instructions instead, which never change.
//
//	go test -run '^$' -bench . -benchtime 21x ./internal/lab/bench/native
package native

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ti-mo/conntrack"
	"github.com/ti-mo/netfilter"
	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/cputime"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/probe"
)

// visit is how many connections a tap sees at a time: their destroys fit into the
// socket of our backend.
const visit = 30000

// socketBuffer is what listeners get; with the default of 208 KiB they lose
// most events, and what is lost costs less.
const socketBuffer = 64 << 20

// A tap is put on the namespace and counts what it is told until it is closed.
type tap struct {
	name string
	open func(ns *netlab.NS, told *atomic.Int64) (closeTap func() error, err error)

	insert, destroy []time.Duration // a connection, by round
	told            atomic.Int64
}

func taps() []*tap {
	return []*tap{
		{name: "none", open: func(*netlab.NS, *atomic.Int64) (func() error, error) { return func() error { return nil }, nil }},
		{name: "ctsight", open: openCtsight},
		{name: "ctnetlink", open: openListener},
		{name: "ti-mo", open: openTimo},
	}
}

// openCtsight is the product's netfilter backend, destroys by ctnetlink included.
func openCtsight(ns *netlab.NS, told *atomic.Int64) (func() error, error) {
	f, err := pipeline.OpenNetfilter(probe.Options{})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- f.Run(ctx, func(e *event.Event) error {
			if e.NetNS == ns.Inode() {
				told.Add(1)
			}
			return nil
		})
	}()
	return func() error {
		cancel()
		if err := <-done; err != nil {
			return err
		}
		return f.Close()
	}, nil
}

// openListener reads new and destroy events with our own decoder: the cheapest
// listener there is.
func openListener(ns *netlab.NS, told *atomic.Int64) (func() error, error) {
	l, err := ctnl.Listen(ctnl.NS{Inode: ns.Inode(), Path: fmt.Sprintf("/proc/self/fd/%d", ns.FD())}, ctnl.ListenConfig{Buffer: socketBuffer})
	if err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for l.Read(func(*event.Event) { told.Add(1) }) == nil {
		}
	})
	return func() error {
		for range 1000 {
			if q, err := l.Queued(); err != nil || q == 0 {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		err := l.Close()
		wg.Wait()
		return err
	}, nil
}

// openTimo is the library's own listener.
func openTimo(ns *netlab.NS, told *atomic.Int64) (func() error, error) {
	var c *conntrack.Conn
	err := ns.Do(func() (err error) {
		c, err = conntrack.Dial(nil)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := c.SetReadBuffer(socketBuffer); err != nil {
		return nil, err
	}
	events := make(chan conntrack.Event, 1024)
	if _, err := c.Listen(events, 1, []netfilter.NetlinkGroup{netfilter.GroupCTNew, netfilter.GroupCTDestroy}); err != nil {
		return nil, err
	}
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case <-events:
				told.Add(1)
			case <-stop:
				return
			}
		}
	}()
	return func() error {
		for last := int64(-1); told.Load() != last; time.Sleep(300 * time.Millisecond) {
			last = told.Load()
		}
		err := c.Close()
		time.Sleep(100 * time.Millisecond) // its worker may still hold an event
		close(stop)
		return err
	}, nil
}

// BenchmarkConnection visits every tap once a round, in an order that rotates.
// One operation is one round.
func BenchmarkConnection(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root: makes network namespaces and attaches programs")
	}
	r, err := netlab.NewRouter(netlab.Options{Name: "ctsight-native"}) // without a name the backend would not find it
	must(b, err)
	b.Cleanup(func() { must(b, r.Close()) })
	all := taps()
	b.ResetTimer()
	must(b, onThread(func() error {
		for round := range b.N {
			for i := range all {
				if err := all[(round+i)%len(all)].measure(b.Context(), r); err != nil {
					return err
				}
			}
		}
		return nil
	}))
	b.StopTimer()
	b.ReportMetric(0, "ns/op") // a round is of no interest
	table := "medians of " + fmt.Sprint(b.N) + " rounds, ratios within each round\n| tap | insert, ns | connections/s of a CPU | destroy, ns | insert / no tap | both / no tap | told |\n|---|---:|---:|---:|---:|---:|---:|\n"
	for _, t := range all {
		table += t.report(b, all[0])
	}
	if b.N > 1 { // the first round is the benchmark's own way of finding out
		b.Log(table)
	}
}

// onThread runs fn on a thread of its own, whose CPU time tells what fn used.
// Not the first thread of the process: netlab would leave it for another.
func onThread(fn func() error) error {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		defer runtime.UnlockOSThread()
		return fn()
	}
	defer runtime.UnlockOSThread() // holds the first thread until fn is done elsewhere
	done := make(chan error, 1)
	go func() { done <- onThread(fn) }()
	return <-done
}

// measure makes connections from one CPU, removes them, and notes what each took of this
// thread: packets go from the sender through the router in softirqs on top of its system
// calls, and a flush is one call.
func (t *tap) measure(ctx context.Context, r *netlab.Router) error {
	closeTap, err := t.open(r.R, &t.told)
	if err != nil {
		return fmt.Errorf("%s: %w", t.name, err)
	}
	f := netlab.Flows{Proto: event.ProtoUDP, Src: netlab.Addrs{First: netip.MustParseAddr("10.2.0.1"), N: visit / 1000}, SpreadSources: true,
		Dst: netlab.OneAddr(netlab.Sink(0)), SPorts: netlab.Ports{First: 20000, N: 1000}, DPorts: netlab.OnePort(7001)}
	c, err := ctnl.Dial(ctnl.NS{Inode: r.R.Inode(), Path: fmt.Sprintf("/proc/self/fd/%d", r.R.FD())})
	if err != nil {
		return err
	}
	defer c.Close()
	begin := cputime.Thread()
	_, err = r.SendFlows(ctx, f, netlab.SendOptions{})
	t.insert = append(t.insert, (cputime.Thread()-begin)/visit)
	if err != nil {
		return err
	}
	begin = cputime.Thread()
	err = c.Flush()
	t.destroy = append(t.destroy, (cputime.Thread()-begin)/visit)
	if err != nil {
		return err
	}
	return closeTap()
}

// report returns a row of medians; ratios are to the same round without a tap.
func (t *tap) report(b *testing.B, none *tap) string {
	insert, both := make([]float64, len(t.insert)), make([]float64, len(t.insert))
	for i := range insert {
		insert[i] = float64(t.insert[i]) / float64(none.insert[i])
		both[i] = float64(t.insert[i]+t.destroy[i]) / float64(none.insert[i]+none.destroy[i])
	}
	told := float64(t.told.Load()) / float64(2*visit*len(t.insert))
	if told < 0.9 && t.name != none.name && t.name != "ti-mo" { // work not done would count as cheap; the library's listener ends at its first ENOBUFS
		b.Errorf("%s was told %.0f %% of the events", t.name, 100*told)
	}
	b.ReportMetric(median(insert), t.name+"-insert-ratio")
	b.ReportMetric(median(both), t.name+"-ratio")
	ns := median(t.insert)
	return fmt.Sprintf("| %s | %d | %.0f | %d | %.2f | %.2f | %.0f %% |\n", t.name, ns, 1e9/float64(ns), median(t.destroy), median(insert), median(both), 100*told)
}

func median[T time.Duration | float64](x []T) T {
	x = slices.Sorted(slices.Values(x))
	return x[len(x)/2]
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
