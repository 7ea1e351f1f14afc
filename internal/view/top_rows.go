package view

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// topColumn is a column of the ranked rows.
type topColumn struct {
	title string
	sort  agg.Column // NumColumns: not to sort by
	prio  int        // where there is no room the highest goes first
	sums  sums
	alarm string // colour of what is not 0
	width int    // 0: that of the title, or of a number
	cell  func(*agg.TopRow) string
}

// sums says which of the lines below the rows have a value.
type sums uint8

const (
	sumsNone sums = iota
	sumsTotal
	sumsOther // and total
)

// topColumns are all columns, in their order on the screen.
func topColumns(names *Names) []topColumn {
	n := func(f func(*agg.TopRow) uint64) func(*agg.TopRow) string {
		return func(r *agg.TopRow) string { return count(f(r)) }
	}
	return []topColumn{
		{"new", agg.ColNew, 1, sumsOther, "", 0, n(func(r *agg.TopRow) uint64 { return r.New })},
		{"new/s", agg.ColNewRate, 2, sumsTotal, "", 0, func(r *agg.TopRow) string { return rate(r.S1) }},
		{"10s", agg.NumColumns, 16, sumsTotal, "", 0, func(r *agg.TopRow) string { return rate(r.S10) }},
		{"1m", agg.NumColumns, 17, sumsTotal, "", 0, func(r *agg.TopRow) string { return rate(r.M1) }},
		{"peak/s", agg.ColPeak, 10, sumsTotal, "", 0, func(r *agg.TopRow) string { return rate(r.Peak10ms) }},
		{"live", agg.ColLive, 3, sumsOther, "", 0, n(func(r *agg.TopRow) uint64 { return r.Live })},
		{"destroyed", agg.ColDestroyed, 14, sumsOther, "", 0, n(func(r *agg.TopRow) uint64 { return r.Destroyed })},
		{"drops", agg.ColDrops, 4, sumsOther, red, 0, n(func(r *agg.TopRow) uint64 { return r.Drops })},
		{"evicted", agg.ColEvicted, 5, sumsOther, yellow, 0, n(func(r *agg.TopRow) uint64 { return r.Evicted })},
		{"evictor", agg.ColEvictor, 15, sumsOther, yellow, 0, n(func(r *agg.TopRow) uint64 { return r.Evictor })},
		{"dsts", agg.ColDsts, 7, sumsNone, "", 0, n(func(r *agg.TopRow) uint64 { return r.DistinctDsts })},
		{"ports", agg.ColDports, 8, sumsNone, "", 0, n(func(r *agg.TopRow) uint64 { return r.DistinctDports })},
		{"answered", agg.ColAnswered, 12, sumsOther, "", 0, n(func(r *agg.TopRow) uint64 { return r.Answered })},
		{"refused", agg.ColRefused, 13, sumsOther, "", 0, n(func(r *agg.TopRow) uint64 { return r.Refused })},
		{"unanswered", agg.ColUnanswered, 11, sumsOther, "", 0, n(func(r *agg.TopRow) uint64 { return r.Unanswered })},
		{"netns", agg.NumColumns, 9, sumsNone, "", 10, func(r *agg.TopRow) string { return nsText(names, r.NetNS) }},
		{"why", agg.NumColumns, 18, sumsNone, "", 24, func(r *agg.TopRow) string { return whyText(r.Why) }},
	}
}

// rowTable is the ranked rows as lines. Numbers have fixed widths, so that
// columns stand still from one picture to the next.
type rowTable struct {
	s       *screen
	top     *agg.Top
	columns []topColumn
	labels  [2]int // widths of the first column: of an edge source and destination
	first   int    // rows on the screen
	shown   int
}

const minLabel = len("other, 262144 rows")

const gutter = 2 // for the cursor

