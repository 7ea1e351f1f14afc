package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
)

// failure is the text of an error, which must be one line of JSON and harmless.
func failure(t testing.TB, body string) string {
	t.Helper()
	var doc struct{ Error string }
	if err := json.Unmarshal([]byte(body), &doc); err != nil || doc.Error == "" {
		t.Errorf("error %q: %v", body, err)
	}
	if strings.Count(body, "\n") != 1 || !strings.HasSuffix(body, "\n") || strings.ContainsAny(body, "\x1b\a\u202e") {
		t.Errorf("error %q is not one harmless line", body)
	}
	return doc.Error
}

const (
	all    = "GET HEAD POST PUT DELETE OPTIONS PATCH TRACE BREW"
	read   = "GET HEAD"
	change = "POST PUT"
)

func TestAnswers(t *testing.T) {
	f := &fake{}
	s := serve(t, options(f))
	for path, c := range map[string]struct {
		methods, contentType, cache string
	}{
		"/":                {read, "text/html; charset=utf-8", "no-store"},
		"/metrics":         {read, "text/plain; charset=utf-8", "no-store"},
		"/static/a.1.js":   {read, "text/javascript", "public, max-age=31536000, immutable"},
		"/api/v1/top":      {read, "application/json", "no-store"},
		"/api/v1/drops":    {read, "application/json", "no-store"},
		"/api/v1/table":    {read, "application/json", "no-store"},
		"/api/v1/relief":   {read, "application/json", "no-store"},
		"/api/v1/flight":   {read, "application/json", "no-store"},
		"/api/v1/findings": {read, "application/jsonl", "no-store"},
		"/blocklist":       {read, "text/plain; charset=utf-8", "no-cache"},
		"/-/healthy":       {read, "text/plain; charset=utf-8", "no-store"},
		"/-/ready":         {read, "text/plain; charset=utf-8", "no-store"},
		"/-/reload":        {change, "text/plain; charset=utf-8", "no-store"},
	} {
		for method := range strings.FieldsSeq(all) {
			a, body := ask(t, method, s.url+path)
			want, contentType, cache := http.StatusOK, c.contentType, c.cache
			if !slices.Contains(strings.Fields(c.methods), method) {
				want, contentType, cache = http.StatusMethodNotAllowed, "application/json", "no-store"
				if allow := a.Header.Get("Allow"); allow != strings.ReplaceAll(c.methods, " ", ", ") {
					t.Errorf("%s %s: allowed is %q", method, path, allow)
				}
				if method != "HEAD" {
					failure(t, body)
				}
			}
			if a.StatusCode != want || a.Header.Get("Content-Type") != contentType || a.Header.Get("Cache-Control") != cache {
				t.Errorf("%s %s: %s, %s, %s", method, path, a.Status, a.Header.Get("Content-Type"), a.Header.Get("Cache-Control"))
			}
			if method == "HEAD" && (body != "" || a.ContentLength <= 0) {
				t.Errorf("HEAD %s: %q, length %d", path, body, a.ContentLength)
			}
			guarded(t, a)
		}
	}
	if f.reloads != 2 {
		t.Errorf("%d reloads", f.reloads)
	}
}

// guarded wants the headers that every answer has.
func guarded(t testing.TB, a *http.Response) {
	t.Helper()
	for name, want := range map[string]string{
		"X-Content-Type-Options": "nosniff",
		"Referrer-Policy":        "no-referrer",
		"Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; " +
			"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
	} {
		if got := a.Header.Get(name); got != want {
			t.Errorf("%s %s: %s is %q", a.Request.Method, a.Request.URL.Path, name, got)
		}
	}
}

