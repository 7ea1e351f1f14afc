// Package triage makes of one picture of the tables what is to be known and done
// in the first five minutes of an incident: sentences with their numbers, and
// commands to type. It executes nothing, and asks neither the kernel nor the
// clock.
package triage

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
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
	Enter string // what runs a command there (EnterName, EnterPath), with a space at its end; "" for here

	// Of Focus only, their Total too (Census.NetNS): all shares are of it.
	Holders  agg.Top // sources by live entries
	Arrivals agg.Top // sources by new connections of the last second
	Targets  agg.Top // endpoints by live entries
	Prefixes agg.Top // source prefixes by live entries

	Held    *agg.Holdings // by state; nil when HeldErr says why
	HeldErr string

	Memory   Memory
	Timeouts map[string]int // sysctls nf_conntrack_*_timeout* of Focus, seconds
	Drops    []agg.ReasonCount
	Evicted  []agg.CauseCount // early_drop and early_drop_gc only
	Pools    []agg.Pool       // of Focus that had no free NAT port for some packets, most drops first
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
func (m Memory) Bytes(n uint64) uint64 { return uint64(m.bytes(n)) }

func (m Memory) bytes(n uint64) float64 {
	return float64(n)*float64(m.Object+Extensions) + float64(m.Buckets)*8
}

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
// is in Caution; Undo is the command that takes it back, "" where there is none.
// Commands are one line of printable ASCII for a shell.
type Action struct {
	What, Command, Caution, Undo string
}

// Thresholds of the sentences. They name what is written, not what is true: the
// numbers are beside it.
const (
	heavy     = 0.30 // of the table, or of what comes: one source
	half      = 0.50 // of its entries came to nothing: what does harm
	mostly    = 0.70
	spoofed   = 0.80 // different sources for each connection of an endpoint; the sketch that counts them errs by 6.5 %
	minForged = 1000 // connections, to say so
	scanPorts = 25   // different ports or hosts
	scanFails = 0.80 // first contacts that failed
	relatives = 3    // sources of one prefix that are in the lists: it is the prefix
)

// Judge fills in Findings and Actions.
func (d *Doc) Judge() {
	d.Findings = []Finding{d.fill(), d.rate(), d.toFull(), d.holders(), d.states(), d.lost(), d.nat(), d.character(), d.novelty()}
	d.Actions = d.actions()
	for i := range d.Findings {
		d.Findings[i].Answer = printable(d.Findings[i].Answer)
	}
}

// printable replaces what a terminal would not print: errors come from outside.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

func share(n, of uint64) float64 {
	if of == 0 {
		return 0
	}
	return min(1, float64(n)/float64(of))
}

func percent(f float64) string { return fmt.Sprintf("%.1f %%", 100*f) }

func mib(n float64) string { return fmt.Sprintf("%.0f MiB", n/(1<<20)) }

// finite is f where it is a number that something can be said of, else 0.
func finite(f float64) float64 {
	if f > 0 && f < 1e15 {
		return f
	}
	return 0
}

// seconds writes a time that people wait for.
func seconds(s float64) string {
	const day = 24 * 60 * 60
	switch {
	case !(s > 0):
		return "0s"
	case s < 1:
		return "less than 1s"
	case s >= 1000*day:
		return "more than 999 days"
	case s >= 2*day:
		return fmt.Sprintf("%.1f days", s/day)
	}
	text := time.Duration(s * float64(time.Second)).Round(time.Second).String()
	for _, zero := range []string{"0s", "0m"} { // 1m0s, 24h0m0s
		if short := strings.TrimSuffix(text, zero); strings.HasSuffix(short, "m") || strings.HasSuffix(short, "h") {
			text = short
		}
	}
	return text
}

func address(a netip.Addr) string {
	if !a.IsValid() {
		return "an unknown source"
	}
	return a.WithZone("").String()
}

