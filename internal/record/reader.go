package record

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/ctsight/ctsight/internal/event"
)

// Reader reads a capture line by line.
type Reader struct {
	name   string
	in     *bufio.Reader
	close  func()
	line   uint64
	last   event.Ktime
	any    bool // there was a line with a time
	err    error
	fields [columns][]byte
	addrs  map[string]netip.Addr
}

// Stdin is the name of standard input on the command line, and stdin what it is
// called in errors.
const (
	Stdin = "-"
	stdin = "stdin"
)

// Open opens a file, or what is given as standard input for Stdin.
func Open(name string, in io.Reader) (*Reader, error) {
	if name == Stdin {
		return New(stdin, in)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	r, err := New(name, f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	unpack := r.close
	r.close = func() { unpack(); _ = f.Close() }
	return r, nil
}

// New reads from in; the name is for errors. What the first bytes say decides how
// it is unpacked, and the name nothing.
func New(name string, in io.Reader) (*Reader, error) {
	r := &Reader{name: name, close: func() {}, addrs: map[string]netip.Addr{}}
	raw := bufio.NewReaderSize(in, 4096)
	magic, err := raw.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, r.at(1, unreadable(err))
	}
	var unpacked io.Reader = raw
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		if unpacked, err = gzip.NewReader(raw); err != nil {
			return nil, r.at(1, unreadable(err))
		}
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(raw, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, r.at(1, unreadable(err))
		}
		unpacked, r.close = z, z.Close
	}
	r.in = bufio.NewReaderSize(unpacked, MaxLine)
	return r, nil
}

// maxWindow is what zstd(1) unpacks without being asked to use more: 8 MiB.
const maxWindow = 8 << 20

// Close ends the reading.
func (r *Reader) Close() { r.close() }

// Waits says whether nothing more can be had without reading from the file, which
// may be a pipe.
func (r *Reader) Waits() bool { return r.in.Buffered() == 0 }

// Lines is how many lines were read, comments too.
func (r *Reader) Lines() uint64 { return r.line }

// Read reads the next event into e: a New for an insert, a Destroy, and for what
// happened in between the time, the entry, its tuple and status. Its error is io.EOF
// at the end, or an *Error, and after either there is nothing more.
func (r *Reader) Read(e *event.Event) (What, error) {
	for r.err == nil {
		var line []byte
		if line, r.err = r.next(); r.err != nil {
			break
		}
		if len(line) == 0 || line[0] == '#' {
			r.err = r.comment(line)
			continue
		}
		w, err := r.parse(line, e)
		if err != nil {
			r.err = r.at(r.line, err.Error())
			break
		}
		return w, nil
	}
	return 0, r.err
}

// next returns a line without its end.
func (r *Reader) next() ([]byte, error) {
	line, err := r.in.ReadSlice('\n')
	switch {
	case err == nil:
		line = line[:len(line)-1]
	case err == io.EOF && len(line) == 0:
		return nil, io.EOF
	case err == io.EOF: // a last line without its end
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, r.at(r.line+1, fmt.Sprintf("the line is longer than %d bytes", MaxLine))
	default:
		return nil, r.at(r.line+1, unreadable(err))
	}
	r.line++
	return bytes.TrimSuffix(line, []byte{'\r'}), nil
}

// comment takes what is no event: the head of the file says what it is.
func (r *Reader) comment(line []byte) error {
	const head = "#ctreplay "
	if v, ok := bytes.CutPrefix(line, []byte(head)); ok && string(v) != "v1" {
		return r.at(r.line, fmt.Sprintf("ctreplay %s: only v1 is known", quote(v)))
	}
	return nil
}

func (r *Reader) at(line uint64, text string) error {
	return &Error{File: r.name, Line: line, Text: text}
}

// unreadable says what came in place of more of the file.
func unreadable(err error) string {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return "the file is cut short: " + err.Error()
	}
	return "cannot be read: " + err.Error()
}
