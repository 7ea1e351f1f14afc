package page

import (
	"cmp"
	"slices"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/view"
)

// drops are packets lost: why and when, and whose.
func (d *doc) drops() {
	d.begin("drops", "Packets lost")
	say := plain((*doc).dropsSay, d)
	d.put(`{}</figcaption>`, say)
	if rows := d.reasonStrips(); len(rows) > 0 {
		l := newLadder(highest(rows))
		d.legend("d", &l, "packets lost a second")
		p := &plot{writer: d.writer, id: "drop", past: d.past, h: rowH * len(rows)}
		p.begin("Packets lost per reason and second over time", say)
		p.inside()
		p.strips(rows, &l)
		p.outside()
		p.names(rows)
		p.finish()
	}
	d.reasons()
	d.losers()
	d.put(endFigure)
}

func (d *doc) dropsSay() {
	since := dropped(d.s.Drops)
	switch {
	case since == 0:
		d.put(`Conntrack lost no packet since the start{}.`, map[bool]markup{true: ", as far as this backend can tell"}[d.s.BestEffort])
	case d.past.drops == 0:
		d.put(`Conntrack lost no packet in the last {}; {} since the start.`, d.window(), since)
	default:
		d.put(`Conntrack lost {} in the last {}`, plural(d.past.drops, "packet", "packets"), d.window())
		if r := worst(d.past.reasons); r != nil {
			at, most := r.most()
			d.put(`, {} of them ({}) for {}, most in the second to {}: {}`, r.total, percent(r.total, d.past.drops), r.key.String(), clock(d.past.end(at)), rate(most))
		}
		d.put(`; {} since the start.`, since)
	}
	if len(d.s.Losers) > 0 && since > 0 {
		l := &d.s.Losers[0]
		d.put(` Hit most since the start: {}, {}.`, view.AddrText(l.Src), plural(l.Drops, "packet", "packets"))
	}
	if d.past.evicted > 0 {
		d.put(` {} for others' packets in the last {}.`, plural(d.past.evicted, "entry was evicted", "entries were evicted"), d.window())
	}
	if ruleset := sumOf(d.s.Drops) - since; ruleset > 0 {
		d.put(` The operator's own rules dropped {}, which are not among them.`, plural(ruleset, "packet", "packets"))
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
		rows = append(rows, strip{s.key.String(), count(s.total) + ", most " + rate(most) + "/s at " + clock(d.past.end(at)), "d", s.per})
	}
	if others.total > 0 {
		rows = append(rows, strip{"other reasons", count(others.total), "d", others.per})
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
	d.put(`<details id="reasons-n" open><summary id="reasons-s">By reason</summary>`)
	d.list("reasons", "By reason", "reason", "#last 10 min", "#since the start", "the newest", "the kernel", "first step")
	for _, r := range all {
		kernel, do := "", ""
		if i := r.Reason.Info(); i != nil {
			kernel, do = i.Kernel, i.Do
		}
		d.row(r.Reason.String(), d.recent(r.Reason), r.Count, prose(d.newest(r.Reason)), prose(kernel), prose(do))
	}
	d.put(endNumbers)
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
			return view.AddrText(x.Src) + " > " + view.AddrText(x.Dst) + " at " + clock(x.At)
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
	d.put(`<details id="losers-n" open><summary id="losers-s">By source</summary>`)
	columns := []string{"source", "#lost", ""}
	for _, r := range reasons {
		columns = append(columns, "#"+r.String())
	}
	d.list("losers", "By source", append(columns, "#other reasons", "#evicted", "#evicted others", "netns")...)
	for i := range d.s.Losers {
		l := &d.s.Losers[i]
		cells := []any{view.AddrText(l.Src), l.Drops, portion{l.Drops, d.s.Losers[0].Drops}}
		by, other := lostBy(l, reasons)
		for _, n := range by {
			cells = append(cells, n)
		}
		d.row(append(cells, other, l.Evicted, l.Evictor, d.netns(l.NetNS, l.Zone))...)
	}
	d.put(endNumbers)
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
