package agg

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// TestBytesPerSource holds gate G7 at a million sources with a live entry each.
func TestBytesPerSource(t *testing.T) {
	n := uint32(1_000_000)
	if testing.Short() {
		n = 100_000
	}
	s := NewCensus(CensusConfig{Dims: []Dim{BySrc}, MaxRows: int(n)}, 1)
	spoof(s, n, n)
	live, source := float64(s.live.Bytes())/float64(n), float64(s.dims[BySrc].bytes())/float64(n)
	t.Logf("%d: %.1f bytes for a live entry, %.1f for a source", n, live, source)
	if live > 64 || source > 345 {
		t.Errorf("%.1f bytes for a live entry, %.1f for a source", live, source)
	}
}

// TestSpoofedSources: however many sources come, once each, a census with its
// own bounds stays below its cap, what the process has grown by too, and the sums
// are exact. CTSIGHT_SOURCES=10000000 is the run in docs/who.md, about a minute.
func TestSpoofedSources(t *testing.T) {
	n := uint32(500_000) // twice the rows
	if x := os.Getenv("CTSIGHT_SOURCES"); x != "" {
		if _, err := fmt.Sscan(x, &n); err != nil {
			t.Fatal(err)
		}
	}
	live := min(n/2, 1_000_000)
	before := resetPeak(t)
	began := time.Now()
	s := NewCensus(CensusConfig{}, 1)
	spoof(s, n, live)
	took, grown, limit := time.Since(began), status(t, "VmHWM")-before, CensusBytes(int(NumDims))
	for d := range NumDims {
		top := s.Top(d, ColNew, 1, 0, nil)
		sum := top.Other
		for _, r := range top.Rows {
			sum.Plus(&r.Sums)
		}
		want := Sums{New: uint64(n), Live: uint64(live), Destroyed: uint64(n - live)}
		if sum.Answered, sum.Refused, sum.Unanswered = 0, 0, 0; sum != want {
			t.Errorf("by %s: %+v, want %+v", d, sum, want)
		}
		if top.Tracked > DefaultRows {
			t.Errorf("by %s: %d rows", d, top.Tracked)
		}
	}
	t.Logf("%d sources, %d live: census %d MB of %d, peak of the process +%d MB, %d rows of sources evicted, %.1f s", n, live,
		s.Bytes()>>20, limit>>20, grown>>20, s.dims[BySrc].folded, took.Seconds())
	if s.Bytes() > limit {
		t.Errorf("the census takes %d bytes, its cap is %d", s.Bytes(), limit)
	}
	if grown > limit {
		t.Errorf("the process has grown by %d bytes, the cap of the census is %d", grown, limit)
	}
}

// spoof adds a connection from each of n sources to one port of 16 servers, each
// destroyed when another live ones have come.
func spoof(s *Census, n, live uint32) {
	var batch []event.Event
	add := func(k event.Kind, i, at uint32) {
		batch = append(batch, event.Event{Kind: k, Time: event.Ktime(at)*1000 + 1, Ptr: slab(uint64(i)), NetNS: 1,
			Orig: flow(i*0x9E3779B1, 0x0b000000+i%16, uint16(i), 443)}) // all differ, from all prefixes
	}
	for i := range n {
		add(event.New, i, i)
		if i >= live {
			add(event.Destroy, i-live, i)
			batch[len(batch)-1].Cause = event.TimeoutGC
		}
		if len(batch) >= Batch {
			s.AddAll(batch)
			batch = batch[:0]
		}
	}
	s.AddAll(batch)
}

// resetPeak sets the peak of the resident memory of this process to what it is
// now, and returns that.
func resetPeak(t *testing.T) int {
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		t.Skipf("the peak of this process's memory cannot be reset here: %v", err)
	}
	return status(t, "VmRSS")
}

// status reads a line of /proc/self/status that is in kB.
func status(t *testing.T, name string) (bytes int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("needs /proc/self/status of Linux")
	}
	_, rest, _ := strings.Cut(string(b), "\n"+name+":")
	if _, err := fmt.Sscan(rest, &bytes); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return bytes << 10
}
