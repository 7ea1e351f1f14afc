package ctnl

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/mdlayher/netlink"
)

// Counter is one of the kernel's statistics (struct ip_conntrack_stat).
type Counter uint8

// The counters in the order of conntrack -S.
const (
	StatFound         Counter = iota // a NAT tuple was in use already
	StatInvalid                      // packets that conntrack would not track
	StatInsert                       // entries made over netlink or by BPF, never by packets
	StatInsertFailed                 // entries that could not go into the table
	StatDrop                         // packets lost
	StatEarlyDrop                    // entries evicted to make room
	StatError                        // ICMP errors that refer to no flow
	StatSearchRestart                // lookups that met a moving entry
	StatClashResolve                 // races that ended well; 5.10 and later
	StatChainTooLong                 // buckets too full for an insert; 5.15 and later
	NumCounters
)

// statAttrs maps an attribute of enum ctattr_stats_cpu to its counter.
var statAttrs = map[uint16]Counter{
	2: StatFound, 4: StatInvalid, 8: StatInsert, 9: StatInsertFailed, 10: StatDrop,
	11: StatEarlyDrop, 12: StatError, 13: StatSearchRestart, 14: StatClashResolve, 15: StatChainTooLong,
}

// String returns the word of conntrack -S.
func (c Counter) String() string {
	names := [NumCounters]string{"found", "invalid", "insert", "insert_failed", "drop", "early_drop",
		"error", "search_restart", "clash_resolve", "chaintoolong"}
	if c < NumCounters {
		return names[c]
	}
	return fmt.Sprintf("counter%d", uint8(c))
}

// Known is the set of counters that a kernel has; bit n is Counter n.
type Known uint16

// Has says whether the kernel told this counter.
func (k Known) Has(c Counter) bool { return k&(1<<c) != 0 }

// CPUStats holds the counters of one CPU. They are 32 bits wide in the kernel
// and wrap; only differences mean something for long.
type CPUStats struct {
	CPU   uint16
	Known Known
	N     [NumCounters]uint32
}

// Get returns a counter; ok is false when this kernel does not have it.
func (s *CPUStats) Get(c Counter) (n uint32, ok bool) { return s.N[c], s.Known.Has(c) }

// Totals holds counters summed over CPUs.
type Totals struct {
	Known Known
	N     [NumCounters]uint64
}

// Get returns a counter; ok is false when this kernel does not have it.
func (t *Totals) Get(c Counter) (n uint64, ok bool) { return t.N[c], t.Known.Has(c) }

// Sum adds up all CPUs. A counter that one of them lacks is not known.
func Sum(cpus []CPUStats) Totals {
	var t Totals
	for i := range cpus {
		if i == 0 {
			t.Known = cpus[i].Known
		}
		t.Known &= cpus[i].Known
		for c, n := range cpus[i].N {
			t.N[c] += uint64(n)
		}
	}
	return t
}

// Sub returns what was counted from old to now, CPU by CPU, modulo 2^32: right
// as long as no counter of one CPU gains 2^32 in between. A CPU that is only in
// now has counted from 0; one that is only in old is left out.
func Sub(now, old []CPUStats) []CPUStats {
	before := make(map[uint16]*CPUStats, len(old))
	for i := range old {
		before[old[i].CPU] = &old[i]
	}
	out := make([]CPUStats, len(now))
	for i, s := range now {
		if o := before[s.CPU]; o != nil {
			s.Known &= o.Known
			for c := range s.N {
				s.N[c] -= o.N[c]
			}
		}
		out[i] = s
	}
	return out
}

// decodeStats fills s from the attributes and the res_id of one message.
func decodeStats(m message, s *CPUStats) error {
	*s = CPUStats{}
	b, cpu, err := m.body()
	if err != nil {
		return err
	}
	s.CPU = cpu
	for len(b) > 0 {
		typ, val, rest, err := cutAttr(b)
		if err != nil {
			return err
		}
		b = rest
		c, ok := statAttrs[typ]
		if !ok {
			continue
		}
		if err := be32(val, &s.N[c]); err != nil {
			return err
		}
		s.Known |= 1 << c
	}
	return nil
}

// Stats reads the counters of every possible CPU in the namespace. The
// kernel's CPUs count on while it is read: sums of different counters belong
// to slightly different moments.
func (c *Conn) Stats() ([]CPUStats, error) {
	var out []CPUStats
	err := c.do(context.Background(), request{typ: typeStatsCPU, flags: netlink.Dump}, func(m message) error {
		if m.typ != typeStatsCPU {
			return nil
		}
		var s CPUStats
		if err := decodeStats(m, &s); err != nil {
			return err
		}
		out = append(out, s)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("statistics: %w", notLoaded(err))
	}
	return out, nil
}

// Fill is how full a table is. Count is of the namespace and includes entries
// that are not yet in the table or still referenced after they left it. Max is
// one number for the machine, compared with each namespace's count by itself.
type Fill struct {
	Count, Max uint32
}

// Attributes of IPCTNL_MSG_CT_GET_STATS (enum ctattr_stats_global).
const (
	ctaStatsEntries    = 1 // CTA_STATS_GLOBAL_ENTRIES
	ctaStatsMaxEntries = 2 // CTA_STATS_GLOBAL_MAX_ENTRIES, 4.18 and later
)

// decodeFill reads the answer to typeStats. full says that it had both.
func decodeFill(m message) (f Fill, full bool, err error) {
	b, _, err := m.body()
	if err != nil {
		return f, false, err
	}
	var seen [3]bool
	for len(b) > 0 {
		typ, val, rest, err := cutAttr(b)
		if err != nil {
			return f, false, err
		}
		b = rest
		switch typ {
		case ctaStatsEntries:
			err = be32(val, &f.Count)
		case ctaStatsMaxEntries:
			err = be32(val, &f.Max)
		default:
			continue
		}
		if err != nil {
			return f, false, err
		}
		seen[typ] = true
	}
	return f, seen[ctaStatsEntries] && seen[ctaStatsMaxEntries], nil
}

// Fill reads count and limit, over netlink and where that is refused or
// incomplete from the sysctl files, which anybody may read.
func (c *Conn) Fill() (Fill, error) {
	f, full, err := c.askFill()
	if err == nil && full {
		return f, nil
	}
	if errors.Is(err, ErrClosed) {
		return Fill{}, err
	}
	f, serr := c.ns.fill()
	if serr != nil {
		return Fill{}, fmt.Errorf("count and limit: %w", errors.Join(err, serr))
	}
	return f, nil
}

// askFill asks over netlink. It is the cheapest request there is, and so the
// test whether the kernel answers any.
func (c *Conn) askFill() (f Fill, full bool, err error) {
	// The answer carries NLM_F_MULTI and no NLMSG_DONE follows: only the
	// acknowledgement ends it.
	err = c.do(context.Background(), request{typ: typeStats, flags: netlink.Acknowledge}, func(m message) (err error) {
		if m.typ == typeStats {
			f, full, err = decodeFill(m)
		}
		return err
	})
	return f, full, notLoaded(err)
}

// fill reads Fill from the sysctl files inside the namespace.
func (n NS) fill() (f Fill, err error) {
	err = n.Do(func() error {
		if f.Count, err = ReadSysctl("nf_conntrack_count"); err == nil {
			f.Max, err = ReadSysctl("nf_conntrack_max")
		}
		if errors.Is(err, os.ErrNotExist) {
			return ErrNotLoaded
		}
		return err
	})
	return f, err
}
