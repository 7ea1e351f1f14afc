package netlab

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/ctsight/ctsight/internal/event"
)

// Key is what a truth is counted by.
type Key struct {
	Src, Dst netip.Addr
	Proto    uint8
	DPort    uint16 // type<<8|code for ICMP
}

// Truth is what was really sent: every packet the kernel took, by source,
// destination, protocol and destination port, and how many different tuples
// they made. It is a plain value for one goroutine; Add joins several.
type Truth struct {
	packets, bytes uint64
	denied         uint64
	keys           map[Key]*tally

	last    Key
	current *tally
}

type tally struct {
	packets uint64
	sports  portSet
}

// note counts one packet.
func (t *Truth) note(tu event.Tuple, size int) {
	t.packets++
	t.bytes += uint64(size)
	c := t.tally(Key{tu.Src, tu.Dst, tu.Proto, tu.Dport})
	c.packets++
	c.sports.add(tu.Sport)
}

func (t *Truth) tally(k Key) *tally {
	if t.current != nil && t.last == k {
		return t.current
	}
	if t.keys == nil {
		t.keys = make(map[Key]*tally)
	}
	c := t.keys[k]
	if c == nil {
		c = new(tally)
		t.keys[k] = c
	}
	t.last, t.current = k, c
	return c
}

// Add adds everything o counts; a tuple that is in both counts once.
func (t *Truth) Add(o *Truth) {
	t.packets += o.packets
	t.bytes += o.bytes
	t.denied += o.denied
	for k, c := range o.keys {
		mine := t.tally(k)
		mine.packets += c.packets
		c.sports.each(mine.sports.add)
	}
}

// Packets returns the number of packets.
func (t *Truth) Packets() uint64 { return t.packets }

// Bytes returns the number of bytes, from the IP header on.
func (t *Truth) Bytes() uint64 { return t.bytes }

// Denied returns how many of the packets A's own netfilter dropped (EPERM):
// its conntrack has seen them, the wire has not. Without ViaStack there are none.
func (t *Truth) Denied() uint64 { return t.denied }

// Flows returns the number of different tuples.
func (t *Truth) Flows() (n uint64) {
	for _, c := range t.keys {
		n += uint64(c.sports.n)
	}
	return n
}

// Of returns the packets and flows of one key.
func (t *Truth) Of(k Key) (packets, flows uint64) {
	c := t.keys[k]
	if c == nil {
		return 0, 0
	}
	return c.packets, uint64(c.sports.n)
}

// Keys returns all keys, sorted.
func (t *Truth) Keys() []Key {
	out := make([]Key, 0, len(t.keys))
	for k := range t.keys {
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b Key) int {
		return cmp.Or(a.Src.Compare(b.Src), a.Dst.Compare(b.Dst), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.DPort, b.DPort))
	})
	return out
}

// PacketsBySource returns the packets of each source.
func (t *Truth) PacketsBySource() map[netip.Addr]uint64 {
	out := make(map[netip.Addr]uint64)
	for k, c := range t.keys {
		out[k.Src] += c.packets
	}
	return out
}

// FlowsBySource returns the number of different tuples of each source.
func (t *Truth) FlowsBySource() map[netip.Addr]uint64 {
	out := make(map[netip.Addr]uint64)
	for k, c := range t.keys {
		out[k.Src] += uint64(c.sports.n)
	}
	return out
}

// Where returns the part of the truth whose keys fulfil a condition.
func (t *Truth) Where(want func(Key) bool) *Truth {
	out := &Truth{}
	for k, c := range t.keys {
		if want(k) {
			mine := out.tally(k)
			mine.packets = c.packets
			out.packets += c.packets
			c.sports.each(mine.sports.add)
		}
	}
	return out
}

// portSet is a set of 16-bit numbers: a short list first, a bit map of 8 KiB
// once there are many, so that millions of keys with one port stay small.
type portSet struct {
	n    int
	few  []uint16
	many *[1 << 16 / 64]uint64
}

const fewPorts = 32

func (s *portSet) add(p uint16) {
	if s.many != nil {
		if bit := uint64(1) << (p % 64); s.many[p/64]&bit == 0 {
			s.many[p/64] |= bit
			s.n++
		}
		return
	}
	if slices.Contains(s.few, p) {
		return
	}
	if s.n < fewPorts {
		s.few = append(s.few, p)
		s.n++
		return
	}
	few := s.few
	s.many, s.few, s.n = new([1 << 16 / 64]uint64), nil, 0
	for _, q := range few {
		s.add(q)
	}
	s.add(p)
}

func (s *portSet) each(fn func(uint16)) {
	for _, p := range s.few {
		fn(p)
	}
	if s.many == nil {
		return
	}
	for p := range 1 << 16 {
		if s.many[p/64]&(1<<(p%64)) != 0 {
			fn(uint16(p))
		}
	}
}
