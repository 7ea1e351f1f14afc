package pipeline

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/record"
	"github.com/ctsight/ctsight/internal/record/capture"
)

// Between is of a capture what happened from one time on, and before another; 0 is its
// beginning, and its end. It is as if the recording had begun then: what was in the tables
// is known, from the last snapshot and what has happened since. Of text it is not.
func Between(c Capture, since, until event.Ktime) Capture {
	if since == 0 && until == 0 {
		return c
	}
	switch c := c.(type) {
	case text:
		return text{between{c.Lines, since, until}}
	case recording:
		return recording{newExcerpt(c.r, since, until), c.done}
	}
	return c
}

// between is lines of a time.
type between struct {
	Lines
	since, until event.Ktime
}

func (b between) Read(e *event.Event) (record.What, error) {
	for {
		what, err := b.Lines.Read(e)
		switch {
		case err != nil || b.until != 0 && e.Time >= b.until:
			return what, cmp.Or(err, io.EOF)
		case e.Time >= b.since:
			return what, nil
		}
	}
}

// excerpt is a recording of a time.
type excerpt struct {
	in           capture.Source
	about        capture.Header
	since, until event.Ktime // 0 for none
	begun, ended bool
	queue        []capture.Item // that come before all else
	pushed       *capture.Item  // was read too early
	state        secondState    // the last one
	known        bool           // there was one
	based        bool           // the tables are: on the beginning of the run, or on a snapshot
	missed       bool           // something is missing since then
	torn         bool           // or since the snapshot began that is read

	tables  map[stand]standing
	n       uint64
	touched map[stand]struct{} // by events, while a snapshot is read; else nil
	fresh   map[stand]standing // what it says
	stood   uint64             // how often
}

// mostStanding bounds the entries that are known at the beginning of an excerpt, some 200
// bytes each.
const mostStanding = 1 << 22

// stand is an entry's tuple: there is one of it at a time.
type stand struct {
	netns event.NetNS
	zone  uint16
	orig  event.Tuple
}

// standing is an entry as it was told, and when.
type standing struct {
	reply  event.Tuple
	status event.Status
	mark   uint32
	n      uint64 // its turn
}

func newExcerpt(in capture.Source, since, until event.Ktime) *excerpt {
	w := &excerpt{in: in, about: *in.About(), since: since, until: until, tables: map[stand]standing{}}
	if since <= event.Ktime(w.about.Start) {
		w.begun = true
	} else {
		w.about.Start = int64(since)
	}
	return w
}

func (w *excerpt) About() *capture.Header { return &w.about }

func (w *excerpt) Missing() (capture.Missing, bool) {
	lost, whole := w.in.Missing()
	return lost, whole || w.ended
}

func (w *excerpt) SeekSnapshot(event.Ktime) (bool, error) { return false, nil }

func (w *excerpt) Bounds() (first, last event.Ktime, err error) { return w.in.Bounds() }

// Next returns the next item of the time.
func (w *excerpt) Next() (*capture.Item, error) {
	if !w.begun {
		if err := w.begin(); err != nil {
			return nil, err
		}
	}
	if len(w.queue) > 0 {
		x := &w.queue[0]
		w.queue = w.queue[1:]
		return x, nil
	}
	if w.ended {
		return nil, io.EOF
	}
	x, err := w.next()
	if err != nil || w.until == 0 {
		return x, err
	}
	over := timeOf(x) >= w.until
	switch {
	case x.Kind == capture.Second:
		if w.state, err = sectionOf[secondState](x); err != nil {
			return nil, err
		}
	case x.Kind == capture.Events && !over:
		n := before(x.Events, w.until)
		w.ended = n < len(x.Events)
		x.Events = x.Events[:n]
	}
	if over || w.ended {
		w.ended = true
		w.add(capture.Second, w.until, secondState{Loss: w.state.Loss, End: true})
	}
	if over {
		return w.Next()
	}
	return x, nil
}

// before is how many events are before a time.
func before(events []event.Event, t event.Ktime) int {
	n, _ := slices.BinarySearchFunc(events, t, func(e event.Event, t event.Ktime) int { return cmp.Compare(e.Time, t) })
	return n
}

func (w *excerpt) next() (*capture.Item, error) {
	if x := w.pushed; x != nil {
		w.pushed = nil
		return x, nil
	}
	return w.in.Next()
}

// timeOf is when an item was made use of, 0 for one that tells no time.
func timeOf(x *capture.Item) event.Ktime {
	switch x.Kind {
	case capture.Events:
		return x.Events[0].Time
	case capture.Sums:
		return x.Sums[0].Last
	case capture.Entries, capture.Stands:
		return 0
	}
	return x.At
}

