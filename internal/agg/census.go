package agg

import (
	"cmp"
	"time"
	"unsafe"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/prefetch"
	"github.com/ctsight/ctsight/internal/wyhash"
)

// rowBytes is the size of a row.
const rowBytes = int(unsafe.Sizeof(row{}))

// JudgeAfter is how long a first contact has to be answered (detection.md, tau).
const JudgeAfter = 3 * time.Second

// Bounds of a Census that are used where CensusConfig has none.
const (
	DefaultRows   = 1 << 18 // of each dimension
	DefaultLive   = 4 << 20
	DefaultJudged = 1 << 18
)

// CensusBytes is what a census of n dimensions takes when all of it is full.
func CensusBytes(n int) int {
	live := slotsFor(DefaultLive) * 3 / 2 * int(unsafe.Sizeof(liveSlot[liveEntry]{}))
	return live + DefaultJudged*int(unsafe.Sizeof(Contact{})) + DefaultRows*8 + DefaultRows/4*blockSize + n*DefaultRows*(rowBytes+16)
}

// CensusConfig bounds a Census. Zero fields get the defaults.
type CensusConfig struct {
	Dims      []Dim  // default: all
	MaxRows   int    // of each dimension
	MaxLive   int    // entries
	MaxJudged int    // first contacts that wait for their outcome
	MaxPools  int    // NAT port pools
	Seed      uint64 // of the hash tables; a secret where sources may be hostile
	Sums      bool   // AddSum will be called
}

// Census says who fills the table: per source, destination endpoint, edge, prefix
// and namespace what came, what is live, what was lost, and at which rate. It
// takes the stream of events, and the entries that were there before it began
// (Seed). One goroutine owns it.
type Census struct {
	cfg    CensusConfig
	dims   [NumDims]*rows
	blocks blocks
	live   *Live[liveEntry]
	old    *Live[liveEntry] // of before Forget

	began, last event.Ktime
	total       row // of everything, for its windows only
	totals      counts
	seconds     seconds
	peaks       peaks
	told        event.ProtoCounts

	lived     lived
	focus     focus
	contacts  recentSet
	queue     []Contact // a ring: first contacts in order of time
	head, len int
	unjudged  uint64 // first contacts that found no room in the queue

	pools pools

	seeding map[uint64]struct{} // identities that events have told of; nil when no dump runs
	seeded  uint64
	// complete is when all entries were known; 0 before.
	complete event.Ktime
	strange  uint64 // destroys of entries that nothing was known of
	places   [Batch]place
	none     uint64 // hash of the destination of a key that has none
	lines    [4 * Batch]prefetch.Line
}

// liveEntry is 16 bytes; with its key a slot takes 24.
type liveEntry struct {
	id uint64
	t  event.Ktime // of the insert with flags; 0 for one from before
}

// Flags in the time of a live entry, which is far below 2^60 ns (36 years).
const (
	flagFirst    = 1 << 62 // a first contact whose outcome is not known
	flagSilent   = 1 << 61 // a first contact that counts as unanswered
	liveTimeMask = flagSilent - 1
)

// NewCensus returns an empty census that begins now.
func NewCensus(c CensusConfig, now event.Ktime) *Census {
	c.MaxRows, c.MaxLive, c.MaxJudged = cmp.Or(c.MaxRows, DefaultRows), cmp.Or(c.MaxLive, DefaultLive), cmp.Or(c.MaxJudged, DefaultJudged)
	c.MaxPools = cmp.Or(c.MaxPools, DefaultPools)
	if len(c.Dims) == 0 {
		c.Dims = []Dim{BySrc, ByDst, ByEdge, ByPrefix, ByNetNS}
	}
	s := &Census{cfg: c, began: now, last: now, live: NewLive[liveEntry](c.MaxLive, 0), lived: lived{all: Lifetimes{}}, contacts: newRecentSet(c.MaxRows)}
	s.blocks.limit = c.MaxRows / 4
	s.pools.limit = c.MaxPools
	s.none = wyhash.Addr(&[16]byte{}, c.Seed+1)
	for _, d := range c.Dims {
		s.dims[d] = newRows(d, c.MaxRows, c.Seed, &s.blocks)
	}
	return s
}

