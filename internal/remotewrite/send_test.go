package remotewrite

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/exp/api/remote"
)

const c0 = `__name__="c0",instance="gw1",job="ctsight"`

// increasing says whether values of a series are each one more than the one before,
// at later times: nothing lost, nothing twice, in order.
func increasing(t *testing.T, all []point) {
	t.Helper()
	for i := 1; i < len(all); i++ {
		if all[i].value != all[i-1].value+1 || all[i].at <= all[i-1].at {
			t.Fatalf("%d: %v after %v", i, all[i], all[i-1])
		}
	}
}

func live(all []point) (out []point) {
	for _, p := range all {
		if !isStale(p) {
			out = append(out, p)
		}
	}
	return out
}

func isStale(p point) bool {
	v := p.value
	if p.native != nil {
		v = p.native.Sum
	}
	return math.Float64bits(v) == 0x7ff0000000000002
}

func TestSend(t *testing.T) {
	s := newStore(t)
	b := start(t, nil, to(s.URL+"/api/v1/write/?tenant=a"))
	eventually(t, "ten messages", func() bool { return len(s.requests()) >= 10 })
	b.src.set("c0") // c1 vanishes
	n := b.src.gathered()
	eventually(t, "ten more", func() bool { return b.src.gathered() > n+10 })
	b.src.set("c0", "c1")
	n = b.src.gathered()
	eventually(t, "it comes back", func() bool { return b.src.gathered() > n+2 })
	b.stop()

	all := s.points(t)
	if len(all) != 2 {
		t.Errorf("series: %v", all)
	}
	increasing(t, live(all[c0]))
	for k, want := range map[string]int{c0: 1, strings.Replace(c0, "c0", "c1", 1): 2} {
		got := 0
		for _, p := range all[k] {
			if isStale(p) {
				got++
			}
		}
		if last := all[k][len(all[k])-1]; got != want || !isStale(last) {
			t.Errorf("%s has %d stale markers, want %d, the last value is %v", k, got, want, last)
		}
	}
	h := s.headers[0]
	if h.Get("User-Agent") != "ctsight/test" || h.Get("X-Prometheus-Remote-Write-Version") != "2.0.0" || h.Get("Content-Type") != "application/x-protobuf;proto=io.prometheus.write.v2.Request" {
		t.Errorf("headers %v", h)
	}
	if a := b.account(t); a.Sent != a.Gathered || a.Success.IsZero() {
		t.Errorf("account %+v", a)
	}
	if b.log.buf.Len() > 0 {
		t.Errorf("said: %s", &b.log.buf)
	}
}

// What fails in passing is sent again, in order, and said in two lines.
func TestRetry(t *testing.T) {
	s := newStore(t)
	s.next(nil, says(500), says(503), says(429, "Retry-After", "0"), func(w http.ResponseWriter, _ *http.Request) bool {
		c, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_ = c.Close()
		}
		return true
	})
	b := start(t, nil, to(s.URL))
	eventually(t, "twenty messages", func() bool { return len(s.requests()) >= 20 })
	b.stop()
	increasing(t, live(s.points(t)[c0]))
	if a := b.account(t); a.Sent != a.Gathered {
		t.Errorf("account %+v", a)
	}
	if bad, good := b.log.lines("takes no samples"), b.log.lines("takes samples again"); len(bad) != 1 || len(good) != 1 || !strings.Contains(bad[0], "500") {
		t.Errorf("said %q %q", bad, good)
	}
}

// Retry-After is waited for, and a reload comes through all the same.
func TestRetryAfter(t *testing.T) {
	s := newStore(t)
	s.next(says(503, "Retry-After", "3600"))
	b := start(t, nil, to(s.URL))
	eventually(t, "the answer", func() bool { return s.asked() == 1 })
	n := b.src.gathered()
	eventually(t, "gathering goes on", func() bool { return b.src.gathered() > n+20 })
	if s.asked() != 1 {
		t.Errorf("asked %d times", s.asked())
	}
	b.reload(t, to(s.URL))
	eventually(t, "all that waited", func() bool { return len(s.requests()) > n })
	b.stop()
	increasing(t, live(s.points(t)[c0]))
}

// What a receiver refuses is not sent again; what follows is.
func TestRefused(t *testing.T) {
	s := newStore(t)
	s.next(nil, says(400), says(404), says(302, "Location", "/else"))
	b := start(t, nil, to(s.URL))
	eventually(t, "twenty messages", func() bool { return len(s.requests()) >= 20 })
	b.stop()
	if a := b.account(t); a.Failed != 6 || a.Sent != a.Gathered-6 {
		t.Errorf("account %+v", a)
	}
	if bad, good := b.log.lines("takes no samples"), b.log.lines("again"); len(bad) != 1 || !strings.Contains(bad[0], "because") || len(good) != 1 || !strings.Contains(good[0], "refused=6") {
		t.Errorf("said %q %q", bad, good)
	}
}

// A receiver tells in headers what it has written.
func TestPartly(t *testing.T) {
	s := newStore(t)
	const samples, natives = "X-Prometheus-Remote-Write-Samples-Written", "X-Prometheus-Remote-Write-Histograms-Written"
	s.next(says(200, samples, "1"), says(400, samples, "1"), says(400, samples, "1000000"), says(400, samples, "-7"), says(200, samples, "x", natives, "2"))
	b := start(t, nil, to(s.URL))
	eventually(t, "twenty messages", func() bool { return len(s.requests()) >= 20 })
	b.stop()
	if a := b.account(t); a.Failed != 1+1+0+2+0 || a.Sent != a.Gathered-4 {
		t.Errorf("account %+v", a)
	}
}

