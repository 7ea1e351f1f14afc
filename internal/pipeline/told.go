package pipeline

import (
	"context"
	"slices"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/filter"
)

// Told is one step of what a replay reads. One of its parts is set.
type Told struct {
	At    event.Ktime
	Event *event.Event // happened
	Entry *event.Event // was in the table when the capture began: a New
	Seen  *Standing    // was found out of a live entry
	Sum   *event.Sum   // happened, and was not told one by one
	State *Second      // once a second
	Mark  *Mark        // was noted by who recorded
	// Found is a finding that was told (of ReplayTogether only).
	Found *agg.Finding
	// Missing is how many events are not in the capture, and should be here.
	Missing uint64

	// For a Past.
	step   *censusStep
	judged *judged
	counts *countsState
	held   *snapshotEnd
	open   []agg.Finding // those that are open, when something was told
}

// judged is a first contact with what a look at it has shown.
type judged struct {
	contact  *agg.Contact
	answered bool
}

// Standing is what became of a live entry.
type Standing struct {
	NetNS  event.NetNS
	Zone   uint16
	Ptr    uint64 // 0 where it is not known
	Orig   event.Tuple
	Status event.Status
}

// Second is the state once a second.
type Second struct {
	Tables []agg.TableState
	Loss   agg.Loss

	// For a Past.
	pools []agg.PoolState
	sums  agg.PoolSums
	end   bool
}

// Only is what it says of one namespace.
func (s Second) Only(ns event.NetNS) Second {
	s.Tables = slices.DeleteFunc(slices.Clone(s.Tables), func(t agg.TableState) bool { return t.NetNS != ns })
	s.pools = slices.DeleteFunc(slices.Clone(s.pools), func(p agg.PoolState) bool { return p.NetNS != ns })
	return s
}

// each tells a step to who wants to know, who must not keep what it points to.
func (c *ReplayConfig) each(t Told) {
	if c.Each != nil {
		c.Each(&t)
	}
}

// takes says whether a sum is what the filter lets through. A sum has no more of its
// events than namespace, zone, source and what happened: where the filter asks for more,
// nobody knows which of them it would be.
func (c *ReplayConfig) takes(s *event.Sum) bool {
	if c.Filter.All() {
		return true
	}
	k, all := c.Filter.Kernel(), filter.AnyKernel()
	if !k.Exact || k.Proto != all.Proto || k.Dst != all.Dst || k.SportMin != all.SportMin || k.SportMax != all.SportMax || k.DportMin != all.DportMin || k.DportMax != all.DportMax {
		return false
	}
	return k.Match(&event.Event{Kind: s.Kind, NetNS: s.NetNS, Zone: s.Zone, Reason: s.Reason, Cause: s.Cause, Orig: event.Tuple{Src: s.Src}})
}

// copied has room for a step, which is used again for the next.
type copied struct {
	told  Told
	event event.Event
}

// on copies a step, with its times in nanoseconds since 1970 and its addresses of
// entries in a room of their own. to, if not nil, has the room for it.
func (t *Told) on(to *copied, clock event.Clock, room uint64) *Told {
	if to == nil {
		to = new(copied)
	}
	late := event.Ktime(clock.At(0).UnixNano())
	out := &to.told
	*out = Told{At: t.At + late, Found: t.Found, Mark: t.Mark, Missing: t.Missing}
	for _, x := range [...]struct{ from, to **event.Event }{{&t.Event, &out.Event}, {&t.Entry, &out.Entry}} {
		if *x.from != nil {
			e := &to.event
			*e = **x.from
			e.Time += late
			e.Ptr = apart(e.Ptr, room)
			*x.to = e
		}
	}
	if t.Seen != nil {
		s := *t.Seen
		s.Ptr = apart(s.Ptr, room)
		out.Seen = &s
	}
	if t.Sum != nil {
		s := *t.Sum
		s.From, s.Last = s.From+late, s.Last+late
		out.Sum = &s
	}
	if t.State != nil {
		s := *t.State
		s.Tables, s.pools = slices.Clone(s.Tables), slices.Clone(s.pools)
		out.State = &s
	}
	if t.judged != nil {
		c := *t.judged.contact
		c.Time, c.Ptr = c.Time+late, apart(c.Ptr, room)
		out.judged = &judged{&c, t.judged.answered}
	}
	if t.counts != nil {
		c := *t.counts
		c.Done += int64(late)
		out.counts = &c
	}
	out.step, out.open = t.step, t.open
	return out
}

