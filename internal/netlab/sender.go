package netlab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/event"
)

const (
	batchLen = 64
	// inFlight is how many packets a sender lets queue up before it waits
	// for its mark. The queue of a CPU holds 1000 (netdev_max_backlog), and
	// two senders may share one.
	inFlight = 256
)

// SendOptions say how packets are sent; the zero value is as fast as it goes.
type SendOptions struct {
	// Rate is packets per second, 0 without limit. Burst many leave at
	// once, 0 means as many as are due.
	Rate  float64
	Burst int
	// CPU is an index into CPUs(), modulo its length: all packets of a
	// sender come from this one CPU.
	CPU int
	// ViaStack sends through A's own routing and netfilter hooks
	// (IPPROTO_RAW) instead of straight to the wire (AF_PACKET).
	ViaStack bool
}

// Sender sends packets from A or B and keeps their truth. One goroutine at a
// time may use it.
type Sender struct {
	r      *Router
	wire   *wire
	cpu    int
	bound  bool // the thread is bound to the CPU already
	stack  bool
	fd4    int // the packet socket, or IPv4's raw socket
	fd6    int
	queued int
	unsent int // packets since the last mark
	frames [batchLen][]byte
	credit [batchLen]event.Tuple
	msgs   [batchLen]mmsghdr
	iovs   [batchLen]unix.Iovec
	names  [batchLen]rawName
	truth  Truth
}

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// rawName is room for a sockaddr_in or a sockaddr_in6.
type rawName [unix.SizeofSockaddrInet6]byte

// NewSender opens a sender in A or B of the lab.
func (r *Router) NewSender(ns *NS, o SendOptions) (*Sender, error) {
	via := r.wires[0]
	if ns == r.B {
		via = r.wires[2]
	} else if ns != r.A {
		return nil, fmt.Errorf("open sender: only A and B send")
	}
	cpus := CPUs()
	s := &Sender{r: r, cpu: cpus[o.CPU%len(cpus)], stack: o.ViaStack, fd4: -1, fd6: -1}
	w, err := newWire(via.from, via.to, via.marks)
	if err != nil {
		return nil, err
	}
	s.wire = w
	if err := s.open(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Sender) open() error {
	p := s.wire.from
	if s.stack {
		return p.ns.Do(func() (err error) {
			if s.fd4, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
				return fmt.Errorf("open raw socket: %w", err)
			}
			if s.fd6, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
				return fmt.Errorf("open raw IPv6 socket: %w", err)
			}
			return nil
		})
	}
	s.fd4 = s.wire.tx
	head := make([]byte, 0, 14)
	head = append(head, p.peerMAC...)
	head = append(head, p.mac...)
	for i := range s.frames {
		s.frames[i] = append(make([]byte, 0, 256), append(head, 0, 0)...)
	}
	return nil
}

// Close sends what is still queued and closes the sender.
func (s *Sender) Close() error {
	err := s.Flush()
	if s.stack {
		for _, fd := range []*int{&s.fd4, &s.fd6} {
			if *fd >= 0 {
				unix.Close(*fd)
			}
		}
	}
	s.fd4, s.fd6 = -1, -1
	return errors.Join(err, s.wire.close())
}

// Truth returns what was sent so far; it stays the sender's own.
func (s *Sender) Truth() *Truth { return &s.truth }

// Send queues a packet; it leaves when the batch is full or at Flush.
func (s *Sender) Send(p Packet) error {
	b, err := p.Append(s.room(p.Tuple.Src.Is4()))
	if err != nil {
		return err
	}
	return s.enqueue(b, p.Tuple)
}

// SendRaw queues an IP packet built by the caller, such as a fragment; it is
// counted under the given tuple.
func (s *Sender) SendRaw(ip []byte, t event.Tuple) error {
	return s.enqueue(append(s.room(t.Src.Is4()), ip...), t)
}

// room returns the buffer of the next packet, up to where the IP header begins.
func (s *Sender) room(v4 bool) []byte {
	b := s.frames[s.queued]
	if s.stack {
		return b[:0]
	}
	b[12], b[13] = 0x08, 0x00
	if !v4 {
		b[12], b[13] = 0x86, 0xdd
	}
	return b[:14]
}

