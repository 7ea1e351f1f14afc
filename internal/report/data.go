package report

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/view"
)

// Data is what was in a capture: a plain value, of which a document is made.
type Data struct {
	Name        string
	First, Last time.Time
	Start       time.Time // of the first column
	Width       time.Duration
	Columns     []Column
	Fine        []Column    // narrower by fineBits powers of two, from Lead after Start on
	Lead        int         // in fine columns
	Tables      []TableData // the one that matters most first

	base      event.Ktime // Start as the capture's clock has it
	Told      uint64      // events
	Summed    uint64      // that came as sums only
	Strangers uint64      // ends of entries that were not seen to begin
	Totals    agg.Totals
	Lifetimes agg.Lifetimes
	Lines     []Line // the busiest sources over time
	Others    []uint64
	Busiest   []agg.TopRow
	Targets   []agg.TopRow
	Sources   int  // that had a row
	More      bool // there were more sources
	Ledger    agg.Snapshot
	Findings  []agg.Finding // by when they began
	Scanners  []Scanner
	Marks     []Mark // in order of time
	Nodes     []Node
	LossTold  bool
	Lost      uint64
	Omitted   []agg.Omission // what the bounds left out
	Plan      *Plan          // nil where nobody has made one

	// Balance sets what was traced against the kernel's counters, in the time between;
	// empty where the capture does not have them.
	Balance            []agg.BalanceRow
	CountFrom, CountTo time.Time
}

// TableData is one table over time.
type TableData struct {
	NetNS     event.NetNS
	Name      string
	Limit     uint64 // 0 where it is not known
	Counted   bool   // the kernel's own count is there
	Made      uint64
	Columns   []Hold
	Fine      []Hold // as Data.Fine
	Most      uint64 // entries that were seen to begin
	MostAt    time.Time
	Held      *Holder
	HeldAt    time.Time
	Crossings []Crossing
}

// Text is what a table is called.
func (t *TableData) Text() string {
	switch {
	case t.Name != "":
		return view.Name(t.Name)
	case t.NetNS == 0:
		return "the table"
	}
	return "netns " + t.NetNS.String()
}

// Highest is the most entries it had at a time, as the kernel counted where it did.
func (t *TableData) Highest() uint64 {
	n := t.Most
	for i := range t.Columns {
		n = max(n, t.Columns[i].Kernel)
	}
	return n
}

// fullest is what it held, and of which limit, when it was nearest to that; 0 where
// limits are not known. They may change.
func (t *TableData) fullest() (n, limit uint64) {
	for i := range t.Columns {
		h := &t.Columns[i]
		x := h.Kernel
		if !t.Counted {
			x = uint64(h.Total)
		}
		if h.Max > 0 && (limit == 0 || float64(x)*float64(limit) > float64(n)*float64(h.Max)) {
			n, limit = x, h.Max
		}
	}
	return n, limit
}

// fillMost is the highest share of its limit, 0 where that is not known.
func (t *TableData) fillMost() float64 {
	n, limit := t.fullest()
	return float64(n) / float64(max(1, limit))
}

// Line is the connections of a source in each column.
type Line struct {
	NetNS event.NetNS
	Name  string
	Total uint64
	New   []uint64
}

// Scanner is where somebody went who was found to scan.
type Scanner struct {
	Who      string
	ID       string // of its finding
	ByDst    bool
	Seen     uint64 // connections
	Every    uint64 // one of so many has a dot
	Distinct uint64
	AtLeast  bool // there were more
	Dots     []Dot
	Line     []Distinct
	From     time.Time // zero, or what was before is not in it
}

// MarkKind is what sort of thing a Mark is.
type MarkKind uint8

// Kinds of marks.
const (
	Changed MarkKind = iota
	Crossed
	Gap
	Gone
	Suspected
	Confirmed
	Over
)

var markNames = [...]string{"setting", "threshold", "gap", "netns", "suspect", "confirmed", "over"}

// String returns the word of the time line.
func (k MarkKind) String() string { return markNames[min(int(k), len(markNames)-1)] }

// Mark is one line of the time line.
type Mark struct {
	At    event.Ktime
	Kind  MarkKind
	Text  string
	Table event.NetNS
	Level int // of a crossing: its place in levels
}

// Rows of the pictures and tables.
const (
	lineRows   = 12
	sourceRows = 20
)

