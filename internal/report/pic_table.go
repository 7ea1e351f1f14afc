package report

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/forecast"
	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/svg"
	"github.com/ctsight/ctsight/internal/view"
)

// stacked is the order of classes from the bottom: what is surest first, so that what
// waits for an answer is on top.
var stacked = [...]Class{TCPAssured, TCPAnswered, UDPAnswered, ICMP, OtherProto, UDPSilent, TCPSilent}

var classFill = [NumClasses]markup.Text{"c0", "c1", "c2", "c3", "c4", "c5", "c6"}

// occupancy is what the table held, with its limit and what the forecast said.
func (d *doc) occupancy() {
	x := d.data
	t := x.main()
	if t == nil {
		return
	}
	d.begin("occupancy", "The table")
	text := x.occupancySays(t)
	d.say(text)
	d.Put(`<p class="legend">`)
	for i := len(stacked) - 1; i >= 0; i-- {
		if c := stacked[i]; t.has(c) {
			d.Put(`<span><svg width="22" height="12" aria-hidden="true"><rect class="{}" width="22" height="12"/></svg> {}</span> `, classFill[c], c.String())
		}
	}
	if t.Counted {
		d.Put(`<span><svg width="22" height="12" aria-hidden="true"><path class="kernel" d="M2 6h18"/></svg> the kernel's own count</span> `)
	}
	if len(x.fans(t)) > 0 {
		d.Put(`<span><svg width="22" height="12" aria-hidden="true"><path class="expected" d="M2 6h18"/></svg> the forecast as it stood, with its band</span>`)
	}
	d.Put(`</p>`)
	most := t.Highest()
	limits := t.showsLimit()
	if limits {
		_, limit := t.fullest()
		most = max(most, limit)
	}
	y := svg.Linear(max(1, most))
	p := &plot{doc: d, d: x, h: 220}
	p.begin("occupancy", "Entries in the table over time by state and protocol", text)
	p.scale(y, "entries, the most in each column")
	sums := make([]uint64, len(t.Columns))
	for _, c := range stacked {
		low := append([]uint64(nil), sums...)
		for i := range sums {
			sums[i] += uint64(t.Columns[i].By[c])
		}
		if t.has(c) {
			p.area(classFill[c], func(i int) float64 { return y.At(float64(low[i])) }, func(i int) float64 { return y.At(float64(sums[i])) })
		}
	}
	if t.Counted {
		p.line("kernel", func(i int) float64 { return y.At(float64(t.Columns[i].Kernel)) })
	}
	if limits {
		p.limits(t, y)
		for _, f := range x.fans(t) {
			p.fan(&f, y, float64(y.Ticks[len(y.Ticks)-1]))
		}
	}
	p.finish()
	d.occupancyNumbers(t)
	d.tablesList()
	d.Put(endFigure)
}

func (t *TableData) has(c Class) bool {
	for i := range t.Columns {
		if t.Columns[i].By[c] > 0 {
			return true
		}
	}
	return false
}

// showsLimit says whether the picture has room for its limit.
func (t *TableData) showsLimit() bool {
	_, limit := t.fullest()
	return limit > 0 && limit <= 3*t.Highest()
}

// limits draws the limit and the three marks below it.
func (p *plot) limits(t *TableData, y svg.Scale) {
	for i, pct := range levels {
		class := markup.Text("level")
		if i == len(levels)-1 {
			class = "limit"
		}
		at := func(i int) float64 {
			if s := y.At(float64(t.Columns[i].Max) * float64(pct) / 100); s <= 1 {
				return s
			}
			return 0 // above the picture
		}
		p.line(class, at)
		for i := range t.Columns {
			if at(i) > 0 {
				text := strconv.Itoa(pct) + " %"
				if pct == 100 {
					text = "limit " + count(t.Columns[i].Max)
				}
				x, y := p.col(i)+3, p.y(at(i))-3
				if pct == 95 { // under its line: the limit is close above
					x, y = x+45, y+14
				}
				p.Put(`<text x="{}" y="{}">{}</text>`, x, y, text)
				break
			}
		}
	}
}

