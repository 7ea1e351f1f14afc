package pipeline

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/forecast"
	"github.com/ctsight/ctsight/internal/probe"
	"github.com/ctsight/ctsight/internal/record/capture"
)

// Watch keeps a census of a running pipeline: from an open source on, what comes
// and goes is counted, entries from before are taken from one dump of each
// namespace, first contacts are looked at when they are old enough, and the
// kernel's fill is read each second. Its methods may be called by any goroutine.
type Watch struct {
	p     *Pipeline
	clock event.Clock
	start event.Ktime // all programs were in place
	end   event.Ktime // and for the last time; 0 while they are
	walks bool        // the tables are read by Walk, not dumped
	first map[event.NetNS]probe.Counters

	mu        sync.Mutex // guards the census and the feeds; held for one event or one picture
	census    *agg.Census
	tableSeed uint64    // of all tables
	came      uint64    // events and sums
	keeps     *journal  // what serve wants besides; nil elsewhere
	detector  *detector // nil where nobody wants findings
	rec       tape
	levels    levels                                      // of tables, for who records
	crossed   func(t *agg.TableState, from, to agg.Level) // nil for nobody
	batch     []event.Event                               // not in the census yet
	feeds     map[event.NetNS]*forecast.Feed
	recent    struct { // the feed of the last event
		ns   event.NetNS
		feed *forecast.Feed
	}

	nets    sync.Mutex // guards what follows
	tables  map[event.NetNS]*table
	sysctls sysctls // as of the last look, where they are minded
	pools   map[agg.Key]poolForecast
	listErr error

	// Of the goroutine that looks.
	peekErr, walkErr error
	buckets          uint32
	sync             syncState
	holders          map[event.NetNS]*agg.Holdings // as of the last walk over all

	// After Finish.
	last     map[event.NetNS]probe.Counters
	heldErr  error
	heldSize uint64 // buckets
}

// Problems returns what could not be looked at, and what is missing for it. Run
// must have returned.
func (w *Watch) Problems() (out []error) {
	w.nets.Lock()
	defer w.nets.Unlock()
	for _, x := range []struct {
		err  error
		what string
	}{{w.listErr, "network namespaces that are new"}, {w.peekErr, "outcomes of first contacts"}, {w.walkErr, "states of live entries, for the time to full"},
		{w.looksErr(), "which contacts were answered, for detection"}} {
		if x.err != nil {
			out = append(out, fmt.Errorf("not known: %s: %w", x.what, x.err))
		}
	}
	for ino, t := range w.tables {
		if !w.walks && t.err == nil && !t.seeded && t.tries > 0 {
			out = append(out, fmt.Errorf("not known: what was in the table of netns %s: it could not be read", ino))
		}
	}
	return out
}

// table is one namespace's.
type table struct {
	ns     ctnl.NS
	fill   ctnl.Fill
	err    error // of reading the fill
	seeded bool
	tries  int // dumps that failed

	forecaster *forecast.Forecaster
	steps      int
	forecast   forecast.Forecast // of the last step
}

// peeker is a Source that can look at live entries.
type peeker interface{ Peek([]probe.Peek) error }

const (
	lookEvery  = time.Second     // fill, where something happens, and first contacts
	listEvery  = 5 * time.Second // namespaces
	listShare  = 1000            // of the time, where there are many processes to look through
	listLeast  = time.Minute     // but this often
	judgeBatch = 4096
	seedTries  = 5 // dumps of a namespace, one a second
)

// NewWatch begins a census. A zero seed of the configuration is replaced by a
// random one: who knows it can make hash tables slow.
func (p *Pipeline) NewWatch(clock event.Clock, c agg.CensusConfig) *Watch {
	if c.Seed == 0 {
		c.Seed = rand.Uint64()
	}
	c.Sums = p.sums != nil
	w := &Watch{p: p, clock: clock, start: now(), tables: map[event.NetNS]*table{}, feeds: map[event.NetNS]*forecast.Feed{},
		first: map[event.NetNS]probe.Counters{}}
	w.census, w.tableSeed = agg.NewCensus(c, w.start), c.Seed
	for _, x := range p.Counters() {
		w.first[x.NetNS] = x
	}
	if c.Sums {
		p.sums = w.addSum
	}
	return w
}

