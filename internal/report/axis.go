package report

import (
	"time"

	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/svg"
)

// Drawings are of a fixed size in their own units, so that one taken out of the report
// is whole; how large they are shown is up to the style sheet.
const (
	chartW   = 1000
	leftRoom = 66
	right    = 14
	plotW    = chartW - leftRoom - right
	headroom = 18 // above the inside, for the unit
	ribbonAt = 15 // under the inside
	ribbonH  = 7
	footroom = ribbonAt + ribbonH + 22
)

// plot is a drawing over the time of the capture.
type plot struct {
	*doc
	d *Data
	h int // of the inside
}

// x is where a time lies.
func (p *plot) x(t time.Time) float64 {
	return leftRoom + plotW*float64(t.Sub(p.d.Start))/float64(max(1, p.length()))
}

// col is where a column begins.
func (p *plot) col(i int) float64 {
	return leftRoom + plotW*float64(i)/float64(max(1, len(p.d.Columns)))
}

// y is where a share of the height lies, 0 at the bottom.
func (p *plot) y(share float64) float64 { return headroom + float64(p.h)*(1-min(1, max(0, share))) }

func (p *plot) length() time.Duration { return time.Duration(len(p.d.Columns)) * p.d.Width }

// open begins a drawing with its words for those who do not see it.
func (d *doc) open(id markup.Text, h int, title, desc string) {
	d.Put(`<div class="draw"><svg viewBox="0 0 {} {}" role="img" aria-labelledby="{}-t {}-d"><title id="{}-t">{}</title><desc id="{}-d">{}</desc>`,
		chartW, h, id, id, id, title, id, desc)
}

// begin opens a drawing over time with its grid of times.
func (p *plot) begin(id markup.Text, title, desc string) {
	p.open(id, headroom+p.h+footroom, title, desc)
	p.Put(`<path class="grid ticks" d="`)
	p.ticks(func(x float64, _ string) { p.Put(`M{} {}v{}`, x, headroom, p.h) })
	p.Put(`"/>`)
}

// inside has fn draw what lies at its time, which the script may show a part of: as a
// picture in the picture, which is as large as that has room for.
func (p *plot) inside(fn func()) {
	p.Put(`<svg class="in" x="{}" width="{}" height="{}" viewBox="{} 0 {} {}" preserveAspectRatio="none">`, leftRoom, plotW, headroom+p.h+footroom, leftRoom, plotW, headroom+p.h+footroom)
	fn()
	p.Put(`</svg>`)
}

// finish adds the ribbon and the times.
func (p *plot) finish() {
	p.Put(`<text class="end" x="{}" y="{}">loss</text>`, leftRoom-8, headroom+p.h+ribbonAt+ribbonH)
	p.inside(p.ribbon)
	p.Put(`<g class="ticks">`)
	p.ticks(func(x float64, text string) {
		p.Put(`<text class="mid" x="{}" y="{}">{}</text>`, x, headroom+p.h+footroom-5, text)
	})
	// What is under the pointer the script knows by this.
	p.Put(`</g><rect class="over" x="{}" y="{}" width="{}" height="{}"/>`, leftRoom, headroom, plotW, p.h)
	p.Put(`<text class="end" x="{}" y="{}">UTC</text></svg></div>`, leftRoom-8, headroom+p.h+footroom-5)
}

// ribbon says of each column whether records of ours are missing in it.
func (p *plot) ribbon() {
	y := headroom + p.h + ribbonAt
	if !p.d.LossTold {
		p.Put(`<path class="unknown" d="M{} {}h{}"/><title>Whether records are missing is not known from this capture.</title>`, leftRoom, float64(y)+ribbonH/2., plotW)
		return
	}
	p.Put(`<path class="whole" d="M{} {}h{}"/><path class="lost" d="`, leftRoom, float64(y)+ribbonH/2., plotW)
	p.runs(func(i int) bool { return p.d.Columns[i].Gap }, func(from, to int) {
		p.Put(`M{} {}H{}v{}H{}z`, p.col(from), y, max(p.col(to), p.col(from)+1.5), ribbonH, p.col(from))
	})
	p.Put(`"/>`)
}

// runs calls fn for each stretch of columns for which in is true.
func (p *plot) runs(in func(int) bool, fn func(from, to int)) { runs(len(p.d.Columns), in, fn) }

func runs(n int, in func(int) bool, fn func(from, to int)) {
	for i := 0; i < n; i++ {
		if !in(i) {
			continue
		}
		from := i
		for i < n && in(i) {
			i++
		}
		fn(from, i)
	}
}

