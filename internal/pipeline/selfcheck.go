package pipeline

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
)

// selfCheckFlows is how many flows the self-check makes.
const selfCheckFlows = 5

// CheckRow is one expectation of the self-check.
type CheckRow struct {
	What      string // of which hook
	Hook      string
	Want, Got uint64
}

// OK says whether the hook saw everything.
func (r CheckRow) OK() bool { return r.Want == r.Got }

// SelfCheck proves the hooks on this build of the kernel: a symbol that can be
// attached may still have inlined copies that no program sees. It sends five
// UDP flows through network namespaces of its own, deletes one entry and
// flushes the rest, and returns what the programs counted there. No setting is
// changed. With Config.Audit it also checks allocations and frees. Backends that
// hook no function have nothing to prove.
func (p *Pipeline) SelfCheck(ctx context.Context) ([]CheckRow, error) {
	if _, ok := p.Source.(*Fallback); ok {
		return nil, nil
	}
	lab, err := netlab.NewRouter(netlab.Options{})
	if err != nil {
		return nil, fmt.Errorf("self-check: %w", err)
	}
	defer lab.Close()
	ns := lab.R.Inode()
	flows := netlab.Flows{Proto: event.ProtoUDP, Src: netlab.OneAddr(netip.MustParseAddr("10.0.1.2")),
		Dst: netlab.OneAddr(netlab.Sink(0)), SPorts: netlab.Ports{First: 40000, N: selfCheckFlows}, DPorts: netlab.OnePort(7000)}
	if _, err := lab.SendFlows(ctx, flows, netlab.SendOptions{}); err != nil {
		return nil, fmt.Errorf("self-check: %w", err)
	}
	conn, err := ctnl.Dial(ctnl.NS{Inode: ns, Path: fmt.Sprintf("/proc/self/fd/%d", lab.R.FD())})
	if err != nil {
		return nil, fmt.Errorf("self-check: %w", err)
	}
	defer conn.Close()
	if err := conn.Delete(flows.Tuple(0), 0); err != nil {
		return nil, fmt.Errorf("self-check: delete one entry: %w", err)
	}
	if err := conn.Flush(); err != nil {
		return nil, fmt.Errorf("self-check: flush: %w", err)
	}
	return p.checkRows(ctx, ns), nil
}

// checkRows waits until the counters are as expected, at most two seconds:
// entries are freed a little after they leave the table.
func (p *Pipeline) checkRows(ctx context.Context, ns event.NetNS) []CheckRow {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for {
		rows := p.compare(p.countersOf(ns))
		ok := true
		for _, r := range rows {
			ok = ok && r.OK()
		}
		if ok {
			return rows
		}
		select {
		case <-ctx.Done():
			return rows
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (p *Pipeline) compare(c probe.Counters) []CheckRow {
	var destroyed uint64
	for _, n := range c.Causes {
		destroyed += n
	}
	rows := []CheckRow{
		{"new entries", "__nf_conntrack_confirm", selfCheckFlows, c.New},
		{"destroys", "nf_ct_helper_destroy", selfCheckFlows, destroyed},
		{"destroys by user_delete", "ctnetlink_del_conntrack", 1, c.Causes[event.UserDelete]},
		{"destroys by user_flush", "nf_ct_iterate_cleanup", selfCheckFlows - 1, c.Causes[event.UserFlush]},
	}
	if p.cfg.Audit {
		rows = append(rows,
			CheckRow{"allocations", "__nf_conntrack_alloc", selfCheckFlows, c.Alloc},
			CheckRow{"frees", "nf_conntrack_free", selfCheckFlows, c.Free})
	}
	return rows
}
