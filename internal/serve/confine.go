package serve

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"github.com/ctsight/ctsight/internal/config"
	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/sandbox"
	"github.com/ctsight/ctsight/internal/view"
)

// confine gives up what is not needed once the probes are attached, and says what
// is kept.
func (s *server) confine(c *config.Config) error {
	if c.Sandbox.Capabilities == "drop" {
		d, err := sandbox.Drop(sandbox.Needs())
		if err != nil {
			return fmt.Errorf("%w (sandbox.capabilities: keep leaves them)", err)
		}
		s.log.Info("privileges", "capabilities", d.String())
		for _, n := range d.Missing {
			s.log.Warn("a capability is missing", "name", n.Name, "without", n.Why)
		}
	}
	for _, f := range sandbox.Unreadable(c.Files()) {
		s.log.Warn("cannot be read any more, a reload will fail: give it to the user or group of ctsight", "file", f)
	}
	return s.landlock(c)
}

// landlock restricts files and ports where that costs nothing: see sandbox.Landlock
// for what it does cost.
func (s *server) landlock(c *config.Config) error {
	switch c.Sandbox.Landlock {
	case "off":
		return nil
	case "auto":
		if why := onlyByProcess(c); why != "" {
			s.log.Info("privileges", "landlock", "off: "+why+" (sandbox.landlock: on forces it)")
			return nil
		}
	}
	o := s.opened(c)
	said, err := sandbox.Landlock(o)
	if (errors.Is(err, sandbox.ErrNoLandlock) || errors.Is(err, sandbox.ErrNoLinks)) && c.Sandbox.Landlock == "auto" {
		s.log.Info("privileges", "landlock", err.Error())
		return nil
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.confined = &o
	s.log.Info("privileges", "landlock", said)
	return nil
}

// runtimes are where container runtimes keep their state: their network namespaces
// come and go, and their names are found by their processes only.
var runtimes = []string{"/run/containerd", "/run/docker", "/run/crio", "/run/podman", "/run/k3s"}

// onlyByProcess says why network namespaces may have to be found by a process in
// them, which Landlock forbids; "" when they need not be.
func onlyByProcess(c *config.Config) string {
	if c.CRI.Socket != "" {
		return "names of pods are found by their processes"
	}
	for _, r := range runtimes {
		if _, err := os.Stat(r); err == nil {
			return "a container runtime is here (" + r + "), whose namespaces are found by their processes"
		}
	}
	all, err := ctnl.ListNetNS()
	if err != nil {
		return view.OneLine(err)
	}
	for i, ns := range all {
		if i > 0 && ns.Name == "" { // the first is our own
			return fmt.Sprintf("network namespace %s is found by its processes only", ns.Inode)
		}
	}
	return ""
}

// opened is what the configuration has read, written and asked while it runs. Ports
// that are listened on were opened before.
func (s *server) opened(c *config.Config) sandbox.Options {
	var o sandbox.Options
	for _, f := range append(c.Files(), s.o.ConfigFile) {
		if f != "" { // the directory: who changes a file puts a new one in its place
			o.Read = append(o.Read, filepath.Dir(f))
		}
	}
	if c.CRI.Socket != "" {
		o.Sockets = append(o.Sockets, c.CRI.Socket)
	}
	if systemd := os.Getenv("NOTIFY_SOCKET"); filepath.IsAbs(systemd) { // else abstract, which is not restricted
		o.Sockets = append(o.Sockets, systemd)
	}
	for _, r := range c.RemoteWrite {
		if p, ok := portOf(r.URL); ok {
			o.Connect = append(o.Connect, p)
		}
	}
	if p, ok := portOf(c.Feed.NATS.URL); ok && c.Feed.NATS.URL != "" {
		o.Connect = append(o.Connect, p)
	}
	if file := c.Feed.File; file != "" && file != "-" { // the directory: after logrotate a new one is made
		if dir, err := filepath.Abs(filepath.Dir(file)); err == nil {
			o.Write = append(o.Write, dir)
		}
	}
	o.Write = append(o.Write, s.reliefs.written(c)...)
	if c.Flight.Dir != "" {
		o.Keep = append(o.Keep, c.Flight.Dir)
	}
	return o
}

// portOf is the TCP port of an address.
func portOf(address string) (uint16, bool) {
	u, err := url.Parse(address)
	if err != nil {
		return 0, false
	}
	port := u.Port()
	if port == "" {
		n, err := net.LookupPort("tcp", u.Scheme)
		return uint16(n), err == nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return uint16(n), err == nil
}
