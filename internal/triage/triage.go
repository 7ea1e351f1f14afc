// Package triage makes of one picture of the tables what is to be known and done
// in the first five minutes of an incident: sentences with their numbers, and
// commands to type. It executes nothing, and asks neither the kernel nor the
// clock.
package triage

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// Doc is everything that a triage tells.
type Doc struct {
	From, To time.Time
	Backend  string
	Table    []agg.TableState
	// Focus is the namespace that the rest is about: the fullest, or the one
	// that was asked for.
	Focus agg.TableState
	Enter string // what runs a command there, with a space at its end; "" for here

	Holders  agg.Top // sources by live entries
	Arrivals agg.Top // sources by new connections of the last second
	Targets  agg.Top // endpoints by live entries
	Prefixes agg.Top // source prefixes by live entries

	Held    *agg.Holdings // by state; nil when HeldErr says why
	HeldErr string

	Memory   Memory
	Timeouts map[string]int // sysctls nf_conntrack_*_timeout* of Focus, seconds
	Drops    []agg.ReasonCount
	Evicted  []agg.CauseCount
	Loss     agg.Loss

	Findings []Finding
	Actions  []Action
}

// Memory is what entries cost.
type Memory struct {
	Object  int    // bytes of an entry in its slab, 0 unknown
	Buckets uint64 // of the hash table, 8 bytes each
}

// Extensions is what an entry takes beside its slab object as soon as it has any
// extension (NAT, accounting, events, labels): NF_CT_EXT_PREALLOC of
// net/netfilter/nf_conntrack_extend.c, one kmalloc-128.
const Extensions = 128

// Bytes is what n entries take in the kernel, at most: with extensions.
func (m Memory) Bytes(n uint64) uint64 { return n*uint64(m.Object+Extensions) + m.Buckets*8 }

// Verdict is what a finding says of the load.
type Verdict string

// Verdicts, from harmless to hostile.
const (
	Ordinary   Verdict = "ordinary"
	Suspicious Verdict = "suspicious"
	Anomalous  Verdict = "anomalous"
)

// Finding is one sentence with its numbers.
type Finding struct {
	Question string
	Answer   string
	Verdict  Verdict // "" where it judges nothing
}

// Action is a command to type and what it is good for. What it costs or breaks
// is in Caution.
type Action struct {
	What, Command, Caution string
}

// Thresholds of the sentences. They name what is written, not what is true: the
// numbers are beside it.
const (
	heavy     = 0.30 // of the table, or of what comes: one source
	mostly    = 0.70
	spoofed   = 0.90 // different sources for each connection
	scanPorts = 25   // different ports or hosts
	scanFails = 0.80 // first contacts that failed
)

// Judge fills in Findings and Actions.
func (d *Doc) Judge() {
	d.Findings = []Finding{d.fill(), d.rate(), d.toFull(), d.holders(), d.states(), d.lost(), d.nat()}
	d.Findings = append(d.Findings, d.character(), d.novelty())
	d.Actions = d.actions()
}

func share(n, of uint64) float64 {
	if of == 0 {
		return 0
	}
	return float64(n) / float64(of)
}

func percent(f float64) string { return fmt.Sprintf("%.1f %%", 100*f) }

func mib(n uint64) string { return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20)) }

func (d *Doc) fill() Finding {
	t := &d.Focus
	a := fmt.Sprintf("%d of %d entries (%s): %s", t.Entries, t.Max, percent(t.Fill()), t.Level)
	if d.Memory.Object > 0 {
		a += fmt.Sprintf("; they take up to %s of kernel memory, a full table %s", mib(d.Memory.Bytes(t.Entries)), mib(d.Memory.Bytes(t.Max)))
	}
	f := Finding{Question: "how full", Answer: a}
	if t.Level >= agg.LevelAction {
		f.Verdict = Suspicious
	}
	return f
}

func (d *Doc) rate() Finding {
	r := d.Arrivals.Total.Rates
	return Finding{Question: "how fast", Answer: fmt.Sprintf("%.0f new/s over the last second, %.0f/s in the busiest 10 ms, from %d sources",
		r.S1, r.Peak10ms, d.Arrivals.Tracked)}
}

