package netlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/event"
)

// Service is a server in B: it echoes what it is sent.
type Service struct {
	addr     netip.AddrPort
	closer   io.Closer
	done     sync.WaitGroup
	answered atomic.Uint64

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// Addr returns the address the service listens on.
func (s *Service) Addr() netip.AddrPort { return s.addr }

// Answered returns how many connections or requests the service has had.
func (s *Service) Answered() uint64 { return s.answered.Load() }

// Close stops the service and waits for its goroutines.
func (s *Service) Close() error {
	err := s.closer.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.done.Wait()
	return err
}

// ServeTCP starts a TCP echo server in B.
func (r *Router) ServeTCP(addr netip.AddrPort) (*Service, error) {
	var l net.Listener
	err := r.B.Do(func() (err error) {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		l, err = lc.Listen(context.Background(), "tcp", addr.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("serve tcp %s: %w", addr, err)
	}
	s := &Service{addr: l.Addr().(*net.TCPAddr).AddrPort(), closer: l, conns: make(map[net.Conn]struct{})}
	s.done.Go(func() { s.accept(l) })
	r.onClose(s.Close)
	return s, nil
}

func (s *Service) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // a connection that was reset in the queue, or no descriptor left
			time.Sleep(time.Millisecond)
			continue
		}
		s.answered.Add(1)
		s.mu.Lock()
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		s.done.Go(func() {
			// Bare reader and writer: no splice, whose pipes would stay open for later.
			io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
			c.Close()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
	}
}

// ServeUDP starts a UDP echo server in B.
func (r *Router) ServeUDP(addr netip.AddrPort) (*Service, error) {
	var c *net.UDPConn
	err := r.B.Do(func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("serve udp %s: %w", addr, err)
	}
	s := &Service{addr: c.LocalAddr().(*net.UDPAddr).AddrPort(), closer: c}
	s.done.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				s.answered.Add(1)
				c.WriteToUDPAddrPort(buf[:n], from)
			}
		}
	})
	r.onClose(s.Close)
	return s, nil
}

// ConnectOptions say what real sockets in A do.
type ConnectOptions struct {
	N        int
	Src      Addrs // addresses of A, used in turn; zero lets the kernel choose
	Dst      netip.AddrPort
	Parallel int           // sockets at a time; 0 means 8
	Bytes    int           // sent and echoed; 0 means 100
	Reset    bool          // end with RST instead of FIN
	Timeout  time.Duration // of one connection; 0 means as long as a packet may take
	Rate     float64       // connections per second; 0 without limit
}

// Connections is what became of them.
type Connections struct {
	OK, Refused, TimedOut, Failed int
	Tuples                        []event.Tuple // of those that were OK
}

// Flows are the different tuples. The kernel picks source ports by chance, and
// a port used again while its entry is alive is the same flow.
func (c *Connections) Flows() []event.Tuple {
	seen := make(map[event.Tuple]bool, len(c.Tuples))
	return slices.DeleteFunc(slices.Clone(c.Tuples), func(t event.Tuple) bool {
		again := seen[t]
		seen[t] = true
		return again
	})
}

func (c *Connections) add(t event.Tuple, err error) {
	var ne net.Error
	switch {
	case err == nil:
		c.OK++
		c.Tuples = append(c.Tuples, t)
	case errors.Is(err, unix.ECONNREFUSED):
		c.Refused++
	case errors.Is(err, unix.ETIMEDOUT), errors.As(err, &ne) && ne.Timeout():
		c.TimedOut++
	default:
		c.Failed++
	}
}

// ConnectTCP makes connections from A: each sends, reads the echo and closes.
func (r *Router) ConnectTCP(ctx context.Context, o ConnectOptions) (*Connections, error) {
	return r.connect(ctx, o, "tcp", talkTCP)
}

// QueryUDP sends requests from A, each from a socket of its own, and waits for
// the answer.
func (r *Router) QueryUDP(ctx context.Context, o ConnectOptions) (*Connections, error) {
	return r.connect(ctx, o, "udp", talkUDP)
}

// connect runs o.N conversations on o.Parallel threads in A.
func (r *Router) connect(ctx context.Context, o ConnectOptions, network string, talk func(net.Conn, ConnectOptions) error) (*Connections, error) {
	if o.Timeout == 0 {
		o.Timeout = patience
	}
	if o.Bytes == 0 {
		o.Bytes = 100
	}
	out := &Connections{}
	var mu sync.Mutex
	err := r.workers(ctx, o, func(i int) {
		t, err := o.one(network, i, talk)
		mu.Lock()
		defer mu.Unlock()
		out.add(t, err)
	})
	return out, err
}