// What is not there, or not now, is told as one line of JSON.
func TestFailures(t *testing.T) {
	for _, c := range []struct {
		name, method, path string
		header             []string
		code               int
		says               string
		change             func(*Options, *fake)
	}{
		{name: "no page", method: "GET", path: "/nonsense", code: 404, says: "see /"},
		{name: "no page by any method", method: "BREW", path: "/nonsense", code: 404, says: "see /"},
		{name: "no file", method: "GET", path: "/static/b.js", code: 404, says: "see /"},
		{name: "no blocklist", method: "GET", path: "/blocklist", code: 404, says: "see /", change: func(o *Options, _ *fake) { o.Blocklist = nil }},
		{name: "blocklist is off", method: "GET", path: "/blocklist", code: 404, says: "off",
			change: func(o *Options, _ *fake) {
				o.Blocklist = &Blocklist{Text: func() ([]byte, string, bool) { return nil, "", false }}
			}},
		{name: "a form of it that is not", method: "GET", path: "/blocklist?format=csv", code: 400, says: "text, nft"},
		{name: "another parameter", method: "GET", path: "/blocklist?x=1", code: 400, says: "format"},
		{name: "no page of its own", method: "GET", path: "/", code: 404, says: "see /", change: func(o *Options, _ *fake) { o.Page = nil }},
		{name: "not ready", method: "GET", path: "/-/ready", code: 503, says: "not yet", change: notYet},
		{name: "nothing to show", method: "GET", path: "/api/v1/top", code: 503, says: "not yet", change: notYet},
		{name: "no ledger", method: "GET", path: "/api/v1/drops", code: 503, says: "not yet", change: notYet},
		{name: "reload fails", method: "POST", path: "/-/reload", code: 500, says: "not yet", change: notYet},
		{name: "reload is off", method: "POST", path: "/-/reload", code: 403, says: "SIGHUP", change: func(o *Options, _ *fake) { o.EnableReload = false }},
		{name: "reload from elsewhere", method: "POST", path: "/-/reload", header: []string{"Origin", "http://evil.example"}, code: 403, says: "origin"},
		{name: "reload across sites", method: "POST", path: "/-/reload", header: []string{"Sec-Fetch-Site", "cross-site"}, code: 403, says: "origin"},
		{name: "page cannot be made", method: "GET", path: "/", code: 503, says: "not yet",
			change: func(o *Options, _ *fake) {
				o.Page = func(w io.Writer, _ *agg.Status) error {
					_, _ = io.WriteString(w, "half a page")
					return errors.New("not yet" + hostile)
				}
			}},
		{name: "a mistake of ours", method: "GET", path: "/api/v1/top", code: 500, says: "mistake",
			change: func(_ *Options, f *fake) { f.top = func() (*agg.TopDoc, error) { panic("bad") } }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &fake{}
			o := options(f)
			if c.change != nil {
				c.change(&o, f)
			}
			a, body := ask(t, c.method, serve(t, o).url+c.path, c.header...)
			if a.StatusCode != c.code || !strings.Contains(failure(t, body), c.says) {
				t.Errorf("%s: %s", a.Status, body)
			}
			if cache := a.Header.Get("Cache-Control"); cache != "no-store" {
				t.Errorf("is cached: %s", cache)
			}
			guarded(t, a)
			if f.reloads > 0 && f.err == nil {
				t.Error("reloaded all the same")
			}
		})
	}
}

func notYet(_ *Options, f *fake) { f.err = errors.New("not yet" + hostile) }

// A page of our own may reload.
func TestReloadSameOrigin(t *testing.T) {
	s := serve(t, options(&fake{}))
	if a, body := ask(t, "POST", s.url+"/-/reload", "Origin", s.url, "Sec-Fetch-Site", "same-origin"); a.StatusCode != 200 {
		t.Errorf("%s: %s", a.Status, body)
	}
}

// After a mistake of ours the connection and the server go on, and the log has it.
func TestPanic(t *testing.T) {
	var log bytes.Buffer
	f := &fake{top: func() (*agg.TopDoc, error) { panic("bad") }}
	o := options(f)
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	s := serve(t, o)
	for range 2 * atOnce { // no place is lost
		if a, _ := ask(t, "GET", s.url+"/api/v1/top"); a.StatusCode != 500 {
			t.Error(a.Status)
		}
	}
	if a, _ := ask(t, "GET", s.url+"/api/v1/drops"); a.StatusCode != 200 {
		t.Error(a.Status)
	}
	must(t, s.stop())
	for _, want := range []string{"report it", "panic=bad", "path=/api/v1/top", "TestPanic"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log without %s: %s", want, log.String())
		}
	}
}

// A ninth is sent away at once, to come again; who scrapes does not notice.
func TestEightAtOnce(t *testing.T) {
	begun, hold := make(chan struct{}), make(chan struct{})
	f := &fake{}
	o := options(f)
	o.Page = func(w io.Writer, _ *agg.Status) error {
		begun <- struct{}{}
		<-hold
		_, err := io.WriteString(w, "page")
		return err
	}
	s := serve(t, o)
	var done sync.WaitGroup
	for range atOnce {
		done.Go(func() {
			if a, body := ask(t, "GET", s.url+"/"); a.StatusCode != 200 || body != "page" {
				t.Errorf("%s: %s", a.Status, body)
			}
		})
		<-begun
	}
	for _, path := range []string{"/", "/api/v1/top", "/api/v1/findings"} {
		a, body := ask(t, "GET", s.url+path)
		if a.StatusCode != 503 || a.Header.Get("Retry-After") != "1" || !strings.Contains(failure(t, body), "again") {
			t.Errorf("%s: %s", a.Status, body)
		}
		guarded(t, a)
	}
	for _, path := range []string{"/metrics", "/-/healthy", "/-/ready", "/static/a.1.js"} {
		if a, _ := ask(t, "GET", s.url+path); a.StatusCode != 200 {
			t.Errorf("%s: %s", path, a.Status)
		}
	}
	close(hold)
	done.Wait()
	if a, _ := ask(t, "GET", s.url+"/api/v1/top"); a.StatusCode != 200 {
		t.Errorf("after them: %s", a.Status)
	}
}

