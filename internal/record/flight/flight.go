// Package flight is a recording without an end that takes no more than so much room: a
// ring of files in a directory, of which the oldest make room for new ones. What was
// around a moment can be kept, and then no longer makes room.
package flight

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/record/capture"
)

// Config says how much there may be. Zero fields but Dir and Header get the defaults.
type Config struct {
	Dir     string
	Bytes   int64         // of the ring, default 1 GiB
	Age     time.Duration // of what is in it, 0 for any
	Segment int64         // bytes of a file, default a sixteenth of Bytes, 64 KiB at least
	Span    time.Duration // time of a file, default a sixteenth of Age; 0 for any
	Kept    int64         // bytes of what is kept, default Bytes
	Header  func() capture.Header
	Now     func() time.Time // default time.Now
}

// Dir is a directory that was taken: nobody else records to it, and we do not yet.
type Dir struct {
	c    Config
	lock *os.File
	all  []segment // that an earlier process has left
}

// Ring is one that is written to. Its methods may be called by any goroutine, and none but
// Close waits for the disk: the goroutine that writes does all that takes long.
type Ring struct {
	c    Config
	lock *os.File
	rec  *capture.Recorder
	wg   sync.WaitGroup

	mu    sync.Mutex
	asked []keep // not taken up yet

	state atomic.Pointer[state] // of the last look

	// Of the goroutine that writes.
	all      []segment // the oldest first; the last one is written to
	keeps    []keep    // that may get more segments
	kept     []Kept
	roomErr  error // of turning over or of making room, nil when it works again
	keepsErr error // likewise of keeping
}

// state is what others may see.
type state struct {
	files  int
	closed int64 // bytes of all files but the one that is written to
	oldest time.Time
	kept   []Kept
	err    error
}

// segment is a file of the ring.
type segment struct {
	path       string
	size       int64
	begin, end time.Time // end is zero for the one that is written to
}

const (
	suffix    = ".ctsight"
	keptDir   = "kept"
	lockName  = "lock"
	nameForm  = "20060102T150405.000000000Z"
	leastFile = 64 << 10
	// mostFiles is how many there are at most, whatever their size.
	mostFiles = 4096
	// leastFiles are left when the disk is full of what is not ours.
	leastFiles = 4
)

// ErrInUse says that another process records to the directory.
var ErrInUse = errors.New("another ctsight records to this directory: give each one its own")

// Open takes a directory, with what an earlier process has left in it, and begins to
// record.
func Open(c Config) (*Ring, error) {
	d, err := Take(c)
	if err != nil {
		return nil, err
	}
	return d.Begin(c.Header)
}

// Take makes a directory, if it is not there, and sees whether it can be written to.
func Take(c Config) (*Dir, error) {
	if c.Bytes == 0 {
		c.Bytes = 1 << 30
	}
	if c.Segment == 0 {
		c.Segment = max(leastFile, c.Bytes/16)
	}
	if c.Span == 0 {
		c.Span = c.Age / 16
	}
	if c.Kept == 0 {
		c.Kept = c.Bytes
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	err := os.MkdirAll(filepath.Dir(c.Dir), 0o755) // which others may need to pass
	if err == nil {
		err = os.MkdirAll(filepath.Join(c.Dir, keptDir), 0o750)
	}
	if err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(c.Dir, lockName), os.O_CREATE|os.O_RDWR, 0o640)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrInUse
		}
		return nil, errors.Join(fmt.Errorf("%s: %w", c.Dir, err), lock.Close())
	}
	d := &Dir{c: c, lock: lock}
	if err := d.Writable(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	if d.all, err = left(c.Dir); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return d, nil
}

// Path is where it is.
func (d *Dir) Path() string { return d.c.Dir }

// Writable makes a file and a directory, and removes them. That the disk is full says
// nothing against it: that will pass.
func (d *Dir) Writable() error {
	for _, dir := range []string{d.c.Dir, filepath.Join(d.c.Dir, keptDir)} {
		sub, err := os.MkdirTemp(dir, ".check")
		if err == nil {
			err = os.Remove(sub)
		}
		if err != nil && !full(err) {
			return err
		}
	}
	return nil
}

// Close gives it back, where nobody has begun.
func (d *Dir) Close() error { return d.lock.Close() }

