package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/event"
)

// Races of two packets of one flow on two CPUs: both miss in the lookup, both
// make an entry, one insert finds the other's. The longer the rules between
// lookup and insert take (SlowDown), the more of them clash.

// RaceSocket sends every tuple twice at the same moment, from two threads that
// share one UDP socket in A (T3). The race is in A, which needs
// EnableConntrack and SlowDown(Output, ...). All flows have the source and the
// source port of the first.
func (r *Router) RaceSocket(ctx context.Context, f Flows) (*Truth, error) {
	f, n := f.normal(), f.Len()
	if f.Proto != event.ProtoUDP || f.Src.N > 1 || f.SPorts.N > 1 {
		return &Truth{}, fmt.Errorf("race of a socket: needs UDP and one source")
	}
	first := f.tuple(0)
	c, err := r.udpSocket(netip.AddrPortFrom(first.Src, first.Sport))
	if err != nil {
		return &Truth{}, err
	}
	defer unix.Close(c)
	return r.race(ctx, n, func(int) (racer, error) {
		return &socketRacer{fd: c, f: f}, nil
	})
}

// RacePackets sends every flow twice at the same moment, from two senders on
// two CPUs. With ViaStack the race is in A (T4b), which needs EnableConntrack
// and SlowDown(Output, ...); without, it is in R, which needs SlowDown(Forward, ...).
func (r *Router) RacePackets(ctx context.Context, f Flows, o SendOptions) (*Truth, error) {
	f, n := f.normal(), f.Len()
	return r.race(ctx, n, func(k int) (racer, error) {
		s, err := r.NewSender(r.A, SendOptions{CPU: k, ViaStack: o.ViaStack})
		if err != nil {
			return nil, err
		}
		s.bound = true // race has done it
		return &packetRacer{s: s, f: f}, nil
	})
}

// racer is one of the two sides of a race, bound to its CPU.
type racer interface {
	prepare(i int) error // not in a hurry
	send(i int) error    // at once
	end() (*Truth, error)
}

func (r *Router) race(ctx context.Context, n int, make func(k int) (racer, error)) (*Truth, error) {
	cpus := CPUs()
	if len(cpus) < 2 {
		return &Truth{}, ErrOneCPU
	}
	b := NewBarrier(2)
	var truths [2]*Truth
	var errs [2]error
	var wg sync.WaitGroup
	for k := range 2 {
		wg.Go(func() {
			defer b.Leave()
			errs[k] = onCPU(cpus[k], func() error {
				me, err := make(k)
				if err != nil {
					return err
				}
				err = run(ctx, b, n, me)
				var err2 error
				truths[k], err2 = me.end()
				return errors.Join(err, err2)
			})
		})
	}
	wg.Wait()
	sum := &Truth{}
	for _, t := range truths {
		if t != nil {
			sum.Add(t)
		}
	}
	return sum, errors.Join(errs[0], errs[1], r.Drain())
}

func run(ctx context.Context, b *Barrier, n int, me racer) error {
	for i := range n {
		if err := errors.Join(ctx.Err(), me.prepare(i)); err != nil {
			return err
		}
		b.Wait()
		if err := me.send(i); err != nil {
			return err
		}
	}
	return nil
}

type packetRacer struct {
	s *Sender
	f Flows
}

func (p *packetRacer) prepare(i int) error { return p.s.Send(p.f.packet(i)) }

func (p *packetRacer) send(int) error { return p.s.Flush() }

func (p *packetRacer) end() (*Truth, error) {
	err := p.s.Close()
	return p.s.Truth(), err
}

type socketRacer struct {
	fd    int
	f     Flows
	to    unix.Sockaddr
	truth Truth
}

func (s *socketRacer) prepare(i int) error {
	t := s.f.tuple(i)
	s.to = sockaddr(netip.AddrPortFrom(t.Dst, t.Dport))
	return nil
}

func (s *socketRacer) send(i int) error {
	for {
		err := unix.Sendto(s.fd, s.f.Payload, 0, s.to)
		if err == nil || errors.Is(err, unix.EPERM) {
			s.truth.note(s.f.tuple(i), len(s.f.Payload)+8+v4Header)
			if err != nil {
				s.truth.denied++
			}
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("send on shared socket: %w", err)
		}
	}
}

func (s *socketRacer) end() (*Truth, error) { return &s.truth, nil }

// udpSocket opens a blocking UDP socket in A.
func (r *Router) udpSocket(local netip.AddrPort) (fd int, err error) {
	fd = -1
	err = r.A.Do(func() (err error) {
		fd, err = unix.Socket(family(local.Addr()), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Bind(fd, sockaddr(local))
	})
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return -1, fmt.Errorf("open udp socket on %s: %w", net.UDPAddrFromAddrPort(local), err)
	}
	return fd, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}
