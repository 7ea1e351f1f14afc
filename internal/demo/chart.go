package demo

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/ctsight/ctsight/internal/svg"
)

// The drawing area, in units of the picture, and the room around the plot.
const (
	chartW, chartH = 760, 210
	left, right    = 56, 8
	top, bottom    = 26, 24
	plotW          = chartW - left - right
	plotH          = chartH - top - bottom
)

// chart draws one picture over the time line.
type chart struct {
	b      strings.Builder
	length time.Duration
	y      svg.Scale
}

func newChart(length time.Duration, y svg.Scale) *chart {
	return &chart{length: max(length, binWidth), y: y}
}

func f(x float64) string { return svg.Coord(x) }

func (c *chart) x(t time.Duration) float64 {
	return left + plotW*float64(min(t, c.length))/float64(c.length)
}

func (c *chart) py(n uint64) float64 { return top + plotH*(1-min(1, c.y.At(float64(n)))) }

// acts marks the stretches of the time line.
func (c *chart) acts(acts []Act) {
	for i, a := range acts {
		x0, x1 := c.x(a.From), c.x(a.To)
		fmt.Fprintf(&c.b, `<rect class="act a%d" x="%s" y="%d" width="%s" height="%d"/>`, i%2, f(x0), top, f(x1-x0), plotH)
		name := fmt.Sprintf("%d %s", i+1, a.Name)
		if x1-x0 < float64(8*len(name)) { // no room for the name
			name = strconv.Itoa(i + 1)
		}
		fmt.Fprintf(&c.b, `<text class="name" x="%s" y="%d">%s</text>`, f((x0+x1)/2), top-8, html.EscapeString(clean(name)))
	}
}

// axis draws the lines of the scale with their numbers, and the seconds.
func (c *chart) axis(unit string) {
	for _, n := range c.y.Ticks {
		y := f(c.py(n))
		fmt.Fprintf(&c.b, `<path class="grid" d="M%d %sH%d"/><text class="num" x="%d" y="%s" dy=".32em">%s</text>`,
			left, y, left+plotW, left-6, y, html.EscapeString(itoa(n)+unit))
	}
	step := max(1, svg.Step(uint64(c.length/time.Second)))
	for t := uint64(0); time.Duration(t)*time.Second <= c.length; t += step {
		fmt.Fprintf(&c.b, `<text class="sec" x="%s" y="%d">%d s</text>`, f(c.x(time.Duration(t)*time.Second)), chartH-6, t)
	}
}

// steps is the outline of values, one for each bin.
func (c *chart) steps(values []uint64) string {
	var b strings.Builder
	last := math.NaN()
	for i, n := range values {
		y := c.py(n)
		if y == last {
			continue
		}
		x := f(c.x(time.Duration(i) * binWidth))
		if i == 0 {
			fmt.Fprintf(&b, "M%s %s", x, f(y))
		} else {
			fmt.Fprintf(&b, "H%sV%s", x, f(y))
		}
		last = y
	}
	if len(values) > 0 {
		fmt.Fprintf(&b, "H%s", f(c.x(time.Duration(len(values))*binWidth)))
	}
	return b.String()
}

func (c *chart) line(class string, values []uint64) {
	if len(values) > 0 {
		fmt.Fprintf(&c.b, `<path class="line %s" d="%s"/>`, class, c.steps(values))
	}
}

// peaks is a line only where there is something: none along the bottom.
func (c *chart) peaks(class string, values []uint64) {
	for i := 0; i < len(values); i++ {
		if values[i] == 0 {
			continue
		}
		end := i
		for end < len(values) && values[end] > 0 {
			end++
		}
		fmt.Fprintf(&c.b, `<path class="line %s" d="M%s %d`, class, f(c.x(time.Duration(i)*binWidth)), top+plotH)
		for ; i < end; i++ {
			fmt.Fprintf(&c.b, "V%sH%s", f(c.py(values[i])), f(c.x(time.Duration(i+1)*binWidth)))
		}
		fmt.Fprintf(&c.b, `V%d"/>`, top+plotH)
	}
}

func (c *chart) area(class string, values []uint64) {
	if len(values) > 0 {
		fmt.Fprintf(&c.b, `<path class="area %s" d="%sV%dH%dZ"/>`, class, c.steps(values), top+plotH, left)
		c.line(class, values)
	}
}

// limit draws the table's limit from a time on.
func (c *chart) limit(from time.Duration, n uint64) {
	x, y := f(c.x(from)), f(c.py(n))
	fmt.Fprintf(&c.b, `<path class="limit" d="M%s %sH%d"/><text class="limit" x="%s" y="%s" dx="-6" dy=".32em">limit %d</text>`, x, y, left+plotW, x, y, n)
}

func (c *chart) svg(title string) template.HTML {
	return template.HTML(fmt.Sprintf(`<svg viewBox="0 0 %d %d" role="img" aria-label="%s">%s</svg>`,
		chartW, chartH, html.EscapeString(title), c.b.String()))
}

// bar is a part of a whole.
func bar(n, of uint64) template.HTML {
	w := 0.0
	if of > 0 {
		w = 100 * float64(n) / float64(of)
	}
	return template.HTML(fmt.Sprintf(`<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true"><rect class="rest" width="100" height="8"/><rect class="part" width="%s" height="8"/></svg>`, f(w)))
}
