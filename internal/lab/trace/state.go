package trace

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
)

// state is what both sides say of one namespace at one moment.
type state struct {
	counters probe.Counters
	stats    []ctnl.CPUStats
	fill     ctnl.Fill
	gone     bool // closed by the test: the kernel's side is unknown
}

func (s state) equal(o state) bool {
	return s.counters == o.counters && slices.Equal(s.stats, o.stats) && s.fill == o.fill && s.gone == o.gone
}

// state reads both sides. It keeps nothing of the namespace open, which would
// keep the namespace alive.
func (tr *tracer) state(ns *netlab.NS) (s state, err error) {
	if ns.FD() < 0 {
		return state{counters: tr.p.CountersOf(ns.Inode()), gone: true}, nil
	}
	c, err := Dial(ns)
	if err != nil {
		return s, err
	}
	defer c.Close()
	if s.stats, err = c.Stats(); err != nil {
		return s, err
	}
	s.fill, err = c.Fill()
	s.counters = tr.p.CountersOf(ns.Inode())
	return s, err
}

// Dial opens ctnetlink in a namespace of the lab.
func Dial(ns *netlab.NS) (*ctnl.Conn, error) {
	n, err := ctnl.OpenNS(fmt.Sprintf("/proc/self/fd/%d", ns.FD()))
	if err != nil {
		return nil, err
	}
	return ctnl.Dial(n)
}

// entries counts the rows of a table as a dump tells them: those that are in
// the hash with their orig tuple. A dump reaps what has expired.
func entries(ns *netlab.NS) (n uint64, err error) {
	c, err := Dial(ns)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	for {
		n = 0
		err = c.Dump(context.Background(), func(*ctnl.Entry) error { n++; return nil })
		if !errors.Is(err, ctnl.ErrDumpInterrupted) {
			return n, err
		}
	}
}

// destroys sums all causes.
func destroys(c *probe.Counters) (n uint64) {
	for _, d := range c.Causes {
		n += d
	}
	return n
}

// sub returns what was counted from old to now.
func sub(now, old probe.Counters) probe.Counters {
	for _, p := range [][2]*uint64{
		{&now.New, &old.New}, {&now.NewByUser, &old.NewByUser}, {&now.ChainByUser, &old.ChainByUser}, {&now.ExtPost, &old.ExtPost},
		{&now.Alloc, &old.Alloc}, {&now.Free, &old.Free}, {&now.Taken, &old.Taken}, {&now.EvictingPackets, &old.EvictingPackets},
	} {
		*p[0] -= *p[1]
	}
	for i := range now.Reasons {
		now.Reasons[i] -= old.Reasons[i]
	}
	for i := range now.Causes {
		now.Causes[i] -= old.Causes[i]
	}
	return now
}

// count sums up events as the programs count.
func count(events []event.Event) (c probe.Counters) {
	for i := range events {
		switch e := &events[i]; e.Kind {
		case event.New:
			if e.ByUser {
				c.NewByUser++
			} else {
				c.New++
			}
		case event.Destroy:
			c.Causes[e.Cause]++
		default:
			c.Reasons[e.Reason]++
		}
	}
	return c
}