// workers calls fn with 0 to o.N-1 from threads in A, at the pace of o.
func (r *Router) workers(ctx context.Context, o ConnectOptions, fn func(i int)) error {
	parallel := o.Parallel
	if parallel <= 0 {
		parallel = 8
	}
	jobs := make(chan int)
	errs := make([]error, min(parallel, max(o.N, 1)))
	var wg sync.WaitGroup
	for k := range errs {
		wg.Go(func() {
			errs[k] = r.A.Do(func() error {
				for i := range jobs {
					fn(i)
				}
				return nil
			})
			for range jobs { // a thread that could not enter A must not block the others
			}
		})
	}
	err := feed(ctx, o, jobs)
	close(jobs)
	wg.Wait()
	return errors.Join(append(errs, err)...)
}

func feed(ctx context.Context, o ConnectOptions, jobs chan<- int) error {
	pace := newPacer(SendOptions{Rate: o.Rate})
	for i := 0; i < o.N; {
		due, err := pace.wait(ctx)
		if err != nil {
			return err
		}
		for ; due > 0 && i < o.N; due-- {
			select {
			case jobs <- i:
			case <-ctx.Done():
				return ctx.Err()
			}
			i++
		}
	}
	return nil
}

// one is one conversation; the thread is in A. It has a timeout of its own
// and is not cut short: what was begun is counted.
func (o ConnectOptions) one(network string, i int, talk func(net.Conn, ConnectOptions) error) (event.Tuple, error) {
	d := net.Dialer{Timeout: o.Timeout, LocalAddr: o.local(network, i)}
	c, err := d.Dial(network, o.Dst.String())
	if err != nil {
		return event.Tuple{}, err
	}
	defer c.Close()
	t := tupleOf(c)
	if err := c.SetDeadline(time.Now().Add(o.Timeout)); err != nil {
		return t, err
	}
	return t, talk(c, o)
}

func (o ConnectOptions) local(network string, i int) net.Addr {
	if !o.Src.First.IsValid() {
		return nil
	}
	a := netip.AddrPortFrom(o.Src.At(i%max(o.Src.N, 1)), 0)
	if network == "udp" {
		return net.UDPAddrFromAddrPort(a)
	}
	return net.TCPAddrFromAddrPort(a)
}

func tupleOf(c net.Conn) event.Tuple {
	port := func(a net.Addr) netip.AddrPort {
		switch a := a.(type) {
		case *net.TCPAddr:
			return a.AddrPort()
		case *net.UDPAddr:
			return a.AddrPort()
		}
		return netip.AddrPort{}
	}
	src, dst := port(c.LocalAddr()), port(c.RemoteAddr())
	t := event.Tuple{Src: src.Addr().Unmap(), Dst: dst.Addr().Unmap(), Sport: src.Port(), Dport: dst.Port(), Proto: event.ProtoTCP}
	if _, ok := c.(*net.UDPConn); ok {
		t.Proto = event.ProtoUDP
	}
	return t
}

func talkTCP(c net.Conn, o ConnectOptions) error {
	tc := c.(*net.TCPConn)
	if _, err := tc.Write(make([]byte, o.Bytes)); err != nil {
		return err
	}
	if o.Reset {
		if _, err := io.ReadFull(tc, make([]byte, o.Bytes)); err != nil {
			return err
		}
		return tc.SetLinger(0)
	}
	if err := tc.CloseWrite(); err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, tc)
	if err == nil && n != int64(o.Bytes) {
		err = fmt.Errorf("echo of %d bytes, not %d", n, o.Bytes)
	}
	return err
}

func talkUDP(c net.Conn, o ConnectOptions) error {
	b := make([]byte, o.Bytes)
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err := c.Read(b)
	return err
}

// ScanResult is what a connect scan found, sorted.
type ScanResult struct {
	Open, Closed, Silent []uint16
}

// ConnectScan tries to connect from A to each port of a host, as nmap -sT
// does; a port that gives no answer within the timeout is silent. Dst gives
// the address; N and Bytes of the options are not used.
func (r *Router) ConnectScan(ctx context.Context, o ConnectOptions, ports Ports) (*ScanResult, error) {
	if o.Timeout == 0 {
		o.Timeout = 200 * time.Millisecond
	}
	o.N = ports.N
	out := &ScanResult{}
	var mu sync.Mutex
	addr := o.Dst.Addr()
	err := r.workers(ctx, o, func(i int) {
		mine := o
		mine.Dst = netip.AddrPortFrom(addr, ports.At(i))
		_, err := mine.one("tcp", i, func(c net.Conn, _ ConnectOptions) error { return c.(*net.TCPConn).SetLinger(0) })
		mu.Lock()
		defer mu.Unlock()
		list := &out.Silent
		if err == nil {
			list = &out.Open
		} else if errors.Is(err, unix.ECONNREFUSED) {
			list = &out.Closed
		}
		*list = append(*list, ports.At(i))
	})
	for _, l := range [][]uint16{out.Open, out.Closed, out.Silent} {
		slices.Sort(l)
	}
	return out, err
}