// apart is an address where those of no other room are; addresses of the kernel have
// their upper 16 bits set.
func apart(ptr, room uint64) uint64 {
	if ptr == 0 {
		return 0
	}
	return ptr ^ room<<48
}

// ReplayTogether replays captures side by side, each by itself as Replay does, and calls
// each with the steps of all, and with what was found, in the order of their wall time and
// in nanoseconds since 1970. Machines are numbered by the captures of them; text counts as the first. What is
// told may be changed, and is not to be kept. It closes the captures.
func ReplayTogether(ctx context.Context, in []Capture, config ReplayConfig, each func(node int, t *Told)) ([]Replayed, error) {
	nodes, rooms := places(in)
	replay := func(ctx context.Context, n int, to *copied, tell func(*Told)) (Replayed, error) {
		config := config
		clock, at := in[n].Clock(), event.Ktime(0)
		step := func(t *Told) { at = max(at, t.At); tell(t.on(to, clock, rooms[n])) }
		config.Each = step
		config.Detect.Tell = func(f *agg.Finding) { step(&Told{At: at, Found: f}) }
		return in[n].Replay(ctx, config)
	}
	if len(in) == 1 {
		r, err := replay(ctx, 0, new(copied), func(t *Told) { each(nodes[0], t) })
		return []Replayed{r}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := make([]Replayed, len(in))
	streams := make([]*stream, len(in))
	for i := range in {
		s := &stream{blocks: make(chan []Told, 1), node: nodes[i]}
		streams[i] = s
		go func() {
			defer close(s.blocks)
			out[i], s.err = replay(ctx, i, nil, func(t *Told) { s.add(ctx, *t) })
			s.flush(ctx)
		}()
	}
	err := mergeTold(streams, each)
	cancel()
	for _, s := range streams { // until they have ended
		for range s.blocks {
		}
	}
	return out, err
}

// places numbers the machines, and the rooms of addresses: captures of one machine
// share one, and text has one for each.
func places(in []Capture) (nodes []int, rooms []uint64) {
	boots := map[string]int{}
	for i, c := range in {
		boot := c.Origin().Boot
		if boot == "" {
			nodes, rooms = append(nodes, 0), append(rooms, uint64(i))
			continue
		}
		if _, ok := boots[boot]; !ok {
			boots[boot] = i
		}
		nodes, rooms = append(nodes, boots[boot]), append(rooms, uint64(boots[boot]))
	}
	return nodes, rooms
}

// stream is the steps of a capture on their way.
type stream struct {
	node   int
	blocks chan []Told
	err    error // when blocks is closed

	filling []Told
	reading []Told
}

func (s *stream) add(ctx context.Context, t Told) {
	if s.filling = append(s.filling, t); len(s.filling) == perBlock {
		s.flush(ctx)
	}
}

func (s *stream) flush(ctx context.Context) {
	if len(s.filling) == 0 {
		return
	}
	select {
	case s.blocks <- s.filling:
	case <-ctx.Done():
	}
	s.filling = nil
}

// next is the next step, nil at the end.
func (s *stream) next() *Told {
	for len(s.reading) == 0 {
		b, more := <-s.blocks
		if !more {
			return nil
		}
		s.reading = b
	}
	return &s.reading[0]
}

func mergeTold(streams []*stream, each func(int, *Told)) error {
	for {
		var best *stream
		for _, s := range streams {
			t := s.next()
			if t == nil && s.err != nil {
				return s.err
			}
			if t != nil && (best == nil || t.At < best.reading[0].At) {
				best = s
			}
		}
		if best == nil {
			return nil
		}
		each(best.node, &best.reading[0])
		best.reading = best.reading[1:]
	}
}
