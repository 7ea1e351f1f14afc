package pipeline

import (
	"context"
	"errors"
	"math"
	"slices"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/detect"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/record/capture"
)

// ReplayCapture runs an Engine over a recording, as fast as it can: the same steps in the
// same order as live, and so the same findings. With a filter the engine sees less, and is
// told of its contacts what was found out of them then.
func ReplayCapture(ctx context.Context, in capture.Source, c ReplayConfig) (Replayed, error) {
	h := in.About()
	r := captured{c: c, from: event.Ktime(h.Start)}
	tell := c.Detect.Tell
	r.c.Detect.Clock, r.c.Detect.Seed = h.Clock(), h.Seed
	r.c.Detect.Tell = func(f *agg.Finding) {
		if r.news = r.c.judged; tell != nil {
			tell(f)
		}
	}
	r.engine = detect.New(r.c.Detect, event.Ktime(h.Start))
	if r.all = r.engine; !c.Filter.All() {
		r.all = detect.New(detect.Config{Clock: h.Clock(), Seed: h.Seed}, event.Ktime(h.Start))
		r.known = map[contact]detect.Seen{}
	}
	switch {
	case c.judged && r.known == nil && c.dues != nil:
		r.judges = c.dues
	case c.judged:
		config := censusOf(h)
		config.Dims = []agg.Dim{agg.ByNetNS}
		r.shadow = agg.NewCensus(config, event.Ktime(h.Start))
		r.judges = r.shadow
	}
	err := eachItem(ctx, in, r.take)
	if errors.Is(err, errEnough) {
		err = nil
	}
	return r.done(), err
}

var errEnough = errors.New("enough")

// captured is a replay of a recording that is under way.
type captured struct {
	c      ReplayConfig
	out    Replayed
	engine *detect.Engine
	all    *detect.Engine // without the filter: the one that the looks were for
	known  map[contact]detect.Seen
	kept   []event.Event
	looks  []detect.Look // that are due
	until  event.Ktime   // they were
	filled []detect.Look // of the engine with the filter
	from   event.Ktime
	first  event.Ktime
	last   event.Ktime

	judges   dues
	shadow   *agg.Census   // that is told of all that happens, nil where another one is
	contacts []agg.Contact // first ones, that are due
	dueAt    event.Ktime   // they were
	begun    bool          // it is read from its beginning, or from a snapshot on
	standing bool          // a snapshot is read, for the want of a beginning
	stood    uint64        // entries of it
	missed   bool          // something is missing since the last one
	news     bool          // something was told since the last second
}

// dues is a census that is told of all that happens, as far as first contacts go.
type dues interface {
	Due(t event.Ktime, into []agg.Contact) []agg.Contact
}

// contact says whose look it was.
type contact struct {
	ptr uint64
	at  event.Ktime
}

func (r *captured) take(x *capture.Item) error {
	switch x.Kind {
	case capture.Events:
		return r.events(x.Events)
	case capture.Entries:
		r.entries(x.Events)
	case capture.Stands:
		if r.standing {
			r.stood += uint64(len(x.Events))
			r.entries(x.Events)
		}
	case capture.Sums:
		for i := range x.Sums {
			if r.shadow != nil {
				r.shadow.AddSum(&x.Sums[i])
			}
			r.all.AddSum(&x.Sums[i]) // of a filter that programs know nothing of, nothing is summed
			if !r.c.takes(&x.Sums[i]) {
				continue
			}
			if r.known != nil {
				r.engine.AddSum(&x.Sums[i])
			}
			r.c.each(Told{At: x.Sums[i].Last, Sum: &x.Sums[i]})
		}
	case capture.Looks:
		return r.look(x)
	case capture.Second:
		return r.second(x)
	case capture.Steps:
		return r.step(x)
	case capture.Snapshot:
		r.snapshot(x.At)
	case capture.Held:
		return r.held(x)
	case capture.Counts:
		s, err := sectionOf[countsState](x)
		if err != nil {
			return err
		}
		r.c.each(Told{At: x.At, counts: &s})
	case capture.Mark:
		m, err := sectionOf[Mark](x)
		if err != nil {
			return err
		}
		r.c.each(Told{At: x.At, Mark: &m})
	case capture.Gap:
		r.missed = true
		r.c.each(Told{At: x.At, Missing: max(1, x.Lost.Events)})
	}
	return nil
}

