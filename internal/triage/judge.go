package triage

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// culprit is who brings much of what comes, most of which leads to nothing.
type culprit struct {
	who  netip.Prefix
	rate float64 // connections and refused packets per second
	live uint64
	part float64 // of what comes
	scan bool
}

func (c *culprit) String() string {
	if c.who.IsSingleIP() {
		return c.who.Addr().String()
	}
	return c.who.String()
}

func prefixOf(k *agg.Key) netip.Prefix {
	if !k.Src.IsValid() {
		return netip.Prefix{}
	}
	bits := k.Src.BitLen()
	if k.Bits > 0 {
		bits = int(k.Bits)
	}
	return netip.PrefixFrom(k.Src.WithZone(""), bits).Masked()
}

// came counts what a row brought. A full table lets nothing in, and who tried is
// seen by what was refused only.
func came(r *agg.TopRow) uint64 { return r.New + r.Drops }

// part is the share of a row in all that comes.
func (d *Doc) part(r *agg.TopRow) float64 {
	drops := uint64(0)
	for i := range d.Arrivals.Rows {
		drops += d.Arrivals.Rows[i].Drops
	}
	return share(came(r), d.Arrivals.Total.New+max(drops, d.Arrivals.Total.Drops))
}

// fruitless says whether most of what a row holds, or tried, came to nothing.
// Which states the entries of one row are in is not known; but where the table
// has N entries, open ones among them, a row of L has at least L+open-N of those.
func (d *Doc) fruitless(r *agg.TopRow) bool { return d.atLeastOpen(r) >= half || failing(r) }

func (d *Doc) atLeastOpen(r *agg.TopRow) float64 {
	if d.Held == nil {
		return 0
	}
	live, closed := min(r.Live, d.Held.N), d.Held.N-d.open() // both were counted at slightly different times
	return share(live-min(live, closed), live)
}

func failing(r *agg.TopRow) bool {
	failed := r.Refused + r.Unanswered
	return failed >= scanPorts && share(failed, failed+r.Answered) >= scanFails
}

// scanner is the source with the most different targets among those of which most
// first contacts failed.
func (d *Doc) scanner() (agg.TopRow, bool) {
	width := func(r *agg.TopRow) uint64 { return max(r.DistinctDports, r.DistinctDsts) }
	rows := slices.Concat(d.Arrivals.Rows, d.Holders.Rows)
	rows = slices.DeleteFunc(rows, func(r agg.TopRow) bool { return !r.Src.IsValid() || width(&r) < scanPorts || !failing(&r) })
	if len(rows) == 0 {
		return agg.TopRow{}, false
	}
	return slices.MaxFunc(rows, func(a, b agg.TopRow) int { return cmp.Compare(width(&a), width(&b)) }), true
}

// forged says whether sources are made up: nearly each connection has another,
// they come to nothing, and no prefix is behind them. The endpoint that all that
// goes to is returned if there is one. A service that is down for everybody looks
// the same.
func (d *Doc) forged() (to agg.TopRow, ok bool) {
	total := &d.Arrivals.Total
	for i := range d.Prefixes.Rows {
		if p := &d.Prefixes.Rows[i]; d.part(p) >= heavy && d.fruitless(p) {
			return to, false
		}
	}
	for _, r := range d.Targets.Rows {
		if r.New >= minForged && float64(r.DistinctDsts) >= spoofed*float64(r.New) && d.part(&r) >= heavy && d.fruitless(&r) {
			return r, true
		}
	}
	if d.Held == nil || total.New < minForged || len(d.Arrivals.Rows) == 0 {
		return to, false
	}
	// Rows are sources with live entries or drops too, so that there may be more.
	sources := uint64(d.Arrivals.Tracked) + d.Arrivals.Folded
	return to, share(d.open(), d.Held.N) >= half && share(sources, total.New) >= spoofed && d.part(&d.Arrivals.Rows[0]) < 0.01
}

