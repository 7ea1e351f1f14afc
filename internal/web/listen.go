package web

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/ctsight/ctsight/internal/view"
)

// listen opens host:port or unix:/path.
func listen(address string) (net.Listener, error) {
	network, control := "tcp", small
	path, unix := strings.CutPrefix(address, "unix:")
	if unix {
		network, address, control = "unix", path, nil
		if err := sweep(path); err != nil {
			return nil, err
		}
	}
	l, err := (&net.ListenConfig{Control: control}).Listen(context.Background(), network, address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is in use by another process (ss -ltnp tells which): end it, or choose another --web.listen-address", address)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s is no address of this host (ip addr): choose another --web.listen-address", address)
	case err != nil:
		return nil, fmt.Errorf("%w: choose another --web.listen-address", err)
	}
	if unix { // whoever may reach it is for the directory to say, and for its group
		if err := os.Chmod(path, 0o660); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	return l, nil
}

// sockBuffer is what the kernel holds for a connection in each direction (it takes
// twice that): of TCP it would go up to megabytes, out of sight of our own limits.
const sockBuffer = 64 << 10

// small sets the buffers of the connections to come, which inherit them.
func small(_, _ string, c syscall.RawConn) error {
	var err error
	ctl := c.Control(func(fd uintptr) {
		for _, opt := range []int{syscall.SO_SNDBUF, syscall.SO_RCVBUF} {
			err = errors.Join(err, os.NewSyscallError("setsockopt", syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, opt, sockBuffer)))
		}
	})
	return errors.Join(ctl, err)
}

// sweep removes a socket that a killed process left.
func sweep(path string) error {
	st, err := os.Lstat(path)
	switch {
	case err != nil:
		return nil // listening will tell
	case st.Mode()&os.ModeSocket == 0:
		return fmt.Errorf("%s is there and no socket: remove it, or choose another --web.listen-address", path)
	}
	c, err := net.Dial("unix", path)
	switch {
	case err == nil:
		_ = c.Close()
		return fmt.Errorf("%s is in use by another process (ss -lxp tells which): end it, or choose another --web.listen-address", path)
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	}
	return fmt.Errorf("%w: choose another --web.listen-address", err) // may well be alive
}

// places is how many connections there may be: tracing needs descriptors too.
func places(want int) (int, error) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return 0, os.NewSyscallError("getrlimit", err)
	}
	return int(min(uint64(want), max(1, files.Cur/4))), nil
}

// configError names the file, which exporter-toolkit does not always, on one line.
func configError(file string, err error) error {
	s := view.OneLine(err)
	if !strings.Contains(s, file) {
		s = file + ": " + s
	}
	return fmt.Errorf("web config file: %s", s)
}
