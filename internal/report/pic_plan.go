package report

import (
	"fmt"
	"io"
	"math"
	"time"

	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/plan"
	"github.com/ctsight/ctsight/internal/svg"
	"github.com/ctsight/ctsight/internal/view"
)

// Plan is what the connections of a capture need, and what it would have been with other
// limits and timeouts.
type Plan struct {
	*plan.Doc
	Curves []plan.Curve
}

// WritePlanHTML writes a plan with its curves as one file that asks for nothing else.
func WritePlanHTML(w io.Writer, p *Plan) error {
	d := &Data{Name: "plan of " + p.Source, Plan: p}
	x := &doc{Writer: &markup.Writer{}, data: d}
	x.top()
	x.Put(`<p class="soft">{} to {} UTC ({})</p>`, p.From.UTC().Format(time.DateTime), p.To.UTC().Format(time.DateTime), view.Span(p.To.Sub(p.From)))
	x.capacity()
	x.Put(`<section id="notes" aria-labelledby="notes-h"><h2 id="notes-h">What this rests on</h2><ul class="says">`)
	for _, n := range p.Notes {
		x.Put(`<li>{}</li>`, n)
	}
	x.Put(`<li>{}</li></ul></section><section id="sysctl" aria-labelledby="sysctl-h"><h2 id="sysctl-h">A file for /etc/sysctl.d</h2><pre tabindex="0">{}</pre></section>`,
		"The arrivals that were seen are replayed with the kernel's rules: docs/plan.md.", p.Sysctl())
	x.bottom()
	_, err := w.Write(x.B)
	return err
}

// curveFill are the colours of curves of timeouts.
var curveFill = [...]markup.Text{"k0", "k1", "k2"}

const curveH = 200

// curve is a drawing of values over limits or timeouts.
type curve struct {
	*doc
	x, y svg.Scale
}

func (c *curve) px(v float64) float64 { return leftRoom + plotW*c.x.At(v) }
func (c *curve) py(v float64) float64 { return headroom + curveH*(1-min(1, c.y.At(v))) }

// frame opens the drawing with both scales.
func (c *curve) frame(id markup.Text, title, text, xUnit, yUnit string, name func(uint64) string) {
	c.open(id, headroom+curveH+40, title, text)
	for _, n := range c.y.Ticks {
		y := c.py(float64(n))
		c.Put(`<path class="grid" d="M{} {}h{}"/><text class="end" x="{}" y="{}" dy=".32em">{}</text>`, leftRoom, y, plotW, leftRoom-8, y, markup.Short(n))
	}
	for _, n := range c.x.Ticks {
		x, class := c.px(float64(n)), markup.Text("mid")
		c.Put(`<path class="grid" d="M{} {}v{}"/>`, x, headroom, curveH)
		if x > chartW-30 { // or it would not be whole
			x, class = chartW-2, "end"
		}
		c.Put(`<text class="{}" x="{}" y="{}">{}</text>`, class, x, headroom+curveH+16, name(n))
	}
	c.Put(`<text x="{}" y="{}">{}</text><text class="end" x="{}" y="{}">{}</text>`, leftRoom, headroom-6, yUnit, chartW-right, headroom+curveH+34, xUnit)
}

// through draws a line through points.
func (c *curve) through(class markup.Text, points [][2]float64) {
	c.Put(`<path class="curve {}" d="`, class)
	for i, p := range points {
		if i == 0 {
			c.Put(`M{} {}`, c.px(p[0]), c.py(p[1]))
		} else {
			c.Put(`L{} {}`, c.px(p[0]), c.py(p[1]))
		}
	}
	c.Put(`"/>`)
}

// today marks a point.
func (c *curve) today(x, y float64) {
	c.Put(`<path class="today" d="M{} {}h0"/>`, c.px(x), c.py(y))
}

// capacity are the pictures of a plan.
func (d *doc) capacity() {
	p := d.data.Plan
	if p == nil || len(p.Curves) == 0 {
		return
	}
	d.limitCurve(p, &p.Curves[0])
	if len(p.Curves) > 1 {
		d.timeoutCurves(p, p.Curves[1:])
	}
}

