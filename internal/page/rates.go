package page

import (
	"math"

	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/svg"
)

// rates are the connections of the past, each second and its busiest 10 ms.
func (d *doc) rates() {
	d.begin("rates", "New connections")
	say := plain((*doc).ratesSay, d)
	d.Put(`{}</figcaption>`, say)
	if d.past.n == 0 {
		d.nothing()
		return
	}
	d.Put(`<p class="legend"><span><svg width="22" height="12" aria-hidden="true"><rect class="area new" width="22" height="12"/></svg> each second</span> <span><svg width="22" height="12" aria-hidden="true"><path class="peak" d="M3 6h16"/></svg> rate in its busiest 10 ms</span></p>`)
	most := 10.0
	for i := range d.past.s {
		most = max(most, d.past.s[i].new, d.past.s[i].peak)
	}
	y := svg.Log(1, most)
	p := &plot{Writer: d.Writer, id: "rate", past: d.past, h: 150}
	p.begin("New connections per second over time", say)
	p.inside()
	for _, n := range y.Ticks {
		p.line("grid", float64(p.h)*(1-y.At(float64(n))))
	}
	p.area("area new", func(i int) float64 {
		if !d.past.s[i].known {
			return math.NaN()
		}
		return low(y, d.past.s[i].new)
	})
	p.dashes("peak", func(i int) float64 { return low(y, d.past.s[i].peak) })
	p.outside()
	p.unit("connections per second, logarithmic")
	for _, n := range y.Ticks {
		p.label(float64(p.h)*(1-y.At(float64(n))), markup.Short(n))
	}
	p.finish()
	d.minutes()
	d.Put(endFigure)
}

// low lifts what is 1 or less off the bottom, which is for nothing.
func low(y svg.Scale, n float64) float64 {
	if n <= 0 {
		return 0
	}
	return max(0.02, y.At(n))
}

// nothing stands for the pictures of a past that has not begun.
func (d *doc) nothing() {
	d.Put(`<p class="soft">The past fills up from the first second of tracing on; nothing is known of it yet.</p>` + endFigure)
}

func (d *doc) ratesSay() {
	r := &d.s.Total.Rates
	d.Put(`{} new connections a second, {} over ten seconds, {} over a minute.`, markup.Rate(r.S1), markup.Rate(r.S10), markup.Rate(r.M1))
	if d.past.new == 0 {
		return
	}
	second, peak := 0, 0
	for i := range d.past.s {
		if d.past.s[i].new > d.past.s[second].new {
			second = i
		}
		if d.past.s[i].peak > d.past.s[peak].peak {
			peak = i
		}
	}
	d.Put(` {} in {}; the busiest second had {} at {}`, d.past.new, d.window(), markup.Rate(d.past.s[second].new), markup.Clock(d.past.end(second)))
	if d.past.s[peak].peak > 0 {
		d.Put(`, the busiest 10 ms went at {}/s at {}`, markup.Rate(d.past.s[peak].peak), markup.Clock(d.past.end(peak)))
	}
	d.Put(`.`)
}

// window says how long the past is.
func (d *doc) window() string {
	if d.past.n >= seconds {
		return "ten minutes"
	}
	return markup.Plural(uint64(d.past.n), "second", "seconds")
}

// minutes are the numbers of the past, a line a minute.
func (d *doc) minutes() {
	d.Numbers("rates", "minute to", "#new", "#most in a second", "#most in 10 ms, per second", "#packets lost", "#evicted", "#seconds with loss of records")
	for end := seconds; end > 0; end -= 60 {
		var new, drops, evicted, most, peak float64
		known, lost := 0, uint64(0)
		for _, s := range d.past.s[end-60 : end] {
			if s.known {
				known++
			}
			if s.lost {
				lost++
			}
			new, drops, evicted = new+s.new, drops+s.drops, evicted+s.evicted
			most, peak = max(most, s.new), max(peak, s.peak)
		}
		if known > 0 {
			d.Row(markup.Clock(d.past.end(end-1)), markup.Number(markup.Rate(new)), markup.Number(markup.Rate(most)), markup.Number(markup.Rate(peak)), markup.Number(markup.Rate(drops)), markup.Number(markup.Rate(evicted)), lost)
		}
	}
	d.Put(markup.EndNumbers)
}

// plain returns what f writes without its markup, for text and for attributes.
func plain(f func(*doc), d *doc) string {
	w := &markup.Writer{}
	c := *d
	c.Writer = w
	f(&c)
	return markup.Strip(w.B)
}
