package ctnl

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/event"
)

// socket is a NETLINK_NETFILTER socket in some network namespace. It receives
// into the caller's buffer, where mdlayher/netlink collects whole dumps.
type socket struct {
	nl     *netlink.Conn
	raw    syscall.RawConn
	closed atomic.Bool
	in     receive
	try    func(fd uintptr) bool // in.try, made once
}

// datagram says what a receive brought.
type datagram struct {
	n         int
	truncated bool // the buffer was too small
	// foreign is set when the sender was not the kernel. Whoever has
	// CAP_NET_ADMIN over the namespace, a container's root for one, may send
	// to our socket and make up answers and events.
	foreign bool
}

func openSocket(ns NS) (*socket, error) {
	// The kernel would load nf_conntrack by itself on our first request; we
	// came to watch, so with no conntrack there is nothing to do.
	if _, err := os.Stat("/sys/module"); err == nil {
		if _, err := os.Stat("/sys/module/nf_conntrack"); errors.Is(err, os.ErrNotExist) {
			return nil, ErrNotLoaded
		}
	}
	cfg := &netlink.Config{}
	f, err := ns.enter()
	if err != nil {
		return nil, err
	}
	if f != nil {
		defer f.Close()
		cfg.NetNS = int(f.Fd())
	}
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, cfg)
	if err != nil {
		return nil, sentinel(err)
	}
	raw, err := nl.SyscallConn()
	if err != nil {
		_ = nl.Close()
		return nil, err
	}
	s := &socket{nl: nl, raw: raw}
	s.try = s.in.try
	return s, nil
}

// close may be called twice; it ends a blocked receive.
func (s *socket) close() error {
	if s.closed.Swap(true) {
		return nil
	}
	return s.nl.Close()
}

// recv takes one datagram. Without block it returns EAGAIN when none waits,
// otherwise it waits until one comes, the read deadline passes or the socket
// is closed. It is for one goroutine at a time.
func (s *socket) recv(buf []byte, block bool) (datagram, error) {
	s.in.begin(buf, block)
	err := s.raw.Read(s.try)
	if err == nil && s.in.errno != 0 {
		err = s.in.errno
	}
	if s.closed.Load() {
		err = ErrClosed
	}
	return s.in.d, err
}

// receive is one call of recvmsg. It stays with the socket: under a flood there is one
// for every entry that goes, and what unix.Recvmsg makes for each was half of all the
// garbage that a process made then.
type receive struct {
	block bool
	from  unix.RawSockaddrNetlink
	iov   unix.Iovec
	msg   unix.Msghdr

	d     datagram
	errno syscall.Errno
}

func (r *receive) begin(buf []byte, block bool) {
	*r = receive{block: block, iov: unix.Iovec{Base: unsafe.SliceData(buf)}}
	r.iov.SetLen(len(buf))
}

// try says whether there is something to return.
func (r *receive) try(fd uintptr) bool {
	for {
		r.msg = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&r.from)), Namelen: unix.SizeofSockaddrNetlink, Iov: &r.iov}
		r.msg.SetIovlen(1)
		n, _, errno := unix.Syscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&r.msg)), 0)
		if r.errno = errno; errno == unix.EINTR {
			continue
		}
		if errno == 0 {
			r.d = datagram{n: int(n), truncated: r.msg.Flags&unix.MSG_TRUNC != 0, foreign: r.from.Pid != 0}
		}
		return !r.block || errno != unix.EAGAIN
	}
}

// send sends one nfnetlink request and returns its sequence number.
func (s *socket) send(typ uint16, flags netlink.HeaderFlags, family uint8, attrs []byte) (uint32, error) {
	data := append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...)
	if err := s.nl.SetWriteDeadline(time.Now().Add(replyTimeout)); err != nil {
		return 0, s.closedOr(err)
	}
	m, err := s.nl.Send(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.Request | flags},
		Data:   data,
	})
	return m.Header.Sequence, s.closedOr(err)
}

// sendRaw sends requests that have their headers, all in one datagram. The kernel
// has worked on them when it returns.
func (s *socket) sendRaw(b []byte) error {
	var err error
	cerr := s.raw.Control(func(fd uintptr) {
		for {
			if err = unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	if cerr != nil {
		err = cerr
	}
	return s.closedOr(err)
}

func (s *socket) closedOr(err error) error {
	if err != nil && s.closed.Load() {
		return ErrClosed
	}
	return err
}

// drops reads how many messages the kernel could not put into the socket's
// buffer (sk_drops). It counts modulo 2^32.
func (s *socket) drops() (uint32, error) {
	mem, err := s.meminfo()
	return mem[skMeminfoDrops], err
}

// queued reads how much memory of the receive buffer is in use: 0 when every
// datagram has been taken.
func (s *socket) queued() (uint32, error) {
	mem, err := s.meminfo()
	return mem[skMeminfoRmemAlloc], err
}

func (s *socket) meminfo() (mem [skMeminfoVars]uint32, err error) {
	size := uint32(unsafe.Sizeof(mem))
	var errno syscall.Errno
	err = s.raw.Control(func(fd uintptr) {
		// x/sys/unix has no getsockopt for an array; mem and size live on
		// this stack until the call returns.
		_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&mem)), uintptr(unsafe.Pointer(&size)), 0)
	})
	switch {
	case err != nil:
		return mem, s.closedOr(err)
	case errno != 0:
		return mem, fmt.Errorf("SO_MEMINFO: %w", errno)
	}
	return mem, nil
}

// Places of the array that SO_MEMINFO returns (uapi/linux/sock_diag.h).
const (
	skMeminfoRmemAlloc = 0
	skMeminfoDrops     = 8
	skMeminfoVars      = 9
)

// now reads CLOCK_MONOTONIC, the clock of the BPF side.
func now() event.Ktime {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return event.Ktime(ts.Nano())
}
