package capture

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// Recorder stores what it is given, in its order, and never makes who gives it wait:
// what finds no room, because the disk is slow, full or gone, is counted and leaves a
// Gap.
type Recorder struct {
	file *File
	full chan *chunk
	done chan struct{}
	turn func(*File) *File

	stuck func(error)

	mu    sync.Mutex
	ended bool
	free  []*chunk // the last one used is the next: it is still in the cache
	now   *chunk   // nil where there was no room for one
	lost  uint64   // events that a gap has to be made of
	stats Stats

	jammed bool // somebody has waited in vain
}

// Stats is how a recording goes.
type Stats struct {
	Events, Lost uint64 // recorded, and not for want of room
	Bytes        int64  // in the file
	Files        int    // that were begun after the first
	Err          error  // why nothing is written at the moment; nil where all is well
}

// chunk is what is handed from one goroutine to the other.
type chunk struct {
	events []event.Event
	sums   []event.Sum
	steps  []step
}

// step is so many events or sums, or a section of JSON.
type step struct {
	kind Kind
	n    int
	at   event.Ktime
	json json.RawMessage
}

const (
	chunkEvents = 4096
	chunkSteps  = 1024
	chunks      = 12 // 18 MB; of a million events a second 40 ms
	retryEvery  = time.Second
)

// NewRecorder begins to write to a file.
func NewRecorder(f *File) *Recorder {
	r := &Recorder{file: f, full: make(chan *chunk, chunks), done: make(chan struct{})}
	for range chunks {
		r.free = append(r.free, &chunk{})
	}
	go r.write()
	return r
}

// Turn has a function called when something was written, by the goroutine that writes:
// with the file, and what it returns is written to from then on. Before anything is
// recorded.
func (r *Recorder) Turn(fn func(*File) *File) { r.turn = fn }

// Stuck has a function called before it is tried again to write what could not be
// written, by the goroutine that writes: with the error. Before anything is recorded.
func (r *Recorder) Stuck(fn func(error)) { r.stuck = fn }

// room returns a chunk with room for another step; nil for none. The lock is held.
func (r *Recorder) room() *chunk {
	if c := r.now; c != nil && (len(c.events) >= chunkEvents || len(c.steps) >= chunkSteps) {
		r.hand()
	}
	if n := len(r.free); r.now == nil && !r.ended && n > 0 {
		r.now, r.free = r.free[n-1], r.free[:n-1]
		if r.lost > 0 {
			r.now.gap(r.lost, "the recording could not keep up")
			r.lost = 0
		}
	}
	return r.now
}

func (c *chunk) gap(lost uint64, why string) {
	b, _ := json.Marshal(Missing{Events: lost, Why: why})
	c.steps = append(c.steps, step{kind: Gap, json: b})
}

// hand hands over what waits. The lock is held.
func (r *Recorder) hand() {
	if r.now != nil && len(r.now.steps) > 0 {
		r.full <- r.now // has room for all that there are
		r.now = nil
	}
}

// Events takes events, which are not kept.
func (r *Recorder) Events(k Kind, events []event.Event) {
	if len(events) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.room()
	switch {
	case c == nil && k == Events:
		r.lost += uint64(len(events))
		r.stats.Lost += uint64(len(events))
		return
	case c == nil:
		return // who was there before, for the detectors
	}
	if c.events == nil {
		c.events = make([]event.Event, 0, chunkEvents+chunkEvents/8)
	}
	c.events = append(c.events, events...)
	if n := len(c.steps); n > 0 && c.steps[n-1].kind == k {
		c.steps[n-1].n += len(events)
		return
	}
	c.steps = append(c.steps, step{kind: k, n: len(events)})
}

// Sum takes a sum.
func (r *Recorder) Sum(x *event.Sum) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.room(); c != nil {
		c.sums = append(c.sums, *x)
		c.steps = append(c.steps, step{kind: Sums, n: 1})
		return
	}
	r.lost += x.N
	r.stats.Lost += x.N
}

// JSON takes what is JSON, of a time.
func (r *Recorder) JSON(k Kind, at event.Ktime, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // values of ours
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.room(); c != nil {
		c.steps = append(c.steps, step{kind: k, at: at, json: b})
	}
}

// Wait waits until there is room for much: for who reads a whole table and is not traffic.
// After a second of that, for the disk hangs say, nobody waits any more until there is.
func (r *Recorder) Wait() {
	for until := time.Now().Add(time.Second); ; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		if room := len(r.free) >= chunks/2; room || r.jammed || !time.Now().Before(until) {
			r.jammed = !room
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
	}
}

// Flush has what was taken so far written, if not yet.
func (r *Recorder) Flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hand()
}

// Stats returns how it goes.
func (r *Recorder) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stats
}

