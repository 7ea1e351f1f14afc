package tui

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openPTY returns both ends of a new terminal of 80x24.
func openPTY(t *testing.T) (user, program *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	t.Cleanup(func() { user.Close() })
	raw, err := user.SyscallConn() // Fd would make it block, and Close wait
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if e := raw.Control(func(fd uintptr) {
		err = errors.Join(unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0),
			unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}))
		if err == nil {
			n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}); e != nil || err != nil {
		t.Fatal(e, err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return user, program
}

// start runs the view and returns what it writes and how it ends.
func start(ctx context.Context, t *testing.T, user, program *os.File) (written chan string, ended chan error) {
	t.Helper()
	t.Setenv("TERM", "xterm")
	out, err := Terminal(program, "xterm")
	if err != nil {
		t.Fatal(err)
	}
	written, ended = make(chan string, 1000), make(chan error, 1)
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, err := user.Read(b)
			if err != nil {
				close(written)
				return
			}
			written <- string(b[:n])
		}
	}()
	go func() { ended <- Run(ctx, &fakeSource{rows: []int{1, 2, 3}}, Options{}, out, out) }()
	return written, ended
}

// until waits for a text on the screen.
func until(t *testing.T, written chan string, text string) {
	t.Helper()
	var all bytes.Buffer
	for timeout := time.After(10 * time.Second); !strings.Contains(all.String(), text); {
		select {
		case s := <-written:
			all.WriteString(s)
		case <-timeout:
			t.Fatalf("no %q in %q", text, all.String())
		}
	}
}

func end(t *testing.T, ended chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
		return nil
	}
}

func TestRun(t *testing.T) {
	user, program := openPTY(t)
	before, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	written, ended := start(t.Context(), t, user, program)
	until(t, written, "10.0.0.1")
	if _, err := user.WriteString("q"); err != nil {
		t.Fatal(err)
	}
	if err := end(t, ended); err != nil {
		t.Error(err)
	}
	until(t, written, "\x1b[?1049l") // the screen that was there before is back
	after, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
	if err != nil || *after != *before {
		t.Errorf("the terminal is not as it was: %v, %v and %v", err, before, after)
	}
}

func TestRunContext(t *testing.T) {
	user, program := openPTY(t)
	ctx, cancel := context.WithCancel(t.Context())
	written, ended := start(ctx, t, user, program)
	until(t, written, "10.0.0.1")
	cancel()
	if err := end(t, ended); err != nil {
		t.Error(err)
	}
	until(t, written, "\x1b[?1049l")
}

func TestRunTerminalGone(t *testing.T) {
	user, program := openPTY(t)
	written, ended := start(t.Context(), t, user, program)
	until(t, written, "10.0.0.1")
	user.Close()
	if err := end(t, ended); !errors.Is(err, unix.EIO) {
		t.Errorf("error %v", err)
	}
}

func TestTerminal(t *testing.T) {
	_, program := openPTY(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	for _, term := range []string{"", "dumb"} {
		if _, err := Terminal(program, term); !errors.Is(err, ErrNoTerminal) {
			t.Errorf("TERM=%s: %v", term, err)
		}
	}
	if _, err := Terminal(w, "xterm"); !errors.Is(err, ErrNoTerminal) {
		t.Errorf("closed: %v", err)
	}
	if _, err := Terminal(&bytes.Buffer{}, "xterm"); !errors.Is(err, ErrNoTerminal) {
		t.Errorf("no file: %v", err)
	}
	if out, err := Terminal(program, "xterm"); err != nil || out != program {
		t.Errorf("terminal: %v", err)
	}
}
