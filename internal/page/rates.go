package page

import (
	"math"

	"github.com/ctsight/ctsight/internal/svg"
)

// rates are the connections of the past, each second and its busiest 10 ms.
func (d *doc) rates() {
	d.begin("rates", "New connections")
	say := plain((*doc).ratesSay, d)
	d.put(`{}</figcaption>`, say)
	if d.past.n == 0 {
		d.nothing()
		return
	}
	d.put(`<p class="legend"><span><svg width="22" height="12" aria-hidden="true"><rect class="area new" width="22" height="12"/></svg> each second</span> <span><svg width="22" height="12" aria-hidden="true"><path class="peak" d="M3 6h16"/></svg> rate in its busiest 10 ms</span></p>`)
	most := 10.0
	for i := range d.past.s {
		most = max(most, d.past.s[i].new, d.past.s[i].peak)
	}
	y := svg.Log(1, most)
	p := &plot{writer: d.writer, id: "rate", past: d.past, h: 150}
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
		p.label(float64(p.h)*(1-y.At(float64(n))), short(n))
	}
	p.finish()
	d.minutes()
	d.put(endFigure)
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
	d.put(`<p class="soft">The past fills up from the first second of tracing on; nothing is known of it yet.</p>` + endFigure)
}

func (d *doc) ratesSay() {
	r := &d.s.Total.Rates
	d.put(`{} new connections a second, {} over ten seconds, {} over a minute.`, rate(r.S1), rate(r.S10), rate(r.M1))
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
	d.put(` {} in {}; the busiest second had {} at {}`, d.past.new, d.window(), rate(d.past.s[second].new), clock(d.past.end(second)))
	if d.past.s[peak].peak > 0 {
		d.put(`, the busiest 10 ms went at {}/s at {}`, rate(d.past.s[peak].peak), clock(d.past.end(peak)))
	}
	d.put(`.`)
}

// window says how long the past is.
func (d *doc) window() string {
	if d.past.n >= seconds {
		return "ten minutes"
	}
	return plural(uint64(d.past.n), "second", "seconds")
}

// minutes are the numbers of the past, a line a minute.
func (d *doc) minutes() {
	d.numbers("rates", "minute to", "#new", "#most in a second", "#most in 10 ms, per second", "#packets lost", "#evicted", "#seconds with loss of records")
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
			d.row(clock(d.past.end(end-1)), number(rate(new)), number(rate(most)), number(rate(peak)), number(rate(drops)), number(rate(evicted)), lost)
		}
	}
	d.put(endNumbers)
}

// plain returns what f writes without its markup, for text and for attributes.
func plain(f func(*doc), d *doc) string {
	w := &writer{}
	c := *d
	c.writer = w
	f(&c)
	return stripped(w.b)
}

// stripped takes tags away and undoes the escapes of writer.text.
func stripped(b []byte) string {
	out := make([]byte, 0, len(b))
	in := false
	for _, c := range b {
		switch {
		case c == '<':
			in = true
		case c == '>':
			in = false
		case !in:
			out = append(out, c)
		}
	}
	return unescape.Replace(string(out))
}
