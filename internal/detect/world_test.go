package detect

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// world is a gateway whose traffic a test makes up: what is to happen at which time,
// with the looks and ticks between.
type world struct {
	t      *testing.T
	d      *Engine
	plan   []deed
	now    event.Ktime
	live   map[uint64]Seen // by Ptr
	ptr    uint64
	state  State
	told   []agg.Finding
	log    []event.Event // what was made
	random *rand.Rand
}

type deed struct {
	at event.Ktime
	do func()
}

// fate is what becomes of a connection.
type fate uint8

const (
	closed   fate = iota // answered, closed after a while by FIN
	refusing             // RST
	silent
	halfway  // SYN-ACK, then RST by the client
	unclosed // answered, never closed
)

func newWorld(t *testing.T, c Config) *world {
	t.Helper()
	w := &world{t: t, live: map[uint64]Seen{}, random: rand.New(rand.NewPCG(1, 2))}
	c.Tell = func(f *agg.Finding) { w.told = append(w.told, *f) }
	c.Clock = event.Clock{Wall: time.Unix(1700000000, 0).UTC()}
	w.d = New(c, 0)
	return w
}

func (w *world) at(at time.Duration, do func()) { w.plan = append(w.plan, deed{event.Ktime(at), do}) }

// connect plans a connection that is open for a time when it is answered.
func (w *world) connect(at time.Duration, src, dst string, port uint16, proto uint8, f fate, open time.Duration) {
	w.ptr++
	e := event.Event{NetNS: 1, Ptr: 1<<63 | w.ptr, Orig: event.Tuple{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst),
		Sport: uint16(1024 + w.ptr%60000), Dport: port, Proto: proto}}
	w.at(at, func() {
		n := e
		n.Kind, n.Time = event.New, w.now
		w.log = append(w.log, n)
		w.live[e.Ptr] = Seen{Known: true, Live: true, TCPState: event.TCPSynSent}
		w.d.Add(&n)
	})
	see := func(after time.Duration, st event.Status, s event.TCPState) {
		w.at(at+after, func() { w.live[e.Ptr] = Seen{Known: true, Live: true, Status: st, TCPState: s} })
	}
	end := func(after time.Duration, cause event.Cause, st event.Status, s event.TCPState) {
		w.at(at+after, func() {
			x := e
			x.Kind, x.Time, x.Cause, x.Status, x.TCPState = event.Destroy, w.now, cause, st, s
			x.Lifetime, x.HasLifetime = after, true
			delete(w.live, e.Ptr)
			w.d.Add(&x)
		})
	}
	const rtt = 20 * time.Millisecond
	switch {
	case f == refusing:
		end(time.Millisecond, event.TCPRstUnreplied, 0, event.TCPClose)
	case f == silent:
		end(timeoutOf(proto), event.TimeoutGC, 0, event.TCPSynSent)
	case f == halfway:
		see(rtt, event.SeenReply, event.TCPClose)
		end(10*time.Second, event.TimeoutGC, event.SeenReply, event.TCPClose)
	case proto != event.ProtoTCP:
		see(rtt, event.SeenReply, event.TCPNone)
		end(30*time.Second+open, event.TimeoutGC, event.SeenReply, event.TCPNone)
	default:
		see(2*rtt, event.SeenReply|event.Assured, event.TCPEstablished)
		if f != unclosed {
			end(open+120*time.Second, event.TimeoutGC, event.SeenReply|event.Assured, event.TCPTimeWait)
		}
	}
}

func timeoutOf(proto uint8) time.Duration {
	if proto == event.ProtoTCP {
		return 120 * time.Second
	}
	return 30 * time.Second
}

// drop plans a packet that is lost.
func (w *world) drop(at time.Duration, src, dst string, port uint16, r event.Reason) {
	e := event.Event{Kind: event.Drop, Reason: r, NetNS: 1, Orig: event.Tuple{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst),
		Sport: 4000, Dport: port, Proto: event.ProtoTCP}}
	w.at(at, func() { x := e; x.Time = w.now; w.d.Add(&x) })
}

// run lets time go on until the plan is through and a while longer.
func (w *world) run(until time.Duration) {
	w.t.Helper()
	const step = event.Ktime(100 * time.Millisecond)
	slices.SortStableFunc(w.plan, func(a, b deed) int { return int(min(1, max(-1, a.at-b.at))) })
	for w.now < event.Ktime(until) {
		next := (w.now/step + 1) * step
		n := 0
		for n < len(w.plan) && w.plan[n].at < next {
			w.now = max(w.now, w.plan[n].at)
			w.plan[n].do()
			n++
		}
		w.plan = w.plan[n:]
		w.now = next
		buf := make([]Look, 0, 64)
		for buf = w.d.Due(w.now, buf); len(buf) > 0; buf = w.d.Due(w.now, buf) {
			for i := range buf {
				s, ok := w.live[buf[i].Ptr]
				if !ok {
					s = Seen{Known: true}
				}
				w.d.Seen(&buf[i], w.now, s)
			}
		}
		if w.now%event.Ktime(time.Second) == 0 {
			w.d.Tick(w.now, w.state)
		}
	}
}

// of returns what was told of a class.
func (w *world) of(class string) (out []agg.Finding) {
	for _, f := range w.told {
		if f.Class == class {
			out = append(out, f)
		}
	}
	return out
}

// only fails when something was told of another class than these.
func (w *world) only(classes ...string) {
	w.t.Helper()
	for _, f := range w.told {
		if !slices.Contains(classes, f.Class) {
			w.t.Errorf("%s %s %s %s: %s", f.Time.Sub(time.Unix(1700000000, 0)), f.Class, f.State, f.Severity, f.Why)
		}
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func figure(f *agg.Finding, name string) float64 {
	for _, x := range f.Evidence.Figures {
		if x.Name == name {
			return x.Value
		}
	}
	return -1
}
