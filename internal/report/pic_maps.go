package report

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/svg"
	"github.com/ctsight/ctsight/internal/view"
)

// Rows of the map of sources.
const (
	nameRoom = 17 // above each row, for its name
	cellH    = 15
	rowH     = nameRoom + cellH + 3
)

// sources are who opened connections, and when.
func (d *doc) sources() {
	x := d.data
	if len(x.Lines) == 0 {
		return
	}
	d.begin("sources", "Sources over time")
	text := x.sourcesSay()
	d.say(text)
	rows := slices.Clone(x.Lines)
	others := uint64(0)
	for _, n := range x.Others {
		others += n
	}
	if others > 0 {
		rows = append(rows, Line{Name: "all others", Total: others, New: x.Others})
	}
	most := 0.0
	for _, r := range rows {
		for _, n := range r.New {
			most = max(most, float64(n))
		}
	}
	l := svg.NewLadder(most)
	d.legend("h", &l, "new connections in each "+view.Span(x.Width))
	p := &plot{doc: d, d: x, h: rowH * len(rows)}
	told := mapSeries{H: rowH}
	p.begin("sources", "New connections of each source over time", text)
	for i, r := range rows {
		y := headroom + float64(i*rowH)
		p.Put(`<text class="name" x="{}" y="{}">{}</text><text class="end" x="{}" y="{}">{}</text>`, leftRoom, y+nameRoom-4, r.Name, chartW-right, y+nameRoom-4, x.lineSays(&r))
		told.Names, told.N = append(told.Names, r.Name), append(told.N, r.New)
	}
	d.tell("sources", told)
	p.inside(func() {
		for i, r := range rows {
			p.cells("h", headroom+float64(i*rowH)+nameRoom, cellH, func(i int) int { return l.Level(float64(r.New[i])) })
		}
	})
	p.finish()
	d.Numbers("sources", "source", "#new", "#most in a column", "at", "netns")
	for i := range rows {
		r := &rows[i]
		at, n := r.most()
		d.Row(r.Name, r.Total, n, x.moment(x.at(at)), x.netns(r.NetNS))
	}
	d.Put(markup.EndNumbers)
	d.sourceTable("busiest", "Busiest sources", "source", "#dsts", x.Busiest)
	d.sourceTable("targets", "Busiest destinations", "destination", "#sources", x.Targets)
	d.Put(endFigure)
}

func (d *doc) sourceTable(id markup.Text, name, first, distinct string, rows []agg.TopRow) {
	if len(rows) == 0 {
		return
	}
	d.Put(`<details id="{}-n"{}><summary>{}</summary>`, id, map[bool]markup.Text{true: " open"}[id == "busiest"], name)
	columns := []string{first, "#new", "#share", "#10 ms peak/s", "#live at end", "#ended", distinct}
	if first == "source" {
		columns = append(columns, "#ports")
	}
	d.List(id, name, append(columns, "#lost", "#evicted", "from", "to")...)
	for i := range rows {
		r := &rows[i]
		cells := []any{endpoint(r, first), r.New, markup.Number(markup.Percent(r.New, d.data.Totals.New)), markup.Number(markup.Rate(r.Peak10ms)), r.Live, r.Destroyed, about(r.DistinctDsts)}
		if first == "source" {
			cells = append(cells, about(r.DistinctDports))
		}
		d.Row(append(cells, r.Drops, r.Evicted, d.data.moment(d.data.wall(r.First)), d.data.moment(d.data.wall(r.Last)))...)
	}
	d.Put(markup.EndList + `</details>`)
}

func endpoint(r *agg.TopRow, which string) string {
	if which == "source" {
		return view.AddrText(r.Src)
	}
	return view.TargetText(&agg.Target{Addr: r.Dst, Proto: r.Proto, Port: r.Dport})
}

// about is a count of what is different, which is an estimate above 64.
func about(n uint64) markup.Number {
	if n > 64 {
		return markup.Number("~" + count(n))
	}
	return markup.Number(count(n))
}

func (l *Line) most() (at int, n uint64) {
	for i, x := range l.New {
		if x > n {
			at, n = i, x
		}
	}
	return at, n
}