// fans are the forecasts that are drawn: at the first time that each mark was passed.
func (d *Data) fans(t *TableData) (out []Crossing) {
	seen := map[int]bool{}
	for _, c := range t.Crossings {
		if !c.Down && c.Percent < 100 && !seen[c.Percent] && c.Outlook.Known && c.Outlook.Low < forecast.Never {
			seen[c.Percent] = true
			out = append(out, c)
		}
	}
	return out
}

// fan draws a forecast from when it stood to when it had the table full.
func (p *plot) fan(c *Crossing, y svg.Scale, top float64) {
	from := p.d.wall(c.At)
	x0, y0 := p.x(from), p.y(y.At(float64(c.Entries)))
	full := p.y(y.At(float64(c.Limit)))
	edge := float64(chartW - right)
	// end is where the line to the limit ends: there, or where the picture does.
	end := func(after time.Duration) (float64, float64) {
		if after >= forecast.Never {
			return edge, y0
		}
		x1 := p.x(from.Add(after))
		if x1 <= edge {
			return x1, full
		}
		return edge, y0 + (full-y0)*(edge-x0)/(x1-x0)
	}
	ex, ey := end(c.Outlook.Full)
	lx, ly := end(c.Outlook.Low)
	hx, hy := end(c.Outlook.High)
	band := [][2]float64{{x0, y0}, {lx, ly}}
	if ly == full && c.Outlook.High >= forecast.Never { // at the limit as long as may be
		band = append(band, [2]float64{edge, full})
	}
	band = append(band, [2]float64{hx, hy})
	p.polyline("fan", band, "z")
	f := fanSeries{Band: p.points(band, top)}
	if c.Outlook.Full < forecast.Never {
		line := [][2]float64{{x0, y0}, {ex, ey}}
		p.polyline("expected", line, "")
		f.Expected = p.points(line, top)
	}
	p.drawnFans = append(p.drawnFans, f)
}

func (p *plot) polyline(class markup.Text, points [][2]float64, end markup.Text) {
	p.Put(`<path class="{}" d="M{} {}`, class, points[0][0], points[0][1])
	for _, q := range points[1:] {
		p.Put(`L{} {}`, q[0], q[1])
	}
	p.Put(`{}"/>`, end)
}

// points are times in seconds and entries of places in the picture.
func (p *plot) points(of [][2]float64, top float64) [][2]float64 {
	out := make([][2]float64, len(of))
	for i, q := range of {
		after := time.Duration((q[0] - leftRoom) / plotW * float64(p.length()))
		out[i] = [2]float64{float64(p.d.Start.Add(after).UnixMilli()) / 1000, math.Round((1 - (q[1]-headroom)/float64(p.h)) * top)}
	}
	return out
}

func (d *Data) occupancySays(t *TableData) string {
	high := t.Highest()
	text := fmt.Sprintf("%s held %s at most", sentenceCase(t.Text()), markup.Plural(high, "entry", "entries"))
	if high > 0 && !t.Counted {
		text += " at " + d.moment(t.MostAt)
	}
	n, limit := t.fullest()
	switch {
	case limit == 0:
		text += "; its limit is not known from this capture (--max tells it)."
	case n == high && limit == t.Limit:
		text += fmt.Sprintf(": %s of its limit of %s.", markup.Percent(n, limit), count(limit))
	default:
		text += fmt.Sprintf("; it was fullest with %s of %s (%s), and its limit was %s in the end.", count(n), count(limit), markup.Percent(n, limit), count(t.Limit))
	}
	if !t.Counted {
		text += " Entries are counted from their inserts and destroys; what was in the table before the capture is not among them."
	}
	if c := t.class(); c < NumClasses {
		n := uint64(t.peakColumn().By[c])
		text += fmt.Sprintf(" Then most were “%s”: %s (%s).", c.String(), count(n), markup.Percent(n, uint64(t.peakColumn().Total)))
	}
	return text + d.forecastSays(t)
}