// culprit finds one source, or the prefix of several that do the same. Where
// sources are forged there is none.
func (d *Doc) culprit() (c culprit, ok bool) {
	if _, forged := d.forged(); forged {
		return c, false
	}
	if r, ok := d.worst(d.Arrivals.Rows); ok {
		c = d.accuse(&r)
	}
	wide := slices.DeleteFunc(slices.Clone(d.Prefixes.Rows), func(r agg.TopRow) bool { return d.relatives(&r) < relatives })
	if r, ok := d.worst(wide); ok && d.part(&r) >= 2*c.part {
		c = d.accuse(&r)
	}
	return c, c.who.IsValid()
}

// worst is the row that brings most of those that bring much to nothing.
func (d *Doc) worst(rows []agg.TopRow) (out agg.TopRow, ok bool) {
	for _, r := range rows {
		if prefixOf(&r.Key).IsValid() && d.part(&r) >= heavy && d.fruitless(&r) && came(&r) > came(&out) {
			out, ok = r, true
		}
	}
	return out, ok
}

func (d *Doc) accuse(r *agg.TopRow) culprit {
	c := culprit{who: prefixOf(&r.Key), rate: finite(r.S1), live: r.Live, part: d.part(r)}
	if s := d.To.Sub(d.From).Seconds(); s > 0 {
		c.rate += float64(r.Drops) / s
	}
	scan, ok := d.scanner()
	c.scan = ok && scan.Key == r.Key
	return c
}

// relatives counts the sources in the lists that are of a prefix and bring no
// less than a tenth of the first of them.
func (d *Doc) relatives(p *agg.TopRow) int {
	most, seen := uint64(0), map[netip.Addr]uint64{}
	for _, r := range slices.Concat(d.Arrivals.Rows, d.Holders.Rows) {
		if r.Src.IsValid() && prefixOf(&p.Key).Contains(r.Src) {
			seen[r.Src] = came(&r)
			most = max(most, came(&r))
		}
	}
	n := 0
	for _, c := range seen {
		if c > 0 && c >= most/10 {
			n++
		}
	}
	return n
}

// leak is a source that holds much of the table by answered connections that
// nobody closes: it opens far fewer than it holds.
func (d *Doc) leak() (r agg.TopRow, idle time.Duration, ok bool) {
	if _, forged := d.forged(); forged || d.Held == nil || len(d.Holders.Rows) == 0 {
		return r, 0, false
	}
	n := uint64(0)
	for _, h := range d.Held.Rows() {
		if h.State == event.TCPEstablished && h.Assured {
			n += h.N
			if t := d.Timeouts["tcp_timeout_established"]; t > 0 {
				idle = max(idle, time.Duration(t)*time.Second-h.Left)
			}
		}
	}
	r = d.Holders.Rows[0]
	holds := share(r.Live, d.Holders.Total.Live)
	return r, idle, r.Src.IsValid() && share(n, d.Held.N) >= mostly && holds >= heavy && d.part(&r) < holds/2
}

// character says what the load looks like.
func (d *Doc) character() Finding {
	f := Finding{Question: "legitimate or not"}
	open := 0.0
	if d.Held != nil {
		open = share(d.open(), d.Held.N)
	}
	to, forged := d.forged()
	c, bad := d.culprit()
	scan, scans := d.scanner()
	leak, idle, leaks := d.leak()
	total := d.Arrivals.Total.New
	switch {
	case forged && to.Dst.IsValid():
		f.Answer, f.Verdict = fmt.Sprintf("looks like a flood with forged sources: about %d sources for %d connections to %s, %s of the table came to nothing; "+
			"or that service is down for everybody. Block no address", min(to.DistinctDsts, to.New), to.New, endpoint(&to.Key), percent(open)), Anomalous
	case forged:
		f.Answer, f.Verdict = fmt.Sprintf("looks like a flood with forged sources: no source opens 1 %% of %d connections, no endpoint stands out, %s of the table came to nothing. "+
			"Block no address", total, percent(open)), Anomalous
	case scans && (!bad || c.scan):
		failed := scan.Refused + scan.Unanswered
		f.Answer, f.Verdict = fmt.Sprintf("%s looks like a scan: %d ports and %d hosts, %d of its %d first contacts failed", address(scan.Src),
			scan.DistinctDports, scan.DistinctDsts, failed, failed+scan.Answered), Anomalous
	case bad:
		f.Answer, f.Verdict = fmt.Sprintf("%s brings %s of what comes, and most of that leads to nothing (%s of the table): a flood, a service that is down, "+
			"or traffic that nobody answers (syslog, VXLAN)", c.String(), percent(c.part), percent(open)), Anomalous
	case leaks:
		f.Answer, f.Verdict = fmt.Sprintf("looks like a leak: %s holds %s of the table by established connections and opens %s of the new ones", address(leak.Src),
			percent(share(leak.Live, d.Holders.Total.Live)), percent(d.part(&leak))), Suspicious
		if idle > time.Minute {
			f.Answer += fmt.Sprintf("; they are idle for %s on average", seconds(idle.Seconds()))
		}
	case open >= half:
		f.Answer, f.Verdict = fmt.Sprintf("%s of the table came to nothing, and no one source is behind it: a service that is down, or traffic that nobody answers (syslog, VXLAN)",
			percent(open)), Suspicious
	case total == 0 || len(d.Arrivals.Rows) == 0:
		f.Answer, f.Verdict = "nothing new came in "+d.span(), Ordinary
	default:
		d.busy(&f, open)
	}
	return f
}

