package demo

import (
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// teller writes the story as text of 80 columns. After a write has failed it
// says nothing more and returns that error.
type teller struct {
	w     io.Writer
	color bool
	err   error
}

func (t *teller) say(format string, args ...any) error {
	if t.err == nil {
		_, t.err = fmt.Fprintf(t.w, format, args...)
	}
	return t.err
}

// headline begins an act.
func (t *teller) headline(format string, args ...any) error {
	return t.say("\n%s\n", t.sgr("1", fmt.Sprintf(format, args...)))
}

func (t *teller) sgr(code, s string) string {
	if !t.color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (t *teller) opening(kernel string) {
	_ = t.say("%s on Linux %s\n", t.sgr("1", "ctsight demo"), clean(kernel))
	_ = t.say(`A client, a router and a server, each in a network namespace made for this.
The router tracks connections; what its table does is what you see here.
Attaching ...`)
}

func (t *teller) attached(d *Data) {
	_ = t.say(" backend %s.\n", d.Backend)
	if !d.Exact {
		_ = t.say(`This backend sees every new connection, but neither which packet was refused
nor what was evicted for whom: of those there are only the kernel's totals.
`)
	}
}

// line is one event as in a trace, with the time since the beginning.
func (t *teller) line(at event.Ktime, e *event.Event) error {
	what, code := "-", "32"
	switch e.Kind {
	case event.Drop:
		what, code = e.Reason.String(), "31"
	case event.Destroy:
		what, code = e.Cause.String(), "33"
	}
	kind := fmt.Sprintf("%-7s", strings.ToUpper(e.Kind.String()))
	s := fmt.Sprintf("  %6.3fs %s %-17s %s %s", time.Duration(at).Seconds(), t.sgr(code, kind), what, event.ProtoName(e.Orig.Proto), flow(&e.Orig))
	switch {
	case e.Cause == event.EarlyDrop && e.Kind == event.Destroy && !e.By.IsZero():
		s += "\n" + strings.Repeat(" ", 31) + "by " + event.ProtoName(e.By.Proto) + " " + flow(&e.By)
	case e.HasLifetime:
		s += " after " + strings.ReplaceAll(short(e.Lifetime), " ", "")
	}
	return t.say("%s\n", s)
}

func flow(u *event.Tuple) string {
	return netip.AddrPortFrom(u.Src, u.Sport).String() + " > " + netip.AddrPortFrom(u.Dst, u.Dport).String()
}

func (t *teller) ordinaryBegins(d time.Duration) error {
	return t.headline("1. Ordinary traffic: web and DNS of %d clients, for %v", clients.n, d)
}

func (t *teller) ordinary(d *Data) error {
	var made, lost uint64
	most := 0
	for _, c := range d.Clients {
		made, lost, most = made+c.New, lost+c.Lost, max(most, c.Peak)
	}
	_ = t.say("  ...\n")
	_ = t.say("  %d new connections of %d sources, %.0f a second; %d packets lost.\n", made, len(d.Clients), rate(made, ordinaryFor), lost)
	if d.Unfinished > 0 {
		_ = t.say("  Conversations that did not come to their end: %d.\n", d.Unfinished)
	}
	return t.say("  Any one source made %d at most in any 10 ms.\n", most)
}

func (t *teller) burstBegins() error {
	return t.headline("2. A burst: one source opens %d flows at a time, every %d ms", burstAt, burstAt*1000/burstRate)
}

func (t *teller) burst(d *Data) error {
	g := grid{columns: []column{{title: "source"}, {title: "new", right: true}, {title: "on average", right: true}, {title: "in its worst 10 ms", right: true}}}
	for _, c := range d.Burst {
		g.add(who(c.Source), itoa(c.New), perSecond(average(c)), fmt.Sprintf("%d = %s", c.Peak, perSecond(peakRate(c))))
	}
	t.grid(&g)
	if len(d.Burst) == 0 {
		return t.err
	}
	return t.say(`  Whoever reads a counter once a second sees the average; queues and hash
  buckets meet the worst 10 ms.
`)
}

func (t *teller) scanBegins(n int) error {
	return t.headline("3. A port scan: one source, one SYN to each of %d ports of a server", n)
}

func (t *teller) scan(d *Data) error {
	_ = t.say("  ...\n")
	for _, c := range d.Scan {
		open := uint64(len(d.Open))
		_ = t.say("  %s: %d distinct ports in %s, which is a scan.\n", who(c.Source), c.Ports, short(c.Span))
		if d.Exact {
			_ = t.say("  %6d closed  a reset came back and took the entry away (tcp_rst_unreplied),\n", c.Reset)
			_ = t.say("                 half of them within %s\n", short(c.ResetAfter))
		}
		_ = t.say("  %6d open    answered: %s\n", open, portList(d.Open))
		if d.Exact {
			_ = t.say("  %6d silent  no answer; such an entry stays for two minutes\n", c.New-min(c.New, c.Reset+open))
		}
		if d.Found.Is {
			_ = t.say("  Confirmed as a scan %s after the first refusal, at the %s port that failed.\n", short(d.Found.After), ordinal(d.Found.Ports))
		}
	}
	return t.err
}

// ordinal is 1st, 2nd, 3rd, 4th.
func ordinal(n uint64) string {
	suffix := "th"
	if n%100 < 11 || n%100 > 13 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return itoa(n) + suffix
}

func (t *teller) fullBegins(p plan) error {
	if err := t.headline("4. A full table"); err != nil {
		return err
	}
	switch {
	case p.Skip != "":
		return t.say(`  Left out: %s.
  With --max 1000 the demo sets the limit while it runs; it holds for the whole
  machine, so do that where nothing else needs the table. Or: make demo
`, p.Skip)
	case p.Set():
		return t.say("  The limit (nf_conntrack_max) is %d for this; it was %d. Filling ...\n", p.Limit, p.Was)
	}
	return t.say(`  The limit (nf_conntrack_max) of this machine is %d, and counts for each
  namespace by itself: filling ours harms nobody else. Filling ...
`, p.Limit)
}

func (t *teller) filled(p plan) error {
	return t.say(`  Full: %d established connections of %s,
  %d entries of %s that no reply has come to.
  Now %d new flows of %s, while %d customers go on:
`, p.Assured, longLived.text(), p.Pending, who(sensor.first), floodLen, who(flooder.first), customers.n)
}

func (t *teller) full(d *Data) error {
	if !d.Exact {
		return t.say("  The kernel's totals: %d packets refused, %d entries evicted; this backend\n  cannot say whose.\n", d.KernelDrop, d.KernelEarlyDrop)
	}
	_ = t.say("  ...\n")
	g := grid{title: "Who lost packets", columns: []column{{title: "source"}, {title: "lost", right: true}, {title: "of", right: true}, {title: "reason"}}}
	for _, c := range d.lostBy() {
		g.add(who(c.Source), itoa(c.Lost), itoa(c.Lost+c.New), lossText(c.Reasons))
	}
	t.gridOr(&g, "nobody: early drop found a victim for every packet")
	if lost, of := d.bystanders(); lost > 0 {
		_ = t.say("  The flood is of one source; the customers lost %d of %d packets to it.\n", lost, of)
	}
	e := grid{title: "Who was evicted for whom (early_drop)", columns: []column{{title: "victim"}, {title: "entries", right: true}, {title: "culprit"}}}
	for _, r := range d.evictionsByRole() {
		e.add(r.Victim, itoa(r.Count), r.Culprit)
	}
	t.gridOr(&e, "nobody: early drop looks into 8 buckets, and there was nothing to evict")
	_ = t.say("  Established connections evicted: %d. The kernel spares what is assured.\n", d.EvictedAssured)
	if d.EvictedGC > 0 {
		_ = t.say("  The garbage collector evicted %d more, as it does over 95 %% (early_drop_gc).\n", d.EvictedGC)
	}
	return t.say("  The kernel's own counters: drop %d, early_drop %d. They name nobody.\n", d.KernelDrop, d.KernelEarlyDrop)
}

// ledger is the last act.
func (t *teller) ledger(d *Data) error {
	_ = t.headline("5. The ledger: does it balance?")
	g := grid{title: "Traced against the kernel's own counters, over the whole demo", columns: []column{{title: "counter"},
		{title: "traced", right: true}, {title: "kernel", right: true}, {title: "difference", right: true}}}
	for _, b := range d.balanceRows() {
		g.add(b.Counter.String(), number(b.Traced), number(b.Kernel), number(b.Difference))
	}
	t.grid(&g)
	u := grid{title: "Sent by the traffic generator against what was traced", columns: []column{{title: "source"},
		{title: "sent", right: true}, {title: "new", right: true}, {title: "lost", right: true}, {title: "difference", right: true}}}
	for _, r := range d.Truth {
		u.add(r.Addrs+" "+r.Role, itoa(r.Sent), itoa(r.New), itoa(r.Lost), strconv.FormatInt(r.Difference(), 10))
	}
	t.grid(&u)
	_ = t.say("  Our own records: %d seen, %d lost.\n", d.Doc.Loss.Seen, d.Doc.Loss.Lost)
	return t.say("  %s\n", d.verdict())
}

// verdict says in a sentence whether all differences are 0.
func (d *Data) verdict() string {
	switch n := d.Residual(); {
	case n > 0:
		return fmt.Sprintf("Not everything is accounted for: the differences add up to %d.", n)
	case !d.Exact:
		return fmt.Sprintf("In sum it agrees: %d are missing above, and the kernel has dropped %d.", d.missing(), d.kernelDrops())
	}
	return "Every packet and every entry is accounted for: all differences are 0."
}

// balanceRows leaves out what nobody asked to be traced (invalid and error
// need a hook on every packet) and what this kernel does not count.
func (d *Data) balanceRows() (out []agg.BalanceRow) {
	for _, b := range d.Balance {
		if b.Counter == agg.CounterInvalid || b.Counter == agg.CounterError || b.Kernel == nil {
			continue
		}
		out = append(out, b)
	}
	return out
}

// Next tells how to go on.
func (t *teller) next(page string) error {
	if page != "" {
		_ = t.say("\nThe same as a page with pictures: %s\n", clean(page))
	}
	_ = t.say("\n%s\n", t.sgr("1", "How to go on"))
	for _, n := range next {
		_ = t.say("  %-35s %s\n", n.Command, n.What)
	}
	return t.err
}

// next is what a newcomer tries after the demo.
var next = []struct{ Command, What string }{
	{"ctsight doctor", "what your own kernel lets us see"},
	{"ctsight trace", "new connections, destroys and drops live"},
	{"ctsight trace 'drop and proto udp'", "only some of it"},
	{"ctsight drops --for 1m", "this ledger for your own traffic"},
	{"ctsight help reasons", "every reason and cause, and what to do"},
}

// Next writes how to go on after the story; page is the file that was written.
func Next(w io.Writer, color bool, page string) error {
	return (&teller{w: w, color: color}).next(page)
}

func lossText(l []Loss) string {
	var out []string
	for _, r := range l {
		if len(l) == 1 {
			return r.Reason.String()
		}
		out = append(out, fmt.Sprintf("%s %d", r.Reason, r.Count))
	}
	return strings.Join(out, ", ")
}

func portList(ports []uint16) string {
	if len(ports) == 0 {
		return "none"
	}
	var out []string
	for _, p := range ports {
		out = append(out, strconv.Itoa(int(p)))
	}
	return strings.Join(out, ", ")
}

// average is a source's rate from its first new entry to its last; the last of
// a burst takes no time, so its pause is counted with it.
func average(c counted) float64 {
	pause := time.Duration(burstAt) * time.Second / burstRate
	return rate(c.New, c.Span+pause)
}

func peakRate(c counted) float64 { return rate(uint64(c.Peak), peakWindow) }

func rate(n uint64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}

func perSecond(r float64) string { return strconv.FormatFloat(r, 'f', 0, 64) + "/s" }

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }

// number shows what is not known as a dash.
func number(n *int64) string {
	if n == nil {
		return "-"
	}
	return strconv.FormatInt(*n, 10)
}

// short is a time with two or three digits.
func short(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return strconv.FormatInt(d.Microseconds(), 10) + " us"
	case d < 10*time.Millisecond:
		return strconv.FormatFloat(d.Seconds()*1000, 'f', 1, 64) + " ms"
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	}
	return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
}

// clean keeps what comes from outside from doing more than being read:
// controls, and characters that turn the direction of text, are replaced.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}