// peakColumn is the first column in which it held most.
func (t *TableData) peakColumn() *Hold {
	best := &t.Columns[0]
	for i := range t.Columns {
		if t.Columns[i].Total > best.Total {
			best = &t.Columns[i]
		}
	}
	return best
}

// class is the largest class when the table held most.
func (t *TableData) class() Class {
	if len(t.Columns) == 0 || t.peakColumn().Total == 0 {
		return NumClasses
	}
	best, h := Class(0), t.peakColumn()
	for c := range NumClasses {
		if h.By[c] > h.By[best] {
			best = c
		}
	}
	return best
}

// forecastSays holds what the forecast said against what came.
func (d *Data) forecastSays(t *TableData) (text string) {
	full := event.Ktime(0)
	for _, c := range t.Crossings {
		if c.Percent == 100 && !c.Down {
			full = c.At
			break
		}
	}
	for _, c := range t.Crossings {
		if c.Down || c.Percent == 100 || full > 0 && c.At >= full {
			continue
		}
		text += fmt.Sprintf(" At %d %% (%s)", c.Percent, d.moment(d.wall(c.At)))
		switch {
		case !c.Outlook.Known:
			text += " nothing was forecast yet"
		case c.Outlook.Low >= forecast.Never:
			text += " the forecast was that it would not fill"
		case c.Outlook.Full >= forecast.Never:
			text += " the forecast was that it was not certain to fill, and not before " + view.Span(c.Outlook.Low)
		default:
			text += " the forecast was full in " + view.Span(c.Outlook.Full) + band(&c.Outlook)
		}
		if full > 0 {
			text += ", and it was full after " + view.Span(full.Sub(c.At))
		}
		text += "."
		if full == 0 {
			break
		}
	}
	return text
}

func band(o *Outlook) string {
	high := "never"
	if o.High < forecast.Never {
		high = view.Span(o.High)
	}
	low := "never"
	if o.Low < forecast.Never {
		low = view.Span(o.Low)
	}
	return " (" + low + " to " + high + ")"
}

func (d *doc) occupancyNumbers(t *TableData) {
	columns := []string{"from"}
	for _, c := range stacked {
		columns = append(columns, "#"+c.String())
	}
	columns = append(columns, "#entries", "#kernel's count", "#limit", "#full in")
	d.Numbers("occupancy", columns...)
	for i := range t.Columns {
		h := &t.Columns[i]
		cells := []any{d.data.moment(d.data.at(i))}
		for _, c := range stacked {
			cells = append(cells, uint64(h.By[c]))
		}
		d.Row(append(cells, uint64(h.Total), known(h.Kernel), known(h.Max), markup.Number(fullIn(h.Full)))...)
	}
	d.Put(markup.EndNumbers)
}

func known(n uint64) markup.Number {
	if n == 0 {
		return "–"
	}
	return markup.Number(count(n))
}

func fullIn(s float32) string {
	switch s {
	case never:
		return "never"
	case notKnown:
		return "–"
	}
	return view.Span(time.Duration(float64(s) * float64(time.Second)))
}

// tablesList are all tables, where there are several.
func (d *doc) tablesList() {
	if len(d.data.Tables) < 2 {
		return
	}
	d.List("tables", "All tables", "netns", "#most entries", "#limit", "#fill", "#new", "level")
	for i := range d.data.Tables {
		t := &d.data.Tables[i]
		d.Row(t.Text(), t.Highest(), known(t.Limit), markup.Number(fillText(t)), t.Made, agg.LevelOf(t.fillMost()).String())
	}
	d.Put(markup.EndList)
}

func fillText(t *TableData) string { return markup.Percent(t.fullest()) }

