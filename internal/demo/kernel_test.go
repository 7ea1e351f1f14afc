package demo

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/filter"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/probe"
)

const maxFile = "/proc/sys/net/netfilter/nf_conntrack_max"

// remains fails if a demo has left anything behind.
func remains(t *testing.T, limit string) {
	t.Helper()
	if left, _ := filepath.Glob("/run/netns/" + LabName + "*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if now, err := os.ReadFile(maxFile); err != nil || limit != "" && string(now) != limit {
		t.Errorf("nf_conntrack_max is %q (%v), was %q", now, err, limit)
	}
}

func clock(t *testing.T) event.Clock {
	t.Helper()
	c, err := pipeline.NewClock()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The whole demo on this kernel: what the generators sent is what was traced,
// packet by packet, and both kinds of trouble happened.
func TestDemo(t *testing.T) {
	lab.NeedVM(t)
	var out bytes.Buffer
	d, err := Run(t.Context(), Options{Out: &out, Kernel: lab.KernelName(), Clock: clock(t), Max: 1000,
		Open: func(ctx context.Context, ns event.NetNS) (Tracer, error) {
			f, err := filter.Parse("netns "+ns.String(), filter.Options{})
			if err != nil {
				return nil, err
			}
			p, err := pipeline.Open(ctx, pipeline.Config{Filter: f})
			if err != nil {
				return nil, err
			}
			return p, nil
		}})
	if err != nil {
		t.Fatalf("%v\n%s", err, out.Bytes())
	}
	remains(t, "")
	if d.Residual() != 0 || d.Doc.Loss.Lost != 0 || len(d.Truth) != len(cast) || len(d.Balance) == 0 {
		t.Errorf("residual %d, lost %d", d.Residual(), d.Doc.Loss.Lost)
	}
	lost, of := d.bystanders()
	if lost == 0 || of != 80 || d.KernelDrop == 0 || d.KernelEarlyDrop == 0 || len(d.Evictions) == 0 || d.EvictedAssured != 0 {
		t.Errorf("customers lost %d of %d; kernel: %d drops, %d evictions; %d pairs; %d assured evicted",
			lost, of, d.KernelDrop, d.KernelEarlyDrop, len(d.Evictions), d.EvictedAssured)
	}
	if len(d.Open) != len(openPorts) || len(d.Scan) != 1 || d.Scan[0].Reset != uint64(scanned.N-len(openPorts)) {
		t.Errorf("scan: open %v, %+v", d.Open, d.Scan)
	}
	if len(d.Burst) != 1 || peakRate(d.Burst[0]) < 2*average(d.Burst[0]) {
		t.Errorf("burst: %+v", d.Burst)
	}
	var page bytes.Buffer
	if err := d.WritePage(&page); err != nil || page.Len() > 200_000 {
		t.Errorf("page of %d bytes, %v", page.Len(), err)
	}
	if t.Failed() {
		t.Log(out.String())
	}
}

// blind is a tracer that sees one event and then nothing.
type blind struct{}

func (blind) Report() probe.Report { return probe.Report{Backend: probe.Netfilter} }
func (blind) Loss() probe.Loss     { return probe.Loss{} }
func (blind) Close() error         { return nil }
func (blind) Ledger(ctx context.Context, _ event.Clock, each func(*event.Event) error) (*agg.Doc, error) {
	err := each(&event.Event{Kind: event.New, Time: now()})
	<-ctx.Done()
	return &agg.Doc{}, err
}

// cutter cancels when a word is written.
type cutter struct {
	word string
	cut  func()
}

func (c cutter) Write(b []byte) (int, error) {
	if strings.Contains(string(b), c.word) {
		c.cut()
	}
	return len(b), nil
}

// Wherever it is ended, nothing of the demo remains.
func TestInterrupted(t *testing.T) {
	lab.NeedVM(t)
	first, err := netlab.NewRouter(netlab.Options{}) // loads what makes the sysctl appear
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	limit, err := os.ReadFile(maxFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"Attaching", "1. ", "Filling", "Full: "} {
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		_, err := Run(ctx, Options{Out: cutter{word, cancel}, Clock: clock(t), Max: 1000,
			Open: func(context.Context, event.NetNS) (Tracer, error) { return blind{}, nil }})
		cancel()
		if !errors.Is(err, ErrInterrupted) {
			t.Errorf("ended at %q after %v: %v", word, time.Since(start), err)
		}
		remains(t, string(limit))
	}
}

// A second demo says that there is one; a tracer that cannot be had, and a
// story that cannot be told, leave nothing behind.
func TestCannot(t *testing.T) {
	lab.NeedVM(t)
	broken := errors.New("broken")
	open := func(context.Context, event.NetNS) (Tracer, error) { return nil, broken }
	if _, err := Run(t.Context(), Options{Out: &bytes.Buffer{}, Clock: clock(t), Open: open}); !errors.Is(err, broken) {
		t.Errorf("no tracer: %v", err)
	}
	remains(t, "")
	first, err := netlab.NewRouter(netlab.Options{Name: LabName})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), Options{Out: &bytes.Buffer{}, Clock: clock(t), Open: open}); err == nil || !strings.Contains(err.Error(), "another ctsight demo") {
		t.Errorf("second demo: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Run(t.Context(), Options{Out: failing{broken}, Clock: clock(t),
		Open: func(context.Context, event.NetNS) (Tracer, error) { return blind{}, nil }}); !errors.Is(err, broken) {
		t.Errorf("nowhere to write: %v", err)
	}
	remains(t, "")
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
