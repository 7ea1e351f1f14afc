package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/event"
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
	return slices.DeleteFunc(all, func(t tap) bool { return !wanted(t.name, only) })
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
		peer("conntrack-E"), peer("ti-mo"), peer("bpftrace-count"), peer("bpftrace-print"),
	}
}

// peer is a tap that is a program of its own.
func peer(name string) tap {
	return tap{name: name, open: func(r *road) (installed, error) { return startProgram(r, name, true) }}
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
		l.fd, err = listenSocket(64 << 20)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// listenSocket joins the two groups, with a buffer of the size asked for, 0 for the
// default. A receive ends after a second, to look whether all is to end.
func listenSocket(buffer int) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, err
	}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if err == nil && buffer > 0 {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer)
	}
	for _, g := range []int{unix.NFNLGRP_CONNTRACK_NEW, unix.NFNLGRP_CONNTRACK_DESTROY} {
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g)
		}
	}
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
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