// rates are the inserts over time and their busiest 10 ms.
func (d *doc) rates() {
	x := d.data
	d.begin("rates", "New connections")
	text := x.ratesSay()
	d.say(text)
	d.Put(`<p class="legend"><span><svg width="22" height="12" aria-hidden="true"><rect class="new" width="22" height="12"/></svg> per second, over each column of {}</span> <span><svg width="22" height="12" aria-hidden="true"><path class="peaks" d="M3 6h16"/></svg> rate in its busiest 10 ms</span>`, view.Span(x.Width))
	if x.lostPackets() > 0 {
		d.Put(` <span><svg width="22" height="12" aria-hidden="true"><path class="lostline" d="M2 6h18"/></svg> packets lost per second</span>`)
	}
	d.Put(`</p>`)
	y := x.rateScale()
	at := func(r float64) float64 {
		if r <= 0 {
			return 0
		}
		return max(.02, y.At(thousand*r)) // what is not nothing can be seen
	}
	p := &plot{doc: d, d: x, h: 180}
	p.begin("rates", "New connections per second over time", text)
	p.unit("per second, logarithmic")
	for _, n := range y.Ticks {
		p.tick(y.At(float64(n)), thousandths(n))
	}
	p.area("new", func(int) float64 { return 0 }, func(i int) float64 { return at(x.perSecond(x.Columns[i].New)) })
	p.dashes("peaks", func(i int) float64 { return at(100 * float64(x.Columns[i].Peak)) })
	if x.lostPackets() > 0 {
		p.line("lostline", func(i int) float64 { return at(x.perSecond(x.Columns[i].Dropped)) })
	}
	p.finish()
	d.Numbers("rates", "from", "#new", "#new/s", "#most in 10 ms", "#destroyed", "#evicted", "#packets lost", "#records lost")
	for i := range x.Columns {
		c := &x.Columns[i]
		d.Row(x.moment(x.at(i)), c.New, markup.Number(markup.Rate(x.perSecond(c.New))), c.Peak, c.Destroyed, c.Evicted, c.Dropped, d.recordsLost(c))
	}
	d.Row("all", x.sum(newOf), markup.Number(markup.Rate(x.mean())), "", x.sum(func(c *Column) uint64 { return c.Destroyed }), x.sum(evictedOf), x.sum(droppedOf), "")
	d.Put(markup.EndNumbers + endFigure)
}

// thousand is by what rates are multiplied, which in a long capture are far below 1.
const thousand = 1000

// rateScale has room for all rates, in thousandths.
func (d *Data) rateScale() svg.Scale {
	least, most := 1.0, 10.0
	for i := range d.Columns {
		c := &d.Columns[i]
		most = max(most, d.perSecond(c.New), 100*float64(c.Peak), d.perSecond(c.Dropped))
		if c.New > 0 {
			least = min(least, d.perSecond(c.New))
		}
	}
	low := uint64(thousand)
	for low > 1 && float64(low) > thousand*least {
		low /= 10
	}
	return svg.Log(low, thousand*most)
}

// thousandths writes a power of ten of thousandths.
func thousandths(n uint64) string {
	if n < thousand {
		return strconv.FormatFloat(float64(n)/thousand, 'g', -1, 64)
	}
	return markup.Short(n / thousand)
}

func (d *doc) recordsLost(c *Column) any {
	if !d.data.LossTold {
		return markup.Number("–")
	}
	return c.Lost
}

func (d *Data) ratesSay() string {
	at, most := d.highest(newOf)
	peakAt, peak := d.highest(peakOf)
	if most == 0 {
		return "No connection began in this capture."
	}
	text := fmt.Sprintf("%s in %s, %s a second on average. The busiest %s had %s (%s a second) at %s", markup.Plural(d.Totals.New, "connection", "connections"), view.Span(d.Span()),
		markup.Rate(d.mean()), view.Span(d.Width), count(most), markup.Rate(d.perSecond(most)), d.moment(d.at(at)))
	text += fmt.Sprintf("; the busiest 10 ms had %s, a rate of %s a second, at %s", count(peak), count(100*peak), d.moment(d.at(peakAt)))
	if m := d.mean(); m > 0 && 100*float64(peak) >= 2*m {
		text += fmt.Sprintf(": %s times the average", markup.Rate(100*float64(peak)/m))
	}
	return text + "."
}

func sentenceCase(s string) string {
	if len(s) > 4 && s[:4] == "the " {
		return "The " + s[4:]
	}
	return s
}
