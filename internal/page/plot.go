package page

import (
	"math"
	"time"
)

// A plot is a drawing as wide as the page allows: its inside is stretched, its
// text is not. All plots of the past share one time axis, and under it the ribbon
// that says of each second whether records were lost.

// plot places what is drawn. x counts seconds of the past, those that are not shown
// too, y is in pixels from the top.
type plot struct {
	*writer
	id    markup
	past  *past
	ahead int // seconds after the edge
	h     int // of the inside
}

const (
	head   = 16 // pixels above the inside, for the unit
	ribbon = 7  // high
	under  = 10 // pixels between the inside and the ribbon
	foot   = under + ribbon + 23
)

// span is how many seconds it shows, end where they end.
func (p *plot) span() int { return p.end() - p.past.from }

func (p *plot) end() int { return seconds + p.ahead }

// share is where a second lies, in percent of the width.
func (p *plot) share(x float64) float64 {
	return 100 * (x - float64(p.past.from)) / float64(p.span())
}

// begin opens the drawing; title and desc are for those who do not see it.
func (p *plot) begin(title, desc string) {
	p.put(`<div class="plot"><svg class="chart" role="img" aria-labelledby="{}-t {}-d" width="100%" height="{}"><title id="{}-t">{}</title><desc id="{}-d">{}</desc>`,
		p.id, p.id, head+p.h+foot, p.id, title, p.id, desc)
}

// inside opens the part that is stretched.
func (p *plot) inside() {
	p.put(`<svg y="{}" width="100%" height="{}" viewBox="{} 0 {} {}" preserveAspectRatio="none">`, head, p.h, p.past.from, p.span(), p.h)
	p.put(`<path class="grid" d="`)
	p.eachTick(func(x float64, _ string, _ bool) {
		p.coord('M', x)
		p.put(` 0v{}`, p.h)
	})
	p.put(`"/>`)
}

// outside closes the inside; text comes after it.
func (p *plot) outside() { p.put(`</svg>`) }

// finish adds ribbon and times.
func (p *plot) finish() {
	p.ribbon()
	y := head + p.h + foot - 6
	p.put(`<text class="unit left" x="-6" y="{}">UTC</text>`, y)
	p.eachTick(func(x float64, text string, second bool) {
		class := markup("time")
		if second {
			class = "time alt"
		}
		p.put(`<text class="{}" x="{}%" y="{}">{}</text>`, class, p.share(x), y, text)
	})
	p.put(`</svg></div>`)
}

// ticks are the times of the axes, by the seconds that are shown.
func (p *plot) ticks() (step time.Duration, layout string) {
	switch n := seconds - p.past.from; {
	case n <= 120:
		return 30 * time.Second, "15:04:05"
	case n <= 300:
		return time.Minute, "15:04"
	}
	return 2 * time.Minute, "15:04"
}

// eachTick calls fn for round times of the axis, not at its very ends; second is set
// for half of them, for which a narrow screen has no room.
func (p *plot) eachTick(fn func(x float64, text string, second bool)) {
	step, layout := p.ticks()
	from := p.past.edge.Add(-time.Duration(seconds-p.past.from) * time.Second)
	to := p.past.edge.Add(time.Duration(p.ahead) * time.Second)
	for t := from.Truncate(step).Add(step); t.Before(to); t = t.Add(step) {
		x := float64(p.past.from) + t.Sub(from).Seconds()
		if share := p.share(x); share > 4 && share < 97 {
			fn(x, t.UTC().Format(layout), t.Unix()/int64(step/time.Second)%2 != 0)
		}
	}
}

// ribbon marks the seconds of which records are missing, and those of which nothing
// is known.
func (p *plot) ribbon() {
	y := head + p.h + under
	p.put(`<text class="unit left" x="-6" y="{}">loss</text>`, y+ribbon)
	p.put(`<svg class="ribbon" y="{}" width="100%" height="{}" viewBox="{} 0 {} {}" preserveAspectRatio="none"><path class="whole" d="`, y, ribbon, p.past.from, p.span(), ribbon)
	p.runs(2, ribbon-4, func(i int) bool { return p.past.s[i].known && !p.past.s[i].lost })
	p.put(`"/><path class="lost" d="`)
	p.runs(0, ribbon, func(i int) bool { return p.past.s[i].lost })
	p.put(`"/></svg>`)
}

// runs writes a path of boxes over the seconds for which in is true.
func (p *plot) runs(y, h int, in func(i int) bool) {
	for i := 0; i < seconds; i++ {
		if !in(i) {
			continue
		}
		from := i
		for i < seconds && in(i) {
			i++
		}
		p.put(`M{} {}h{}v{}h{}z`, from, y, i-from, h, from-i)
	}
}

// label writes a number at the left of the axis.
func (p *plot) label(y float64, text string) {
	dy := markup(".32em")
	if int(y) == p.h { // the ribbon's name is below
		dy = "0"
	}
	p.put(`<text class="num left" x="-6" y="{}" dy="{}">{}</text>`, head+y, dy, text)
}

// unit names what the numbers at the left are.
func (p *plot) unit(text string) {
	p.put(`<text class="unit" x="0" y="{}">{}</text>`, head-5, text)
}

// line draws a horizontal line of the grid.
func (p *plot) line(class markup, y float64) {
	p.put(`<path class="{}" d="M0 {}h{}"/>`, class, y, p.end())
}

// area fills from the bottom up to value, a share of the height, NaN where it is
// not known.
func (p *plot) area(class markup, value func(i int) float64) {
	p.put(`<path class="{}" d="`, class)
	h := float64(p.h)
	for i := 0; i < seconds; i++ {
		last := value(i)
		if math.IsNaN(last) {
			continue
		}
		p.put(`M{} {}V{}`, i, p.h, h*(1-last))
		from := i
		for i < seconds {
			v := value(i)
			if v != last {
				p.coord('H', float64(i))
				if math.IsNaN(v) {
					break
				}
				p.coord('V', h*(1-v))
				last = v
			}
			i++
		}
		if i == seconds {
			p.coord('H', seconds)
		}
		p.put(`V{}H{}z`, p.h, from)
	}
	p.put(`"/>`)
}

// dashes draws a short line for each second that has a value.
func (p *plot) dashes(class markup, value func(i int) float64) {
	p.put(`<path class="{}" d="`, class)
	h := float64(p.h)
	for i := range seconds {
		if v := value(i); v > 0 {
			p.put(`M{} {}h1`, i, h*(1-min(1, v)))
		}
	}
	p.put(`"/>`)
}
