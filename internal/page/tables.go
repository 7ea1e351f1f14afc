package page

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/svg"
	"github.com/ctsight/ctsight/internal/view"
)

const (
	gauges   = 8   // tables with a gauge
	listed   = 32  // tables with a line of numbers
	poolFrom = 0.5 // of a NAT port pool in use, to be shown
	poolRows = 4
)

// nearest are the tables, the one nearest to its limit first, what is not known
// last.
func nearest(all []agg.TableState) []agg.TableState {
	out := slices.Clone(all)
	slices.SortStableFunc(out, func(a, b agg.TableState) int {
		if (a.Err == "") != (b.Err == "") {
			return cmp.Compare(len(a.Err), len(b.Err))
		}
		return cmp.Or(cmp.Compare(b.Fill(), a.Fill()), cmp.Compare(b.Entries, a.Entries), cmp.Compare(a.NetNS, b.NetNS))
	})
	return out
}

func fill(t *agg.TableState) string {
	switch {
	case t.Err != "":
		return "–"
	case t.Max == 0:
		return "no limit"
	}
	return markup.Percent(t.Entries, t.Max)
}

func forecastText(t *agg.TableState) string {
	if t.Err != "" || t.Max == 0 {
		return "–"
	}
	return view.ForecastText(t.Forecast, t.TimeToFull, t.FullLow, t.FullHigh)
}

func (d *doc) tables(all []agg.TableState) {
	d.begin("tables", "Tables")
	d.tablesSay(all)
	d.Put(`</figcaption><ul class="gauges"><li class="scale"><span></span><svg class="marks" width="100%" height="16" aria-hidden="true">`)
	for _, at := range []int{70, 85, 95} {
		d.Put(`<text x="{}%" y="12">{}</text>`, at, at)
	}
	d.Put(`</svg><span class="soft">% full</span></li>`)
	for i := range all[:min(gauges, len(all))] {
		d.gauge(&all[i])
	}
	if rest := all[min(gauges, len(all)):]; len(rest) > 0 {
		d.Put(`<li class="rest"><span>and {}</span><span>{}</span></li>`, markup.Plural(uint64(len(rest)), "table", "tables"), restText(rest))
	}
	d.pools()
	d.Put(`</ul>`)
	if d.main != nil && d.past.n > 0 {
		d.fillPlot(d.main)
	}
	d.Numbers("tables", "netns", "#number", "#entries", "#limit", "#fill", "level", "full in (from..to)", "#new/s", "#known", "note")
	for i := range all[:min(listed, len(all))] {
		t := &all[i]
		if t.Err != "" {
			d.Row(d.o.Names.TableText(t), markup.Number(t.NetNS.String()), markup.Number("–"), markup.Number("–"), markup.Number("–"), "–", "–", markup.Number("–"), markup.Number("–"), markup.Prose(markup.Sentence(t.Err)))
			continue
		}
		d.Row(d.o.Names.TableText(t), markup.Number(t.NetNS.String()), t.Entries, t.Max, markup.Number(fill(t)), t.Level.String(), forecastText(t), markup.Number(markup.Rate(t.NewRate)), t.Known, markup.Prose(seeded(t)))
	}
	if rest := all[min(listed, len(all)):]; len(rest) > 0 {
		d.Row(markup.Plural(uint64(len(rest)), "more", "more"), "", "", "", "", "", "", "", "", markup.Prose(restText(rest)))
	}
	d.Put(markup.EndNumbers + endFigure)
}

func seeded(t *agg.TableState) string {
	if t.Seeded {
		return ""
	}
	return "entries from before the start are not known"
}

