// Package browser drives a headless Chromium for tests, over a pipe: no port is
// opened and nothing is looked up. Of what a page does wrong it misses nothing that
// Chromium itself reports: errors of scripts, violations of the policy, requests.
package browser

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// patience is how long anything may take on a busy machine.
const patience = 60 * time.Second

// Browser is a running Chromium.
type Browser struct {
	t   testing.TB
	out *os.File // commands

	mu      sync.Mutex
	last    int
	waiting map[int]chan answer
	pages   map[string]*Page // by session
	gone    chan struct{}    // closed when it says nothing any more
}

type answer struct {
	Result json.RawMessage
	Error  *struct{ Message string }
}

type message struct {
	answer
	ID        int
	SessionID string
	Method    string
	Params    json.RawMessage
}

// Start starts a Chromium that ends with the test; without one the test is skipped.
func Start(t testing.TB) *Browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("needs a browser: install chromium")
	}
	theirIn, out, err := os.Pipe()
	must(t, err)
	in, theirOut, err := os.Pipe()
	must(t, err)
	cmd := exec.Command(path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--user-data-dir="+t.TempDir(), "--remote-debugging-pipe", "about:blank")
	cmd.ExtraFiles = []*os.File{theirIn, theirOut} // 3 and 4
	var said bytes.Buffer
	cmd.Stderr = &said
	must(t, cmd.Start())
	_, _ = theirIn.Close(), theirOut.Close()
	b := &Browser{t: t, out: out, waiting: map[int]chan answer{}, pages: map[string]*Page{}, gone: make(chan struct{})}
	go b.read(in)
	t.Cleanup(func() {
		b.call("", "Browser.close", nil)
		_ = out.Close()
		stop := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		stop.Stop()
		<-b.gone
		if t.Failed() {
			t.Logf("chromium said: %s", said.Bytes())
		}
	})
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (b *Browser) read(in *os.File) {
	defer close(b.gone)
	defer in.Close()
	r := bufio.NewReader(in)
	for {
		line, err := r.ReadBytes(0)
		if err != nil {
			return
		}
		var m message
		if json.Unmarshal(line[:len(line)-1], &m) != nil {
			continue
		}
		b.mu.Lock()
		if c := b.waiting[m.ID]; c != nil {
			c <- m.answer
			delete(b.waiting, m.ID)
		} else if p := b.pages[m.SessionID]; p != nil {
			p.event(&m)
		}
		b.mu.Unlock()
	}
}

// call sends a command and returns what comes back.
func (b *Browser) call(session, method string, params any) json.RawMessage {
	b.t.Helper()
	if params == nil {
		params = struct{}{}
	}
	c := make(chan answer, 1)
	b.mu.Lock()
	b.last++
	line, err := json.Marshal(map[string]any{"id": b.last, "method": method, "params": params, "sessionId": session})
	if session == "" {
		line, err = json.Marshal(map[string]any{"id": b.last, "method": method, "params": params})
	}
	b.waiting[b.last] = c
	b.mu.Unlock()
	must(b.t, err)
	if _, err := b.out.Write(append(line, 0)); err != nil {
		b.t.Fatal(err)
	}
	select {
	case a := <-c:
		if a.Error != nil {
			b.t.Fatalf("%s: %s", method, a.Error.Message)
		}
		return a.Result
	case <-b.gone:
	case <-time.After(patience):
		b.t.Fatalf("%s: no answer", method)
	}
	return nil
}

// View is how a page is looked at.
type View struct {
	Width, Height int
	Dark          bool
	NoScript      bool
	Print         bool // as on paper
}

// Page is one tab.
type Page struct {
	b       *Browser
	session string

	mu       sync.Mutex
	problems []string
	requests []string
	loaded   chan struct{}
}

// Open opens a document and waits until it is there.
func (b *Browser) Open(url string, v View) *Page {
	b.t.Helper()
	var target struct{ TargetID string }
	must(b.t, json.Unmarshal(b.call("", "Target.createTarget", map[string]any{"url": "about:blank"}), &target))
	var session struct{ SessionID string }
	must(b.t, json.Unmarshal(b.call("", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}), &session))
	p := &Page{b: b, session: session.SessionID, loaded: make(chan struct{}, 16)}
	b.mu.Lock()
	b.pages[p.session] = p
	b.mu.Unlock()
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		p.call(domain+".enable", nil)
	}
	scheme := "light"
	if v.Dark {
		scheme = "dark"
	}
	media := ""
	if v.Print {
		media = "print"
	}
	p.call("Emulation.setEmulatedMedia", map[string]any{"media": media, "features": []any{map[string]any{"name": "prefers-color-scheme", "value": scheme}}})
	p.call("Emulation.setScriptExecutionDisabled", map[string]any{"value": v.NoScript})
	p.Resize(v.Width, v.Height)
	p.call("Page.navigate", map[string]any{"url": url})
	p.WaitLoad()
	return p
}

// WaitLoad waits until a document is loaded.
func (p *Page) WaitLoad() {
	p.b.t.Helper()
	select {
	case <-p.loaded:
	case <-time.After(patience):
		p.b.t.Fatal("the page does not load")
	}
}

