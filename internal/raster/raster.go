// Package raster draws SVG into pixels, without a browser: that of our own writers
// (internal/report), which is shapes, straight and curved lines, letters, pictures in
// pictures, and a style sheet of tags and classes. It is no renderer of anything else:
// what it does not know is not drawn. Letters are those of the Go fonts.
package raster

import (
	"encoding/xml"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"io"
	"math"
	"strconv"
	"strings"

	"golang.org/x/image/vector"
)

// Options say how a drawing is made.
type Options struct {
	Style string  // the style sheet
	Dark  bool    // as a reader has it who likes it dark
	Scale float64 // pixels for each unit of the drawing; 1 if 0
}

// maxSide is the most pixels that a drawing may have on a side.
const maxSide = 16384

// element is one that is open.
type element struct {
	tag     string
	classes []string
	attrs   map[string]string
	style   map[string]string // that it has or inherits
	at      place
}

// place is where the units of an element lie: at x0 + x sx, and what of it is seen.
type place struct {
	x0, y0, sx, sy float64
	clip           image.Rectangle
}

func (p *place) point(q point) point { return point{p.x0 + q.x*p.sx, p.y0 + q.y*p.sy} }

type canvas struct {
	sheet *sheet
	to    *image.RGBA
	fonts fonts
	open  []*element
}

// Draw draws a document, whose size is its viewBox.
func Draw(svg []byte, o Options) (*image.RGBA, error) {
	c := canvas{sheet: parseSheet(o.Style, o.Dark)}
	if o.Scale == 0 {
		o.Scale = 1
	}
	d := xml.NewDecoder(strings.NewReader(string(svg)))
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) && c.to != nil {
			return c.to, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read a drawing: %w", err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			e := c.enter(t)
			if c.to == nil {
				if err := c.begin(e, o.Scale); err != nil {
					return nil, err
				}
			}
			c.draw(e)
		case xml.EndElement:
			c.open = c.open[:len(c.open)-1]
		case xml.CharData:
			if n := len(c.open); n > 0 && c.open[n-1].tag == "text" {
				c.text(c.open[n-1], string(t))
			}
		}
	}
}

// begin makes the picture of the outermost element.
func (c *canvas) begin(e *element, scale float64) error {
	box := numbers(e.attrs["viewBox"])
	if e.tag != "svg" || len(box) != 4 {
		return errors.New("a drawing has a viewBox")
	}
	w, h := math.Ceil(box[2]*scale), math.Ceil(box[3]*scale)
	if !(w >= 1 && h >= 1 && w <= maxSide && h <= maxSide) {
		return fmt.Errorf("a drawing of %g x %g pixels: 1 to %d", w, h, maxSide)
	}
	c.to = image.NewRGBA(image.Rect(0, 0, int(w), int(h)))
	e.at = place{-box[0] * scale, -box[1] * scale, scale, scale, c.to.Rect}
	if bg, ok := parseColor(c.sheet.vars["--bg"]); ok {
		draw.Draw(c.to, c.to.Rect, image.NewUniform(bg), image.Point{}, draw.Src)
	}
	return nil
}