// restText sums up tables that are not shown.
func restText(rest []agg.TableState) string {
	var entries, limit uint64
	blind := uint64(0)
	for i := range rest {
		entries, limit = entries+rest[i].Entries, limit+rest[i].Max
		if rest[i].Err != "" {
			blind++
		}
	}
	text := markup.Plural(entries, "entry", "entries") + " of " + markup.Count(limit)
	if rest[0].Err == "" {
		text += ", the fullest " + fill(&rest[0])
	}
	if blind > 0 {
		text += ", " + markup.Count(blind) + " not known"
	}
	return text
}

func (d *doc) tablesSay(all []agg.TableState) {
	t := d.main
	if t == nil {
		d.Put(`Nothing is known of any table`)
		if len(all) > 0 {
			d.Put(`: {}`, markup.Sentence(all[0].Err))
		}
		d.Put(`.`)
		return
	}
	name := d.o.Names.TableText(t)
	if t.Max == 0 {
		d.Put(`<b>{}</b> holds {} and has no limit.`, name, markup.Plural(t.Entries, "entry", "entries"))
		return
	}
	d.Put(`<b>{}</b> is <b>{}</b> full: {} of {} entries`, name, fill(t), t.Entries, t.Max)
	switch t.Level {
	case agg.LevelTrend:
		d.Put(`, over 70 %: look for the trend`)
	case agg.LevelAction:
		d.Put(`, over 85 %: act`)
	case agg.LevelCritical:
		d.Put(`, over 95 %: critical`)
	}
	switch {
	case t.Forecast && t.TimeToFull != nil && *t.TimeToFull <= 0:
		d.Put(`. It is full now.`)
	case t.Forecast && t.TimeToFull != nil:
		d.Put(`. If arrivals go on like this it is full in <b>{}</b>.`, forecastText(t))
	case t.Forecast && t.FullLow != nil:
		d.Put(`. If arrivals go on like this it is unlikely to fill, and not before {}.`, view.ForecastText(true, t.FullLow, t.FullLow, t.FullLow))
	case t.Forecast:
		d.Put(`. If arrivals go on like this it will not fill.`)
	default:
		d.Put(`. When it will be full is not known yet.`)
	}
	if until, was := d.limitWas(t); was > 0 {
		d.Put(` Until {} its limit was {}.`, markup.Clock(until), was)
	}
	if u := sooner(all, t); u != nil {
		d.Put(` <b>{}</b> ({}) is full sooner: in {}.`, d.o.Names.TableText(u), fill(u), forecastText(u))
	}
}

// limitWas is the limit that a table had before it got its own, and until when; 0
// where it is not known to have changed.
func (d *doc) limitWas(t *agg.TableState) (until time.Time, was uint64) {
	_, limits := d.levels(t)
	for i := seconds - 1; i >= 0; i-- {
		if n := limits[i]; n > 0 && n != float64(t.Max) {
			return d.past.end(i), uint64(n)
		}
	}
	return until, 0
}

// sooner is the table that will be full before t, the fullest.
func sooner(all []agg.TableState, t *agg.TableState) (first *agg.TableState) {
	best := math.Inf(1)
	if t.Forecast && t.TimeToFull != nil {
		best = *t.TimeToFull
	}
	for i := range all {
		if u := &all[i]; u.Err == "" && u.Forecast && u.TimeToFull != nil && *u.TimeToFull < best {
			best, first = *u.TimeToFull, u
		}
	}
	return first
}

// gauge is one table.
func (d *doc) gauge(t *agg.TableState) {
	level := levelClass[min(t.Level, agg.LevelCritical)]
	d.Put(`<li class="{}"><b class="name">{}</b>`, level, d.o.Names.TableText(t))
	if t.Err != "" {
		d.Put(`<span class="err">{}</span></li>`, markup.Sentence(t.Err))
		return
	}
	d.bar(t.Fill(), t.Max > 0)
	d.Put(`<b class="pct">{}</b><span class="word">{}</span><span class="of">{} of {}</span>`, fill(t), word(t), t.Entries, limit(t.Max))
	d.Put(`<span class="full">{}</span></li>`, fullText(t.Forecast, t.Max > 0, t.TimeToFull, t.FullLow, t.FullHigh))
}

