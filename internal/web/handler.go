package web

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/klauspost/compress/gzhttp"

	"github.com/ctsight/ctsight/internal/view"
)

// atOnce is how many pages and API answers are made at a time: each takes a
// millisecond or so of one core. Scrapes share theirs and need no such limit.
const atOnce = 8

// handler is all that is served, behind what holds for every request.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	get := func(path string, h http.Handler) { mux.Handle(path, only(h, http.MethodGet, http.MethodHead)) }
	few := limited(atOnce)
	made := func(contentType string, m maker) http.Handler { return few(gzhttp.GzipHandler(m.handler(contentType))) }
	get(s.o.TelemetryPath, s.o.Metrics)
	if s.o.Page != nil {
		get("/{$}", made("text/html; charset=utf-8", s.page))
	}
	get("/static/", http.HandlerFunc(s.static))
	get("/api/v1/top", made("application/json", s.top))
	get("/api/v1/drops", made("application/json", s.drops))
	get("/api/v1/findings", made("application/jsonl", s.findings))
	get("/api/v1/table", made("application/json", s.table))
	get("/api/v1/relief", made("application/json", s.relief))
	get("/api/v1/flight", made("application/json", s.flight))
	if s.o.Blocklist != nil {
		// Not compressed: a strong validator is of the bytes that are sent.
		get("/blocklist", few(http.HandlerFunc(s.blocklist)))
	}
	get("/-/healthy", http.HandlerFunc(s.healthy))
	get("/-/ready", http.HandlerFunc(s.ready))
	mux.Handle("/-/reload", only(sameOrigin(limited(1)(http.HandlerFunc(s.reload))), http.MethodPost, http.MethodPut))
	mux.Handle("/", failing(http.StatusNotFound, "no such page: see /"))
	return s.door.inside(mux)
}

// guard is what holds for every request, also those that exporter-toolkit refuses.
func (s *Server) guard(h http.Handler) http.Handler {
	h = s.door.outside(h)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin(r)
		defer s.survive(w, r)
		head := w.Header()
		head.Set("X-Content-Type-Options", "nosniff")
		head.Set("Referrer-Policy", "no-referrer")
		head.Set("Content-Security-Policy", policy)
		head.Set("Cache-Control", "no-store") // true now only
		if r.ContentLength != 0 {             // nobody reads a body, but net/http would wait for its end
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(grace))
		}
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

// sameOrigin lets no page of somebody else's have a browser do it.
func sameOrigin(h http.Handler) http.Handler {
	p := http.NewCrossOriginProtection()
	p.SetDenyHandler(failing(http.StatusForbidden, "a page of another origin may not ask for this"))
	return p.Handler(h)
}

// limited lets so many requests in at a time, and sends the rest away at once:
// whoever waited would hold the place of a connection.
func limited(n int) func(http.Handler) http.Handler {
	places := make(chan struct{}, n)
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case places <- struct{}{}:
				defer func() { <-places }()
				h.ServeHTTP(w, r)
			default:
				w.Header().Set("Retry-After", "1")
				fail(w, http.StatusServiceUnavailable, "too many requests at once: try again")
			}
		})
	}
}

// fail answers with one line of JSON.
func fail(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = view.WriteErrorJSON(w, text) // the client is gone: nobody to tell
}

// failing always fails.
func failing(code int, text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fail(w, code, text) })
}

// maker writes an answer, whole or not at all.
type maker func(io.Writer, *http.Request) error

// handler answers with what is made once that is whole.
func (m maker) handler(contentType string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var b bytes.Buffer
		var bad RequestError
		switch err := m(&b, r); {
		case errors.As(err, &bad):
			fail(w, http.StatusBadRequest, err.Error())
		case err != nil:
			fail(w, http.StatusServiceUnavailable, err.Error())
		default:
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
			// Not for long: it holds a place. What the kernel has taken is sent all the same.
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(takeTimeout))
			_, _ = b.WriteTo(w) // the client is gone: nobody to tell
		}
	})
}

func (s *Server) page(out io.Writer, _ *http.Request) error {
	return s.o.Page(out, s.o.Source.Status())
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
