package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/bench/measure"
	"github.com/ctsight/ctsight/internal/probe"
)

// A tap is something that watches the traffic.
type tap struct {
	name   string
	expiry bool // measure it with entries that time out too
	open   func(*road) (installed, error)
}

// installed is a tap in place. It is drained between batches, so that none
// overflows; what that costs does not count.
type installed interface {
	drain() error
	close() error
}

// reader is a tap that knows what its reading cost.
type reader interface {
	read() (events, lost int, insnsPerEvent float64)
}

func choose(all []tap, only string) []tap {
	if only == "" {
		return all
	}
	want := split(only)
	return slices.DeleteFunc(all, func(t tap) bool { return !slices.Contains(want, t.name) })
}

func allTaps() []tap {
	ours := func(name string, o probe.Options) tap {
		return tap{name: name, expiry: name == "ctsight", open: func(*road) (installed, error) {
			if o.Backend == "" { // never silently something else
				o.Backend = probe.Fentry
			}
			return openCtsight(o)
		}}
	}
	const confirm, alloc, destroy = "__nf_conntrack_confirm", "__nf_conntrack_alloc", "nf_ct_helper_destroy"
	only := func(symbol string) probe.Options {
		return probe.Options{Only: func(s string) bool { return s == symbol }}
	}
	rare := probe.Options{Only: func(s string) bool { return s != confirm && s != alloc && s != destroy }}
	return []tap{
		{name: "fentry-empty", open: empty(ebpf.AttachTraceFEntry, confirm)},
		{name: "fexit-empty", open: empty(ebpf.AttachTraceFExit, confirm)},
		ours("ctsight", probe.Options{}),
		ours("ctsight-confirm", only(confirm)),
		ours("ctsight-alloc", only(alloc)),
		ours("ctsight-destroy", probe.Options{Only: func(s string) bool { return s == destroy || s == "nf_ct_iterate_cleanup" }}),
		ours("ctsight-rare", rare),
		ours("ctsight-invalid", probe.Options{Invalid: true}),
		ours("ctsight-audit", probe.Options{Audit: true}),
		ours("ctsight-kprobe", probe.Options{Backend: probe.Kprobe}),
		{name: "ctnetlink", expiry: true, open: openListener},
		{name: "conntrack-E", open: openConntrackE},
		{name: "ti-mo", open: openTimo},
	}
}

// empty attaches a program that does nothing.
func empty(t ebpf.AttachType, fn string) func(*road) (installed, error) {
	return func(*road) (installed, error) {
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "empty", Type: ebpf.Tracing, AttachType: t, AttachTo: fn, License: "Dual BSD/GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		})
		if err != nil {
			return nil, err
		}
		l, err := link.AttachTracing(link.TracingOptions{Program: prog})
		if err != nil {
			return nil, errors.Join(err, prog.Close())
		}
		return attached{l, prog}, nil
	}
}

type attached struct {
	l link.Link
	p *ebpf.Program
}

func (attached) drain() error   { return nil }
func (a attached) close() error { return errors.Join(a.l.Close(), a.p.Close()) }

// ctsight is the probe without its running reader: drain reads what is there.
type ctsight struct {
	p            *probe.Probe
	events       int
	insns, calls uint64
	idle         uint64 // a call that finds nothing
}

func openCtsight(o probe.Options) (installed, error) {
	p, err := probe.Open(o)
	if err != nil {
		return nil, err
	}
	c := &ctsight{p: p, idle: ^uint64(0)}
	for range 8 {
		before := c.insns
		if err := c.drain(); err != nil {
			return nil, errors.Join(err, p.Close())
		}
		c.idle = min(c.idle, c.insns-before)
	}
	c.insns, c.calls, c.events = 0, 0, 0
	return c, nil
}

func (c *ctsight) drain() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	n := 0
	t := tsc()
	err := c.p.Run(ctx, func(*event.Event) error { n++; return nil })
	c.insns += tsc() - t
	c.calls++
	c.events += n
	runtime.Gosched()
	return err
}

func (c *ctsight) read() (events, lost int, perEvent float64) {
	return c.events, int(c.p.Loss().Lost), float64(c.insns-c.calls*c.idle) / float64(max(c.events, 1))
}

func (c *ctsight) close() error {
	if l := c.p.Loss(); l.Lost != 0 {
		return errors.Join(fmt.Errorf("%d records lost", l.Lost), c.p.Close())
	}
	return c.p.Close()
}

// listener is a ctnetlink socket in the NEW and DESTROY groups with room for
// everything: what the kernel does for any consumer of its events.
type listener struct {
	fd     int
	events int
	insns  uint64
	buf    []byte
}

func openListener(r *road) (installed, error) {
	l := &listener{buf: make([]byte, 64<<10)}
	err := r.ns.Do(func() (err error) {
		if l.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER); err != nil {
			return err
		}
		if err := unix.Bind(l.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
			return err
		}
		for _, g := range []int{unix.NFNLGRP_CONNTRACK_NEW, unix.NFNLGRP_CONNTRACK_DESTROY} {
			if err := unix.SetsockoptInt(l.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// drain is the cheapest reader there can be: it does not look at the messages.
func (l *listener) drain() error {
	t := tsc()
	defer func() { l.insns += tsc() - t }()
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(l.fd), ptr(&l.buf[0]), uintptr(len(l.buf)), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			l.events++
		case unix.EAGAIN:
			return nil
		default:
			return errno
		}
	}
}

func (l *listener) read() (events, lost int, perEvent float64) {
	return l.events, 0, float64(l.insns) / float64(max(l.events, 1))
}

func (l *listener) close() error { return unix.Close(l.fd) }

// process is a listener in a process of its own. It cannot run while we send,
// and gets as much time as it wants between the batches.
type process struct {
	cmd   *exec.Cmd
	start uint64
	said  bytes.Buffer
}

func startProcess(r *road, name string, args ...string) (installed, error) {
	p := &process{cmd: exec.Command(name, args...)}
	p.cmd.Stderr = &p.said
	if err := r.ns.Do(p.cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	nap(3000)
	p.start = p.used()
	return p, nil
}

func (p *process) used() uint64 {
	return cpuTime(fmt.Sprintf("/proc/%d/task/*/schedstat", p.cmd.Process.Pid))
}

func (p *process) drain() error {
	for last := p.used(); ; {
		nap(200)
		now := p.used()
		if now == last {
			break
		}
		last = now
	}
	return nil
}

func (p *process) read() (events, lost int, perEvent float64) {
	return roundEvents, 0, float64(p.used()-p.start) / roundEvents
}

// roundEvents is what one round gives to see.
const roundEvents = 2 * measure.Batches * measure.Packets

// close checks that nothing was lost: work not done would count as cheap.
func (p *process) close() error {
	_ = p.cmd.Process.Signal(unix.SIGTERM)
	nap(500)
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	if !strings.Contains(p.said.String(), fmt.Sprint(roundEvents, " flow events")) {
		return fmt.Errorf("not all of %d events seen: %s", roundEvents, bytes.TrimSpace(p.said.Bytes()))
	}
	return nil
}

func openConntrackE(r *road) (installed, error) {
	return startProcess(r, "conntrack", "-E", "-e", "NEW,DESTROY", "-b", "16777216")
}

func openTimo(r *road) (installed, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return startProcess(r, self, "-listen")
}
