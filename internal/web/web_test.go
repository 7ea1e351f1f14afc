package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// failer is a test, or a property of rapid.
type failer interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

func must(t failer, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until ok, and says what was not.
func eventually(t failer, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// hostile is what an attacker would like to be passed on as it is.
const hostile = "a\x1b[2J\u202eb\a\n\U0001f600\U000e0001\"<script>"

// fake is a Source; a test sets what it wants another answer of.
type fake struct {
	err error // of all that may fail
	top func() (*agg.TopDoc, error)

	mu      sync.Mutex
	asked   string // of the last Top
	reloads int
}

var testTime = time.Date(2026, 11, 22, 19, 38, 1, 5, time.UTC)

func (f *fake) Status() *agg.Status {
	n := uint64(700)
	return &agg.Status{At: testTime, Backend: "fentry",
		Tables:   []agg.TableState{{NetNS: 4026531840, Entries: n, Max: 1000}},
		Findings: []agg.Finding{{ID: "scan-1", Class: "scan", State: "confirmed", Source: netip.MustParsePrefix("10.0.0.7/32"), Why: hostile}, {ID: "fill-2", Class: "table_filling"}},
	}
}

func (f *fake) Top(by agg.Dim, c agg.Column, n int) (*agg.TopDoc, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = fmt.Sprint(by, c, n)
	if f.top != nil {
		return f.top()
	}
	doc := &agg.TopDoc{From: testTime, To: testTime.Add(time.Second), Backend: "fentry"}
	doc.By = by
	doc.Rows = []agg.TopRow{{Key: agg.Key{NetNS: 4026531840, Src: netip.MustParseAddr("10.0.0.7")}}}
	return doc, f.err
}

func (f *fake) Ledger(context.Context) (*agg.Doc, error) {
	doc := &agg.Doc{From: testTime, To: testTime.Add(time.Second), Backend: "fentry"}
	doc.Drops = []agg.DropRow{{Reason: event.TableFull, Count: 412}, {Reason: event.TableFull, Dport: 53, Count: 1}}
	return doc, f.err
}

func (f *fake) Ready() error { return f.err }

func (f *fake) Reload(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reloads++
	return f.err
}

// site is a Server that serves.
type site struct {
	*Server
	url  string
	stop func() error // once
}

// options are those of a server of a test, all of it there.
func options(src Source) Options {
	return Options{
		Listen: []string{"127.0.0.1:0"}, TelemetryPath: "/metrics", EnableReload: true, Source: src, Log: slog.New(slog.DiscardHandler),
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "metrics 1\n") }),
		Page: func(w io.Writer, _ *agg.Status) error {
			_, err := io.WriteString(w, strings.Repeat("<p>page", 1000))
			return err
		},
		Assets: map[string]Asset{"/static/a.1.js": {Type: "text/javascript", Bytes: []byte("js")}},
		Blocklist: &Blocklist{Text: func() ([]byte, string, bool) { return []byte("198.51.100.7\n"), `"abc"`, true },
			Ruleset: func() []byte { return []byte("table inet ctsight\n") }},
	}
}

// serve runs a server until the test ends.
func serve(t testing.TB, o Options) *site {
	t.Helper()
	s, err := New(o)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	end := sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		if err := end(); err != nil {
			t.Errorf("serve: %v", err)
		}
		eventually(t, "all places are free", func() bool { return s.gate.open() == 0 })
	})
	return &site{s, "http://" + s.Addrs()[0].String(), end}
}

// open is the number of places that are taken, and of connections on their way out.
func (g *gate) open() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.n + g.closing
}

// dial opens a raw connection, closed with the test.
func (s *site) dial(t testing.TB) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", s.Addrs()[0].String())
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// say sends text on a connection and returns what comes until its end.
func (s *site) say(t testing.TB, text string) string {
	t.Helper()
	c := s.dial(t)
	_, err := io.WriteString(c, text)
	must(t, err)
	must(t, c.SetReadDeadline(time.Now().Add(time.Minute)))
	b, _ := io.ReadAll(c) // a reset is an end too
	return string(b)
}

// ask sends a request and returns the answer with its body.
func ask(t testing.TB, method, url string, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(method, url, nil)
	must(t, err)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	a, err := http.DefaultClient.Do(r)
	must(t, err)
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	must(t, err)
	return a, string(b)
}

// What answers is over soon, what has not asked yet is over at once.
func TestShutdown(t *testing.T) {
	begun, finish := make(chan struct{}), make(chan struct{})
	o := options(&fake{})
	o.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-finish
		_, _ = io.WriteString(w, "whole")
	})
	s := serve(t, o)
	for range 20 {
		c := s.dial(t)
		_, err := io.WriteString(c, "GET /metrics HTTP/1.1\r\nHo")
		must(t, err)
	}
	idle := s.dial(t)
	_, err := io.WriteString(idle, "GET /-/healthy HTTP/1.1\r\nHost: a\r\n\r\n")
	must(t, err)
	_, err = idle.Read(make([]byte, 1))
	must(t, err)
	got := make(chan string, 1)
	go func() { got <- s.say(t, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n") }()
	<-begun
	ended := make(chan error, 1)
	go func() { ended <- s.stop() }()
	eventually(t, "only who is being answered is left", func() bool { return s.gate.open() == 1 })
	select {
	case <-ended:
		t.Fatal("an answer was cut off")
	default:
	}
	close(finish)
	if a := <-got; !strings.HasSuffix(a, "whole") {
		t.Errorf("answer %q", a)
	}
	must(t, <-ended)
	if _, err := net.Dial("tcp", s.Addrs()[0].String()); err == nil {
		t.Error("still listens")
	}
}

// An answer that does not end is cut off, and that is no error.
func TestShutdownOfStuck(t *testing.T) {
	o := options(&fake{})
	begun := make(chan struct{})
	o.Metrics = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { close(begun); <-r.Context().Done() })
	s := serve(t, o)
	_, err := io.WriteString(s.dial(t), "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
	must(t, err)
	<-begun
	must(t, s.stop())
}

// A server that cannot go on ends the whole.
func TestListenerLost(t *testing.T) {
	o := options(&fake{})
	o.Listen = append(o.Listen, "127.0.0.1:0")
	s, err := New(o)
	must(t, err)
	gone := errors.New("gone")
	s.listeners[1] = &broken{s.listeners[1], gone}
	if err := s.Serve(t.Context()); !errors.Is(err, gone) {
		t.Errorf("error %v", err)
	}
}

type broken struct {
	net.Listener
	err error
}

func (b *broken) Accept() (net.Conn, error) { return nil, b.err }

// What exporter-toolkit says at each start is for debugging, and an error that it
// has at each request is said once a minute.
func TestLevelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		l := slog.New(levelled{slog.NewTextHandler(&b, nil), new(atomic.Int64)})
		l.Info("TLS is disabled.")
		for range 3 {
			for range 100 {
				l.Error("Unable to parse configuration")
			}
			time.Sleep(time.Minute)
		}
		if s := b.String(); strings.Contains(s, "TLS") || strings.Count(s, "Unable") != 3 {
			t.Error(s)
		}
	})
}
