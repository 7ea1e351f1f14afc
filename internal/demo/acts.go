package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/netlab"
)

// ordinaryFor is how long ordinary traffic runs.
const ordinaryFor = 4 * time.Second

// The burst: so many flows, so many at once, at this average.
const (
	burstLen  = 2000
	burstAt   = 200
	burstRate = 1000
)

// What is scanned: ports of the server that nobody listens on, but for three,
// and ports whose packets are dropped without an answer.
var (
	scanned     = netlab.Ports{First: 1, N: 600}
	silentPorts = netlab.Ports{First: netlab.SinkPorts.First, N: 100}
	openPorts   = []uint16{22, 80, 443}
)

// ordinary is act 1: web and DNS, as sockets do it.
func (s *show) ordinary(ctx context.Context) error {
	if err := s.tell.ordinaryBegins(ordinaryFor); err != nil {
		return err
	}
	s.rec.show(8, func(e *event.Event) bool { return clients.has(e.Orig.Src) })
	limited, cancel := context.WithTimeout(ctx, ordinaryFor)
	defer cancel()
	got, err := s.lab.Ordinary(limited, clients.addrs(), 20, 40)
	if err != nil {
		return err
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	for _, t := range got.Flows() {
		s.data.sent(t.Src, 1)
	}
	s.data.Unfinished = got.Refused + got.TimedOut + got.Failed
	s.data.Clients = s.rec.of(clients)
	return s.tell.ordinary(s.data)
}

// sent notes what a generator has sent.
func (s *show) sent(t *netlab.Truth) {
	for a, n := range t.FlowsBySource() {
		s.data.sent(a, n)
	}
}

// burst is act 2: flows of one source that leave in gusts.
func (s *show) burst(ctx context.Context) error {
	if err := s.tell.burstBegins(); err != nil {
		return err
	}
	f := netlab.Flows{Proto: event.ProtoUDP, Src: burster.addrs(), Dst: netlab.OneAddr(netlab.Sink(0)),
		SPorts: netlab.Ports{First: 1024, N: burstLen}, DPorts: netlab.OnePort(53), Payload: make([]byte, 32)}
	t, err := s.lab.SendFlows(ctx, f, netlab.SendOptions{Rate: burstRate, Burst: burstAt})
	if err != nil {
		return err
	}
	s.sent(t)
	if err := s.settle(ctx); err != nil {
		return err
	}
	s.data.Burst = s.rec.of(burster)
	return s.tell.burst(s.data)
}

// scan is act 3: a SYN to each of many ports of one host.
func (s *show) scan(ctx context.Context) error {
	if err := s.tell.scanBegins(scanned.N + silentPorts.N); err != nil {
		return err
	}
	var open []*netlab.Service
	defer func() {
		for _, o := range open { // also ends the repeated answers
			o.Close()
		}
	}()
	for _, p := range openPorts {
		o, err := s.lab.ServeTCP(netip.AddrPortFrom(netlab.ServerV4, p))
		if err != nil {
			return err
		}
		open = append(open, o)
	}
	s.rec.show(4, func(e *event.Event) bool { return scanner.has(e.Orig.Src) })
	for _, ports := range []netlab.Ports{scanned, silentPorts} {
		t, err := s.lab.Scan(ctx, scanner.first, netlab.ServerV4, ports, 1000)
		if err != nil {
			return err
		}
		s.sent(t)
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	answered, err := s.answered(ctx, scanner)
	if err != nil {
		return err
	}
	s.data.Scan, s.data.Open = s.rec.of(scanner), answered
	s.data.Found.After, s.data.Found.Ports, s.data.Found.Is = s.rec.scan(scanner.first)
	return s.tell.scan(s.data)
}

// answered lists the destination ports of a role's entries that saw a reply.
func (s *show) answered(ctx context.Context, ro role) ([]uint16, error) {
	var ports []uint16
	err := s.conn.Dump(ctx, func(e *ctnl.Entry) error {
		if ro.has(e.Orig.Src) && e.Status&event.SeenReply != 0 {
			ports = append(ports, e.Orig.Dport)
		}
		return nil
	})
	slices.Sort(ports)
	return ports, err
}

// full is act 4: the table is filled, then a flood and some customers want in.
func (s *show) full(ctx context.Context) error {
	s.data.Limit, s.data.Was, s.data.Skipped = s.plan.Limit, s.plan.Was, s.plan.Skip
	if err := s.tell.fullBegins(s.plan); err != nil || s.plan.Skip != "" {
		return err
	}
	if err := s.fill(ctx); err != nil {
		return err
	}
	s.data.FullAt = now().Sub(s.rec.start)
	if err := s.tell.filled(s.plan); err != nil {
		return err
	}
	before, err := s.conn.Stats()
	if err != nil {
		return err
	}
	s.watchTheFull()
	if err := s.flood(ctx); err != nil {
		return err
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	after, err := s.conn.Stats()
	if err != nil {
		return err
	}
	b, a := ctnl.Sum(before), ctnl.Sum(after)
	s.data.KernelDrop = gained(b, a, ctnl.StatDrop)
	s.data.KernelEarlyDrop = gained(b, a, ctnl.StatEarlyDrop)
	s.data.Losers = append(s.rec.of(flooder), s.rec.of(customers)...)
	s.data.Evictions, s.data.EvictedAssured = s.rec.evictions()
	s.data.EvictedGC = s.rec.byCause(event.EarlyDropGC)
	return s.tell.full(s.data)
}

// gained is how far a counter of 32 bits has moved.
func gained(b, a ctnl.Totals, c ctnl.Counter) uint64 {
	now, _ := a.Get(c)
	was, _ := b.Get(c)
	return uint64(uint32(now - was))
}

// fill empties the router's table, sets the limit where that was agreed, and
// fills the table to the last place.
func (s *show) fill(ctx context.Context) error {
	if err := s.conn.Flush(); err != nil {
		return err
	}
	if err := s.empty(ctx); err != nil {
		return err
	}
	if s.plan.Set() {
		if err := s.lab.SetSysctl(nil, "net.netfilter.nf_conntrack_max", strconv.Itoa(s.plan.Limit)); err != nil {
			return err
		}
	}
	t, err := s.lab.Fill(ctx, longLived.addrs(), s.plan.Assured, 0)
	if err != nil {
		return err
	}
	s.sent(t)
	const perHost = 60000
	f := netlab.Flows{Proto: event.ProtoUDP, Src: sensor.addrs(), Dst: netlab.Addrs{First: netlab.Sink(1), N: s.plan.Pending/perHost + 1},
		SPorts: netlab.Ports{First: 1024, N: perHost}, DPorts: netlab.OnePort(162), Count: s.plan.Pending}
	if t, err = s.lab.SendFlows(ctx, f, netlab.SendOptions{}); err != nil {
		return err
	}
	s.sent(t)
	return s.settle(ctx)
}

// empty waits until flushed entries are freed.
func (s *show) empty(ctx context.Context) error {
	for deadline := time.Now().Add(patience); ; {
		n, err := s.lab.R.ConntrackCount()
		if err != nil || n == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d entries are still there after a flush", n)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// watchTheFull shows some lines of each kind of trouble.
func (s *show) watchTheFull() {
	drops, evictions := 3, 3
	s.rec.show(drops+evictions, func(e *event.Event) bool {
		switch {
		case e.Kind == event.Drop && drops > 0:
			drops--
			return true
		case e.Kind == event.Destroy && e.Cause == event.EarlyDrop && evictions > 0:
			evictions--
			return true
		}
		return false
	})
}

// flood sends the flood, and beside it the customers.
func (s *show) flood(ctx context.Context) error {
	flows := []netlab.Flows{
		{Proto: event.ProtoUDP, Src: flooder.addrs(), Dst: netlab.OneAddr(netlab.Sink(3)),
			SPorts: netlab.Ports{First: 1024, N: floodLen}, DPorts: netlab.OnePort(53)},
		{Proto: event.ProtoTCP, Src: customers.addrs(), Dst: netlab.OneAddr(netlab.Sink(2)),
			SPorts: netlab.Ports{First: 40000, N: 20}, DPorts: netlab.OnePort(443), SpreadSources: true},
	}
	const seconds = 2
	truths, errs := make([]*netlab.Truth, len(flows)), make([]error, len(flows))
	var wg sync.WaitGroup
	for i, f := range flows {
		wg.Go(func() {
			truths[i], errs[i] = s.lab.SendFlows(ctx, f, netlab.SendOptions{Rate: float64(f.Len()) / seconds, CPU: i})
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, t := range truths {
		s.sent(t)
	}
	return nil
}