func (d *Doc) fill() Finding {
	t, f := &d.Focus, Finding{Question: "how full"}
	switch {
	case t.Err != "":
		f.Answer = "not known: " + t.Err
		return f
	case t.Max == 0:
		f.Answer = fmt.Sprintf("%d entries, no limit is set", t.Entries)
	default:
		f.Answer = fmt.Sprintf("%d of %d entries (%s): %s", t.Entries, t.Max, percent(t.Fill()), t.Level)
	}
	if d.Memory.Object > 0 {
		f.Answer += fmt.Sprintf("; up to %s of kernel memory", mib(d.Memory.bytes(t.Entries)))
		if t.Max > 0 {
			f.Answer += fmt.Sprintf(", %s when full", mib(d.Memory.bytes(t.Max)))
		}
	}
	if t.Level >= agg.LevelAction && t.Max > 0 {
		f.Verdict = Suspicious
	}
	return f
}

func (d *Doc) rate() Finding {
	t := &d.Arrivals.Total
	return Finding{Question: "how fast", Answer: fmt.Sprintf("%.0f new/s over the last second, %.0f/s in the busiest 10 ms; %d new in %s",
		finite(t.S1), finite(t.Peak10ms), t.New, d.span())}
}

// span is how long was looked.
func (d *Doc) span() string { return max(0, d.To.Sub(d.From)).Round(100 * time.Millisecond).String() }

func (d *Doc) toFull() Finding {
	t, f := &d.Focus, Finding{Question: "time to full"}
	switch {
	case t.Err != "":
		f.Answer = "not known: " + t.Err
	case t.Max == 0:
		f.Answer, f.Verdict = "never: no limit is set", Ordinary
	case t.Entries >= t.Max:
		f.Answer, f.Verdict = "it is full: a new connection drives out an unassured one, or is lost", Anomalous
	case !t.Forecast:
		f.Answer = "not known yet: look for longer (--for 10s)"
	case t.TimeToFull == nil:
		f.Answer, f.Verdict = "never at this rate: entries end as fast as they come before the limit is reached", Ordinary
	default:
		f.Answer, f.Verdict = seconds(*t.TimeToFull), Suspicious
		if low := t.FullLow; low != nil && *low < *t.TimeToFull && seconds(*low) != f.Answer {
			f.Answer += " (at the earliest " + seconds(*low) + ")"
		}
	}
	return f
}

func (d *Doc) holders() Finding {
	f := Finding{Question: "who holds it"}
	all := d.Holders.Total.Live
	switch {
	case all == 0 && d.Focus.Entries > 0:
		f.Answer = fmt.Sprintf("not known: none of the %d entries was seen to begin, and the table was not read", d.Focus.Entries)
		return f
	case all == 0 || len(d.Holders.Rows) == 0:
		f.Answer = "nobody: the table is empty"
		return f
	}
	for i, r := range d.Holders.Rows[:min(3, len(d.Holders.Rows))] {
		if i > 0 {
			f.Answer += ", "
		}
		f.Answer += fmt.Sprintf("%s %d (%s)", address(r.Src), r.Live, percent(share(r.Live, all)))
	}
	if r, ok := d.widest(); ok {
		f.Answer += fmt.Sprintf("; of the prefixes %s %d (%s)", prefixOf(&r.Key), r.Live, percent(share(r.Live, all)))
	}
	if len(d.Targets.Rows) > 0 {
		r := d.Targets.Rows[0]
		f.Answer += fmt.Sprintf("; mostly towards %s, %d (%s)", endpoint(&r.Key), r.Live, percent(share(r.Live, all)))
	}
	if share(all, d.Focus.Entries) < 0.9 {
		f.Answer += fmt.Sprintf("; this is of the %d entries that are known", all)
	}
	if share(d.Holders.Rows[0].Live, all) >= heavy {
		f.Verdict = Suspicious
	}
	return f
}

// widest is the prefix that holds a large part though no source of it does.
func (d *Doc) widest() (agg.TopRow, bool) {
	if len(d.Prefixes.Rows) == 0 || len(d.Holders.Rows) == 0 {
		return agg.TopRow{}, false
	}
	r := d.Prefixes.Rows[0]
	return r, prefixOf(&r.Key).IsValid() && share(r.Live, d.Holders.Total.Live) >= heavy && r.Live/2 >= d.Holders.Rows[0].Live
}

