// Package view renders what ctsight knows for people and for programs: events
// as they come, the drop ledger, the picture of who fills the table, the
// doctor's report and the help on reasons, each from one description as text
// and as JSON. The JSON fields are the contract with scripts. It formats values
// and writes to an io.Writer; it asks neither the kernel nor the clock.
package view

import (
	"cmp"
	"strconv"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// Names gives names to numbers that only mean something on the host they are
// from. Each function returns "" for what it does not know; nil knows nothing.
// What they return comes from outside and is escaped here.
type Names struct {
	NetNS       func(event.NetNS) string
	Generated   func(name string) bool // made up by a container runtime: any other name is better
	Interface   func(ns event.NetNS, index uint32) string
	Cgroup      func(id uint64) string
	KfreeReason func(n uint32) string
	Symbol      func(addr uint64) string // kernel text address to symbol+offset
}

func (n *Names) netns(ns event.NetNS) string {
	if n.NetNS == nil {
		return ""
	}
	return n.NetNS(ns)
}

// table prefers the name that came with the numbers of a table: theirs may be of
// another namespace by now.
func (n *Names) table(ns event.NetNS, name string) string {
	if name != "" && (n.Generated == nil || !n.Generated(name)) {
		return name
	}
	return cmp.Or(n.netns(ns), name)
}

func (n *Names) cgroup(id uint64) string {
	if n.Cgroup == nil {
		return ""
	}
	return n.Cgroup(id)
}

func (n *Names) symbol(addr uint64) string {
	if addr == 0 || n.Symbol == nil {
		return ""
	}
	return n.Symbol(addr)
}

// Colours (SGR parameters), used only where an option asks for them.
const (
	red     = "31"
	green   = "32"
	yellow  = "33"
	magenta = "35"
	cyan    = "36"
	bold    = "1"
	reverse = "7"
)

func appendColour(b []byte, on bool, sgr, s string) []byte {
	if !on {
		return append(b, s...)
	}
	b = append(append(append(b, "\x1b["...), sgr...), 'm')
	return append(append(b, s...), "\x1b[0m"...)
}

// appendAddrPort writes 10.0.0.1:53 or [2001:db8::1]:53.
func appendAddrPort(b []byte, t *event.Tuple, src bool) []byte {
	a, port := t.Dst, t.Dport
	if src {
		a, port = t.Src, t.Sport
	}
	if !a.IsValid() {
		b = append(b, '?')
	} else if a.Is4() || t.IsICMP() {
		b = a.AppendTo(b)
	} else {
		b = append(a.AppendTo(append(b, '[')), ']')
	}
	if t.IsICMP() {
		return b
	}
	return strconv.AppendUint(append(b, ':'), uint64(port), 10)
}

// appendTuple writes one direction of a flow as tcpdump does.
func appendTuple(b []byte, t *event.Tuple) []byte {
	if t.IsZero() {
		return append(b, '?')
	}
	b = appendAddrPort(b, t, true)
	b = appendAddrPort(append(b, " > "...), t, false)
	if !t.IsICMP() {
		return b
	}
	typ, code, id := t.ICMP()
	b = strconv.AppendUint(append(b, " type "...), uint64(typ), 10)
	b = strconv.AppendUint(append(b, " code "...), uint64(code), 10)
	return strconv.AppendUint(append(b, " id "...), uint64(id), 10)
}

// appendDuration writes a time with three to five digits, which is as much as
// a reader takes in; JSON has the nanoseconds.
func appendDuration(b []byte, d time.Duration) []byte {
	if d < 0 {
		b, d = append(b, '-'), -d
	}
	two := func(b []byte, n int64, unit byte) []byte {
		return append(append(b, byte('0'+n/10), byte('0'+n%10)), unit)
	}
	switch {
	case d < time.Millisecond:
		return append(strconv.AppendInt(b, d.Microseconds(), 10), "us"...)
	case d < time.Second:
		return append(strconv.AppendInt(b, d.Milliseconds(), 10), "ms"...)
	case d < time.Minute:
		ms := d.Milliseconds()
		b = append(strconv.AppendInt(b, ms/1000, 10), '.')
		return append(b, byte('0'+ms/100%10), byte('0'+ms/10%10), byte('0'+ms%10), 's')
	case d < time.Hour:
		s := int64(d / time.Second)
		return two(append(strconv.AppendInt(b, s/60, 10), 'm'), s%60, 's')
	case d < 24*time.Hour:
		m := int64(d / time.Minute)
		return two(append(strconv.AppendInt(b, m/60, 10), 'h'), m%60, 'm')
	}
	h := int64(d / time.Hour)
	return two(append(strconv.AppendInt(b, h/24, 10), 'd'), h%24, 'h')
}

// appendTime writes RFC 3339 in UTC, always with nine digits, so that lines
// sort as text.
func appendTime(b []byte, t time.Time) []byte {
	return t.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000000Z")
}