// Config is that of the census, with the defaults.
func (s *Census) Config() CensusConfig { return s.cfg }

// Add counts an event, and gives a destroy its lifetime when the insert was seen.
func (s *Census) Add(e *event.Event) {
	p := &s.places[0]
	s.locate(p, e.NetNS, e.Zone, &e.Orig)
	s.add(e, p)
}

func (s *Census) add(e *event.Event, p *place) {
	s.last = max(s.last, e.Time)
	n := uint64(max(1, e.Sample))
	if s.cfg.Sums {
		n = 1 // the rest comes as sums
	}
	s.totals.add(e, n)
	s.told.Add(e, n)
	switch {
	case e.Kind == event.New:
		s.insert(e, p, n)
	case e.ReplyOnly:
		s.enter(e, p, 0)
		if pooled(e) {
			s.pools.enter(e, n, false)
		}
		s.each(e.Time, p, func(r *row) { r.live++ })
	case e.Kind == event.Destroy:
		s.destroy(e, p, n)
	case e.Kind == event.Drop && !e.Reason.IsRuleset():
		if e.Reason == event.NATExhausted && pooled(e) {
			s.pools.refuse(e, n)
		}
		s.each(e.Time, p, func(r *row) {
			r.drops += n
			r.why.add(dropCode|uint8(e.Reason), n)
		})
	}
}

// each calls fn for the row of every dimension, made where there is none, for
// something other than an insert that happens at t.
func (s *Census) each(t event.Ktime, p *place, fn func(*row)) {
	for _, d := range s.cfg.Dims {
		r := s.dims[d].get(&p.key[d], p.hash[d])
		r.touch(t)
		fn(r)
	}
}

// Brief is what a Census knows of everything without a look at its rows.
type Brief struct {
	Total     TopRow // new connections and their rates; its other fields are zero
	Totals    Totals // events and sums by kind, reason and cause
	Lifetimes Lifetimes
	Live      int    // entries known to be live
	Tracked   int    // sources with a row of their own
	Folded    uint64 // times a source lost its row to others
}

// Brief returns it as of a time.
func (s *Census) Brief(now event.Ktime) Brief {
	now = max(now, s.last)
	b := Brief{Total: s.row(&s.total, now), Totals: s.totals.public(), Lifetimes: s.lived.all.clone(), Live: s.live.Len()}
	if t := s.dims[BySrc]; t != nil {
		b.Tracked, b.Folded = t.n, t.folded
	}
	return b
}

// Told returns the inserts and destroys that came as events. What came in sums is
// not among them: those do not tell the protocol.
func (s *Census) Told() event.ProtoCounts { return s.told }

// entryKey is where the live table has an entry: at its kernel address, or where
// that is not known at its identity.
func entryKey(e *event.Event, id uint64) uint64 {
	if e.Ptr != 0 {
		return e.Ptr
	}
	return id
}

// enter notes a live entry and says whether it was known, that is seeded.
func (s *Census) enter(e *event.Event, p *place, flags event.Ktime) (known bool) {
	id := p.id
	if s.seeding != nil {
		s.seeding[id] = struct{}{}
	}
	if s.seeded > 0 || e.Ptr == 0 {
		// A dump that ran meanwhile has told of this very entry: of two live
		// ones with this tuple there is no other way to be. Or, where entries have
		// no address, the destroy of the one before was lost.
		if _, known = s.live.Remove(id); known && s.seeded > 0 {
			s.seeded--
		}
	}
	s.live.Insert(entryKey(e, id), liveEntry{id, e.Time | flags})
	return known
}

