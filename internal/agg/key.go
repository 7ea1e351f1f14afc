package agg

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"net/netip"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/wyhash"
)

// Dim is what rows of a Census are about.
type Dim uint8

// Dimensions of a Census.
const (
	BySrc    Dim = iota // address, netns, zone of who opened the connection
	ByDst               // destination endpoint: address, port, protocol, netns, zone
	ByEdge              // source and endpoint
	ByPrefix            // source prefix: /24 of IPv4, /64 of IPv6
	ByNetNS
	NumDims
)

var dimNames = [NumDims]string{"src", "dst", "edge", "prefix", "netns"}

// String returns the word of --by.
func (d Dim) String() string {
	if d < NumDims {
		return dimNames[d]
	}
	return ""
}

// ParseDim is the inverse of String.
func ParseDim(s string) (Dim, bool) {
	for d, name := range dimNames {
		if s == name {
			return Dim(d), true
		}
	}
	return 0, false
}

// Key says what a row is about. What the dimension does not have is zero.
type Key struct {
	NetNS event.NetNS
	Zone  uint16
	Src   netip.Addr // of a prefix: its first address
	Bits  uint8      // of a prefix: its length
	Dst   netip.Addr
	Dport uint16
	Proto uint8
}

// rowKey is a Key as 48 bytes without pointers, which hash as six words: a map
// keyed by netip.Addr is 5 to 10 times slower at a million sources.
type rowKey struct {
	src, dst [16]byte
	netns    event.NetNS
	zone     uint16
	dport    uint16
	proto    uint8
	known    uint8 // families, see flags
	bits     uint8
}

// keyFor returns the row that an event of this tuple belongs to.
func (d Dim) keyFor(ns event.NetNS, zone uint16, t *event.Tuple) rowKey {
	var k rowKey
	k.fill(ns, zone, t)
	return k.of(d)
}

// fill makes it the key of an edge.
func (k *rowKey) fill(ns event.NetNS, zone uint16, t *event.Tuple) {
	src, dst := as16(t.Src), as16(t.Dst)
	copy16(&k.src, &src)
	copy16(&k.dst, &dst)
	k.netns, k.zone, k.proto, k.known = ns, zone, t.Proto, flags(t.Src)|flags(t.Dst)<<2
	if k.dport = t.Dport; t.IsICMP() {
		k.dport = 0
	}
}

// of returns the row of a dimension that an edge belongs to.
func (k *rowKey) of(d Dim) rowKey {
	switch d {
	case BySrc:
		return rowKey{src: k.src, netns: k.netns, zone: k.zone, known: k.known & 3}
	case ByDst:
		return rowKey{dst: k.dst, netns: k.netns, zone: k.zone, dport: k.dport, proto: k.proto, known: k.known &^ 3}
	case ByPrefix:
		p := rowKey{src: k.src, netns: k.netns, zone: k.zone, known: k.known & 3}
		switch p.known {
		case 1:
			p.bits, p.src[15] = 24, 0
		case 2:
			p.bits = 64
			clear(p.src[8:])
		}
		return p
	case ByNetNS:
		return rowKey{netns: k.netns}
	}
	return *k
}

// same is ==, without a branch for each field.
func (k *rowKey) same(o *rowKey) bool {
	le := binary.LittleEndian
	src := le.Uint64(k.src[:]) ^ le.Uint64(o.src[:]) | le.Uint64(k.src[8:]) ^ le.Uint64(o.src[8:])
	dst := le.Uint64(k.dst[:]) ^ le.Uint64(o.dst[:]) | le.Uint64(k.dst[8:]) ^ le.Uint64(o.dst[8:])
	m, r := k.words()
	om, or := o.words()
	return src|dst|m^om|r^or == 0
}

// words are all fields but the addresses.
func (k *rowKey) words() (meta, rest uint64) {
	return uint64(k.netns) | uint64(k.zone)<<32 | uint64(k.dport)<<48, uint64(k.proto) | uint64(k.known)<<8 | uint64(k.bits)<<16
}

// copy16 copies by halves, as the address was written a moment ago: a load of 16
// bytes would wait until both stores of 8 have left the processor.
func copy16(to, from *[16]byte) {
	le := binary.LittleEndian
	le.PutUint64(to[:8], le.Uint64(from[:8]))
	le.PutUint64(to[8:], le.Uint64(from[8:]))
}

func (k *rowKey) public() Key {
	return Key{NetNS: k.netns, Zone: k.zone, Src: addrOf(k.src, k.known), Bits: k.bits,
		Dst: addrOf(k.dst, k.known>>2), Dport: k.dport, Proto: k.proto}
}

// private is the inverse of public.
func (k *Key) private() rowKey {
	return rowKey{netns: k.NetNS, zone: k.Zone, src: as16(k.Src), bits: k.Bits, dst: as16(k.Dst), dport: k.Dport, proto: k.Proto,
		known: flags(k.Src) | flags(k.Dst)<<2}
}

// Holds says whether what o is about belongs to what k is about: an edge to its
// source, its endpoint, the prefix of its source, its namespace.
func (k *Key) Holds(o *Key) bool {
	switch {
	case k.NetNS != o.NetNS, k.Dst.IsValid() && (k.Dst != o.Dst || k.Dport != o.Dport || k.Proto != o.Proto):
		return false
	case k.Bits > 0:
		return k.Zone == o.Zone && netip.PrefixFrom(k.Src, int(k.Bits)).Contains(o.Src)
	case k.Src.IsValid():
		return k.Zone == o.Zone && k.Src == o.Src
	}
	return k.Zone == o.Zone || !k.Dst.IsValid()
}

// compare is an order that does not depend on hashes.
func (k *rowKey) compare(o *rowKey) int {
	if c := cmp.Compare(k.netns, o.netns); c != 0 {
		return c
	}
	if c := cmp.Compare(k.known&3, o.known&3); c != 0 {
		return c
	}
	if c := bytes.Compare(k.src[:], o.src[:]); c != 0 {
		return c
	}
	if c := bytes.Compare(k.dst[:], o.dst[:]); c != 0 {
		return c
	}
	return cmp.Or(cmp.Compare(k.proto, o.proto), cmp.Compare(k.dport, o.dport), cmp.Compare(k.zone, o.zone), cmp.Compare(k.known, o.known))
}

func (k *rowKey) hash(seed uint64) uint64 {
	return k.combine(wyhash.Addr(&k.src, seed), wyhash.Addr(&k.dst, seed+1), seed)
}

// combine is the hash, given those of the two addresses.
func (k *rowKey) combine(src, dst, seed uint64) uint64 {
	meta, rest := k.words()
	return src ^ dst ^ wyhash.Mix(meta^seed, rest^wyhash.B)
}

// identity is a hash of what the kernel keeps unique among live entries: netns,
// zone and original tuple (__nf_conntrack_find_get). 63 bits: among a million
// entries two agree with a probability of 1 in 18 million. Its highest bit is 0,
// that of a kernel address is 1. Never 0.
//
// src and dst are the hashes of the addresses.
func identity(src, dst uint64, k *rowKey, t *event.Tuple) uint64 {
	meta := uint64(k.netns) | uint64(k.zone)<<32 | uint64(t.Sport)<<48
	rest := uint64(t.Proto) | uint64(t.Dport)<<8 | uint64(k.known&3)<<24
	h := wyhash.Mix(src^meta, dst^rest)
	return max(1, h&^(1<<63))
}