func (d *Data) lineSays(l *Line) string {
	at, n := l.most()
	text := count(l.Total) + ", most " + d.inColumn(n) + " at " + d.moment(d.at(at))
	if l.NetNS != 0 {
		text += ", netns " + d.netns(l.NetNS)
	}
	return text
}

func (d *Data) netns(ns event.NetNS) string {
	for i := range d.Tables {
		if t := &d.Tables[i]; t.NetNS == ns && t.Name != "" {
			return t.Text()
		}
	}
	if ns == 0 {
		return "–"
	}
	return ns.String()
}

func (d *Data) sourcesSay() string {
	l := &d.Lines[0]
	at, n := l.most()
	text := fmt.Sprintf("%s opened %s of %s connections (%s), most of them at %s: %s.", l.Name, count(l.Total), count(d.Totals.New), markup.Percent(l.Total, d.Totals.New),
		d.moment(d.at(at)), d.inColumn(n))
	if k := min(3, len(d.Lines)); k > 1 {
		sum := uint64(0)
		for _, l := range d.Lines[:k] {
			sum += l.Total
		}
		text += fmt.Sprintf(" The first %d of %s sources opened %s.", k, d.sourcesCount(), markup.Percent(sum, d.Totals.New))
	}
	return text
}

// inColumn is a count in a column as a rate, where that is one that can be read.
func (d *Data) inColumn(n uint64) string {
	if d.Width > time.Second {
		return count(n) + " in " + view.Span(d.Width)
	}
	return markup.Rate(d.perSecond(n)) + " a second"
}

func (d *Data) sourcesCount() string {
	if d.More {
		return "more than " + count(uint64(d.Sources))
	}
	return count(uint64(d.Sources))
}

// tell has the script say what is under the pointer.
func (d *doc) tell(section string, m mapSeries) {
	if d.maps != nil {
		d.maps[section] = m
	}
}

// legend says what the levels are.
func (d *doc) legend(class markup.Text, l *svg.Ladder, unit string) {
	d.Put(`<p class="legend"><span class="soft">{}</span>`, unit)
	for i := range svg.Levels {
		d.Put(` <span><svg width="22" height="12" aria-hidden="true"><rect class="{}{}" width="22" height="12"/></svg> `, class, i)
		if i == 0 {
			d.Put(`below {}</span>`, uint64(l[1]))
		} else {
			d.Put(`from {}</span>`, uint64(l[i]))
		}
	}
	d.Put(`</p>`)
}

const lifeH = 10 // of a row of the map of lifetimes

// lifetimes are how long entries lived that ended then.
func (d *doc) lifetimes() {
	x := d.data
	low, high := x.lifeRange()
	d.begin("lifetimes", "Lifetimes")
	text := x.lifetimesSay(low <= high)
	d.say(text)
	if low > high {
		d.Put(endFigure)
		return
	}
	most := 0.0
	for i := range x.Columns {
		for _, n := range x.Columns[i].Lives {
			most = max(most, float64(n))
		}
	}
	l := svg.NewLadder(most)
	d.legend("h", &l, "entries that ended in each "+view.Span(x.Width))
	low, high = max(0, low-1), min(LifeBuckets-1, high+1)
	rows := high - low + 1
	p := &plot{doc: d, d: x, h: rows * lifeH}
	told := mapSeries{H: lifeH}
	for b := high; b >= low; b-- {
		n := make([]uint64, len(x.Columns))
		for i := range n {
			n[i] = uint64(x.Columns[i].Lives[b])
		}
		told.Names, told.N = append(told.Names, lifeText(b)), append(told.N, n)
	}
	d.tell("lifetimes", told)
	p.begin("lifetimes", "Lifetimes of entries by when they ended", text)
	p.Put(`<text x="{}" y="{}">lived, logarithmic</text><path class="grid" d="`, leftRoom, headroom-6)
	yOf := func(b int) float64 { return headroom + float64((high-b)*lifeH) }
	every := max(1, (rows+9)/10)
	for b := low; b <= high; b += every {
		p.Put(`M{} {}h{}`, leftRoom, yOf(b)+lifeH, plotW)
	}
	p.Put(`"/>`)
	for b := low; b <= high; b += every {
		p.Put(`<text class="end" x="{}" y="{}" dy=".32em">{}</text>`, leftRoom-8, yOf(b)+lifeH, view.Span(time.Microsecond<<b))
	}
	p.inside(func() {
		for b := low; b <= high; b++ {
			p.cells("h", yOf(b), lifeH, func(i int) int { return l.Level(float64(x.Columns[i].Lives[b])) })
		}
	})
	p.finish()
	d.Numbers("lifetimes", "lived", "#answered", "#never answered", "#all")
	answered, silent := x.lives()
	for b := range LifeBuckets {
		if answered[b]+silent[b] > 0 {
			d.Row(lifeText(b), answered[b], silent[b], answered[b]+silent[b])
		}
	}
	d.Put(markup.EndNumbers + endFigure)
}

