package filter

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/ctsight/ctsight/internal/event"
)

// want says what the values of a field look like.
func want(f field) string {
	switch fields[f].sort {
	case sortAddr:
		return "an address or a prefix such as 10.0.0.0/8"
	case sortMark:
		return "a mark such as 0x10 or 0x10/0xff"
	case sortNetNS:
		return "the inode number or the name of a network namespace"
	}
	return fields[f].want
}

// unexpected says what was expected in place of t.
func (p *parser) unexpected(t token, expected string) error {
	return &SyntaxError{t.col, "expected " + expected + ", not " + show(t)}
}

// unknownWord is the error for a word that starts no term. It tells the
// nearest word, or the field that a value without one belongs to.
func unknownWord(t token) error {
	text := "expected a word such as src, dport, proto, reason, cause, netns, new or drop, not " + show(t)
	if s := meant(t.text); s != "" {
		text += "; did you mean " + strconv.QuoteToASCII(s) + "?"
	}
	return &SyntaxError{t.col, text}
}

func meant(word string) string {
	low := strings.ReplaceAll(strings.ToLower(word), "-", "_")
	if _, err := strconv.ParseUint(word, 10, 16); err == nil {
		return "port " + word
	}
	if _, err := netip.ParseAddr(word); err == nil {
		return "host " + word
	}
	if _, err := netip.ParsePrefix(word); err == nil {
		return "net " + word
	}
	for _, f := range []field{fieldReason, fieldCause, fieldStatus, fieldState, fieldHook} {
		if n, ok := fields[f].number(low); ok {
			return fields[f].name + " " + fields[f].numberName(n)
		}
	}
	return nearest(strings.ToLower(word), words())
}

// words lists all that may start a term, and the operators.
func words() []string {
	w := []string{"and", "or", "not"}
	for s := range short {
		w = append(w, s)
	}
	for _, f := range fields {
		w = append(append(w, f.name), f.aliases...)
	}
	slices.Sort(w)
	return w
}

// unknownName is the error for a name that its field does not have.
func unknownName(f field, v token) error {
	text := "expected " + fields[f].want + ", not " + show(v)
	low := strings.ReplaceAll(strings.ToLower(v.text), "-", "_")
	other := map[field]field{fieldReason: fieldCause, fieldCause: fieldReason}
	near := nearest(low, names(f))
	switch o, isPair := other[f]; {
	case isPair && slices.Contains(names(o), low):
		text += "; did you mean " + strconv.Quote(fields[o].name+" "+low) + "?"
	case near != "":
		text += "; did you mean " + strconv.Quote(near) + "?"
	case isPair:
		text += "; known: " + strings.Join(names(f), " ")
	}
	return &SyntaxError{v.col, text}
}

// names lists the values of a field with a closed list.
func names(f field) []string {
	var out []string
	switch f {
	case fieldReason:
		for _, r := range event.Reasons {
			out = append(out, r.Name)
		}
		return out
	case fieldCause:
		for _, c := range event.Causes {
			out = append(out, c.Name)
		}
		return out
	}
	return strings.FieldsFunc(strings.ToLower(fields[f].want), func(r rune) bool {
		return r != '_' && (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
}

// nearest returns the candidate with the fewest changes, if that is few
// enough for a slip of the keyboard: one in three letters.
func nearest(word string, candidates []string) string {
	best, bestAt := "", 1+len(word)/3
	if len(word) > 40 {
		return ""
	}
	for _, c := range candidates {
		if d := changes(word, c); d < bestAt && d < len(c) {
			best, bestAt = c, d
		}
	}
	return best
}

// changes counts the letters to insert, delete, replace or swap with their
// neighbour to make b of a.
func changes(a, b string) int {
	before, last := []int(nil), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(row[j-1]+1, last[j]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
