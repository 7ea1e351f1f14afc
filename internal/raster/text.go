package raster

import (
	"image"
	"image/color"
	"math"
	"strings"
	"sync"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
)

// parsed are the two fonts; they are ours, and can be read.
var parsed = sync.OnceValue(func() (out [2]*opentype.Font) {
	for i, ttf := range [][]byte{goregular.TTF, gobold.TTF} {
		out[i], _ = opentype.Parse(ttf)
	}
	return out
})

// fonts are faces that were used.
type fonts map[face]font.Face

type face struct {
	bold bool
	size float64
}

func (f *fonts) get(bold bool, size float64) font.Face {
	k := face{bold, size}
	if x := (*f)[k]; x != nil {
		return x
	}
	i := 0
	if bold {
		i = 1
	}
	x, err := opentype.NewFace(parsed()[i], &opentype.FaceOptions{Size: size, DPI: 72, Hinting: font.HintingNone})
	if err != nil {
		return nil
	}
	if *f == nil {
		*f = fonts{}
	}
	(*f)[k] = x
	return x
}

// Width is how wide a text is in letters of so many units.
func Width(text string, size float64, bold bool) float64 {
	var f fonts
	return float64(font.MeasureString(f.get(bold, size), text)) / 64
}

// text writes a line.
func (c *canvas) text(e *element, text string) {
	size := numbers(e.style["font-size"])
	if len(size) != 1 || e.style["display"] == "none" {
		return
	}
	x, y := e.number("x"), e.number("y")
	if em, ok := strings.CutSuffix(e.attrs["dy"], "em"); ok {
		if v := numbers(em); len(v) == 1 {
			y += v[0] * size[0]
		}
	}
	at := e.at.point(point{x, y})
	f := c.fonts.get(e.style["font-weight"] == "600" || e.style["font-weight"] == "bold", size[0]*e.at.sy)
	switch w := float64(font.MeasureString(f, text)) / 64; e.style["text-anchor"] {
	case "middle":
		at.x -= w / 2
	case "end":
		at.x -= w
	}
	write := func(col color.Color, dx, dy float64) {
		to, _ := c.to.SubImage(e.at.clip).(*image.RGBA)
		d := font.Drawer{Dst: to, Src: image.NewUniform(col), Face: f, Dot: fixed.Point26_6{X: fixed.Int26_6(math.Round(64 * (at.x + dx))), Y: fixed.Int26_6(math.Round(64 * (at.y + dy)))}}
		d.DrawString(text)
	}
	if col, ok := c.paint(e, "stroke"); ok { // under it, so that it can be read on a line
		if w := numbers(e.style["stroke-width"]); len(w) == 1 {
			for i := range 16 {
				sin, cos := math.Sincos(2 * math.Pi * float64(i) / 16)
				write(col, cos*w[0]/2*e.at.sx, sin*w[0]/2*e.at.sy)
			}
		}
	}
	if col, ok := c.paint(e, "fill"); ok {
		write(col, 0, 0)
	}
}
