package page

import (
	"math"
	"time"

	"github.com/ctsight/ctsight/internal/markup"
)

// A plot is a drawing as wide as the page allows: its inside is stretched, its
// text is not. All plots of the past share one time axis, and under it the ribbon
// that says of each second whether records were lost.

// plot places what is drawn. x counts seconds of the past, those that are not shown
// too, y is in pixels from the top.
type plot struct {
	*markup.Writer
	id    markup.Text
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
	p.Put(`<div class="plot"><svg class="chart" role="img" aria-labelledby="{}-t {}-d" width="100%" height="{}"><title id="{}-t">{}</title><desc id="{}-d">{}</desc>`,
		p.id, p.id, head+p.h+foot, p.id, title, p.id, desc)
}

// inside opens the part that is stretched.
func (p *plot) inside() {
	p.Put(`<svg y="{}" width="100%" height="{}" viewBox="{} 0 {} {}" preserveAspectRatio="none">`, head, p.h, p.past.from, p.span(), p.h)
	p.Put(`<path class="grid" d="`)
	p.eachTick(func(x float64, _ string, _ bool) {
		p.Coord('M', x)
		p.Put(` 0v{}`, p.h)
	})
	p.Put(`"/>`)
}

// outside closes the inside; text comes after it.
func (p *plot) outside() { p.Put(`</svg>`) }

// finish adds ribbon and times.
func (p *plot) finish() {
	p.ribbon()
	y := head + p.h + foot - 6
	p.Put(`<text class="unit left" x="-6" y="{}">UTC</text>`, y)
	p.eachTick(func(x float64, text string, second bool) {
		class := markup.Text("time")
		if second {
			class = "time alt"
		}
		p.Put(`<text class="{}" x="{}%" y="{}">{}</text>`, class, p.share(x), y, text)
	})
	p.Put(`</svg></div>`)
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
	p.Put(`<text class="unit left" x="-6" y="{}">loss</text>`, y+ribbon)
	p.Put(`<svg class="ribbon" y="{}" width="100%" height="{}" viewBox="{} 0 {} {}" preserveAspectRatio="none"><path class="whole" d="`, y, ribbon, p.past.from, p.span(), ribbon)
	p.runs(2, ribbon-4, func(i int) bool { return p.past.s[i].known && !p.past.s[i].lost })
	p.Put(`"/><path class="lost" d="`)
	p.runs(0, ribbon, func(i int) bool { return p.past.s[i].lost })
	p.Put(`"/></svg>`)
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
		p.Put(`M{} {}h{}v{}h{}z`, from, y, i-from, h, from-i)
	}
}

// label writes a number at the left of the axis.
func (p *plot) label(y float64, text string) {
	dy := markup.Text(".32em")
	if int(y) == p.h { // the ribbon's name is below
		dy = "0"
	}
	p.Put(`<text class="num left" x="-6" y="{}" dy="{}">{}</text>`, head+y, dy, text)
}

// unit names what the numbers at the left are.
func (p *plot) unit(text string) {
	p.Put(`<text class="unit" x="0" y="{}">{}</text>`, head-5, text)
}

// line draws a horizontal line of the grid.
func (p *plot) line(class markup.Text, y float64) {
	p.Put(`<path class="{}" d="M0 {}h{}"/>`, class, y, p.end())
}

// area fills from the bottom up to value, a share of the height, NaN where it is
// not known.
func (p *plot) area(class markup.Text, value func(i int) float64) {
	p.Put(`<path class="{}" d="`, class)
	h := float64(p.h)
	for i := 0; i < seconds; i++ {
		last := value(i)
		if math.IsNaN(last) {
			continue
		}
		p.Put(`M{} {}V{}`, i, p.h, h*(1-last))
		from := i
		for i < seconds {
			v := value(i)
			if v != last {
				p.Coord('H', float64(i))
				if math.IsNaN(v) {
					break
				}
				p.Coord('V', h*(1-v))
				last = v
			}
			i++
		}
		if i == seconds {
			p.Coord('H', seconds)
		}
		p.Put(`V{}H{}z`, p.h, from)
	}
	p.Put(`"/>`)
}

// dashes draws a short line for each second that has a value.
func (p *plot) dashes(class markup.Text, value func(i int) float64) {
	p.Put(`<path class="{}" d="`, class)
	h := float64(p.h)
	for i := range seconds {
		if v := value(i); v > 0 {
			p.Put(`M{} {}h1`, i, h*(1-min(1, v)))
		}
	}
	p.Put(`"/>`)
}
