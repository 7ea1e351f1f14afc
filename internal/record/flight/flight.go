// Package flight is a recording without an end that takes no more than so much room: a
// ring of files in a directory, of which the oldest make room for new ones. What was
// around a moment can be kept, and then no longer makes room.
package flight

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
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
	Kept    int64         // bytes of what is kept, default Bytes
	Header  func() capture.Header
	Now     func() time.Time // default time.Now
}

// Ring is one that is written to. Its methods may be called by any goroutine.
type Ring struct {
	c    Config
	lock *os.File
	rec  *capture.Recorder

	mu    sync.Mutex
	all   []segment // the oldest first; the last one is written to
	keeps []keep    // that may get more segments
	err   error     // of turning over or of making room, nil when it works again
	wg    sync.WaitGroup
}

// segment is a file of the ring.
type segment struct {
	path       string
	size       int64
	begin, end time.Time // end is zero for the one that is written to
}

// keep is what is kept of a moment.
type keep struct {
	dir   string
	until time.Time
}

const (
	suffix    = ".ctsight"
	keptDir   = "kept"
	lockName  = "lock"
	nameForm  = "20060102T150405.000000000Z"
	leastFile = 64 << 10
)

// ErrInUse says that another process records to the directory.
var ErrInUse = errors.New("another ctsight records to this directory")

// Open takes a directory, with what an earlier process has left in it, and begins to
// record.
func Open(c Config) (*Ring, error) {
	if c.Bytes == 0 {
		c.Bytes = 1 << 30
	}
	if c.Segment == 0 {
		c.Segment = max(leastFile, c.Bytes/16)
	}
	if c.Kept == 0 {
		c.Kept = c.Bytes
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if err := os.MkdirAll(filepath.Join(c.Dir, keptDir), 0o750); err != nil {
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
	r := &Ring{c: c, lock: lock}
	if r.all, err = left(c.Dir); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	f, err := r.create()
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	r.rec = capture.NewRecorder(f)
	r.rec.Turn(r.turn)
	return r, nil
}

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

// Recorder is what is given what is to be recorded.
func (r *Ring) Recorder() *capture.Recorder { return r.rec }

// create begins a file.
func (r *Ring) create() (*capture.File, error) {
	begin := r.c.Now().UTC()
	if n := len(r.all); n > 0 && !begin.After(r.all[n-1].begin) { // the clock was set back
		begin = r.all[n-1].begin.Add(1)
	}
	path := filepath.Join(r.c.Dir, begin.Format(nameForm)+suffix)
	f, err := capture.Create(path, r.c.Header())
	if err != nil {
		return nil, err
	}
	r.all = append(r.all, segment{path: path, begin: begin})
	return f, nil
}

// turn begins another file when the one that is written to has its size. It is called by
// the goroutine that writes. Where there is no room for another, the old one goes on.
func (r *Ring) turn(f *capture.File) *capture.File {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, last := r.c.Now(), &r.all[len(r.all)-1]
	last.size = f.W.Size()
	if last.size < r.c.Segment && (r.c.Age == 0 || now.Sub(last.begin) < r.c.Age/16) {
		return f
	}
	last.end = now
	if r.err = r.makeRoom(now); r.err != nil {
		last.end = time.Time{}
		return f
	}
	next, err := r.create()
	if err != nil {
		r.err, r.all[len(r.all)-1].end = err, time.Time{}
		return f
	}
	r.keepNext(now)
	r.wg.Go(func() { _ = f.Close(nil) }) // what was written is there, closed or not
	return next
}

// makeRoom removes the oldest files. The lock is held.
func (r *Ring) makeRoom(now time.Time) error {
	total, next := int64(0), r.c.Segment // which may be exceeded by what is written at once
	for _, s := range r.all {
		total, next = total+s.size, max(next, s.size)
	}
	total += next
	for len(r.all) > 1 && (total > r.c.Bytes || r.c.Age > 0 && now.Sub(r.all[0].end) > r.c.Age) {
		if err := os.Remove(r.all[0].path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		total -= r.all[0].size
		r.all = r.all[1:]
	}
	return nil
}

// Keep keeps what was recorded between two times, under a name; what comes until then is
// kept as it comes. It returns the directory. What is kept is bounded too: the oldest
// makes room.
func (r *Ring) Keep(name string, from, until time.Time) (string, error) {
	if name == "" || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." {
		return "", fmt.Errorf("%q is no name for what is kept", name)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	dir := filepath.Join(r.c.Dir, keptDir, name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", err
	}
	for i := range r.all {
		if s := &r.all[i]; !s.begin.After(until) && (s.end.IsZero() || !s.end.Before(from)) {
			if err := hold(dir, s); err != nil {
				return dir, err
			}
		}
	}
	if r.c.Now().Before(until) {
		r.keeps = append(r.keeps, keep{dir, until})
	}
	return dir, r.letGo(dir)
}

// hold makes a second name for a file: it is there until both are gone.
func hold(dir string, s *segment) error {
	err := os.Link(s.path, filepath.Join(dir, filepath.Base(s.path)))
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}

// keepNext keeps the file that was just begun where that was asked for.
func (r *Ring) keepNext(now time.Time) {
	r.keeps = slices.DeleteFunc(r.keeps, func(k keep) bool { return now.After(k.until) })
	for _, k := range r.keeps {
		r.err = errors.Join(r.err, hold(k.dir, &r.all[len(r.all)-1]), r.letGo(k.dir))
	}
}

// letGo removes what was kept longest ago, but not one.
func (r *Ring) letGo(but string) error {
	root := filepath.Join(r.c.Dir, keptDir)
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	type kept struct {
		dir  string
		size int64
		at   time.Time
	}
	var all []kept
	total := int64(0)
	for _, e := range entries {
		k := kept{dir: filepath.Join(root, e.Name())}
		files, err := os.ReadDir(k.dir)
		if err != nil {
			continue // not a directory, not ours
		}
		for _, f := range files {
			if info, err := f.Info(); err == nil {
				k.size += info.Size()
				if k.at.IsZero() || info.ModTime().Before(k.at) {
					k.at = info.ModTime()
				}
			}
		}
		total += k.size
		all = append(all, k)
	}
	slices.SortFunc(all, func(a, b kept) int { return a.at.Compare(b.at) })
	for _, k := range all {
		if total <= r.c.Kept {
			break
		}
		if k.dir == but {
			continue
		}
		if err := os.RemoveAll(k.dir); err != nil {
			return err
		}
		total -= k.size
	}
	return nil
}

// Stats is how it goes.
type Stats struct {
	capture.Stats
	Files  int
	InRing int64     // bytes
	Oldest time.Time // zero for none
}

// Stats returns how it goes; Err is of the file or of the directory.
func (r *Ring) Stats() Stats {
	s := Stats{Stats: r.rec.Stats()}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Files = len(r.all)
	for i := range r.all {
		s.InRing += r.all[i].size
	}
	s.InRing += s.Bytes - r.all[len(r.all)-1].size // of the one that is written to
	s.Oldest = r.all[0].begin
	if s.Err == nil {
		s.Err = r.err
	}
	return s
}

// Close ends the last file.
func (r *Ring) Close() error {
	err := r.rec.Close(nil)
	r.wg.Wait()
	return errors.Join(err, r.lock.Close())
}
