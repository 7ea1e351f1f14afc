package report

import (
	"bytes"
	"image/png"
	"io"
	"math"
	"strings"
	"time"

	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/raster"
	"github.com/ctsight/ctsight/internal/view"
)

// Chart is one picture of a report by itself, with its title, its words and its legend.
type Chart struct {
	Name string // as its section is called
	SVG  []byte
}

// ChartNames are those that a report may have. There is a scan0, scan1 ... for each
// scanner.
var ChartNames = []string{"timeline", "occupancy", "rates", "sources", "lifetimes", "scan0", "drops", "holders", "capacity", "timeouts"}

// Charts are the pictures that a report has, in its order.
func Charts(d *Data) (out []Chart) {
	if d.Told == 0 {
		return nil
	}
	x := &doc{Writer: &markup.Writer{}, data: d}
	x.pictures()
	for section := range bytes.SplitSeq(x.B, []byte(`<section id="`)) {
		name, rest, _ := strings.Cut(string(section), `"`)
		if c, ok := d.chart(name, rest); ok {
			out = append(out, c)
		}
	}
	return out
}

// Sizes of what is around a chart.
const (
	chartMargin = 20
	titleSize   = 18
	wordSize    = 13
	legendSize  = 12
	legendRow   = 20
)

// between is what lies in a text from one mark to another.
func between(s, from, to string) (string, bool) {
	_, s, ok := strings.Cut(s, from)
	in, _, end := strings.Cut(s, to)
	return in, ok && end
}

// chart takes the parts of a section, which are ours, and puts them into a drawing.
func (d *Data) chart(name, section string) (c Chart, ok bool) {
	drawing, ok := between(section, `<div class="draw"><svg viewBox="0 0 1000 `, `</svg></div>`)
	if !ok {
		return c, false
	}
	height, inside, _ := strings.Cut(drawing, `" `)
	_, inside, _ = strings.Cut(inside, ">")
	title, _ := between(section, "-h\">", "</h2>")
	says, _ := between(section, "<figcaption>", "</figcaption>")
	legend, _ := between(section, `<p class="legend">`, "</p>")

	w := &markup.Writer{}
	y := float64(chartMargin + titleSize)
	line := func(class markup.Text, text string) {
		w.Put(`<text class="{}" x="{}" y="{}">{}</text>`, class, chartMargin, y, text)
	}
	line("title", markup.Strip([]byte(title)))
	y += 19
	line("", view.Text(d.Name)+"  "+d.First.UTC().Format(time.DateTime)+" to "+d.Last.UTC().Format(time.DateTime)+" UTC")
	y += 22
	for _, l := range wrapped(markup.Strip([]byte(says)), chartW, wordSize) {
		line("says", l)
		y += wordSize * 1.4
	}
	y += 2
	y = math.Ceil(legendOf(w, legend, y) + 6) // so that lines are on pixels
	w.Put(`<svg x="{}" y="{}" width="{}" height="{}" viewBox="0 0 {} {}">{}</svg>`, chartMargin, y, chartW, markup.Text(height), chartW, markup.Text(height), markup.Text(inside))
	all := &markup.Writer{}
	all.Put(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}"><g class="draw">`, chartW+2*chartMargin, y+float64(atoi(height))+chartMargin/2)
	all.B = append(append(all.B, w.B...), "</g></svg>\n"...)
	return Chart{name, all.B}, true
}

// atoi is of a number that we have written.
func atoi(s string) (n int) {
	for _, c := range []byte(s) {
		n = 10*n + int(c-'0')
	}
	return n
}

// wrapped breaks words into lines of a width.
func wrapped(text string, width, size float64) (out []string) {
	now := ""
	for word := range strings.FieldsSeq(text) {
		if next := strings.TrimSpace(now + " " + word); now == "" || raster.Width(next, size, false) <= width {
			now = next
			continue
		}
		out, now = append(out, now), word
	}
	return append(out, now)
}

// legendOf draws the marks of a legend with their words, and returns where it ends.
func legendOf(w *markup.Writer, legend string, y float64) float64 {
	x := float64(chartMargin)
	for part := range strings.SplitSeq(legend, "<span") {
		mark, ok := between(part, `<svg width="22" height="12" aria-hidden="true">`, "</svg>")
		text := strings.TrimSpace(markup.Strip([]byte("<" + part)))
		if text == "" {
			continue
		}
		room := raster.Width(text, legendSize, false)
		if ok {
			room += 28
		}
		if x > chartMargin && x+room > chartW+chartMargin {
			x, y = chartMargin, y+legendRow
		}
		at := x
		if ok {
			w.Put(`<svg x="{}" y="{}" width="22" height="12">{}</svg>`, x, y-10, markup.Text(mark))
			at += 28
		}
		w.Put(`<text x="{}" y="{}">{}</text>`, at, y, text)
		x += room + 18
	}
	if x > chartMargin {
		y += 8
	}
	return y
}

// pngScale is how many pixels a unit of a drawing has: lines are sharp on paper, too.
const pngScale = 2

// WritePNG writes the chart as pixels, light, 2080 wide.
func (c *Chart) WritePNG(w io.Writer) error {
	m, err := raster.Draw(c.SVG, raster.Options{Style: markup.Base + ownStyle, Scale: pngScale})
	if err != nil {
		return err
	}
	return png.Encode(w, m)
}