func (d *Doc) toFull() Finding {
	t := &d.Focus
	f := Finding{Question: "time to full"}
	switch {
	case t.Max > 0 && t.Entries >= t.Max:
		f.Answer, f.Verdict = "now", Anomalous
	case !t.Forecast:
		f.Answer = "not known yet: look for longer (--for 10s)"
	case t.TimeToFull == nil:
		f.Answer, f.Verdict = "never at this rate: entries end as fast as they come before the limit is reached", Ordinary
	default:
		f.Answer = seconds(*t.TimeToFull)
		if t.FullLow != nil {
			f.Answer += " (at the earliest " + seconds(*t.FullLow) + ")"
		}
		f.Verdict = Suspicious
	}
	return f
}

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Second).String()
}

func (d *Doc) holders() Finding {
	f := Finding{Question: "who holds it"}
	all := d.Holders.Total.Live
	if all == 0 || len(d.Holders.Rows) == 0 {
		f.Answer = "nobody is known: " + cmp.Or(d.HeldErr, "the table is empty")
		return f
	}
	for i, r := range d.Holders.Rows[:min(3, len(d.Holders.Rows))] {
		if i > 0 {
			f.Answer += ", "
		}
		f.Answer += fmt.Sprintf("%s %d (%s)", r.Src, r.Live, percent(share(r.Live, all)))
	}
	if len(d.Targets.Rows) > 0 {
		r := d.Targets.Rows[0]
		f.Answer += fmt.Sprintf("; mostly towards %s, %d entries (%s)", endpoint(&r.Key), r.Live, percent(share(r.Live, all)))
	}
	if share(d.Holders.Rows[0].Live, all) >= heavy {
		f.Verdict = Suspicious
	}
	return f
}

func endpoint(k *agg.Key) string {
	if k.Proto == event.ProtoTCP || k.Proto == event.ProtoUDP || k.Dport != 0 {
		return fmt.Sprintf("%s %s", event.ProtoName(k.Proto), netip.AddrPortFrom(k.Dst, k.Dport))
	}
	return fmt.Sprintf("%s %s", event.ProtoName(k.Proto), k.Dst)
}

func (d *Doc) states() Finding {
	f := Finding{Question: "in which state"}
	if d.Held == nil {
		f.Answer = "not known: " + d.HeldErr
		return f
	}
	for i, r := range d.Held.Rows() {
		if i == 4 {
			break
		}
		if i > 0 {
			f.Answer += ", "
		}
		f.Answer += fmt.Sprintf("%s %d (%s, %s left)", stateName(&r.HoldingKey), r.N, percent(share(r.N, d.Held.N)), r.Left.Round(time.Second))
	}
	f.Answer = cmp.Or(f.Answer, "the table is empty")
	if share(d.Held.Unreplied, d.Held.N) >= mostly {
		f.Verdict = Suspicious
	}
	return f
}

func stateName(k *agg.HoldingKey) string {
	s := event.ProtoName(k.Proto)
	if k.State != event.TCPNone {
		return s + " " + k.State.String()
	}
	switch {
	case k.Assured:
		return s + " assured"
	case k.Replied:
		return s + " replied"
	}
	return s + " unreplied"
}

func (d *Doc) lost() Finding {
	f := Finding{Question: "what is lost"}
	for _, r := range d.Drops {
		if r.Reason.IsRuleset() {
			continue
		}
		f.Answer += fmt.Sprintf("%d packets to %s, ", r.Count, r.Reason)
		f.Verdict = Anomalous
	}
	for _, c := range d.Evicted {
		f.Answer += fmt.Sprintf("%d entries to %s, ", c.Count, c.Cause)
		f.Verdict = Anomalous
	}
	if f.Answer == "" {
		return Finding{Question: f.Question, Answer: "nothing in this time", Verdict: Ordinary}
	}
	f.Answer = f.Answer[:len(f.Answer)-2] + fmt.Sprintf(" in %s", d.To.Sub(d.From).Round(100*time.Millisecond))
	return f
}

