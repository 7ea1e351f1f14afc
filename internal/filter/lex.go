package filter

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// SyntaxError is a mistake in a filter, in one line.
type SyntaxError struct {
	Column int    // in characters, the first is 1
	Text   string // what was expected and what was there
}

// Error names the column.
func (e *SyntaxError) Error() string { return fmt.Sprintf("filter, column %d: %s", e.Column, e.Text) }

type tokKind uint8

const (
	tokEnd tokKind = iota
	tokWord
	tokQuoted // a value in double quotes, never an operator or a word of the language
	tokOpen
	tokClose
	tokAnd
	tokOr
	tokNot
	tokComma
	tokEqual
	tokUnequal
)

type token struct {
	kind tokKind
	text string // as written; of a quoted value what is inside
	col  int
}

// operators, longest first.
var operators = []struct {
	text string
	kind tokKind
}{
	{"&&", tokAnd}, {"||", tokOr}, {"!=", tokUnequal}, {"==", tokEqual},
	{"!", tokNot}, {"=", tokEqual}, {"(", tokOpen}, {")", tokClose}, {",", tokComma},
}

// special characters end a word.
const special = "()!&|=,\""

// lex cuts s into tokens; the last one is tokEnd.
func lex(s string) ([]token, error) {
	var toks []token
	col := 1
	for s != "" {
		r, size := utf8.DecodeRuneInString(s)
		if unicode.IsSpace(r) {
			s, col = s[size:], col+1
			continue
		}
		t, n, err := next(s, col)
		if err != nil {
			return nil, err
		}
		toks = append(toks, t)
		col += utf8.RuneCountInString(s[:n])
		s = s[n:]
	}
	return append(toks, token{kind: tokEnd, col: col}), nil
}

// next reads the token at the start of s and says how many bytes it has.
func next(s string, col int) (token, int, error) {
	for _, o := range operators {
		if strings.HasPrefix(s, o.text) {
			return token{o.kind, o.text, col}, len(o.text), nil
		}
	}
	switch s[0] {
	case '"':
		return quoted(s, col)
	case '&', '|':
		return token{}, 0, &SyntaxError{col, fmt.Sprintf("expected %q, not a single %q", s[:1]+s[:1], s[:1])}
	}
	n := strings.IndexFunc(s, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(special, r) })
	if n < 0 {
		n = len(s)
	}
	return token{wordKind(s[:n]), s[:n], col}, n, nil
}

func wordKind(w string) tokKind {
	switch strings.ToLower(w) {
	case "and":
		return tokAnd
	case "or":
		return tokOr
	case "not":
		return tokNot
	}
	return tokWord
}

// quoted reads a Go string in double quotes.
func quoted(s string, col int) (token, int, error) {
	q, err := strconv.QuotedPrefix(s)
	if err != nil {
		return token{}, 0, &SyntaxError{col, `expected a value in double quotes, and its closing "`}
	}
	text, err := strconv.Unquote(q)
	if err != nil {
		return token{}, 0, &SyntaxError{col, "expected a value in double quotes"}
	}
	return token{tokQuoted, text, col}, len(q), nil
}

// show quotes what the user wrote for an error message: printable, and short.
func show(t token) string {
	if t.kind == tokEnd {
		return "the end"
	}
	text := t.text
	if r := []rune(text); len(r) > 40 {
		text = string(r[:40]) + "..."
	}
	return strconv.QuoteToASCII(text)
}
