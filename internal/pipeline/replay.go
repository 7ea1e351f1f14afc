package pipeline

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/detect"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/filter"
	"github.com/ctsight/ctsight/internal/record"
)

// Lines is a capture, read line by line in the order of time: record.Reader.
type Lines interface {
	Read(e *event.Event) (record.What, error) // io.EOF at the end
	Waits() bool                              // the next Read may have to wait
	Close()
}

// ReplayConfig says what is made of a capture.
type ReplayConfig struct {
	Filter *filter.Filter
	Detect detect.Config // its clock is record.Clock
	For    time.Duration // end after so much of the capture's time; 0 is all of it
	// Each, if not nil, is called with every step, in their order and before anything is
	// found in it: of what has happened and of entries with those that the filter lets
	// through.
	Each func(*Told)

	// judged is for a Past: told are what first contacts have shown, and which findings are
	// open. dues is the census that Each tells of all that happens, without a filter; nil
	// for none.
	judged bool
	dues   dues
}

// Replayed is what was in a capture.
type Replayed struct {
	Lines       uint64 // that told something
	Events      uint64 // entries that came or went, and that the filter let through
	First, Last time.Time

	// What does not fit together, and was taken as it is.
	Doubles   uint64 // inserts of an id that was in the table
	Strangers uint64 // lines about an id that was not
	// Forgotten entries made room for others: what was told of them later counts as
	// Strangers.
	Forgotten uint64

	Found    []agg.ClassCount // findings by class
	Overflow detect.Overflow
}

// Times of a replay. The raster is that of a live run, so that both look at the same
// age of an entry.
const (
	raster = event.Ktime(100 * time.Millisecond)
	second = event.Ktime(time.Second)
	// drowsy is after how long without anything seconds are ended once a minute only,
	// and idle is after how long nothing changes any more, a day being the longest
	// time that an Engine keeps anything: a small file may be about centuries.
	drowsy = event.Ktime(time.Hour)
	idle   = event.Ktime(25 * time.Hour)
	// afterEnd is how long the time goes on behind the last line: until its contacts
	// were judged, which takes 3 s and up to a step of the raster, and the second in
	// which that is ended. No longer: what would have come then is not known, and
	// silence behind the end of a file is evidence of nothing.
	afterEnd = 4 * second
	// keepLive is how many entries are remembered, the newest ones: 80 MB at most.
	keepLive = 1 << 20
)

// Replay runs an Engine over a capture, in its time and as fast as it can. Looks are
// answered by what the lines have said of the entry until then. The same capture
// gives the same findings. What was found before an error has been told. It ends
// without one when ctx does. It closes the capture.
func Replay(ctx context.Context, in Lines, c ReplayConfig) (Replayed, error) {
	c.Detect.Clock = record.Clock()
	r := &replay{c: c, live: agg.NewLive[entry](keepLive, 0), looks: make([]detect.Look, 0, judgeBatch)}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	blocks, done := readAhead(ctx, in)
	for {
		select {
		case <-ctx.Done():
			return r.done(), nil
		case b := <-blocks:
			for i := range b.lines {
				if !r.take(&b.lines[i]) {
					return r.finish(), nil
				}
			}
			switch {
			case errors.Is(b.err, io.EOF):
				return r.finish(), nil
			case b.err != nil:
				return r.finish(), b.err
			}
			done <- b.lines[:0]
		}
	}
}

// line is one of a capture, read.
type line struct {
	event.Event
	what record.What
}

// block is lines, and the error that came after them.
type block struct {
	lines []line
	err   error
}

// perBlock is how many lines go from one goroutine to the other at a time.
const perBlock = 512

// readAhead reads while what was read is looked at, and takes the places of lines
// back in done. Its goroutine ends with the capture or with ctx, but not while it
// waits for more of a pipe.
func readAhead(ctx context.Context, in Lines) (blocks <-chan block, done chan<- []line) {
	const ahead = 3
	out, free := make(chan block), make(chan []line, ahead)
	for range ahead {
		free <- make([]line, 0, perBlock)
	}
	go func() {
		defer in.Close()
		for {
			var b block
			select {
			case b.lines = <-free:
			case <-ctx.Done():
				return
			}
			for len(b.lines) < perBlock && b.err == nil {
				b.lines = b.lines[:len(b.lines)+1]
				l := &b.lines[len(b.lines)-1]
				if l.what, b.err = in.Read(&l.Event); b.err != nil {
					b.lines = b.lines[:len(b.lines)-1]
				}
				if in.Waits() {
					break
				}
			}
			select {
			case out <- b:
			case <-ctx.Done():
				return
			}
			if b.err != nil {
				return
			}
		}
	}()
	return out, free
}

// entry is what the lines have said of one that is in the table.
type entry struct {
	since  event.Ktime
	status event.Status
}

// replay is under way.
type replay struct {
	c      ReplayConfig
	out    Replayed
	engine *detect.Engine // nil before the first line
	live   *agg.Live[entry]
	order  ring
	batch  []event.Event // of one step of the raster
	looks  []detect.Look
	shown  []detect.Seen

	first, last event.Ktime // of the lines
	past        event.Ktime // steps up to it were taken
	busy        event.Ktime // something happened
}

