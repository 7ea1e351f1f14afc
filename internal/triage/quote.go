package triage

import "fmt"

// EnterName is what runs a command in a namespace that ip-netns(8) knows by name.
func EnterName(name string) string { return "ip netns exec " + Quote(name) + " " }

// EnterPath is what runs a command in the namespace that a path leads to, such as
// /proc/123/ns/net.
func EnterPath(path string) string { return "nsenter --net=" + Quote(path) + " " }

// Quote writes a name from outside as one word of a shell, in printable ASCII.
// What cannot be printed is written as bash, zsh and POSIX.1-2024 do ($'\033').
func Quote(s string) string {
	plain, quote, dollar := s != "", []byte{'\''}, []byte("$'")
	ascii := true
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9',
			c == '-', c == '_', c == '.', c == '/', c == ':', c == '@', c == '+', c == ',':
			quote, dollar = append(quote, c), append(dollar, c)
			continue
		case c == '\'':
			quote, dollar = append(quote, `'\''`...), append(dollar, `\'`...)
		case c == '\\':
			quote, dollar = append(quote, c), append(dollar, `\\`...)
		case c >= ' ' && c <= '~':
			quote, dollar = append(quote, c), append(dollar, c)
		default: // three octal digits: a digit that follows is not taken as one
			ascii = false
			dollar = fmt.Appendf(dollar, `\%03o`, c)
		}
		plain = false
	}
	switch {
	case plain:
		return s
	case ascii:
		return string(append(quote, '\''))
	}
	return string(append(dollar, '\''))
}
