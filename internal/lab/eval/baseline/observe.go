// Package baseline has the scan detectors that others use, written again from their
// documentation and defaults, for comparison: Zeek's two scripts, Snort's sfPortscan,
// psad, and the threshold random walk. They read the events of conntrack, not
// packets, so each says what it makes of what is missing there.
package baseline

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/ctreplay"
)

// Kind is what was seen of a connection.
type Kind uint8

// What is seen of a connection.
const (
	Tried   Kind = iota // its first packet
	Opened              // TCP: the handshake is complete; else: it is answered
	Refused             // RST
	Reset               // TCP: answered, and given up without a handshake
	Silent              // nothing for patience
)

// patience is Zeek's tcp_attempt_delay: a connection that nobody answered is a failed
// attempt after it.
const patience = 5 * time.Second

// Seen is one thing seen.
type Seen struct {
	At   event.Ktime
	Kind Kind
	Orig event.Tuple
	Sent uint64 // packets of the client, with the last of a connection
}

// An Alarm names a source.
type Alarm struct {
	Src netip.Addr
	At  event.Ktime
}

// A Detector is a rule.
type Detector struct {
	Name string
	Run  func([]Seen) []Alarm
}

// All returns the detectors in the order of their columns.
func All() []Detector {
	return []Detector{
		{"Zeek misc/scan", zeek},
		{"Zeek simple-scan", simpleScan},
		{"sfPortscan low", func(s []Seen) []Alarm { return sfPortscan(s, low) }},
		{"sfPortscan high", func(s []Seen) []Alarm { return sfPortscan(s, high) }},
		{"psad", psad},
		{"TRW alpha .01", trw},
	}
}

// conn is a connection while its lines are read.
type conn struct {
	orig           event.Tuple
	at, replied    event.Ktime
	answered, open bool
}

// Observe turns the lines of a replay into what a sensor sees, in the order of time.
func Observe(lines []ctreplay.Line) []Seen {
	var out []Seen
	live := map[uint64]*conn{}
	for i := range lines {
		l := &lines[i]
		c := live[l.ID]
		switch {
		case l.What == 'N':
			live[l.ID] = &conn{orig: l.Event.Orig, at: l.Event.Time}
			out = append(out, Seen{At: l.Event.Time, Orig: l.Event.Orig})
		case c == nil:
		case l.What == 'R':
			c.answered, c.replied = true, l.Event.Time
			if c.orig.Proto != event.ProtoTCP {
				c.open = true
				out = append(out, Seen{l.Event.Time, Opened, c.orig, 0})
			}
		case l.What == 'A' && !c.open:
			c.open = true
			out = append(out, Seen{l.Event.Time, Opened, c.orig, 0})
		case l.What == 'D':
			delete(live, l.ID)
			if s, bad := c.end(l); bad {
				out = append(out, s)
			}
		}
	}
	for _, c := range live { // the capture ends before they do
		if !c.answered {
			out = append(out, Seen{c.at + event.Ktime(patience), Silent, c.orig, 1})
		}
	}
	slices.SortFunc(out, func(a, b Seen) int {
		return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Kind, b.Kind), a.Orig.Src.Compare(b.Orig.Src),
			a.Orig.Dst.Compare(b.Orig.Dst), cmp.Compare(a.Orig.Dport, b.Orig.Dport), cmp.Compare(a.Orig.Sport, b.Orig.Sport))
	})
	return out
}

// end is the failure that a destroy shows, if it does.
func (c *conn) end(l *ctreplay.Line) (s Seen, bad bool) {
	sent := max(1, l.Sent)
	switch {
	case c.open:
		return s, false
	case c.answered:
		return Seen{c.replied, Reset, c.orig, sent}, true
	case l.Event.Cause == event.TCPRstUnreplied:
		return Seen{l.Event.Time, Refused, c.orig, sent}, true
	}
	return Seen{c.at + event.Ktime(patience), Silent, c.orig, sent}, true
}

// endpoint is what a source may fail at.
type endpoint struct {
	addr  netip.Addr
	port  uint16
	proto uint8
}

func to(t *event.Tuple) endpoint { return endpoint{t.Dst, t.Dport, t.Proto} }

// once keeps the first alarm of each source.
func once(all []Alarm) (out []Alarm) {
	had := map[netip.Addr]bool{}
	for _, a := range all {
		if !had[a.Src] {
			had[a.Src] = true
			out = append(out, a)
		}
	}
	return out
}