func (s *Sender) enqueue(b []byte, t event.Tuple) error {
	// sendmmsg takes one socket, so a batch has one family when the stack sends.
	if s.stack && s.queued > 0 && s.credit[0].Src.Is4() != t.Src.Is4() {
		keep := append([]byte(nil), b...)
		if err := s.Flush(); err != nil {
			return err
		}
		b = keep
	}
	s.frames[s.queued], s.credit[s.queued] = b, t
	s.queued++
	if s.queued == batchLen {
		return s.Flush()
	}
	return nil
}

// Flush sends what is queued. It returns when the kernel has taken it all.
func (s *Sender) Flush() error {
	if s.queued == 0 {
		return nil
	}
	return s.onCPU(s.flush)
}

// Sync flushes and waits until R has dealt with every packet of this sender.
func (s *Sender) Sync() error {
	return s.onCPU(func() error {
		if err := s.flush(); err != nil {
			return err
		}
		s.unsent = 0
		return s.wire.sync()
	})
}

// onCPU runs fn on the CPU of the sender.
func (s *Sender) onCPU(fn func() error) error {
	if s.bound {
		return fn()
	}
	return onCPU(s.cpu, func() error {
		s.bound = true
		defer func() { s.bound = false }()
		return fn()
	})
}

func (s *Sender) flush() error {
	n := s.queued
	s.queued = 0
	for i := range n {
		s.prepare(i)
	}
	deadline := time.Now().Add(patience)
	for done := 0; done < n; {
		k, err := s.sendmmsg(done, n)
		for i := done; i < done+k; i++ {
			s.truth.note(s.credit[i], s.ipLen(i))
		}
		done += k
		if err == nil {
			continue
		}
		if s.stack && errors.Is(err, unix.EPERM) { // dropped by A's own rules or conntrack
			s.truth.note(s.credit[done], s.ipLen(done))
			s.truth.denied++
			done++
			continue
		}
		if !temporary(err) || time.Now().After(deadline) {
			return fmt.Errorf("send packet %s > %s: %w", s.credit[done].Src, s.credit[done].Dst, err)
		}
		s.refused(err)
	}
	if s.unsent += n; s.unsent >= inFlight {
		s.unsent = 0
		return s.wire.sync()
	}
	return nil
}

// refused waits a little after the kernel refused a packet. Newer kernels say
// ENOBUFS when the veth's queue was full, and count a drop: that packet is
// sent again and is not lost.
func (s *Sender) refused(err error) {
	if errors.Is(err, unix.ENOBUFS) {
		s.r.mu.Lock()
		s.r.retried++
		s.r.mu.Unlock()
	}
	time.Sleep(100 * time.Microsecond)
}

func (s *Sender) ipLen(i int) int {
	if s.stack {
		return len(s.frames[i])
	}
	return len(s.frames[i]) - 14
}

func (s *Sender) prepare(i int) {
	m := &s.msgs[i]
	s.iovs[i].Base = &s.frames[i][0]
	s.iovs[i].SetLen(len(s.frames[i]))
	m.hdr = unix.Msghdr{Iov: &s.iovs[i]}
	m.hdr.SetIovlen(1)
	if s.stack {
		m.hdr.Name, m.hdr.Namelen = &s.names[i][0], s.names[i].set(s.credit[i].Dst)
	}
}

// set writes a socket address without a port and returns its length.
func (n *rawName) set(a netip.Addr) uint32 {
	*n = rawName{}
	if a.Is4() {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(n))
		sa.Family, sa.Addr = unix.AF_INET, a.As4()
		return unix.SizeofSockaddrInet4
	}
	sa := (*unix.RawSockaddrInet6)(unsafe.Pointer(n))
	sa.Family, sa.Addr = unix.AF_INET6, a.As16()
	return unix.SizeofSockaddrInet6
}

// sendmmsg sends messages from to n-1 and returns how many the kernel took.
// Through the stack it is one at a time: when a message but the first is
// refused the kernel does not say so, and to send it again would show it to
// A's conntrack twice.
func (s *Sender) sendmmsg(from, n int) (int, error) {
	fd := s.fd4
	if s.stack {
		n = from + 1
	}
	if s.stack && !s.credit[from].Src.Is4() {
		fd = s.fd6
	}
	k, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&s.msgs[from])), uintptr(n-from), 0, 0, 0)
	runtime.KeepAlive(s)
	if errno != 0 {
		return 0, errno
	}
	return int(k), nil
}