// Run counts until ctx ends. each, if not nil, sees every event that the filter
// lets through, destroys with their lifetime.
func (w *Watch) Run(ctx context.Context, each func(*event.Event) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { w.look(ctx) })
	if w.detector != nil {
		wg.Go(func() { w.contacts(ctx) })
	}
	if w.rec.Recorder != nil {
		wg.Go(func() { w.mindSysctls(ctx) })
		wg.Go(func() { w.keepRecords(ctx) })
	}
	if b, ok := w.p.Source.(batcher); ok && each == nil {
		return b.RunBatches(ctx, agg.Batch, func(events []event.Event) error {
			w.addAll(events)
			return nil
		})
	}
	return w.p.Source.Run(ctx, func(e *event.Event) error {
		if !w.add(e, each != nil) || each == nil {
			return nil
		}
		return each(e)
	})
}

// batcher is a Source that delivers many events at a time.
type batcher interface {
	RunBatches(ctx context.Context, n int, fn func([]event.Event) error) error
}

// addAll is add for many; it keeps none of them.
func (w *Watch) addAll(events []event.Event) {
	kept := events[:0]
	for i := range events {
		if e := &events[i]; e.Time < w.start || !w.p.cfg.Filter.Match(e) {
			continue
		} else if len(kept) < i {
			kept = append(kept, *e)
		} else {
			kept = events[:i+1] // where it is
		}
	}
	events = kept
	w.lock()
	defer w.mu.Unlock()
	w.came += uint64(len(events))
	w.count(events)
}

// count gives the census and all others their events. The lock is held.
func (w *Watch) count(events []event.Event) {
	w.census.AddAll(events) // which tells destroys their lifetime
	w.record(events)
	for i := range events {
		w.counted(&events[i])
	}
	if w.detector != nil {
		w.detector.engine.AddAll(events)
	}
}

// counted is for what else is made of an event that the census has. The lock is
// held.
func (w *Watch) counted(e *event.Event) {
	w.feed(e)
	if w.keeps != nil {
		w.keeps.add(e)
	}
}

