package report

import (
	"fmt"
	"strings"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/view"
)

// Answer is what a capture says to a question of the post-mortem.
type Answer uint8

// Answers.
const (
	NotKnown Answer = iota
	No
	Yes
)

var answerNames = [...]string{"not known from this capture", "no", "yes"}

// String returns the words of the list.
func (a Answer) String() string { return answerNames[min(int(a), len(answerNames)-1)] }

// Check is a question of the post-mortem with its answer.
type Check struct {
	Who      string // whose part it is: application, edge, platform, security
	Question string
	Answer   Answer
	Evidence string
}

// Checks answers the list of questions that every post-mortem of a full table goes
// through, as far as the capture can.
func (d *Data) Checks() []Check {
	var out []Check
	add := func(who, question string, a Answer, evidence string) {
		out = append(out, Check{who, question, a, evidence})
	}
	found := func(who, question string, classes ...string) {
		a, text := d.foundAny(classes...)
		add(who, question, a, text)
	}
	const app, edge, platform, security = "application", "edge", "platform", "security"
	found(app, "Did clients try again and again, or one service hammer another?", "retry_storm", "connection_hammering")
	found(app, "Were connections opened and never closed?", "connection_leak")
	found(app, "Did somebody stop to reuse connections, or begin a new pattern?", "pool_lost", "new_connection_pattern", "rate_burst")
	a, text := d.shortLived()
	add(app, "Are most connections so short that reuse would save them?", a, text)
	found(app, "Was a service down or polled in vain?", "service_down", "polling_dead_targets")

	found(edge, "Did an upstream fail?", "upstream_outage")
	a, text = d.natPools()
	add(edge, "Did a NAT address run out of ports?", a, text)
	a, text = d.unanswered()
	add(edge, "Did many connections never get an answer?", a, text)

	a, text = d.limitReached()
	add(platform, "Did the table reach its limit?", a, text)
	a, text = d.leadTime()
	add(platform, "Was there time between the first threshold and a full table?", a, text)
	a, text = d.lostAny()
	add(platform, "Did conntrack lose packets?", a, text)
	a, text = d.evictedAny()
	add(platform, "Were entries evicted?", a, text)
	a, text = d.changedAny()
	add(platform, "Was a setting changed meanwhile?", a, text)
	add(platform, "Do hash buckets, memory and timeouts fit the limit?", NotKnown, "ctsight doctor and ctsight triage say it on the host")

	found(security, "Did somebody scan?", "scan", "distributed_scan")
	found(security, "Was there a flood, or amplification?", "syn_flood", "udp_flood", "amplification")
	a, text = d.forged()
	add(security, "May sources be forged, so that blocking them hurts others?", a, text)
	return out
}

// foundAny answers from findings: what is suspect only is no yes.
func (d *Data) foundAny(classes ...string) (Answer, string) {
	if d.Told == 0 {
		return NotKnown, ""
	}
	var texts []string
	answer, n := No, 0
	for i := range d.Findings {
		f := &d.Findings[i]
		for _, c := range classes {
			if f.Class != c || f.State != agg.Confirmed {
				continue
			}
			answer = Yes
			if n++; n <= 2 {
				texts = append(texts, markup.Sentence(f.Why)+" ["+view.Name(f.ID)+"]")
			}
		}
	}
	if n > 2 {
		texts = append(texts, fmt.Sprintf("and %d more", n-2))
	}
	if answer == No {
		return No, "no such finding was confirmed"
	}
	return answer, strings.Join(texts, "; ")
}

// shortLived looks at TCP that was answered and gone within a second.
func (d *Data) shortLived() (Answer, string) {
	var all, short uint64
	for k, h := range d.Lifetimes {
		if k.Proto != event.ProtoTCP || !k.Answered {
			continue
		}
		for b, n := range h.Buckets {
			all += n
			if b < 20 { // 2^20 us = 1.05 s
				short += n
			}
		}
	}
	if all < 20 {
		return NotKnown, "fewer than 20 answered TCP connections ended"
	}
	text := fmt.Sprintf("%s of %s answered TCP connections (%s) left the table within 1.05 s", count(short), count(all), markup.Percent(short, all))
	if 2*short > all {
		return Yes, text
	}
	return No, text + "; an entry that was closed stays for its timeout of up to 120 s, so this counts resets only"
}

func (d *Data) natPools() (Answer, string) {
	n := uint64(0)
	for _, r := range d.Totals.Drop {
		if r.Reason == event.NATExhausted {
			n += r.Count
		}
	}
	if n > 0 {
		return Yes, markup.Plural(n, "packet was lost for nat_exhausted", "packets were lost for nat_exhausted")
	}
	if a, text := d.foundAny("nat_pool_filling"); a == Yes {
		return a, text
	}
	if !d.tellsDrops() {
		return NotKnown, "a capture in text, or of the backend netlink, has no lost packets"
	}
	return No, "no packet was lost for nat_exhausted"
}

func (d *Data) unanswered() (Answer, string) {
	answered, silent := d.lives()
	a, s := total(answered[:]), total(silent[:])
	if a+s == 0 {
		return NotKnown, "no entry ended of which the beginning was seen"
	}
	text := fmt.Sprintf("%s of %s entries that ended (%s)", count(s), count(a+s), markup.Percent(s, a+s))
	if 4*s > a+s {
		return Yes, text
	}
	return No, text
}

