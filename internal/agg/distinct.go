package agg

import (
	"math"
	"math/bits"
)

// distinct counts different values by their 32-bit hashes: the first few in
// place, up to 64 in a block of the pool, all exactly; after that the same block
// holds the registers of a HyperLogLog (Flajolet et al. 2007, with linear
// counting below 2.5 m), m = 256, standard error 6.5 %.
type distinct struct {
	small [smallSet]uint32
	block uint32 // number in the pool plus one
	n     uint8  // values held exactly; hllMark: registers
}

const (
	smallSet  = 5
	blockSize = 256 // bytes
	exactSet  = blockSize / 4
	hllMark   = 255
)

// blocks is a pool of memory for distinct. With all in use a count stays at what
// it has: at least that many.
type blocks struct {
	chunks  [][]block
	free    []uint32
	used    int
	limit   int
	refused uint64 // values that found no room
}

type block [blockSize / 4]uint32

const blocksPerChunk = 256

func (p *blocks) get(i uint32) *block {
	i--
	return &p.chunks[i/blocksPerChunk][i%blocksPerChunk]
}

// alloc returns the number of a zeroed block plus one, 0 when there is none.
func (p *blocks) alloc() uint32 {
	if n := len(p.free); n > 0 {
		i := p.free[n-1]
		p.free = p.free[:n-1]
		*p.get(i) = block{}
		return i
	}
	if p.used >= p.limit {
		return 0
	}
	if p.used == len(p.chunks)*blocksPerChunk {
		p.chunks = append(p.chunks, make([]block, blocksPerChunk))
	}
	p.used++
	return uint32(p.used)
}

// release gives back the block of d.
func (p *blocks) release(d *distinct) {
	if d.block != 0 {
		p.free = append(p.free, d.block)
	}
	*d = distinct{}
}

// add notes a value.
func (d *distinct) add(h uint32, p *blocks) {
	switch {
	case d.n == hllMark:
		register(p.get(d.block), h)
	case d.block != 0:
		d.addExact(h, p.get(d.block))
	default:
		d.addSmall(h, p)
	}
}

func (d *distinct) addSmall(h uint32, p *blocks) {
	for _, v := range d.small[:d.n] {
		if v == h {
			return
		}
	}
	if d.n < smallSet {
		d.small[d.n] = h
		d.n++
		return
	}
	if d.block = p.alloc(); d.block == 0 {
		p.refused++
		return
	}
	b := p.get(d.block)
	copy(b[:], d.small[:])
	d.addExact(h, b)
}

func (d *distinct) addExact(h uint32, b *block) {
	for _, v := range b[:d.n] {
		if v == h {
			return
		}
	}
	if d.n < exactSet {
		b[d.n] = h
		d.n++
		return
	}
	values := *b
	*b = block{}
	for _, v := range values {
		register(b, v)
	}
	register(b, h)
	d.n = hllMark
}

// register notes h in the 256 registers of one byte each: 8 bits choose it, the
// rest give the rank.
func register(b *block, h uint32) {
	i, rank := h>>24, uint32(bits.LeadingZeros32(h<<8|1<<7))+1
	shift := i & 3 * 8
	if w := &b[i>>2]; *w>>shift&0xff < rank {
		*w = *w&^(0xff<<shift) | rank<<shift
	}
}

// count returns the number of different values, exact up to 64.
func (d *distinct) count(p *blocks) uint64 {
	if d.n != hllMark {
		return uint64(d.n)
	}
	const m = 256
	sum, zero := 0.0, 0
	for _, w := range p.get(d.block) {
		for range 4 {
			sum += math.Ldexp(1, -int(w&0xff))
			if w&0xff == 0 {
				zero++
			}
			w >>= 8
		}
	}
	n := (0.7213 / (1 + 1.079/m)) * m * m / sum
	if n < 2.5*m && zero > 0 {
		n = m * math.Log(m/float64(zero))
	}
	return max(exactSet+1, uint64(math.Round(n)))
}
