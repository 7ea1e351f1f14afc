package report

import (
	"fmt"
	"strings"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/view"
)

// Bounds of what is shown of the time line.
const (
	lineFindings = 20  // with a bar
	lineMarks    = 200 // in the table
	lineRow      = 22
)

// timeline is what was found, what was crossed and what was changed, by time.
func (d *doc) timeline() {
	x := d.data
	d.begin("timeline", "Time line")
	text := x.timelineSays()
	d.say(text)
	if len(x.Marks) == 0 {
		d.Put(endFigure)
		return
	}
	shown := x.shown()
	d.Put(`<p class="legend"><span><svg width="22" height="12" aria-hidden="true"><rect class="sure" y="2" width="22" height="8"/></svg> confirmed</span> <span><svg width="22" height="12" aria-hidden="true"><rect class="maybe" y="2" width="22" height="8"/></svg> suspect or cleared</span> <span><svg width="22" height="12" aria-hidden="true"><path class="mark1" d="M11 0v12"/></svg> threshold</span> <span><svg width="22" height="12" aria-hidden="true"><path class="mark0" d="M11 0v12"/></svg> setting changed</span> <span><svg width="22" height="12" aria-hidden="true"><path class="mark2" d="M11 0v12"/></svg> records missing</span></p>`)
	p := &plot{doc: d, d: x, h: lineRow * (len(shown) + 1)}
	p.begin("timeline", "Findings, thresholds and changes over time", text)
	p.inside(func() { p.bars(shown) })
	for i, f := range shown {
		x0, x1 := p.x(f.First), max(p.x(f.Last), p.x(f.First)+3)
		class, at := markup.Text("ink at"), x0
		if x0 > chartW*.7 {
			class, at = "ink at end", x1
		}
		p.Put(`<text class="{}" x="{}" data-from="{}" data-to="{}" y="{}">{}</text>`, class, at, x0, x1, headroom+float64(lineRow*(i+1))+7, findingName(f))
	}
	p.finish()
	d.Put(`<details id="timeline-n" open><summary id="timeline-s">Every mark</summary>`)
	d.List("timeline", "Every mark", "at", "what", "")
	for _, m := range x.Marks[:min(lineMarks, len(x.Marks))] {
		d.Row(x.moment(x.wall(m.At)), m.Kind.String(), markup.Prose(m.Text))
	}
	if n := len(x.Marks) - lineMarks; n > 0 {
		d.Row("", "", markup.Prose("and "+count(uint64(n))+" more"))
	}
	d.Put(markup.EndNumbers + endFigure)
}

// bars draws the marks, and each finding from its first to its last evidence.
func (p *plot) bars(shown []*agg.Finding) {
	for _, m := range p.d.Marks {
		if m.Kind <= Gone {
			at := p.x(p.d.wall(m.At))
			p.Put(`<path class="mark{}" d="M{} {}v{}"><title>{}</title></path>`, int(m.Kind), at, headroom, p.h, m.Text)
		}
	}
	for i, f := range shown {
		x0, x1 := p.x(f.First), p.x(f.Last)
		class := markup.Text("maybe")
		if f.State == agg.Confirmed {
			class = "sure"
		}
		p.Put(`<rect class="{}" x="{}" y="{}" width="{}" height="8"><title>{}</title></rect>`, class, x0, headroom+float64(lineRow*(i+1))+10, max(3, x1-x0), view.Text(f.Why))
	}
}

// shown are the findings with a bar: the confirmed ones before the others.
func (d *Data) shown() (out []*agg.Finding) {
	for _, sure := range []bool{true, false} {
		for i := range d.Findings {
			if f := &d.Findings[i]; (f.State == agg.Confirmed) == sure && len(out) < lineFindings {
				out = append(out, f)
			}
		}
	}
	return out
}

