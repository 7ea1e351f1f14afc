package agg

import (
	"cmp"
	"slices"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/forecast"
)

// DefaultPools is the bound of the NAT port pools that are known at a time.
const DefaultPools = 4096

const (
	// maxFeeds bounds the pools with a forecast: with its forecaster each takes
	// 140 kB after an hour.
	maxFeeds = 128
	// Of its capacity in use, a pool gets a forecast, and loses it again.
	feedFrom, feedUntil = 0.10, 0.05
	// exhausted is how many packets in a row found no port when there is none.
	// One alone proves nothing: the kernel gives up after 248 tries at five
	// random places (nf_nat_l4proto_unique_tuple), so in a pool that is nearly
	// full, or half full in one piece, some find none.
	exhausted = 4
	// nearlyFull is the part of the kernel's range from which drops are no sign
	// of a narrower one.
	nearlyFull = 0.95
	// outgrown is how far beyond a learned capacity a pool shows that it was not.
	outgrown = 1.10
)

// A pool is the ports of one NAT address towards one destination: its key has
// the NAT address as source. The kernel uses a port again for another
// destination, so what is exhausted is that of one destination.
type pool struct {
	key       rowKey
	since     event.Ktime // entries that came before are not among inUse
	seeded    uint64      // of inUse, those that were there before the first event
	inUse     uint64
	new       uint64
	drops     uint64
	learned   uint64 // most in use when none was left, where the rule has a narrower range; 0 not known
	fruitless uint8  // drops since the last new entry
	feed      *forecast.Feed
}

// pools is an exact table of a bounded number of pools. A network's gateway has
// one for every destination of its clients, and a scan through it more than fit:
// the smallest of the next eight in turn makes room. What it held is forgotten,
// so that a pool that comes again counts from then on.
type pools struct {
	index  map[rowKey]int32
	slots  []pool
	limit  int
	next   int // of the clock
	feeds  int
	folded uint64 // pools that made room, with entries
	lost   uint64 // entries of those
}

// portsOf is how many ports the kernel chooses from where the rule does not say:
// 1024 to 65535, or all ids of ICMP. Clients with a port below 1024 have 935
// more of their own, which are not counted. Of other protocols there is one
// entry for each source, which is no pool: 0.
func portsOf(proto uint8) uint64 {
	switch proto {
	case event.ProtoTCP, event.ProtoUDP, event.ProtoUDPLite, event.ProtoSCTP, event.ProtoDCCP:
		return 65536 - 1024
	case event.ProtoICMP, event.ProtoICMPv6:
		return 65536
	}
	return 0
}

// poolKey returns the pool that the entry with this reply has a port of.
func poolKey(ns event.NetNS, zone uint16, reply *event.Tuple) rowKey {
	k := rowKey{netns: ns, zone: zone, src: as16(reply.Dst), dst: as16(reply.Src), proto: reply.Proto, known: flags(reply.Dst) | flags(reply.Src)<<2}
	if !reply.IsICMP() { // whose source port is the id
		k.dport = reply.Sport
	}
	return k
}

// capacity of a narrower range is at least what it holds: the last ports are
// found by chance.
func (p *pool) capacity() uint64 {
	if p.learned > 0 {
		return max(p.learned, p.inUse)
	}
	return portsOf(p.key.proto)
}

// pooled says whether an event is about an entry, or a packet, of a pool. It is
// asked for every event.
func pooled(e *event.Event) bool {
	return (e.Status&event.SrcNAT != 0 || e.Reason == event.NATExhausted) && portsOf(e.Reply.Proto) > 0
}

// get returns the pool of an entry, made for one that comes at t.
func (s *pools) get(e *event.Event, t event.Ktime) *pool {
	k := poolKey(e.NetNS, e.Zone, &e.Reply)
	if i, ok := s.index[k]; ok {
		return &s.slots[i]
	}
	if s.index == nil {
		s.index = map[rowKey]int32{}
	}
	i := len(s.slots)
	if i < s.limit {
		s.slots = append(s.slots, pool{})
	} else {
		i = s.evict()
	}
	s.index[k] = int32(i)
	s.slots[i] = pool{key: k, since: t}
	return &s.slots[i]
}

// evict frees the slot of a small pool.
func (s *pools) evict() int {
	small := s.next
	for i := range min(8, len(s.slots)) {
		if at := (s.next + i) % len(s.slots); s.slots[at].inUse < s.slots[small].inUse {
			small = at
		}
	}
	s.next = (s.next + 8) % len(s.slots)
	p := &s.slots[small]
	if p.inUse > 0 {
		s.folded, s.lost = s.folded+1, s.lost+p.inUse
	}
	s.unfeed(p)
	delete(s.index, p.key)
	return small
}

// enter counts a new entry; one that is known was counted when it was seeded.
func (s *pools) enter(e *event.Event, n uint64, known bool) {
	p := s.get(e, e.Time)
	p.new += n
	p.fruitless = 0
	if p.feed != nil {
		for range n {
			p.feed.New(e.Time)
		}
	}
	if known {
		p.seeded -= min(1, p.seeded)
		n--
	}
	s.grow(p, n)
}