// Close writes what waits and ends the file with the account.
func (r *Recorder) Close(ledger json.RawMessage) error {
	r.mu.Lock()
	if r.lost > 0 && r.now == nil {
		r.now = &chunk{}
		r.now.gap(r.lost, "the recording could not keep up")
	}
	if r.now != nil && len(r.now.steps) > 0 {
		c := r.now
		r.now = nil
		r.mu.Unlock()
		r.full <- c
		r.mu.Lock()
	}
	r.ended = true
	close(r.full)
	r.mu.Unlock()
	<-r.done
	err := r.file.Close(ledger)
	gone := r.file.W.unwritten()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats.Events -= gone.events
	r.stats.Lost += gone.events + gone.sums
	r.stats.Bytes, r.stats.Err = r.file.W.Size(), err // it may have been written at last
	return err
}

// write stores what is handed over.
func (r *Recorder) write() {
	defer close(r.done)
	lost, retry := uint64(0), time.Time{}
	for c := range r.full {
		if r.file.Err() != nil && time.Since(retry) >= retryEvery {
			retry = time.Now()
			if r.stuck != nil {
				r.stuck(r.file.Err())
			}
			r.file.Retry()
		}
		if r.file.Err() != nil {
			n := c.count()
			lost += n
			r.note(c, 0, n)
		} else {
			if lost > 0 {
				r.file.W.gapNow(lost)
				lost = 0
			}
			r.file.put(c)
			r.note(c, c.told(), 0)
			if r.turn != nil && r.file.Err() == nil {
				was := r.file
				if r.file = r.turn(was); r.file != was {
					r.turned()
				}
			}
		}
	}
	if r.file.Retry() == nil && lost > 0 {
		r.file.W.gapNow(lost)
	}
}

// turned notes that another file is written to.
func (r *Recorder) turned() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats.Files++
	r.stats.Bytes = r.file.W.Size()
}

// gapNow notes what came while nothing could be written.
func (c *Writer) gapNow(lost uint64) {
	_ = c.Gap(c.last, Missing{Events: lost, Why: "it could not be written"}) // an error stays
}

// told is how many events it has, without entries that were there.
func (c *chunk) told() (n uint64) {
	for i := range c.steps {
		if c.steps[i].kind == Events {
			n += uint64(c.steps[i].n)
		}
	}
	return n
}

// count is told and what its sums stand for.
func (c *chunk) count() (n uint64) {
	n = c.told()
	for i := range c.sums {
		n += c.sums[i].N
	}
	return n
}

// note counts what became of a chunk, which is free then.
func (r *Recorder) note(c *chunk, events, lost uint64) {
	c.events, c.sums, c.steps = c.events[:0], c.sums[:0], c.steps[:0]
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free = append(r.free, c)
	r.stats.Events += events
	r.stats.Lost += lost
	r.stats.Bytes, r.stats.Err = r.file.W.Size(), r.file.Err()
}

// File is a Writer with its file. After an error it may be tried again.
type File struct {
	W *Writer
	f Disk
}

// Disk is what a File needs of one; an *os.File is.
type Disk interface {
	Write([]byte) (int, error)
	Truncate(int64) error
	Seek(int64, int) (int64, error)
	Sync() error
	Close() error
}

// Create makes a file; one that is there is refused.
func Create(path string, h Header) (*File, error) {
	f, err := Fresh(path)
	if err != nil {
		return nil, err
	}
	return NewFile(f, h)
}

// Fresh makes a file that is not there yet.
func Fresh(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("%s is there already: choose another name, or move it away", path)
	}
	return f, err
}

// NewFile begins a file that is open; where it fails it closes it.
func NewFile(f Disk, h Header) (*File, error) {
	w, err := NewWriter(f, h)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &File{W: w, f: f}, nil
}

// Err is why nothing can be written at the moment.
func (f *File) Err() error { return f.W.err }

// Retry cuts off what was written in part, and writes it again.
func (f *File) Retry() error {
	if f.W.err == nil {
		return nil
	}
	if f.f.Truncate(f.W.at) != nil {
		return f.W.err
	}
	if _, err := f.f.Seek(f.W.at, 0); err != nil {
		return f.W.err
	}
	return f.W.again()
}

// put writes a chunk and what waits.
func (f *File) put(c *chunk) {
	events, sums := c.events, c.sums
	for i := range c.steps {
		s := &c.steps[i]
		switch s.kind {
		case Events, Entries, Stands:
			f.W.whole(s.kind, events[:s.n]) // another kind follows, or Flush
			events = events[s.n:]
		case Sums:
			_ = f.W.Sum(&sums[0]) // errors stay in the Writer
			sums = sums[1:]
		default:
			_ = f.W.raw(s.kind, s.at, s.json)
		}
	}
	_ = f.W.Flush()
}

// Close ends the file: what was written stays after a crash of the machine.
func (f *File) Close(ledger json.RawMessage) error {
	return errors.Join(f.W.Close(ledger), f.f.Sync(), f.f.Close())
}
