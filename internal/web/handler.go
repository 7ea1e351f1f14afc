package web

import (
	"bytes"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/klauspost/compress/gzhttp"
)

// atOnce is how many pages and API answers are made at a time: each takes a
// millisecond or so of one core. Scrapes share theirs and need no such limit.
const atOnce = 8

// handler is all that is served, behind what holds for every request.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	get := func(path string, h http.Handler) { mux.Handle(path, only(h, http.MethodGet, http.MethodHead)) }
	few := limited(atOnce)
	made := func(h http.HandlerFunc) http.Handler { return gzhttp.GzipHandler(few(now(h))) }
	get(s.o.TelemetryPath, s.o.Metrics)
	if s.o.Page != nil {
		get("/{$}", made(s.page))
	}
	get("/static/", http.HandlerFunc(s.static))
	get("/api/v1/top", made(s.top))
	get("/api/v1/drops", made(s.drops))
	get("/api/v1/findings", made(s.findings))
	get("/api/v1/table", made(s.table))
	get("/-/healthy", now(s.healthy))
	get("/-/ready", now(s.ready))
	// No page of somebody else's may have a browser do it.
	mux.Handle("/-/reload", only(http.NewCrossOriginProtection().Handler(now(s.reload)), http.MethodPost, http.MethodPut))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fail(w, http.StatusNotFound, "no such page: see /") })
	return s.guard(mux)
}

// guard is what holds for every request.
func (s *Server) guard(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin(r)
		defer s.survive(w, r)
		head := w.Header()
		head.Set("X-Content-Type-Options", "nosniff")
		head.Set("Referrer-Policy", "no-referrer")
		head.Set("Content-Security-Policy", policy)
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		h.ServeHTTP(w, r)
	})
}

// policy lets the page have what comes from here and nothing else.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// survive keeps a mistake of ours from costing more than one answer.
func (s *Server) survive(w http.ResponseWriter, r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if v == http.ErrAbortHandler {
		panic(v) // net/http's own way to end an answer
	}
	s.panics.Add(1)
	s.o.Log.Error("a request failed by a mistake in ctsight, please report it", "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
	fail(w, http.StatusInternalServerError, "a mistake in ctsight, see its log")
}

// only answers these methods.
func only(h http.Handler, methods ...string) http.Handler {
	allow := methods[0] + ", " + methods[1]
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != methods[0] && r.Method != methods[1] {
			w.Header().Set("Allow", allow)
			fail(w, http.StatusMethodNotAllowed, "only "+allow)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// limited lets so many requests in at a time, and sends the rest away.
func limited(n int) func(http.Handler) http.Handler {
	places := make(chan struct{}, n)
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case places <- struct{}{}:
				defer func() { <-places }()
				h.ServeHTTP(w, r)
			case <-time.After(time.Second):
				w.Header().Set("Retry-After", "1")
				fail(w, http.StatusServiceUnavailable, "too many requests at once: try again")
			case <-r.Context().Done():
			}
		})
	}
}

// now marks what is true now only.
func now(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		h(w, r)
	})
}

// fail answers with one line of JSON.
func fail(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(`{"error":` + strconv.QuoteToASCII(text) + "}\n"))
}

// send answers with what was made in whole.
func send(w http.ResponseWriter, contentType string, b *bytes.Buffer) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	_, _ = b.WriteTo(w) // the client is gone: nobody to tell
}

func (s *Server) page(w http.ResponseWriter, _ *http.Request) {
	var b bytes.Buffer
	if err := s.o.Page(&b, s.o.Source.Status()); err != nil {
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	send(w, "text/html; charset=utf-8", &b)
}

// static serves what has its hash in its name, for ever.
func (s *Server) static(w http.ResponseWriter, r *http.Request) {
	a, ok := s.o.Assets[r.URL.Path]
	if !ok {
		fail(w, http.StatusNotFound, "no such file: see /")
		return
	}
	w.Header().Set("Content-Type", a.Type)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.Bytes))
}

// healthy is true as long as it is answered.
func (s *Server) healthy(w http.ResponseWriter, _ *http.Request) {
	_, _ = w.Write([]byte("ctsight is healthy\n"))
}

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	if err := s.o.Source.Ready(); err != nil {
		fail(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	_, _ = w.Write([]byte("ctsight traces\n"))
}

func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	if !s.o.EnableReload {
		fail(w, http.StatusForbidden, "reload over HTTP is off (web.enable_reload): send SIGHUP")
		return
	}
	if err := s.o.Source.Reload(r.Context()); err != nil {
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	_, _ = w.Write([]byte("reloaded\n"))
}
