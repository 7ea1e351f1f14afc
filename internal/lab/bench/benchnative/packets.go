package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/bench/measure"
	"github.com/ctsight/ctsight/internal/netlab"
)

// ofPackets has the backend that works here watch real connections through a router.
func ofPackets(ctx context.Context, rate int) (l measure.NativeLoad, err error) {
	lab, err := netlab.NewRouter(netlab.Options{Name: "ctsight-native"}) // without a name the backend would not find it
	if err != nil {
		return l, err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	l = measure.NativeLoad{View: "once", Rate: rate, Sources: sources}
	for _, delays := range []bool{false, true} {
		r, err := start(auto, "once", delays)
		if err != nil {
			return l, err
		}
		used, err := r.during(func() error { return flows(ctx, lab, rate) })
		s, e := r.stop()
		if err := errors.Join(err, e); err != nil {
			return l, err
		}
		l.Source = s.Backend
		if delays {
			l.Delay = s.Delay
			continue
		}
		if s.Told.New != sources {
			return l, fmt.Errorf("%d connections made, told of %d", sources, s.Told.New)
		}
		l.CPU = float64(used) / sources
		l.Least, l.Share = l.CPU, l.CPU*float64(rate)/1e9
	}
	return l, nil
}

// flows makes one connection of each source, in groups that are ended as they are full.
func flows(ctx context.Context, lab *netlab.Router, rate int) error {
	const groups = 50
	c, err := ctnl.Dial(ctnl.NS{Inode: lab.R.Inode(), Path: fmt.Sprintf("/proc/self/fd/%d", lab.R.FD())})
	if err != nil {
		return err
	}
	defer c.Close()
	f := netlab.Flows{Proto: event.ProtoUDP, Src: netlab.Addrs{First: netip.MustParseAddr("10.2.0.1"), N: sources},
		Dst: netlab.OneAddr(netlab.Sink(0)), SPorts: netlab.OnePort(20000), DPorts: netlab.OnePort(7001)}
	for i := range groups {
		if _, err := lab.SendFlows(ctx, f.Part(i, groups), netlab.SendOptions{Rate: float64(rate)}); err != nil {
			return err
		}
		if err := c.Flush(); err != nil {
			return err
		}
	}
	return nil
}
