// Package sidecar runs `ctsight serve` and a Prometheus beside it, for tests.
package sidecar

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Sidecar is a `ctsight serve` of a test.
type Sidecar struct {
	URL   string // without a slash at the end
	Cmd   *exec.Cmd
	log   *os.File
	ended chan struct{} // closed when it has
	err   error         // of its end
}

// FreeAddress is a place on loopback where nobody listens.
func FreeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

// Start runs a command, which is ctsight or ends in it, with "serve" and args, and
// waits until it answers. It ends with the test.
func Start(t testing.TB, cmd *exec.Cmd, args ...string) *Sidecar {
	t.Helper()
	s := Launch(t, cmd, args...)
	s.until(t, "an answer of serve", func() bool { return s.Code("/-/healthy") == http.StatusOK })
	return s
}

// Launch is Start without the wait.
func Launch(t testing.TB, cmd *exec.Cmd, args ...string) *Sidecar {
	t.Helper()
	addr := FreeAddress(t)
	log, err := os.CreateTemp(t.TempDir(), "serve")
	must(t, err)
	cmd.Args = slices.Concat(cmd.Args, []string{"serve", "--web.listen-address", addr}, args)
	cmd.Stderr = log
	s := &Sidecar{URL: "http://" + addr, Cmd: cmd, log: log, ended: make(chan struct{})}
	must(t, cmd.Start())
	go func() {
		s.err = cmd.Wait()
		close(s.ended)
	}()
	t.Cleanup(func() {
		s.Stop(t)
		must(t, log.Close())
		if t.Failed() {
			t.Logf("serve said:\n%s", s.Said())
		}
	})
	return s
}

// Said is what it has logged.
func (s *Sidecar) Said() string {
	data, err := os.ReadFile(s.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// Stop ends it as systemd does, and wants no error; once.
func (s *Sidecar) Stop(t testing.TB) {
	t.Helper()
	select {
	case <-s.ended: // by itself, or before
	default:
		must(t, s.Cmd.Process.Signal(syscall.SIGTERM))
		if err := s.Wait(); err != nil {
			t.Errorf("serve: %v", err)
		}
	}
}

// Wait waits for its end.
func (s *Sidecar) Wait() error {
	<-s.ended
	return s.err
}

// Ended says whether it has ended by itself.
func (s *Sidecar) Ended() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// Tracing waits until it traces.
func (s *Sidecar) Tracing(t testing.TB) *Sidecar {
	t.Helper()
	s.until(t, "serve traces", func() bool { return s.Code("/-/ready") == http.StatusOK })
	return s
}

// Code is the status of an answer, 0 without one.
func (s *Sidecar) Code(path string) int {
	status, _, _ := s.ask(path)
	return status
}

// Get returns the body of an answer that must be good.
func (s *Sidecar) Get(t testing.TB, path string) []byte {
	t.Helper()
	data, err := s.get(path)
	must(t, err)
	return data
}

// get asks again where an answer was cut off: serve lets no client take longer than ten
// seconds, and an emulated machine may stand still that long.
func (s *Sidecar) get(path string) (data []byte, err error) {
	for range 3 {
		var status int
		if status, data, err = s.ask(path); err == nil && status != http.StatusOK {
			return data, fmt.Errorf("%s: status %d: %s", path, status, data)
		}
		if err == nil || s.Ended() {
			break
		}
	}
	return data, err
}

func (s *Sidecar) ask(path string) (status int, data []byte, err error) {
	r, err := http.Get(s.URL + path)
	if err != nil {
		return 0, nil, err
	}
	defer r.Body.Close()
	data, err = io.ReadAll(r.Body)
	return r.StatusCode, data, err
}

// Status is a line of /proc/PID/status that is a number.
func (s *Sidecar) Status(t testing.TB, key string) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Cmd.Process.Pid))
	must(t, err)
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == key+":" {
			n, err := strconv.Atoi(f[1])
			must(t, err)
			return n
		}
	}
	t.Fatalf("no %s in /proc/PID/status", key)
	return 0
}

// CPU is what it has used so far, in steps of 10 ms (proc(5), stat: USER_HZ).
func (s *Sidecar) CPU(t testing.TB) time.Duration {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.Cmd.Process.Pid))
	must(t, err)
	f := strings.Fields(string(data[strings.LastIndexByte(string(data), ')'):]))
	ticks := 0
	for _, field := range f[12:14] { // utime, stime
		n, err := strconv.Atoi(field)
		must(t, err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// Descriptors is how many files it has open.
func (s *Sidecar) Descriptors(t testing.TB) int {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.Cmd.Process.Pid))
	must(t, err)
	return len(all)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// until is the same for what a serve does that may end before.
func (s *Sidecar) until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	until(t, what, func() bool {
		select {
		case <-s.ended:
			t.Fatalf("serve ended instead (%v): %s", s.err, s.Said())
		default:
		}
		return ok()
	})
}

// until waits for something that may take long in an emulated machine.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after two minutes still not: %s", what)
		}
	}
}
