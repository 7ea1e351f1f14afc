package web

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// silent is a connection on which nothing happens.
type silent struct {
	net.Conn
	closed atomic.Bool
}

func (s *silent) Close() error { s.closed.Store(true); return nil }

func (g *gate) newConn() *conn { return &conn{Conn: &silent{}, gate: g} }

// enter admits a connection and puts it into a place.
func (g *gate) enter(to place) *conn {
	c := g.newConn()
	g.admit(c)
	g.move(c, to)
	return c
}

// let makes a connection one that has let us wait.
func (c *conn) let(wait time.Duration) *conn {
	if c.place == busy {
		c.write.since.Store(time.Now().Add(-wait).UnixNano())
	} else {
		c.read.since.Store(time.Now().Add(-wait).UnixNano())
	}
	return c
}

func TestVictim(t *testing.T) {
	const p, n = grace, grace / 2 // has passed, not yet
	for _, tt := range []struct {
		name string
		max  int
		in   string // f, i, b, l in order; large when their grace has passed
		want int    // -1 for nobody
	}{
		{"nobody there", 4, "", -1},
		{"half a header is not late yet", 4, "ffff", -1},
		{"the oldest that is late", 4, "fFFf", 1},
		{"answers are taken", 4, "bbbb", -1},
		{"an answer is not taken", 4, "bbBB", 2},
		{"half may be idle", 4, "iibb", -1},
		{"more than half may not", 4, "biii", 1},
		{"late before idle", 4, "iiiF", 3},
		{"not taken before idle", 4, "iiBb", 2},
		{"late before not taken", 4, "BF", 1},
		{"those who leave do so by themselves", 4, "LLLL", -1},
		{"one place", 1, "i", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGate(tt.max)
			var all []*conn
			for _, r := range tt.in {
				wait := n
				if r < 'a' {
					wait = p
				}
				all = append(all, g.enter(map[rune]place{'f': fresh, 'i': idle, 'b': busy, 'l': leaving}[r|' ']).let(wait))
			}
			got := -1
			for i, c := range all {
				if c == g.victim(time.Now()) {
					got = i
				}
			}
			if got != tt.want {
				t.Errorf("%s: the %dth, want the %dth", tt.in, got, tt.want)
			}
		})
	}
}

// Time in which nobody is waited for counts for nothing; pieces of waiting add up.
func TestOwes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		c := &conn{Conn: ours, gate: newGate(1)}
		owes := func(want time.Duration) {
			t.Helper()
			synctest.Wait()
			if got := c.owes(time.Now()); got != want {
				t.Errorf("owes %v, want %v", got, want)
			}
		}
		time.Sleep(time.Hour)
		owes(0)
		for i := range 3 {
			go c.Read(make([]byte, 1))
			time.Sleep(20 * time.Millisecond)
			owes(time.Duration(i)*50*time.Millisecond + 20*time.Millisecond)
			time.Sleep(30 * time.Millisecond)
			must2(t)(theirs.Write([]byte("x")))
			time.Sleep(time.Hour)
			owes(time.Duration(i+1) * 50 * time.Millisecond)
		}
	})
}

func must2(t testing.TB) func(int, error) { return func(_ int, err error) { must(t, err) } }

// A piece that is taken begins a new grace.
func TestWriteLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		c := &conn{Conn: ours, gate: newGate(1)}
		done := make(chan int)
		go func() {
			n, _ := c.Write(make([]byte, 3*piece+1))
			done <- n
		}()
		for range 3 {
			time.Sleep(time.Minute)
			synctest.Wait()
			if l := c.write.lasts(time.Now()); l != time.Minute {
				t.Errorf("lasts %v after a minute", l)
			}
			must2(t)(io.ReadFull(theirs, make([]byte, piece)))
		}
		must(t, theirs.Close())
		if n := <-done; n != 3*piece {
			t.Errorf("%d bytes were taken", n)
		}
		if l := c.write.lasts(time.Now()); l != 0 {
			t.Errorf("lasts %v after its end", l)
		}
	})
}

// Whoever comes waits for a grace at most, or until somebody goes.
func TestAdmitWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1)
		first := g.enter(fresh).let(0)
		begin := time.Now()
		if g.admit(g.newConn()); time.Since(begin) < grace || time.Since(begin) > grace+recheck {
			t.Errorf("came in after %v", time.Since(begin))
		}
		synctest.Wait()
		if !first.Conn.(*silent).closed.Load() || g.evicted != 1 {
			t.Error("two have one place")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1)
		first, in := g.enter(fresh), make(chan bool)
		go func() { in <- g.admit(g.newConn()) }()
		time.Sleep(time.Hour) // nobody has waited for it
		select {
		case <-in:
			t.Error("came in")
		default:
		}
		must(t, first.Close())
		if !<-in {
			t.Error("was sent away")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1)
		g.enter(busy)
		in := make(chan bool)
		go func() { in <- g.admit(g.newConn()) }()
		synctest.Wait()
		g.close()
		if <-in || g.admit(g.newConn()) {
			t.Error("came in through a gate that is shut")
		}
	})
}

