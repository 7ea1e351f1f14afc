package capture

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/ctsight/ctsight/internal/event"
)

// cutAt is from how many bytes before compression a frame is cut.
const cutAt = 1 << 20

// Writer writes a recording. Nothing reaches the file before Flush, or a frame is full.
// After an error of the file all calls return it, and keep what they are given.
type Writer struct {
	w      io.Writer
	enc    *zstd.Encoder
	batch  *batchWriter
	wait   []event.Event // of the section that is filled
	kind   Kind          // of these
	body   []byte        // of sections
	stored []byte
	out    []byte
	frame  frame // that is filled
	index  []frameAt
	at     int64
	end    End
	last   event.Ktime
	err    error  // of the file; what could not be written is in out
	sums   uint64 // events that the sums stand for
	framed tally  // in frames, those of out too
	inFile tally
}

// tally is what was taken, or is in the file.
type tally struct{ events, sums uint64 }

// unwritten is what was taken and is not in the file.
func (c *Writer) unwritten() tally {
	return tally{c.end.Events - c.inFile.events, c.sums - c.inFile.sums}
}

type frameAt struct {
	frame
	offset int64
}

// NewWriter begins a file.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	h.Major, h.Minor = Major, Minor
	enc, err := newEncoder()
	if err != nil {
		return nil, err
	}
	c := &Writer{w: w, enc: enc, batch: newBatchWriter(), wait: make([]event.Event, 0, maxBatch), out: []byte(Magic)}
	b, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	if len(b) > maxRaw {
		return nil, fmt.Errorf("a header of %d bytes", len(b))
	}
	c.fresh(frameHeader)
	c.body = append(c.body, b...)
	return c, c.cut()
}

func newEncoder() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithWindowSize(cutAt))
}

// Size is how many bytes are in the file.
func (c *Writer) Size() int64 { return c.at }

// fresh begins a frame.
func (c *Writer) fresh(k frameKind) {
	c.frame = frame{kind: k, seq: uint32(len(c.index)), first: math.MaxInt64, last: math.MinInt64}
	c.body = c.body[:0]
}

// Events adds events in the order of their time; they are not kept.
func (c *Writer) Events(events []event.Event) error { return c.add(Events, events) }

// Entries adds entries that were there before the start.
func (c *Writer) Entries(entries []event.Event) error { return c.add(Entries, entries) }

// Stands adds entries that are there now: those of a Snapshot.
func (c *Writer) Stands(entries []event.Event) error { return c.add(Stands, entries) }

func (c *Writer) add(k Kind, events []event.Event) error {
	if c.kind != k {
		c.section()
		c.kind = k
	}
	for len(events) > 0 {
		n := min(len(events), maxBatch-len(c.wait))
		c.wait = append(c.wait, events[:n]...)
		if events = events[n:]; len(c.wait) == maxBatch {
			c.section()
			c.kind = k
		}
	}
	return c.err
}

// whole adds events that are a section, or several, of their own; they are not copied.
func (c *Writer) whole(k Kind, events []event.Event) {
	c.section()
	for part := range slices.Chunk(events, maxBatch) {
		c.store(k, part)
	}
}

// section ends that of the events that wait.
func (c *Writer) section() {
	if len(c.wait) == 0 {
		return
	}
	c.store(c.kind, c.wait)
	c.wait = c.wait[:0]
}

// store makes a section of events.
func (c *Writer) store(k Kind, events []event.Event) {
	c.frame.items += uint32(len(events))
	if k == Events {
		c.end.Events += uint64(len(events))
	}
	at := c.begin(k)
	c.body = c.batch.append(c.body, events)
	c.when(c.batch.first)
	c.when(c.batch.last)
	c.done(at)
}

// begin begins a section: its kind, and four bytes for its length.
func (c *Writer) begin(k Kind) int {
	c.body = append(c.body, byte(k), 0, 0, 0, 0)
	return len(c.body)
}

func (c *Writer) done(at int) {
	binary.LittleEndian.PutUint32(c.body[at-4:], uint32(len(c.body)-at))
	if len(c.body) >= cutAt {
		_ = c.cut() // stays in err
	}
}

func (c *Writer) when(t event.Ktime) {
	c.frame.first, c.frame.last = min(c.frame.first, t), max(c.frame.last, t)
	c.last = max(c.last, t)
}

