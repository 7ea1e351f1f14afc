package view

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Names of processes, interfaces, namespaces and containers are chosen by
// whoever runs them, which may be the attacker. Nothing of theirs may reach a
// terminal as a control sequence, turn the direction of the text, or look like
// another field of the line.

// maxName is the most bytes of a name that a line of text shows.
const maxName = 64

// safe says whether a rune may be shown as it is: letters, digits, punctuation
// and the plain space, but no controls, no format characters (bidi, zero
// width) and no line separators.
func safe(r rune) bool { return strconv.IsPrint(r) }

// appendName writes a name from outside into a line of text: as it is if it is
// one plain word, else in double quotes with escapes as in Go.
func appendName(b []byte, s string) []byte {
	cut := len(s) > maxName
	if cut {
		s = s[:maxName]
	}
	if !cut && plain(s) {
		return append(b, s...)
	}
	b = appendEscaped(append(b, '"'), s, `"`)
	if cut {
		b = append(b, "..."...)
	}
	return append(b, '"')
}

// safeText makes a sentence from outside, such as the kernel's answer, safe to
// show. It stays readable: no quotes, and only what is not safe is escaped.
func safeText(s string) string { return string(appendEscaped(nil, s, "")) }

// appendEscaped writes what is not safe as Go does, and the ASCII characters
// of quote and the backslash behind a backslash.
func appendEscaped(b []byte, s, quote string) []byte {
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			b = appendHex(append(b, `\x`...), uint32(s[0]), 2)
		case r == '\\' || n == 1 && strings.IndexByte(quote, s[0]) >= 0:
			b = append(b, '\\', s[0])
		case safe(r):
			b = append(b, s[:n]...)
		case r < 0x80:
			b = appendHex(append(b, `\x`...), uint32(r), 2)
		case r < 0x10000:
			b = appendHex(append(b, `\u`...), uint32(r), 4)
		default:
			b = appendHex(append(b, `\U`...), uint32(r), 8)
		}
		s = s[n:]
	}
	return b
}

// plain says whether s cannot be taken for anything but one word.
func plain(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '-', c == '_', c == '.', c == '/', c == ':', c == '@', c == '+':
		default:
			return false
		}
	}
	return s != ""
}

// appendJSONString writes s as a JSON string. More is escaped than JSON asks
// for: all that is not safe to show, so that a line can go to a terminal. A
// byte that is not UTF-8 becomes U+FFFD.
func appendJSONString(b []byte, s string) []byte {
	b = append(b, '"')
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r == utf8.RuneError && n == 1:
			b = append(b, `\ufffd`...)
		case safe(r):
			b = append(b, s[:n]...)
		case r < 0x10000:
			b = appendHex(append(b, `\u`...), uint32(r), 4)
		default: // a surrogate pair
			r -= 0x10000
			b = appendHex(append(b, `\u`...), 0xd800+uint32(r>>10), 4)
			b = appendHex(append(b, `\u`...), 0xdc00+uint32(r&0x3ff), 4)
		}
		s = s[n:]
	}
	return append(b, '"')
}

func appendHex(b []byte, n uint32, digits int) []byte {
	for i := digits - 1; i >= 0; i-- {
		b = append(b, "0123456789abcdef"[n>>(4*i)&15])
	}
	return b
}

// outside is a string from outside in a document that encoding/json writes,
// which would leave bidi and C1 controls as they are.
type outside string

// MarshalJSON escapes as appendJSONString does.
func (s outside) MarshalJSON() ([]byte, error) { return appendJSONString(nil, string(s)), nil }

// OneLine keeps an error on one line: joined errors and verifier logs have more.
func OneLine(err error) string {
	var parts []string
	for _, l := range strings.Split(err.Error(), "\n") {
		if l = strings.TrimSpace(l); l != "" {
			parts = append(parts, l)
		}
	}
	return strings.Join(parts, "; ")
}
