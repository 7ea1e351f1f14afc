package feed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/agg"
)

// fake is a sink that takes what it is told to take.
type fake struct {
	mu     sync.Mutex
	err    error
	wait   chan struct{} // Write waits for it
	got    []string
	closed bool
}

func (f *fake) Write(ctx context.Context, t Telling) error {
	if f.wait != nil {
		select {
		case <-f.wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	f.got = append(f.got, t.ID)
	return nil
}

func (f *fake) Close() error { f.closed = true; return nil }

func (f *fake) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func telling(id string) Telling { f := scanner("198.51.100.7"); f.ID = id; return Telling{Finding: &f} }

// quick is an outlet that does not wait for long.
func quick(s Sink, log *slog.Logger) *Outlet {
	o := NewOutlet("test", s, log)
	o.limits = limits{queue: 4, backoffMin: time.Millisecond, backoffMax: time.Millisecond, finish: 50 * time.Millisecond}
	return o
}

func run(t *testing.T, o *Outlet) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// A sink that hangs makes nobody wait; what has no room is counted, the oldest first.
func TestTellNeverWaits(t *testing.T) {
	s := &fake{wait: make(chan struct{})}
	o := quick(s, nil)
	stop := run(t, o)
	o.Tell(telling("held"))
	until(t, func() bool { o.mu.Lock(); defer o.mu.Unlock(); return len(o.queue) == 0 })
	for i := range 100 {
		o.Tell(telling(fmt.Sprint(i)))
	}
	if a := o.Account(); a.Told != 101 || a.Dropped != 96 || a.Pending != 5 || a.Written != 0 {
		t.Errorf("%+v", a)
	}
	close(s.wait)
	until(t, func() bool { return o.Account().Written == 5 })
	stop()
	if got := strings.Join(s.got, " "); got != "held 96 97 98 99" || !s.closed {
		t.Error(got, s.closed)
	}
}

// Trouble is told once and so is its end; nothing is lost that had room.
func TestOutletInsists(t *testing.T) {
	var log bytes.Buffer
	s := &fake{err: errors.New("no\nspace")}
	o := quick(s, slog.New(slog.NewTextHandler(&log, nil)))
	stop := run(t, o)
	o.Tell(telling("a"))
	o.Tell(telling("b"))
	until(t, func() bool { return o.Account().Errors > 5 })
	s.set(nil)
	until(t, func() bool { return o.Account().Written == 2 })
	s.set(Lost{errors.New("too large")})
	o.Tell(telling("c"))
	until(t, func() bool { return o.Account().Failed == 1 })
	s.set(nil)
	o.Tell(telling("d"))
	until(t, func() bool { return o.Account().Written == 3 })
	stop()
	if got := strings.Join(s.got, " "); got != "a b d" {
		t.Error(got)
	}
	if n := strings.Count(log.String(), "cannot be written"); n != 2 || strings.Count(log.String(), "written again") != 2 || !strings.Contains(log.String(), "lost=1") {
		t.Error(log.String())
	}
}

// At the end what waits is written, unless the sink takes nothing or hangs.
func TestOutletEnds(t *testing.T) {
	for name, c := range map[string]struct {
		sink             Sink
		written, dropped uint64
	}{
		"well":   {&fake{}, 3, 0},
		"broken": {&fake{err: errors.New("x")}, 0, 3},
		"hangs":  {&fake{wait: make(chan struct{})}, 0, 3},
		"deaf":   {deaf{}, 0, 0}, // does not hear of the end either
	} {
		t.Run(name, func(t *testing.T) {
			o := quick(c.sink, nil)
			for i := range 3 {
				o.Tell(telling(fmt.Sprint(i)))
			}
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			o.Run(ctx)
			a := o.Account()
			if a.Written != c.written || a.Dropped != c.dropped || a.Told != a.Written+a.Dropped+a.Failed+a.Pending {
				t.Errorf("%+v", a)
			}
		})
	}
}

type deaf struct{}

func (deaf) Write(context.Context, Telling) error { select {} }
func (deaf) Close() error                         { return nil }

func openTest(t *testing.T, path string) *File {
	t.Helper()
	form, err := NewFormat("plain", Options{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(path, form)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// logrotate moves the file away, makes a new one or none, or cuts it.
func TestFileIsRotated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "feed.log")
	f := openTest(t, path)
	write := func(id string) {
		t.Helper()
		if err := f.Write(context.Background(), telling(id)); err != nil {
			t.Fatal(err)
		}
	}
	lines := func(path string, ids ...string) {
		t.Helper()
		text := read(t, path)
		if strings.Count(text, "\n") != len(ids) {
			t.Fatalf("%s: %d lines: %s", path, strings.Count(text, "\n"), text)
		}
		for _, id := range ids {
			if !strings.Contains(text, " id="+id+" ") {
				t.Errorf("%s: no %s", path, id)
			}
		}
	}
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o640 {
		t.Error(st.Mode())
	}
	write("a")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write("b")
	lines(path+".1", "a")
	lines(path, "b")
	os.Remove(path)
	write("c")
	lines(path, "c")
	os.Rename(path, path+".2")
	os.WriteFile(path, nil, 0o600)
	f.Reopen()
	write("d")
	lines(path+".2", "c")
	lines(path, "d")
	os.Truncate(path, 0) // copytruncate
	write("e")
	lines(path, "e")
	fd, err := unix.FcntlInt(f.f.Fd(), unix.F_GETFD, 0)
	if err != nil || fd&unix.FD_CLOEXEC == 0 {
		t.Error("programs that we start would have the file", err)
	}
	for _, bad := range []string{t.TempDir(), "/dev/null", filepath.Join(t.TempDir(), "no", "dir")} {
		if f, err := OpenFile(bad, nil); err == nil || strings.Contains(err.Error(), "\n") {
			t.Error(bad, err, f)
		}
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	unix.Mkfifo(fifo, 0o600)
	if _, err := OpenFile(fifo, nil); err == nil {
		t.Error("a pipe")
	}
}

// A full disk: no torn line, and it goes on when there is room. The disk is a tmpfs of
// one page more than the filling.
func TestDiskIsFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip("a small disk needs root: ", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	path := filepath.Join(dir, "feed.json")
	form, _ := NewFormat("json", Options{})
	f, err := OpenFile(path, form)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	o := quick(f, slog.New(slog.NewTextHandler(&log, nil)))
	o.limits.queue = 1000
	stop := run(t, o)
	filling := filepath.Join(dir, "filling")
	if err := os.WriteFile(filling, make([]byte, 48<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	const n = 60 // of some 800 bytes
	for i := range n {
		o.Tell(telling(fmt.Sprint(i)))
	}
	until(t, func() bool { return o.Account().Errors > 3 })
	check := func(complete bool) {
		t.Helper()
		seen := 0
		for line := range strings.Lines(read(t, path)) {
			var doc struct{ ID string }
			if err := json.Unmarshal([]byte(line), &doc); err != nil || doc.ID != fmt.Sprint(seen) {
				t.Fatalf("line %d: %v %s", seen, err, line)
			}
			seen++
		}
		if (seen == n) != complete {
			t.Errorf("%d lines of %d", seen, n)
		}
	}
	check(false)
	if n := strings.Count(log.String(), "no space left on device"); n != 1 {
		t.Errorf("told %d times: %s", n, log.String())
	}
	os.Remove(filling)
	until(t, func() bool { return o.Account().Written == n })
	stop()
	check(true)
}

// Each outlet hears of each finding, with what the policy says of it.
func TestOutletsTell(t *testing.T) {
	a, b := NewOutlet("a", &fake{}, nil), NewOutlet("b", &fake{}, nil)
	all := &Outlets{Policy: policy(allow("198.51.100.0/24", time.Time{})), Now: func() time.Time { return three }, All: []*Outlet{a, b}}
	f, g := scanner("198.51.100.7"), scanner("203.0.113.7")
	all.Tell(&f)
	all.Tell(&g)
	for _, o := range all.All {
		if len(o.queue) != 2 || o.queue[0].Unlisted == "" || o.queue[1].Unlisted != "" || o.queue[0].State != agg.Confirmed {
			t.Errorf("%+v", o.queue)
		}
	}
}
