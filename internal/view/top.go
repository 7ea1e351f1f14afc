package view

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// ScreenOptions say how a picture of the table is shown as text.
type ScreenOptions struct {
	Width, Height int // in cells and lines; 0 is no limit
	Color         bool
	ASCII         bool       // no block characters
	Sort          agg.Column // what the rows were sorted by
	Names         Names
	Filter        string   // shown in the first line
	Frozen        bool     // the first line says so
	Selected      *agg.Key // the row to mark, whose page of rows is shown
	Detail        *Detail  // shown in place of the rows
	Footer        []string // last lines: keys, a prompt, an error; may be from outside
}

// TopScreen returns the whole screen as lines, none of them wider than Width
// cells and not more than Height of them. All characters are one cell wide:
// ASCII and blocks; what else names have is escaped.
func TopScreen(d *agg.TopDoc, o ScreenOptions) string {
	s := screen{d: d, o: o}
	blocks := []block{
		{prio: 1, n: 1, lines: s.title},
		s.gauges(),
		{prio: 6, n: 1, lines: s.arrivals},
	}
	if o.Detail != nil {
		blocks = append(blocks, s.detail()...)
	} else {
		rows := newRowTable(&s, &d.Top)
		blocks = append(blocks, block{prio: 7, n: 1, lines: s.drops}, block{prio: 9, n: 1, lines: s.evictions})
		blocks = append(blocks, block{prio: 8, n: min(topFindings, len(d.Findings)), lines: s.findings})
		blocks = append(blocks, rows.blocks()...)
	}
	blocks = append(blocks, block{prio: 5, n: 1, lines: s.loss, bottom: true})
	blocks = append(blocks, block{prio: 2, n: len(o.Footer), lines: s.footer, bottom: true})
	return strings.Join(fit(blocks, o.Height), "\n") + "\n"
}

// Page returns lines of plain text, as help is, cut to a screen.
func Page(lines []string, o ScreenOptions) string {
	s := screen{o: o}
	var out []string
	for _, text := range lines {
		out = append(out, s.line().put("", inCells(text)).String())
	}
	if o.Height > 0 {
		out = out[:min(len(out), o.Height)]
	}
	return strings.Join(out, "\n") + "\n"
}

// A block is a part of the screen that is n lines high, or less where there is
// no room: the one with the lowest prio is served first.
type block struct {
	prio   int
	n      int
	grow   int                    // of n the lines that may wait until all others are served
	lines  func(n int) []*rowLine // n is what it was given
	bottom bool                   // at the lower end of the screen
}

// fit gives each block its lines and joins them.
func fit(blocks []block, height int) []string {
	given := make([]int, len(blocks))
	left := math.MaxInt
	if height > 0 {
		left = height
	}
	order := make([]int, len(blocks))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(blocks[a].prio, blocks[b].prio) })
	for _, i := range order {
		given[i] = min(blocks[i].n-blocks[i].grow, left)
		left -= given[i]
	}
	for _, i := range order {
		more := min(blocks[i].n-given[i], left)
		given[i] += more
		left -= more
	}
	var out []string
	for i, b := range blocks {
		if b.bottom && height > 0 {
			for ; left > 0; left-- {
				out = append(out, "")
			}
		}
		if given[i] == 0 {
			continue
		}
		for _, l := range b.lines(given[i]) {
			out = append(out, l.String())
		}
	}
	return out
}

// rowLine is a line being written, cut at the width of the screen.
type rowLine struct {
	b     []byte
	left  int
	s     *screen
	style string // of all that has none of its own
}

type screen struct {
	d *agg.TopDoc
	o ScreenOptions
}

func (s *screen) line() *rowLine {
	l := &rowLine{s: s, left: math.MaxInt}
	if s.o.Width > 0 {
		l.left = s.o.Width
	}
	return l
}