// full says that there is no room.
func full(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// left returns the files of an earlier process.
func left(dir string) (all []segment, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries { // by name, which is by time
		begin, err := time.Parse(nameForm, strings.TrimSuffix(e.Name(), suffix))
		info, ierr := e.Info()
		if err != nil || ierr != nil || !strings.HasSuffix(e.Name(), suffix) || !e.Type().IsRegular() {
			continue // not ours
		}
		all = append(all, segment{filepath.Join(dir, e.Name()), info.Size(), begin, info.ModTime()})
	}
	return all, nil
}

// Begin begins to record. Where nothing can be written at the moment it goes on as soon as
// that is possible.
func (d *Dir) Begin(header func() capture.Header) (*Ring, error) {
	r := &Ring{c: d.c, lock: d.lock, all: d.all}
	r.c.Header = header
	r.roomErr = r.makeRoom(r.c.Now())
	s := r.next()
	f, err := capture.Begin(s.path, header())
	if err != nil {
		return nil, errors.Join(err, d.lock.Close())
	}
	r.all = append(r.all, s)
	r.kept, r.keepsErr = listKept(r.c.Dir)
	r.show()
	r.rec = capture.NewRecorder(f)
	r.rec.Turn(r.turn)
	r.rec.Stuck(r.stuck)
	return r, nil
}

// Recorder is what is given what is to be recorded.
func (r *Ring) Recorder() *capture.Recorder { return r.rec }

// next is the file that comes next.
func (r *Ring) next() segment {
	begin := r.c.Now().UTC()
	if n := len(r.all); n > 0 && !begin.After(r.all[n-1].begin) { // the clock was set back
		begin = r.all[n-1].begin.Add(1)
	}
	return segment{path: filepath.Join(r.c.Dir, begin.Format(nameForm)+suffix), begin: begin}
}

// turn keeps what is to be kept, and begins another file when the one that is written to
// has its size or its time. It is called by the goroutine that writes. Where there is no
// room for another, the old one goes on.
func (r *Ring) turn(f *capture.File) *capture.File {
	now, last := r.c.Now(), &r.all[len(r.all)-1]
	last.size = f.W.Size()
	next := f
	if last.size >= r.c.Segment || r.c.Span > 0 && now.Sub(last.begin) >= r.c.Span {
		next = r.turnOver(f, now)
	}
	r.tend(now, next != f) // somebody may have removed some meanwhile
	r.show()
	return next
}

func (r *Ring) turnOver(f *capture.File, now time.Time) *capture.File {
	last := &r.all[len(r.all)-1]
	last.end = now
	if r.roomErr = r.makeRoom(now); r.roomErr != nil {
		last.end = time.Time{}
		return f
	}
	s := r.next()
	next, err := capture.Create(s.path, r.c.Header())
	if err != nil {
		_ = os.Remove(s.path) // that of a disk which is full has no header
		r.roomErr, r.all[len(r.all)-1].end = err, time.Time{}
		return f
	}
	r.all = append(r.all, s)
	r.wg.Go(func() { _ = f.Close(nil) }) // what was written is there, closed or not
	return next
}

// makeRoom removes the oldest files.
func (r *Ring) makeRoom(now time.Time) error {
	total, next := int64(0), r.c.Segment // which may be exceeded by what is written at once
	for _, s := range r.all {
		total, next = total+s.size, max(next, s.size)
	}
	total += next
	for len(r.all) > 1 && (total > r.c.Bytes || len(r.all) >= mostFiles || r.c.Age > 0 && now.Sub(r.all[0].end) > r.c.Age) {
		total -= r.all[0].size
		if err := r.removeOldest(); err != nil {
			return err
		}
	}
	return nil
}

func (r *Ring) removeOldest() error {
	if err := os.Remove(r.all[0].path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	r.all = r.all[1:]
	return nil
}

// stuck gives up the oldest file when the disk is full: of a ring the newest is worth
// most. A few are left, or who fills the disk would have all of it.
func (r *Ring) stuck(err error) {
	if full(err) && len(r.all) > leastFiles {
		r.roomErr = r.removeOldest()
		r.show()
	}
}

// show lets others see how it is.
func (r *Ring) show() {
	s := &state{files: len(r.all), oldest: r.all[0].begin, kept: r.kept, err: errors.Join(r.roomErr, r.keepsErr)}
	for i := range r.all[:len(r.all)-1] {
		s.closed += r.all[i].size
	}
	r.state.Store(s)
}

// Stats is how it goes.
type Stats struct {
	capture.Stats
	Segments int
	InRing   int64     // bytes
	Oldest   time.Time // zero for none
	Kept     []Kept    // the oldest first
}

// Stats returns how it goes; Err is of the file or of the directory.
func (r *Ring) Stats() Stats {
	s, now := r.state.Load(), r.rec.Stats()
	if now.Err == nil {
		now.Err = s.err
	}
	return Stats{now, s.files, s.closed + now.Bytes, s.oldest, s.kept}
}

// Close ends the last file.
func (r *Ring) Close() error {
	err := r.rec.Close(nil)
	r.tend(r.c.Now(), true)
	r.show()
	r.wg.Wait()
	return errors.Join(err, r.lock.Close())
}