// Sum adds a sum.
func (c *Writer) Sum(x *event.Sum) error {
	c.section()
	c.when(x.Last)
	c.frame.items++
	c.end.Sums++
	c.sums += x.N
	at := c.begin(Sums)
	b := binary.AppendUvarint(c.body, uint64(x.NetNS))
	b = binary.AppendUvarint(b, uint64(x.Zone))
	b = append(b, byte(x.Kind), byte(x.Reason), byte(x.Cause))
	b = binary.AppendUvarint(b, x.N)
	b = binary.AppendUvarint(b, x.Evicted)
	b = binary.AppendVarint(b, int64(x.From))
	b = binary.AppendVarint(b, int64(x.Last))
	c.body = append(b, x.Src.AsSlice()...)
	c.done(at)
	return c.err
}

// JSON adds what is JSON, of a time.
func (c *Writer) JSON(k Kind, at event.Ktime, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.raw(k, at, b)
}

func (c *Writer) raw(k Kind, at event.Ktime, b json.RawMessage) error {
	if len(b) > cutAt {
		return fmt.Errorf("a section of %d bytes", len(b))
	}
	if k == Gap {
		var m Missing
		if err := json.Unmarshal(b, &m); err != nil {
			return err
		}
		c.end.Lost += m.Events
		at = max(at, c.last)
	}
	c.section()
	if k == Snapshot && len(c.body) > 0 {
		_ = c.cut() // stays in err
	}
	if c.when(at); k == Snapshot {
		c.frame.has |= hasSnapshot
	}
	pos := c.begin(k)
	c.body = append(binary.AppendVarint(c.body, int64(at)), b...)
	c.done(pos)
	return c.err
}

// Gap says that something is missing here.
func (c *Writer) Gap(at event.Ktime, m Missing) error {
	return c.JSON(Gap, at, m)
}

// Flush writes what waits: from then on it is there after a crash of the process. For
// one of the machine the file has to be synced.
func (c *Writer) Flush() error {
	c.section()
	if len(c.body) == 0 {
		return c.err
	}
	return c.cut()
}

// cut ends a frame and writes it.
func (c *Writer) cut() error {
	if c.err != nil {
		return c.err
	}
	f := &c.frame
	if f.first > f.last {
		f.first, f.last = 0, 0
	}
	f.raw, f.flags = uint32(len(c.body)), flagZstd
	c.stored = c.enc.EncodeAll(c.body, c.stored[:0])
	if len(c.stored) >= len(c.body) {
		c.stored, f.flags = append(c.stored[:0], c.body...), 0
	}
	f.stored, f.crc = uint32(len(c.stored)), crc(c.stored)
	c.out = append(f.append(c.out), c.stored...)
	offset := c.at
	if offset == 0 {
		offset = int64(len(Magic))
	}
	c.index = append(c.index, frameAt{*f, offset})
	c.framed = tally{c.end.Events, c.sums}
	c.fresh(frameData)
	return c.again()
}

// again writes the frame that could not be written, or was not yet. What of it is in the
// file after an error has to be cut off before.
func (c *Writer) again() error {
	if _, c.err = c.w.Write(c.out); c.err == nil {
		c.at += int64(len(c.out))
		c.out, c.inFile = c.out[:0], c.framed
	}
	return c.err
}

// Close writes what waits and the end of the file: the account, nil for none, and the
// index. It does not close the file.
func (c *Writer) Close(ledger json.RawMessage) error {
	if err := c.Flush(); err != nil {
		return err
	}
	c.end.Ledger = ledger
	b, err := json.Marshal(&c.end)
	if err != nil {
		return err
	}
	c.fresh(frameEnd)
	c.body = append(c.body, b...)
	if err := c.cut(); err != nil {
		return err
	}
	offset := c.at
	c.fresh(frameIndex)
	c.body = appendIndex(c.body, c.index)
	if len(c.body) > maxRaw { // of thousands of hours: it is found by reading through
		return nil
	}
	if err := c.cut(); err != nil {
		return err
	}
	b = binary.LittleEndian.AppendUint64(nil, uint64(offset))
	_, c.err = c.w.Write(append(b, indexMagic...))
	return c.err
}