func (s *Census) insert(e *event.Event, p *place, n uint64) {
	var flags event.Ktime
	other := s.contacts.add(max(1, p.edge)) // there may be something new about it
	first := other && !e.ByUser
	if first {
		flags = flagFirst
	}
	live := n
	known := s.enter(e, p, flags)
	if known {
		live-- // seeded already
	}
	if pooled(e) {
		s.pools.enter(e, n, known)
	}
	if first {
		s.await(e)
	}
	var src, dst, port uint32
	if other {
		k := &p.key[ByEdge]
		src, dst, port = distinctAddr(&k.src, k.known&3), distinctAddr(&k.dst, k.known>>2), endpointPort(&e.Orig)
	}
	for _, d := range s.cfg.Dims {
		r := s.dims[d].get(&p.key[d], p.hash[d])
		r.arrive(e.Time, n)
		r.live += live
		switch {
		case !other: // counted with the contact before
		case d == ByDst: // of an endpoint who comes, of all others whereto
			r.dsts.add(src, &s.blocks)
		default:
			r.dsts.add(dst, &s.blocks)
			r.ports.add(port, &s.blocks)
		}
	}
	s.total.arrive(e.Time, n)
	s.seconds.add(e.Time, n)
	s.peaks.add(e.Time, n)
}

func (s *Census) destroy(e *event.Event, p *place, n uint64) {
	id := p.id
	if s.seeding != nil {
		s.seeding[id] = struct{}{}
	}
	was, known := s.live.Remove(entryKey(e, id))
	if !known && e.Ptr != 0 && s.seeded > 0 {
		if was, known = s.live.Remove(id); known {
			s.seeded--
		}
	}
	forgotten := s.remembered(entryKey(e, id), &was, id) && !known
	if t := was.t & liveTimeMask; t != 0 && e.Time >= t {
		e.Lifetime, e.HasLifetime = e.Time.Sub(t), true
	}
	// Its insert is in a sum, which may be yet to come.
	summed := !known && !forgotten && s.cfg.Sums && s.complete > 0 && e.Time > s.complete
	switch {
	case forgotten: // and no dump has told of it again
	case !known && !summed:
		s.strange += n
	case pooled(e):
		s.pools.leave(e, n, was.t&liveTimeMask)
	}
	s.lived.add(e, n)
	s.focus.add(e, n)
	evicted := evicts(e.Cause)
	gain, loss := verdict(was.t, e)
	for _, d := range s.cfg.Dims {
		t := s.dims[d]
		r := t.find(&p.key[d], p.hash[d])
		switch {
		case r != nil:
		case known: // its row was folded into other
			t.gone(n, evicted, gain, loss)
			continue
		default:
			r = t.get(&p.key[d], p.hash[d])
		}
		r.touch(e.Time)
		r.destroyed += n
		r.why.add(uint8(e.Cause), n)
		if evicted {
			r.evicted += n
		}
		judge(&r.outcomes, gain, loss)
		switch {
		case summed && (d == ByDst || d == ByEdge):
			s.dims[d].other.Live -= n
		case summed:
			r.live -= n
		case !known:
		case int64(r.live) > 0 || s.cfg.Sums && s.dims[d].folded == 0:
			r.live -= n
		default: // of the time before it was folded
			t.other.Live -= min(n, t.other.Live)
		}
	}
	if e.Cause == event.EarlyDrop && !e.By.IsZero() {
		var by place
		s.locate(&by, e.NetNS, e.Zone, &e.By)
		s.each(e.Time, &by, func(r *row) { r.evictor += n })
	}
}

// gone counts the destroy of an entry whose row is in other.
func (t *rows) gone(n uint64, evicted bool, gain, loss Outcome) {
	t.other.Destroyed += n
	t.other.Live -= min(n, t.other.Live)
	if evicted {
		t.other.Evicted += n
	}
	t.judged(gain, loss)
}

// Born returns when the entry at an address was inserted, false for one that is
// not known or was there before.
func (s *Census) Born(ptr uint64) (event.Ktime, bool) {
	l := s.live.Get(ptr)
	if l == nil || l.t&liveTimeMask == 0 {
		return 0, false
	}
	return l.t & liveTimeMask, true
}

// Live returns the number of entries that are known to be live.
func (s *Census) Live() int { return s.live.Len() }

// Bytes returns the memory of all tables.
func (s *Census) Bytes() int {
	n := s.live.Bytes() + len(s.queue)*int(unsafe.Sizeof(Contact{})) + s.contacts.bytes() +
		len(s.blocks.chunks)*blocksPerChunk*blockSize
	if s.old != nil {
		n += s.old.Bytes()
	}
	for _, d := range s.cfg.Dims {
		n += s.dims[d].bytes()
	}
	return n
}