// entries takes some that were in the table.
func (r *captured) entries(events []event.Event) {
	for i := range events {
		e := &events[i]
		if e.Time == 0 { // before format 1.1
			e.Time = r.from
		}
		if r.shadow != nil {
			seedCensus(r.shadow, e)
		}
		if r.all.Seed(e); !r.c.Filter.Match(e) {
			continue
		}
		if r.known != nil {
			r.engine.Seed(e)
		}
		r.c.each(Told{At: e.Time, Entry: e})
	}
}

// step takes one of the census. What first contacts have shown is told with them.
func (r *captured) step(x *capture.Item) error {
	s, err := sectionOf[censusStep](x)
	switch {
	case err != nil:
		return err
	case s.Begin || s.Unsure:
		r.begun, r.missed = true, s.Unsure
	case s.Judged != "":
		r.judged(x.At, &s)
	case s.Due && r.judges == nil:
	case s.Due:
		r.dueAt = x.At
		r.contacts = r.judges.Due(x.At, slices.Grow(r.contacts[:0], judgeBatch)[:0:judgeBatch])
	default:
		r.tellStep(x.At, &s)
	}
	return nil
}

// tellStep tells a step that is the same for each census.
func (r *captured) tellStep(at event.Ktime, s *censusStep) {
	if r.shadow != nil {
		s.do(r.shadow, at)
	}
	r.c.each(Told{At: at, step: s})
}

// judged tells what first contacts have shown. Where other ones are due than then, those
// that were not looked at are told by their destroy.
func (r *captured) judged(at event.Ktime, s *censusStep) {
	if r.judges == nil {
		return
	}
	verdicts, tags := s.Judged, s.Tags
	for {
		match, used := align(tags, len(verdicts), len(r.contacts), func(i int) byte {
			return tag(r.contacts[i].Ptr, r.contacts[i].Time, &r.contacts[i].Orig)
		})
		for i, k := range match {
			if k >= 0 && verdicts[k] != contactGone {
				j := judged{&r.contacts[i], verdicts[k] == contactAnswered}
				if r.shadow != nil {
					r.shadow.Judge(j.contact, j.answered)
				}
				r.c.each(Told{At: at, judged: &j})
			}
		}
		full := len(r.contacts) == judgeBatch
		r.contacts = r.contacts[:0]
		if verdicts, tags = verdicts[used:], tags[min(len(tags), used):]; verdicts == "" || !full {
			return
		}
		r.contacts = r.judges.Due(r.dueAt, r.contacts[:0:judgeBatch])
	}
}

// snapshot begins one. It says something new to who did not see the beginning, or all that
// was between.
func (r *captured) snapshot(at event.Ktime) {
	if r.begun && !r.missed {
		return
	}
	if r.begun {
		all := math.MaxInt
		r.tellStep(at, &censusStep{Forget: &all})
	}
	r.begun, r.standing, r.stood, r.missed = true, true, 0, false
	r.tellStep(at, &censusStep{Seed: seedBegin})
}

// held ends a snapshot, if there is one.
func (r *captured) held(x *capture.Item) error {
	s, err := sectionOf[snapshotEnd](x)
	if err != nil {
		return err
	}
	if r.standing {
		r.standing = false
		how := seedEnd
		if s.Whole && r.stood >= s.Entries { // or some found no room in the recording
			how = seedWhole
		}
		r.tellStep(x.At, &censusStep{Seed: how})
	}
	r.c.each(Told{At: x.At, held: &s})
	return nil
}