// SendFlows sends one packet of every flow, at the pace of the options, and
// waits until R has dealt with all of them.
func (s *Sender) SendFlows(ctx context.Context, f Flows, o SendOptions) error {
	f, n := f.normal(), f.Len()
	return s.onCPU(func() error {
		pace := newPacer(o)
		for i := 0; i < n; {
			due, err := pace.wait(ctx)
			if err != nil {
				return err
			}
			for ; due > 0 && i < n; due-- {
				if err := s.Send(f.packet(i)); err != nil {
					return err
				}
				i++
			}
			if pace.limited() {
				if err := s.Flush(); err != nil {
					return err
				}
			}
		}
		return s.Sync()
	})
}

// pacer says how many packets are due.
type pacer struct {
	rate  float64
	burst int
	start time.Time
	sent  float64
}

func newPacer(o SendOptions) *pacer { return &pacer{rate: o.Rate, burst: o.Burst, start: time.Now()} }

func (p *pacer) limited() bool { return p.rate > 0 }

// wait sleeps until packets are due and returns how many.
func (p *pacer) wait(ctx context.Context) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if !p.limited() {
		return batchLen, nil
	}
	n := max(p.burst, 1)
	at := p.start.Add(time.Duration(p.sent / p.rate * float64(time.Second)))
	if d := time.Until(at); d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	if p.burst == 0 { // catch up with all that is due by now
		n = max(n, min(batchLen, int(time.Since(p.start).Seconds()*p.rate-p.sent)))
	}
	p.sent += float64(n)
	return n, nil
}

// SendFlows sends one packet of every flow from A with a sender of its own.
func (r *Router) SendFlows(ctx context.Context, f Flows, o SendOptions) (*Truth, error) {
	return r.with(r.A, o, func(s *Sender) error { return s.SendFlows(ctx, f, o) })
}

// SendPackets sends packets from A, one after the other, and waits until R
// has dealt with them.
func (r *Router) SendPackets(o SendOptions, packets ...Packet) (*Truth, error) {
	return r.with(r.A, o, func(s *Sender) error {
		for _, p := range packets {
			if err := s.Send(p); err != nil {
				return err
			}
		}
		return s.Sync()
	})
}

// SendFragments sends a packet from A in fragments of at most size bytes.
func (r *Router) SendFragments(o SendOptions, p Packet, size int) (*Truth, error) {
	parts, err := p.Fragments(size)
	if err != nil {
		return nil, err
	}
	return r.with(r.A, o, func(s *Sender) error {
		for _, b := range parts {
			if err := s.SendRaw(b, p.Tuple); err != nil {
				return err
			}
		}
		return s.Sync()
	})
}

// with runs fn with a sender of its own and returns the sender's truth, also
// with an error; it is an error when the router missed a packet.
func (r *Router) with(ns *NS, o SendOptions, fn func(*Sender) error) (*Truth, error) {
	s, err := r.NewSender(ns, o)
	if err != nil {
		return &Truth{}, err
	}
	err = errors.Join(fn(s), s.Close())
	return s.Truth(), errors.Join(err, r.checkLost())
}

func (r *Router) checkLost() error {
	n, err := r.Lost()
	if err != nil {
		return err
	}
	if n > 0 {
		return fmt.Errorf("%d %w", n, ErrLost)
	}
	return nil
}

// SendParallel sends each of the flows from a CPU of its own (index 0, 1, ...),
// all started at the same time. The truths come in the order of the flows.
func (r *Router) SendParallel(ctx context.Context, o SendOptions, flows ...Flows) ([]*Truth, error) {
	truths, errs := make([]*Truth, len(flows)), make([]error, len(flows))
	b := NewBarrier(len(flows))
	var wg sync.WaitGroup
	for i, f := range flows {
		wg.Go(func() {
			mine := o
			mine.CPU = i
			truths[i], errs[i] = r.with(r.A, mine, func(s *Sender) error {
				return s.onCPU(func() error {
					b.Wait()
					return s.SendFlows(ctx, f, mine)
				})
			})
			b.Leave() // also when the sender never got there
		})
	}
	wg.Wait()
	return truths, errors.Join(errs...)
}