// take takes a line; false when enough of the capture's time has gone.
func (r *replay) take(l *line) bool {
	if r.engine == nil {
		r.begin(l.Time)
	}
	if r.c.For > 0 && l.Time.Sub(r.first) >= r.c.For {
		return false
	}
	if l.Time > r.past+raster {
		r.advance(l.Time)
	}
	r.out.Lines++
	r.last, r.busy = l.Time, l.Time
	r.note(l)
	if l.Kind == 0 {
		r.c.each(Told{At: l.Time, Seen: &Standing{Ptr: l.Ptr, Orig: l.Orig, Status: l.Status}})
		return true
	}
	if !r.c.Filter.Match(&l.Event) {
		return true
	}
	r.c.each(Told{At: l.Time, Event: &l.Event})
	r.out.Events++
	r.batch = append(r.batch, l.Event)
	return true
}

func (r *replay) begin(at event.Ktime) {
	r.engine = detect.New(r.c.Detect, at)
	r.first, r.last, r.busy = at, at, at
	r.past = at / raster * raster
}

// note keeps what a line says of its entry, and gives a destroy its lifetime: that
// between the lines, and the one that it tells where its insert was not seen.
func (r *replay) note(l *line) {
	switch l.what {
	case record.Inserted:
		r.insert(l)
	case record.Destroyed:
		if e, ok := r.live.Remove(l.Ptr); ok {
			l.Lifetime, l.HasLifetime = l.Time.Sub(e.since), true
		} else {
			r.out.Strangers++
		}
	default:
		if e := r.live.Get(l.Ptr); e != nil {
			e.status |= l.Status
		} else {
			r.out.Strangers++
		}
	}
}

func (r *replay) insert(l *line) {
	if r.live.Get(l.Ptr) != nil {
		r.out.Doubles++
	}
	if old, full := r.order.push(arrival{l.Ptr, l.Time}, keepLive); full {
		if e := r.live.Get(old.ptr); e != nil && e.since == old.at && old.ptr != l.Ptr {
			r.live.Remove(old.ptr)
			r.out.Forgotten++
		}
	}
	r.live.Insert(l.Ptr, entry{since: l.Time, status: l.Status})
}

// advance lets the time go on to a moment: looks at what is due, ends seconds. What
// happens at the moment itself is not in them.
func (r *replay) advance(to event.Ktime) {
	r.flush()
	for {
		at, look := r.nextStep()
		if at >= to {
			break
		}
		if at-r.busy > idle && !look {
			r.past = max(r.past, (to-1)/second*second) // the last second before it
			r.busy = r.past
			continue
		}
		if look {
			r.look(at)
		}
		if at%second == 0 {
			r.engine.Tick(at, detect.State{})
		}
		r.past = at
	}
	r.past = max(r.past, (to-1)/raster*raster)
}

// nextStep is the next moment of the raster at which there is something to do, and
// whether there is something to look at.
func (r *replay) nextStep() (at event.Ktime, look bool) {
	step := second
	if r.past-r.busy > drowsy {
		step = 60 * second
	}
	at = (r.past/step + 1) * step
	if due, any := r.engine.NextDue(); any {
		if due = max(r.past+raster, (due+raster-1)/raster*raster); due <= at {
			return due, true
		}
	}
	return at, false
}

// flush gives the engine what has happened.
func (r *replay) flush() {
	r.engine.AddAll(r.batch)
	r.batch = r.batch[:0]
}

// look answers what the engine wants to know by what the lines have said so far.
func (r *replay) look(at event.Ktime) {
	for {
		if r.looks = r.engine.Due(at, r.looks); len(r.looks) == 0 {
			return
		}
		r.busy, r.shown = at, r.shown[:0]
		for i := range r.looks {
			r.shown = append(r.shown, r.seen(&r.looks[i]))
		}
		r.engine.SeenAll(r.looks, at, r.shown)
	}
}

// seen is what a look would have shown.
func (r *replay) seen(l *detect.Look) detect.Seen {
	e := r.live.Get(l.Ptr)
	if e == nil || e.since != l.At {
		return detect.Seen{Known: r.out.Forgotten == 0}
	}
	s := detect.Seen{Known: true, Live: true, Status: e.status}
	if l.Orig.Proto == event.ProtoTCP {
		s.TCPState = tcpState(e.status)
	}
	return s
}

// tcpState is as much of the state of an entry as its marks tell.
func tcpState(s event.Status) event.TCPState {
	switch {
	case s&event.Assured != 0:
		return event.TCPEstablished
	case s&event.SeenReply != 0:
		return event.TCPSynRecv
	}
	return event.TCPSynSent
}

// finish lives through what follows the last line.
func (r *replay) finish() Replayed {
	if r.engine != nil {
		r.advance(r.last + afterEnd + 1)
	}
	return r.done()
}

// done tells what was not told yet.
func (r *replay) done() Replayed {
	if r.engine != nil {
		r.flush()
		r.engine.End(r.past)
		r.out.First, r.out.Last = r.c.Detect.Clock.At(r.first), r.c.Detect.Clock.At(r.last)
		r.out.Found, r.out.Overflow = r.engine.Found(), r.engine.Overflow()
	}
	return r.out
}

// arrival is when an entry was inserted.
type arrival struct {
	ptr uint64
	at  event.Ktime
}

// ring holds the newest inserts.
type ring struct {
	all  []arrival
	next int
}

// push returns the oldest when it had to go.
func (r *ring) push(b arrival, limit int) (old arrival, full bool) {
	if len(r.all) < limit {
		r.all = append(r.all, b)
		return old, false
	}
	old, r.all[r.next] = r.all[r.next], b
	r.next = (r.next + 1) % limit
	return old, true
}
