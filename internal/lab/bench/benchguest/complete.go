package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/lab/bench/measure"
	"github.com/ctsight/ctsight/internal/netlab"
)

// load is traffic that readers have to follow while it comes. It makes connections
// and ends them, and returns how many.
type load struct {
	name string
	run  func(*road, *process) (int, error)
}

var loads = []load{{"paced", paced}, {"flood", flood}}

// order of the programs in the results.
var order = []string{"ctsight", "ctnetlink", "conntrack-E", "ti-mo", "bpftrace-count", "bpftrace-print"}

// deliveries runs every load in front of every program, with sockets as the kernel
// gives them. The one CPU is shared by packets and readers as on any machine that is
// short of them: packets come from a process like others.
func deliveries(lab *netlab.Router, only string) (out []measure.Delivery, err error) {
	if err := os.WriteFile("/proc/sys/net/core/rmem_default", []byte("212992"), 0); err != nil {
		return nil, err
	}
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr}, 0); err != nil {
		return nil, fmt.Errorf("end real time: %w", err)
	}
	r, err := openForward(lab)
	if err != nil {
		return nil, err
	}
	defer r.close()
	for _, l := range loads {
		for _, name := range order {
			if !wanted(name, only) {
				continue
			}
			d, err := deliver(l, name, r)
			if err != nil {
				return nil, fmt.Errorf("%s before %s: %w", l.name, name, err)
			}
			fmt.Printf("%-8s %-22s made %d told %d new %d destroyed, delay %d us\n", l.name, name, d.Made, d.Told.New, d.Told.Destroyed, d.Delay)
			out = append(out, d)
		}
	}
	return out, nil
}

func deliver(l load, name string, r *road) (measure.Delivery, error) {
	d := measure.Delivery{Load: l.name, Tap: name}
	p, err := startProgram(r, name, false)
	if err != nil {
		return d, err
	}
	if d.Made, err = l.run(r, p); err != nil {
		return d, err
	}
	if err := p.drain(); err != nil {
		return d, err
	}
	printed, err := p.stop()
	d.Told, d.Delay = p.count(printed), delays(printed)
	return d, err
}

// delays reads what the reader has printed of the age of its events.
func delays(printed string) []int {
	_, rest, ok := strings.Cut(printed, "delay ")
	v := make([]int, 3)
	if _, err := fmt.Sscan(rest, &v[0], &v[1], &v[2]); !ok || err != nil {
		return nil
	}
	return v
}

// paced makes ten connections every 10 ms and ends them after half of that time.
func paced(r *road, _ *process) (int, error) {
	const group, groups = 10, 200
	var cost [group]uint64
	for i := range groups {
		if err := r.send(i*group, cost[:]); err != nil {
			return 0, err
		}
		nap(5)
		if n := r.count(); n != group {
			return 0, fmt.Errorf("%d entries, not %d", n, group)
		}
		if err := r.flush(); err != nil {
			return 0, err
		}
		nap(5)
	}
	return group * groups, nil
}

// flood makes connections as fast as they can be made, lets the reader finish, and
// ends them all at once.
func flood(r *road, p *process) (int, error) {
	cost := make([]uint64, measure.Flood)
	if err := r.send(0, cost); err != nil {
		return 0, err
	}
	if n := r.count(); n != measure.Flood {
		return 0, fmt.Errorf("%d entries, not %d", n, measure.Flood)
	}
	if err := p.drain(); err != nil {
		return 0, err
	}
	return measure.Flood, r.flush()
}