// While a receiver is away the queue holds what it may and no more, the newest.
func TestQueueBound(t *testing.T) {
	for _, c := range []struct {
		what  string
		limit func(*limits)
	}{
		{"batches", func(l *limits) { l.batches = 50 }},
		{"bytes", func(l *limits) { l.bytes = 4000 }},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := newStore(t)
			release := make(chan struct{})
			s.next(func(w http.ResponseWriter, r *http.Request) bool {
				<-release
				return says(503)(w, r)
			})
			b := start(t, c.limit, to(s.URL))
			eventually(t, "more than fits", func() bool { return b.account(t).Dropped > 100 })
			q := b.receivers[0].queue
			q.mu.Lock()
			bytes, n := q.bytes, len(q.waiting)
			q.mu.Unlock()
			if bytes > b.limits.bytes || n > b.limits.batches || n < 20 {
				t.Errorf("%d batches with %d bytes wait", n, bytes)
			}
			close(release)
			eventually(t, "the rest", func() bool { return len(s.requests()) >= n })
			b.stop()
			all := live(s.points(t)[c0])
			increasing(t, all[1:]) // the first was under way all the time
			a := b.account(t)
			if a.Sent+a.Dropped != a.Gathered || a.Dropped < 100 {
				t.Errorf("account %+v", a)
			}
			if full, good := b.log.lines("the queue is full"), b.log.lines("takes samples again"); len(full) != 1 || len(good) != 1 || !strings.Contains(good[0], fmt.Sprintf("dropped=%d ", a.Dropped)) {
				t.Errorf("said %q %q", full, good)
			}
		})
	}
}

// One that speaks version 1 only says 415, or takes anything and says nothing.
func TestVersion1(t *testing.T) {
	for what, first := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"415":     nil,
		"silence": func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusNoContent); return true },
	} {
		t.Run(what, func(t *testing.T) {
			s := newStore(t, remote.WriteV1MessageType)
			if first != nil {
				s.next(first)
			}
			b := start(t, nil, to(s.URL))
			eventually(t, "ten messages", func() bool { return len(s.requests()) >= 10 })
			if first != nil {
				s.next(first)
			}
			b.reload(t, to(s.URL)) // it may have learned version 2
			n := len(s.requests())
			eventually(t, "ten more", func() bool { return len(s.requests()) >= n+10 })
			b.stop()
			if a := b.account(t); a.Sent != a.Gathered {
				t.Errorf("account %+v", a)
			}
			if said := b.log.lines("does not speak version 2"); len(said) != 2 {
				t.Errorf("said %q", said)
			}
			if h := s.headers[0]; h.Get("X-Prometheus-Remote-Write-Version") != "0.1.0" {
				t.Errorf("headers %v", h)
			}
		})
	}
}

// A receiver without native histograms gets the classic ones, and that is no loss
// but of what was under way. It says so with 400, or as Prometheus 3.5 does.
func TestNoNatives(t *testing.T) {
	refuse := says(400, "X-Prometheus-Remote-Write-Samples-Written", "5", "X-Prometheus-Remote-Write-Histograms-Written", "0")
	fail := says(500)
	for what, answers := range map[string][]func(http.ResponseWriter, *http.Request) bool{
		"400": {refuse}, "500": {fail, nil, fail, nil},
	} {
		t.Run(what, func(t *testing.T) {
			s := newStore(t)
			s.next(answers...)
			b := start(t, nil)
			b.src.set("c0")
			b.src.native = true
			b.reload(t, to(s.URL))
			eventually(t, "ten messages", func() bool { return len(s.requests()) >= 10 })
			b.stop()
			if a := b.account(t); a.Failed != 0 || a.Dropped == 0 || a.Sent+a.Dropped != a.Gathered {
				t.Errorf("account %+v", a)
			}
			for k, ps := range s.points(t) {
				if ps[0].native != nil {
					t.Errorf("%s is a native histogram", k)
				}
			}
			if said := b.log.lines("WARN"); len(said) != 1 || !strings.Contains(said[0], "native histograms") {
				t.Errorf("said %q", said)
			}
		})
	}
}

// One that fails in passing gets native histograms again.
func TestNativesAfterFailure(t *testing.T) {
	s := newStore(t)
	s.next(says(500), nil, nil, says(500), says(500), says(500), says(500))
	b := start(t, nil)
	b.src.native = true
	b.reload(t, to(s.URL))
	eventually(t, "ten messages", func() bool { return len(s.requests()) >= 10 })
	b.stop()
	all := s.points(t)[`__name__="h_seconds",instance="gw1",job="ctsight"`]
	if n := len(s.requests()); len(all) != n-1 { // the first came through the second time
		t.Errorf("%d native histograms in %d messages", len(all), n)
	}
}

// Between the newest time a batch may have and the end there is always room.
func TestTimesDiffer(t *testing.T) {
	r := &receiver{queue: newQueue(1<<20, 10)}
	r.push(flatten(one(counterOf("c", 1)), nil), 1000)
	r.push(flatten(one(counterOf("c", 1)), nil), 1000)
	r.push(nil, 1001)
	r.push(flatten(one(counterOf("c", 1)), nil), 500) // the clock went back
	for _, want := range []int64{1000, 1001, 1002, 500} {
		b, ok := r.queue.take()
		if !ok || b.at != want {
			t.Errorf("at %d, want %d", b.at, want)
		}
		r.queue.landed(b.samples(), 0, true)
	}
}

func TestBackoff(t *testing.T) {
	b := backoff{min: time.Second, max: 30 * time.Second}
	for round := range 2 {
		for i, most := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
			if d := b.next(); d < most*time.Second/2 || d > most*time.Second {
				t.Errorf("round %d, wait %d is %v", round, i, d)
			}
		}
		b.reset()
	}
}
