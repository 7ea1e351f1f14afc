package plan

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/triage"
)

// Doc is everything that a plan tells.
type Doc struct {
	From, To time.Time
	Source   string // a capture, or the backend
	NetNS    event.NetNS
	Kernel   Kernel
	Memory   triage.Memory

	Classes []Cost
	Total   Cost
	Today   Run
	Need    Need
	Pools   []PoolNeed

	WhatIf   WhatIf
	Then     *Run    // nil when nothing is to be different
	Settles  float64 // entries that the change comes to in the end
	ThenNeed Need    // of that
	Notes    []string
}

// Need is what the limit must be.
type Need struct {
	Peak    float64 // entries, with what chance adds to them
	Limit   uint64  // so that Peak is at the first of Levels
	Suggest uint64  // Limit, or what there is when that is more
	Buckets uint64  // one for each entry of Suggest, as the kernel itself has it
}

// z is how many standard deviations a peak is above the mean: 1 in 30 000.
const z = 4.0

// Make draws up a plan.
func Make(r *Record, w WhatIf, m triage.Memory) (*Doc, error) {
	if err := r.Fits(&w); err != nil {
		return nil, err
	}
	d := &Doc{Kernel: r.Kernel, Memory: m, WhatIf: w, Today: r.Simulate(WhatIf{}), Pools: r.PoolNeeds(10)}
	d.Memory.Buckets = r.Kernel.Buckets
	d.Classes, d.Total = r.Costs()
	d.Need = d.need(float64(d.Today.Peak), d.Total.Offered)
	if w.Changes() {
		then := r.Simulate(w)
		d.Then, d.Settles = &then, r.settles(d.Total.Offered, &w, then.Late)
		d.ThenNeed = d.need(float64(then.Peak), d.Settles)
	}
	d.notes(r)
	return d, nil
}

// need is the highest of what was and what is to be expected: of the offered load a
// the mean is a and, the arrivals being phi times as variable as independent ones, the
// variance phi a.
func (d *Doc) need(peak, offered float64) (n Need) {
	n.Peak = max(peak, offered+z*math.Sqrt(d.Total.Dispersed*offered))
	n.Limit = up(max(1, uint64(math.Ceil(n.Peak/Levels[0]))), 1024)
	n.Suggest = max(n.Limit, d.Kernel.Max)
	n.Buckets = up(n.Suggest, headsPerPage)
	return n
}

// headsPerPage is what the kernel rounds the number of buckets up to
// (nf_ct_alloc_hashtable).
const headsPerPage = 4096 / 8

func up(n, to uint64) uint64 { return (n + to - 1) / to * to }

// Bytes is what a table of so many buckets takes when it holds n entries; 0 where the
// size of an entry is not known.
func (d *Doc) Bytes(n, buckets uint64) uint64 {
	if d.Memory.Object == 0 {
		return 0
	}
	return triage.Memory{Object: d.Memory.Object, Buckets: buckets}.Bytes(n)
}

func (d *Doc) notes(r *Record) {
	say := func(text string, args ...any) { d.Notes = append(d.Notes, fmt.Sprintf(text, args...)) }
	if d.Total.AtLeast {
		say("some entries are older than any that ended: their lifetime is a lower bound, look for longer")
	}
	if d.Total.Offered > 1.1*d.Total.Mean {
		say("the table has not settled: it held %.0f on average and is on its way to %.0f", d.Total.Mean, d.Total.Offered)
	}
	if r.Early > 0 {
		say("%d entries timed out sooner than the timeouts say (--recorded-timeout): they stay as they were in a what-if", r.Early)
	}
	if d.Then != nil && len(d.WhatIf.Timeouts) > 0 && !r.Lagless && len(r.passes) == 0 {
		say("the garbage collector was not seen: when it comes is a guess, and entries stay until it does, up to %s: look for longer", r.Kernel.longest())
	}
	if r.Lagless {
		say("this capture has no garbage collector: a kernel keeps entries up to a minute longer than their timeouts")
	}
	if d.Total.Refused > 0 {
		say("%d connections got no entry because the table was full: in a what-if they live as long as others of their protocol", d.Total.Refused)
	}
	if d.Then != nil && d.Then.Drops > 0 {
		say("who is refused tries again: in truth there are more drops than the %d first ones", d.Then.Drops)
	}
}

// Sysctl is the text for a file of sysctl.d. Nobody writes it but an operator.
func (d *Doc) Sysctl() string {
	var b strings.Builder
	need, seen, offered := &d.Need, d.Today.Peak, d.Total.Offered
	if d.Then != nil {
		need, seen, offered = &d.ThenNeed, d.Then.Peak, d.Settles
	}
	line := func(text string, args ...any) { fmt.Fprintf(&b, text+"\n", args...) }
	line("# ctsight plan, %s to %s (%s).", d.From.UTC().Format(time.RFC3339), d.To.UTC().Format(time.RFC3339), clean(d.Source))
	line("# %.0f new/s, %.0f in the busiest second; %d entries at most, %.0f when settled.",
		d.Total.Rate, float64(d.Total.Peak1s), d.Today.Peak, d.Total.Offered)
	if d.Then != nil {
		line("# What if, replayed: %.0f entries on average, %d at most, %d evicted, %d refused.", d.Then.Mean, d.Then.Peak, d.Then.Evicted+d.Then.EvictedGC, d.Then.Drops)
	}
	line("# Needed: %.0f = max(%d, a + %.0f sqrt(phi a)) with a = %.0f, phi = %.1f;", need.Peak, seen, z, offered, d.Total.Dispersed)
	line("# a limit of %d has it at %.0f %% of the table.", need.Limit, 100*Levels[0])
	if m := d.Bytes(need.Suggest, need.Buckets); m > 0 {
		line("# When full this takes %d MiB: %d bytes an entry, 8 a bucket.", m>>20, d.Memory.Object+triage.Extensions)
	}
	switch {
	case d.Kernel.Max == 0:
	case need.Suggest == d.Kernel.Max:
		line("# The limit of today is enough, and is kept.")
	default:
		line("# Today: %d.", d.Kernel.Max)
	}
	line("net.netfilter.nf_conntrack_max = %d", need.Suggest)
	if d.Kernel.Buckets == 0 || d.Kernel.Buckets < need.Suggest/4 {
		line("# A bucket for each entry, as the kernel itself has it from 5.15 on. Resizing locks the")
		line("# table for a moment; at boot: options nf_conntrack hashsize=%d.", need.Buckets)
		line("net.netfilter.nf_conntrack_buckets = %d", need.Buckets)
	}
	for _, c := range d.WhatIf.Timeouts {
		line("# %s: %s until now. New and refreshed entries only.", c.Timer.Short(), d.Kernel.Timeouts[c.Timer])
		line("net.netfilter.nf_conntrack_%s = %d", c.Timer, int(c.To.Seconds()))
	}
	return b.String()
}

// clean keeps a name from outside on its line.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
