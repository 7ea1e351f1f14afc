package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/filter"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/record/capture"
)

// badDisk is a file whose writes take their time, or find no room.
type badDisk struct {
	*os.File
	each time.Duration
	full atomic.Bool
}

func (d *badDisk) Write(b []byte) (int, error) {
	if time.Sleep(d.each); d.full.Load() {
		n, _ := d.File.Write(b[:len(b)/2])
		return n, syscall.ENOSPC
	}
	return d.File.Write(b)
}

// floods are rounds of flows from all CPUs as fast as they can, between which the table is
// flushed: each flow is an insert and a destroy.
type floods struct {
	rounds, sources, ports int
}

// TestRecordFlood: of what the kernel did at the highest rate that this machine makes, all
// is in the recording, summed up in it, missing in a gap of it, or lost on the way and
// counted: with disks that are fast, slow and full, with rings that are large and small.
// The oracle is what was sent, and the kernel's own count of inserts and deletes.
func TestRecordFlood(t *testing.T) {
	f := floods{rounds: 4, sources: 20, ports: 2500}
	if lab.InVM() {
		f = floods{rounds: 3, sources: 10, ports: 700}
	}
	for _, c := range []struct {
		name string
		ring int
		each time.Duration // that a write takes
		mind func(*badDisk, int)
		gaps bool // the disk is too slow for all
	}{
		{name: "fast disk"},
		{name: "slow disk", each: 300 * time.Millisecond, gaps: !lab.InVM()},
		{name: "full disk", mind: func(d *badDisk, round int) { d.full.Store(round == f.rounds/2) }, gaps: true},
		{name: "small rings", ring: 64 << 10},
	} {
		t.Run(c.name, func(t *testing.T) { recordFlood(t, f, c.ring, &badDisk{each: c.each}, c.mind, c.gaps) })
	}
}

func recordFlood(t *testing.T, f floods, ring int, disk *badDisk, mind func(*badDisk, int), gaps bool) {
	l := newLab(t, netlab.Options{Name: fmt.Sprintf("flood-%d", os.Getpid())}) // where every backend finds it
	fill, err := conn(t, l.R).Fill()
	must(t, err)
	if each := f.sources * f.ports; fill.Max < uint32(each+1000) {
		t.Skipf("needs nf_conntrack_max over %d, have %d, which is the machine's", each+1000, fill.Max)
	}
	only, err := filter.Parse(fmt.Sprintf("netns %d", l.R.Inode()), filter.Options{})
	must(t, err)
	clock, err := NewClock()
	must(t, err)
	p, err := Open(t.Context(), Config{Filter: only, RingBytes: ring, Sums: true})
	skipOld(t, err)
	must(t, err)
	defer p.Close()
	w := p.NewWatch(clock, agg.CensusConfig{Dims: []agg.Dim{agg.ByNetNS}})
	w.Detect(Detection{}) // as ctsight record has it
	path := filepath.Join(t.TempDir(), "a.ctsight")
	disk.File, err = os.Create(path)
	must(t, err)
	file, err := capture.NewFile(disk, w.CaptureHeader("test"))
	must(t, err)
	rec := capture.NewRecorder(file)
	w.Record(rec)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- w.Run(ctx, nil) }()

	sent, took := uint64(0), time.Duration(0)
	for i := range f.rounds {
		if mind != nil {
			mind(disk, i)
		}
		all := flows(netlab.Addrs{First: netip.MustParseAddr("10.2.0.0"), N: f.rounds * f.sources}.At(i*f.sources).String(), f.sources, f.ports, netlab.Sink(0))
		var parts []netlab.Flows
		for k := range runtime.NumCPU() {
			parts = append(parts, all.Part(k, runtime.NumCPU()))
		}
		began := time.Now()
		truths, err := l.SendParallel(ctx, netlab.SendOptions{}, parts...)
		must(t, err)
		took += time.Since(began)
		must(t, l.Drain())
		for _, x := range truths {
			sent += x.Flows()
		}
		must(t, conn(t, l.R).Flush())
	}
	counted := func() (news, gone uint64) {
		k := countersOf(p.Counters(), l.R.Inode())
		for _, n := range k.Causes {
			gone += n
		}
		return k.New, gone + p.Loss().ByStage["netlink"]
	}
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, gone := counted(); gone >= sent {
			break
		}
	}
	cancel()
	must(t, <-ran)
	must(t, w.Finish())
	time.Sleep(1100 * time.Millisecond) // a disk that was full is tried again
	must(t, rec.Close(nil))

	in, err := os.Open(path)
	must(t, err)
	defer in.Close()
	r, err := capture.NewReader(in)
	must(t, err)
	var news, destroyed, others, missing uint64
	told := func(k event.Kind, n uint64) {
		switch k {
		case event.New:
			news += n
		case event.Destroy:
			destroyed += n
		default:
			others += n
		}
	}
	for {
		x, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		switch x.Kind {
		case capture.Events:
			for i := range x.Events {
				told(x.Events[i].Kind, 1)
			}
		case capture.Sums:
			told(x.Sums[0].Kind, x.Sums[0].N)
		case capture.Gap:
			missing += x.Lost.Events
		}
	}
	loss, s := p.Loss(), rec.Stats()
	kNew, kGone := counted()
	t.Logf("%d connections, %.0f/s: %d new and %d destroyed recorded, %d in gaps, %d lost before; %d bytes", sent, float64(sent)/took.Seconds(), news, destroyed, missing, loss.Lost, s.Bytes)
	all := news + destroyed + missing + loss.Lost
	if loss.Filtered > 0 && all > 2*sent { // other tests on this machine: some that were lost may be theirs
		all = max(2*sent, all-loss.Lost)
	}
	if others != 0 || all != 2*sent || news > sent || destroyed > sent {
		t.Errorf("%d others; %+v", others, loss)
	}
	if kNew != sent || kGone < sent || loss.Seen < 2*sent || loss.Seen != loss.Delivered+loss.Aggregated+loss.Lost {
		t.Errorf("sent and flushed %d; counted %d and %d; %+v", sent, kNew, kGone, loss)
	}
	if s.Lost != missing || r.Lost.Events != missing || r.End == nil || r.End.Lost != missing || s.Err != nil {
		t.Errorf("%d in gaps; %+v, %+v, %+v", missing, s, r.Lost, r.End)
	}
	if gaps != (missing > 0) {
		t.Errorf("%d in gaps: not the disk that was meant", missing)
	}
}
