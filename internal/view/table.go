package view

import (
	"strings"
	"unicode/utf8"
)

// table is text in columns. Cells must be safe to show: names from outside
// come through safeName.
type table struct {
	columns []tableColumn
	rows    [][]string
	indent  string
	color   bool
}

type tableColumn struct {
	title string
	right bool
	// sgr tells the colour of a cell, "" for none; nil never has one.
	sgr func(cell string) string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// append writes titles and rows, each cell as wide as the widest of its column.
func (t *table) append(b []byte) []byte {
	widths := make([]int, len(t.columns))
	titles := make([]string, len(t.columns))
	for i, c := range t.columns {
		titles[i], widths[i] = c.title, utf8.RuneCountInString(c.title)
	}
	for _, r := range t.rows {
		for i, cell := range r {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	b = t.appendRow(b, widths, titles, func(int, string) string { return bold })
	for _, r := range t.rows {
		b = t.appendRow(b, widths, r, func(i int, cell string) string {
			if t.columns[i].sgr == nil {
				return ""
			}
			return t.columns[i].sgr(cell)
		})
	}
	return b
}

// appendRow writes one line without spaces at its end.
func (t *table) appendRow(b []byte, widths []int, cells []string, sgr func(int, string) string) []byte {
	b = append(b, t.indent...)
	for i, cell := range cells {
		gap := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
		if t.columns[i].right {
			b = append(b, gap...)
		}
		colour := sgr(i, cell)
		b = appendColour(b, t.color && colour != "" && cell != "", colour, cell)
		if i == len(cells)-1 {
			break
		}
		if !t.columns[i].right {
			b = append(b, gap...)
		}
		b = append(b, "  "...)
	}
	for len(b) > 0 && b[len(b)-1] == ' ' {
		b = b[:len(b)-1]
	}
	return append(b, '\n')
}

// heading starts a part of a report.
func heading(b []byte, color bool, text string) []byte {
	return append(appendColour(append(b, '\n'), color, bold, text), '\n')
}

// safeName is appendName as a string.
func safeName(s string) string { return string(appendName(nil, s)) }
