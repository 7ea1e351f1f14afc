package demo

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/ctsight/ctsight/internal/ctnl"
)

const (
	// MaxFill is the largest table that the demo fills. The kernel takes
	// some 400 bytes for an entry, which is given back at the end.
	MaxFill    = 300_000
	entryBytes = 400
	// MinFill is the smallest limit that makes a story.
	MinFill = 200
	// floodLen flows come when the table is full.
	floodLen = 2000
)

// plan says how the table is filled. Early drop looks for entries that are not
// assured in 8 buckets from where the new one belongs, and every entry stands
// in two: so with U such entries and B buckets about 16 U / B of them are met.
// U is B / 32 where there is room for that: two packets of five find a victim.
// The flood makes up for those that are evicted.
type plan struct {
	Limit int // nf_conntrack_max while the table is filled
	Was   int // what it is without the demo; differs from Limit when it is set
	// Assured entries may not be evicted, Pending ones may; together they
	// are Limit.
	Assured, Pending int
	Skip             string // why the table is not filled, "" if it is
}

// Set says whether the demo has to change the limit.
func (p plan) Set() bool { return p.Limit != p.Was }

// newPlan is the arithmetic: the limit and the buckets of the machine, the
// limit asked for (0: none) and the memory that is free (0: not known).
func newPlan(limit, buckets, ask int, free uint64) plan {
	p := plan{Limit: limit, Was: limit}
	if ask > 0 {
		p.Limit = ask
	}
	switch {
	case p.Limit <= 0:
		p.Skip = "nf_conntrack_max is 0 here, so there is no limit"
	case p.Limit > MaxFill:
		p.Skip = fmt.Sprintf("nf_conntrack_max is %d here, and the demo makes %d at most", p.Limit, MaxFill)
	case p.Limit < MinFill:
		p.Skip = fmt.Sprintf("nf_conntrack_max is %d here, too few for a story", p.Limit)
	case free > 0 && uint64(p.Limit)*entryBytes > free/2:
		p.Skip = fmt.Sprintf("%d entries take %d MB, over half of the free memory", p.Limit, p.Limit*entryBytes/1e6)
	}
	if p.Skip != "" {
		p.Limit = p.Was
		return p
	}
	p.Pending = min(max(buckets/32, 50), 2*p.Limit/5)
	p.Assured = p.Limit - p.Pending
	return p
}

// makePlan looks at the machine. It refuses a limit that would make other
// namespaces lose packets: there is one for all of them.
func makePlan(c *ctnl.Conn, ask int) (plan, error) {
	f, err := c.Fill()
	if err != nil {
		return plan{}, err
	}
	if ask > 0 {
		if err := harmless(ask); err != nil {
			return plan{}, err
		}
	}
	buckets, err := ctnl.ReadSysctl("nf_conntrack_buckets")
	if err != nil {
		return plan{}, err
	}
	return newPlan(int(f.Max), int(buckets), ask, freeMemory()), nil
}

// harmless checks that no other namespace comes near a limit.
func harmless(limit int) error {
	all, err := ctnl.ListNetNS()
	if err != nil {
		return err
	}
	for _, ns := range all {
		c, err := ctnl.Dial(ns)
		if err != nil {
			return fmt.Errorf("--max %d holds for all network namespaces, and %d could not be looked at: %w", limit, ns.Inode, err)
		}
		f, err := c.Fill()
		c.Close()
		if err != nil {
			return err
		}
		if int(f.Count) > limit/2 {
			return fmt.Errorf("--max %d holds for all network namespaces, and %d has %d entries: it would lose packets", limit, ns.Inode, f.Count)
		}
	}
	return nil
}

// freeMemory is MemAvailable, 0 when it is not known.
func freeMemory() uint64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemAvailable:" {
			kb, _ := strconv.ParseUint(f[1], 10, 64)
			return kb << 10
		}
	}
	return 0
}