// busy is of a load that is answered, or of which that is not known.
func (d *Doc) busy(f *Finding, open float64) {
	top, answered := d.Arrivals.Rows[0], "how many are answered is not known"
	if d.Held != nil {
		answered = percent(1-open) + " of the table are answered"
	}
	switch {
	case d.part(&top) >= heavy && len(d.Arrivals.Rows) > 3:
		f.Answer, f.Verdict = fmt.Sprintf("%s opens %s of what comes, %s: a busy client, a load balancer, or a pool that was lost", address(top.Src),
			percent(d.part(&top)), answered), Suspicious
	case d.Held == nil:
		f.Answer = fmt.Sprintf("not known: %s; the first source opens %s", answered, percent(d.part(&top)))
	default:
		f.Answer, f.Verdict = fmt.Sprintf("looks like ordinary load: %s, the first source opens %s of what comes", answered, percent(d.part(&top))), Ordinary
	}
}

// novelty says when it began, where the table tells.
func (d *Doc) novelty() Finding {
	f := Finding{Question: "is that new"}
	if len(d.Arrivals.Rows) == 0 || d.Arrivals.Total.New == 0 {
		f.Answer = "nothing new came in " + d.span()
		return f
	}
	top := d.Arrivals.Rows[0]
	part, holds := d.part(&top), share(top.Live, d.Holders.Total.Live)
	f.Answer = fmt.Sprintf("%s is %s of what comes and %s of what is there", address(top.Src), percent(part), percent(holds))
	age, sort, ok := d.began()
	switch {
	case ok && age >= 0:
		f.Answer += fmt.Sprintf("; from the time that %s entries have left, this began some %s ago", sort, seconds(math.Max(1, age)))
		f.Verdict = Suspicious
	case ok:
		f.Answer += fmt.Sprintf("; %s entries come as long as they live, or longer", sort)
	case part >= heavy && part >= 2*holds:
		f.Answer += ": it began lately, or its connections are short"
	}
	return f
}

// began tells from the largest sort of entries that end by their timeout T when
// they began to come at the present rate, in seconds; negative is T ago or more.
// Those of a steady load have T/2 left in the mean; those that began to come t
// ago, T-t/2. Entries that packets refresh always have T left, but then there are
// far more of them than come in T.
func (d *Doc) began() (age float64, sort string, ok bool) {
	if d.Held == nil || len(d.Held.Rows()) == 0 {
		return 0, "", false
	}
	h, rate := d.Held.Rows()[0], finite(d.Arrivals.Total.S1)
	for _, s := range steps {
		t := float64(d.Timeouts[s.sysctl])
		if !s.ends || !s.holds(&h.HoldingKey) || t <= 0 || rate < 1 || share(h.N, d.Held.N) < half {
			continue
		}
		switch left := h.Left.Seconds(); {
		case left > 0.6*t && float64(h.N) < rate*t:
			return 2 * max(0, t-left), stateName(&h.HoldingKey), true
		case left <= 0.6*t:
			return -1, stateName(&h.HoldingKey), true
		}
	}
	return 0, "", false
}
