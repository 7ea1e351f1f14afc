package view

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
)

// minBar is the width of a bar below which its marks would fall together.
const minBar = 10

// maxTables is how many tables are listed at most; the rest share a line.
const maxTables = 20

// gauges are the tables of the namespaces, the one nearest to its limit first.
// On a screen they take a fifth of the lines.
func (s *screen) gauges() block {
	tables := slices.Clone(s.d.Table)
	slices.SortStableFunc(tables, func(a, b agg.TableState) int {
		if (a.Err == "") != (b.Err == "") {
			return cmp.Compare(len(a.Err), len(b.Err)) // what is not known comes last
		}
		return cmp.Or(cmp.Compare(b.Fill(), a.Fill()), cmp.Compare(b.Entries, a.Entries))
	})
	n := min(len(tables), maxTables)
	if s.o.Height > 0 {
		n = min(n, max(1, s.o.Height/6))
	}
	list := s.withPools(tables[:n])
	lines := len(list) + 1 // the titles
	if len(tables) > n {
		lines++
	}
	return block{prio: 3, n: lines, lines: func(given int) []*rowLine {
		if len(tables) == 0 {
			return one(s.line().put(bold, "table   ").put("", "nothing is known of any table yet"))
		}
		out := s.gaugeLines(list)
		if rest := tables[n:]; len(rest) > 0 {
			out = append(out, s.rest(rest))
		}
		if given < lines { // the titles go first
			out = out[1:]
		}
		return out[:min(given, len(out))]
	}}
}

// rest sums up the tables that are not listed.
func (s *screen) rest(tables []agg.TableState) *rowLine {
	l, blind := s.line().putf("and %s", plural(uint64(len(tables)), "table")), 0
	if tables[0].Err == "" {
		l.putf(", fill at most %s", percent(&tables[0]))
	}
	for i := range tables {
		if tables[i].Err != "" {
			blind++
		}
	}
	if blind > 0 {
		l.putf(", %d not known", blind)
	}
	return l
}

// gaugeCells are the texts of one table, or NAT port pool, around its bar.
type gaugeCells struct{ name, entries, fill, level, full, known string }

type gauge struct {
	gaugeCells
	part float64 // of the bar
	of   agg.Level
	pool bool // its name takes the place of its entries as well
}

func (s *screen) gaugeLines(list []gauge) []*rowLine {
	rows := []gauge{{gaugeCells: gaugeCells{"netns", "entries/max", "fill", "level", "time to full", "known"}}}
	rows = append(rows, list...)
	var w struct{ name, entries, fill, level, full, known int }
	for _, r := range rows {
		if !r.pool {
			w.name = max(w.name, cells(r.name))
		}
		w.entries, w.fill = max(w.entries, cells(r.entries)), max(w.fill, cells(r.fill))
		w.level, w.known = max(w.level, cells(r.level)), max(w.known, cells(r.known))
		if r.fill != unknown { // else it is an error, which may run to the end of the line
			w.full = max(w.full, cells(r.full))
		}
	}
	// The bar gets what is left; where that is too little, others give way.
	width := cmp.Or(s.o.Width, 140)
	w.name = min(w.name, max(10, width/5))
	rest := func() int {
		n := width - w.name
		for _, c := range []int{w.entries, w.fill, w.level, w.full, w.known} {
			if c > 0 {
				n -= c + 2
			}
		}
		return n - 4 // gap and frame
	}
	for _, c := range []*int{&w.known, &w.level, &w.entries} {
		if rest() < minBar {
			*c = 0
		}
	}
	bar := min(60, rest())
	out := make([]*rowLine, len(rows))
	for i, r := range rows {
		l, sgr, title := s.line(), "", bold
		if i > 0 {
			sgr, title = levelColour(r.of), ""
		}
		long := w.name
		if r.pool && w.entries > 0 {
			long += 2 + w.entries
		}
		l.put(title, aligned(s.cutMiddle(r.name, long), long, false))
		if !r.pool && w.entries > 0 {
			l.put(title, "  "+aligned(r.entries, w.entries, true))
		}
		l.put(cmp.Or(title, sgr), "  "+aligned(r.fill, w.fill, true)).put("", "  ")
		switch {
		case bar < minBar:
		case i == 0:
			l.put(title, aligned("70 85 95%", bar+2, true)).put("", "  ")
		default:
			l.put("", "[").put(sgr, s.bar(r.part, bar)).put("", "]  ")
		}
		if w.level > 0 {
			l.put(cmp.Or(title, sgr), aligned(r.level, w.level, false)+"  ")
		}
		l.put(title, aligned(r.full, w.full, false))
		if w.known > 0 {
			l.put(title, "  "+r.known)
		}
		out[i] = l
	}
	return out
}

