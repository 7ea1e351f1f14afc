package capture

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/ctsight/ctsight/internal/event"
)

// ErrNotCapture says that a file is something else.
var ErrNotCapture = errors.New("not a recording of ctsight")

// Reader reads a recording, item by item. What is damaged comes as a Gap, and reading
// goes on behind it. It takes some 15 MB, whatever is in the file.
type Reader struct {
	// Header is that of the file.
	Header Header
	// End is nil where the file was not closed: it is being written, or its writer
	// was killed. Known when all is read.
	End *End
	// Lost is the sum of all gaps so far, those that the writer has noted among them.
	Lost Missing

	src    io.Reader
	in     *bufio.Reader
	dec    *zstd.Decoder
	at     int64 // in the file, of what comes next
	seq    uint32
	body   []byte // sections that were not read yet
	raw    []byte
	stored []byte
	batch  batchReader
	item   Item
	sum    [1]event.Sum
	gaps   []Missing // to be told before anything else
	last   event.Ktime
}

const readSize = 1 << 16

// newDecoder unpacks into the room that it is given, and takes no more.
func newDecoder() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxRaw), zstd.WithDecodeAllCapLimit(true))
}

// NewReader begins to read.
func NewReader(src io.Reader) (*Reader, error) {
	dec, err := newDecoder()
	if err != nil {
		return nil, err
	}
	r := &Reader{src: src, in: bufio.NewReaderSize(src, readSize), dec: dec}
	if b, err := r.in.Peek(len(Magic)); err != nil || string(b) != Magic {
		return nil, ErrNotCapture
	}
	r.skip(len(Magic))
	f, payload, err := r.frame()
	switch {
	case errors.Is(err, io.EOF):
		return nil, errors.New("a recording without a header: it was cut at the very beginning")
	case err != nil:
		return nil, err
	case f.kind != frameHeader:
		return nil, errors.New("a recording whose header is damaged")
	}
	if err := json.Unmarshal(payload, &r.Header); err != nil {
		return nil, fmt.Errorf("a recording whose header is damaged: %w", err)
	}
	if r.Header.Major != Major {
		return nil, fmt.Errorf("a recording of format %d.%d, and this ctsight reads %d: use that of version %q", r.Header.Major, r.Header.Minor, Major, r.Header.Tool)
	}
	return r, nil
}

func (r *Reader) skip(n int) {
	k, _ := r.in.Discard(n)
	r.at += int64(k)
}

// frame returns the next frame that is whole, io.EOF behind the last one. What is
// between is in gaps.
func (r *Reader) frame() (frame, []byte, error) {
	for {
		var f frame
		head, err := r.in.Peek(frameSize)
		if len(head) < frameSize {
			if !errors.Is(err, io.EOF) {
				return f, nil, err
			}
			return f, nil, r.tail(len(head))
		}
		switch err := f.parse(head); {
		case errors.Is(err, errNoFrame):
			if err := r.search(); err != nil {
				return f, nil, err
			}
			continue
		case err != nil:
			return f, nil, err
		}
		r.skip(frameSize)
		r.stored = slices.Grow(r.stored[:0], int(f.stored))[:f.stored]
		n, err := io.ReadFull(r.in, r.stored)
		r.at += int64(n)
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			r.miss(Missing{Events: uint64(f.items), Frames: 1, Bytes: int64(frameSize + n), Why: "the file ends within a frame"})
			return f, nil, io.EOF
		case err != nil:
			return f, nil, err
		}
		if f.seq > r.seq {
			r.miss(Missing{Frames: uint64(f.seq - r.seq), Why: "frames are not there"})
		}
		r.seq = f.seq + 1
		payload, err := r.payload(&f, r.stored)
		if err != nil {
			r.miss(Missing{Events: uint64(f.items), Frames: 1, Bytes: int64(frameSize + f.stored), Why: err.Error()})
			continue
		}
		return f, payload, nil
	}
}

// payload is what a frame stores, as it was; good until the next one.
func (r *Reader) payload(f *frame, stored []byte) ([]byte, error) {
	if crc(stored) != f.crc {
		return nil, errors.New("a frame is damaged")
	}
	if cap(r.raw) < int(f.raw) {
		r.raw = make([]byte, 0, max(cutAt+cutAt/2, int(f.raw)))
	}
	if f.flags&flagZstd == 0 {
		return append(r.raw[:0], stored...), nil
	}
	b, err := r.dec.DecodeAll(stored, r.raw[:0:f.raw])
	if err != nil || len(b) != int(f.raw) {
		return nil, fmt.Errorf("a frame does not decompress to the %d bytes that it should have", f.raw)
	}
	return b, nil
}