func findingName(f *agg.Finding) string {
	parts := []string{view.Name(f.Class)}
	if f.Shape != "" {
		parts = append(parts, view.Name(f.Shape))
	}
	if f.Source.IsValid() {
		parts = append(parts, view.SourceText(f.Source))
	}
	if f.Target != (agg.Target{}) {
		parts = append(parts, "→ "+view.TargetText(&f.Target))
	}
	return strings.Join(parts, " ")
}

func (d *Data) timelineSays() string {
	confirmed := d.confirmed()
	var crossings, changes uint64
	for _, m := range d.Marks {
		switch m.Kind {
		case Crossed:
			crossings++
		case Changed:
			changes++
		}
	}
	text := fmt.Sprintf("%s confirmed, %s suspect or cleared", markup.Plural(confirmed, "finding", "findings"), count(uint64(len(d.Findings))-confirmed))
	text += "; " + markup.Plural(crossings, "threshold was crossed", "thresholds were crossed")
	if t := d.main(); t != nil && t.Limit == 0 {
		text += " (no limit is known)"
	}
	text += "; " + markup.Plural(changes, "setting was changed", "settings were changed")
	if !d.LossTold {
		text += ", as far as this capture tells"
	}
	if f := d.firstConfirmed(); f != nil {
		text += fmt.Sprintf(". First: %s at %s", findingName(f), d.moment(f.First))
	}
	return text + "."
}

func (d *Data) firstConfirmed() *agg.Finding {
	for i := range d.Findings {
		if d.Findings[i].State == agg.Confirmed {
			return &d.Findings[i]
		}
	}
	return nil
}

const wholeFindings = 40

// findings are the sentences and the evidence, with the kernel's events as examples.
func (d *doc) findings() {
	x := d.data
	if len(x.Findings) == 0 {
		return
	}
	d.Put(`<section id="findings" aria-labelledby="findings-h"><h2 id="findings-h">Findings and their evidence</h2><ul class="findings">`)
	n := 0
	for _, sure := range []bool{true, false} {
		for i := range x.Findings {
			f := &x.Findings[i]
			if (f.State == agg.Confirmed) != sure {
				continue
			}
			if n++; n <= wholeFindings {
				d.finding(f)
			}
		}
	}
	d.Put(`</ul>`)
	if n > wholeFindings {
		d.Put(`<p class="soft">and {} more: <code>ctsight detect --from</code> lists all.</p>`, count(uint64(n-wholeFindings)))
	}
	d.Put("</section>\n")
}

func (d *doc) finding(f *agg.Finding) {
	class := markup.Text("lv1")
	if f.State == agg.Confirmed {
		class = "lv3"
	}
	d.Put(`<li class="{}"><b>{}</b> <span class="soft">{}, {}, {} to {} [{}]</span><br>{}`, class, findingName(f), view.Name(f.State), view.Name(f.Severity), d.data.moment(f.First), d.data.moment(f.Last), view.Name(f.ID), markup.Sentence(f.Why))
	if f.WhyNotBenign != "" {
		d.Put(`<br><span class="soft">{}</span>`, markup.Sentence(f.WhyNotBenign))
	}
	if f.Spoofable {
		d.Put(`<br><span class="soft">The source may be forged: nothing has come back from it.</span>`)
	}
	for _, s := range f.Evidence.Samples {
		d.Put(`<br><code>{} {} {} {}</code>`, s.At.UTC().Format("15:04:05.000000"), event.ProtoName(s.Orig.Proto), tupleText(&s.Orig), view.Name(s.Outcome))
	}
	d.Put("</li>\n")
}

func tupleText(t *event.Tuple) string {
	if t.IsICMP() {
		typ, code, _ := t.ICMP()
		return fmt.Sprintf("%s > %s type %d code %d", view.AddrText(t.Src), view.AddrText(t.Dst), typ, code)
	}
	from := view.TargetText(&agg.Target{Addr: t.Src, Port: t.Sport})
	return from + " > " + view.TargetText(&agg.Target{Addr: t.Dst, Port: t.Dport})
}