func (s *screen) gaugeCells(t *agg.TableState) gaugeCells {
	c := gaugeCells{name: t.NetNS.String(), full: forecastText(t.Forecast, t.TimeToFull, t.FullLow, t.FullHigh)}
	if name := tableName(t, &s.o.Names); name != "" {
		c.name = nameInCells(name)
	}
	if t.Err != "" {
		c.entries, c.fill, c.level, c.full = unknown, unknown, unknown, inCells(t.Err)
		return c
	}
	c.entries, c.fill, c.level = fmt.Sprintf("%d/%d", t.Entries, t.Max), percent(t), t.Level.String()
	if t.Seeded {
		c.known = fmt.Sprintf("%d (%+d)", t.Known, int64(t.Known-t.Entries))
	}
	return c
}

func percent(t *agg.TableState) string {
	if t.Max == 0 || t.Err != "" {
		return unknown
	}
	return share(t.Entries, t.Max)
}

func levelColour(l agg.Level) string {
	switch l {
	case agg.LevelOK:
		return green
	case agg.LevelTrend:
		return yellow
	case agg.LevelAction:
		return magenta
	}
	return red
}

// bar shows the fill in n cells. The marks stay visible in the filled part.
func (s *screen) bar(part float64, n int) string {
	full, empty, mark := "█", " ", "│"
	if s.o.ASCII {
		full, empty, mark = "#", " ", "|"
	}
	filled := int(min(1, part)*float64(n) + 0.5)
	var b strings.Builder
	for i := range n {
		switch {
		case i == n*70/100 || i == n*85/100 || i == n*95/100:
			b.WriteString(mark)
		case i < filled:
			b.WriteString(full)
		default:
			b.WriteString(empty)
		}
	}
	return b.String()
}

// forecastText is the time to full and, where there is one, its band.
func forecastText(known bool, full, from, to *float64) string {
	if !known {
		return forecastUnknown
	}
	main, low, high := fullIn(full), fullIn(from), fullIn(to)
	if low == main && high == main {
		return main
	}
	return fmt.Sprintf("%s (%s..%s)", main, low, high)
}

func fullIn(s *float64) string {
	const day = 24 * 60 * 60
	switch {
	case s == nil:
		return forecastNever
	case math.IsNaN(*s):
		return forecastUnknown
	case *s <= 0:
		return "now"
	case *s >= 1000*day:
		return ">999d"
	case *s < 60:
		return fmt.Sprintf("%.0fs", math.Ceil(*s))
	}
	return string(appendDuration(nil, time.Duration(*s*float64(time.Second))))
}

// arrivals is the rate of new connections, and the seconds before now.
func (s *screen) arrivals(int) []*rowLine {
	r := &s.d.Total.Rates
	l := s.line().put(bold, aligned("new/s", 8, false)).putf("%s, 10s %s, 1m %s, 10ms peak %s  ", rate(r.S1), rate(r.S10), rate(r.M1), rate(r.Peak10ms))
	return one(l.put(cyan, s.spark(s.d.Seconds, min(l.left, 120))))
}

// spark draws the last n values, the highest of them full.
func (s *screen) spark(values []uint64, n int) string {
	levels := []rune(" ▁▂▃▄▅▆▇█")
	if s.o.ASCII {
		levels = []rune(" .:-=+*#@")
	}
	values = values[max(0, len(values)-max(0, n)):]
	if len(values) == 0 {
		return ""
	}
	top := float64(max(1, slices.Max(values)))
	out := make([]rune, len(values))
	for i, v := range values {
		out[i] = levels[int(math.Ceil(float64(v)/top*float64(len(levels)-1)))]
	}
	return string(out)
}