// tail ends the reading: behind the last frame is the place of the index, or nothing.
func (r *Reader) tail(n int) error {
	if n == 0 {
		return io.EOF
	}
	b, _ := r.in.Peek(n)
	if n != trailerSize || string(b[8:]) != indexMagic {
		r.miss(Missing{Bytes: int64(n), Why: "the file ends within a frame"})
	}
	r.skip(n)
	return io.EOF
}

// search goes to where the next frame may begin.
func (r *Reader) search() error {
	lost := int64(0)
	for {
		r.skip(1)
		lost++
		b, err := r.in.Peek(readSize)
		if len(b) < frameSize {
			if !errors.Is(err, io.EOF) {
				return err
			}
			r.skip(len(b))
			r.miss(Missing{Bytes: lost + int64(len(b)), Why: "this is no frame"})
			return nil
		}
		i := bytes.Index(b, magicBytes[:])
		if i < 0 || i+frameSize > len(b) {
			step := len(b) - frameSize + 1
			if i >= 0 {
				step = max(1, min(step, i))
			}
			r.skip(step - 1) // and one with the next turn
			lost += int64(step - 1)
			continue
		}
		r.skip(i)
		lost += int64(i)
		var f frame
		if !errors.Is(f.parse(b[i:i+frameSize]), errNoFrame) {
			r.miss(Missing{Bytes: lost, Why: "this is no frame"})
			return nil
		}
	}
}

var magicBytes = func() (b [4]byte) {
	binary.LittleEndian.PutUint32(b[:], frameMagic)
	return b
}()

func (r *Reader) miss(m Missing) {
	r.gaps = append(r.gaps, m)
	r.add(&m)
}

func (r *Reader) add(m *Missing) {
	r.Lost.Events += m.Events
	r.Lost.Bytes += m.Bytes
	r.Lost.Frames += m.Frames
}

// Next returns the next item, io.EOF behind the last one. Any other error is one of the
// file itself, or says that a newer ctsight has written what cannot be left out.
func (r *Reader) Next() (*Item, error) {
	for {
		if len(r.gaps) > 0 {
			r.item = Item{Kind: Gap, At: r.last, Lost: r.gaps[0]}
			r.gaps = r.gaps[1:]
			return &r.item, nil
		}
		if len(r.body) > 0 {
			if err := r.section(); err != nil {
				r.miss(Missing{Why: err.Error()})
				continue
			}
			if r.item.Kind != 0 {
				return &r.item, nil
			}
			continue
		}
		f, payload, err := r.frame()
		if err != nil {
			if len(r.gaps) > 0 {
				continue
			}
			return nil, err
		}
		switch f.kind {
		case frameData:
			r.body = payload
		case frameEnd:
			var e End
			if json.Unmarshal(payload, &e) == nil {
				r.End = &e
			}
		}
	}
}

// section takes the next section; the item's kind is 0 where it is not known.
func (r *Reader) section() error {
	r.item = Item{}
	if len(r.body) < 5 {
		r.body = nil
		return errShort
	}
	kind, n := Kind(r.body[0]), binary.LittleEndian.Uint32(r.body[1:])
	if uint64(n) > uint64(len(r.body)-5) {
		r.body = nil
		return errShort
	}
	b := r.body[5:][:n]
	r.body = r.body[5+n:]
	it := Item{Kind: kind}
	var err error
	switch {
	case kind.batch():
		it.Events, err = r.batch.read(b)
		if err == nil {
			r.last = it.Events[len(it.Events)-1].Time
		}
	case kind == Sums:
		it.Sums, err = r.readSum(b)
	case kind.plain():
		at, k := binary.Varint(b)
		if k <= 0 {
			return errShort
		}
		it.At, it.JSON = event.Ktime(at), json.RawMessage(b[k:])
		r.last = it.At
		if kind == Gap {
			err = json.Unmarshal(it.JSON, &it.Lost)
			r.add(&it.Lost)
		} else if !json.Valid(it.JSON) {
			err = errors.New("a section that is not JSON")
		}
	default:
		return nil // of a later version
	}
	if err == nil {
		r.item = it
	}
	return err
}