// trust is what the report rests on, and what it leaves out.
func (d *doc) trust() {
	x := d.data
	d.Put(`<section id="trust" aria-labelledby="trust-h"><h2 id="trust-h">Can this be trusted?</h2><ul class="says">`)
	for _, s := range x.trustSays() {
		d.Put(`<li>{}</li>`, s)
	}
	d.Put("</ul></section>\n")
}

func (d *Data) trustSays() (out []string) {
	switch {
	case !d.LossTold:
		out = append(out, "Whether records are missing is not known: this capture has no account of them.")
	case d.Lost > 0:
		out = append(out, markup.Plural(d.Lost, "record of an event is missing", "records of events are missing")+": where is under the time axes in red.")
	default:
		out = append(out, "No record is missing, by the capture's own account.")
	}
	if s := d.balanceSays(); s != "" {
		out = append(out, s)
	}
	out = append(out, fmt.Sprintf("%s were read, %s inserts and %s destroys among them.", markup.Plural(d.Told, "event", "events"), count(d.Totals.New), count(d.sum(func(c *Column) uint64 { return c.Destroyed }))))
	if d.Summed > 0 {
		out = append(out, markup.Plural(d.Summed, "more event", "more events")+" came as sums by source, under load: they are in all counts, and not in lifetimes, occupancy and the busiest 10 ms.")
	}
	if d.Strangers > 0 {
		out = append(out, markup.Plural(d.Strangers, "entry ended that was not seen to begin", "entries ended that were not seen to begin")+": they are not in the occupancy, or the capture began later than they.")
	}
	if d.Width > 0 {
		out = append(out, fmt.Sprintf("Pictures over time have %s of %s each.", markup.Plural(uint64(len(d.Columns)), "column", "columns"), view.Span(d.Width)))
	}
	for _, o := range d.Omitted {
		out = append(out, "Left out: "+count(o.Count)+" "+o.What+".")
	}
	return out
}

// balanceSays sets what was traced against the kernel's counters, of all tables.
func (d *Data) balanceSays() string {
	var traced, kernel [agg.NumCounters]int64
	var both agg.CounterSet
	for _, r := range d.Balance {
		if r.Difference != nil {
			both |= agg.Counters(r.Counter)
			traced[r.Counter] += *r.Traced
			kernel[r.Counter] += *r.Kernel
		}
	}
	var same, differ []string
	for c := range agg.NumCounters {
		switch {
		case !both.Has(c):
		case traced[c] == kernel[c]:
			same = append(same, fmt.Sprintf("%s %d", c, kernel[c]))
		default:
			differ = append(differ, fmt.Sprintf("%s %d traced, %d by the kernel", c, traced[c], kernel[c]))
		}
	}
	between := fmt.Sprintf("The kernel's own counters from %s to %s", d.CountFrom.Format(time.TimeOnly), d.CountTo.Format(time.TimeOnly))
	switch {
	case len(differ) > 0 && len(same) > 0:
		return between + " differ from what was traced: " + strings.Join(differ, "; ") + ". The same are " + strings.Join(same, ", ") + "."
	case len(differ) > 0:
		return between + " differ from what was traced: " + strings.Join(differ, "; ") + "."
	case len(same) > 0:
		return between + " say what was traced: " + strings.Join(same, ", ") + "."
	}
	return ""
}

// sentences are the capture in words, the most important first.
func (d *Data) sentences() (out []string) {
	if t := d.main(); t != nil && t.Limit > 0 {
		out = append(out, d.occupancySays(t))
	}
	if d.lostPackets() > 0 {
		out = append(out, d.dropsSay())
	}
	if d.confirmed() > 0 {
		out = append(out, d.timelineSays())
	}
	out = append(out, d.ratesSay())
	if len(d.Lines) > 0 {
		out = append(out, d.sourcesSay())
	}
	return out
}

// age is a time from a moment on, not below 0.
func age(from, to time.Time) time.Duration { return max(0, to.Sub(from)) }