func word(t *agg.TableState) string {
	if t.Max == 0 {
		return ""
	}
	return t.Level.String()
}

func limit(n uint64) string {
	if n == 0 {
		return "no limit"
	}
	return markup.Count(n)
}

// fullText is a forecast in words.
func fullText(known, limited bool, full, low, high *float64) string {
	switch {
	case !limited:
		return ""
	case !known:
		return "forecast not known yet"
	case full == nil && low == nil:
		return "will not fill"
	case full != nil && *full <= 0:
		return "full now"
	case full == nil:
		return "unlikely, not before " + view.ForecastText(true, low, low, low)
	}
	return "full in " + view.ForecastText(true, full, low, high)
}

// bar shows a share of 1 with the marks of the levels.
func (d *doc) bar(share float64, limited bool) {
	d.Put(`<svg class="bar" width="100%" height="18" viewBox="0 0 100 18" preserveAspectRatio="none" aria-hidden="true"><rect class="rest" width="100" height="18"/>`)
	if limited {
		d.Put(`<rect class="part" width="{}" height="18"/><path class="mark" d="M70 0v18M85 0v18M95 0v18"/>`, 100*min(1, share))
	}
	d.Put(`</svg>`)
}

// pools are the NAT port pools that are half full, the fullest.
func (d *doc) pools() {
	all := slices.DeleteFunc(slices.Clone(d.s.Pools), func(p agg.PoolState) bool { return p.Fill() <= poolFrom })
	slices.SortStableFunc(all, func(a, b agg.PoolState) int { return cmp.Compare(b.Fill(), a.Fill()) })
	for i := range all[:min(poolRows, len(all))] {
		p := &all[i]
		level := agg.LevelOf(p.Fill())
		d.Put(`<li class="{}"><span class="name">NAT ports {}</span>`, levelClass[level], view.PoolText(&p.Key))
		d.bar(p.Fill(), true)
		d.Put(`<b class="pct">{}</b><span class="word">{}</span><span class="of">{} of {}</span><span class="full">{}</span></li>`, markup.Percent(p.InUse, p.Capacity), level.String(),
			p.InUse, p.Capacity, fullText(p.Forecast, true, p.TimeToFull, p.FullLow, p.FullHigh))
	}
}

// fillPlot draws the past of one table, its limit, and when it will be full.
func (d *doc) fillPlot(t *agg.TableState) {
	entries, limits := d.levels(t)
	top := max(1, float64(t.Entries), float64(t.Max))
	for i := range entries {
		if !math.IsNaN(entries[i]) {
			top = max(top, entries[i])
		}
	}
	d.Put(`<p class="legend"><span><svg width="22" height="12" aria-hidden="true"><rect class="area fill" width="22" height="12"/></svg> entries of {}</span> <span><svg width="22" height="12" aria-hidden="true"><path class="limit" d="M0 6h22"/></svg> limit</span>`, d.netnsName(t.NetNS))
	if t.Forecast && t.FullLow != nil {
		d.Put(` <span><svg width="22" height="12" aria-hidden="true"><rect class="fan" width="22" height="12"/><path class="expected" d="M0 6h22"/></svg> straight to when it is full: expected, and between the bounds</span>`)
	}
	d.Put(`</p>`)
	p := &plot{Writer: d.Writer, id: "fill", past: d.past, ahead: (seconds - d.past.from) / 2, h: 160}
	y := func(n float64) float64 { return float64(p.h) * (1 - n/top) }
	p.begin("Entries of "+d.o.Names.TableText(t)+" over time", plain(func(d *doc) { d.tablesSay(nil) }, d))
	p.inside()
	p.Put(`<rect class="future" x="{}" width="{}" height="{}"/>`, seconds, p.ahead, p.h)
	p.area("area fill", func(i int) float64 { return entries[i] / top })
	if t.Max > 0 {
		for _, share := range []float64{0.70, 0.85, 0.95} {
			p.line("level", y(share*float64(t.Max)))
		}
		p.limits(limits, float64(t.Max), y)
		p.line("limit", y(float64(t.Max)))
		p.fan(t, y)
	}
	p.outside()
	p.unit("entries")
	if t.Max > 0 {
		for _, n := range []uint64{0, t.Max / 2, t.Max} {
			p.label(y(float64(n)), markup.Short(n))
		}
		for _, share := range []int{70, 85, 95} {
			p.Put(`<text class="num right" x="100%" dx="4" y="{}" dy=".32em">{} %</text>`, head+y(float64(share)*float64(t.Max)/100), share)
		}
	} else {
		for _, n := range svg.Linear(uint64(top)).Ticks {
			if float64(n) <= top {
				p.label(y(float64(n)), markup.Short(n))
			}
		}
	}
	p.Put(`<text class="now" x="{}%" y="{}">now</text>`, p.share(seconds), head-5)
	p.finish()
}

