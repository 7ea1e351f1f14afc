package notify

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// manager is systemd's end of a socket.
type manager struct{ c *net.UnixConn }

// listen sets NOTIFY_SOCKET; a name that begins with @ is abstract.
func listen(t *testing.T, name string) manager {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", name)
	return manager{c}
}

func inDir(t *testing.T) manager { return listen(t, filepath.Join(t.TempDir(), "notify")) }

// next is the next message, or "" when none comes in time.
func (m manager) next(t *testing.T, wait time.Duration) string {
	t.Helper()
	b := make([]byte, 4096)
	if err := m.c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	n, err := m.c.Read(b)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestMessages(t *testing.T) {
	abstract := fmt.Sprintf("@ctsight-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	for name, m := range map[string]func(*testing.T) manager{
		"path":     inDir,
		"abstract": func(t *testing.T) manager { return listen(t, abstract) },
	} {
		t.Run(name, func(t *testing.T) {
			m := m(t)
			for _, c := range []struct {
				send func() error
				want string
			}{
				{func() error { return Ready("traces with fentry") }, "READY=1\nSTATUS=traces with fentry"},
				{func() error { return Ready("") }, "READY=1"},
				{func() error { return Stopping("ends") }, "STOPPING=1\nSTATUS=ends"},
				{func() error { return Status("waits for nf_conntrack") }, "STATUS=waits for nf_conntrack"},
				{func() error { return Status("a\nREADY=1\r\n") }, "STATUS=a READY=1"},
				{func() error { return Extend(90 * time.Second) }, "EXTEND_TIMEOUT_USEC=90000000"},
			} {
				if err := c.send(); err != nil {
					t.Fatal(err)
				}
				if got := m.next(t, 5*time.Second); got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
			}
		})
	}
}

func monotonic(t *testing.T) int64 {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return ts.Nano() / 1000
}

func TestReloading(t *testing.T) {
	m := inDir(t)
	before := monotonic(t)
	if err := Reloading(); err != nil {
		t.Fatal(err)
	}
	text, ok := strings.CutPrefix(m.next(t, 5*time.Second), "RELOADING=1\nMONOTONIC_USEC=")
	at, err := strconv.ParseInt(text, 10, 64)
	if !ok || err != nil || at < before || at > monotonic(t) {
		t.Error(text, before)
	}
}

func TestNoManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range []error{Ready("x"), Reloading(), Stopping("x"), Status("x"), Status(""), Extend(time.Second), ExtendWhile(ctx, time.Second),
		Watchdog(t.Context(), func() bool { t.Error("asked"); return true }, nil)} {
		if err != nil {
			t.Error(err)
		}
	}
}

func TestManagerGone(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "absent"))
	if err := Ready(""); err == nil || !strings.HasPrefix(err.Error(), "notify systemd: ") {
		t.Error(err)
	}
	if err := ExtendWhile(t.Context(), time.Second); err == nil {
		t.Error("no error")
	}
	// A watchdog goes on.
	t.Setenv("WATCHDOG_USEC", "10000")
	ctx, cancel := context.WithCancel(t.Context())
	times := 0
	if err := Watchdog(ctx, func() bool { return true }, func(error) {
		if times++; times == 3 {
			cancel()
		}
	}); err != nil || times != 3 {
		t.Error(err, times)
	}
}

// Only what moves is told to be well, and it is told again once it moves again.
func TestWatchdog(t *testing.T) {
	const interval = 200 * time.Millisecond
	m := inDir(t)
	t.Setenv("WATCHDOG_USEC", strconv.FormatInt(interval.Microseconds(), 10))
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	var well atomic.Bool
	var asked atomic.Int32
	well.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- Watchdog(ctx, func() bool { asked.Add(1); return well.Load() }, func(err error) { t.Error(err) })
	}()
	expect := func(want string, wait time.Duration) {
		t.Helper()
		if got := m.next(t, wait); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for range 3 {
		expect("WATCHDOG=1", 5*time.Second)
	}
	well.Store(false)
	for m.next(t, interval) != "" { // what was on its way
	}
	was := asked.Load()
	expect("", 3*interval)
	if asked.Load() == was {
		t.Error("nobody asked meanwhile")
	}
	well.Store(true)
	expect("WATCHDOG=1", 5*time.Second)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The watchdog of another process is none of ours; a broken one is told.
func TestWatchdogOfOthers(t *testing.T) {
	inDir(t)
	t.Setenv("WATCHDOG_USEC", "1000000")
	t.Setenv("WATCHDOG_PID", "1")
	if err := Watchdog(t.Context(), func() bool { t.Error("asked"); return true }, nil); err != nil {
		t.Error(err)
	}
	t.Setenv("WATCHDOG_USEC", "soon")
	if err := Watchdog(t.Context(), nil, nil); err == nil || !strings.HasPrefix(err.Error(), "watchdog: ") {
		t.Error(err)
	}
}

func TestExtendWhile(t *testing.T) {
	m := inDir(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- ExtendWhile(ctx, 40*time.Millisecond) }()
	for range 3 {
		if got := m.next(t, 5*time.Second); got != "EXTEND_TIMEOUT_USEC=40000" {
			t.Errorf("%q", got)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