func (r *captured) events(events []event.Event) error {
	if r.first == 0 {
		r.first = events[0].Time
	}
	if r.c.For > 0 && events[len(events)-1].Time.Sub(r.from) >= r.c.For {
		n := 0
		for n < len(events) && events[n].Time.Sub(r.from) < r.c.For {
			n++
		}
		if events = events[:n]; n == 0 {
			return errEnough
		}
	}
	r.last = events[len(events)-1].Time
	r.out.Lines += uint64(len(events))
	if r.known == nil {
		r.out.Events += uint64(len(events))
		r.tell(events)
	}
	if r.shadow != nil {
		r.shadow.AddAll(events)
	}
	r.all.AddAll(events)
	if r.known == nil {
		return nil
	}
	r.kept = r.kept[:0]
	for i := range events {
		if r.c.Filter.Match(&events[i]) {
			r.kept = append(r.kept, events[i])
		}
	}
	r.out.Events += uint64(len(r.kept))
	r.tell(r.kept)
	r.engine.AddAll(r.kept)
	return nil
}

func (r *captured) tell(events []event.Event) {
	for i := range events {
		r.c.each(Told{At: events[i].Time, Event: &events[i]})
	}
}

func (r *captured) look(x *capture.Item) error {
	s, err := sectionOf[lookStep](x)
	if err != nil {
		return err
	}
	if s.Due {
		r.until = x.At
		r.due()
		return nil
	}
	for recorded, tags := s.Seen, s.Tags; ; {
		match, used := align(tags, len(recorded), len(r.looks), func(i int) byte {
			return tag(r.looks[i].Ptr, r.looks[i].At, &r.looks[i].Orig)
		})
		seen := make([]detect.Seen, len(r.looks))
		for i, k := range match {
			if k >= 0 {
				seen[i] = unpackLook(recorded[k])
			}
		}
		full := len(r.looks) == contactBatch
		r.seen(x.At, seen)
		recorded, tags = recorded[used:], tags[min(len(tags), used):]
		if len(recorded) == 0 || !full {
			return nil
		}
		r.due()
	}
}

// due takes the contacts that are to be looked at.
func (r *captured) due() {
	r.looks = r.all.Due(r.until, slices.Grow(r.looks[:0], contactBatch)[:0:contactBatch])
	if r.known != nil {
		r.filled = r.engine.Due(r.until, slices.Grow(r.filled[:0], contactBatch)[:0:contactBatch])
	}
}

// seen tells what the contacts have shown.
func (r *captured) seen(at event.Ktime, seen []detect.Seen) {
	for i := range seen {
		if l := &r.looks[i]; seen[i].Known && seen[i].Live {
			r.c.each(Told{At: at, Seen: &Standing{l.NetNS, l.Zone, l.Ptr, l.Orig, seen[i].Status}})
		}
	}
	r.all.SeenAll(r.looks, at, seen)
	if r.known == nil {
		return
	}
	clear(r.known)
	for i := range r.looks {
		r.known[contact{r.looks[i].Ptr, r.looks[i].At}] = seen[i]
	}
	for i := range r.filled {
		r.engine.Seen(&r.filled[i], at, r.known[contact{r.filled[i].Ptr, r.filled[i].At}])
	}
	r.filled = r.filled[:0]
}

func (r *captured) second(x *capture.Item) error {
	s, err := sectionOf[secondState](x)
	if err != nil {
		return err
	}
	r.c.each(Told{At: x.At, State: &Second{Tables: s.Tables, Loss: s.Loss, pools: s.Pools, sums: s.PoolSums, end: s.End}})
	engines := []*detect.Engine{r.all}
	if r.known != nil {
		engines = append(engines, r.engine)
	}
	for _, e := range engines {
		if s.End {
			e.End(x.At)
		} else {
			e.Tick(x.At, detect.State{Tables: s.Tables, Pools: s.Pools, Loss: s.Loss})
		}
	}
	if r.news && !s.End {
		r.news = false
		r.c.each(Told{At: x.At, open: r.engine.Findings()})
	}
	return nil
}

func (r *captured) done() Replayed {
	clock := r.c.Detect.Clock
	r.out.First, r.out.Last = clock.At(r.first), clock.At(r.last)
	r.out.Found, r.out.Overflow = r.engine.Found(), r.engine.Overflow()
	return r.out
}