// add counts an event that the filter lets through, at once or with others: the
// census is faster with many. Those of the time when only some of the programs
// were in place are left out: an entry whose insert was told then may have gone
// without a word. Those from before are in the dump.
func (w *Watch) add(e *event.Event, atOnce bool) bool {
	if e.Time < w.start || !w.p.cfg.Filter.Match(e) {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.end != 0 && e.Time > w.end {
		return false
	}
	w.came++
	if atOnce {
		w.flush()
		w.census.Add(e)
		w.record([]event.Event{*e})
		w.counted(e)
		if w.detector != nil {
			w.detector.engine.Add(e)
		}
		return true
	}
	w.batch = append(w.batch, *e)
	if len(w.batch) == agg.Batch {
		w.flush()
	}
	return true
}

// addSum counts what programs have summed up.
func (w *Watch) addSum(x *event.Sum) {
	if x.Last < w.start {
		return
	}
	w.lock()
	defer w.mu.Unlock()
	if w.end != 0 && x.From > w.end {
		return
	}
	w.came++
	w.census.AddSum(x)
	w.feedOf(x.NetNS).Sum(x)
	if w.keeps != nil {
		w.keeps.ledger.AddSum(x)
	}
	if w.rec.Recorder != nil {
		w.rec.Sum(x)
	}
	if w.detector != nil {
		w.detector.engine.AddSum(x)
	}
}

// flush counts the events that wait. The lock is held.
func (w *Watch) flush() {
	w.count(w.batch)
	w.batch = w.batch[:0]
}

// lock is for all who look at the census: nothing waits then.
func (w *Watch) lock() {
	w.mu.Lock()
	w.flush()
}

// now is the time of a picture: that of the end, when there is one. The lock is
// held.
func (w *Watch) now() event.Ktime {
	if w.end != 0 {
		return w.end
	}
	return now()
}

// look does once in a while what events do not do.
func (w *Watch) look(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var l looked
	for {
		if conntrackLoaded() { // or it may come back by itself, because somebody has asked
			w.lookOnce(ctx, &l)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// looked is when what was looked at.
type looked struct {
	listed, read time.Time // namespaces, fills
	every        time.Duration
	came         uint64 // when the fills were read
}

func (w *Watch) lookOnce(ctx context.Context, l *looked) {
	t := time.Now()
	if t.Sub(l.listed) >= max(l.every, listEvery) || w.strangers() {
		l.listed = t
		w.list()
		l.every = min(listShare*time.Since(t), listLeast)
	}
	w.resync()
	w.seed(ctx)
	if came := w.cameSoFar(); came != l.came || t.Sub(l.read) >= listEvery {
		w.fills()
		w.bound()
		l.read, l.came = t, came
	}
	w.judge()
	w.forecast()
	w.second()
}

// cameSoFar is a number that is another when something has happened.
func (w *Watch) cameSoFar() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.came
}

// strangers says whether there were events of a namespace that is not listed.
func (w *Watch) strangers() bool {
	w.nets.Lock()
	defer w.nets.Unlock()
	w.lock()
	defer w.mu.Unlock()
	for ns := range w.feeds {
		if w.tables[ns] == nil {
			return true
		}
	}
	return false
}

// list takes up namespaces that are new and forgets those that have gone.
func (w *Watch) list() {
	all, err := ctnl.ListAllNetNS()
	w.nets.Lock()
	defer w.nets.Unlock()
	if w.listErr = err; err != nil {
		return
	}
	there := map[event.NetNS]bool{}
	for _, ns := range all {
		there[ns.Inode] = true
		if t := w.tables[ns.Inode]; t == nil {
			w.tables[ns.Inode] = &table{ns: ns}
		} else {
			t.ns = ns // its name, and a path that still leads there
		}
	}
	w.lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(w.tables, func(ino event.NetNS, t *table) bool {
		if !there[ino] && (t.fill.Count > 0 || w.feeds[ino] != nil) {
			w.sync.left++
		}
		return !there[ino]
	})
	maps.DeleteFunc(w.feeds, func(ino event.NetNS, _ *forecast.Feed) bool { return !there[ino] })
	w.recent.feed = nil
}

// seed dumps the namespaces that were not dumped yet, one after the other.
func (w *Watch) seed(ctx context.Context) {
	var todo []*table
	for _, t := range w.all() {
		if !t.seeded && t.tries < seedTries {
			todo = append(todo, w.tables[t.ns.Inode])
		}
	}
	if len(todo) == 0 {
		return
	}
	read := w.dump
	if w.walks {
		read = w.walkOnce()
	}
	begin, held := time.Now(), w.held()
	w.lock()
	if w.sync.begin(begin, w.gone()) {
		w.census.Forget(held)
		w.recordStep(w.now(), censusStep{Forget: &held})
	}
	w.census.BeginSeed()
	w.recordStep(w.now(), censusStep{Seed: seedBegin})
	w.mu.Unlock()
	whole := true
	for _, t := range todo {
		err := read(ctx, t.ns)
		whole = whole && err == nil
		w.nets.Lock()
		if t.seeded = err == nil; !t.seeded {
			t.tries++
		}
		w.nets.Unlock()
	}
	w.lock()
	at, how := now(), seedEnd
	w.census.EndSeed(at, whole)
	if whole {
		how = seedWhole
	}
	w.recordStep(at, censusStep{Seed: how})
	w.mu.Unlock()
	w.sync.took = time.Since(begin)
}

// dump tells the census what is in a namespace. One that was cut short, by a
// resize of the hash table say, is begun again: what is told twice counts once.
func (w *Watch) dump(ctx context.Context, ns ctnl.NS) error {
	found := seeds{w: w}
	defer found.flush()
	return w.dumpTo(ctx, ns, found.add)
}

// dumpTo calls fn for the entries of a namespace.
func (w *Watch) dumpTo(ctx context.Context, ns ctnl.NS, fn func(event.Event)) error {
	conn, err := ctnl.Dial(ns)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Dump(ctx, func(e *ctnl.Entry) error {
		fn(event.Event{Kind: event.New, Time: now(), NetNS: ns.Inode, Zone: e.Zone, Mark: e.Mark, Orig: e.Orig, Reply: e.Reply, Status: e.Status,
			TCPState: e.TCPState, Timeout: e.Timeout})
		return nil
	})
}

// seeds are entries that were there, on their way to the census: many at a time, for
// under a flood each waits for the events, and those for it.
type seeds struct {
	w   *Watch
	all []event.Event
}

func (s *seeds) add(e event.Event) {
	if !s.w.p.cfg.Filter.Match(&e) {
		return
	}
	if s.all = append(s.all, e); len(s.all) == agg.Batch {
		s.flush()
	}
}

// flush tells the census of those that it was not told of yet.
func (s *seeds) flush() {
	w := s.w
	if w.rec.Recorder != nil {
		w.rec.Wait()
	}
	w.lock()
	defer w.mu.Unlock()
	for i := range s.all {
		if e := &s.all[i]; seedCensus(w.census, e) {
			w.detector.seeded(e)
			if w.rec.Recorder != nil {
				w.rec.Events(capture.Entries, s.all[i:i+1])
			}
		}
	}
	s.all = s.all[:0]
}

// fills reads count and limit of each namespace. A path may lead there no more,
// that of a process which has ended say: then another is looked for.
func (w *Watch) fills() {
	lost := false
	for _, t := range w.all() {
		lost = w.fill(t.ns) != nil || lost
	}
	if !lost {
		return
	}
	w.list()
	for _, t := range w.all() {
		if t.err != nil {
			_ = w.fill(t.ns) // stays in the table
		}
	}
}

func (w *Watch) fill(ns ctnl.NS) error {
	var f ctnl.Fill
	conn, err := ctnl.Dial(ns)
	if err == nil {
		f, err = conn.Fill()
		err = errors.Join(err, conn.Close())
	}
	w.nets.Lock()
	defer w.nets.Unlock()
	if t := w.tables[ns.Inode]; t != nil {
		if t.err = err; err == nil {
			t.fill = f
		}
	}
	return err
}

// all returns copies of the tables, by number.
func (w *Watch) all() []table {
	w.nets.Lock()
	defer w.nets.Unlock()
	var out []table
	for _, ino := range slices.Sorted(maps.Keys(w.tables)) {
		out = append(out, *w.tables[ino])
	}
	return out
}

// judge looks at the first contacts that are old enough, where entries can be
// looked at. No lock is held meanwhile, and what is destroyed in between has
// judged itself.
func (w *Watch) judge() {
	p, ok := w.p.Source.(peeker)
	if !ok || w.peekErr != nil {
		return
	}
	contacts := make([]agg.Contact, 0, judgeBatch)
	for {
		w.lock()
		until := now() - event.Ktime(agg.JudgeAfter)
		contacts = w.census.Due(until, contacts)
		w.recordStep(until, censusStep{Due: true})
		w.mu.Unlock()
		if len(contacts) == 0 {
			return
		}
		q := make([]probe.Peek, len(contacts))
		for i, c := range contacts {
			q[i] = probe.Peek{Ptr: c.Ptr, Orig: c.Orig, Zone: c.Zone, NetNS: c.NetNS}
		}
		if w.peekErr = p.Peek(q); w.peekErr != nil {
			return
		}
		w.lock()
		for i := range q {
			if q[i].Result == probe.PeekLive {
				w.census.Judge(&contacts[i], q[i].Status&event.SeenReply != 0)
			}
		}
		w.recordJudged(contacts, q)
		w.mu.Unlock()
	}
}

// Top returns a picture of now: the first n rows of a dimension by a column.
func (w *Watch) Top(by agg.Dim, c agg.Column, n int, keep func(*agg.Key) bool) *agg.TopDoc {
	doc := &agg.TopDoc{From: w.clock.At(w.start), Backend: w.p.Report().Backend, Loss: w.p.loss()}
	doc.BestEffort = lesser(doc.Backend)
	tables, ahead := w.all(), w.poolsAhead()
	w.lock()
	defer w.mu.Unlock()
	at := w.now()
	doc.To = w.clock.At(at)
	doc.Top = w.census.Top(by, c, n, at, keep)
	doc.Drops, doc.Findings = doc.Totals.Drop, w.detector.urgent()
	doc.Table = w.tableStates(tables, at)
	doc.Pools, doc.PoolSums = w.poolStates(tables, ahead)
	return doc
}

// tableStates says how full the tables are. The lock is held.
func (w *Watch) tableStates(tables []table, at event.Ktime) (out []agg.TableState) {
	only := w.p.cfg.Filter.Kernel().NetNS
	for _, t := range tables {
		if only != 0 && t.ns.Inode != only { // of which no event is let through
			continue
		}
		row := w.census.NetNS(t.ns.Inode, at)
		s := agg.TableState{NetNS: t.ns.Inode, Name: t.ns.Name, Entries: uint64(t.fill.Count), Max: uint64(t.fill.Max),
			Known: row.Live, Seeded: t.seeded, NewRate: row.S1}
		if t.err != nil {
			s.Err = t.err.Error()
		}
		s.Level = agg.LevelOf(s.Fill())
		if t.steps >= minSteps {
			s.Forecast = true
			s.TimeToFull, s.FullLow, s.FullHigh = inSeconds(t.forecast.TimeToFull), inSeconds(t.forecast.Low), inSeconds(t.forecast.High)
			s.Saturation = t.forecast.Saturation
		}
		out = append(out, s)
	}
	return out
}

// Detail returns a row as it is now, its edges, and the lifetimes of its entries
// since it was first asked for.
func (w *Watch) Detail(by agg.Dim, c agg.Column, k agg.Key, n int) (row agg.TopRow, edges agg.Top, l agg.Lifetimes) {
	w.lock()
	defer w.mu.Unlock()
	at := w.now()
	row, _ = w.census.Row(by, k, at)
	return row, w.census.Top(agg.ByEdge, c, n, at, k.Holds), w.census.Focus(by, k)
}

// Seeded says whether the tables of all namespaces that are known have been read.
func (w *Watch) Seeded() bool {
	all := w.all()
	return len(all) > 0 && !slices.ContainsFunc(all, func(t table) bool { return !t.seeded })
}

// Finish takes a last reading, ends the counting, and counts what the programs
// had told until then. Run must have returned. Programs go one after the other,
// which takes a while: from the first on nothing counts.
func (w *Watch) Finish() error {
	w.fills()
	w.lastCounts()
	w.lock()
	w.end = now()
	w.mu.Unlock()
	done, cancel := context.WithCancel(context.Background())
	cancel()
	err := errors.Join(w.p.Detach(), w.p.Source.Run(done, func(e *event.Event) error {
		w.add(e, false)
		return nil
	}))
	if w.walks || w.rec.Recorder != nil {
		w.heldSize, w.heldErr = w.walkHeld(nil, nil)
	}
	if w.rec.Recorder != nil {
		s := snapshotEnd{Buckets: w.heldSize, Held: w.heldRows()}
		if w.heldErr != nil {
			s.Why = w.heldErr.Error()
		}
		w.note(capture.Held, s)
	}
	w.second()
	w.lock()
	if w.detector != nil {
		w.detector.engine.End(w.now())
	}
	w.recordSecond(w.now(), secondState{Loss: w.p.loss(), End: true})
	w.mu.Unlock()
	if w.detector != nil {
		w.handOut()
	}
	return err
}

// lastCounts are what the programs have counted until now.
func (w *Watch) lastCounts() {
	if w.rec.Recorder != nil {
		w.recordCounts(true)
	}
	w.last = map[event.NetNS]probe.Counters{}
	for _, x := range w.p.Counters() {
		w.last[x.NetNS] = x
	}
}