// Nobody waits for a body, and what follows it is not taken for a request.
func TestBodies(t *testing.T) {
	s := serve(t, options(&fake{}))
	for _, head := range []string{
		"Content-Length: 100\r\n\r\nGET /nonsense HTTP/1.1\r\nHost: a\r\n\r\n",
		"Content-Length: 1000000000\r\n\r\n" + strings.Repeat("x", 100<<10),
		"Transfer-Encoding: chunked\r\n\r\nfffffff\r\nx",
		"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n",
	} {
		a := s.say(t, "POST /-/reload HTTP/1.1\r\nHost: a\r\n"+head)
		if !strings.HasPrefix(a, "HTTP/1.1 200 ") || strings.Count(a, "HTTP/1.1") != 1 {
			t.Errorf("%.40q: %q", head, a)
		}
	}
	two := s.say(t, "POST /-/reload HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"+"GET /-/healthy HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	if !strings.Contains(two, "reloaded\n") || !strings.Contains(two, "healthy\n") {
		t.Errorf("a whole body: %q", two)
	}
}

// What is no HTTP/1 gets an answer that says so, or none.
func TestNonsense(t *testing.T) {
	s := serve(t, options(&fake{}))
	for text, want := range map[string]string{
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":                                                 "HTTP/1.1 400 ",
		"GET / HTTP/9.9\r\n\r\n":                                                           "HTTP/1.1 505 ",
		"GET /metrics HTTP/1.1\r\n\r\n":                                                    "HTTP/1.1 400 ",
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\r\n\r\n":                         "HTTP/1.1 400 ",
		"GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n":                              "HTTP/1.1 400 ",
		"GET /" + strings.Repeat("a", 64<<10) + " HTTP/1.1\r\n\r\n":                        "HTTP/1.1 431 ",
		"GET / HTTP/1.1\r\nX: " + strings.Repeat("a", 64<<10) + "\r\n\r\n":                 "HTTP/1.1 431 ",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n":                       "HTTP/1.1 501 ",
		"GET //../%2e%2e/static/..%2f..%2fetc/passwd HTTP/1.0\r\n\r\n":                     "HTTP/1.0 ",
		"GET http://evil.example/metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n": "HTTP/1.1 200 ",
	} {
		if a := s.say(t, text); !strings.HasPrefix(a, want) {
			t.Errorf("%.60q: %.100q, want %s", text, a, want)
		}
	}
}

// The page is compressed for who takes that.
func TestGzip(t *testing.T) {
	s := serve(t, options(&fake{}))
	a, packed := ask(t, "GET", s.url+"/", "Accept-Encoding", "gzip")
	if a.Header.Get("Content-Encoding") != "gzip" || !strings.Contains(a.Header.Get("Vary"), "Accept-Encoding") || len(packed) > 1000 {
		t.Errorf("%v, %d bytes", a.Header, len(packed))
	}
	if a, plain := ask(t, "GET", s.url+"/", "Accept-Encoding", "identity"); a.Header.Get("Content-Encoding") != "" || len(plain) < 7000 {
		t.Errorf("%v, %d bytes", a.Header, len(plain))
	}
}

// A client that takes no answer holds a place among the eight for two seconds.
func TestAnswerNotTaken(t *testing.T) {
	f := &fake{}
	o := options(f)
	large := bytes.Repeat([]byte("page"), 1<<20)
	o.Page = func(w io.Writer, _ *agg.Status) error { _, err := w.Write(large); return err }
	s := serve(t, o)
	for range atOnce {
		must2(t)(io.WriteString(s.dial(t), "GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
	}
	eventually(t, "all places are taken", func() bool { a, _ := ask(t, "GET", s.url+"/api/v1/table"); return a.StatusCode == 503 })
	begin := time.Now()
	eventually(t, "a place", func() bool { a, _ := ask(t, "GET", s.url+"/api/v1/table"); return a.StatusCode == 200 })
	if d := time.Since(begin); d > writeTimeout*4/5 {
		t.Errorf("after %v", d)
	}
}
