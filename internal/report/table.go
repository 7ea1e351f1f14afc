package report

import (
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/forecast"
)

// Class is what sort of entry holds a place in the table.
type Class uint8

// Classes, from what is easiest to lose to what is not: an entry only ever moves up
// within its protocol.
const (
	TCPSilent   Class = iota // no answer yet
	TCPAnswered              // handshake not finished
	TCPAssured
	UDPSilent
	UDPAnswered
	ICMP
	OtherProto
	NumClasses
)

var classNames = [NumClasses]string{"tcp, no answer", "tcp, answered", "tcp, assured", "udp, no answer", "udp, answered", "icmp", "other"}

// String returns what the pictures call it.
func (c Class) String() string { return classNames[min(c, NumClasses-1)] }

func classOf(proto uint8, s event.Status) Class {
	switch proto {
	case event.ProtoTCP:
		switch {
		case s&event.Assured != 0:
			return TCPAssured
		case s&event.SeenReply != 0:
			return TCPAnswered
		}
		return TCPSilent
	case event.ProtoUDP, event.ProtoUDPLite:
		if s&event.SeenReply != 0 {
			return UDPAnswered
		}
		return UDPSilent
	case event.ProtoICMP, event.ProtoICMPv6:
		return ICMP
	}
	return OtherProto
}

// Hold is what a table held in a column, at the moment of it at which that was most.
type Hold struct {
	By          [NumClasses]uint32
	Total       uint32
	Kernel, Max uint64 // the highest count of the kernel and its limit, 0 where they are not known
	// Full is when the forecast at the end of the column had the table full, in
	// seconds from there; notKnown and never are below 0.
	Full float32
}

const (
	never    = -1
	notKnown = -2
)

// plus adds the column after it.
func (h *Hold) plus(o *Hold) {
	if o.Total >= h.Total { // of equals the last, which knows more of its entries
		h.By, h.Total = o.By, o.Total
	}
	h.Kernel, h.Full = max(h.Kernel, o.Kernel), o.Full
	if o.Max > 0 {
		h.Max = o.Max
	}
}

// table follows the entries of one network namespace.
type table struct {
	node      int
	index     uint8 // of Gatherer.order
	ns        event.NetNS
	name      string
	limit     uint64
	kernel    uint64 // as last counted
	told      bool   // the kernel's count was told
	counts    bool   // it was at some time
	now       Hold
	all       []Hold // by column
	most      uint32
	mostAt    event.Ktime
	held      snapshot // near the time when it held most
	made      uint64
	level     int // of levels, that it is over
	feed      forecast.Feed
	caster    *forecast.Forecaster
	stepped   event.Ktime
	outlook   Outlook
	stepsDone int
	crossings []Crossing
	uncrossed uint64 // crossings that found no room
}

func newTable(ns event.NetNS, limit uint64) *table {
	return &table{ns: ns, limit: limit, now: Hold{Max: limit, Full: notKnown}}
}

// fill appends columns in which nothing changes.
func (t *table) fill(n int) {
	for len(t.all) < n {
		h := t.now
		t.all = append(t.all, h)
	}
}

func (t *table) born(e *event.Event) {
	t.made++
	if t.limit > 0 { // or there is no forecast, and nobody who makes the feed forget
		t.feed.New(e.Time)
	}
}

// died tells the forecast, which has no room for what was born before all time.
func (t *table) died(e *event.Event) {
	if t.limit > 0 && (!e.HasLifetime || event.Ktime(e.Lifetime) <= e.Time) {
		t.feed.Destroy(e)
	}
}

// enter notes an entry that came.
func (t *table) enter(g *Gatherer, c Class, at event.Ktime) {
	t.now.By[c]++
	t.now.Total++
	if last := &t.all[len(t.all)-1]; t.now.Total > last.Total {
		last.By, last.Total = t.now.By, t.now.Total
	}
	if t.now.Total > t.most {
		t.most, t.mostAt = t.now.Total, at
		// Looked at once for each tenth that it grows: all looks together cost eleven
		// times the last.
		if uint64(t.most)*10 > t.held.n*11 {
			t.held = g.look(t, at)
		}
	}
	if !t.told {
		t.cross(at, uint64(t.now.Total))
	}
}

func (t *table) leave(c Class) {
	t.now.By[c]--
	t.now.Total--
}

