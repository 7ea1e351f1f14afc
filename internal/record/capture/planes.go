package capture

import (
	"encoding/binary"
	"math"
	"math/bits"
)

// planes are the values of a column while a section is taken: the lowest bytes of all,
// then the next ones, as many as the greatest has needed so far. There are none as long
// as all are one number.
type planes struct {
	n       int // values
	or, and uint64
	before  uint64 // the last one, of form delta
	width   int    // planes that there are
	bytes   []byte // of planes, maxBatch for each
	seen    []uint32
}

func (p *planes) reset() { *p = planes{and: math.MaxUint64, bytes: p.bytes, seen: p.seen[:0]} }

// add adds values; they are changed.
func (p *planes) add(v []uint64, f form) {
	or, and := uint64(0), uint64(math.MaxUint64)
	for _, x := range v {
		or |= x
		and &= x
	}
	most := or
	if f == formDelta {
		most = 0
		for i, x := range v {
			v[i] = zigzag(x - p.before)
			p.before, most = x, most|v[i]
		}
	} else if p.one(len(v), or, and) {
		return
	}
	p.or, p.and = p.or|or, p.and&and
	p.put(v, most)
}

// zeros adds n values that are 0.
func (p *planes) zeros(n int) {
	switch {
	case len(p.seen) > 0:
		p.seen = append(p.seen, make([]uint32, n)...)
	case !p.one(n, 0, 0):
		p.and = 0
		for k := range p.width {
			clear(p.plane(k)[p.n:][:n])
		}
		p.n += n
	}
}

// one says whether n more values are the number that all were so far; then they are
// added. If not there are planes from now on.
func (p *planes) one(n int, or, and uint64) bool {
	if or == and && (p.n == 0 || p.width == 0 && or == p.or) {
		p.or, p.and, p.n = or, and, p.n+n
		return true
	}
	if p.width == 0 && p.n > 0 {
		p.widen(p.or)
		for k := range p.width {
			b := p.plane(k)[:p.n]
			for i := range b {
				b[i] = byte(p.or >> (8 * k))
			}
		}
	}
	return false
}

// later adds numbers of addresses as they were seen. As what they are stored is known at
// the end.
func (p *planes) later(v []uint64) {
	if p.n > 0 { // 0 until here
		p.seen = append(p.seen, make([]uint32, p.n)...)
		p.n, p.and = 0, math.MaxUint64
	}
	for _, x := range v {
		p.seen = append(p.seen, uint32(x))
	}
}

func (p *planes) plane(k int) []byte { return p.bytes[k*maxBatch:][:maxBatch] }

// widen makes planes for a number.
func (p *planes) widen(most uint64) {
	for to := (bits.Len64(most) + 7) / 8; p.width < to; p.width++ {
		if len(p.bytes) <= p.width*maxBatch {
			p.bytes = append(p.bytes, make([]byte, maxBatch)...)
		}
		clear(p.plane(p.width)[:p.n])
	}
}

// put adds values to the planes.
func (p *planes) put(v []uint64, most uint64) {
	p.widen(most)
	has := (bits.Len64(most) + 7) / 8
	for k := range p.width {
		b := p.plane(k)[p.n:][:len(v)]
		if k >= has {
			clear(b)
			continue
		}
		for i, x := range v {
			b[i] = byte(x >> (8 * k & 63))
		}
	}
	p.n += len(v)
}

// append stores the column; one that is 0 everywhere is not there.
func (p *planes) append(b []byte, c *column) []byte {
	switch {
	case p.n == 0 || p.or == 0:
		return b
	case p.or == p.and:
		return binary.AppendUvarint(append(b, c.id, byte(formConst)), p.or)
	}
	b = append(b, c.id, byte(c.form), byte(p.width))
	for k := range p.width {
		b = append(b, p.plane(k)[:p.n]...)
	}
	return b
}
