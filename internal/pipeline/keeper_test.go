package pipeline

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
)

// keep runs a Keeper until the test ends, or stop is called.
func keep(t *testing.T, cfg KeeperConfig) (k *Keeper, stop func()) {
	t.Helper()
	clock, err := NewClock()
	must(t, err)
	cfg.Problem = func(err error) { t.Errorf("problem: %v", err) }
	begun := make(chan struct{})
	cfg.Attached = func(*Pipeline) error { close(begun); return nil }
	k = NewKeeper(clock, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	select {
	case <-begun:
	case err := <-done:
		must(t, err)
	}
	ended := false
	stop = func() {
		if !ended {
			ended = true
			cancel()
			must(t, <-done)
		}
	}
	t.Cleanup(stop)
	return k, stop
}

// eventually waits until ok, and says what was not.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// liveBy sums up the live entries of sources of one namespace.
func liveBy(rows []agg.TopRow, ns event.NetNS) map[netip.Addr]uint64 {
	out := map[netip.Addr]uint64{}
	for _, r := range rows {
		if r.NetNS == ns {
			out[r.Src] += r.Live
		}
	}
	return out
}

// The whole life of a Keeper on a real kernel: what it tells of a namespace equals
// what was sent there and what the kernel has, its sums only ever grow, the past
// adds up to them, and after its end it says that it waits.
func TestKeeper(t *testing.T) {
	l := newLab(t, netlab.Options{Name: labName()})
	k, stop := keep(t, KeeperConfig{Census: agg.CensusConfig{Dims: []agg.Dim{agg.BySrc, agg.ByPrefix, agg.ByNetNS}}, Prefixes: 5})
	must(t, k.Ready())
	const sources, ports = 5, 200
	_, err := l.SendFlows(t.Context(), flows("198.51.100.1", sources, ports, netlab.Sink(0)), netlab.SendOptions{})
	must(t, err)
	must(t, l.Drain())

	var s *agg.Status
	eventually(t, "sources by live entries", func() bool {
		s = k.Status()
		return len(liveBy(s.Holders, l.R.Inode())) == sources
	})
	for src, n := range liveBy(s.Holders, l.R.Inode()) {
		if n != ports {
			t.Errorf("%v holds %d entries, made %d", src, n, ports)
		}
	}
	fill, err := conn(t, l.R).Fill()
	must(t, err)
	eventually(t, "the kernel's count", func() bool {
		for _, x := range k.Status().Tables {
			if x.NetNS == l.R.Inode() && x.Entries == uint64(fill.Count) && x.Max == uint64(fill.Max) {
				return true
			}
		}
		return false
	})
	must(t, conn(t, l.R).Flush())
	eventually(t, "the flush", func() bool { return destroyed(k.Status()) >= sources*ports })

	sum := func(rows []agg.ProtoCount) (n uint64) {
		for _, r := range rows {
			if !r.IPv6 && r.Proto == event.ProtoUDP {
				n += r.Count
			}
		}
		return n
	}
	if s = k.Status(); sum(s.New) < sources*ports {
		t.Errorf("%d new, sent %d", sum(s.New), sources*ports)
	}
	if p := k.Peaks(time.Now().Add(-time.Minute)); p.In10ms < p.In100ms || p.In100ms < p.In1s || p.In1s < 1 {
		t.Errorf("peaks %+v", p)
	}
	if s.Loss.Residual() != 0 || s.Loss.Lost != 0 {
		t.Errorf("loss %+v", s.Loss)
	}
	pastAddsUp(t, k)

	doc, err := k.Ledger(t.Context())
	must(t, err)
	rows := 0
	for _, r := range doc.Balance {
		if r.NetNS == l.R.Inode() && r.Difference != nil {
			if rows++; *r.Difference != 0 {
				t.Errorf("%v: traced %d, kernel %d", r.Counter, *r.Traced, *r.Kernel)
			}
		}
	}
	// A netfilter hook sees packets, not what the kernel's counters count.
	if rows < 4 && k.Status().Backend != probe.Netfilter {
		t.Errorf("%d counters compared: %+v", rows, doc.Balance)
	}
	for _, d := range k.Status().Difference {
		if d.Counter == agg.CounterDrop && d.Difference != 0 {
			t.Errorf("drop: difference %d", d.Difference)
		}
	}
	stop()
	if s := k.Status(); !s.Waiting || s.Backend != "" || k.Ready() == nil {
		t.Errorf("after its end: %+v", s)
	}
	if _, err := k.Top(agg.BySrc, agg.ColNew, 1); err == nil {
		t.Error("a picture of what is gone")
	}
}

func destroyed(s *agg.Status) (n uint64) {
	for _, d := range s.Destroyed {
		n += d.Count
	}
	return n
}

// pastAddsUp compares the samples with the sums.
func pastAddsUp(t *testing.T, k *Keeper) {
	t.Helper()
	eventually(t, "a sample after the last event", func() bool {
		s := k.Status()
		var past uint64
		for _, x := range s.History {
			past += x.New
		}
		return len(s.History) > 0 && past == sumNew(s.New)
	})
}

// What serve shows never goes back, whenever one looks.
func TestKeeperGrows(t *testing.T) {
	l := newLab(t, netlab.Options{Name: labName()})
	k, _ := keep(t, KeeperConfig{Census: agg.CensusConfig{Dims: []agg.Dim{agg.BySrc, agg.ByNetNS}}})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 10 {
			f := flows("198.51.100.1", 4, 250, netlab.Sink(i))
			if _, err := l.SendFlows(t.Context(), f, netlab.SendOptions{}); err != nil {
				t.Error(err)
			}
		}
	}()
	var last *agg.Status
	for looking := true; looking; {
		select {
		case <-done:
			looking = false
		default:
		}
		s := k.Status()
		if last != nil {
			grows(t, last, s)
		}
		last = s
	}
}

func grows(t *testing.T, a, b *agg.Status) {
	t.Helper()
	if a.Loss.Seen > b.Loss.Seen || a.Loss.Delivered > b.Loss.Delivered || sumNew(a.New) > sumNew(b.New) {
		t.Errorf("went back: %+v, %+v", a, b)
	}
	was := map[event.Reason]uint64{}
	for _, c := range b.Drops {
		was[c.Reason] = c.Count
	}
	for _, c := range a.Drops {
		if c.Count > was[c.Reason] {
			t.Errorf("drops by %v went from %d to %d", c.Reason, c.Count, was[c.Reason])
		}
	}
	for _, c := range a.Destroyed {
		for _, d := range b.Destroyed {
			if c.Proto == d.Proto && c.Cause == d.Cause && c.Count > d.Count {
				t.Errorf("destroys by %v went from %d to %d", c.Cause, c.Count, d.Count)
			}
		}
	}
}

// labName makes a lab visible to backends that look for namespaces.
func labName() string { return fmt.Sprintf("ctkeep%d", os.Getpid()) }