// Data returns what was gathered.
func (g *Gatherer) Data() *Data {
	d := &Data{Name: g.o.Name, Nodes: slices.Clone(g.nodes), Told: g.told, Summed: g.summed, Strangers: g.strangers, LossTold: g.lossTold, Lost: g.lost, Ledger: g.ledger.Snapshot()}
	d.Totals = d.Ledger.Totals
	d.Balance, d.CountFrom, d.CountTo = g.balance, g.o.Clock.At(g.countFrom), g.o.Clock.At(g.countTo)
	if !g.any {
		return d
	}
	g.count()
	clock := g.o.Clock
	d.First, d.Last = clock.At(g.first), clock.At(g.last)
	width := g.cols.width << fineBits
	d.base = event.Ktime(g.cols.first()) * width
	d.Start, d.Width, d.Columns = clock.At(d.base), time.Duration(width), coarse(g.cols.all, g.cols.base, (*Column).plus)
	d.Fine, d.Lead = slices.Clone(g.cols.all), int(g.cols.base-g.cols.first()<<fineBits)
	d.Lifetimes = g.census.Lifetimes()
	top := g.census.Top(agg.BySrc, agg.ColNew, sourceRows, g.last, nil)
	d.Busiest, d.Sources, d.More = top.Rows, top.Tracked, top.Folded > 0
	d.Targets = g.census.Top(agg.ByDst, agg.ColNew, sourceRows, g.last, nil).Rows
	g.lines(d)
	for _, t := range g.order {
		x := t.data(clock, g.cols.base)
		if len(g.nodes) > 1 && t.node < len(g.nodes) {
			x.Name = g.nodes[t.node].Name + "/" + cmp.Or(x.Name, x.NetNS.String())
		}
		d.Tables = append(d.Tables, x)
	}
	slices.SortStableFunc(d.Tables, func(a, b TableData) int {
		return cmp.Or(cmp.Compare(b.fillMost(), a.fillMost()), cmp.Compare(b.Highest(), a.Highest()), cmp.Compare(a.NetNS, b.NetNS))
	})
	for _, id := range g.ids {
		d.Findings = append(d.Findings, *g.findings[id])
	}
	slices.SortStableFunc(d.Findings, func(a, b agg.Finding) int { return cmp.Or(a.First.Compare(b.First), cmp.Compare(a.ID, b.ID)) })
	for _, s := range g.scanners {
		d.Scanners = append(d.Scanners, s.data(g, clock))
	}
	g.timeline(d)
	g.omitted(d, top.Folded)
	return d
}

// lines are the busiest sources, column by column, and what is left of all.
func (g *Gatherer) lines(d *Data) {
	d.Others = make([]uint64, len(d.Columns))
	for i := range d.Columns {
		d.Others[i] = d.Columns[i].New
	}
	ranked := g.sources.ranked()
	for _, k := range ranked[:min(lineRows, len(ranked))] {
		s := g.sources.all[k]
		l := Line{NetNS: k.netns, Name: view.AddrText(k.src), Total: s.total, New: make([]uint64, len(d.Columns))}
		for _, p := range s.points {
			i := p.col - g.cols.first()
			l.New[i] += p.n
			d.Others[i] -= min(d.Others[i], p.n)
		}
		d.Lines = append(d.Lines, l)
	}
}

func (t *table) data(clock event.Clock, base int64) TableData {
	return TableData{NetNS: t.ns, Name: t.name, Limit: t.limit, Counted: t.counts, Made: t.made, Columns: coarse(t.all, base, (*Hold).plus), Fine: slices.Clone(t.all), Most: uint64(t.most),
		MostAt: clock.At(t.mostAt), Held: t.held.tree, HeldAt: clock.At(t.held.at), Crossings: slices.Clone(t.crossings)}
}

func (s *scanner) data(g *Gatherer, clock event.Clock) Scanner {
	out := Scanner{Who: view.SourceText(s.who), ID: s.id, ByDst: s.byDst, Seen: s.seen, Every: s.every, Distinct: uint64(len(s.distinct)), AtLeast: s.unsure,
		Dots: slices.Clone(s.dots), Line: slices.Clone(s.line)}
	if f := g.findings[s.id]; f != nil && s.from > 0 && f.First.Before(clock.At(s.from)) {
		out.From = clock.At(s.from)
	}
	return out
}