// newRowTable chooses the columns. The label may take a third of the width, and
// what the columns leave.
func newRowTable(s *screen, top *agg.Top) *rowTable {
	t := &rowTable{s: s, top: top}
	for i := range top.Rows {
		a, b := t.label(&top.Rows[i].Key)
		t.labels[0], t.labels[1] = max(t.labels[0], cells(a)), max(t.labels[1], cells(b))
	}
	want := max(minLabel, t.width())
	room := 1 << 20
	if s.o.Width > 0 {
		room = s.o.Width - gutter
	}
	room -= t.choose(room - min(want, max(minLabel, room/3)))
	t.share(min(want, max(1, room)))
	return t
}

// choose takes the columns that fit into a width and returns what they need.
func (t *rowTable) choose(width int) int {
	all := slices.DeleteFunc(topColumns(&t.s.o.Names), t.pointless)
	for i := range all {
		c := &all[i]
		c.width = max(5, cells(c.title), c.width)
		if c.sort == t.s.o.Sort {
			c.prio = 0
		}
	}
	used, shown := 0, map[string]bool{}
	for _, c := range slices.SortedFunc(slices.Values(all), func(a, b topColumn) int { return cmp.Compare(a.prio, b.prio) }) {
		if used+c.width+2 > width {
			break
		}
		used += c.width + 2
		shown[c.title] = true
	}
	t.columns = slices.DeleteFunc(all, func(c topColumn) bool { return !shown[c.title] })
	return used
}

// pointless says whether a column would tell nothing.
func (t *rowTable) pointless(c topColumn) bool {
	switch {
	case c.title == "netns":
		differs := func(r agg.TopRow) bool { return r.NetNS != t.top.Rows[0].NetNS }
		return t.top.By == agg.ByNetNS || !slices.ContainsFunc(t.top.Rows, differs)
	case c.sort == agg.ColDsts: // of an edge 1, of an endpoint its sources
		return t.top.By == agg.ByEdge
	case c.sort == agg.ColDports:
		return t.top.By == agg.ByEdge || t.top.By == agg.ByDst
	}
	return false
}

// share divides a width among the labels.
func (t *rowTable) share(width int) {
	if t.labels[1] == 0 {
		t.labels[0] = width
		return
	}
	t.labels[0] = min(t.labels[0], max(1, (width-3)/2, width-3-t.labels[1]))
	t.labels[1] = max(1, width-3-t.labels[0])
}

// label is what a row is about; of an edge the second is the destination.
func (t *rowTable) label(k *agg.Key) (string, string) {
	zone := ""
	if k.Zone != 0 {
		zone = fmt.Sprintf(" zone %d", k.Zone)
	}
	switch t.top.By {
	case agg.ByNetNS:
		return nsText(&t.s.o.Names, k.NetNS), ""
	case agg.ByPrefix:
		return prefixText(k) + zone, ""
	case agg.ByDst:
		return endpointText(k) + zone, ""
	case agg.ByEdge:
		if d := t.s.o.Detail; d != nil && d.By == agg.BySrc { // the same in all rows
			return endpointText(k), ""
		} else if d != nil && d.By == agg.ByDst {
			return addrText(k.Src) + zone, ""
		}
		return addrText(k.Src) + zone, endpointText(k)
	}
	return addrText(k.Src) + zone, ""
}

func nsText(names *Names, ns event.NetNS) string {
	if name := names.netns(ns); name != "" {
		return nameInCells(name)
	}
	return ns.String()
}

func endpointText(k *agg.Key) string {
	u := event.Tuple{Dst: k.Dst, Dport: k.Dport, Proto: k.Proto}
	return string(appendAddrPort(nil, &u, false)) + " " + event.ProtoName(k.Proto)
}

func whyText(why []agg.WhyCount) string {
	var out []string
	for _, w := range why {
		name := w.Cause.String()
		switch {
		case w.More:
			name = "more"
		case w.Drop:
			name = w.Reason.String()
		}
		out = append(out, name+" "+count(w.Count))
	}
	return strings.Join(out, ", ")
}

// blocks are the titles with the rows, and the sums below.
func (t *rowTable) blocks() []block {
	rows := len(t.top.Rows)
	return []block{
		{prio: 4, n: 1 + rows, grow: max(0, rows-3), lines: t.page},
		{prio: 8, n: 1, lines: t.other},
		{prio: 10, n: 1, lines: t.total},
	}
}

