package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/ctsight/ctsight/internal/event"
)

// A file is a magic word and frames. A frame is a header of 48 bytes and what it
// stores. Headers have a checksum of their own: with it the length of what is stored
// can be believed, and after damage the next frame is found (docs/format.md).

// Magic begins a file.
const Magic = "CTSIGHT1"

const (
	frameMagic = 0x4b4c4254 // "TBLK", little endian
	frameSize  = 48
	// What a frame may hold. A writer cuts far earlier; a reader takes no more, so
	// that no file makes it take memory.
	maxRaw    = 4 << 20
	maxStored = maxRaw + 1<<16
)

// frameKind says what a frame is for.
type frameKind uint8

const (
	frameHeader frameKind = 'H' // a Header, JSON: the first one
	frameData   frameKind = 'D' // sections
	frameIndex  frameKind = 'X' // of all frames before it
	frameEnd    frameKind = 'E' // an End, JSON: the file was closed
)

const flagZstd = 1 // what is stored is one zstd frame

const hasSnapshot = 1 // in frame.has: it begins with a Snapshot

// frame is the header of a frame.
type frame struct {
	kind        frameKind
	flags       uint8
	has         uint8  // what a reader that looks for a place wants to know
	seq         uint32 // 0 for the first in the file, one more for each
	stored, raw uint32 // bytes, as they are in the file and as they were
	items       uint32 // events and sums
	first, last event.Ktime
	crc         uint32 // of what is stored
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// append writes it behind b.
func (f *frame) append(b []byte) []byte {
	le, at := binary.LittleEndian, len(b)
	b = le.AppendUint32(b, frameMagic)
	b = append(b, byte(f.kind), f.flags, f.has, 0)
	b = le.AppendUint32(b, f.seq)
	b = le.AppendUint32(b, f.stored)
	b = le.AppendUint32(b, f.raw)
	b = le.AppendUint32(b, f.items)
	b = le.AppendUint64(b, uint64(f.first))
	b = le.AppendUint64(b, uint64(f.last))
	b = le.AppendUint32(b, f.crc)
	return le.AppendUint32(b, crc(b[at:]))
}

var errNoFrame = errors.New("no frame")

// parse reads a header of frameSize bytes.
func (f *frame) parse(b []byte) error {
	le := binary.LittleEndian
	if le.Uint32(b) != frameMagic || le.Uint32(b[44:]) != crc(b[:44]) {
		return errNoFrame
	}
	*f = frame{kind: frameKind(b[4]), flags: b[5], has: b[6], seq: le.Uint32(b[8:]), stored: le.Uint32(b[12:]), raw: le.Uint32(b[16:]),
		items: le.Uint32(b[20:]), first: event.Ktime(le.Uint64(b[24:])), last: event.Ktime(le.Uint64(b[32:])), crc: le.Uint32(b[40:])}
	if f.stored > maxStored || f.raw > maxRaw || f.flags&^flagZstd != 0 || f.flags == 0 && f.stored != f.raw {
		return fmt.Errorf("frame %d has %d bytes of %d and flags %#x: written by a newer ctsight, or by nobody", f.seq, f.stored, f.raw, f.flags)
	}
	return nil
}

func crc(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }
