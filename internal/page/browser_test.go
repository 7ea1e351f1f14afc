package page_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

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

// serve serves a Status with the server and the policy that users get.
func serve(t *testing.T, s *agg.Status) (address string, src *shown, stop func()) {
	t.Helper()
	src = &shown{}
	src.s.Store(s)
	assets := map[string]web.Asset{}
	for _, f := range page.Files() {
		assets[f.Path] = web.Asset{Type: f.Type, Bytes: f.Body}
	}
	srv, err := web.New(web.Options{Listen: []string{"127.0.0.1:0"}, TelemetryPath: "/metrics", Metrics: http.NotFoundHandler(), Source: src,
		Page: page.New(page.Options{Names: page.TestNames, Version: "1.2.3"}).Write, Assets: assets, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx) }()
	stop = func() {
		if cancel != nil {
			cancel()
			cancel = nil
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(func() { stop() })
	return "http://" + srv.Addrs()[0].String() + "/", src, stop
}

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
	b := browser.Start(t)
	address, _, _ := serve(t, page.TestGateway())
	host, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]browser.View{
		"light": {Width: 1280, Height: 900}, "dark": {Width: 1280, Height: 900, Dark: true},
		"middle": {Width: 800, Height: 900}, "narrow": {Width: 360, Height: 740}, "narrowest": {Width: 320, Height: 600, Dark: true},
		"noscript": {Width: 1280, Height: 900, NoScript: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := b.Open(address, v)
			shots(p, name)
			if w := p.Eval("document.documentElement.scrollWidth"); w != float64(v.Width) {
				t.Errorf("%v pixels wide on a screen of %d", w, v.Width)
			}
			if n := p.Eval("document.querySelectorAll('main section').length"); n != 7. {
				t.Errorf("%v sections", n)
			}
			if c := p.Eval("getComputedStyle(document.body).backgroundColor"); (c == "rgb(255, 255, 255)") == v.Dark {
				t.Errorf("background %v, dark %v", c, v.Dark)
			}
			if hidden := p.Eval("document.getElementById('pause').hidden"); hidden != v.NoScript {
				t.Errorf("button hidden: %v", hidden)
			}
			for _, x := range p.Problems() {
				t.Error(x)
			}
			for _, r := range p.Requests() {
				if u, err := url.Parse(r); err != nil || u.Host != host.Host {
					t.Errorf("asks for %s", r)
				}
			}
		})
	}
}

var _ = fmt.Sprint