func (p *Page) call(method string, params any) json.RawMessage {
	p.b.t.Helper()
	return p.b.call(p.session, method, params)
}

func (p *Page) event(m *message) {
	var e struct {
		Entry            struct{ Source, Level, Text, URL string }
		Type             string
		Args             []struct{ Value any }
		ExceptionDetails struct {
			Text      string
			Exception struct{ Description string }
		}
		Request struct{ URL string }
	}
	if json.Unmarshal(m.Params, &e) != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch m.Method {
	case "Page.loadEventFired":
		select {
		case p.loaded <- struct{}{}:
		default:
		}
	case "Log.entryAdded":
		p.problems = append(p.problems, fmt.Sprintf("%s %s: %s %s", e.Entry.Source, e.Entry.Level, e.Entry.Text, e.Entry.URL))
	case "Runtime.consoleAPICalled":
		p.problems = append(p.problems, fmt.Sprintf("console.%s: %v", e.Type, e.Args))
	case "Runtime.exceptionThrown":
		p.problems = append(p.problems, e.ExceptionDetails.Text+" "+e.ExceptionDetails.Exception.Description)
	case "Network.requestWillBeSent":
		p.requests = append(p.requests, e.Request.URL)
	}
}

// Problems are what Chromium has reported since the last call.
func (p *Page) Problems() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.problems
	p.problems = nil
	return out
}

// Requests are the addresses of all that was asked for.
func (p *Page) Requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.requests...)
}

// Resize changes what the page has for room, in pixels.
func (p *Page) Resize(width, height int) {
	p.b.t.Helper()
	p.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500})
}

// Eval returns the value of an expression, whether or not the page may run scripts.
func (p *Page) Eval(expression string) any {
	p.b.t.Helper()
	var r struct {
		Result           struct{ Value any }
		ExceptionDetails *struct {
			Exception struct{ Description string }
		}
	}
	must(p.b.t, json.Unmarshal(p.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true}), &r))
	if r.ExceptionDetails != nil {
		p.b.t.Fatalf("%s: %s", expression, r.ExceptionDetails.Exception.Description)
	}
	return r.Result.Value
}

// Wait waits until an expression is true.
func (p *Page) Wait(expression string) {
	p.b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for p.Eval(expression) != true {
		select {
		case <-ctx.Done():
			p.b.t.Fatalf("waited in vain: %s", expression)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Key presses a key: a letter, " ", "Tab", "Enter".
func (p *Page) Key(key string) {
	p.b.t.Helper()
	code := map[string]int{"Tab": 9, "Enter": 13, " ": 32, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39}[key]
	text := key
	if len(key) > 1 {
		text = map[string]string{"Enter": "\r"}[key]
	}
	if code == 0 {
		code = int(bytes.ToUpper([]byte(key))[0])
	}
	for _, kind := range []string{"keyDown", "keyUp"} {
		params := map[string]any{"type": kind, "key": key, "windowsVirtualKeyCode": code}
		if kind == "keyDown" && text != "" {
			params["text"] = text
		}
		p.call("Input.dispatchKeyEvent", params)
	}
}

// Mouse moves or presses the left button, where the window has it: mouseMoved,
// mousePressed, mouseReleased.
func (p *Page) Mouse(kind string, x, y float64) {
	p.b.t.Helper()
	p.mouse(kind, x, y, 1)
}

func (p *Page) mouse(kind string, x, y float64, clicks int) {
	p.b.t.Helper()
	params := map[string]any{"type": kind, "x": x, "y": y, "clickCount": clicks}
	switch kind {
	case "mousePressed":
		params["button"], params["buttons"] = "left", 1
	case "mouseReleased":
		params["button"] = "left"
	}
	p.call("Input.dispatchMouseEvent", params)
}

// Drag presses the button at one place and lets it go at another.
func (p *Page) Drag(from, to, y float64) {
	p.b.t.Helper()
	p.Mouse("mouseMoved", from, y)
	p.Mouse("mousePressed", from, y)
	for i := range 4 {
		p.call("Input.dispatchMouseEvent", map[string]any{"type": "mouseMoved", "x": from + (to-from)*float64(i+1)/4, "y": y, "button": "left", "buttons": 1})
	}
	p.Mouse("mouseReleased", to, y)
}

// DoubleClick clicks twice.
func (p *Page) DoubleClick(x, y float64) {
	p.b.t.Helper()
	p.Mouse("mouseMoved", x, y)
	for clicks := range 2 {
		p.mouse("mousePressed", x, y, clicks+1)
		p.mouse("mouseReleased", x, y, clicks+1)
	}
}

// Screenshot writes the whole page as a PNG.
func (p *Page) Screenshot(file string) {
	p.b.t.Helper()
	var shot struct{ Data string }
	must(p.b.t, json.Unmarshal(p.call("Page.captureScreenshot", map[string]any{"captureBeyondViewport": true}), &shot))
	png, err := base64.StdEncoding.DecodeString(shot.Data)
	must(p.b.t, err)
	must(p.b.t, os.WriteFile(file, png, 0o644))
}
