package report

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ctsight/ctsight/internal/lab/browser"
	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/raster"
)

// Each picture by itself is one that can be read, with its title, its colours, and
// letters where it has text; the same each time.
func TestCharts(t *testing.T) {
	d := incident().g.Data()
	d.Plan = made(t)
	all := Charts(d)
	var names []string
	for i := range all {
		c := &all[i]
		names = append(names, c.Name)
		var b, again bytes.Buffer
		if err := c.WritePNG(&b); err != nil {
			t.Fatal(c.Name, err)
		}
		if err := c.WritePNG(&again); err != nil || !bytes.Equal(b.Bytes(), again.Bytes()) {
			t.Errorf("%s differs from itself (%v)", c.Name, err)
		}
		m, err := png.Decode(&b)
		if err != nil {
			t.Fatal(err)
		}
		box := strings.Fields(regexp.MustCompile(`^<svg [^>]*viewBox="([^"]*)"`).FindStringSubmatch(string(c.SVG))[1])
		if h, _ := strconv.ParseFloat(box[3], 64); m.Bounds().Dx() != 2*1040 || m.Bounds().Dy() != int(2*h+.99) {
			t.Errorf("%s: %v of %v", c.Name, m.Bounds(), box)
		}
		if ink := countIn(m, image.Rect(40, 40, 400, 80), func(r, g, b uint32) bool { return r+g+b < 300 }); ink < 300 {
			t.Errorf("%s: %d dark pixels where the title is", c.Name, ink)
		}
	}
	if !slices.Equal(names, ChartNames) {
		t.Errorf("%q, want %q", names, ChartNames)
	}
	if all := Charts(New(Options{}).Data()); len(all) != 0 {
		t.Errorf("of nothing there are %d", len(all))
	}
}

// countIn is how many pixels of a part are of a sort.
func countIn(m image.Image, in image.Rectangle, is func(r, g, b uint32) bool) (n int) {
	for y := in.Min.Y; y < in.Max.Y; y++ {
		for x := in.Min.X; x < in.Max.X; x++ {
			if r, g, b, _ := m.At(x, y).RGBA(); is(r>>8, g>>8, b>>8) {
				n++
			}
		}
	}
	return n
}

// Chromium draws the same, light and dark, but for its letters.
func TestChartsAsChromium(t *testing.T) {
	t.Parallel()
	b := browser.Start(t)
	dir := t.TempDir()
	d := incident().g.Data()
	d.Plan = made(t)
	for _, c := range append(Charts(d), Charts(small().g.Data())...) {
		bare := regexp.MustCompile(`<text [^>]*>[^<]*</text>`).ReplaceAll(c.SVG, nil)
		style := markup.Base + ownStyle
		for _, dark := range []bool{false, true} {
			got, err := raster.Draw(bare, raster.Options{Style: style, Dark: dark})
			if err != nil {
				t.Fatal(err)
			}
			size := got.Bounds()
			head, rest, _ := strings.Cut(string(bare), ">")
			doc := head + ` width="` + strconv.Itoa(size.Dx()) + `" height="` + strconv.Itoa(size.Dy()) + `"><style>` + style + `svg { background: var(--bg); }</style>` + rest
			file := filepath.Join(dir, "x.svg")
			if err := os.WriteFile(file, []byte(doc), 0o644); err != nil {
				t.Fatal(err)
			}
			shot := filepath.Join(dir, "x.png")
			b.Open("file://"+file, browser.View{Width: size.Dx(), Height: size.Dy(), Dark: dark}).Screenshot(shot)
			f, err := os.Open(shot)
			if err != nil {
				t.Fatal(err)
			}
			want, err := png.Decode(f)
			_ = f.Close()
			if err != nil {
				t.Fatal(err)
			}
			far, sum, marks := 0, 0, 0 // marks: how far it is from an empty picture
			for y := range size.Dy() {
				for x := range size.Dx() {
					d := distance(got.At(x, y), want.At(x, y))
					marks += distance(want.At(0, 0), want.At(x, y))
					if sum += d; d > 48 {
						far++
					}
				}
			}
			n := size.Dx() * size.Dy()
			t.Logf("%s dark %v: mean difference %.2f of 255, of its marks %.2f, and %.2f %% of pixels are far", c.Name, dark, float64(sum)/float64(n), float64(marks)/float64(n), 100*float64(far)/float64(n))
			if float64(sum) > .6*float64(n) || 8*sum > marks || float64(far) > .002*float64(n) {
				t.Errorf("%s dark %v: too far", c.Name, dark)
				if to := os.Getenv("CTSIGHT_SHOTS"); to != "" {
					save(t, filepath.Join(to, c.Name+"-ours.png"), got)
					save(t, filepath.Join(to, c.Name+"-theirs.png"), want)
				}
			}
		}
	}
}

// distance is the largest of the three colours'.
func distance(a, b color.Color) int {
	ar, ag, ab, _ := a.RGBA()
	br, bg, bb, _ := b.RGBA()
	abs := func(a, b uint32) int { return max(int(a>>8)-int(b>>8), int(b>>8)-int(a>>8)) }
	return max(abs(ar, br), abs(ag, bg), abs(ab, bb))
}

func save(t *testing.T, file string, m image.Image) {
	f, err := os.Create(file)
	if err == nil {
		err = png.Encode(f, m)
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
}