func (r *Reader) readSum(b []byte) ([]event.Sum, error) {
	c := cursor{b: b}
	x := &r.sum[0]
	*x = event.Sum{NetNS: event.NetNS(c.unsigned()), Zone: uint16(c.unsigned()), Kind: event.Kind(c.byte()), Reason: event.Reason(c.byte()), Cause: event.Cause(c.byte()),
		N: c.unsigned(), Evicted: c.unsigned(), From: event.Ktime(c.signed()), Last: event.Ktime(c.signed())}
	if x.Src, _ = netip.AddrFromSlice(c.b); c.short || !x.Src.IsValid() && len(c.b) > 0 {
		return nil, errShort
	}
	return r.sum[:], nil
}

// SeekSnapshot goes to the last Snapshot that began at a time or before, and where there
// is none to the beginning. It says whether it went: a stream cannot be read anywhere.
func (r *Reader) SeekSnapshot(t event.Ktime) (bool, error) {
	return r.seekSnapshot(t, true)
}

// seekSnapshot goes to the last Snapshot that began at a time or before, or else to the
// beginning, or nowhere.
func (r *Reader) seekSnapshot(t event.Ktime, orBegin bool) (bool, error) {
	if _, ok := r.src.(seekable); !ok {
		return false, nil
	}
	return r.seek(func(f io.ReaderAt, all []frameAt) (int, error) {
		for i, x := range slices.Backward(all) {
			if x.kind != frameData || x.first > t {
				continue
			}
			h, err := headAt(f, x.offset)
			if err != nil {
				return -1, err
			}
			if h.has&hasSnapshot != 0 {
				return i, nil
			}
		}
		if orBegin {
			return slices.IndexFunc(all, func(x frameAt) bool { return x.kind == frameData }), nil
		}
		return -1, nil
	})
}

// Bounds are the first and the last time in a file, 0 where it cannot be read anywhere.
func (r *Reader) Bounds() (first, last event.Ktime, err error) {
	if _, ok := r.src.(seekable); !ok {
		return 0, 0, nil
	}
	_, err = r.seek(func(_ io.ReaderAt, all []frameAt) (int, error) {
		for i := range all {
			if x := &all[i]; x.kind == frameData && x.last > 0 {
				if first == 0 {
					first = x.first
				}
				last = max(last, x.last)
			}
		}
		return -1, nil
	})
	return first, last, err
}

// seekable is what a file is.
type seekable interface {
	io.ReadSeeker
	io.ReaderAt
}

// seek goes to a frame that choose tells, -1 for none.
func (r *Reader) seek(choose func(io.ReaderAt, []frameAt) (int, error)) (bool, error) {
	f, ok := r.src.(seekable)
	if !ok {
		return false, errors.New("a stream has to be read from its beginning")
	}
	here, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return false, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	all, err := index(f, size)
	if err != nil {
		return false, err
	}
	n, err := choose(f, all)
	if err != nil {
		return false, err
	}
	if n < 0 {
		_, err = f.Seek(here, io.SeekStart)
		return false, err
	}
	to, seq := all[n].offset, uint32(n)
	if x, err := headAt(f, to); err == nil { // frames may be missing before it
		seq = x.seq
	}
	if _, err := f.Seek(to, io.SeekStart); err != nil {
		return false, err
	}
	r.in.Reset(f)
	r.at, r.body, r.gaps, r.seq = to, nil, nil, seq
	r.Lost, r.End = Missing{}, nil
	return true, nil
}

// headAt reads the header of a frame.
func headAt(f io.ReaderAt, at int64) (h frame, err error) {
	b := make([]byte, frameSize)
	if _, err = f.ReadAt(b, at); err != nil {
		return h, err
	}
	return h, h.parse(b)
}

// index returns where the frames are: as the file says at its end, or as they lie.
func index(f io.ReaderAt, size int64) ([]frameAt, error) {
	var end [trailerSize]byte
	if size > trailerSize {
		if _, err := f.ReadAt(end[:], size-trailerSize); err != nil {
			return nil, err
		}
	}
	at := int64(binary.LittleEndian.Uint64(end[:]))
	if string(end[8:]) == indexMagic && at > 0 && at < size-trailerSize-frameSize {
		r := Reader{in: bufio.NewReaderSize(io.NewSectionReader(f, at, size-trailerSize-at), readSize)}
		var err error
		if r.dec, err = newDecoder(); err != nil {
			return nil, err
		}
		if x, b, err := r.frame(); err == nil && x.kind == frameIndex {
			if all, ok := parseIndex(b, size); ok {
				return all, nil
			}
		}
	}
	return scanIndex(f, size)
}
