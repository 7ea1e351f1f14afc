package web

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// refused wants New to say what is wrong in one line.
func refused(t *testing.T, o Options, words ...string) {
	t.Helper()
	_, err := New(o)
	if err == nil {
		t.Errorf("%v is taken", o.Listen)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("%q is not one line", err)
	}
}

func TestListenRefused(t *testing.T) {
	dir := t.TempDir()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	live, err := net.Listen("unix", filepath.Join(dir, "live"))
	must(t, err)
	defer live.Close()
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o600))
	for address, words := range map[string][]string{
		taken.Addr().String():           {taken.Addr().String(), "in use", "ss -ltnp", "--web.listen-address"},
		"192.0.2.1:9781":                {"192.0.2.1:9781", "no address of this host", "ip addr"},
		"nonsense":                      {"nonsense", "--web.listen-address"},
		"127.0.0.1:99999":               {"99999", "--web.listen-address"},
		"unix:" + live.Addr().String():  {"live", "in use", "ss -lxp"},
		"unix:" + dir + "/file":         {"file", "no socket"},
		"unix:" + dir + "/no/such/path": {"/no/such/path", "no such file"},
	} {
		t.Run(address, func(t *testing.T) {
			o := options(&fake{})
			o.Listen = append(o.Listen, address) // the first one is given back
			refused(t, o, words...)
		})
	}
	if data, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(data) != "text" {
		t.Errorf("a file was touched: %v", err)
	}
}

// A socket whose process was killed is taken over; one that is too busy to answer
// is not.
func TestStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	must(t, err)
	stale.SetUnlinkOnClose(false)
	must(t, stale.Close())
	o := options(&fake{})
	o.Listen = []string{"unix:" + path}
	s, err := New(o)
	must(t, err)
	must(t, s.close())
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket stays: %v", err)
	}

	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	must(t, err)
	defer syscall.Close(fd)
	must(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}))
	must(t, syscall.Listen(fd, 0))
	first, err := net.Dial("unix", path) // the queue is full
	must(t, err)
	defer first.Close()
	refused(t, o, path, "--web.listen-address")
	if _, err := os.Stat(path); err != nil {
		t.Errorf("a socket that is in use was removed: %v", err)
	}
}

// A socket of a path serves its owner and group, and two listeners one site.
func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	o := options(&fake{})
	o.Listen = append(o.Listen, "unix:"+path)
	s := serve(t, o)
	st, err := os.Stat(path)
	must(t, err)
	if p := st.Mode().Perm(); p != 0o660 {
		t.Errorf("mode %o", p)
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) }}}
	a, err := c.Get("http://x/-/healthy")
	must(t, err)
	must(t, a.Body.Close())
	if a.StatusCode != 200 {
		t.Error(a.Status)
	}
	if a, _ := ask(t, "GET", s.url+"/-/healthy"); a.StatusCode != 200 {
		t.Error(a.Status)
	}
	must(t, s.stop())
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket stays: %v", err)
	}
}

// What the kernel holds for a connection is bounded too: it doubles what it is told.
func TestSmallBuffers(t *testing.T) {
	l, err := listen("127.0.0.1:0")
	must(t, err)
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	defer c.Close()
	a, err := l.Accept()
	must(t, err)
	defer a.Close()
	raw, err := a.(syscall.Conn).SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) {
		for _, opt := range []int{syscall.SO_SNDBUF, syscall.SO_RCVBUF} {
			if n, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, opt); err != nil || n != 2*sockBuffer {
				t.Errorf("option %d is %d: %v", opt, n, err)
			}
		}
	}))
}

// Tracing keeps three quarters of the descriptors.
func TestPlaces(t *testing.T) {
	var was syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was))
	defer func() { must(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was)) }()
	must(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 400, Max: was.Max}))
	for want, got := range map[int]int{1: 1, 99: 99, 100: 100, 5000: 100} {
		if n, err := places(want); err != nil || n != got {
			t.Errorf("%d wanted: %d, %v", want, n, err)
		}
	}
}