// limitCurve is what the table would have held, and lost, under other limits.
func (d *doc) limitCurve(p *Plan, of *plan.Curve) {
	d.begin("capacity", "Capacity: what another limit would do")
	text := p.needSays(of)
	d.say(text)
	d.Put(`<p class="legend"><span><svg width="22" height="12" aria-hidden="true"><path class="curve k0" d="M2 6h18"/></svg> entries, at most</span> <span><svg width="22" height="12" aria-hidden="true"><path class="curve k1" d="M2 6h18"/></svg> entries, mean</span> <span><svg width="22" height="12" aria-hidden="true"><path class="lostline" d="M2 6h18"/></svg> refused or evicted, right scale</span> <span><svg width="22" height="12" aria-hidden="true"><path class="today" d="M11 6h0"/></svg> today</span> <span><svg width="22" height="12" aria-hidden="true"><path class="limit" d="M11 0v12"/></svg> limit that is needed</span></p>`)
	var widest, most, lost uint64
	for _, q := range of.Points {
		widest, most, lost = max(widest, q.Max), max(most, q.Run.Peak), max(lost, q.Run.Lost())
	}
	c := &curve{d, svg.Linear(max(1, widest)), svg.Linear(max(1, most))}
	c.frame("capacity", "Entries and lost connections over the limit", text, "nf_conntrack_max", "entries", markup.Short)
	var peaks, means, losses [][2]float64
	top := c.y.Ticks[len(c.y.Ticks)-1]
	for _, q := range of.Points {
		x := float64(q.Max)
		peaks, means = append(peaks, [2]float64{x, float64(q.Run.Peak)}), append(means, [2]float64{x, q.Run.Mean})
		losses = append(losses, [2]float64{x, .98 * float64(top) * float64(q.Run.Lost()) / float64(max(1, lost))})
	}
	c.through("k0", peaks)
	c.through("k1", means)
	if lost > 0 {
		c.through("lostline", losses)
		c.Put(`<text class="end red" x="{}" y="{}">{}</text>`, chartW-right, headroom-6, count(lost)+" at most")
	}
	if need := p.Need.Limit; need <= c.x.Ticks[len(c.x.Ticks)-1] {
		c.Put(`<path class="limit" d="M{} {}v{}"/>`, c.px(float64(need)), headroom, curveH)
	}
	for _, q := range of.Points {
		if q.Today {
			c.today(float64(q.Max), float64(q.Run.Peak))
		}
	}
	d.Put(`</svg></div>`)
	d.Numbers("capacity", "#limit", "", "#entries, at most", "#entries, mean", "#refused", "#evicted")
	for _, q := range of.Points {
		d.Row(q.Max, todayText(q.Today || q.Max == p.Need.Limit, q.Today), q.Run.Peak, markup.Number(markup.Rate(q.Run.Mean)), q.Run.Drops, q.Run.Evicted+q.Run.EvictedGC)
	}
	d.Put(markup.EndNumbers + endFigure)
}

func todayText(is, today bool) string {
	switch {
	case today:
		return "today"
	case is:
		return "needed"
	}
	return ""
}

func (p *Plan) needSays(of *plan.Curve) string {
	text := fmt.Sprintf("Needed are %s entries: the more of %s seen and %s offered with its peaks. A limit of %s has them at %s of the table", markup.Rate(p.Need.Peak), count(p.Today.Peak),
		markup.Rate(p.Total.Offered), count(p.Need.Limit), markup.Percent(uint64(100*plan.Levels[0]), 100))
	switch limit := p.Kernel.Max; {
	case limit == 0:
		text += "; that of today is not known."
	case limit >= p.Need.Limit:
		text += "; today's of " + count(limit) + " is enough."
	default:
		text += "; today's of " + count(limit) + " is too low."
	}
	for i := len(of.Points) - 1; i >= 0; i-- {
		if q := &of.Points[i]; q.Run.Lost() > 0 && !q.Today {
			return text + fmt.Sprintf(" With %s there would have been %s refused or evicted.", count(q.Max), markup.Plural(q.Run.Lost(), "connection", "connections"))
		}
	}
	return text
}