func lifeText(b int) string {
	switch b {
	case 0:
		return "less than 2us"
	case LifeBuckets - 1:
		return "from " + view.Span(time.Microsecond<<b)
	}
	return view.Span(time.Microsecond<<b) + " to " + view.Span(time.Microsecond<<(b+1))
}

// lifeRange are the shortest and longest lifetimes there were, as powers of two.
func (d *Data) lifeRange() (low, high int) {
	low, high = LifeBuckets, -1
	for i := range d.Columns {
		for b, n := range d.Columns[i].Lives {
			if n > 0 {
				low, high = min(low, b), max(high, b)
			}
		}
	}
	return low, high
}

// lives sums lifetimes by whether there ever was an answer.
func (d *Data) lives() (answered, silent [LifeBuckets]uint64) {
	for k, h := range d.Lifetimes {
		to := &silent
		if k.Answered {
			to = &answered
		}
		for b, n := range h.Buckets {
			to[b] += n
		}
	}
	return answered, silent
}

// medianLife is the bucket in which the middle one is, -1 of nothing.
func (d *Data) medianLife() int {
	answered, silent := d.lives()
	all, sum := uint64(0), uint64(0)
	for b := range answered {
		all += answered[b] + silent[b]
	}
	for b := range answered {
		if sum += answered[b] + silent[b]; sum > 0 && 2*sum >= all {
			return b
		}
	}
	return -1
}

func (d *Data) lifetimesSay(any bool) string {
	if !any {
		return "No entry ended of which it is known how long it lived."
	}
	answered, silent := d.lives()
	a, s := total(answered[:]), total(silent[:])
	text := fmt.Sprintf("%s ended of which it is known how long they lived; the middle one lived %s. %s of them (%s) never had an answer.", markup.Plural(a+s, "entry", "entries"),
		lifeText(d.medianLife()), count(s), markup.Percent(s, a+s))
	best := 0
	for b := range LifeBuckets {
		if answered[b]+silent[b] > answered[best]+silent[best] {
			best = b
		}
	}
	return text + fmt.Sprintf(" Most lived %s: %s. A scan is a low band, entries that wait for their timeout a line at 30 s, 60 s or 2 min.", lifeText(best), markup.Percent(answered[best]+silent[best], a+s))
}

func total(all []uint64) (n uint64) {
	for _, x := range all {
		n += x
	}
	return n
}

// scanners are where those went who were found to scan.
func (d *doc) scanners() {
	x := d.data
	for i := range x.Scanners {
		s := &x.Scanners[i]
		if len(s.Dots) == 0 {
			continue
		}
		id := markup.Text("scan" + digits(uint64(i)))
		what := "ports"
		if s.ByDst {
			what = "hosts"
		}
		d.begin(id, "Scan by "+s.Who)
		text := x.scannerSays(s, what)
		d.say(text)
		d.Put(`<p class="legend"><span><svg width="22" height="12" aria-hidden="true"><path class="dots" d="M6 6h0M14 6h0"/></svg> a connection, left scale</span> <span><svg width="22" height="12" aria-hidden="true"><path class="count" d="M2 9h9v-6h9"/></svg> different {} so far, right scale</span></p>`, what)
		p := &plot{doc: d, d: x, h: 200}
		p.begin(id, "Where "+s.Who+" went over time", text)
		p.spread(s)
		p.finish()
		d.scanNumbers(id, s, what)
		d.Put(endFigure)
	}
}

