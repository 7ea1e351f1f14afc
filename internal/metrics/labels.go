package metrics

import (
	"strconv"
	"unicode/utf8"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// maxLabel is the most bytes of a name from outside that go into a label, before
// escapes. A name in /run/netns may have 255.
const maxLabel = 128

// label makes a name from outside fit to be a label: valid UTF-8 and nothing
// that does something to a terminal, escaped as in Go. Plain names stay as they are.
func label(s string) string {
	s = s[:min(len(s), maxLabel)] // a rune cut in two is escaped like any stray byte
	var b []byte
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			b = append(b, '\\', 'x', hex[s[0]>>4], hex[s[0]&15])
		case r == '\\':
			b = append(b, `\\`...)
		case strconv.IsPrint(r):
			b = append(b, s[:n]...)
		default:
			q := strconv.AppendQuoteRuneToASCII(nil, r)
			b = append(b, q[1:len(q)-1]...)
		}
		s = s[n:]
	}
	return string(b)
}

const hex = "0123456789abcdef"

// netnsLabels gives each network namespace of a status a label of its own: its
// name where it has one, else its inode number. Two may have the same name (two
// containers, say), and one could be named like another's number: a series told
// twice makes the whole scrape fail, so these are told apart by their numbers.
func (x *Exporter) netnsLabels(s *agg.Status) map[event.NetNS]string {
	names := map[event.NetNS]string{}
	for i := range s.Tables {
		names[s.Tables[i].NetNS] = s.Tables[i].Name
	}
	for i := range s.Prefixes {
		if ns := s.Prefixes[i].NetNS; names[ns] == "" {
			names[ns] = ""
		}
	}
	for ns, name := range names {
		if name == "" && x.opts.NetNS != nil {
			name = x.opts.NetNS(ns)
		}
		names[ns] = label(name)
	}
	tellApart(names, func(ns event.NetNS, name string) string { return name + "/" + ns.String() })
	tellApart(names, func(ns event.NetNS, _ string) string { return ns.String() })
	return names
}

// tellApart renames those that share their label, or whose label is a number.
func tellApart(names map[event.NetNS]string, rename func(event.NetNS, string) string) {
	uses := map[string]int{}
	for _, name := range names {
		uses[name]++
	}
	for ns, name := range names {
		switch {
		case name == "":
			names[ns] = ns.String()
		case name == ns.String(): // it has the right to it
		case uses[name] > 1, isNumber(name):
			names[ns] = rename(ns, name)
		}
	}
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 64)
	return err == nil
}

// protoLabel is the name of a protocol, or other: numbers are what the sender
// chose, up to 256 of them.
func protoLabel(p uint8) string {
	name := event.ProtoName(p)
	if isNumber(name) {
		return "other"
	}
	return name
}

// protoGroup is a protocol among the few that are told apart where there is another
// label beside: both kinds of ICMP are one.
func protoGroup(p uint8) string {
	switch p {
	case event.ProtoTCP:
		return "tcp"
	case event.ProtoUDP:
		return "udp"
	case event.ProtoICMP, event.ProtoICMPv6:
		return "icmp"
	}
	return "other"
}

var protoGroups = []string{"tcp", "udp", "icmp", "other"}

// reasonLabel is the name of a reason; a number of a newer probe stays a number
// as long as there can be but a few of them.
func reasonLabel(r event.Reason) string {
	if r >= event.NumReasons {
		return "other"
	}
	return r.String()
}

func causeLabel(c event.Cause) string {
	if c >= event.NumCauses {
		return "other"
	}
	return c.String()
}
