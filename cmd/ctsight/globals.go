package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/filter"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/probe"
)

// globals are the flags that every command shares, and where it writes.
type globals struct {
	stdout, stderr io.Writer

	output    string
	backend   string
	netns     string
	noColor   bool
	numeric   bool
	logLevel  string
	logFormat string
	criSocket string

	known     *names
	live      atomic.Bool   // the screen is taken: no messages
	verbosity slog.LevelVar // of all messages; a reload may change it
}

func (g *globals) flags(f *pflag.FlagSet) {
	f.StringVarP(&g.output, "output", "o", "text", "output format: text or json")
	f.StringVar(&g.backend, "backend", probe.Auto, "how to look: auto, fentry, kprobe, netfilter or netlink")
	f.StringVar(&g.netns, "netns", "", "only this network namespace, by name or inode (default all)")
	f.StringVar(&g.criSocket, "cri.socket", "", "ask this container runtime for the names of pods, as /run/containerd/containerd.sock (default off)")
	f.BoolVar(&g.noColor, "no-color", false, "no colours (also NO_COLOR)")
	f.BoolVarP(&g.numeric, "numeric", "n", true, "addresses and ports as numbers (always so)")
	f.StringVar(&g.logLevel, "log.level", "info", "messages to stderr: debug, info, warn or error")
	f.StringVar(&g.logFormat, "log.format", "text", "messages to stderr as: text or json")
}

// check validates what flags alone cannot.
func (g *globals) check() error {
	if g.output != "text" && g.output != "json" {
		return fmt.Errorf("%w: -o %q: text or json", errUsage, g.output)
	}
	switch g.backend {
	case probe.Auto, probe.Fentry, probe.Kprobe, probe.Netfilter, probe.Netlink:
	default:
		return fmt.Errorf("%w: --backend %q: auto, fentry, kprobe, netfilter or netlink", errUsage, g.backend)
	}
	if g.logFormat != "text" && g.logFormat != "json" {
		return fmt.Errorf("%w: --log.format %q: text or json", errUsage, g.logFormat)
	}
	var l slog.Level
	if err := l.UnmarshalText([]byte(g.logLevel)); err != nil {
		return fmt.Errorf("%w: --log.level %q: debug, info, warn or error", errUsage, g.logLevel)
	}
	g.verbosity.Set(l)
	return nil
}

func (g *globals) json() bool { return g.output == "json" }

func (g *globals) logger() *slog.Logger {
	o := &slog.HandlerOptions{Level: &g.verbosity}
	if g.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(g.stderr, o))
	}
	return slog.New(slog.NewTextHandler(g.stderr, o))
}

// color says whether stdout is a terminal that wants colours.
func (g *globals) color() bool {
	if _, off := os.LookupEnv("NO_COLOR"); off || g.noColor || os.Getenv("TERM") == "dumb" {
		return false
	}
	f, ok := g.stdout.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// filter parses the arguments and adds --netns.
func (g *globals) filter(args []string) (*filter.Filter, error) {
	text := ""
	for i, a := range args {
		if i > 0 {
			text += " "
		}
		text += a
	}
	f, err := filter.Parse(text, filter.Options{NetNS: g.netnsByName})
	if err != nil || g.netns == "" {
		return f, err
	}
	ns, err := g.resolveNetNS(g.netns)
	if err != nil {
		return nil, err
	}
	both := "netns " + ns.String()
	if !f.All() {
		both += " and (" + f.String() + ")"
	}
	return filter.Parse(both, filter.Options{})
}

// names begins to know names. It may wait for a container runtime, so it comes
// before anything is attached.
func (g *globals) names() *names {
	if g.known == nil {
		g.known = newNames(g.criSocket, func(err error) {
			if !g.live.Load() {
				g.logger().Warn(oneLine(err))
			}
		})
		g.known.refresh()
	}
	return g.known
}

// namesNow also know the pods that have come since, for what is printed once.
func (g *globals) namesNow() *names {
	n := g.names()
	n.refresh()
	return n
}

// resolveNetNS takes a name of /run/netns, an inode number or the name of a pod or
// container as it is shown, and checks that such a namespace exists.
func (g *globals) resolveNetNS(s string) (event.NetNS, error) {
	all, err := ctnl.ListNetNS()
	if err != nil {
		return 0, err
	}
	inode, numErr := strconv.ParseUint(s, 10, 32)
	for _, ns := range all {
		if ns.Name == s || (numErr == nil && ns.Inode == event.NetNS(inode)) {
			return ns.Inode, nil
		}
	}
	if ns, ok := g.names().lookup(s); ok {
		return ns, nil
	}
	return 0, fmt.Errorf("%w: --netns %q: no such network namespace, see `ip netns` and `lsns -t net`", errUsage, s)
}

func (g *globals) netnsByName(name string) (event.NetNS, bool) {
	ns, err := g.resolveNetNS(name)
	return ns, err == nil
}

// open starts a pipeline, saying so when it has to wait for nf_conntrack.
func (g *globals) open(ctx context.Context, cfg pipeline.Config) (*pipeline.Pipeline, error) {
	cfg.Backend = g.backend
	log := g.logger()
	if cfg.Waiting == nil {
		cfg.Waiting = func() { log.Info("waiting for nf_conntrack to be loaded (modprobe nf_conntrack)") }
	}
	cfg.Tracing = func() { log.Debug("tracing") }
	saveMemory()
	p, err := pipeline.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	g.tell(p, cfg.Invalid)
	return p, nil
}

// tell logs what is traced and what is missing.
func (g *globals) tell(p *pipeline.Pipeline, invalid bool) {
	log := g.logger()
	r := p.Report()
	log.Debug("attached", "backend", r.Backend)
	if p.Refused != nil {
		log.Warn("no better backend works here, see ctsight doctor", "backend", r.Backend, "answer", oneLine(p.Refused))
	}
	if invalid && (r.Backend == probe.Netfilter || r.Backend == probe.Netlink) {
		log.Warn("this backend does not tell of invalid packets", "backend", r.Backend)
	}
	for _, h := range r.Hooks {
		if h.Backend == "" && !errors.Is(h.Err, os.ErrNotExist) {
			log.Warn("hook not attached", "hook", h.Symbol, "lost", h.Lost, "answer", oneLine(h.Err))
		}
	}
}

// warn tells of problems that did not end the command.
func (g *globals) warn(problems []error) {
	for _, err := range problems {
		g.logger().Warn(oneLine(err))
	}
}

// limited bounds a context in time; 0 is no bound.
func limited(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if d <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, d)
}

// version is what the Go toolchain recorded at build time.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" || v == "(devel)" {
		v = "devel"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 && v == "devel" {
			v += "-" + s.Value[:12]
		}
	}
	return v
}
