package page

import (
	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/svg"
	"github.com/ctsight/ctsight/internal/view"
)

// sources are who opens connections, from when to when, and who holds the table.
func (d *doc) sources() {
	d.begin("sources", "Sources")
	say := plain((*doc).sourcesSay, d)
	d.Put(`{}</figcaption>`, say)
	if d.past.n == 0 {
		d.nothing()
		return
	}
	if rows := d.sourceStrips(); len(rows) > 0 {
		l := svg.NewLadder(highest(rows))
		d.legend("h", &l, "new connections a second")
		p := &plot{Writer: d.Writer, id: "source", past: d.past, h: rowH * len(rows)}
		p.begin("New connections per source and second over time", say)
		p.inside()
		p.strips(rows, &l)
		p.outside()
		p.names(rows)
		p.finish()
	}
	if len(d.s.Holders) == 0 {
		d.Put(endFigure)
		return
	}
	d.Put(`<details id="sources-n" open><summary id="sources-s">Who holds the table</summary>`)
	if d.s.BestEffort {
		d.Put(`<p class="soft">Best effort: entries whose end was not told count as live.</p>`)
	}
	d.List("sources", "Who holds the table", "source", "#live", "#share", "#new/s", "#peak/s", "#new", "#dsts", "#ports", "#answered", "#refused", "#silent", "#lost", "netns")
	for i := range d.s.Holders {
		d.holder(&d.s.Holders[i])
	}
	d.Put(markup.EndNumbers + endFigure)
}

func (d *doc) holder(r *agg.TopRow) {
	d.Row(view.AddrText(r.Src), r.Live, markup.Number(d.held(r)), markup.Number(markup.Rate(r.S1)), markup.Number(markup.Rate(r.Peak10ms)), r.New, r.DistinctDsts, r.DistinctDports,
		r.Answered, r.Refused, r.Unanswered, r.Drops, d.netns(r.NetNS, r.Zone))
}

// held is a source's share of the live entries, where they are known.
func (d *doc) held(r *agg.TopRow) string {
	if d.s.BestEffort {
		return "–"
	}
	return markup.Percent(r.Live, d.s.Live)
}

func (d *doc) netns(ns event.NetNS, zone uint16) string {
	name := d.netnsName(ns)
	if zone != 0 {
		name += " zone " + markup.Count(uint64(zone))
	}
	return name
}

func (d *doc) sourcesSay() {
	p := d.past
	if len(p.sources) == 0 {
		d.Put(`Nobody opened a connection in the last {}.`, d.window())
	} else {
		s := &p.sources[0]
		at, most := s.most()
		d.Put(`{} opened {} of {} connections in {} ({}), {} of them in the second to {}.`, view.AddrText(s.key.src), s.total, max(p.new, s.total), d.window(), markup.Percent(s.total, max(p.new, s.total)),
			markup.Rate(most), markup.Clock(p.end(at)))
	}
	if len(d.s.Holders) > 0 && d.s.Live > 0 && !d.s.BestEffort {
		h := &d.s.Holders[0]
		d.Put(` {} holds {} of {} live entries ({}).`, view.AddrText(h.Src), h.Live, d.s.Live, markup.Percent(h.Live, d.s.Live))
	}
}

func (d *doc) sourceStrips() (rows []strip) {
	for i := range d.past.sources {
		s := &d.past.sources[i]
		at, most := s.most()
		rows = append(rows, strip{view.AddrText(s.key.src), markup.Count(s.total) + ", most " + markup.Rate(most) + "/s at " + markup.Clock(d.past.end(at)) + ", " + d.netnsName(s.key.netns), "h", s.per})
	}
	if o := &d.past.others; o.total > 0 {
		rows = append(rows, strip{"all others", "about " + markup.Count(o.total), "h", o.per})
	}
	return rows
}

func highest(rows []strip) (most float64) {
	for i := range rows {
		for _, n := range rows[i].per {
			most = max(most, n)
		}
	}
	return most
}
