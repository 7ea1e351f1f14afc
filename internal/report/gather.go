package report

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/view"
)

// Gatherer adds up a capture. Its methods are called in order of time, by one goroutine.
type Gatherer struct {
	o           Options
	any         bool
	first, last event.Ktime
	told        uint64 // events
	summed      uint64 // that came as sums only
	strangers   uint64 // ends of entries that were not seen to begin

	cols     columns
	node     int // of what is told
	nodes    []Node
	tables   map[place]*table
	order    []*table // as they were first told of
	folded   uint64   // events of tables beyond maxTables
	live     *agg.Live[entry]
	forgot   uint64 // entries that found no room
	held     helds  // of live entries, by entry.at
	sources  sources
	census   *agg.Census
	batch    []event.Event // that the census has not counted yet
	ledger   *agg.Ledger
	peak     peak
	lossTold bool
	lost     uint64
	account  map[int]account

	balance            []agg.BalanceRow
	countFrom, countTo event.Ktime

	findings map[string]*agg.Finding
	ids      []string // in the order in which they were first told
	unkept   uint64   // findings beyond maxFindings
	marks    []Mark
	unmarked uint64
	scanners []*scanner
	recent   recent
}

// place is where a table is.
type place struct {
	node  int
	netns event.NetNS
}

// account is what a node has said of its lost records so far.
type account struct {
	at   event.Ktime
	lost uint64
}

// entry is a live one.
type entry struct {
	since event.Ktime // 0 for one from before
	at    uint32      // of its held
	class Class
}

// New returns a Gatherer that was told nothing.
func New(o Options) *Gatherer {
	return &Gatherer{o: o, tables: map[place]*table{}, account: map[int]account{}, live: agg.NewLive[entry](maxLive, 0), sources: newSources(),
		ledger: agg.NewLedger(agg.LedgerConfig{}), findings: map[string]*agg.Finding{}}
}

// From says which machine that is that tells what follows, by a number that is its own.
func (g *Gatherer) From(n int, node Node) {
	for len(g.nodes) <= n {
		g.nodes = append(g.nodes, Node{})
	}
	g.node, g.nodes[n] = n, node
}

// Event takes an insert, a destroy, a lost packet or a note, which it may change. A
// destroy has its lifetime where that is known. A sample counts once: what it stands for
// comes as sums.
func (g *Gatherer) Event(e *event.Event) {
	g.advance(e.Time)
	e.Time, e.Sample = g.last, 0 // what is told late happens now
	e.HasLifetime = e.HasLifetime && 0 <= e.Lifetime && e.Lifetime <= maxLife
	g.told++
	c := g.cols.last()
	if e.Kind == event.Destroy {
		g.leave(e)
	}
	g.ledger.Add(e)
	if g.batch = append(g.batch, *e); len(g.batch) == agg.Batch {
		g.count()
	}
	switch e.Kind {
	case event.New:
		g.insert(e, c)
	case event.Destroy:
		g.destroy(e, c)
	case event.Drop:
		if !e.Reason.IsRuleset() {
			c.Dropped++
		}
	}
}

// count has the census count what is waiting: many at once cost it a third less.
func (g *Gatherer) count() {
	g.census.AddAll(g.batch)
	g.batch = g.batch[:0]
}

// Entry takes one that was in the table before the capture began, and is told now.
func (g *Gatherer) Entry(e *event.Event) {
	g.advance(e.Time)
	if t := g.table(e.NetNS); t != nil && g.live.Get(key(e.NetNS, e.Zone, e.Ptr, &e.Orig)) == nil {
		g.enter(e, t, 0)
	}
}

// Sum takes what was not told one by one. Of it are known time, source and kind.
func (g *Gatherer) Sum(x *event.Sum) {
	g.advance(x.Last)
	g.summed += x.N
	c := g.cols.last()
	g.ledger.AddSum(x)
	g.count()
	g.census.AddSum(x)
	switch {
	case x.Kind == event.New:
		c.New += x.N
		g.sources.add(x.NetNS, x.Src, g.cols.now(), x.N)
	case x.Kind == event.Destroy:
		c.Destroyed += x.N
		if x.Cause == event.EarlyDrop || x.Cause == event.EarlyDropGC {
			c.Evicted += x.N
		}
	case x.Kind == event.Drop && !x.Reason.IsRuleset():
		c.Dropped += x.N
	}
}

