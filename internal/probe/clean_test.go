package probe_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/probe"
)

// binary is ctsight in the lab's guest.
const binary = "/usr/local/bin/ctsight"

// gone is how long the kernel may take to free what a dead process held: a
// second (R4), on a machine that is emulated and shared with others.
const gone = 5 * time.Second

// traces is everything that a tracer could leave behind in the system.
func traces(t testing.TB) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		must(t, err)
		id = next
		out[fmt.Sprintf("program %d", id)] = true
	}
	for id := ebpf.MapID(0); ; {
		next, err := ebpf.MapGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		must(t, err)
		id = next
		out[fmt.Sprintf("map %d", id)] = true
	}
	it := new(link.Iterator)
	defer it.Close()
	for it.Next() {
		out[fmt.Sprintf("link %d", it.ID)] = true
	}
	must(t, it.Err())
	pinned, err := filepath.Glob("/sys/fs/bpf/*")
	must(t, err)
	kprobes, err := os.ReadFile("/sys/kernel/tracing/kprobe_events")
	if !errors.Is(err, os.ErrNotExist) {
		must(t, err)
	}
	comms, err := filepath.Glob("/proc/[0-9]*/comm")
	must(t, err)
	for _, p := range comms {
		if name, err := os.ReadFile(p); err == nil && strings.HasPrefix(string(name), "ctsight") {
			out["process "+filepath.Base(filepath.Dir(p))] = true
		}
	}
	spaces, err := ctnl.ListNetNS()
	must(t, err)
	for _, ns := range spaces {
		out[fmt.Sprintf("netns %d %s", ns.Inode, ns.Name)] = true
	}
	for _, f := range pinned {
		out["pinned "+f] = true
	}
	for _, l := range strings.Fields(string(kprobes)) {
		out["kprobe event "+l] = true
	}
	return out
}

// quiet waits until what earlier tests have closed is gone, and returns what
// is left.
func quiet(t testing.TB) map[string]bool {
	t.Helper()
	runtime.GC() // cilium/ebpf unmaps data sections when the collector finds them
	last := traces(t)
	wait(t, "the kernel at rest", func() bool {
		time.Sleep(300 * time.Millisecond)
		now := traces(t)
		same := maps.Equal(now, last)
		last = now
		return same
	})
	return last
}

// clean fails the test if anything is not as before within gone.
func clean(t testing.TB, before map[string]bool) {
	t.Helper()
	start := time.Now()
	var left []string
	within(4*gone, func() bool {
		left = nil
		now := traces(t)
		for what := range now {
			if !before[what] {
				left = append(left, what)
			}
		}
		for what := range before {
			if !now[what] && strings.HasPrefix(what, "netns") {
				left = append(left, "not any more: "+what)
			}
		}
		return len(left) == 0
	})
	took := time.Since(start).Round(time.Millisecond)
	if len(left) > 0 {
		slices.Sort(left)
		t.Errorf("after %v left: %s", took, strings.Join(left, ", "))
	} else if took > gone {
		t.Errorf("gone after %v, want %v", took, gone)
	}
	t.Logf("clean after %v", took)
}

// child is a running ctsight.
type child struct {
	*exec.Cmd
	t      testing.TB
	exited chan struct{}

	mu  sync.Mutex
	err []string // lines of stderr
	out []string // lines of stdout
}

// start runs ctsight; its output is read line by line.
func start(t testing.TB, args ...string) *child {
	t.Helper()
	lab.NeedVM(t)
	if _, err := os.Stat(binary); err != nil {
		t.Skip("needs ctsight in the guest: cmd/ctsight did not compile")
	}
	c := &child{Cmd: exec.Command(binary, args...), t: t, exited: make(chan struct{})}
	out, err := c.StdoutPipe()
	must(t, err)
	errs, err := c.StderrPipe()
	must(t, err)
	must(t, c.Start())
	var read sync.WaitGroup
	read.Go(func() { c.lines(bufio.NewScanner(out), &c.out) })
	read.Go(func() { c.lines(bufio.NewScanner(errs), &c.err) })
	go func() {
		read.Wait()
		_ = c.Wait()
		close(c.exited)
	}()
	t.Cleanup(func() {
		_ = c.Process.Kill()
		<-c.exited
	})
	return c
}

func (c *child) lines(sc *bufio.Scanner, to *[]string) {
	for sc.Scan() {
		c.mu.Lock()
		*to = append(*to, sc.Text())
		c.mu.Unlock()
	}
}

func (c *child) stderr() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.err, "\n")
}

func (c *child) stdout() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.out)
}

// attached waits until the child has said that it is attached.
func (c *child) attached() {
	c.t.Helper()
	wait(c.t, "attached: "+c.stderr(), func() bool { return strings.Contains(c.stderr(), "attached") })
}

// ends waits for the child and returns its exit code, -1 when a signal ended it.
func (c *child) ends() int {
	c.t.Helper()
	select {
	case <-c.exited:
	case <-time.After(patience):
		c.t.Fatalf("does not end: %s", c.stderr())
	}
	return c.ProcessState.ExitCode()
}

