package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/triage"
)

// PastConfig says what is made of captures.
type PastConfig struct {
	For  time.Duration // end after so much of the capture's time; 0 is all of it
	Dims []agg.Dim     // of the census; ByNetNS is always among them
}

// Past is what captures tell, added up as a Watch adds up what happens: of a recording
// the same comes out as of the Watch that was recorded.
type Past struct {
	c       PastConfig
	clock   event.Clock
	from    Origin // of the only one; else of the first
	several bool
	start   event.Ktime
	end     event.Ktime

	census *agg.Census
	ledger *agg.Ledger
	batch  []event.Event // not in them yet
	said   *said         // of a capture of lines; nil for others
	seeds  int           // dumps that are under way, of several captures

	states map[int]*Second // by node
	open   []agg.Finding

	reckoning Reckoning
	began     event.Ktime // the first reading had ended, where everything is counted from there
	late      bool        // something had happened before it

	set map[event.NetNS]map[string]int // timeouts that were changed meanwhile, as in timeoutsIn

	holders map[event.NetNS]*agg.Holdings
	heldErr string
	buckets uint64
}

// ErrOneAtATime says that something is to be read of one recording only.
var ErrOneAtATime = errors.New("the kernel's counters of several recordings do not add up: give one, or the directory of one")

// ReadPast reads captures, and closes them. Several are added up in the order of their
// wall time: what has one address in namespaces of one number is one there, of whichever
// machine.
func ReadPast(ctx context.Context, in []Capture, c PastConfig) (*Past, []Replayed, error) {
	if !slices.Contains(c.Dims, agg.ByNetNS) {
		c.Dims = append(slices.Clone(c.Dims), agg.ByNetNS)
	}
	p := &Past{c: c, clock: in[0].Clock(), from: in[0].Origin(), several: len(in) > 1, ledger: agg.NewLedger(agg.LedgerConfig{}), states: map[int]*Second{}}
	config := ReplayConfig{For: c.For, judged: true}
	if p.several {
		p.clock = event.Clock{Wall: time.Unix(0, 0).UTC()}
		var nodes []string
		for _, one := range in {
			nodes = append(nodes, one.Origin().Node)
		}
		read, err := ReplayTogether(ctx, in, config, func(node int, t *Told) {
			if t.State != nil {
				named(t.State, nodes[node])
			}
			p.take(node, t)
		})
		p.done()
		return p, read, err
	}
	if p.from.header == nil {
		p.from.Backend = "text"
		p.said = &said{live: agg.NewLive[event.Status](keepLive, 0)}
	} else {
		p.begin(event.Ktime(p.from.header.Start))
	}
	config.dues, config.Each = p, func(t *Told) { p.take(0, t) }
	read, err := in[0].Replay(ctx, config)
	p.done()
	return p, []Replayed{read}, err
}

// named says of which node tables are.
func named(s *Second, node string) {
	if node == "" {
		return
	}
	for i := range s.Tables {
		t := &s.Tables[i]
		t.Name = node + ":" + cmp.Or(t.Name, t.NetNS.String())
	}
	for i := range s.pools {
		s.pools[i].Name = node + ":" + cmp.Or(s.pools[i].Name, s.pools[i].NetNS.String())
	}
}

// begin begins at a time.
func (p *Past) begin(at event.Ktime) {
	c := agg.CensusConfig{Seed: 1}
	if h := p.from.header; h != nil {
		c = censusOf(h)
	}
	c.Dims = p.c.Dims
	p.start, p.end, p.census = at, at, agg.NewCensus(c, at)
}

// take takes a step.
func (p *Past) take(node int, t *Told) {
	if p.census == nil && t.At > 0 {
		p.begin(t.At)
	}
	if p.census == nil { // an entry that was there, before anything else
		return
	}
	if p.said != nil {
		p.said.judge(p, t.At)
	}
	p.end = max(p.end, t.At)
	if t.Event != nil {
		p.said.note(t.Event)
		if p.batch = append(p.batch, *t.Event); len(p.batch) == agg.Batch {
			p.flush()
		}
		return
	}
	p.flush()
	switch {
	case t.Entry != nil:
		seedCensus(p.census, t.Entry)
	case t.Seen != nil:
		p.said.see(t.Seen)
	case t.Sum != nil:
		p.census.AddSum(t.Sum)
		p.ledger.AddSum(t.Sum)
	case t.State != nil:
		p.state(node, t)
	case t.open != nil:
		p.open = t.open
	case t.step != nil:
		p.step(t)
	case t.judged != nil:
		p.census.Judge(t.judged.contact, t.judged.answered)
	case t.counts != nil && !p.several:
		p.count(t)
	case t.held != nil:
		p.hold(t.held)
	case t.Mark != nil && t.Mark.Sysctl != nil:
		p.changed(t.Mark.Sysctl)
	}
}