// State takes what is known once a second: the tables, and the account of the records
// since the beginning.
func (g *Gatherer) State(at event.Ktime, tables []agg.TableState, loss agg.Loss) {
	there := map[event.NetNS]bool{}
	for i := range tables {
		t := &tables[i]
		if there[t.NetNS] = true; t.Err == "" {
			g.Table(at, Table{NetNS: t.NetNS, Name: t.Name, Entries: t.Entries, Max: t.Max})
		}
	}
	for _, t := range g.order {
		if t.node == g.node && t.told && !there[t.ns] {
			g.gone(t, sane(at))
		}
	}
	was := g.account[g.node]
	if was.at == 0 {
		was.at = at - step
	}
	if loss.Lost < was.lost {
		was.lost = 0 // another recording of this node, which began to count anew
	}
	g.Loss(Loss{From: was.at, To: at, Lost: loss.Lost - was.lost})
	g.account[g.node] = account{at, loss.Lost}
}

// Balance takes what the kernel's counters say in the end, of the time between two
// readings of them.
func (g *Gatherer) Balance(rows []agg.BalanceRow, from, to event.Ktime) {
	g.balance, g.countFrom, g.countTo = rows, from, to
}

// gone ends a table whose namespace is not there any more; not every backend tells the
// end of its entries.
func (g *Gatherer) gone(t *table, at event.Ktime) {
	var rest []uint64
	for k, x := range g.live.All() {
		if g.held.at(x.at).table == t.index {
			rest = append(rest, k)
		}
	}
	for _, k := range rest {
		x, _ := g.live.Remove(k)
		g.release(x)
	}
	g.mark(Mark{At: at, Kind: Gone, Text: cmp.Or(view.Name(t.name), "netns "+t.ns.String()) + " is gone, with " + markup.Plural(max(t.kernel, uint64(len(rest))), "entry", "entries"), Table: t.ns})
	t.told, t.kernel, t.now.Kernel = false, 0, 0
	t.level = 0
}

// Status takes what became of a live entry.
func (g *Gatherer) Status(s Status) {
	g.advance(s.Time)
	x := g.live.Get(key(s.NetNS, s.Zone, s.Ptr, &s.Orig))
	if x == nil {
		return
	}
	h := g.held.at(x.at)
	now := classOf(h.proto, s.Bits)
	if now <= x.class { // an answer is not taken back
		return
	}
	g.order[h.table].move(x.class, now)
	x.class = now
}

// Table takes what the kernel counted, about once a second.
func (g *Gatherer) Table(at event.Ktime, t Table) {
	g.advance(at)
	if g.tables[place{g.node, t.NetNS}] == nil && t.Entries == 0 {
		return // of most namespaces there is nothing to tell
	}
	if x := g.table(t.NetNS); x != nil {
		x.counted(g, at, t)
	}
}

// Loss takes what is known of records that are missing. A capture that tells nothing
// of it is one of which that is not known.
func (g *Gatherer) Loss(l Loss) {
	l.From, l.To = sane(l.From), sane(l.To)
	g.advance(l.To)
	g.lossTold = true
	g.lost += l.Lost
	g.cols.lose(l)
}

// Change takes a setting that was changed.
func (g *Gatherer) Change(c Change) {
	g.advance(c.Time)
	g.mark(Mark{At: c.Time, Kind: Changed, Text: view.Text(c.Name) + ": " + view.Text(c.From) + " → " + view.Text(c.To)})
}

// Found takes a finding each time that it is told.
func (g *Gatherer) Found(f *agg.Finding) {
	if old := g.findings[f.ID]; old != nil {
		was := *old
		*old = *f
		if was.State == agg.Confirmed && f.State == agg.Cleared && !f.Excused {
			old.State = agg.Confirmed // it is over, and was true
		}
		return
	}
	if len(g.findings) >= maxFindings {
		g.unkept++
		return
	}
	c := *f
	g.findings[f.ID] = &c
	g.ids = append(g.ids, f.ID)
	g.watch(f)
}