// R4: however a trace ends, nothing of it stays.
func TestNothingStays(t *testing.T) {
	lab.NeedVM(t)
	loadModules()
	before := quiet(t)
	for _, tc := range []struct {
		signal syscall.Signal
		code   int
	}{
		{unix.SIGINT, 0}, {unix.SIGTERM, 0}, {unix.SIGHUP, 0},
		{unix.SIGQUIT, 2}, {unix.SIGSEGV, 2}, {unix.SIGABRT, 2}, // a Go program panics of these
		{unix.SIGKILL, -1},
	} {
		t.Run(unix.SignalName(tc.signal), func(t *testing.T) {
			c := start(t, "trace", "--log.level=debug")
			c.attached()
			if now := traces(t); len(now) <= len(before) {
				t.Fatal("nothing is attached")
			}
			must(t, c.Process.Signal(tc.signal))
			began := time.Now()
			if code := c.ends(); code != tc.code {
				t.Errorf("exit code %d, want %d: %s", code, tc.code, c.stderr())
			}
			t.Logf("ended after %v", time.Since(began).Round(time.Millisecond))
			clean(t, before)
		})
	}
	t.Run("terminal lost", func(t *testing.T) {
		began := lostTerminal(t)
		t.Logf("ended after %v", time.Since(began).Round(time.Millisecond))
		clean(t, before)
	})
	t.Run("killed while it starts", func(t *testing.T) {
		for range 3 {
			c := start(t, "trace")
			after := time.Duration(rand.Int64N(int64(3 * time.Second)))
			time.Sleep(after)
			must(t, c.Process.Kill())
			c.ends()
			t.Logf("killed after %v", after.Round(time.Millisecond))
			clean(t, before)
		}
	})
	t.Run("closed", func(t *testing.T) {
		p, err := probe.Open(probe.Options{Audit: true, Invalid: true})
		must(t, err)
		must(t, p.Close())
		must(t, p.Close()) // twice
		if l, c := p.Loss(), p.Counters(); l.Seen != 0 || len(c) != 0 {
			t.Errorf("after Close: %+v, %+v", l, c)
		}
		if err := p.Peek(make([]probe.Peek, 1)); !errors.Is(err, os.ErrClosed) {
			t.Errorf("peek after Close: %v", err)
		}
		if err := p.Rescan(); err != nil {
			t.Errorf("rescan after Close: %v", err)
		}
		runtime.GC() // see quiet
		clean(t, before)
	})
}

// lostTerminal runs a trace on a terminal and takes the terminal away. It
// returns when that was, after the trace has ended.
func lostTerminal(t *testing.T) time.Time {
	t.Helper()
	ptm, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	must(t, err)
	n, err := unix.IoctlGetInt(int(ptm.Fd()), unix.TIOCGPTN)
	must(t, err)
	must(t, unix.IoctlSetPointerInt(int(ptm.Fd()), unix.TIOCSPTLCK, 0))
	pts, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR, 0)
	must(t, err)
	cmd := exec.Command(binary, "trace", "--log.level=debug")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = pts, pts, pts
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	must(t, cmd.Start())
	must(t, pts.Close())
	ok := false
	for sc := bufio.NewScanner(ptm); !ok && sc.Scan(); {
		ok = strings.Contains(sc.Text(), "attached")
	}
	if !ok {
		t.Error("never attached")
	}
	began := time.Now()
	must(t, ptm.Close())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Error("does not end without its terminal")
		_ = cmd.Process.Kill()
		<-done
	}
	return began
}

// Open, Run and Close again and again: no descriptor, goroutine, mapping or
// kernel object stays.
func TestNoLeaks(t *testing.T) {
	lab.NeedVM(t)
	loadModules()
	cycle := func() {
		p, err := probe.Open(probe.Options{Only: usual, Kernel: &kernel})
		must(t, err)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		must(t, p.Run(ctx, ignore))
		must(t, p.Close())
	}
	cycle() // what is opened once and for all
	before, fds, maps := quiet(t), entries(t, "/proc/self/fd"), mappings(t)
	ignored := goleak.IgnoreCurrent()
	for range 3 { // what one leaves behind shows, and each takes seconds
		cycle()
	}
	if err := goleak.Find(ignored); err != nil {
		t.Errorf("goroutines: %v", err)
	}
	if n := entries(t, "/proc/self/fd"); n != fds {
		t.Errorf("%d descriptors, %d before", n, fds)
	}
	runtime.GC()
	clean(t, before)
	if n := mappings(t); n != maps {
		t.Errorf("%d mappings of BPF maps, %d before", n, maps)
	}
}

func entries(t testing.TB, dir string) int {
	t.Helper()
	all, err := os.ReadDir(dir)
	must(t, err)
	return len(all)
}

// mappings counts the maps that are mapped into this process.
func mappings(t testing.TB) int {
	t.Helper()
	all, err := os.ReadFile("/proc/self/maps")
	must(t, err)
	return strings.Count(string(all), "anon_inode:bpf-map")
}
