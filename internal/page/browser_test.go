package page_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/lab/browser"
	"github.com/ctsight/ctsight/internal/page"
	"github.com/ctsight/ctsight/internal/web"
)

// shown is a Source that shows what it is told to.
type shown struct{ s atomic.Pointer[agg.Status] }

func (s *shown) Status() *agg.Status                             { return s.s.Load() }
func (*shown) Top(agg.Dim, agg.Column, int) (*agg.TopDoc, error) { return nil, errors.New("none") }
func (*shown) Ledger(context.Context) (*agg.Doc, error)          { return nil, errors.New("none") }
func (*shown) Ready() error                                      { return nil }
func (*shown) Reload(context.Context) error                      { return nil }

// served is a page as users get it: with the server and its policy.
type served struct {
	*shown
	t       *testing.T
	address string // host:port
	asked   atomic.Int64
	stop    func()
}

func serve(t *testing.T, s *agg.Status) *served {
	out := &served{shown: &shown{}, t: t, address: "127.0.0.1:0"}
	out.s.Store(s)
	out.start()
	t.Cleanup(func() { out.stop() })
	return out
}

// start serves on the address, where it was before if it was stopped.
func (s *served) start() {
	s.t.Helper()
	assets := map[string]web.Asset{}
	for _, f := range page.Files() {
		assets[f.Path] = web.Asset{Type: f.Type, Bytes: f.Body}
	}
	p := page.New(page.Options{Names: page.Names, Version: "1.2.3"})
	srv, err := web.New(web.Options{Listen: []string{s.address}, TelemetryPath: "/metrics", Metrics: http.NotFoundHandler(), Source: s,
		Page: func(w io.Writer, st *agg.Status) error { s.asked.Add(1); return p.Write(w, st) }, Assets: assets, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		s.t.Fatal(err)
	}
	s.address = srv.Addrs()[0].String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx) }()
	s.stop = func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
		s.stop = func() {}
	}
}

func (s *served) url() string { return "http://" + s.address + "/" }

// shots is where pictures go when somebody wants to look at them:
// CTSIGHT_SHOTS=dir go test ./internal/page
func shots(p *browser.Page, name string) {
	if dir := os.Getenv("CTSIGHT_SHOTS"); dir != "" {
		p.Screenshot(filepath.Join(dir, name+".png"))
	}
}

// However it is looked at, all is there: nothing is wider than the screen, the policy
// is kept, and nobody else is asked for anything.
func TestViews(t *testing.T) {
	t.Parallel()
	b := browser.Start(t)
	s := serve(t, page.Gateway())
	for name, v := range map[string]browser.View{
		"light": {Width: 1280, Height: 900}, "dark": {Width: 1280, Height: 900, Dark: true},
		"middle": {Width: 800, Height: 900}, "narrow": {Width: 360, Height: 740}, "narrowest": {Width: 320, Height: 600, Dark: true},
		"noscript": {Width: 1280, Height: 900, NoScript: true}, "print": {Width: 760, Height: 1000, Dark: true, Print: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := b.Open(s.url(), v)
			shots(p, name)
			if w := p.Eval("document.documentElement.scrollWidth"); w != float64(v.Width) {
				t.Errorf("%v pixels wide on a screen of %d", w, v.Width)
			}
			if n := p.Eval("document.querySelectorAll('main section').length"); n != 8. {
				t.Errorf("%v sections", n)
			}
			light := v.Print || !v.Dark
			if bg, level := p.Eval(`getComputedStyle(document.body).backgroundColor`), p.Eval(`getComputedStyle(document.body).getPropertyValue("--lv1")`); (bg == "rgb(255, 255, 255)") != light || (level == "#8a6a00") != light {
				t.Errorf("background %v, level %v", bg, level)
			}
			if hidden := p.Eval("document.getElementById('pause').hidden"); hidden != v.NoScript {
				t.Errorf("button hidden: %v", hidden)
			}
			// Without the script the browser asks by itself.
			if refresh := p.Eval(`document.querySelector("meta[http-equiv=refresh]")?.content`); (refresh == "10") != v.NoScript {
				t.Errorf("refresh %v", refresh)
			}
			for _, x := range p.Problems() {
				t.Error(x)
			}
			for _, r := range p.Requests() {
				if u, err := url.Parse(r); err != nil || u.Host != s.address {
					t.Errorf("asks for %s", r)
				}
			}
		})
	}
}

// filled is the night with so many entries in its fullest table.
func filled(entries uint64) *agg.Status {
	s := page.Gateway()
	s.Tables[1].Entries = entries
	return s
}

const (
	fill = `document.querySelector("#to-tables b").textContent`
	said = `document.getElementById("state").textContent`
)