func endpoint(k *agg.Key) string {
	if !k.Dst.IsValid() {
		return event.ProtoName(k.Proto)
	}
	if hasPorts(k.Proto) {
		return fmt.Sprintf("%s %s", event.ProtoName(k.Proto), netip.AddrPortFrom(k.Dst.WithZone(""), k.Dport))
	}
	return fmt.Sprintf("%s %s", event.ProtoName(k.Proto), address(k.Dst))
}

func hasPorts(proto uint8) bool {
	switch proto {
	case event.ProtoTCP, event.ProtoUDP, event.ProtoSCTP, event.ProtoDCCP, event.ProtoUDPLite:
		return true
	}
	return false
}

func (d *Doc) states() Finding {
	f := Finding{Question: "in which state"}
	if d.Held == nil {
		f.Answer = d.notWalked()
		return f
	}
	rows := d.Held.Rows()
	for i, r := range rows[:min(4, len(rows))] {
		if i > 0 && share(r.N, d.Held.N) < 0.01 {
			break
		}
		if i > 0 {
			f.Answer += ", "
		}
		f.Answer += fmt.Sprintf("%s %d (%s, %s left)", stateName(&r.HoldingKey), r.N, percent(share(r.N, d.Held.N)), seconds(r.Left.Seconds()))
	}
	f.Answer = cmp.Or(f.Answer, "the table is empty")
	if share(d.open(), d.Held.N) >= half {
		f.Answer += fmt.Sprintf("; %s came to nothing yet", percent(share(d.open(), d.Held.N)))
		f.Verdict = Suspicious
	}
	return f
}

func (d *Doc) notWalked() string {
	return "not known: " + cmp.Or(d.HeldErr, "this backend cannot look at live entries")
}

// nothing says whether an entry has led to nothing yet: no reply, or of a TCP
// handshake half. A SYN flood at an open port is replied to.
func nothing(k *agg.HoldingKey) bool {
	return !k.Replied || k.State == event.TCPSynRecv && !k.Assured
}

// open is how many entries of the table came to nothing yet.
func (d *Doc) open() (n uint64) {
	if d.Held == nil {
		return 0
	}
	for _, r := range d.Held.Rows() {
		if nothing(&r.HoldingKey) {
			n += r.N
		}
	}
	return n
}

func stateName(k *agg.HoldingKey) string {
	s := event.ProtoName(k.Proto)
	if k.State != event.TCPNone {
		s += " " + k.State.String()
		if k.State == event.TCPEstablished && !k.Replied {
			s += " unreplied"
		}
		return s
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
	var parts []string
	var worst agg.ReasonCount
	for _, r := range d.Drops {
		if r.Reason.IsRuleset() || r.Count == 0 {
			continue
		}
		parts = append(parts, fmt.Sprintf("%d packets to %s", r.Count, r.Reason))
		if r.Count > worst.Count {
			worst = r
		}
	}
	for _, c := range d.Evicted {
		if c.Count > 0 {
			parts = append(parts, fmt.Sprintf("%d entries to %s", c.Count, c.Cause))
		}
	}
	if len(parts) == 0 {
		f.Answer, f.Verdict = "nothing in "+d.span(), Ordinary
		return f
	}
	f.Answer, f.Verdict = strings.Join(parts, ", ")+" in "+d.span(), Anomalous
	if i := worst.Reason.Info(); i != nil && worst.Reason != event.TableFull { // of which all the rest tells
		f.Answer += fmt.Sprintf("; for %s: %s", i.Name, i.Do)
	}
	return f
}

func (d *Doc) nat() Finding {
	f := Finding{Question: "does it do NAT"}
	switch {
	case d.Held == nil:
		f.Answer = d.notWalked()
	case d.Held.NAT == 0:
		f.Answer = fmt.Sprintf("no: none of %d entries is translated", d.Held.N)
	default:
		f.Answer = fmt.Sprintf("yes: %d entries (%s) are translated", d.Held.NAT, percent(share(d.Held.NAT, d.Held.N)))
	}
	if len(d.Pools) > 0 {
		p := &d.Pools[0]
		f.Answer += fmt.Sprintf("; %s has no free port towards %s: %d packets lost", address(p.Src), endpoint(&p.Key), p.Drops)
		f.Verdict = Anomalous
	}
	return f
}