// inherited are the properties that an element has from those around it.
var inherited = []string{"fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "text-anchor", "font-size", "font-weight", "display"}

func (c *canvas) enter(t xml.StartElement) *element {
	e := &element{tag: t.Name.Local, attrs: map[string]string{}, style: map[string]string{"fill": "#000", "stroke-width": "1", "font-size": "16px"}}
	for _, a := range t.Attr {
		e.attrs[a.Name.Local] = a.Value
	}
	e.classes = strings.Fields(e.attrs["class"])
	if n := len(c.open); n > 0 {
		for _, name := range inherited {
			if v, ok := c.open[n-1].style[name]; ok {
				e.style[name] = v
			}
		}
		e.at = c.open[n-1].at
	}
	for _, name := range inherited {
		if v, ok := e.attrs[name]; ok {
			e.style[name] = v
		}
	}
	c.open = append(c.open, e)
	for i := range c.sheet.rules {
		if r := &c.sheet.rules[i]; r.matches(c.open) {
			for name, v := range r.sets {
				if e.tag == "svg" && name == "display" {
					continue // blocks are for text around it
				}
				e.style[name] = c.sheet.value(v)
			}
		}
	}
	return e
}

func (e *element) number(name string) float64 {
	v, _ := strconv.ParseFloat(e.attrs[name], 64)
	return v
}

func numbers(s string) (out []float64) {
	for f := range strings.FieldsSeq(strings.ReplaceAll(s, ",", " ")) {
		v, err := strconv.ParseFloat(strings.TrimSuffix(f, "px"), 64)
		if err != nil {
			return nil
		}
		out = append(out, v)
	}
	return out
}

func (c *canvas) draw(e *element) {
	if e.style["display"] == "none" {
		return
	}
	switch e.tag {
	case "svg":
		if len(c.open) > 1 {
			c.nest(e)
		}
	case "path":
		c.shape(e, parsePath(e.attrs["d"]))
	case "rect":
		x, y, w, h := e.number("x"), e.number("y"), e.number("width"), e.number("height")
		c.shape(e, []line{{[]point{{x, y}, {x + w, y}, {x + w, y + h}, {x, y + h}}, true}})
	}
}

// nest places a picture in the picture.
func (c *canvas) nest(e *element) {
	x, y, w, h := e.number("x"), e.number("y"), e.number("width"), e.number("height")
	box := numbers(e.attrs["viewBox"])
	if len(box) != 4 || box[2] <= 0 || box[3] <= 0 {
		box = []float64{0, 0, w, h}
	}
	out := e.at
	from, to := out.point(point{x, y}), out.point(point{x + w, y + h})
	e.at.sx, e.at.sy = out.sx*w/box[2], out.sy*h/box[3]
	e.at.x0, e.at.y0 = from.x-box[0]*e.at.sx, from.y-box[1]*e.at.sy
	e.at.clip = out.clip.Intersect(image.Rect(int(math.Floor(from.x)), int(math.Floor(from.y)), int(math.Ceil(to.x)), int(math.Ceil(to.y))))
}

// shape fills and strokes.
func (c *canvas) shape(e *element, lines []line) {
	for i := range lines {
		for k, p := range lines[i].points {
			lines[i].points[k] = e.at.point(p)
		}
	}
	if col, ok := c.paint(e, "fill"); ok {
		c.fill(lines, col, e.at.clip)
	}
	col, ok := c.paint(e, "stroke")
	width := numbers(e.style["stroke-width"])
	if !ok || len(width) != 1 || width[0] <= 0 {
		return
	}
	var shapes []line
	dash := numbers(e.style["stroke-dasharray"])
	for i := range dash {
		dash[i] *= e.at.sx
	}
	for _, l := range lines {
		parts := []line{l}
		if len(dash) > 0 {
			parts = dashed(l, dash)
		}
		for _, l := range parts {
			shapes = append(shapes, outline(l, width[0]*e.at.sy, e.style["stroke-linecap"] == "round")...)
		}
	}
	c.fill(shapes, col, e.at.clip)
}

// paint is a colour of an element, false for none.
func (c *canvas) paint(e *element, what string) (color.Color, bool) {
	col, ok := parseColor(e.style[what])
	if v := numbers(e.style[what+"-opacity"]); ok && len(v) == 1 {
		col.A = uint8(math.Round(255 * min(1, max(0, v[0]))))
	}
	return col, ok
}

// fill fills what shapes cover.
func (c *canvas) fill(shapes []line, col color.Color, clip image.Rectangle) {
	low, high := point{math.Inf(1), math.Inf(1)}, point{math.Inf(-1), math.Inf(-1)}
	for _, l := range shapes {
		for _, p := range l.points {
			low, high = point{min(low.x, p.x), min(low.y, p.y)}, point{max(high.x, p.x), max(high.y, p.y)}
		}
	}
	if !(low.x <= high.x) {
		return
	}
	box := image.Rect(int(max(-1e6, math.Floor(low.x))), int(max(-1e6, math.Floor(low.y))), int(min(1e6, math.Ceil(high.x))), int(min(1e6, math.Ceil(high.y)))).Intersect(clip).Intersect(c.to.Rect)
	if box.Empty() {
		return
	}
	z := vector.NewRasterizer(box.Dx(), box.Dy())
	at := func(p point) (float32, float32) {
		return float32(p.x - float64(box.Min.X)), float32(p.y - float64(box.Min.Y))
	}
	for _, l := range shapes {
		if len(l.points) < 2 {
			continue
		}
		z.MoveTo(at(l.points[0]))
		for _, p := range l.points[1:] {
			z.LineTo(at(p))
		}
		z.ClosePath()
	}
	z.Draw(c.to, box, image.NewUniform(col), image.Point{})
}
