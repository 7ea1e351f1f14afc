package metrics

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"

	"github.com/ctsight/ctsight/internal/agg"
)

const protoAccept = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"

func always(s *agg.Status) func(*http.Request) (*agg.Status, error) {
	return func(*http.Request) (*agg.Status, error) { return s, nil }
}

// scrape asks as a client would; headers are pairs.
func scrape(h http.Handler, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", "/metrics", nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// body is the document without its compression.
func body(t testing.TB, w *httptest.ResponseRecorder) []byte {
	t.Helper()
	if w.Code != 200 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	if n := w.Header().Get("Content-Length"); n != fmt.Sprint(w.Body.Len()) {
		t.Errorf("Content-Length %s of %d bytes", n, w.Body.Len())
	}
	if w.Header().Get("Content-Encoding") != "gzip" {
		return w.Body.Bytes()
	}
	z, err := gzip.NewReader(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	z.Multistream(false) // not every client reads more than one
	out, err := io.ReadAll(z)
	if err != nil || w.Body.Len() > 0 {
		t.Fatalf("gzip: %v, %d bytes behind it", err, w.Body.Len())
	}
	return out
}

func TestFormats(t *testing.T) {
	s, x := ordinary(3), New(Options{})
	h, want := x.Handler(always(s)), Series(gather(t, x, s))
	for _, tt := range []struct {
		accept string
		want   expfmt.FormatType
	}{
		{"", expfmt.TypeTextPlain},
		{"*/*", expfmt.TypeTextPlain},
		{"text/plain;version=0.0.4", expfmt.TypeTextPlain},
		{"application/openmetrics-text;version=1.0.0", expfmt.TypeOpenMetrics},
		{"application/openmetrics-text;version=0.0.1", expfmt.TypeOpenMetrics},
		{protoAccept, expfmt.TypeProtoDelim},
		{protoAccept + ",application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2", expfmt.TypeProtoDelim},
		{"image/png", expfmt.TypeTextPlain},
	} {
		for _, encoding := range []string{"", "gzip"} {
			w := scrape(h, "Accept", tt.accept, "Accept-Encoding", encoding)
			f := expfmt.ResponseFormat(w.Header())
			if f.FormatType() != tt.want || w.Header().Get("Content-Encoding") != encoding {
				t.Errorf("%q, %q: %s, %q", tt.accept, encoding, w.Header(), w.Header().Get("Content-Encoding"))
				continue
			}
			mfs := decode(t, f, body(t, w))
			if value(t, mfs, drops, "table_full") != 412 || value(t, mfs, newPeak, "1s") != 200 || find(lifetime, mfs) == nil {
				t.Errorf("%q: not what was gathered", tt.accept)
			}
			if n := Series(mfs); n != want {
				t.Errorf("%q: %d of %d series arrive", tt.accept, n, want)
			}
		}
	}
}

func TestExemplarAndNativeArrive(t *testing.T) {
	h := New(Options{}).Handler(always(ordinary(1)))
	text := string(body(t, scrape(h, "Accept", "application/openmetrics-text;version=1.0.0")))
	want := `ctsight_drops_total{reason="table_full"} 412.0 # {src="198.51.100.3",dst="10.9.0.1"} 1.0 ` // the time follows
	if !strings.Contains(text, want) {
		t.Errorf("no line %s", want)
	}
	if !strings.HasSuffix(text, "# EOF\n") || strings.Count(text, "# EOF") != 1 {
		t.Error("OpenMetrics must end in one # EOF")
	}
	mfs := decode(t, expfmt.FmtProtoDelim, body(t, scrape(h, "Accept", protoAccept)))
	for _, m := range family1(t, mfs, lifetime).Metric {
		if m.Histogram.GetZeroThreshold() == 0 || len(m.Histogram.Bucket) != len(classicBounds) {
			t.Errorf("not both native and classic: %v", m)
		}
		if !m.Histogram.CreatedTimestamp.AsTime().Equal(start) {
			t.Error("no created timestamp")
		}
	}
	if m := family1(t, mfs, drops).Metric[0]; !m.Counter.CreatedTimestamp.AsTime().Equal(start) {
		t.Error("no created timestamp")
	}
}

func TestAcceptsGzip(t *testing.T) {
	for in, want := range map[string]bool{"": false, "gzip": true, "GZIP": true, "gzip;q=0": false, "gzip; q=0.000": false, "deflate, gzip;q=0.5": true, "*": true,
		"*;q=0": false, "gzip;q=0, *": false, "identity": false, "zstd,br": false} {
		if got := acceptsGzip(http.Header{"Accept-Encoding": {in}}); got != want {
			t.Errorf("%q: %v", in, got)
		}
	}
}

// The stored blocks behind the shared part, at the sizes where they split.
func TestPageEnd(t *testing.T) {
	head := bytes.Repeat([]byte("shared "), 1000)
	for _, n := range []int{0, 1, maxStored - 1, maxStored, maxStored + 1, 3*maxStored + 5} {
		p, tail := newPage(head, true), bytes.Repeat([]byte("x"), n)
		z, err := gzip.NewReader(io.MultiReader(bytes.NewReader(p.bytes), bytes.NewReader(p.end(tail))))
		if err != nil {
			t.Fatal(err)
		}
		if out, err := io.ReadAll(z); err != nil || !bytes.Equal(out, append(bytes.Clone(head), tail...)) {
			t.Errorf("an end of %d bytes: %v", n, err)
		}
	}
}

func TestThousandAtOnce(t *testing.T) {
	var calls, peaks atomic.Int64
	s := worst()
	release := make(chan struct{})
	x := New(Options{Peaks: func(*http.Request) agg.Peaks { return agg.Peaks{In1s: float64(peaks.Add(1))} }})
	h := x.Handler(func(*http.Request) (*agg.Status, error) { calls.Add(1); <-release; return s, nil })
	h.now = func() time.Time { return start } // no time passes, however slow the machine is
	var waiting, done sync.WaitGroup
	seen := sync.Map{}
	waiting.Add(1000)
	for i := range 1000 {
		done.Go(func() {
			waiting.Done()
			headers := []string{"Accept", []string{"", protoAccept}[i%2], "Accept-Encoding", []string{"", "gzip"}[i/2%2]}
			w := scrape(h, headers...)
			if i >= 100 {
				return // to decode them all is slow under -race
			}
			mfs := decode(t, expfmt.ResponseFormat(w.Header()), body(t, w))
			seen.Store(value(t, mfs, newPeak, "1s"), true)
		})
	}
	waiting.Wait()
	close(release)
	done.Wait()
	if calls.Load() != 1 || peaks.Load() != 1000 {
		t.Errorf("%d calls for the status, %d for peaks", calls.Load(), peaks.Load())
	}
	n := 0
	seen.Range(func(any, any) bool { n++; return true })
	if n != 100 {
		t.Errorf("%d different peaks for 100 clients", n)
	}
	if pages := len(h.current.pages); pages != 4 {
		t.Errorf("%d renderings of 4 formats", pages)
	}
}

func TestReuse(t *testing.T) {
	calls, now := 0, start
	h := New(Options{}).Handler(func(*http.Request) (*agg.Status, error) { calls++; return ordinary(1), nil })
	h.now = func() time.Time { return now }
	for _, tt := range []struct {
		after time.Duration
		calls int
	}{{0, 1}, {99 * time.Millisecond, 1}, {time.Millisecond, 2}, {time.Hour, 3}} {
		now = now.Add(tt.after)
		if scrape(h); calls != tt.calls {
			t.Errorf("after %s: %d calls, want %d", tt.after, calls, tt.calls)
		}
	}
}

// The first client of many may go: those who wait with it must not pay for it.
func TestFirstClientGoes(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	h := New(Options{}).Handler(func(r *http.Request) (*agg.Status, error) { cancel(); return ordinary(1), r.Context().Err() })
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil).WithContext(ctx))
	if w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestErrors(t *testing.T) {
	now, fail := start, errors.New("not yet: wait a second")
	h := New(Options{}).Handler(func(*http.Request) (*agg.Status, error) {
		if fail != nil {
			return nil, fail
		}
		return ordinary(1), nil
	})
	h.now = func() time.Time { return now }
	if w := scrape(h); w.Code != 503 || w.Body.String() != "not yet: wait a second\n" {
		t.Errorf("%d %q", w.Code, w.Body)
	}
	fail, now = nil, now.Add(time.Second)
	if w := scrape(h); w.Code != 200 {
		t.Errorf("%d after the error", w.Code)
	}
}

func TestPanicIsNotForEver(t *testing.T) {
	now, bad := start, true
	h := New(Options{}).Handler(func(*http.Request) (*agg.Status, error) {
		if bad {
			panic("bad")
		}
		return ordinary(1), nil
	})
	h.now = func() time.Time { return now }
	func() {
		defer func() { _ = recover() }()
		scrape(h)
		t.Error("no panic for net/http to tell of")
	}()
	bad, now = false, now.Add(time.Second)
	if w := scrape(h); w.Code != 200 {
		t.Errorf("%d after the panic", w.Code)
	}
}

func TestPeaksWhileWaiting(t *testing.T) {
	x := New(Options{Peaks: func(*http.Request) agg.Peaks { t.Error("asked for peaks"); return agg.Peaks{} }})
	mfs := decode(t, expfmt.FmtText, body(t, scrape(x.Handler(always(&agg.Status{Waiting: true})))))
	if find(newPeak, mfs) != nil {
		t.Error("peaks of nothing")
	}
}

// Text that a shared page and an end make is what one encoder would have made.
func TestSharedIsWhole(t *testing.T) {
	s := ordinary(3)
	h := New(Options{}).Handler(always(s))
	got := decode(t, expfmt.FmtProtoDelim, body(t, scrape(h, "Accept", protoAccept)))
	names := map[string]int{}
	for _, mf := range got {
		names[mf.GetName()]++
	}
	for _, mf := range gather(t, New(Options{}), s) {
		if names[mf.GetName()] != 1 {
			t.Errorf("%s arrives %d times", mf.GetName(), names[mf.GetName()])
		}
	}
}

func BenchmarkScrapeShared(b *testing.B) {
	h := New(Options{TopPrefixes: 100}).Handler(always(worst()))
	h.now = func() time.Time { return start }
	b.ReportAllocs()
	for b.Loop() {
		scrape(h, "Accept-Encoding", "gzip")
	}
}

// Who asks for families gets what a scrape gets, with peaks of its own, and leaves
// the shared ones as they are.
func TestHandlerGather(t *testing.T) {
	h := New(Options{Peaks: func(r *http.Request) agg.Peaks {
		return agg.Peaks{In1s: map[string]float64{"a": 1, "b": 2}[r.RemoteAddr]}
	}}).Handler(always(ordinary(2)))
	h.now = func() time.Time { return start }
	for _, client := range []string{"a", "b", "a"} {
		r := &http.Request{RemoteAddr: client}
		mfs, err := h.Gather(r)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := value(t, mfs, newPeak, "1s"), map[string]float64{"a": 1, "b": 2}[client]; got != want {
			t.Errorf("peak of %s is %v, want %v", client, got, want)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		text := decode(t, expfmt.NewFormat(expfmt.TypeTextPlain), w.Body.Bytes())
		if got, want := Series(text), Series(mfs); got != want {
			t.Errorf("%d series in a scrape, %d gathered", got, want)
		}
	}
}
