package netlab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/ctsight/ctsight/internal/event"
)

// The pieces of a demonstration. Each runs until it is done or its context
// ends, and says what it did; a context that ends is not an error.

// Ordinary runs what a healthy network does until the context ends: web-like
// TCP connections to ports 80 and 443 and DNS-like UDP queries to port 53 of
// B, from the given addresses of A in turn, at rates per second.
func (r *Router) Ordinary(ctx context.Context, clients Addrs, web, dns float64) (*Connections, error) {
	type kind struct {
		port uint16
		rate float64
		udp  bool
	}
	kinds := []kind{{80, web / 2, false}, {443, web / 2, false}, {53, dns, true}}
	results, errs := make([]*Connections, len(kinds)), make([]error, len(kinds))
	services := make([]*Service, len(kinds))
	for i, k := range kinds {
		serve := r.ServeTCP
		if k.udp {
			serve = r.ServeUDP
		}
		var err error
		services[i], err = serve(netip.AddrPortFrom(ServerV4, k.port))
		if err != nil {
			return &Connections{}, errors.Join(err, closeAll(services))
		}
	}
	var wg sync.WaitGroup
	for i, k := range kinds {
		if k.rate <= 0 {
			continue
		}
		wg.Go(func() {
			talk := r.ConnectTCP
			if k.udp {
				talk = r.QueryUDP
			}
			results[i], errs[i] = talk(ctx, ConnectOptions{
				N: 1 << 30, Src: clients, Dst: services[i].Addr(), Rate: k.rate, Parallel: 4,
			})
			errs[i] = unlessOver(errs[i])
		})
	}
	wg.Wait()
	sum := &Connections{}
	for _, c := range results {
		if c != nil {
			sum.OK += c.OK
			sum.Refused += c.Refused
			sum.TimedOut += c.TimedOut
			sum.Failed += c.Failed
			sum.Tuples = append(sum.Tuples, c.Tuples...)
		}
	}
	return sum, errors.Join(errors.Join(errs...), closeAll(services))
}

func closeAll(services []*Service) error {
	var errs []error
	for _, s := range services {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

// unlessOver drops the error that says that the context has ended.
func unlessOver(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// Burst sends n new UDP flows from one source, as a client gone wild does: to
// one port of one host that does not answer, from ever new source ports.
func (r *Router) Burst(ctx context.Context, src netip.Addr, n int, rate float64) (*Truth, error) {
	f := Flows{
		Proto: event.ProtoUDP, Src: OneAddr(src), Dst: Addrs{First: sinkFor(src), N: (n + 59999) / 60000},
		SPorts: Ports{First: 1024, N: min(n, 60000)}, DPorts: OnePort(53), Payload: make([]byte, 32), Count: n,
	}
	t, err := r.SendFlows(ctx, f, SendOptions{Rate: rate})
	return t, unlessOver(err)
}

// Scan sends a SYN to each port of a host from one source and source port, as
// masscan and nmap -sS do. Ports of B that are closed answer with a reset;
// ports of a sink address are silent.
func (r *Router) Scan(ctx context.Context, src, dst netip.Addr, ports Ports, rate float64) (*Truth, error) {
	f := Flows{
		Proto: event.ProtoTCP, Src: OneAddr(src), Dst: OneAddr(dst), SPorts: OnePort(54321), DPorts: ports,
	}
	t, err := r.SendFlows(ctx, f, SendOptions{Rate: rate})
	return t, unlessOver(err)
}

// Fill makes n entries at a rate per second that stay for long: established
// TCP connections of many sources which nobody closes. The truth is that of
// the client side.
func (r *Router) Fill(ctx context.Context, src Addrs, n int, rate float64) (*Truth, error) {
	f := Flows{
		Proto: event.ProtoTCP, Src: src, Dst: OneAddr(sinkFor(src.First)), SpreadSources: true,
		SPorts: Ports{First: 1024, N: 60000}, DPorts: OnePort(443), Count: n,
	}
	if got := f.Len(); got < n {
		return &Truth{}, fmt.Errorf("fill the table: %d sources give %d flows, not %d", max(src.N, 1), got, n)
	}
	t, err := r.ForgeTCP(SendOptions{})
	if err != nil {
		return &Truth{}, err
	}
	truth := t.Truth(Client)
	err = fill(ctx, t, f, rate)
	return truth, errors.Join(unlessOver(err), t.End(), r.checkLost())
}

// fill opens the connections in small groups, as they become due.
func fill(ctx context.Context, t *TCP, f Flows, rate float64) error {
	pace := newPacer(SendOptions{Rate: rate})
	for i, n := 0, f.Len(); i < n; {
		due, err := pace.wait(ctx)
		if err != nil {
			return err
		}
		due = min(due, n-i)
		tuples := make([]event.Tuple, due)
		for k := range tuples {
			tuples[k] = f.Tuple(i + k)
		}
		i += due
		t.begin(tuples)
		if err := t.Open(ctx); err != nil {
			return err
		}
	}
	return nil
}

func sinkFor(src netip.Addr) netip.Addr {
	if src.Is4() {
		return Sink(0)
	}
	return Sink6(0)
}