func (t *table) move(from, to Class) {
	t.now.By[from]--
	t.now.By[to]++
	if last := &t.all[len(t.all)-1]; last.Total == t.now.Total {
		last.By = t.now.By
	}
}

// limitName is the setting that is a table's limit.
const limitName = "nf_conntrack_max"

// counted takes the kernel's own numbers.
func (t *table) counted(g *Gatherer, at event.Ktime, k Table) {
	t.told, t.counts, t.kernel = true, true, k.Entries
	if k.Name != "" {
		t.name = k.Name
	}
	if k.Max > 0 && t.limit > 0 && t.limit != k.Max && !g.toldOf(limitName, at) {
		g.mark(Mark{At: at, Kind: Changed, Text: limitName + ": " + count(t.limit) + " → " + count(k.Max), Table: t.ns})
	}
	if k.Max > 0 {
		t.limit = k.Max
	}
	t.now.Kernel, t.now.Max = t.kernel, t.limit
	last := &t.all[len(t.all)-1]
	last.Kernel, last.Max = max(last.Kernel, t.kernel), t.limit
	t.cross(at, t.kernel)
}

// entries is the best count there is.
func (t *table) entries() uint64 {
	if t.told {
		return t.kernel
	}
	return uint64(t.now.Total)
}

// Crossing is when a table came over a share of its limit, or went below it, and what
// the forecast was just before.
type Crossing struct {
	At      event.Ktime
	Percent int
	Down    bool
	Entries uint64
	Limit   uint64
	Outlook Outlook
}

// Outlook is a forecast as it stood.
type Outlook struct {
	At              event.Ktime
	Known           bool
	Full, Low, High time.Duration // until then; forecast.Never
}

// levels are the shares of the limit that are marked, and how far below one a table
// must fall to be below it: what swings around a level crosses it once.
var levels = [...]int{70, 85, 95, 100}

const (
	slack        = 3 // percent
	maxCrossings = 64
)

func (t *table) cross(at event.Ktime, n uint64) {
	if t.limit == 0 {
		return
	}
	for t.level < len(levels) && n*100 >= uint64(levels[t.level])*t.limit {
		t.crossed(Crossing{At: at, Percent: levels[t.level], Entries: n})
		t.level++
	}
	was := t.level
	for t.level > 0 && n*100 < uint64(levels[t.level-1]-slack)*t.limit {
		t.level--
	}
	if t.level < was { // over several at once, as when the limit is raised, is one
		t.crossed(Crossing{At: at, Percent: levels[t.level], Entries: n, Down: true})
	}
}

func (t *table) crossed(c Crossing) {
	if len(t.crossings) >= maxCrossings {
		t.uncrossed++
		return
	}
	c.Limit, c.Outlook = t.limit, t.outlook
	t.crossings = append(t.crossings, c)
}

// Steps of a forecast: one a second as in a live run, and fewer when nothing happens.
const (
	step     = event.Ktime(time.Second)
	longStep = 10 * step
	quiet    = 10 * longStep
	// forgotten is after how long without anything the forecast begins anew.
	forgotten = event.Ktime(day)
)

// minSteps is how many steps a forecast needs, as in a live run.
const minSteps = 2

// steps brings the forecast to a time.
func (t *table) steps(g *Gatherer, to event.Ktime) {
	if t.limit == 0 {
		return
	}
	if t.caster == nil || to-t.stepped > forgotten {
		t.caster, t.feed, t.outlook, t.stepsDone = forecast.New(forecast.Config{}), forecast.Feed{}, Outlook{}, 0
		t.stepped = max(g.last, to-step) / step * step
	}
	if !t.told && t.now.Total < t.most {
		t.cross(to, uint64(t.now.Total)) // downwards, which no insert tells
	}
	for next := t.stepped + step; next <= to; next = t.stepped + step {
		if to-t.stepped > quiet {
			next = min(t.stepped+longStep, to/step*step)
		}
		t.step(next)
	}
}

func (t *table) step(at event.Ktime) {
	f := t.caster.Step(t.feed.Step(at, t.entries(), t.limit, nil))
	t.stepped = at
	if t.stepsDone++; t.stepsDone < minSteps {
		return
	}
	t.outlook = Outlook{At: at, Known: true, Full: f.TimeToFull, Low: f.Low, High: f.High}
	t.now.Full = never
	if f.TimeToFull < forecast.Never {
		t.now.Full = float32(f.TimeToFull.Seconds())
	}
	t.all[len(t.all)-1].Full = t.now.Full
}