// timeline joins what has a time.
func (g *Gatherer) timeline(d *Data) {
	d.Marks = slices.Clone(g.marks)
	ktime := func(t time.Time) event.Ktime { return g.o.Clock.Mono + event.Ktime(t.Sub(g.o.Clock.Wall)) }
	for i := range d.Tables {
		t := &d.Tables[i]
		for _, c := range t.Crossings {
			d.Marks = append(d.Marks, Mark{At: c.At, Kind: Crossed, Text: crossingText(t, &c), Table: t.NetNS, Level: slices.Index(levels[:], c.Percent)})
		}
	}
	for i := range d.Findings {
		f := &d.Findings[i]
		kind := Suspected
		if f.State == agg.Confirmed {
			kind = Confirmed
		}
		d.Marks = append(d.Marks, Mark{At: ktime(f.First), Kind: kind, Text: view.Name(f.Class) + ": " + markup.Sentence(f.Why), Table: f.NetNS})
	}
	for i := 0; i < len(d.Columns); i++ {
		if !d.Columns[i].Gap {
			continue
		}
		from, lost := i, uint64(0)
		for ; i < len(d.Columns) && d.Columns[i].Gap; i++ {
			lost += d.Columns[i].Lost
		}
		d.Marks = append(d.Marks, Mark{At: ktime(d.at(from)), Kind: Gap, Text: markup.Plural(lost, "record of ours is missing", "records of ours are missing")})
	}
	slices.SortStableFunc(d.Marks, func(a, b Mark) int { return cmp.Compare(a.At, b.At) })
}

func crossingText(t *TableData, c *Crossing) string {
	at := "over " + strconv.Itoa(c.Percent) + " %"
	switch {
	case c.Down && c.Percent == 100:
		at = "not full any more"
	case c.Down:
		at = "below " + strconv.Itoa(c.Percent) + " %"
	case c.Percent == 100:
		at = "full"
	}
	return t.Text() + " " + at + ": " + count(c.Entries) + " of " + count(c.Limit)
}

// omitted lists what the bounds have left out.
func (g *Gatherer) omitted(d *Data, rows uint64) {
	dots := uint64(0)
	for _, s := range d.Scanners {
		dots += s.Seen - uint64(len(s.Dots))
	}
	var crossings uint64
	for _, t := range g.order {
		crossings += t.uncrossed
	}
	for _, o := range []agg.Omission{
		{What: "sources that made room for others in the picture of sources over time", Count: g.sources.folded},
		{What: "sources that made room for others in the tables of sources", Count: rows},
		{What: "drops in rows that made room for others", Count: d.Ledger.DropsOther.Count},
		{What: "live entries beyond the bound", Count: g.forgot},
		{What: "events of network namespaces beyond the bound", Count: g.folded},
		{What: "findings beyond the bound", Count: g.unkept},
		{What: "settings that were changed, beyond the bound", Count: g.unmarked},
		{What: "crossings of a threshold beyond the bound", Count: crossings},
		{What: "connections of scanners without a dot of their own", Count: dots},
	} {
		if o.Count > 0 {
			d.Omitted = append(d.Omitted, o)
		}
	}
}

// at is when a column begins.
func (d *Data) at(i int) time.Time { return d.Start.Add(time.Duration(i) * d.Width) }

// wall is a time of the capture's clock.
func (d *Data) wall(t event.Ktime) time.Time { return d.Start.Add(t.Sub(d.base)) }

// Span is how long the capture is.
func (d *Data) Span() time.Duration { return d.Last.Sub(d.First) }

// sum adds up columns.
func (d *Data) sum(of func(*Column) uint64) (n uint64) {
	for i := range d.Columns {
		n += of(&d.Columns[i])
	}
	return n
}

// highest is the first column with the most.
func (d *Data) highest(of func(*Column) uint64) (at int, n uint64) {
	for i := range d.Columns {
		if x := of(&d.Columns[i]); x > n {
			at, n = i, x
		}
	}
	return at, n
}

func newOf(c *Column) uint64     { return c.New }
func droppedOf(c *Column) uint64 { return c.Dropped }
func evictedOf(c *Column) uint64 { return c.Evicted }
func peakOf(c *Column) uint64    { return c.Peak }

// perSecond is a count in a column as a rate.
func (d *Data) perSecond(n uint64) float64 {
	if d.Width <= 0 {
		return 0
	}
	return float64(n) / d.Width.Seconds()
}

func count(n uint64) string  { return markup.Count(n) }
func digits(n uint64) string { return strconv.FormatUint(n, 10) }