// put adds text of one-cell characters. What does not fit ends in a mark.
func (l *rowLine) put(sgr, text string) *rowLine {
	text = l.s.cut(text, l.left)
	l.left -= cells(text)
	sgr = cmp.Or(l.style, sgr)
	l.b = appendColour(l.b, l.s.o.Color && sgr != "" && text != "", sgr, text)
	return l
}

func (l *rowLine) putf(format string, args ...any) *rowLine {
	return l.put("", fmt.Sprintf(format, args...))
}

func (l *rowLine) String() string { return strings.TrimRight(string(l.b), " ") }

func one(l *rowLine) []*rowLine { return []*rowLine{l} }

// cells is the width of text whose characters take one cell each.
func cells(text string) int { return utf8.RuneCountInString(text) }

// mark stands for what was cut off.
func (s *screen) mark() string {
	if s.o.ASCII {
		return "~"
	}
	return "…"
}

// cut keeps the first n cells.
func (s *screen) cut(text string, n int) string {
	if cells(text) <= n {
		return text
	}
	if n < 1 {
		return ""
	}
	return string([]rune(text)[:n-1]) + s.mark()
}

// cutMiddle keeps both ends: of an address the network and the host.
func (s *screen) cutMiddle(text string, n int) string {
	if cells(text) <= n || n < 3 {
		return s.cut(text, n)
	}
	r := []rune(text)
	tail := (n - 1) / 2
	return string(r[:n-1-tail]) + s.mark() + string(r[len(r)-tail:])
}

func aligned(text string, n int, right bool) string {
	gap := strings.Repeat(" ", max(0, n-cells(text)))
	if right {
		return gap + text
	}
	return text + gap
}

// inCells makes a text from outside safe to show, one cell for a character:
// scripts whose characters are wide, or combine, are escaped.
func inCells(text string) string { return narrow(safeText(text)) }

// nameInCells is inCells of a name.
func nameInCells(name string) string { return narrow(safeName(name)) }

func narrow(text string) string {
	b := make([]byte, 0, len(text))
	for _, r := range text {
		switch {
		case r < 0x80:
			b = append(b, byte(r))
		case r < 0x10000:
			b = appendHex(append(b, `\u`...), uint32(r), 4)
		default:
			b = appendHex(append(b, `\U`...), uint32(r), 8)
		}
	}
	return string(b)
}

// count writes n in at most five cells: from 100,000 on three digits and a
// unit, rounded down. JSON has all digits.
func count(n uint64) string {
	if n < 100_000 {
		return num(n)
	}
	unit := -1
	for ; n >= 1_000_000; n /= 1000 {
		unit++
	}
	suffix := "kMGTPE"[unit+1 : unit+2]
	switch { // n has four to six digits here
	case n < 10_000:
		return fmt.Sprintf("%d.%02d%s", n/1000, n/10%100, suffix)
	case n < 100_000:
		return fmt.Sprintf("%d.%d%s", n/1000, n/100%10, suffix)
	}
	return fmt.Sprintf("%d%s", n/1000, suffix)
}

// rate writes a number per second in at most five cells.
func rate(r float64) string {
	switch {
	case math.IsNaN(r) || r < 0:
		return unknown
	case r == 0 || r >= 1e19:
		return count(uint64(min(r, 1e19)))
	case r < 9.95:
		return fmt.Sprintf("%.1f", r)
	}
	return count(uint64(math.Round(r)))
}

func (s *screen) title(int) []*rowLine {
	d := s.d
	at := "2006-01-02T15:04:05Z"
	if s.o.Height > 0 { // who looks at it knows the day
		at = "15:04:05Z"
	}
	l := s.line().put(bold, "ctsight top").put("", "  "+d.To.UTC().Format(at))
	if s.o.Frozen {
		l.put("", "  ").put(reverse, "FROZEN")
	}
	l.putf("  %s  %s", span(d.To.Sub(d.From)), nameInCells(d.Backend))
	if s.o.Filter != "" {
		l.put("", "  ").put(yellow, "filter: "+inCells(s.o.Filter))
	}
	return one(l.putf("  by %s, sorted by %s", d.By, s.o.Sort))
}