// spread draws dots and the count of what is different.
func (p *plot) spread(s *Scanner) {
	at, names := s.heights()
	for _, n := range names {
		y := p.y(n.at)
		p.Put(`<path class="grid" d="M{} {}h{}"/><text class="end" x="{}" y="{}" dy=".32em">{}</text>`, leftRoom, y, plotW, leftRoom-8, y, n.text)
	}
	p.Put(`<text x="{}" y="{}">{}</text>`, leftRoom, headroom-6, map[bool]string{true: "hosts in order of their addresses", false: "destination port"}[s.ByDst])
	p.inside(func() { p.dots(s, at) })
	p.Put(`<text class="end ink" x="{}" y="{}">{}</text>`, chartW-right, headroom-6, count(s.Distinct)+" different")
}

func (p *plot) dots(s *Scanner, at func(*Dot) float64) {
	p.Put(`<path class="dots" d="`)
	for i := range s.Dots {
		p.Put(`M{} {}h0`, p.x(p.d.wall(s.Dots[i].At)), p.y(at(&s.Dots[i])))
	}
	p.Put(`"/><path class="count" d="`)
	// The line has a point for each column at most.
	most, last := float64(max(1, s.Distinct)), 0.0
	for i, l := range s.Line {
		x, y := p.x(p.d.wall(l.At)), p.y(.98*float64(l.N)/most)
		switch {
		case i == 0:
			p.Put(`M{} {}V{}`, x, p.y(0), y)
		case x-last < 1 && i < len(s.Line)-1:
			continue
		default:
			p.Put(`H{}V{}`, x, y)
		}
		last = x
	}
	p.Put(`H{}"/>`, chartW-right)
}

// height is a name on the axis of a spread.
type height struct {
	at   float64
	text string
}

// heights are where dots lie, between .02 and .98, and what is written at the side.
func (s *Scanner) heights() (func(*Dot) float64, []height) {
	if s.ByDst {
		var hosts []netip.Addr
		for i := range s.Dots {
			hosts = append(hosts, s.Dots[i].Dst)
		}
		slices.SortFunc(hosts, netip.Addr.Compare)
		hosts = slices.Compact(hosts)
		place := func(a netip.Addr) float64 {
			i, _ := slices.BinarySearchFunc(hosts, a, netip.Addr.Compare)
			return .02 + .96*float64(i)/float64(max(1, len(hosts)-1))
		}
		return func(d *Dot) float64 { return place(d.Dst) }, nil
	}
	low, high := uint64(65535), uint64(0)
	for i := range s.Dots {
		low, high = min(low, uint64(s.Dots[i].Port)), max(high, uint64(s.Dots[i].Port))
	}
	if high-low < 10 {
		low, high = low-min(low, 5), min(65535, high+5)
	}
	at := func(port uint64) float64 { return .02 + .96*float64(port-low)/float64(high-low) }
	step := svg.Step(high - low)
	var names []height
	for n := (low + step - 1) / step * step; n <= high; n += step {
		names = append(names, height{at(n), digits(n)})
	}
	return func(d *Dot) float64 { return at(uint64(d.Port)) }, names
}

func (d *Data) scannerSays(s *Scanner, what string) string {
	n := count(s.Distinct)
	if s.AtLeast {
		n = "at least " + n
	}
	text := fmt.Sprintf("%s opened %s to %s different %s between %s and %s.", s.Who, markup.Plural(s.Seen, "connection", "connections"), n, what,
		d.moment(d.wall(s.Dots[0].At)), d.moment(d.wall(s.Dots[len(s.Dots)-1].At)))
	if s.Every > 1 {
		text += fmt.Sprintf(" One of %d has a dot.", s.Every)
	}
	if !s.From.IsZero() {
		text += fmt.Sprintf(" What it did before %s is not in the picture: the scan was found too long after.", d.moment(s.From))
	}
	return text
}

func (d *doc) scanNumbers(id markup.Text, s *Scanner, what string) {
	d.Numbers(id, "until", "#different "+what)
	n := len(s.Line)
	const rows = 50
	for i := range min(n, rows) {
		l := s.Line[(i+1)*n/min(n, rows)-1]
		d.Row(d.data.moment(d.data.wall(l.At)), l.N)
	}
	d.Put(markup.EndNumbers)
}
