package detect

import (
	"math"
	"math/bits"
	"net/netip"

	"github.com/ctsight/ctsight/internal/wyhash"
)

// distinct counts different hashes: exactly up to exactMost, after that with the
// registers of a HyperLogLog (Flajolet et al. 2007, linear counting below 2.5 m),
// m = 2048, standard error 2.3 %. The hashes are those of sketchHash, the same in
// every run, so that estimates are too; where they lie depends on seed, so that
// nobody can make them lie together.
type distinct struct {
	seed      uint64
	exact     []uint64 // open addressing, half full at most
	n         int
	registers []uint8 // when there are more
}

const (
	exactMost = 2048
	registers = 2048
)

// sketchHash is the hash of an address, never 0.
func sketchHash(a netip.Addr) uint64 {
	return max(1, wyhash.Mix(wyhash.IP(a, 0), 1))
}

// estimated says whether count is an estimate.
func (c *distinct) estimated() bool { return c.registers != nil }

func (c *distinct) add(h uint64) {
	if c.registers != nil {
		c.register(h)
		return
	}
	if c.exact == nil {
		c.exact = make([]uint64, 64)
	}
	i := c.search(h)
	switch {
	case c.exact[i] == h:
	case 2*(c.n+1) <= len(c.exact):
		c.exact[i] = h
		c.n++
	default:
		c.grow()
		c.add(h)
	}
}

func (c *distinct) search(h uint64) int {
	mask := len(c.exact) - 1
	for i := int(wyhash.Mix(h, c.seed)) & mask; ; i = (i + 1) & mask {
		if c.exact[i] == 0 || c.exact[i] == h {
			return i
		}
	}
}

// grow makes room for one more, or goes over to registers.
func (c *distinct) grow() {
	old := c.exact
	if c.n < exactMost {
		c.exact, c.n = make([]uint64, 2*len(old)), 0
	} else {
		c.registers, c.exact = make([]uint8, registers), nil
	}
	for _, h := range old {
		if h != 0 {
			c.add(h)
		}
	}
}

func (c *distinct) register(h uint64) {
	i := h >> 53
	if rank := uint8(bits.LeadingZeros64(h<<11|1<<10)) + 1; c.registers[i] < rank {
		c.registers[i] = rank
	}
}

func (c *distinct) count() uint64 {
	if c.registers == nil {
		return uint64(c.n)
	}
	const m = registers
	sum, zero := 0.0, 0
	for _, r := range c.registers {
		sum += math.Ldexp(1, -int(r))
		if r == 0 {
			zero++
		}
	}
	n := .7213 / (1 + 1.079/m) * m * m / sum
	if n < 2.5*m && zero > 0 {
		n = m * math.Log(m/float64(zero))
	}
	return uint64(math.Round(n))
}

// reset empties it.
func (c *distinct) reset() {
	if c.registers != nil {
		*c = distinct{seed: c.seed}
		return
	}
	clear(c.exact)
	c.n = 0
}

// heavy keeps who comes most (Misra and Gries 1982): what it says of one is at most
// 1/(heavies+1) of all below the truth and never above it.
type heavy struct {
	keys [heavies]uint64
	n    [heavies]uint64
	addr [heavies]netip.Addr // of a source
	all  uint64
}

const heavies = 16

func (v *heavy) add(k, w uint64, a netip.Addr) {
	v.all += w
	free := -1
	for i := range v.keys {
		switch {
		case v.keys[i] == k && v.n[i] > 0:
			v.n[i] += w
			return
		case v.n[i] == 0:
			free = i
		}
	}
	if free >= 0 {
		v.keys[free], v.n[free], v.addr[free] = k, w, a
		return
	}
	least := w
	for _, n := range v.n {
		least = min(least, n)
	}
	for i := range v.n {
		v.n[i] -= least
	}
	if w > least {
		v.add(k, w-least, a)
		v.all -= w - least
	}
}

// top returns who comes most and its share at least.
func (v *heavy) top() (k uint64, a netip.Addr, share float64) {
	best := 0
	for i := range v.n {
		if v.n[i] > v.n[best] {
			best = i
		}
	}
	if v.n[best] == 0 {
		return 0, netip.Addr{}, 0
	}
	return v.keys[best], v.addr[best], float64(v.n[best]) / float64(v.all)
}

// halve makes what was long ago count less.
func (v *heavy) halve() {
	v.all /= 2
	for i := range v.n {
		v.n[i] /= 2
	}
}