// scale draws the lines of a scale with their numbers at the left.
func (p *plot) scale(s svg.Scale, unit string) {
	p.unit(unit)
	for _, n := range s.Ticks {
		p.tick(s.At(float64(n)), markup.Short(n))
	}
}

func (p *plot) unit(text string) {
	p.Put(`<text x="{}" y="{}">{}</text>`, leftRoom, headroom-6, text)
}

func (p *plot) tick(share float64, text string) {
	y := p.y(share)
	p.Put(`<path class="grid" d="M{} {}h{}"/><text class="end" x="{}" y="{}" dy=".32em">{}</text>`, leftRoom, y, plotW, leftRoom-8, y, text)
}

// area fills between two outlines, shares of the height by column.
func (p *plot) area(class markup.Text, low, high func(i int) float64) {
	n := len(p.d.Columns)
	p.Put(`<path class="{}" d="`, class)
	runs(n, func(i int) bool { return high(i) > low(i) }, func(from, to int) {
		p.Put(`M{} {}`, p.col(from), p.y(high(from)))
		for i := from + 1; i < to; i++ {
			if high(i) != high(i-1) {
				p.Put(`H{}V{}`, p.col(i), p.y(high(i)))
			}
		}
		p.Put(`H{}V{}`, p.col(to), p.y(low(to-1)))
		for i := to - 1; i > from; i-- {
			if low(i) != low(i-1) {
				p.Put(`H{}V{}`, p.col(i), p.y(low(i-1)))
			}
		}
		p.Put(`H{}z`, p.col(from))
	})
	p.Put(`"/>`)
}

// line draws an outline where it is above 0.
func (p *plot) line(class markup.Text, at func(i int) float64) {
	p.Put(`<path class="{}" d="`, class)
	p.runs(func(i int) bool { return at(i) > 0 }, func(from, to int) {
		p.Put(`M{} {}`, p.col(from), p.y(at(from)))
		for i := from + 1; i < to; i++ {
			if at(i) != at(i-1) {
				p.Put(`H{}V{}`, p.col(i), p.y(at(i)))
			}
		}
		p.Put(`H{}`, p.col(to))
	})
	p.Put(`"/>`)
}

// dashes draw a short line in each column that has a value.
func (p *plot) dashes(class markup.Text, at func(i int) float64) {
	p.Put(`<path class="{}" d="`, class)
	w := plotW / float64(max(1, len(p.d.Columns)))
	for i := range p.d.Columns {
		if v := at(i); v > 0 {
			p.Put(`M{} {}h{}`, p.col(i), p.y(v), max(1, w))
		}
	}
	p.Put(`"/>`)
}

// cells draws a row of cells by their level, each level as one path.
func (p *plot) cells(class markup.Text, y, h float64, level func(i int) int) {
	for l := range svg.Levels {
		drawn := false
		p.runs(func(i int) bool { return level(i) == l }, func(from, to int) {
			if !drawn {
				p.Put(`<path class="{}{}" stroke-width="{}" d="`, class, l, h)
				drawn = true
			}
			p.Put(`M{} {}H{}`, p.col(from), y+h/2, max(p.col(to), p.col(from)+1))
		})
		if drawn {
			p.Put(`"/>`)
		}
	}
}

// steps are the distances between times on the axis.
var steps = []time.Duration{time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 6 * time.Hour, 12 * time.Hour, day, 2 * day, 7 * day,
	14 * day, 30 * day, 90 * day, 365 * day, 10 * 365 * day}

const (
	day      = 24 * time.Hour
	maxTicks = 8
)

// ticks calls fn for round times.
func (p *plot) ticks(fn func(x float64, text string)) {
	step := steps[len(steps)-1]
	for _, s := range steps {
		if p.length()/s < maxTicks {
			step = s
			break
		}
	}
	layout := "15:04:05.000"
	switch {
	case step >= day:
		layout = "2006-01-02"
	case p.length() > day:
		layout = "Jan 2 15:04"
	case step >= time.Minute:
		layout = "15:04"
	case step >= time.Second:
		layout = "15:04:05"
	}
	end := p.d.Start.Add(p.length())
	for t := p.d.Start.Truncate(step); t.Before(end); t = t.Add(step) {
		if x := p.x(t); x >= leftRoom+24 && x < chartW-30 {
			fn(x, t.UTC().Format(layout))
		}
	}
}

// moment is a time in words: with the day where a capture is long, with milliseconds
// where it is short.
func (d *Data) moment(t time.Time) string {
	layout := "15:04:05.000"
	switch {
	case d.Span() > day:
		layout = "2006-01-02 15:04:05"
	case d.Width >= time.Second:
		layout = "15:04:05"
	}
	return t.UTC().Format(layout)
}
