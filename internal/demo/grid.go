package demo

import (
	"strings"
	"unicode/utf8"
)

// grid is a small table of text, two columns of space between its columns.
type grid struct {
	title   string
	columns []column
	rows    [][]string
}

type column struct {
	title string
	right bool
}

func (g *grid) add(cells ...string) { g.rows = append(g.rows, cells) }

// grid writes a table, titles in bold.
func (t *teller) grid(g *grid) {
	if g.title != "" {
		_ = t.say("  %s:\n", g.title)
	}
	titles := make([]string, len(g.columns))
	widths := make([]int, len(g.columns))
	for i, c := range g.columns {
		titles[i], widths[i] = c.title, utf8.RuneCountInString(c.title)
		for _, r := range g.rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(r[i]))
		}
	}
	_ = t.say("%s\n", t.sgr("1", g.row(titles, widths)))
	for _, r := range g.rows {
		_ = t.say("%s\n", g.row(r, widths))
	}
}

// gridOr writes a table, or a sentence when it has no rows.
func (t *teller) gridOr(g *grid, none string) {
	if len(g.rows) == 0 {
		_ = t.say("  %s: %s.\n", g.title, none)
		return
	}
	t.grid(g)
}

func (g *grid) row(cells []string, widths []int) string {
	b := "   "
	for i, c := range cells {
		gap := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
		if g.columns[i].right {
			c = gap + c
		} else {
			c += gap
		}
		b += " " + c + " "
	}
	return strings.TrimRight(b, " ")
}