// sane is a time of this era: those of a file that is damaged may be any.
func sane(at event.Ktime) event.Ktime { return min(max(at, 0), maxTime) }

// advance brings the columns to a time.
func (g *Gatherer) advance(at event.Ktime) {
	at = sane(at)
	if !g.any {
		g.any, g.first, g.last = true, at, at
		g.cols.begin(at)
		g.census = agg.NewCensus(agg.CensusConfig{Dims: []agg.Dim{agg.BySrc, agg.ByDst}, MaxRows: maxCensus, MaxLive: maxLive, MaxJudged: 1, Sums: true}, at)
	}
	if at <= g.last {
		return
	}
	for _, t := range g.order {
		t.steps(g, at)
	}
	for !g.cols.fits(at) {
		g.halve()
	}
	g.cols.extend(at)
	for _, t := range g.order {
		t.fill(len(g.cols.all))
	}
	g.last = at
}

// halve makes columns twice as wide.
func (g *Gatherer) halve() {
	g.sources.halve()
	for _, t := range g.order {
		t.all = pairs(t.all, g.cols.base, (*Hold).plus)
	}
	g.cols.halve()
}

func (g *Gatherer) insert(e *event.Event, c *Column) {
	c.New++
	c.Peak = max(c.Peak, g.peak.add(e.Time))
	g.sources.add(e.NetNS, e.Orig.Src, g.cols.now(), 1)
	g.recent.add(e)
	for _, s := range g.scanners {
		s.take(e)
	}
	t := g.table(e.NetNS)
	if t == nil {
		return
	}
	t.born(e)
	g.enter(e, t, e.Time)
}

// enter notes a live entry.
func (g *Gatherer) enter(e *event.Event, t *table, since event.Ktime) {
	k := key(e.NetNS, e.Zone, e.Ptr, &e.Orig)
	for _, old := range [...]uint64{k, key(e.NetNS, e.Zone, 0, &e.Orig)} {
		if x, ok := g.live.Remove(old); ok { // its end was not told, or it was known without its address
			g.release(x)
		}
	}
	h := held{src: e.Orig.Src, dport: e.Orig.Dport, proto: e.Orig.Proto, table: t.index}
	if e.Orig.IsICMP() {
		h.dport = 0
	}
	x := entry{since: since, at: g.held.put(h), class: classOf(e.Orig.Proto, e.Status)}
	if !g.live.Insert(k, x) {
		g.held.release(x.at)
		g.forgot++
		return
	}
	t.enter(g, x.class, e.Time)
}

// key is where the live table has an entry: at its address, or where that is not known
// by its tuple. No address of the kernel, and none that a capture in text makes up, has
// the upper two bits as those.
func key(ns event.NetNS, zone uint16, ptr uint64, t *event.Tuple) uint64 {
	if ptr != 0 {
		return ptr
	}
	src, dst := t.Src.As16(), t.Dst.As16()
	h := uint64(14695981039346656037) // FNV-1a, by words
	for _, w := range [...]uint64{binary.LittleEndian.Uint64(src[:]), binary.LittleEndian.Uint64(src[8:]), binary.LittleEndian.Uint64(dst[:]), binary.LittleEndian.Uint64(dst[8:]),
		uint64(t.Sport)<<32 | uint64(t.Dport)<<16 | uint64(t.Proto), uint64(ns)<<16 | uint64(zone)} {
		h = (h ^ w) * 1099511628211
		h ^= h >> 29
	}
	return h>>2 | 1<<62
}

func (g *Gatherer) release(x entry) {
	g.order[g.held.at(x.at).table].leave(x.class)
	g.held.release(x.at)
}

func (g *Gatherer) destroy(e *event.Event, c *Column) {
	c.Destroyed++
	if e.Cause == event.EarlyDrop || e.Cause == event.EarlyDropGC {
		c.Evicted++
	}
	if e.HasLifetime {
		c.Lives[lifeBucket(e.Lifetime)]++
	}
	if t := g.table(e.NetNS); t != nil {
		t.died(e)
	}
}

