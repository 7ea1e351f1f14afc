package report

import (
	"os"
	"path/filepath"
	"testing"

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

// The script says which time is under the pointer.
func TestReadout(t *testing.T) {
	t.Parallel()
	b := browser.Start(t)
	p := b.Open(written(t, incident().g.Data(), nil), browser.View{Width: 1000, Height: 900})
	p.Eval(`{
		const over = document.querySelector("#rates .over"), r = over.getBoundingClientRect();
		over.dispatchEvent(new PointerEvent("pointermove", {clientX: r.left + r.width / 2, clientY: r.top + 5, bubbles: true}));
	}`)
	said := p.Eval(`document.querySelector("#rates .readout").textContent`)
	if s, _ := said.(string); len(s) < 30 || s[:17] != "2026-11-22 19:38:" {
		t.Errorf("says %v", said)
	}
	p.Eval(`document.querySelector("#rates .over").dispatchEvent(new PointerEvent("pointerleave"))`)
	if hidden := p.Eval(`document.querySelector("#rates .readout").hidden`); hidden != true {
		t.Error("stays")
	}
	for _, x := range p.Problems() {
		t.Error(x)
	}
}

// What an attacker may choose is shown as text.
func TestHostileInBrowser(t *testing.T) {
	t.Parallel()
	b := browser.Start(t)
	p := b.Open(written(t, hostile(), nil), browser.View{Width: 360, Height: 700})
	if n := p.Eval(`document.scripts.length + document.images.length`); n != 1. {
		t.Errorf("%v scripts and images", n)
	}
	if w := p.Eval("document.documentElement.scrollWidth"); w != 360. {
		t.Errorf("%v pixels wide", w)
	}
	for _, x := range p.Problems() {
		t.Error(x)
	}
}