// The script shows what is new and leaves alone what the reader has arranged.
func TestRefresh(t *testing.T) {
	t.Parallel()
	b := browser.Start(t)
	s := serve(t, filled(60000))
	p := b.Open(s.url(), browser.View{Width: 500, Height: 700})
	p.Wait(fill + ` === "91.5 %"`)
	p.Eval(`{
		document.getElementById("tables-n").open = true;
		document.getElementById("sources-n").open = false;
		document.getElementById("tables-s").focus();
		document.getElementById("tables-w").scrollLeft = 50;
		scrollTo({top: 400, behavior: "instant"});
	}`)
	s.s.Store(filled(65536))
	p.Wait(fill + ` === "100.0 %"`)
	for x, want := range map[string]any{
		`document.getElementById("tables-n").open`: true, `document.getElementById("sources-n").open`: false, `document.getElementById("reasons-n").open`: true,
		`document.activeElement.id`: "tables-s", `document.getElementById("tables-w").scrollLeft`: 50., `Math.round(scrollY)`: 400.,
		`document.title`: "ctsight: gw 100.0 %", `document.querySelectorAll("main").length`: 1.,
	} {
		if got := p.Eval(x); got != want {
			t.Errorf("%s: %v, want %v", x, got, want)
		}
	}
	// What is being marked stays until it is let go.
	p.Eval(`getSelection().selectAllChildren(document.querySelector("#tables figcaption"))`)
	before := s.asked.Load()
	s.s.Store(filled(6553))
	waitFor(t, "two more requests", func() bool { return s.asked.Load() >= before+2 })
	if got := p.Eval(fill); got != "100.0 %" {
		t.Errorf("text that is marked went away: %v", got)
	}
	p.Eval(`getSelection().removeAllRanges()`)
	p.Wait(fill + ` === "72.6 %"`)
	for _, x := range p.Problems() {
		t.Error(x)
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// Keys: Tab and Enter to the pictures, space and p for a pause, r to ask at once.
func TestKeys(t *testing.T) {
	t.Parallel()
	b := browser.Start(t)
	s := serve(t, filled(60000))
	p := b.Open(s.url(), browser.View{Width: 1000, Height: 700})
	p.Key("Tab")
	if got := p.Eval(`document.activeElement.className`); got != "skip" {
		t.Errorf("the first stop is %v", got)
	}
	p.Key("Enter")
	p.Wait(`location.hash === "#main"`)
	p.Eval(`document.activeElement.blur()`)
	p.Key(" ")
	p.Wait(said + `.startsWith("Paused at 03:14:07 UTC")`)
	if got := p.Eval(`document.getElementById("pause").textContent`); got != "Go on" {
		t.Errorf("the button says %v", got)
	}
	asked := s.asked.Load()
	s.s.Store(filled(65536))
	p.Eval(`new Promise((ok) => setTimeout(ok, 2500))`)
	if n := s.asked.Load(); n > asked+1 { // one may have been under way
		t.Errorf("%d requests in a pause", n-asked)
	}
	p.Key("r")
	p.Wait(fill + ` === "100.0 %"`)
	p.Key("p")
	p.Wait(said + `.startsWith("Live")`)
	s.s.Store(filled(60000))
	p.Wait(fill + ` === "91.5 %"`)
	// On a control space is the control's.
	p.Eval(`document.getElementById("tables-s").focus()`)
	p.Key(" ")
	p.Wait(`document.getElementById("tables-n").open`)
	if got := p.Eval(said); got != "Live, every 2 s" {
		t.Errorf("a key for a control: %v", got)
	}
	// Out of sight nothing is asked.
	p.Eval(`Object.defineProperty(document, "hidden", {value: true, configurable: true}); document.dispatchEvent(new Event("visibilitychange"))`)
	asked = s.asked.Load()
	p.Eval(`new Promise((ok) => setTimeout(ok, 2500))`)
	if n := s.asked.Load(); n > asked+1 {
		t.Errorf("%d requests out of sight", n-asked)
	}
	for _, x := range p.Problems() {
		t.Error(x)
	}
}

// When the server is away the page says since when what it shows is old, and goes on
// when it is back.
func TestStale(t *testing.T) {
	t.Parallel()
	b := browser.Start(t)
	s := serve(t, filled(60000))
	p := b.Open(s.url(), browser.View{Width: 1000, Height: 700, Dark: true})
	s.stop()
	p.Wait(said + `.startsWith("Stale since 03:14:07 UTC: no answer.")`)
	p.Wait(said + `.endsWith("Next try in 8 s.")`)
	shots(p, "stale")
	if got := p.Eval(fill); got != "91.5 %" {
		t.Errorf("shows %v", got)
	}
	s.s.Store(filled(65536))
	s.start()
	p.Key("r")
	p.Wait(fill + ` === "100.0 %" && ` + said + `.startsWith("Live")`)
}

// What an attacker may choose is shown as text.
func TestHostileInBrowser(t *testing.T) {
	t.Parallel()
	b := browser.Start(t)
	s := serve(t, page.Hostile())
	p := b.Open(s.url(), browser.View{Width: 320, Height: 700})
	shots(p, "hostile")
	if n := p.Eval(`document.scripts.length`); n != 1. {
		t.Errorf("%v scripts", n)
	}
	if w := p.Eval("document.documentElement.scrollWidth"); w != 320. {
		t.Errorf("%v pixels wide", w)
	}
	for _, x := range p.Problems() {
		t.Error(x)
	}
}
