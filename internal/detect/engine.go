// Package detect finds scans, floods, bursts, leaks and outages in the stream of
// events. Detectors are deterministic and live in event time: the same events and
// looks give the same findings, live and after the fact. All state is bounded and
// says what it left out; nothing here reads a clock, does I/O or locks. One
// goroutine owns an Engine.
//
// The unit of evidence is the outcome of a contact of a source with an endpoint
// (destination, port, protocol): answered, refused, unanswered. It is known from
// the destroy of the entry, or from a look at it (Due, Seen), whichever is first.
package detect

import (
	"cmp"
	"net/netip"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/prefetch"
)

// Config says what an Engine watches for. Zero fields get the defaults.
type Config struct {
	Clock event.Clock // for the times in findings
	Seed  uint64      // of the hash tables; a secret where sources may be hostile
	// Tell is called with every finding that is new, has changed its state, or is
	// raised again, in the order of time. It may keep it.
	Tell func(*agg.Finding)
	// Allow says why a source is neither listed nor paged, "" for no reason; nil
	// allows nobody.
	Allow func(netip.Addr, time.Time) string
	// Internal says whether an address is ours; default: what is private, shared,
	// link-local or loopback.
	Internal func(netip.Addr) bool
	// Step, if not nil, is called with every piece of evidence of a scan test.
	Step func(*Step)

	MaxSubjects  int // sources and prefixes, default DefaultSubjects
	MaxRecords   int // of them with evidence of a scan, default 2^14
	MaxIncidents int // default 2^13
}

// DefaultSubjects is how many sources and prefixes are known at a time.
const DefaultSubjects = 1 << 17

// Step is one piece of evidence of a scan test: what happened, what it counted, and
// where the statistic is now.
type Step struct {
	At        event.Ktime
	Contact   Contact
	Outcome   Outcome
	Subject   netip.Prefix // the source, or its prefix
	Key       string       // what is tested: port, destination, source
	Increment float64      // of the log likelihood ratio
	Statistic float64      // after it
	Note      string       // why it counted nothing
}

// Contact is an entry as evidence.
type Contact struct {
	At    event.Ktime // of its insert
	Orig  event.Tuple
	NetNS event.NetNS
	Zone  uint16
}

// State is what is known from elsewhere, once a second.
type State struct {
	Tables []agg.TableState
	Pools  []agg.PoolState
	Loss   agg.Loss
}

// Engine finds incidents.
type Engine struct {
	cfg   Config
	start event.Ktime
	now   event.Ktime // of the last event or tick
	state State

	subjects *table[subject]
	records  int
	edges    *cache // contacts of sources with endpoints
	goods    *cache // endpoints that have answered
	pending  *agg.Live[pending]
	queues   [stages]queue
	scan     scan
	fronts   fronts
	spread   spread
	mirrors  mirrors
	book     book
	places   [batch]place
	lines    [8 * batch]prefetch.Line
	sampling sampling
	swept    event.Ktime
	outage   outage
	bursts   bursting
	filling  filling
	links    links
	services services
	over     Overflow
}

// Overflow counts what the bounds have left out.
type Overflow struct {
	Subjects  uint64 // sources and prefixes that made room for others
	Records   uint64 // with evidence
	Contacts  uint64 // contacts that were not looked at
	Incidents uint64 // findings that made room for others
	Bursts    uint64 // of a source, that were not told
	Links     uint64 // sources with an endpoint that made room for others, or found none
	Services  uint64 // that made room for others, or were not told
}

// Omissions are the counts by name.
func (o *Overflow) Omissions() []agg.Omission {
	return []agg.Omission{{What: "sources", Count: o.Subjects}, {What: "evidence", Count: o.Records}, {What: "contacts", Count: o.Contacts},
		{What: "findings", Count: o.Incidents}, {What: "bursts", Count: o.Bursts}, {What: "links", Count: o.Links}, {What: "services", Count: o.Services}}
}

// batch is how many events are prepared at a time.
const batch = 64

// New returns an engine that begins at a time.
func New(c Config, start event.Ktime) *Engine {
	c.MaxSubjects, c.MaxRecords, c.MaxIncidents = cmp.Or(c.MaxSubjects, DefaultSubjects), cmp.Or(c.MaxRecords, 1<<14), cmp.Or(c.MaxIncidents, 1<<13)
	if c.Internal == nil {
		c.Internal = internal
	}
	if c.Tell == nil {
		c.Tell = func(*agg.Finding) {}
	}
	d := &Engine{cfg: c, start: start, now: start,
		subjects: newSubjects(c.MaxSubjects),
		edges:    newCache(1 << 18), goods: newCache(1 << 16),
		pending: agg.NewLive[pending](1<<18, 0),
	}
	d.links.table = newTable(maxLinks, idlest)
	d.services.table = newTable(maxServices, older)
	d.queues = newQueues()
	d.scan = newScan()
	d.fronts = newFronts(c.Seed, start)
	d.spread = newSpread()
	d.mirrors = newMirrors()
	d.book = newBook(d)
	return d
}

// AddAll takes events in the order of their time. A destroy has its lifetime where
// its insert was seen.
func (d *Engine) AddAll(events []event.Event) {
	for len(events) > 0 {
		n := min(len(events), batch)
		for i := range n {
			d.locate(&d.places[i], &events[i])
		}
		d.touch(events[:n])
		for i := range n {
			d.add(&events[i], &d.places[i])
		}
		events = events[n:]
	}
}

// Add is AddAll of one.
func (d *Engine) Add(e *event.Event) {
	d.locate(&d.places[0], e)
	d.add(e, &d.places[0])
}

func (d *Engine) add(e *event.Event, p *place) {
	d.now = max(d.now, e.Time)
	switch e.Kind {
	case event.New:
		d.arrive(e, p)
	case event.Destroy:
		d.depart(e, p)
	case event.Drop:
		d.fronts.drop(e, p)
		d.dropped(e, p)
		d.filling.note(e)
	case event.Invalid:
		d.segment(e, p)
	}
}

// Tick ends a second of event time. now is no earlier than the last event.
func (d *Engine) Tick(now event.Ktime, s State) {
	d.now, d.state = max(d.now, now), s
	d.outage.tick(d)
	d.mirrors.tick(d)
	d.tickFloods()
	d.scan.tick(d)
	d.spread.tick(d)
	d.filling.tick(d)
	d.links.tick(d)
	d.services.tick(d)
	d.book.tick(d)
}

// Findings returns the incidents that are open, and those that were cleared in the
// last day, the newest first.
func (d *Engine) Findings() []agg.Finding { return d.book.all() }

// Found returns how many incidents were raised since the start, by class.
func (d *Engine) Found() []agg.ClassCount { return byClass(d.book.found) }

// Paged returns how many of these were for a human: confirmed, of severity page, and
// not suppressed.
func (d *Engine) Paged() []agg.ClassCount { return byClass(d.book.paged) }

// Overflow returns what was left out so far.
func (d *Engine) Overflow() Overflow { return d.over }

// second is the time in whole seconds since a day before the start, never 0.
func (d *Engine) second(t event.Ktime) uint32 {
	return uint32(max(0, t.Sub(d.start)/time.Second) + 86400)
}

// internal says whether an address is of a kind that is not routed on the Internet
// (RFC 1918, 6598, 3927, 4193, 4291).
func internal(a netip.Addr) bool {
	return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || sharedSpace.Contains(a)
}

var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")