func (d *Data) limitReached() (Answer, string) {
	t := d.main()
	if t == nil || t.Limit == 0 {
		return NotKnown, "the limit is not in the capture; --max tells it"
	}
	n, limit := t.fullest()
	text := fmt.Sprintf("%s held %s of %s (%s)", t.Text(), count(n), count(limit), markup.Percent(n, limit))
	if n >= limit || d.lostFor(event.TableFull) > 0 {
		return Yes, text
	}
	return No, text
}

func (d *Data) lostFor(r event.Reason) uint64 {
	for _, c := range d.Totals.Drop {
		if c.Reason == r {
			return c.Count
		}
	}
	return 0
}

// leadTime is from the first threshold to the full table.
func (d *Data) leadTime() (Answer, string) {
	t := d.main()
	if t == nil || t.Limit == 0 {
		return NotKnown, "the limit is not in the capture; --max tells it"
	}
	var first, full *Crossing
	for i := range t.Crossings {
		c := &t.Crossings[i]
		switch {
		case c.Down:
		case c.Percent == levels[0] && first == nil:
			first = c
		case c.Percent == 100 && full == nil:
			full = c
		}
	}
	switch {
	case first == nil:
		return No, fmt.Sprintf("%d %% was never reached", levels[0])
	case full == nil:
		return Yes, fmt.Sprintf("%d %% at %s; it did not fill", first.Percent, d.moment(d.wall(first.At)))
	}
	lead := age(d.wall(first.At), d.wall(full.At))
	text := fmt.Sprintf("%s from %d %% at %s to full at %s", view.Span(lead), first.Percent, d.moment(d.wall(first.At)), d.moment(d.wall(full.At)))
	const usable = 60 // s: less is no time for a human
	if lead.Seconds() < usable {
		return No, text
	}
	return Yes, text
}

func (d *Data) lostAny() (Answer, string) {
	if !d.tellsDrops() {
		return NotKnown, "a capture in text, or of the backend netlink, has no lost packets"
	}
	n := d.lostPackets()
	if n == 0 {
		return No, "none"
	}
	var parts []string
	for _, r := range d.Totals.Drop {
		if !r.Reason.IsRuleset() {
			parts = append(parts, r.Reason.String()+" "+count(r.Count))
		}
	}
	return Yes, strings.Join(parts, ", ")
}

func (d *Data) evictedAny() (Answer, string) {
	n := d.sum(evictedOf)
	if n > 0 {
		return Yes, markup.Plural(n, "entry", "entries") + " (early_drop, early_drop_gc)"
	}
	for _, c := range d.Totals.Destroy {
		if c.Cause == event.EarlyDrop || c.Cause == event.TimeoutLookup || c.Cause == event.UserDelete {
			return No, "none"
		}
	}
	if !d.tellsCauses() {
		return NotKnown, "this capture need not tell causes"
	}
	return No, "none"
}

func (d *Data) changedAny() (Answer, string) {
	var texts []string
	for _, m := range d.Marks {
		if m.Kind == Changed && len(texts) < 5 {
			texts = append(texts, m.Text+" at "+d.moment(d.wall(m.At)))
		}
	}
	if len(texts) > 0 {
		return Yes, strings.Join(texts, "; ")
	}
	if !d.LossTold {
		return NotKnown, "a capture in text has no settings"
	}
	return No, "none that the capture tells of"
}

func (d *Data) forged() (Answer, string) {
	var forged, all uint64
	for i := range d.Findings {
		f := &d.Findings[i]
		if f.State != agg.Confirmed || !f.Source.IsValid() {
			continue
		}
		all++
		if f.Spoofable {
			forged++
		}
	}
	switch {
	case all == 0:
		return No, "no finding names a source"
	case forged > 0:
		return Yes, fmt.Sprintf("%d of %s with a source: block lists leave them out", forged, markup.Plural(all, "confirmed finding", "confirmed findings"))
	}
	return No, fmt.Sprintf("%s with a source, none of them forgeable", markup.Plural(all, "confirmed finding", "confirmed findings"))
}

var answerClass = [...]markup.Text{"open", "no", "yes"}

// checklist is what a post-mortem asks, with what the capture answers.
func (d *doc) checklist() {
	d.Put(`<section id="checklist" aria-labelledby="checklist-h"><h2 id="checklist-h">Post-mortem</h2><div class="check">`)
	d.List("checklist", "Post-mortem", "question", "answer", "evidence")
	last := ""
	for _, c := range d.data.Checks() {
		if c.Who != last {
			last = c.Who
			d.Put(`<tr><th colspan="3" scope="colgroup">{}</th></tr>`, c.Who)
		}
		d.Put(`<tr><td>{}</td><td><span class="{}">{}</span></td><td class="t">{}</td></tr>`, c.Question, answerClass[c.Answer], c.Answer.String(), c.Evidence)
	}
	d.Put(markup.EndList)
	d.Put(`</div><p class="soft">What no capture knows: what was deployed or changed in the hour before, who was paged and when, and what was done by hand.</p></section>` + "\n")
}