// page is the titles and the rows around the selected one that fit below them.
func (t *rowTable) page(n int) []*rowLine {
	out := one(t.titles())
	rows := t.top.Rows
	if n--; n > 0 && t.s.o.Selected != nil {
		for i := range rows {
			if rows[i].Key == *t.s.o.Selected {
				t.first = i / n * n
			}
		}
	}
	t.shown = min(n, len(rows)-t.first)
	for i := t.first; i < t.first+t.shown; i++ {
		out = append(out, t.row(&rows[i]))
	}
	return out
}

func (t *rowTable) titles() *rowLine {
	l := t.s.line().put("", strings.Repeat(" ", gutter))
	by := "source"
	switch d := t.s.o.Detail; {
	case t.top.By == agg.ByNetNS:
		by = "netns"
	case t.top.By == agg.ByPrefix:
		by = "source prefix"
	case t.top.By == agg.ByDst, d != nil && d.By == agg.BySrc:
		by = "destination"
	case t.labels[1] > 0:
		by = aligned(t.s.cut("source", t.labels[0]), t.labels[0], false) + "   " + "destination"
	}
	l.put(bold, aligned(t.s.cut(by, t.width()), t.width(), false))
	for _, c := range t.columns {
		gap, title := "  ", c.title
		if c.sort == agg.ColDsts && t.top.By == agg.ByDst {
			title = "srcs"
		}
		if c.sort == t.s.o.Sort {
			gap, title = " ", "*"+title
		}
		l.put("", gap).put(bold, aligned(title, c.width+2-len(gap), c.right()))
	}
	return l
}

// width is that of the label.
func (t *rowTable) width() int {
	if t.labels[1] == 0 {
		return t.labels[0]
	}
	return t.labels[0] + 3 + t.labels[1]
}

// right says whether the column holds numbers.
func (c *topColumn) right() bool { return c.title != "netns" && c.title != "why" }

func (t *rowTable) row(r *agg.TopRow) *rowLine {
	l := t.s.line()
	cursor := "  "
	if t.s.o.Selected != nil && r.Key == *t.s.o.Selected {
		cursor, l.style = "> ", reverse
	}
	a, b := t.label(&r.Key)
	text := aligned(t.s.cutMiddle(a, t.labels[0]), t.labels[0], false)
	if b != "" {
		text += " > " + aligned(t.s.cutMiddle(b, t.labels[1]), t.labels[1], false)
	}
	return t.cells(l.put("", cursor+text), r, sumsNone)
}

// cells adds the columns that have at least these sums.
func (t *rowTable) cells(l *rowLine, r *agg.TopRow, least sums) *rowLine {
	for i, c := range t.columns {
		text, sgr := "", ""
		if c.sums >= least {
			text = c.cell(r)
		}
		if text != "0" {
			sgr = c.alarm
		}
		width := c.width
		if i == len(t.columns)-1 && !c.right() {
			width = max(width, l.left-2)
		}
		l.put("", "  ").put(sgr, aligned(t.s.cut(text, width), c.width, c.right()))
	}
	return l
}

// other sums up what is not on the screen.
func (t *rowTable) other(int) []*rowLine {
	sum := agg.TopRow{Sums: t.top.Other}
	for i := range t.top.Rows {
		if i < t.first || i >= t.first+t.shown {
			sum.Plus(&t.top.Rows[i].Sums)
		}
	}
	hidden := t.top.Hidden + len(t.top.Rows) - t.shown
	return one(t.cells(t.below(fmt.Sprintf("other, %s", plural(uint64(hidden), "row"))), &sum, sumsOther))
}

func (t *rowTable) total(int) []*rowLine {
	sum := agg.TopRow{Sums: sumAll(t.top), Rates: t.s.d.Total.Rates}
	return one(t.cells(t.below("total"), &sum, sumsTotal))
}

func (t *rowTable) below(text string) *rowLine {
	return t.s.line().put("", aligned("  "+t.s.cut(text, t.width()), gutter+t.width(), false))
}
