package capture

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/ctsight/ctsight/internal/event"
)

// indexMagic ends a file that was closed; before it is where the index is, 8 bytes.
const indexMagic = "CTSIGHTX"

const trailerSize = 16

// appendIndex stores where frames are, by differences.
func appendIndex(b []byte, all []frameAt) []byte {
	b = binary.AppendUvarint(b, uint64(len(all)))
	offset, first := int64(0), event.Ktime(0)
	for i := range all {
		f := &all[i]
		b = append(b, byte(f.kind))
		b = binary.AppendUvarint(b, uint64(f.offset-offset))
		b = binary.AppendVarint(b, int64(f.first-first))
		b = binary.AppendVarint(b, int64(f.last-f.first))
		b = binary.AppendUvarint(b, uint64(f.items))
		offset, first = f.offset, f.first
	}
	return b
}

func parseIndex(b []byte, size int64) (all []frameAt, ok bool) {
	c := cursor{b: b}
	n := c.unsigned()
	if c.short || n > uint64(len(c.b)) {
		return nil, false
	}
	offset, first := int64(0), event.Ktime(0)
	for range n {
		var f frameAt
		f.kind = frameKind(c.byte())
		step := c.unsigned()
		if c.short || step > uint64(size-offset) {
			return nil, false
		}
		f.offset = offset + int64(step)
		f.first = first + event.Ktime(c.signed())
		f.last = f.first + event.Ktime(c.signed())
		f.items = uint32(c.unsigned())
		if c.short {
			return nil, false
		}
		offset, first = f.offset, f.first
		all = append(all, f)
	}
	return all, len(c.b) == 0
}

// cursor reads numbers one behind the other; what is behind the end is 0.
type cursor struct {
	b     []byte
	short bool // it ended too early
}

func (c *cursor) byte() (v byte) {
	if c.short = c.short || len(c.b) == 0; !c.short {
		v, c.b = c.b[0], c.b[1:]
	}
	return v
}

func (c *cursor) unsigned() uint64 {
	v, k := binary.Uvarint(c.b)
	c.skip(k)
	return v
}

func (c *cursor) signed() int64 {
	v, k := binary.Varint(c.b)
	c.skip(k)
	return v
}

func (c *cursor) skip(k int) {
	if c.short = c.short || k <= 0; !c.short {
		c.b = c.b[k:]
	}
}

// scanIndex finds the frames of a file by their headers.
func scanIndex(r io.ReaderAt, size int64) (all []frameAt, err error) {
	head := make([]byte, frameSize)
	for at := int64(len(Magic)); at+frameSize <= size; {
		if _, err := r.ReadAt(head, at); err != nil {
			return all, err
		}
		var f frame
		if f.parse(head) != nil {
			next, err := findFrame(r, at+1, size)
			if err != nil || next < 0 {
				return all, err
			}
			at = next
			continue
		}
		if at+frameSize+int64(f.stored) > size {
			break
		}
		all = append(all, frameAt{f, at})
		at += frameSize + int64(f.stored)
	}
	return all, nil
}

// findFrame is where the next header is, from a place on; -1 for nowhere.
func findFrame(r io.ReaderAt, from, size int64) (int64, error) {
	buf := make([]byte, 1<<16)
	for from+frameSize <= size {
		n, err := r.ReadAt(buf[:min(int64(len(buf)), size-from)], from)
		if err != nil && !errors.Is(err, io.EOF) {
			return -1, err
		}
		if n < frameSize {
			break
		}
		for i := 0; i+frameSize <= n; i++ {
			if binary.LittleEndian.Uint32(buf[i:]) != frameMagic {
				continue
			}
			var f frame
			if f.parse(buf[i:i+frameSize]) == nil {
				return from + int64(i), nil
			}
		}
		from += int64(n - frameSize + 1)
	}
	return -1, nil
}
