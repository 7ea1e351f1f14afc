package remotewrite

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
)

// A receiver that means no good costs a bounded time and a bounded memory, and what
// it did not take is there when it comes to its senses.
func TestHostile(t *testing.T) {
	forever := func(w http.ResponseWriter, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body) // else net/http does not see that the client goes
		<-r.Context().Done()
		return true
	}
	endless := func(code int, every time.Duration, piece string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(code)
			for r.Context().Err() == nil {
				if _, err := fmt.Fprint(w, piece); err != nil {
					break
				}
				_ = http.NewResponseController(w).Flush()
				time.Sleep(every)
			}
			return true
		}
	}
	headers := func(w http.ResponseWriter, _ *http.Request) bool {
		for i := range 100 {
			w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 1000))
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	raw := func(text string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			c, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = c.Write([]byte(text))
				_ = c.Close()
			}
			return true
		}
	}
	for what, f := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"never answers": forever,
		"drips":         endless(500, time.Millisecond, "x"),
		"never ends":    endless(500, 0, strings.Repeat("y", 1<<16)),
		"says much": func(w http.ResponseWriter, _ *http.Request) bool {
			http.Error(w, strings.Repeat("z ", 1<<20), http.StatusServiceUnavailable)
			return true
		},
		"many headers":         headers,
		"no HTTP":              raw("SSH-2.0-OpenSSH_9.2p1\r\n"),
		"half an answer":       raw("HTTP/1.1 500 Oh\r\nContent-Length: 100\r\n\r\nx"),
		"waits till next year": says(503, "Retry-After", "-99999999999"),
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			s.next(f)
			b := start(t, func(l *limits) { l.timeout = 300 * time.Millisecond }, to(s.URL))
			eventually(t, "it comes to its senses", func() bool { return len(s.requests()) > 10 })
			b.stop()
			// Who is slow, if only because this machine is, may get a message twice.
			increasing(t, slices.Compact(live(s.points(t)[c0])))
			if a := b.account(t); a.Sent != a.Gathered {
				t.Errorf("account %+v", a)
			}
			if n := b.log.buf.Len(); n > 2000 {
				t.Errorf("%d bytes in the log", n)
			}
		})
	}
}

// A redirect is not followed: neither does a password go elsewhere, nor is there a loop.
func TestRedirect(t *testing.T) {
	elsewhere := newStore(t)
	s := newStore(t)
	for _, code := range []int{301, 302, 307, 308} {
		s.next(says(code, "Location", elsewhere.URL), says(code, "Location", s.URL))
	}
	b := start(t, nil, to(s.URL))
	eventually(t, "ten messages", func() bool { return len(s.requests()) > 10 })
	b.stop()
	if elsewhere.asked() > 0 {
		t.Error("it went elsewhere")
	}
	if said := b.log.lines("not followed"); len(said) != 1 {
		t.Errorf("said %q", said)
	}
	if a := b.account(t); a.Failed != 8*2 || a.Dropped != 0 {
		t.Errorf("account %+v", a)
	}
}

// The end does not wait for a receiver that does not answer.
func TestEndInTime(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and never reads
	must(t, err)
	defer l.Close()
	b := start(t, func(l *limits) { l.finish = 50 * time.Millisecond; l.timeout = time.Hour }, to("http://"+l.Addr().String()))
	eventually(t, "what waits", func() bool { return b.account(t).Pending > 4 })
	b.stop()
	if a := b.account(t); a.Dropped != a.Gathered {
		t.Errorf("account %+v", a)
	}
	if said := b.log.lines("given up at the end"); len(said) != 1 {
		t.Errorf("said %q", said)
	}
}

// TestMemory holds what a receiver that is away may cost: the queue's 4 MiB.
func TestMemory(t *testing.T) {
	var mfs []*dto.MetricFamily
	for i := range 600 {
		mf := counterOf(fmt.Sprintf("ctsight_some_counter_of_a_kind_%03d_total", i), 0)
		mf.Help = new(strings.Repeat(fmt.Sprint("help ", i), 10))
		mfs = append(mfs, mf)
	}
	r := &receiver{queue: newQueue(defaults.bytes, defaults.batches)}
	before := heap()
	for i := range 3 * defaults.batches {
		for j, mf := range mfs {
			*mf.Metric[0].Counter.Value = float64(i*j) * 1.2345
		}
		r.push(flatten(mfs, map[string]string{"job": "ctsight", "instance": "gw1"}), int64(i))
	}
	cost := heap() - before
	q := r.queue
	t.Logf("%d batches of 600 series: %d bytes, %d on the heap", len(q.waiting), q.bytes, cost)
	if len(q.waiting) != defaults.batches && q.bytes < defaults.bytes*9/10 {
		t.Error("the queue is not full")
	}
	if cost > int64(defaults.bytes)*5/4+2<<20 { // and what the last gathering was
		t.Errorf("%d bytes for a queue of %d", cost, defaults.bytes)
	}
	runtime.KeepAlive(r)
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