func (d *Doc) nat() Finding {
	f := Finding{Question: "does this node do NAT"}
	switch {
	case d.Held == nil:
		f.Answer = "not known: " + d.HeldErr
	case d.Held.NAT == 0:
		f.Answer = "no entry is translated"
	default:
		f.Answer = fmt.Sprintf("yes: %d entries (%s) are translated", d.Held.NAT, percent(share(d.Held.NAT, d.Held.N)))
	}
	return f
}

// character says what the load looks like.
func (d *Doc) character() Finding {
	f := Finding{Question: "legitimate or not"}
	total := d.Arrivals.Total
	if total.New == 0 {
		f.Answer, f.Verdict = "nothing new came in this time", Ordinary
		return f
	}
	if scan, ok := d.scanner(); ok {
		failed := scan.Refused + scan.Unanswered
		f.Answer = fmt.Sprintf("%s looks like a scan: %d ports and %d hosts, %d of its %d first contacts failed", scan.Src,
			scan.DistinctDports, scan.DistinctDsts, failed, failed+scan.Answered)
		f.Verdict = Anomalous
		return f
	}
	unreplied := 0.0
	if d.Held != nil {
		unreplied = share(d.Held.Unreplied, d.Held.N)
	}
	sources := share(uint64(d.Arrivals.Tracked), total.New)
	top := d.Arrivals.Rows[0]
	switch {
	case total.New >= 1000 && sources >= spoofed && unreplied >= mostly:
		f.Answer = fmt.Sprintf("looks like a flood with forged sources: %d sources for %d connections, %s of the entries unreplied; do not block addresses",
			d.Arrivals.Tracked, total.New, percent(unreplied))
		f.Verdict = Anomalous
	case share(top.New, total.New) >= heavy && unreplied >= mostly:
		f.Answer = fmt.Sprintf("%s opens %s of all connections and %s of the entries are unreplied: a flood, or a service that is down", top.Src,
			percent(share(top.New, total.New)), percent(unreplied))
		f.Verdict = Anomalous
	case share(top.New, total.New) >= heavy && d.Arrivals.Tracked > 3:
		f.Answer = fmt.Sprintf("%s opens %s of all connections, and they are answered: a busy client, or a pool that was lost", top.Src, percent(share(top.New, total.New)))
		f.Verdict = Suspicious
	default:
		f.Answer = fmt.Sprintf("looks like ordinary load: %s of the entries are answered, the first of %d sources opens %s", percent(1-unreplied),
			d.Arrivals.Tracked, percent(share(top.New, total.New)))
		f.Verdict = Ordinary
	}
	return f
}

// scanner is the source with the most different targets, if most of what it
// tried failed.
func (d *Doc) scanner() (agg.TopRow, bool) {
	rows := slices.Concat(d.Arrivals.Rows, d.Holders.Rows)
	if len(rows) == 0 {
		return agg.TopRow{}, false
	}
	r := slices.MaxFunc(rows, func(a, b agg.TopRow) int {
		return cmp.Compare(max(a.DistinctDports, a.DistinctDsts), max(b.DistinctDports, b.DistinctDsts))
	})
	failed := r.Refused + r.Unanswered
	return r, max(r.DistinctDports, r.DistinctDsts) >= scanPorts && failed >= scanPorts && share(failed, failed+r.Answered) >= scanFails
}

// novelty says whether the present rate is what filled the table: at a steady
// load a source has as large a share of what comes as of what is there.
func (d *Doc) novelty() Finding {
	f := Finding{Question: "is that new"}
	if len(d.Arrivals.Rows) == 0 || d.Arrivals.Total.S1 == 0 {
		f.Answer = "nothing comes"
		return f
	}
	top := d.Arrivals.Rows[0]
	came, holds := share(uint64(top.S1*1000), uint64(d.Arrivals.Total.S1*1000)), share(top.Live, d.Holders.Total.Live)
	f.Answer = fmt.Sprintf("%s is %s of what comes and %s of what is there", top.Src, percent(came), percent(holds))
	if top.Live > 0 && top.S1 > 0 && came >= heavy {
		age := float64(top.Live) / top.S1
		f.Answer += fmt.Sprintf("; at %.0f/s all it holds came in the last %s", top.S1, seconds(age))
		if came >= 2*holds || age < 60 {
			f.Answer += ": it has just begun"
			f.Verdict = Suspicious
		}
	}
	return f
}