func (s *screen) footer(n int) []*rowLine {
	var out []*rowLine
	for _, text := range s.o.Footer[:n] {
		out = append(out, s.line().put("", inCells(text)))
	}
	return out
}

func (s *screen) loss(int) []*rowLine {
	l := s.line().put(bold, "records ")
	x := s.d.Loss
	x.ByStage = slices.DeleteFunc(slices.Clone(x.ByStage), func(s agg.StageLoss) bool { return s.Lost == 0 }) // a line has 80 cells
	lossText(&x, l.label)
	if s.d.BestEffort {
		l.put(yellow, "; best effort: not all destroys are told")
	}
	for _, n := range []struct {
		n    uint64
		what string
	}{{s.d.Strange, "destroys of unknown entries"}, {s.d.Unjudged, "contacts not judged"}, {s.d.Folded, "rows folded into other"}} {
		if n.n > 0 {
			l.putf("; %s %s", count(n.n), n.what)
		}
	}
	return one(l)
}

func (l *rowLine) label(sgr, text string) { l.put(sgr, inCells(text)) }

// drops are packets lost, those to the operator's own rules not among them.
func (s *screen) drops(int) []*rowLine {
	var total uint64
	rows := slices.Clone(s.d.Drops)
	rows = slices.DeleteFunc(rows, func(r agg.ReasonCount) bool { return r.Reason.IsRuleset() })
	slices.SortStableFunc(rows, func(a, b agg.ReasonCount) int { return cmp.Compare(b.Count, a.Count) })
	for _, r := range rows {
		total += r.Count
	}
	l := s.sum("drops", total, "packet")
	for i, r := range rows {
		l.put("", listSep(i)).putf("%s %s", r.Reason, count(r.Count))
	}
	return one(l)
}

// evictions are entries lost to others.
func (s *screen) evictions(int) []*rowLine {
	rows := slices.Clone(s.d.Totals.Destroy)
	rows = slices.DeleteFunc(rows, func(r agg.CauseCount) bool { return r.Cause != event.EarlyDrop && r.Cause != event.EarlyDropGC })
	var total uint64
	for _, r := range rows {
		total += r.Count
	}
	l := s.sum("evicted", total, "entry")
	for i, r := range rows {
		l.put("", listSep(i)).putf("%s %s", r.Cause, count(r.Count))
	}
	return one(l)
}

// topFindings is how many findings are shown.
const topFindings = 4

// findings are incidents that are open, the first of them with how many there are.
func (s *screen) findings(n int) []*rowLine {
	var out []*rowLine
	for i := range n {
		f := &s.d.Findings[i]
		title, head := "", ""
		if i == 0 {
			title, head = "findings", count(uint64(len(s.d.Findings)))
		}
		l := s.line().put(bold, title).put("", aligned("", 9-len(title), false)+aligned(head, 2, false)).put(findingColour(f), nameInCells(f.State))
		if f.NetNS != 0 {
			l.put("", " netns "+inCells(s.o.Names.NetNSText(f.NetNS)))
		}
		out = append(out, l.put("", ": "+nameInCells(f.Class)+": "+inCells(f.Why)+" ["+nameInCells(f.ID)+"]"))
	}
	return out
}

func (s *screen) sum(what string, n uint64, noun string) *rowLine {
	sgr := ""
	if n > 0 {
		sgr = red
	}
	return s.line().put(bold, aligned(what, 8, false)).put(sgr, plural(n, noun))
}

func listSep(i int) string {
	if i == 0 {
		return ": "
	}
	return ", "
}

// sumAll is of the rows and of all others.
func sumAll(t *agg.Top) agg.Sums {
	out := t.Other
	for i := range t.Rows {
		out.Plus(&t.Rows[i].Sums)
	}
	return out
}

// span writes a time that people wait for.
func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return string(appendDuration(nil, max(0, d)))
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Truncate(100*time.Millisecond).Seconds())
	}
	return string(appendDuration(nil, d))
}
