package report

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/lab/browser"
)

// shots is where pictures go when somebody wants to look at them:
// CTSIGHT_SHOTS=dir go test ./internal/report
func shots(p *browser.Page, name string) {
	if dir := os.Getenv("CTSIGHT_SHOTS"); dir != "" {
		p.Screenshot(filepath.Join(dir, name+".png"))
	}
}

// written writes a report to a file and returns its address.
func written(t *testing.T, d, before *Data) string {
	file := filepath.Join(t.TempDir(), "report.html")
	if err := os.WriteFile(file, []byte(htmlOf(t, d, before)), 0o644); err != nil {
		t.Fatal(err)
	}
	return "file://" + file
}

// However it is looked at, all is there: nothing is wider than the screen, the policy is
// kept, and nobody is asked for anything.
func TestViews(t *testing.T) {
	t.Parallel()
	b := browser.Start(t)
	url := written(t, incident().g.Data(), small().g.Data())
	for name, v := range map[string]browser.View{
		"light": {Width: 1280, Height: 900}, "dark": {Width: 1280, Height: 900, Dark: true}, "narrow": {Width: 360, Height: 740},
		"noscript": {Width: 1280, Height: 900, NoScript: true}, "print": {Width: 760, Height: 1000, Dark: true, Print: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := b.Open(url, v)
			shots(p, name)
			if w := p.Eval("document.documentElement.scrollWidth"); w != float64(v.Width) {
				t.Errorf("%v pixels wide on a screen of %d", w, v.Width)
			}
			if n := p.Eval("document.querySelectorAll('main figure svg[role=img]').length"); n != 8. {
				t.Errorf("%v pictures", n)
			}
			// On paper, and without the script, the pictures are lines and not dots.
			if n, dots := p.Eval(`[...document.querySelectorAll("main figure svg[role=img]")].filter(e => e.getClientRects().length).length`), !v.Print && !v.NoScript; (n == 6.) != dots {
				t.Errorf("%v pictures are shown as they are written", n)
			}
			light := v.Print || !v.Dark
			if bg := p.Eval(`getComputedStyle(document.body).backgroundColor`); (bg == "rgb(255, 255, 255)") != light {
				t.Errorf("background %v", bg)
			}
			if fill := p.Eval(`getComputedStyle(document.querySelector("#occupancy path.c2")).fill`); fill == "rgb(0, 0, 0)" {
				t.Errorf("the style is not taken: fill %v", fill)
			}
			for _, x := range p.Problems() {
				t.Error(x)
			}
			if r := p.Requests(); len(r) != 1 || r[0] != url {
				t.Errorf("asks for %q", r)
			}
		})
	}
}

// Letters stay in their pictures.
func TestLetters(t *testing.T) {
	t.Parallel()
	b := browser.Start(t)
	p := b.Open(written(t, incident().g.Data(), nil), browser.View{Width: 1280, Height: 900})
	out := p.Eval(`[...document.querySelectorAll("svg[role=img] text")].filter(t => {
		const a = t.getBoundingClientRect(), b = t.closest("svg[role=img]").getBoundingClientRect();
		return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1;
	}).map(t => t.textContent).join("; ")`)
	if out != "" {
		t.Errorf("outside of their pictures: %v", out)
	}
}

// area is where a chart is drawn, in the window.
func area(p *browser.Page, id string) (x, y, w, h float64) {
	r := p.Eval(`{
		const d = document.querySelector("#` + id + `");
		d.scrollIntoView({block: "center"});
		const r = (d.querySelector(".u-over") ?? d.querySelector(".over")).getBoundingClientRect();
		[r.left, r.top, r.width, r.height];
	}`).([]any)
	return r[0].(float64), r[1].(float64), r[2].(float64), r[3].(float64)
}

func readout(p *browser.Page, id string) string {
	s, _ := p.Eval(`document.querySelector("#` + id + ` .readout").textContent`).(string)
	return s
}

// shown is what of time is shown.
func shown(p *browser.Page) string {
	s, _ := p.Eval(`document.querySelector(".zoom [role=status]").textContent`).(string)
	return s
}

// Under the pointer is the time with its numbers, those that the tables have.
func TestHover(t *testing.T) {
	t.Parallel()
	b := browser.Start(t)
	d := incident().g.Data()
	p := b.Open(written(t, d, nil), browser.View{Width: 1000, Height: 900})
	if n := p.Eval(`document.querySelectorAll(".replaced .uplot canvas").length`); n != 2. {
		t.Fatalf("%v charts of uPlot", n)
	}
	at, column := 0, 0
	for i := range d.Columns { // the busiest, of which there is one
		if d.Columns[i].New > d.Columns[column].New {
			column = i
		}
	}
	x, y, w, h := area(p, "rates")
	at = column
	p.Mouse("mouseMoved", x+w*(float64(at)+.5)/float64(len(d.Columns)), y+h/2)
	c := &d.Columns[at]
	want := []string{d.at(at).UTC().Format("2006-01-02 15:04:05."), count(c.New) + " in", "busiest 10 ms " + count(c.Peak) + " = " + count(100*c.Peak) + "/s"}
	for _, want := range want {
		if got := readout(p, "rates"); !strings.Contains(got, want) {
			t.Errorf("says %q, want %q", got, want)
		}
	}
	hold := &d.Tables[0].Columns[at]
	if got, want := readout(p, "occupancy"), count(uint64(hold.Total))+" entries: "; !strings.Contains(got, want) {
		t.Errorf("of the table it says %q, want %q", got, want)
	}
	if got := readout(p, "sources"); got != "" {
		t.Errorf("the pointer is not there, and it says %q", got)
	}
	x, y, w, h = area(p, "lifetimes")
	p.Mouse("mouseMoved", x+w/2, y+h/2)
	if got, want := readout(p, "lifetimes"), d.Start.Add(time.Duration(len(d.Columns))*d.Width/2).UTC().Format("2006-01-02 15:04:05"); !strings.Contains(got, want) {
		t.Errorf("says %q, want %q", got, want)
	}
	x, y, w, h = area(p, "sources")
	for i := range d.Lines {
		l := &d.Lines[i]
		at, n := l.most()
		p.Mouse("mouseMoved", x+w*(float64(at)+.5)/float64(len(d.Columns)), y+h*(float64(i)+.6)/float64(len(d.Lines)))
		if got, want := readout(p, "sources"), l.Name+": "+count(n)+" in "; !strings.Contains(got, want) {
			t.Errorf("source %d: says %q, want %q", i, got, want)
		}
	}
	p.Mouse("mouseMoved", 2, 2)
	for _, id := range []string{"rates", "occupancy", "lifetimes"} {
		if got := readout(p, id); got != "" {
			t.Errorf("the pointer has left, and it says %q", got)
		}
	}
	for _, x := range p.Problems() {
		t.Error(x)
	}
}

