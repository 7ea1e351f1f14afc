package config

import (
	"fmt"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// Error is what is wrong with a file, and where. Lines and columns count from 1,
// columns in characters.
type Error struct {
	File         string
	Line, Column int
	Text         string
	More         int // mistakes after this one
}

// Error is one line, as compilers write it.
func (e *Error) Error() string {
	s := fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Text)
	if e.More > 0 {
		s += fmt.Sprintf(" (and %d more)", e.More)
	}
	return s
}

func (d *decoder) errorf(line, col int, format string, args ...any) *Error {
	return &Error{File: d.file, Line: line, Column: col, Text: fmt.Sprintf(format, args...)}
}

func (d *decoder) errorAt(n *yaml.Node, format string, args ...any) *Error {
	return d.errorf(n.Line, n.Column, format, args...)
}

// wrong notes a mistake and goes on, so that their number can be told.
func (d *decoder) wrong(n *yaml.Node, format string, args ...any) {
	if d.first == nil {
		d.first = d.errorAt(n, format, args...)
		return
	}
	d.first.More++
}

func (d *decoder) mistakes() int {
	if d.first == nil {
		return 0
	}
	return 1 + d.first.More
}

// show quotes what a file says: short, and nothing in it reaches a terminal.
func show(s string) string {
	if r := []rune(s); len(r) > 40 {
		s = string(r[:37]) + "..."
	}
	return strconv.QuoteToASCII(s)
}