// begin goes to the beginning, and puts into the queue what was known then.
func (w *excerpt) begin() error {
	w.begun = true
	for t := w.since - 1; ; {
		went, err := w.in.SeekSnapshot(t)
		if err != nil {
			return err
		}
		first, err := w.catchUp()
		if err != nil {
			return err
		}
		// A snapshot takes a while: of one that was not whole by then the tables are not
		// known, but of the one before.
		if w.fresh == nil || w.based || !went || first > t {
			break
		}
		t = first - 1
	}
	unsure := !w.based || w.missed
	w.add(capture.Steps, w.since, censusStep{Begin: true, Unsure: unsure})
	w.add(capture.Steps, w.since, censusStep{Seed: seedBegin})
	w.addTables(capture.Entries)
	w.add(capture.Steps, w.since, censusStep{Seed: seedWhole})
	if w.known {
		w.state.End = false
		w.add(capture.Second, w.since, w.state)
	}
	if w.fresh != nil && unsure { // its other half follows
		w.add(capture.Snapshot, w.since, struct{}{})
		w.replace(true)
		w.addTables(capture.Stands)
		if w.torn {
			w.add(capture.Steps, w.since, censusStep{Unsure: true})
		}
	}
	w.tables, w.fresh, w.touched = nil, nil, nil
	return nil
}

// catchUp takes all that happened before the beginning, from where we are. It returns the
// first time that it met.
func (w *excerpt) catchUp() (first event.Ktime, err error) {
	w.tables, w.fresh, w.touched = map[stand]standing{}, nil, nil
	w.pushed, w.ended, w.based, w.missed = nil, false, false, false
	for w.pushed == nil {
		x, err := w.next()
		if errors.Is(err, io.EOF) { // nothing has happened since
			w.ended = true
			return first, nil
		}
		if err != nil {
			return first, err
		}
		if first == 0 {
			first = timeOf(x)
		}
		if timeOf(x) >= w.since {
			w.pushed = x
		} else if err := w.absorb(x); err != nil {
			return first, err
		}
	}
	return first, nil
}

// addTables puts what is in the tables into the queue, in the order in which it came.
func (w *excerpt) addTables(as capture.Kind) {
	var entries []event.Event
	for _, k := range slices.SortedFunc(maps.Keys(w.tables), func(a, b stand) int { return cmp.Compare(w.tables[a].n, w.tables[b].n) }) {
		s := w.tables[k]
		entries = append(entries, event.Event{Kind: event.New, Time: w.since, NetNS: k.netns, Zone: k.zone, Orig: k.orig, Reply: s.reply, Status: s.status, Mark: s.mark})
	}
	if len(entries) > 0 {
		w.queue = append(w.queue, capture.Item{Kind: as, Events: entries})
	}
}

func (w *excerpt) add(k capture.Kind, at event.Ktime, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // values of ours
	}
	w.queue = append(w.queue, capture.Item{Kind: k, At: at, JSON: b})
}

// absorb takes what happened before the beginning. Events of a section that reaches into
// the time are what comes next.
func (w *excerpt) absorb(x *capture.Item) error {
	switch x.Kind {
	case capture.Events:
		n := before(x.Events, w.since)
		for i := range n {
			w.happened(&x.Events[i])
		}
		if n < len(x.Events) {
			w.pushed = &capture.Item{Kind: capture.Events, Events: x.Events[n:]}
		}
	case capture.Entries:
		for i := range x.Events {
			w.enter(w.tables, &x.Events[i])
		}
	case capture.Stands:
		for i := range x.Events {
			if e := &x.Events[i]; w.fresh != nil {
				w.enter(w.fresh, e)
				w.stood++
			}
		}
	case capture.Second:
		s, err := sectionOf[secondState](x)
		w.state, w.known = s, err == nil
		return err
	case capture.Steps:
		s, err := sectionOf[censusStep](x)
		if s.Forget != nil {
			clear(w.tables)
		}
		w.based = w.based || s.Begin
		return err
	case capture.Gap:
		w.missed, w.torn = true, true
	case capture.Snapshot:
		w.stood, w.touched, w.fresh, w.torn = 0, map[stand]struct{}{}, map[stand]standing{}, false
	case capture.Held:
		s, err := sectionOf[snapshotEnd](x)
		if w.fresh != nil {
			w.replace(s.Whole && w.stood >= s.Entries)
			w.based, w.missed = true, w.torn
		}
		return err
	}
	return nil
}

func keyOfStand(e *event.Event) stand { return stand{e.NetNS, e.Zone, e.Orig} }

func (w *excerpt) enter(to map[stand]standing, e *event.Event) {
	if len(to) >= mostStanding {
		return // more than tables hold: nobody's file takes all memory
	}
	w.n++
	to[keyOfStand(e)] = standing{e.Reply, e.Status, e.Mark, w.n}
}

func (w *excerpt) happened(e *event.Event) {
	switch {
	case e.Kind == event.New || e.ReplyOnly:
		w.enter(w.tables, e)
	case e.Kind == event.Destroy:
		delete(w.tables, keyOfStand(e))
	default:
		return
	}
	if w.touched != nil {
		w.touched[keyOfStand(e)] = struct{}{}
	}
}

// replace has a snapshot say what there is. What events have told of meanwhile they know
// better, and where it is not whole, what it did not tell of may be there.
func (w *excerpt) replace(whole bool) {
	for k := range w.touched {
		delete(w.fresh, k)
	}
	for k, s := range w.tables {
		if _, touched := w.touched[k]; touched || !whole {
			w.fresh[k] = s
		}
	}
	w.tables, w.fresh, w.touched = w.fresh, nil, nil
}
