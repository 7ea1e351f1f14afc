package raster

import (
	"image"
	"image/color"
	"testing"
)

func drawn(t *testing.T, inside, style string, o Options) *image.RGBA {
	t.Helper()
	o.Style = ":root { --bg: #fff; --a: #f00; } @media screen and (prefers-color-scheme: dark) { :root { --a: #00f; } } @media print { :root { --a: #0f0; } } " + style
	m, err := Draw([]byte(`<svg viewBox="0 0 20 10">`+inside+`</svg>`), o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// What is drawn is where it should be, in the colour that the style sheet says.
func TestDraw(t *testing.T) {
	white, red, blue, green := color.RGBA{255, 255, 255, 255}, color.RGBA{255, 0, 0, 255}, color.RGBA{0, 0, 255, 255}, color.RGBA{0, 128, 0, 255}
	const style = `.a { fill: var(--a); } .l { fill: none; stroke: var(--a); stroke-width: 2; } .dash { stroke-dasharray: 2 2; } .out .in { fill: #008000; } .off { display: none; } a:hover, .x { fill: #123; }`
	for _, tc := range []struct {
		name, inside string
		o            Options
		want         map[image.Point]color.RGBA
	}{
		{"rect", `<rect class="a" x="2" y="2" width="4" height="4"/>`, Options{}, map[image.Point]color.RGBA{{2, 2}: red, {5, 5}: red, {6, 5}: white, {1, 2}: white}},
		{"twice as large", `<rect class="a" x="2" y="2" width="4" height="4"/>`, Options{Scale: 2}, map[image.Point]color.RGBA{{4, 4}: red, {11, 11}: red, {12, 11}: white, {3, 4}: white}},
		{"dark", `<rect class="a" x="2" y="2" width="4" height="4"/>`, Options{Dark: true}, map[image.Point]color.RGBA{{2, 2}: blue}},
		{"path", `<path class="a" d="M2 2h4v4H2zM10 2L14 2 14 6 10 6Z"/>`, Options{}, map[image.Point]color.RGBA{{3, 3}: red, {8, 3}: white, {12, 4}: red}},
		{"line", `<path class="l" d="M2 5h4M10 1V9"/>`, Options{}, map[image.Point]color.RGBA{{3, 4}: red, {3, 5}: red, {3, 6}: white, {6, 5}: white, {9, 2}: red, {10, 8}: red, {10, 9}: white}},
		{"corner", `<path class="l" d="M2 2H6V8"/>`, Options{}, map[image.Point]color.RGBA{{6, 1}: red, {6, 7}: red, {5, 3}: red, {4, 4}: white}},
		{"dashes", `<path class="l dash" d="M2 5h12"/>`, Options{}, map[image.Point]color.RGBA{{3, 5}: red, {5, 5}: white, {7, 5}: red, {9, 5}: white}},
		{"within", `<g class="out"><rect class="in" width="2" height="2"/></g><rect class="in" x="4" width="2" height="2"/>`, Options{}, map[image.Point]color.RGBA{{1, 1}: green, {5, 1}: {0, 0, 0, 255}}},
		{"hidden", `<rect class="a off" width="9" height="9"/>`, Options{}, map[image.Point]color.RGBA{{1, 1}: white}},
		{"half", `<rect class="a" fill-opacity="0.5" width="9" height="9"/>`, Options{}, map[image.Point]color.RGBA{{1, 1}: {255, 127, 127, 255}}},
		{"nested", `<svg x="10" y="0" width="10" height="10" viewBox="0 0 5 5"><rect class="a" x="1" y="1" width="9" height="1"/></svg>`, Options{}, map[image.Point]color.RGBA{{12, 2}: red, {19, 3}: red, {11, 2}: white, {12, 4}: white}},
		{"clipped", `<svg x="0" y="0" width="10" height="10"><rect class="a" width="20" height="2"/></svg>`, Options{}, map[image.Point]color.RGBA{{9, 1}: red, {10, 1}: white}},
	} {
		m := drawn(t, tc.inside, style, tc.o)
		for p, want := range tc.want {
			got := m.RGBAAt(p.X, p.Y)
			if d := int(got.G) - int(want.G); got.R != want.R || got.B-want.B > 1 && want.B-got.B > 1 || d < -1 || d > 1 {
				t.Errorf("%s: %v at %v, want %v", tc.name, got, p, want)
			}
		}
	}
}

// Letters stand left, in the middle and at the right of their place.
func TestText(t *testing.T) {
	const style = `text { font-size: 8px; fill: #000; } .mid { text-anchor: middle; } .end { text-anchor: end; }`
	ink := func(m *image.RGBA) (low, high int) {
		low, high = 20, -1
		for x := range 20 {
			for y := range 10 {
				if m.RGBAAt(x, y).R < 128 {
					low, high = min(low, x), max(high, x)
				}
			}
		}
		return low, high
	}
	for class, want := range map[string][2]int{"": {10, 16}, "mid": {7, 13}, "end": {3, 10}} {
		low, high := ink(drawn(t, `<text class="`+class+`" x="10" y="8">H</text>`, style, Options{}))
		if low < want[0] || high > want[1] || high < low {
			t.Errorf("%q: from %d to %d, want within %v", class, low, high, want)
		}
	}
	if w := Width("HH", 8, false); w < 9 || w > 14 {
		t.Errorf("HH is %.1f wide", w)
	}
}

// What is no drawing of ours is an error, or not drawn.
func TestNoDrawing(t *testing.T) {
	for _, bad := range []string{"", "<svg/>", `<svg viewBox="0 0 1 1">`, `<svg viewBox="0 0 1e9 1e9"></svg>`, `<svg viewBox="0 0 NaN 1"></svg>`, `<g viewBox="0 0 1 1"></g>`} {
		if _, err := Draw([]byte(bad), Options{}); err == nil {
			t.Errorf("%q is drawn", bad)
		}
	}
}

// However a path and a style are written, they are read to an end.
func FuzzDraw(f *testing.F) {
	f.Add("M1 1h3v3H1zC1 2 3 4 5 6", ".a { fill: #f00; stroke-dasharray: 0 0; }")
	f.Add("m-1.5.5l1e3-3ZZ,", ".a > .b { } @media x { } } :root {")
	f.Fuzz(func(t *testing.T, d, style string) {
		if len(d) > 200 || len(style) > 200 {
			return
		}
		p := parsePath(d)
		for _, l := range p {
			outline(l, 2, true)
			dashed(l, []float64{3, 5})
		}
		parseSheet(style, true)
	})
}