// forget is for a dump that tells anew what is in use.
func (s *pools) forget() {
	for i := range s.slots {
		s.slots[i].inUse, s.slots[i].seeded = 0, 0
	}
}

// seed counts an entry that was there before.
func (s *pools) seed(e *event.Event) {
	p := s.get(e, 0)
	p.seeded++
	s.grow(p, 1)
}

func (s *pools) grow(p *pool, n uint64) {
	p.inUse += n
	if float64(p.inUse) > outgrown*float64(p.learned) {
		p.learned = 0 // the rule was changed, or it never was so narrow
	}
	if p.feed == nil && s.feeds < maxFeeds && float64(p.inUse) >= feedFrom*float64(p.capacity()) {
		p.feed = &forecast.Feed{}
		s.feeds++
	}
}

// leave counts the end of an entry that was known since `born`, 0 for one that
// was seeded. Those of the time before the pool made room are not in it.
func (s *pools) leave(e *event.Event, n uint64, born event.Ktime) {
	k := poolKey(e.NetNS, e.Zone, &e.Reply)
	i, ok := s.index[k]
	if !ok {
		return
	}
	p := &s.slots[i]
	switch {
	case born == 0 && p.seeded > 0:
		p.seeded--
	case born == 0 || born < p.since:
		return
	}
	p.inUse -= min(n, p.inUse)
	if p.feed != nil {
		p.feed.Destroy(e)
	}
}

// refuse counts a packet that found no port. From some in a row a pool below the
// kernel's range has a rule with a narrower one. Clients with a port below 1024
// have a range of their own, and teach nothing.
func (s *pools) refuse(e *event.Event, n uint64) {
	p := s.get(e, e.Time)
	p.drops += n
	if !e.Orig.IsICMP() && e.Orig.Sport < 1024 {
		return
	}
	p.fruitless = uint8(min(uint64(p.fruitless)+n, exhausted))
	if p.fruitless >= exhausted && float64(p.inUse) < nearlyFull*float64(portsOf(p.key.proto)) {
		p.learned = max(p.learned, p.inUse)
	}
}

func (s *pools) unfeed(p *pool) {
	if p.feed != nil {
		p.feed = nil
		s.feeds--
	}
}

// Pool is the port pool of a NAT address towards a destination.
type Pool struct {
	Key             // Src is the NAT address; no Dport with ICMP
	InUse    uint64 // entries
	Capacity uint64 // ports that the rule may choose from
	Learned  bool   // Capacity is where the kernel stopped, below its own range
	New      uint64
	Drops    uint64 // packets that found no port
}

// Fill is InUse over Capacity. Clients with low ports can make it more than 1.
func (p *Pool) Fill() float64 {
	if p.Capacity == 0 {
		return 0
	}
	return float64(p.InUse) / float64(p.Capacity)
}

func (p *pool) public() Pool {
	return Pool{Key: p.key.public(), InUse: p.inUse, Capacity: p.capacity(), Learned: p.learned > 0, New: p.new, Drops: p.drops}
}

// PoolState is a pool and what it is heading for, as in TableState.
type PoolState struct {
	Pool
	Name                          string // of its namespace
	Forecast                      bool
	TimeToFull, FullLow, FullHigh *float64
}

// PoolSums are of all NAT port pools.
type PoolSums struct {
	Known  int    // pools in use
	Folded uint64 // pools that made room for others
	Lost   uint64 // entries in use that were forgotten with them
}

// Pools returns the n fullest pools that keep, if not nil, lets through, and
// what is to be said of all of these.
func (s *Census) Pools(n int, keep func(*Key) bool) ([]Pool, PoolSums) {
	var all []Pool
	for i := range s.pools.slots {
		p := s.pools.slots[i].public()
		if (p.InUse > 0 || p.Drops > 0) && (keep == nil || keep(&p.Key)) {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b Pool) int {
		x, y := a.private(), b.private()
		return cmp.Or(cmp.Compare(b.Fill(), a.Fill()), cmp.Compare(b.Drops, a.Drops), x.compare(&y))
	})
	return all[:min(n, len(all))], PoolSums{Known: len(all), Folded: s.pools.folded, Lost: s.pools.lost}
}

// SeedPool counts an entry of the dump that was news to Seed.
func (s *Census) SeedPool(e *event.Event) {
	if pooled(e) {
		s.pools.seed(e)
	}
}

// PoolStep is the last interval in the life of a pool.
type PoolStep struct {
	Key  Key
	Step forecast.Step
}

// PoolSteps takes a step of each pool that is full enough for a forecast.
func (s *Census) PoolSteps(at event.Ktime) (out []PoolStep) {
	for i := range s.pools.slots {
		p := &s.pools.slots[i]
		if p.feed == nil {
			continue
		}
		if float64(p.inUse) < feedUntil*float64(p.capacity()) {
			s.pools.unfeed(p)
			continue
		}
		out = append(out, PoolStep{p.key.public(), p.feed.Step(at, p.inUse, p.capacity(), nil)})
	}
	return out
}
