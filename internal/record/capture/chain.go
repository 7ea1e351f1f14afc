package capture

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/ctsight/ctsight/internal/event"
)

// Source is a recording that is read item by item: a Reader, or a Chain of files.
type Source interface {
	Next() (*Item, error)
	SeekSnapshot(event.Ktime) (bool, error)
	// Bounds are the first and the last time in it, 0 where a stream is read.
	Bounds() (first, last event.Ktime, err error)
	About() *Header
	// Missing is what is missing in what was read; whole, whether it was ended by who
	// wrote it.
	Missing() (lost Missing, whole bool)
}

// About is the header of the file.
func (r *Reader) About() *Header { return &r.Header }

// Missing is Lost, and whether the file has an End.
func (r *Reader) Missing() (Missing, bool) { return r.Lost, r.End != nil }

// Chain is the files of one run of a recorder, one behind the other, as if they were one:
// those of a ring.
type Chain struct {
	all   []string
	paths []string // that come yet
	f     *os.File
	r     *Reader
	lost  Missing
	whole bool
}

// OpenChain opens files in the order of their time. All have to be of the run that the
// last one is of; earlier ones are left out, so many as skipped.
func OpenChain(paths []string) (c *Chain, skipped int, err error) {
	if len(paths) == 0 {
		return nil, 0, errors.New("no recording is in there")
	}
	last, err := headerOf(paths[len(paths)-1])
	if err != nil {
		return nil, 0, err
	}
	for skipped < len(paths)-1 {
		h, err := headerOf(paths[skipped])
		if err == nil && h.run() == last.run() {
			break
		}
		skipped++
	}
	c = &Chain{all: paths[skipped:], paths: paths[skipped:], whole: true}
	return c, skipped, c.open()
}

// SeekSnapshot goes to the last Snapshot that began at a time or before, in whichever
// file, and where there is none to the beginning of the first.
func (c *Chain) SeekSnapshot(t event.Ktime) (bool, error) {
	for i := len(c.all) - 1; ; i-- {
		at := Chain{paths: c.all[i:]}
		if err := at.open(); err != nil {
			return false, err
		}
		found, err := at.r.seekSnapshot(t, false)
		if err != nil {
			return false, errors.Join(err, at.f.Close())
		}
		if !found && i > 0 {
			if err := at.f.Close(); err != nil {
				return false, err
			}
			continue
		}
		c.Close()
		c.f, c.r, c.paths = at.f, at.r, at.paths
		c.lost, c.whole = Missing{}, true
		return true, nil
	}
}

// run says which run of a recorder a file is of.
func (h *Header) run() string { return fmt.Sprint(h.BootID, h.Start, h.Seed) }

func headerOf(path string) (Header, error) {
	f, err := os.Open(path)
	if err != nil {
		return Header{}, err
	}
	defer f.Close()
	r, err := NewReader(f)
	if err != nil {
		return Header{}, fmt.Errorf("%s: %w", path, err)
	}
	return r.Header, nil
}

// open goes to the next file.
func (c *Chain) open() (err error) {
	path := c.paths[0]
	c.paths = c.paths[1:]
	if c.f, err = os.Open(path); err != nil {
		return err
	}
	r, err := NewReader(c.f)
	if err == nil && c.r != nil && r.Header.run() != c.r.Header.run() {
		err = errors.New("it is of another run than the files before it")
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", path, err), c.f.Close())
	}
	c.r = r
	return nil
}

// Next returns the next item of whichever file.
func (c *Chain) Next() (*Item, error) {
	for {
		x, err := c.r.Next()
		if !errors.Is(err, io.EOF) {
			return x, err
		}
		c.lost, c.whole = c.Missing()
		c.r.Lost, c.r.End = Missing{}, &End{} // are in these now
		if err := c.f.Close(); err != nil {
			return nil, err
		}
		if len(c.paths) == 0 {
			return nil, io.EOF
		}
		if err := c.open(); err != nil {
			return nil, err
		}
	}
}

// Bounds are the first time in the first file, and the last in the last.
func (c *Chain) Bounds() (first, last event.Ktime, err error) {
	if first, last, err = c.r.Bounds(); err != nil || len(c.paths) == 0 {
		return first, last, err
	}
	f, err := os.Open(c.all[len(c.all)-1])
	if err != nil {
		return first, last, err
	}
	defer f.Close()
	r, err := NewReader(f)
	if err != nil {
		return first, last, err
	}
	_, end, err := r.Bounds()
	return first, max(last, end), err
}

// About is the header of the file that is read.
func (c *Chain) About() *Header { return &c.r.Header }

// Missing is what is missing in all files so far.
func (c *Chain) Missing() (Missing, bool) {
	lost, whole := c.lost, c.whole
	more, ended := c.r.Missing()
	lost.Events += more.Events
	lost.Bytes += more.Bytes
	lost.Frames += more.Frames
	return lost, whole && ended
}

// Close closes what is open; the end of the last file has closed it already.
func (c *Chain) Close() { _ = c.f.Close() }
