package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
)

// What a process may grow by under however many spoofed sources, in KiB: what all
// have, with the detectors, 64 MB; and each table of sources or networks (docs/who.md).
const (
	mayFlood = 64_000_000 >> 10
	mayTable = 88 << 10
)

// floodRound is how many sources come before the table is emptied, which has to hold
// them.
const floodRound = 100_000

// However many spoofed sources come, each once, and though the kernel has no room to
// tell of many destroys when the table is emptied at once: memory is bounded. The oracle
// is the kernel's peak of what is resident. CTSIGHT_SOURCES=10000000 is the run in
// docs/performance.md, some minutes each.
func TestSpoofedFlood(t *testing.T) {
	onHost(t)
	trace.LoadModules()
	for _, tc := range []struct {
		args    []string
		sources int
		may     int // KiB
	}{
		{[]string{"detect"}, 1_000_000, mayFlood},
		{[]string{"top", "-o", "json", "--for", "1h"}, 400_000, mayFlood + mayTable},
		{[]string{"serve", "--web.listen-address", "127.0.0.1:0"}, 400_000, mayFlood + 2*mayTable},
	} {
		t.Run(tc.args[0], func(t *testing.T) {
			if x := os.Getenv("CTSIGHT_SOURCES"); x != "" {
				_, err := fmt.Sscan(x, &tc.sources)
				must(t, err)
			}
			f := newFlood(t, tc.args...)
			time.Sleep(2 * time.Second) // it has seen quiet times,
			f.send(1000)                // and what the first few make it take
			f.flush()
			time.Sleep(2 * time.Second)
			before, begin := f.memory("VmRSS"), time.Now()
			for f.sent < tc.sources {
				f.send(floodRound)
				f.flush()
			}
			grown := f.memory("VmHWM") - before
			t.Logf("%d sources in %v: %d KiB, now %d, grew by %d at most", f.sent, time.Since(begin).Round(time.Second), before, f.memory("VmRSS"), grown)
			if grown > tc.may {
				t.Errorf("grew by %d KiB, may %d", grown, tc.may)
			}
		})
	}
}

// flood comes from ever new sources through a router that a process watches.
type flood struct {
	t    *testing.T
	r    *netlab.Router
	cmd  *exec.Cmd
	log  string // a file with what it says
	sent int
}

// newFlood starts ctsight and waits until it traces.
func newFlood(t *testing.T, args ...string) *flood {
	t.Helper()
	r, err := netlab.NewRouter(netlab.Options{Name: "flood"})
	must(t, err)
	t.Cleanup(func() { must(t, r.Close()) })
	f := &flood{t: t, r: r, log: filepath.Join(t.TempDir(), "log"), cmd: ctsight(t, append(args, "--netns", "flood-router", "--log.level", "debug")...)}
	log, err := os.Create(f.log)
	must(t, err)
	defer log.Close()
	f.cmd.Stdout, f.cmd.Stderr = log, log
	must(t, f.cmd.Start())
	t.Cleanup(func() { f.stop() })
	eventually(t, "it traces", func() bool { return strings.Contains(f.said(), "attached") })
	return f
}

func (f *flood) said() string {
	f.t.Helper()
	b, err := os.ReadFile(f.log)
	must(f.t, err)
	return string(b)
}

// stop ends it, once.
func (f *flood) stop() {
	f.t.Helper()
	if f.cmd.ProcessState != nil {
		return
	}
	must(f.t, f.cmd.Process.Signal(syscall.SIGTERM))
	if err := f.cmd.Wait(); err != nil {
		f.t.Errorf("%v: %s", err, f.said())
	}
}

// send sends a SYN from each of n sources to one endpoint.
func (f *flood) send(n int) {
	f.t.Helper()
	first := netlab.Addrs{First: netip.MustParseAddr("32.0.0.0"), N: f.sent + 1}.At(f.sent)
	_, err := f.r.SendFlows(f.t.Context(), netlab.Flows{Proto: event.ProtoTCP, SpreadSources: true, Src: netlab.Addrs{First: first, N: n},
		Dst: netlab.OneAddr(netlab.Sink(1)), SPorts: netlab.OnePort(1024), DPorts: netlab.OnePort(7001)}, netlab.SendOptions{})
	must(f.t, err)
	f.sent += n
}

// flush empties the router's table, as conntrack -F does.
func (f *flood) flush() {
	f.t.Helper()
	must(f.t, f.r.R.Do(func() error {
		c, err := ctnl.Dial(ctnl.NS{})
		if err != nil {
			return err
		}
		defer c.Close()
		return c.Flush()
	}))
}

// memory reads a line of /proc/PID/status, in KiB.
func (f *flood) memory(name string) (kib int) {
	f.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", f.cmd.Process.Pid))
	must(f.t, err)
	_, rest, _ := strings.Cut(string(b), "\n"+name+":")
	_, err = fmt.Sscan(rest, &kib)
	must(f.t, err)
	return kib
}

// The more lives the smaller the part of it that garbage may be, within bounds.
func TestGCPercent(t *testing.T) {
	for _, tc := range []struct {
		live uint64
		want int
	}{{0, 50}, {1 << 20, 50}, {12 << 20, 50}, {24 << 20, 25}, {60 << 20, 10}, {120 << 20, 5}, {1 << 40, 5}} {
		if got := gcPercent(tc.live); got != tc.want {
			t.Errorf("%d MiB live: %d percent, want %d", tc.live>>20, got, tc.want)
		}
	}
}
