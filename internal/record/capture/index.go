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
	u := func() (v uint64) {
		v, k := binary.Uvarint(b)
		if ok = ok && k > 0; ok {
			b = b[k:]
		}
		return v
	}
	s := func() (v int64) {
		v, k := binary.Varint(b)
		if ok = ok && k > 0; ok {
			b = b[k:]
		}
		return v
	}
	ok = true
	n := u()
	if !ok || n > uint64(len(b)) {
		return nil, false
	}
	offset, first := int64(0), event.Ktime(0)
	for range n {
		var f frameAt
		if len(b) == 0 {
			return nil, false
		}
		f.kind, b = frameKind(b[0]), b[1:]
		step := u()
		if !ok || step > uint64(size-offset) {
			return nil, false
		}
		f.offset = offset + int64(step)
		f.first = first + event.Ktime(s())
		f.last = f.first + event.Ktime(s())
		f.items = uint32(u())
		if !ok {
			return nil, false
		}
		offset, first = f.offset, f.first
		all = append(all, f)
	}
	return all, len(b) == 0
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