// leave takes an entry out of the table, and gives its end a lifetime where it was seen to
// begin and the capture has none.
func (g *Gatherer) leave(e *event.Event) {
	x, ok := g.live.Remove(key(e.NetNS, e.Zone, e.Ptr, &e.Orig))
	if !ok && e.Ptr != 0 { // one that was there before is known by its tuple
		x, ok = g.live.Remove(key(e.NetNS, e.Zone, 0, &e.Orig))
	}
	if !ok {
		g.strangers++
		return
	}
	if !e.HasLifetime && x.since > 0 {
		e.Lifetime, e.HasLifetime = e.Time.Sub(x.since), true
	}
	g.release(x)
}

// table is that of a namespace, nil for one beyond the bound.
func (g *Gatherer) table(ns event.NetNS) *table {
	t := g.tables[place{g.node, ns}]
	if t == nil {
		if len(g.tables) >= maxTables {
			g.folded++
			return nil
		}
		t = newTable(ns, g.o.Max)
		t.node, t.index = g.node, uint8(len(g.order))
		t.fill(len(g.cols.all))
		g.tables[place{g.node, ns}] = t
		g.order = append(g.order, t)
	}
	return t
}

// toldOf says whether a change of a setting was just told.
func (g *Gatherer) toldOf(name string, at event.Ktime) bool {
	n := len(g.marks)
	return n > 0 && g.marks[n-1].Kind == Changed && strings.HasPrefix(g.marks[n-1].Text, name+":") && at-g.marks[n-1].At < 2*step
}

func (g *Gatherer) mark(m Mark) {
	if len(g.marks) >= maxMarks {
		g.unmarked++
		return
	}
	g.marks = append(g.marks, m)
}

// sourceKey is who opens connections.
type sourceKey struct {
	netns event.NetNS
	src   netip.Addr
}

func (k sourceKey) compare(o sourceKey) int {
	return cmp.Or(cmp.Compare(k.netns, o.netns), k.src.Compare(o.src))
}

// sources are the connections of the busiest sources over time. All of them together
// are in the columns, so that what is folded away needs no sum.
type sources struct {
	all    map[sourceKey]*series
	folded uint64 // sources that made room for others
	last   *series
	lastIs sourceKey
}

// series is a count by column, without columns that have none.
type series struct {
	total  uint64
	points []point
}

// point is a count in a column, which is numbered from the beginning of time.
type point struct {
	col int64
	n   uint64
}

func newSources() sources { return sources{all: map[sourceKey]*series{}} }

func (s *sources) add(ns event.NetNS, src netip.Addr, col int64, n uint64) {
	k := sourceKey{ns, src}
	if s.last == nil || s.lastIs != k {
		x := s.all[k]
		if x == nil {
			if len(s.all) >= maxSources {
				s.fold()
			}
			x = &series{}
			s.all[k] = x
		}
		s.last, s.lastIs = x, k
	}
	s.last.add(col, n)
}

func (s *series) add(col int64, n uint64) {
	s.total += n
	if i := len(s.points) - 1; i >= 0 && s.points[i].col == col {
		s.points[i].n += n
		return
	}
	s.points = append(s.points, point{col, n})
}

// fold forgets the smaller half.
func (s *sources) fold() {
	ranked := s.ranked()
	for _, k := range ranked[len(ranked)/2:] {
		delete(s.all, k)
		s.folded++
	}
	s.last = nil
}

// ranked are the sources, the busiest first.
func (s *sources) ranked() []sourceKey {
	type row struct {
		sourceKey
		total uint64
	}
	rows := make([]row, 0, len(s.all))
	for k, x := range s.all {
		rows = append(rows, row{k, x.total})
	}
	slices.SortFunc(rows, func(a, b row) int { return cmp.Or(cmp.Compare(b.total, a.total), a.compare(b.sourceKey)) })
	out := make([]sourceKey, len(rows))
	for i := range rows {
		out[i] = rows[i].sourceKey
	}
	return out
}

func (s *sources) halve() {
	for _, x := range s.all {
		out := x.points[:0]
		for _, p := range x.points {
			p.col >>= 1
			if i := len(out) - 1; i >= 0 && out[i].col == p.col {
				out[i].n += p.n
			} else {
				out = append(out, p)
			}
		}
		x.points = out
	}
}
