package web

import (
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
	network := "tcp"
	path, unix := strings.CutPrefix(address, "unix:")
	if unix {
		network, address = "unix", path
		if err := sweep(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen(network, address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is in use by another process (ss -ltnp tells which): end it, or choose another --web.listen-address", address)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s is no address of this host (ip addr): choose another --web.listen-address", address)
	case err != nil:
		return nil, fmt.Errorf("%w: choose another --web.listen-address", err)
	}
	if unix { // whoever may reach it is for the directory to say, and for its group
		err = os.Chmod(path, 0o660)
	}
	return l, err
}

// sweep removes a socket that a killed process left.
func sweep(path string) error {
	if st, err := os.Lstat(path); err != nil || st.Mode()&os.ModeSocket == 0 {
		return nil // listening will tell
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		_ = c.Close()
		return fmt.Errorf("%s is in use by another process: end it, or choose another --web.listen-address", path)
	}
	return os.Remove(path)
}

// configError names the file, which exporter-toolkit does not always, on one line.
func configError(file string, err error) error {
	s := view.OneLine(err)
	if !strings.Contains(s, file) {
		s = file + ": " + s
	}
	return fmt.Errorf("web config file: %s", s)
}