// A part of one picture that is dragged over is shown of all, in narrower columns, and a
// double click goes back; the keys do the same.
func TestZoom(t *testing.T) {
	t.Parallel()
	b := browser.Start(t)
	d := incident().g.Data()
	url := written(t, d, nil)
	p := b.Open(url, browser.View{Width: 1000, Height: 900})
	all := shown(p)
	const boxes = `[...document.querySelectorAll("svg.in")].filter(e => !e.closest(".replaced")).map(e => e.getAttribute("viewBox")).join()`
	const drawing = `document.querySelector("#occupancy canvas").toDataURL()`
	whole, picture := p.Eval(boxes), p.Eval(drawing)
	for _, from := range []string{"rates", "occupancy", "sources", "timeline"} {
		x, y, w, h := area(p, from)
		p.Drag(x+w*.25, x+w*.5, y+h/2)
		length := time.Duration(len(d.Columns)) * d.Width
		if got, want := shown(p), d.Start.Add(length/4).UTC().Format("2006-01-02 15:04:05"); !strings.HasPrefix(got, want) || !strings.Contains(got, d.Start.Add(length/2).UTC().Format("15:04:05")) {
			t.Errorf("%s: shows %q, want from %s", from, got, want)
		}
		if from == "rates" {
			shots(p, "zoomed")
		}
		if p.Eval(boxes) == whole || p.Eval(drawing) == picture {
			t.Errorf("%s: not all pictures follow", from)
		}
		// What is shown are finer columns, which have what was told.
		x, y, w, h = area(p, "rates")
		p.Mouse("mouseMoved", x+w*.3, y+h/2)
		i := int(float64(len(d.Columns)) * (.25 + .25*.3) * 4)
		fine := func(i int) (n uint64) {
			for k := range 2 {
				if at := 2*i + k - d.Lead; at >= 0 && at < len(d.Fine) {
					n += d.Fine[at].New
				}
			}
			return n
		}
		if got := readout(p, "rates"); !strings.Contains(got, "("+count(fine(i))+" in") && !strings.Contains(got, "("+count(fine(i+1))+" in") && !strings.Contains(got, "("+count(fine(i-1))+" in") {
			t.Errorf("%s: says %q, want %d", from, got, fine(i))
		}
		p.DoubleClick(x+w/2, y+h/2)
		if got := shown(p); got != all {
			t.Errorf("%s: after a double click it shows %q, want %q", from, got, all)
		}
		if p.Eval(boxes) != whole {
			t.Errorf("%s: a picture stays", from)
		}
	}
	p.Eval(`document.querySelector("#lifetimes .draw").focus()`)
	p.Key("+")
	half := shown(p)
	if half == all {
		t.Error("+ does nothing")
	}
	p.Key("+")
	p.Key("-")
	if got := shown(p); got != half {
		t.Errorf("- shows %q, want %q", got, half)
	}
	p.Key("Escape")
	if got := shown(p); got != all {
		t.Errorf("Escape shows %q", got)
	}
	p.Key("ArrowRight")
	if got := readout(p, "lifetimes"); got == "" {
		t.Error("an arrow does not move along")
	}
	// On paper it is the whole, in pictures that are lines and not dots.
	p.Key("+")
	p.Eval(`dispatchEvent(new Event("beforeprint"))`)
	if p.Eval(boxes) != whole {
		t.Error("a part is printed")
	}
	for _, x := range p.Problems() {
		t.Error(x)
	}
	if r := p.Requests(); len(r) != 1 || r[0] != url {
		t.Errorf("asks for %q", r)
	}
}

// What an attacker may choose is shown as text.
func TestHostileInBrowser(t *testing.T) {
	t.Parallel()
	b := browser.Start(t)
	p := b.Open(written(t, hostile(), nil), browser.View{Width: 360, Height: 700})
	if n := p.Eval(`document.scripts.length + document.images.length`); n != 3. { // uPlot, ours, and what it reads
		t.Errorf("%v scripts and images", n)
	}
	if w := p.Eval("document.documentElement.scrollWidth"); w != 360. {
		t.Errorf("%v pixels wide", w)
	}
	for _, x := range p.Problems() {
		t.Error(x)
	}
}