// timeoutCurves are what the table would have held with other timeouts.
func (d *doc) timeoutCurves(p *Plan, all []plan.Curve) {
	d.begin("timeouts", "Capacity: what other timeouts would do")
	text := p.timeoutsSay(all)
	d.say(text)
	d.Put(`<p class="legend">`)
	most, longest := uint64(1), 1.0
	for i := range all {
		c := &all[i]
		d.Put(`<span><svg width="22" height="12" aria-hidden="true"><path class="curve {}" d="M2 6h18"/></svg> {}, today {}</span> `, curveFill[i], c.Timer.Short(), view.Span(p.Kernel.Timeouts[c.Timer]))
		for _, q := range c.Points {
			most, longest = max(most, q.Run.Peak), max(longest, p.times(c, &q))
		}
	}
	d.Put(`<span><svg width="22" height="12" aria-hidden="true"><path class="today" d="M11 6h0"/></svg> today</span></p>`)
	percent := svg.Scale{At: func(v float64) float64 { return v / (100 * longest) }}
	for n := uint64(0); n <= uint64(100*longest); n += 50 {
		percent.Ticks = append(percent.Ticks, n)
	}
	c := &curve{d, percent, svg.Linear(most)}
	c.frame("timeouts", "Entries over timeouts", text, "timeout, as a part of today's", "entries, at most", func(n uint64) string { return digits(n) + " %" })
	for i := range all {
		var points [][2]float64
		for k := range all[i].Points {
			q := &all[i].Points[k]
			points = append(points, [2]float64{100 * p.times(&all[i], q), float64(q.Run.Peak)})
		}
		c.through(curveFill[i], points)
	}
	for i := range all {
		for k := range all[i].Points {
			if q := &all[i].Points[k]; q.Today {
				c.today(100, float64(q.Run.Peak))
			}
		}
	}
	d.Put(`</svg></div>`)
	d.Numbers("timeouts", "timeout", "#seconds", "", "#entries, at most", "#entries, mean")
	for i := range all {
		for _, q := range all[i].Points {
			d.Row(all[i].Timer.String(), uint64(q.Timeout.Seconds()), todayText(q.Today, q.Today), q.Run.Peak, markup.Number(markup.Rate(q.Run.Mean)))
		}
	}
	d.Put(markup.EndNumbers + endFigure)
}

// times is a timeout as a part of today's.
func (p *Plan) times(c *plan.Curve, q *plan.Point) float64 {
	return q.Timeout.Seconds() / max(1, p.Kernel.Timeouts[c.Timer].Seconds())
}

func (p *Plan) timeoutsSay(all []plan.Curve) string {
	c := &all[0]
	text := fmt.Sprintf("%s holds most after the last packet (today %s).", c.Timer, view.Span(p.Kernel.Timeouts[c.Timer]))
	best, of := (*plan.Point)(nil), (*plan.Curve)(nil)
	for i := range all {
		for k := range all[i].Points {
			if q := &all[i].Points[k]; math.Abs(p.times(&all[i], q)-.5) < .01 && (best == nil || q.Run.Peak < best.Run.Peak) {
				best, of = q, &all[i]
			}
		}
	}
	switch {
	case best == nil:
	case best.Run.Peak < p.Today.Peak:
		text += fmt.Sprintf(" With %s = %s the table would have held %s at most instead of %s.", of.Timer, view.Span(best.Timeout), count(best.Run.Peak), count(p.Today.Peak))
	default:
		text += " With half of any of these the most entries would not have been fewer."
	}
	if p.To.Sub(p.From) < 2*p.Kernel.Timeouts[c.Timer] {
		text += " The capture is shorter than two such timeouts: what longer ones come to is not all in it."
	}
	return text + " Each is changed by itself, and without a limit."
}