// Evicted connections that are not closed yet are few, whatever closing takes.
func TestClosingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(16)
		hold := make(chan struct{})
		for range g.max {
			c := &conn{Conn: slow{&silent{}, hold}, gate: g}
			g.admit(c)
			c.let(time.Hour)
		}
		var in atomic.Int64
		for range 8 {
			go func() { g.admit(g.newConn()); in.Add(1) }()
		}
		time.Sleep(time.Minute)
		if in.Load() != 3 || g.open() != g.max+3 {
			t.Errorf("%d came in, %d are open", in.Load(), g.open())
		}
		close(hold)
		time.Sleep(time.Minute)
		if in.Load() != 8 || g.open() != g.max {
			t.Errorf("%d came in, %d are open", in.Load(), g.open())
		}
	})
}

type slow struct {
	net.Conn
	hold chan struct{}
}

func (s slow) Close() error { <-s.hold; return nil }

// Whatever order the hooks are called in, no place is lost and none is given twice.
func TestPlacesAreKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newGate(rapid.IntRange(1, 9).Draw(t, "max"))
		var all []*conn
		pick := func(t *rapid.T) *conn {
			if len(all) == 0 {
				t.Skip("nobody")
			}
			return rapid.SampledFrom(all).Draw(t, "conn")
		}
		t.Repeat(map[string]func(*rapid.T){
			"admit": func(t *rapid.T) {
				if g.n >= g.max && g.victim(time.Now()) == nil {
					t.Skip("it would wait")
				}
				c := g.newConn()
				if !g.admit(c) {
					t.Fatal("refused")
				}
				all = append(all, c)
			},
			"begin": func(t *rapid.T) { g.move(pick(t), busy) },
			"end":   func(t *rapid.T) { g.move(pick(t), idle) },
			"late":  func(t *rapid.T) { pick(t).let(grace) },
			"linger": func(t *rapid.T) {
				before := g.in[leaving].Len()
				if c := pick(t); !g.linger(c) && before <= g.max/8 {
					t.Fatal("must not wait, though few do")
				}
			},
			"close": func(t *rapid.T) { must(t, pick(t).Close()) },
			"": func(t *rapid.T) {
				eventually(t, "evicted ones are closed", func() bool { g.mu.Lock(); defer g.mu.Unlock(); return g.closing == 0 })
				there, listed := 0, 0
				for _, c := range all {
					if !c.Conn.(*silent).closed.Load() {
						there++
					}
					if (c.place == gone) != c.Conn.(*silent).closed.Load() {
						t.Fatalf("place %d, closed: %v", c.place, c.Conn.(*silent).closed.Load())
					}
				}
				for p := range g.in {
					for e := g.in[p].Front(); e != nil; e = e.Next() {
						if c := e.Value.(*conn); c.place != place(p) || c.at != e {
							t.Fatalf("one of place %d is in the list of %d", c.place, p)
						}
						listed++
					}
				}
				if g.n != there || g.n != listed || g.n > g.max {
					t.Fatalf("%d places taken of %d, %d connections open, %d in lists", g.n, g.max, there, listed)
				}
			},
		})
	})
}

// count is how many connections are in each place.
func (g *gate) count() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return fmt.Sprintf("%d leaving, %d fresh, %d idle, %d busy", g.in[leaving].Len(), g.in[fresh].Len(), g.in[idle].Len(), g.in[busy].Len())
}

// is waits until the connections are in these places.
func (s *site) is(t *testing.T, want string) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("want %s, are %s", want, s.gate.count())
		}
	}()
	eventually(t, want, func() bool { return s.gate.count() == want })
}