// flush counts what waits. A sample counts once: what it stands for comes as sums.
func (p *Past) flush() {
	if len(p.batch) == 0 {
		return
	}
	p.late = p.late || p.reckoning.before == nil
	p.census.AddAll(p.batch)
	for i := range p.batch {
		e := &p.batch[i]
		if p.census.Config().Sums {
			e.Sample = 0
		}
		if e.Time >= p.began && (!p.reckoning.final || e.Time <= p.reckoning.ends) {
			p.ledger.Add(e)
		}
	}
	p.batch = p.batch[:0]
}

// Due is that of the census.
func (p *Past) Due(t event.Ktime, into []agg.Contact) []agg.Contact {
	p.flush()
	return p.census.Due(t, into)
}

func (p *Past) state(node int, t *Told) {
	if t.State.end {
		if !p.several {
			p.end = t.At
		}
		return
	}
	s := *t.State
	s.Tables, s.pools = slices.Clone(s.Tables), slices.Clone(s.pools)
	p.states[node] = &s
}

// step takes one of the census. Of several captures the dumps are one, from the first to
// begin to the last to end.
func (p *Past) step(t *Told) {
	switch {
	case !p.several:
		t.step.do(p.census, t.At)
	case t.step.Seed == seedBegin:
		if p.seeds++; p.seeds == 1 {
			p.census.BeginSeed()
		}
	case t.step.Seed != "" && p.seeds > 0:
		if p.seeds--; p.seeds == 0 {
			p.census.EndSeed(t.At, false)
		}
	}
}

// count takes a part of a reading.
func (p *Past) count(t *Told) {
	if p.reckoning.Take(t); !p.late {
		p.began = p.reckoning.read
	}
}

// hold takes who held the tables.
func (p *Past) hold(s *snapshotEnd) {
	p.holders, p.heldErr, p.buckets = map[event.NetNS]*agg.Holdings{}, s.Why, s.Buckets
	for _, h := range s.Held {
		p.holders[h.NetNS] = h.Held
	}
}

// changed takes a sysctl. Where it was changed in more namespaces than the mark names,
// that goes for all.
func (p *Past) changed(m *SysctlMark) {
	if p.set == nil {
		p.set = map[event.NetNS]map[string]int{}
	}
	in := m.Where
	if m.Namespaces > len(in) {
		in = []Place{{NetNS: everywhere}}
	}
	for _, x := range in {
		if p.set[x.NetNS] == nil {
			p.set[x.NetNS] = map[string]int{}
		}
		p.set[x.NetNS][strings.TrimPrefix(m.Name, "nf_conntrack_")] = int(m.To)
	}
}

// everywhere is no namespace.
const everywhere event.NetNS = 0

// done ends the reading.
func (p *Past) done() {
	if p.census == nil {
		p.begin(0)
	}
	p.flush()
}

// Top returns a picture of the end: see Watch.Top.
func (p *Past) Top(by agg.Dim, c agg.Column, n int, keep func(*agg.Key) bool) *agg.TopDoc {
	doc := &agg.TopDoc{From: p.clock.At(p.start), To: p.clock.At(p.end), Backend: p.from.Backend, BestEffort: lesser(p.from.Backend)}
	doc.Top = p.census.Top(by, c, n, p.end, keep)
	doc.Drops, doc.Findings = doc.Totals.Drop, urgent(p.open)
	for _, node := range slices.Sorted(maps.Keys(p.states)) {
		s := p.states[node]
		for _, t := range s.Tables {
			if !p.several { // of what the filter lets through
				row := p.census.NetNS(t.NetNS, p.end)
				t.Known, t.NewRate = row.Live, row.S1
			}
			doc.Table = append(doc.Table, t)
		}
		doc.Pools = append(doc.Pools, s.pools...)
		doc.PoolSums.Known += s.sums.Known
		doc.PoolSums.Folded += s.sums.Folded
		doc.PoolSums.Lost += s.sums.Lost
		doc.Loss.Plus(&s.Loss)
	}
	return doc
}

