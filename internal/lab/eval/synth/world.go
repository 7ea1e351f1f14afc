// Package synth makes captures whose truth is known because it made them: scans of
// every shape and pace, and what benign programs do that looks like one. They stand in
// for captures that nobody has tuned to. The same seed gives the same lines.
package synth

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/ctreplay"
	"github.com/ctsight/ctsight/internal/lab/eval/capture"
)

// outcome is what a target does.
type outcome uint8

const (
	good     outcome = iota // answers, and the connection ends soon after
	refused                 // RST, or ICMP where there is no RST
	filtered                // nothing
	half                    // answers, and the client takes it back at once
	accepted                // answers, and the client says no more
)

// Timeouts of nf_conntrack.
const (
	synSent  = 120 * time.Second
	synRecv  = 60 * time.Second
	timeWait = 120 * time.Second
	closed   = 10 * time.Second
	udpOnce  = 30 * time.Second
)

// world is where things happen.
type world struct {
	*rand.Rand
	lines   []ctreplay.Line
	id      uint64
	sources map[netip.Prefix]*capture.Source
	failed  map[attempt]bool
	order   []netip.Prefix
	rtt     time.Duration
	sport   uint16
}

type attempt struct {
	net   netip.Prefix
	dst   netip.Addr
	port  uint16
	proto uint8
}

func newWorld(seed uint64) *world {
	return &world{Rand: rand.New(rand.NewPCG(seed, 5)), sources: map[netip.Prefix]*capture.Source{},
		failed: map[attempt]bool{}, rtt: 20 * time.Millisecond, sport: 32768}
}

// who says what a source is.
func (w *world) who(a netip.Addr, class string, r capture.Role) netip.Addr {
	w.net(netip.PrefixFrom(a, a.BitLen()), class, r)
	return a
}

// since marks where the scan of a source that does other things begins.
func (w *world) since(a netip.Addr, at time.Duration) {
	w.sources[w.netOf(a)].Since = event.Ktime(at)
}

func (w *world) net(p netip.Prefix, class string, r capture.Role) {
	if w.sources[p] == nil {
		w.sources[p] = &capture.Source{Net: p, Class: class, Role: r}
		w.order = append(w.order, p)
	}
}

func (w *world) netOf(a netip.Addr) netip.Prefix {
	for _, bits := range []int{a.BitLen(), 64} {
		if p, err := a.Prefix(bits); err == nil && w.sources[p] != nil {
			return p
		}
	}
	return netip.PrefixFrom(a, a.BitLen())
}

// to is an endpoint.
type to struct {
	addr  netip.Addr
	port  uint16
	proto uint8
}

func tcp(a netip.Addr, port uint16) to { return to{a, port, event.ProtoTCP} }
func udp(a netip.Addr, port uint16) to { return to{a, port, event.ProtoUDP} }

// contact opens a connection.
func (w *world) contact(at time.Duration, src netip.Addr, e to, o outcome) {
	w.id++
	w.sport = max(32768, w.sport+1)
	t := event.Tuple{Src: src, Dst: e.addr, Sport: w.sport, Dport: e.port, Proto: e.proto}
	begin := event.Ktime(at)
	w.line('N', begin, t, nil)
	rtt := event.Ktime(w.rtt)
	end := func(after time.Duration, cause event.Cause, s event.Status) {
		w.line('D', begin+event.Ktime(after), t, func(e *event.Event) {
			e.Cause, e.Status, e.Lifetime, e.HasLifetime = cause, s, after, true
		})
	}
	if n := w.netOf(src); o != good {
		if a := (attempt{n, e.addr, e.port, e.proto}); w.sources[n] != nil && !w.failed[a] {
			w.failed[a] = true
			w.sources[n].Failing++
		}
	}
	isTCP := e.proto == event.ProtoTCP
	switch {
	case o == good && isTCP:
		w.line('R', begin+rtt, t, nil)
		w.line('A', begin+rtt+rtt/10, t, nil)
		end(4*w.rtt+timeWait, event.TimeoutGC, event.SeenReply|event.Assured)
	case o == good:
		w.line('R', begin+rtt, t, nil)
		end(udpOnce, event.TimeoutGC, event.SeenReply)
	case o == refused && isTCP:
		end(w.rtt, event.TCPRstUnreplied, 0)
	case o == half:
		w.line('R', begin+rtt, t, nil)
		end(w.rtt+closed, event.TimeoutGC, event.SeenReply)
	case o == accepted:
		w.line('R', begin+rtt, t, nil)
		end(synRecv, event.TimeoutGC, event.SeenReply)
	case isTCP:
		end(synSent, event.TimeoutGC, 0)
	default:
		end(udpOnce, event.TimeoutGC, 0)
	}
}

func (w *world) line(what byte, at event.Ktime, t event.Tuple, more func(*event.Event)) {
	l := ctreplay.Line{What: what, ID: w.id, Event: event.Event{Time: at, NetNS: 1, Ptr: 1<<63 | w.id, Orig: t}, Sent: 1}
	switch what {
	case 'N':
		l.Event.Kind = event.New
	case 'D':
		l.Event.Kind = event.Destroy
	}
	if more != nil {
		more(&l.Event)
	}
	w.lines = append(w.lines, l)
}

// capture ends it.
func (w *world) capture(name string) capture.Capture {
	slices.SortStableFunc(w.lines, func(a, b ctreplay.Line) int { return cmp.Compare(a.Event.Time, b.Event.Time) })
	c := capture.Capture{Name: name, Start: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Lines: w.lines}
	for _, p := range w.order {
		c.Sources = append(c.Sources, *w.sources[p])
	}
	return c
}

// addr is the nth address of a network.
func addr(network string, n int) netip.Addr {
	p := netip.MustParsePrefix(network)
	b := p.Addr().AsSlice()
	for i := len(b) - 1; n > 0; i-- {
		n += int(b[i])
		b[i] = byte(n)
		n >>= 8
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// some is one of n with a preference for the first: a few servers get most of it.
func (w *world) some(n int) int { return min(int(float64(n)*w.Float64()*w.Float64()*w.Float64()), n-1) }

// chance is true with a probability.
func (w *world) chance(p float64) bool { return w.Float64() < p }

// soon is a time that is exponential around a mean.
func (w *world) soon(mean time.Duration) time.Duration {
	return time.Duration(w.ExpFloat64() * float64(mean))
}

// anywhere is an address on the Internet.
func (w *world) anywhere() netip.Addr {
	first := 11 + w.IntN(89) // neither private nor shared
	return netip.AddrFrom4([4]byte{byte(first), byte(w.IntN(256)), byte(w.IntN(256)), byte(w.IntN(256))})
}