// levels are entries and limit of a table per second, NaN where nothing is known. A
// sample stands for its second, and for one that is missing before it.
func (d *doc) levels(t *agg.TableState) (entries, limits []float64) {
	entries, limits = make([]float64, seconds), make([]float64, seconds)
	for i := range entries {
		entries[i], limits[i] = math.NaN(), math.NaN()
	}
	list := d.past.stretches(d.s.History)
	for i := range list {
		x := &list[i]
		j := slices.IndexFunc(x.Tables, func(s agg.TableSample) bool { return s.NetNS == t.NetNS })
		for k := max(0, x.until-1, x.from); j >= 0 && k <= x.until; k++ {
			entries[k], limits[k] = float64(x.Tables[j].Entries), float64(x.Tables[j].Max)
		}
	}
	return entries, limits
}

// limits draws where the limit was another than it is now.
func (p *plot) limits(limits []float64, now float64, y func(float64) float64) {
	p.Put(`<path class="limit was" d="`)
	for i, n := range limits {
		if n > 0 && n != now {
			p.Put(`M{} {}h1`, i, y(n))
		}
	}
	p.Put(`"/>`)
}

// fan draws straight lines from now to when the table will be full, at the earliest,
// as expected, at the latest.
func (p *plot) fan(t *agg.TableState, y func(float64) float64) {
	if !t.Forecast || t.FullLow == nil && t.TimeToFull == nil {
		return
	}
	at := func(s *float64) (x, py float64) { return p.ends(t, s, y) }
	low, high := t.FullLow, t.FullHigh
	if low == nil {
		low = t.TimeToFull
	}
	x0, y0 := at(low)
	x1, y1 := at(high)
	p.Put(`<path class="fan" d="M{} {}L{} {}`, seconds, y(float64(t.Entries)), x0, y0)
	if edge := float64(p.end()); x0 < edge { // along the limit
		p.Put(`H{}`, x1)
	}
	p.Put(`L{} {}z"/>`, x1, y1)
	if t.TimeToFull != nil {
		x, py := at(t.TimeToFull)
		p.Put(`<path class="expected" d="M{} {}L{} {}"/>`, seconds, y(float64(t.Entries)), x, py)
	}
}

// ends is where a line from now, at today's entries, to the limit in s seconds leaves
// the plot; nil never rises.
func (p *plot) ends(t *agg.TableState, s *float64, y func(float64) float64) (x, py float64) {
	from, to, ahead := float64(t.Entries), float64(t.Max), float64(p.ahead)
	switch {
	case s == nil || math.IsNaN(*s):
		return float64(p.end()), y(from)
	case *s <= 0:
		return seconds, y(to)
	case *s <= ahead:
		return seconds + *s, y(to)
	}
	return float64(p.end()), y(from + (to-from)*ahead / *s)
}