// Ledger returns the account of what was read, against the kernel's counters where they
// are in it.
func (p *Past) Ledger() (*agg.Doc, error) {
	if p.several {
		return nil, ErrOneAtATime
	}
	doc := &agg.Doc{From: p.clock.At(max(p.start, p.began)), To: p.clock.At(p.end), Backend: p.from.Backend, Snapshot: p.ledger.Snapshot()}
	if p.reckoning.final {
		doc.To = p.clock.At(p.reckoning.ends)
	}
	if s := p.states[0]; s != nil {
		doc.Loss = s.Loss
	}
	if p.reckoning.account(doc, p.from) && (p.late || !p.reckoning.final) {
		note := fmt.Sprintf("the counters are those from %s to %s", p.clock.At(p.reckoning.read).Format(time.TimeOnly), p.clock.At(p.reckoning.ends).Format(time.TimeOnly))
		for i := range doc.Balance {
			doc.Balance[i].Note = join(doc.Balance[i].Note, note)
		}
	}
	return doc, nil
}

// Triage returns what is known at the end: see Watch.Triage.
func (p *Past) Triage(focus event.NetNS, rows int) (*triage.Doc, error) {
	if p.several || p.from.header == nil {
		return nil, errors.New("a triage needs one recording of ctsight record, which tells how full the tables were")
	}
	return triageOf(p, focus, p.from.Own, rows), nil
}

func (p *Past) topOf(by agg.Dim, c agg.Column, n int, ns event.NetNS) agg.Top {
	return topOf(p.census, by, c, n, ns, p.end)
}

func (p *Past) memory() (object int, buckets uint64) { return p.from.header.EntryBytes, p.buckets }

func (p *Past) heldIn(ns event.NetNS) (*agg.Holdings, string) {
	switch {
	case p.holders == nil:
		return nil, "the recording does not tell"
	case p.heldErr != "":
		return nil, p.heldErr
	}
	return cmp.Or(p.holders[ns], &agg.Holdings{}), ""
}

func (p *Past) lostIn(ns event.NetNS) agg.Exact {
	return exact(p.reckoning.after[ns].ours, p.reckoning.before[ns].ours)
}

func (p *Past) exhausted(ns event.NetNS) []agg.Pool { return exhaustedPools(p.census, ns) }

func (p *Past) place(ns event.NetNS) (at ctnl.NS, timeouts map[string]int) {
	timeouts = sysctlsIn(p.from.header, ns)
	maps.Copy(timeouts, p.set[everywhere])
	maps.Copy(timeouts, p.set[ns])
	maps.DeleteFunc(timeouts, func(name string, _ int) bool { return !strings.Contains(name, "timeout") })
	return p.reckoning.after[ns].ns, timeouts
}

// said is what lines have said of live entries, for what first contacts show.
type said struct {
	live  *agg.Live[event.Status]
	until event.Ktime // contacts were judged
	due   []agg.Contact
}

// note takes an insert or a destroy; nil of what is no capture of lines takes none.
func (s *said) note(e *event.Event) {
	switch {
	case s == nil:
	case e.Kind == event.New:
		s.live.Insert(e.Ptr, e.Status)
	case e.Kind == event.Destroy:
		s.live.Remove(e.Ptr)
	}
}

func (s *said) see(x *Standing) {
	if s == nil {
		return
	}
	if st := s.live.Get(x.Ptr); st != nil {
		*st |= x.Status
	}
}

// judge looks at first contacts once a second, as a Watch does.
func (s *said) judge(p *Past, at event.Ktime) {
	if at < s.until+event.Ktime(lookEvery) {
		return
	}
	for s.until = at; ; {
		s.due = p.Due(at-event.Ktime(agg.JudgeAfter), slices.Grow(s.due[:0], judgeBatch)[:0:judgeBatch])
		if len(s.due) == 0 {
			return
		}
		for i := range s.due {
			if st := s.live.Get(s.due[i].Ptr); st != nil {
				p.census.Judge(&s.due[i], *st&event.SeenReply != 0)
			}
		}
	}
}
