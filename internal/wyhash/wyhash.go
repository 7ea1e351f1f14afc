// Package wyhash mixes words into hashes of tables (Wang Yi's wyhash, public
// domain). Who chooses the seed decides whether others can guess the places.
package wyhash

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// Constants of wyhash.
const (
	A = 0xa0761d6478bd642f
	B = 0xe7037ed1a0b428db
)

// Mix is one round: the halves of a 128-bit product.
func Mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a^A, b^B)
	return hi ^ lo
}

// IP is the hash of an address. An IPv4 address and what maps it to IPv6 differ. (A
// copy of 16 bytes waits for the two halves that were just written; IPv4 needs none.)
func IP(a netip.Addr, seed uint64) uint64 {
	if a.Is4() {
		b := a.As4()
		return Mix(uint64(binary.LittleEndian.Uint32(b[:]))^seed, 1)
	}
	b := a.As16()
	return Addr(&b, seed+1)
}

// Addr is the hash of an address of 16 bytes.
func Addr(a *[16]byte, seed uint64) uint64 {
	return Mix(binary.LittleEndian.Uint64(a[:])^seed, binary.LittleEndian.Uint64(a[8:]))
}