// The places of a connection over its life, as net/http tells of them.
func TestPlacesOfRequests(t *testing.T) {
	step := make(chan struct{})
	o := options(&fake{})
	o.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { step <- struct{}{}; <-step })
	s := serve(t, o)
	c := s.dial(t)
	say := func(text string) {
		t.Helper()
		_, err := io.WriteString(c, text)
		must(t, err)
	}
	answer := func() {
		t.Helper()
		<-step
		s.is(t, "0 leaving, 0 fresh, 0 idle, 1 busy")
		step <- struct{}{}
	}
	say("GET /metrics HTTP/1.1\r\nHost:")
	s.is(t, "0 leaving, 1 fresh, 0 idle, 0 busy")
	say(" a\r\n\r\n")
	answer()
	s.is(t, "0 leaving, 0 fresh, 1 idle, 0 busy")
	say("GET /met")
	s.is(t, "0 leaving, 0 fresh, 1 idle, 0 busy")
	say("rics HTTP/1.1\r\nHost: a\r\n\r\nGET /metrics HTTP/1.1\r\nHost: a\r\n\r\n") // two in one
	answer()
	answer()
	s.is(t, "0 leaving, 0 fresh, 1 idle, 0 busy")
	must(t, c.Close())
	s.is(t, "0 leaving, 0 fresh, 0 idle, 0 busy")
}

// few is a server with so many places.
func few(t *testing.T, places int, metrics http.HandlerFunc) *site {
	o := options(&fake{})
	o.MaxConnections = places
	if metrics != nil {
		o.Metrics = metrics
	}
	return serve(t, o)
}

// Half-open connections lose their places to whoever comes; those who were answered
// keep theirs.
func TestCrowdOfHalfOpen(t *testing.T) {
	s := few(t, 4, nil)
	kept := &http.Client{Transport: &http.Transport{}}
	defer kept.CloseIdleConnections()
	scrape := func(c *http.Client) {
		t.Helper()
		a, err := c.Get(s.url + "/metrics")
		must(t, err)
		_, err = io.Copy(io.Discard, a.Body)
		must(t, err)
		must(t, a.Body.Close())
	}
	scrape(kept)
	s.is(t, "0 leaving, 0 fresh, 1 idle, 0 busy")
	var crowd []net.Conn
	for range 20 {
		crowd = append(crowd, s.dial(t))
	}
	once := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for range 3 {
		scrape(once)
	}
	var first *conn
	s.gate.mu.Lock()
	first = s.gate.in[idle].Front().Value.(*conn)
	s.gate.mu.Unlock()
	scrape(kept)
	if s.Evicted() < 17 {
		t.Errorf("%d of 20 were sent away", s.Evicted())
	}
	if first.place == gone {
		t.Error("who was answered lost its connection")
	}
	must(t, crowd[0].SetReadDeadline(time.Now().Add(time.Minute)))
	if _, err := crowd[0].Read(make([]byte, 1)); err == nil {
		t.Error("the first of the crowd is still there")
	}
}

// Who takes no answer loses his place to whoever comes.
func TestCrowdOfStuck(t *testing.T) {
	s := few(t, 4, func(w http.ResponseWriter, _ *http.Request) {
		for b := make([]byte, 1<<20); ; {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	})
	for range 4 {
		must2(t)(io.WriteString(s.dial(t), "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"))
	}
	s.is(t, "0 leaving, 0 fresh, 0 idle, 4 busy")
	if a := s.say(t, "GET /-/healthy HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); !strings.Contains(a, " 200 ") {
		t.Errorf("answer %q", a)
	}
	if n := s.Evicted(); n != 1 {
		t.Errorf("%d were sent away", n)
	}
}

// Who waits for us gets his answer, however long that takes and whoever comes.
func TestCrowdOfPatient(t *testing.T) {
	hold := make(chan struct{})
	s := few(t, 4, func(w http.ResponseWriter, _ *http.Request) { <-hold; must2(t)(io.WriteString(w, "patience")) })
	got := make(chan string, 5)
	ask := func() { got <- s.say(t, "GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") }
	for range 4 {
		go ask()
	}
	s.is(t, "0 leaving, 0 fresh, 0 idle, 4 busy")
	go ask()
	time.Sleep(3 * grace) // enough to be sent away
	close(hold)
	for range 5 {
		if a := <-got; !strings.HasSuffix(a, "patience") {
			t.Errorf("answer %q", a)
		}
	}
}

// What net/http does half a second for each that it refuses, it does for few.
func TestFewLinger(t *testing.T) {
	s := few(t, 16, nil)
	big := "GET / HTTP/1.1\r\nX: " + strings.Repeat("a", 64<<10) + "\r\n\r\n"
	if a := s.say(t, big); !strings.HasPrefix(a, "HTTP/1.1 431 ") {
		t.Errorf("answer %.40q", a)
	}
	var most atomic.Int64
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			s.say(t, big)
			s.gate.mu.Lock()
			most.Store(max(most.Load(), int64(s.gate.in[leaving].Len())))
			s.gate.mu.Unlock()
		})
	}
	all.Wait()
	if n := most.Load(); n > 3 {
		t.Errorf("%d linger at once", n)
	}
}
