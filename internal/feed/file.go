package feed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// File is a file that tellings are appended to, each whole or not at all. When it is
// moved away or removed, as logrotate does, the next line begins a new one.
type File struct {
	path   string
	format Format
	f      *os.File
	again  atomic.Bool // open it anew before the next line
	buf    []byte
}

// OpenFile opens a file to append to, with mode 0640 if it has to be made; the path - is
// standard output.
func OpenFile(path string, format Format) (*File, error) {
	s := &File{path: path, format: format}
	return s, s.open()
}

func (s *File) open() error {
	if s.path == "-" {
		s.f = os.Stdout
		return nil
	}
	// Not to wait for the reader of a pipe, which is refused below.
	f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NONBLOCK, 0o640)
	if err != nil {
		return fmt.Errorf("feed: %w", err)
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return errors.Join(fmt.Errorf("feed: %s is not a regular file: name one, or - for standard output", s.path), f.Close())
	}
	s.f = f
	return nil
}

// Reopen has the file opened anew before the next line is written; it may be called by
// any goroutine.
func (s *File) Reopen() { s.again.Store(true) }

// Write appends a line.
func (s *File) Write(_ context.Context, t Telling) error {
	var err error
	if s.buf, err = s.format(s.buf[:0], t); err != nil {
		return Lost{err}
	}
	if err := s.follow(); err != nil {
		return err
	}
	return s.append(s.buf)
}

// follow goes where the path leads now.
func (s *File) follow() error {
	if s.path == "-" {
		return nil
	}
	again := s.again.Swap(false)
	if s.f != nil && !again && s.there() {
		return nil
	}
	old := s.f
	s.f = nil
	if old != nil {
		if err := old.Close(); err != nil { // what the file system could not keep
			return errors.Join(err, s.open())
		}
	}
	return s.open()
}

// there says whether the path is still the file that is open.
func (s *File) there() bool {
	now, err := os.Stat(s.path)
	if err != nil {
		return false
	}
	was, err := s.f.Stat()
	return err == nil && os.SameFile(now, was)
}

// append takes back a part of a line that was all there was room for.
func (s *File) append(line []byte) error {
	end, seekErr := s.f.Seek(0, io.SeekEnd)
	n, err := s.f.Write(line)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("feed: %w", err)
	if n > 0 && seekErr == nil {
		err = errors.Join(err, s.f.Truncate(end))
	}
	return err
}

// Close closes the file.
func (s *File) Close() error {
	if s.f == nil || s.path == "-" {
		return nil
	}
	return s.f.Close()
}
