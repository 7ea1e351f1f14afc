package page

import (
	"cmp"
	"slices"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/svg"
	"github.com/ctsight/ctsight/internal/view"
)

// drops are packets lost: why and when, and whose.
func (d *doc) drops() {
	d.begin("drops", "Packets lost")
	say := plain((*doc).dropsSay, d)
	d.Put(`{}</figcaption>`, say)
	if rows := d.reasonStrips(); len(rows) > 0 {
		l := svg.NewLadder(highest(rows))
		d.legend("d", &l, "packets lost a second")
		p := &plot{Writer: d.Writer, id: "drop", past: d.past, h: rowH * len(rows)}
		p.begin("Packets lost per reason and second over time", say)
		p.inside()
		p.strips(rows, &l)
		p.outside()
		p.names(rows)
		p.finish()
	}
	d.reasons()
	d.losers()
	d.Put(endFigure)
}

func (d *doc) dropsSay() {
	since := dropped(d.s.Drops)
	switch {
	case since == 0:
		d.Put(`Conntrack lost no packet since the start{}.`, map[bool]markup.Text{true: ", as far as this backend can tell"}[d.s.BestEffort])
	case d.past.drops == 0:
		d.Put(`Conntrack lost no packet in the last {}; {} since the start.`, d.window(), since)
	default:
		d.Put(`Conntrack lost {} in the last {}`, markup.Plural(d.past.drops, "packet", "packets"), d.window())
		if r := worst(d.past.reasons); r != nil {
			at, most := r.most()
			d.Put(`, {} of them ({}) for {}, most in the second to {}: {}`, r.total, markup.Percent(r.total, d.past.drops), r.key.String(), markup.Clock(d.past.end(at)), markup.Rate(most))
		}
		d.Put(`; {} since the start.`, since)
	}
	if len(d.s.Losers) > 0 && since > 0 {
		l := &d.s.Losers[0]
		d.Put(` Hit most since the start: {}, {}.`, view.AddrText(l.Src), markup.Plural(l.Drops, "packet", "packets"))
	}
	if d.past.evicted > 0 {
		d.Put(` {} for others' packets in the last {}.`, markup.Plural(d.past.evicted, "entry was evicted", "entries were evicted"), d.window())
	}
	if ruleset := sumOf(d.s.Drops) - since; ruleset > 0 {
		d.Put(` The operator's own rules dropped {}, which are not among them.`, markup.Plural(ruleset, "packet", "packets"))
	}
}

func sumOf(all []agg.ReasonCount) (n uint64) {
	for _, r := range all {
		n += r.Count
	}
	return n
}

// worst is the reason that lost most, none of the operator's own rules.
func worst(all []series[event.Reason]) *series[event.Reason] {
	for i := range all {
		if !all[i].key.IsRuleset() {
			return &all[i]
		}
	}
	return nil
}

// reasonRows is how many reasons have a strip; the others share one.
const reasonRows = 5

func (d *doc) reasonStrips() (rows []strip) {
	var others series[event.Reason]
	for i := range d.past.reasons {
		s := &d.past.reasons[i]
		switch {
		case s.key.IsRuleset():
			continue
		case len(rows) == reasonRows:
			others.plus(s)
			continue
		}
		at, most := s.most()
		rows = append(rows, strip{s.key.String(), markup.Count(s.total) + ", most " + markup.Rate(most) + "/s at " + markup.Clock(d.past.end(at)), "d", s.per})
	}
	if others.total > 0 {
		rows = append(rows, strip{"other reasons", markup.Count(others.total), "d", others.per})
	}
	return rows
}

// reasons are the counts with what the kernel did and what to do.
func (d *doc) reasons() {
	all := slices.Clone(d.s.Drops)
	if len(all) == 0 {
		return
	}
	slices.SortStableFunc(all, func(a, b agg.ReasonCount) int { return cmp.Compare(b.Count, a.Count) })
	d.Put(`<details id="reasons-n" open><summary id="reasons-s">By reason</summary>`)
	d.List("reasons", "By reason", "reason", "#last 10 min", "#since the start", "the newest", "the kernel", "first step")
	for _, r := range all {
		kernel, do := "", ""
		if i := r.Reason.Info(); i != nil {
			kernel, do = i.Kernel, i.Do
		}
		d.Row(r.Reason.String(), d.recent(r.Reason), r.Count, markup.Prose(d.newest(r.Reason)), markup.Prose(kernel), markup.Prose(do))
	}
	d.Put(markup.EndNumbers)
}

func (d *doc) recent(r event.Reason) uint64 {
	for i := range d.past.reasons {
		if d.past.reasons[i].key == r {
			return d.past.reasons[i].total
		}
	}
	return 0
}

// newest is an example of a reason.
func (d *doc) newest(r event.Reason) string {
	for _, x := range d.s.Examples {
		if x.Reason == r {
			return view.AddrText(x.Src) + " > " + view.AddrText(x.Dst) + " at " + markup.Clock(x.At)
		}
	}
	return ""
}

// losers are the sources that lost packets, by reason. A row of the census keeps the
// first few causes and reasons apart: what is beyond them is "other reasons".
func (d *doc) losers() {
	if len(d.s.Losers) == 0 {
		return
	}
	reasons := d.reasonColumns()
	d.Put(`<details id="losers-n" open><summary id="losers-s">By source</summary>`)
	columns := []string{"source", "#lost", ""}
	for _, r := range reasons {
		columns = append(columns, "#"+r.String())
	}
	d.List("losers", "By source", append(columns, "#other reasons", "#evicted", "#evicted others", "netns")...)
	for i := range d.s.Losers {
		l := &d.s.Losers[i]
		cells := []any{view.AddrText(l.Src), l.Drops, markup.Portion{Part: l.Drops, Of: d.s.Losers[0].Drops}}
		by, other := lostBy(l, reasons)
		for _, n := range by {
			cells = append(cells, n)
		}
		d.Row(append(cells, other, l.Evicted, l.Evictor, d.netns(l.NetNS, l.Zone))...)
	}
	d.Put(markup.EndNumbers)
}

// reasonColumns are the reasons of drops that have a column: the first four.
func (d *doc) reasonColumns() (out []event.Reason) {
	all := slices.DeleteFunc(slices.Clone(d.s.Drops), func(r agg.ReasonCount) bool { return r.Reason.IsRuleset() })
	slices.SortStableFunc(all, func(a, b agg.ReasonCount) int { return cmp.Compare(b.Count, a.Count) })
	for _, r := range all[:min(4, len(all))] {
		out = append(out, r.Reason)
	}
	return out
}

// lostBy is what a source lost for each of these reasons, and for all others.
func lostBy(r *agg.TopRow, reasons []event.Reason) (by []uint64, other uint64) {
	by, other = make([]uint64, len(reasons)), r.Drops
	for _, w := range r.Why {
		if i := slices.Index(reasons, w.Reason); w.Drop && i >= 0 {
			by[i] += w.Count
			other -= min(other, w.Count)
		}
	}
	return by, other
}
