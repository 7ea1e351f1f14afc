package probe

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/abi"
	"github.com/ctsight/ctsight/internal/event"
)

// Filter is what programs can check before they write a record: one
// conjunction. The zero value lets everything pass. Counters are not filtered.
type Filter struct {
	On                 bool
	Kinds              uint32 // bit per event.Kind; 0 any
	Reasons            uint64 // bit per event.Reason; 0 any
	Causes             uint32 // bit per event.Cause; 0 any
	NetNS              event.NetNS
	Zone               int // below 0: any
	Proto              uint8
	Src, Dst           netip.Prefix // invalid: any
	SportMin, SportMax uint16
	DportMin, DportMax uint16
}

// wire converts to the struct that the programs read.
func (f Filter) wire() abi.ConntrackCtFilter {
	w := abi.ConntrackCtFilter{Zone: -1, SportMax: 0xffff, DportMax: 0xffff, Kinds: ^uint32(0), Reasons: ^uint64(0), Causes: ^uint32(0)}
	if !f.On {
		return w
	}
	w.On = 1
	if f.Kinds != 0 {
		w.Kinds = f.Kinds
	}
	if f.Reasons != 0 {
		w.Reasons = f.Reasons
	}
	if f.Causes != 0 {
		w.Causes = f.Causes
	}
	w.Netns, w.Proto = uint32(f.NetNS), f.Proto
	if f.Zone >= 0 {
		w.Zone = int32(f.Zone)
	}
	if f.SportMax != 0 {
		w.SportMin, w.SportMax = f.SportMin, f.SportMax
	}
	if f.DportMax != 0 {
		w.DportMin, w.DportMax = f.DportMin, f.DportMax
	}
	prefix(f.Src, &w.Src, &w.SrcMask, &w.L3num)
	prefix(f.Dst, &w.Dst, &w.DstMask, &w.L3num)
	return w
}

// prefix writes address and mask as the kernel lays them out: IPv4 in the
// first four bytes.
func prefix(p netip.Prefix, a, m *[16]uint8, l3num *uint16) {
	if !p.IsValid() {
		return
	}
	*l3num = unix.AF_INET6
	if p.Addr().Is4() {
		*l3num = unix.AF_INET
	}
	copy(a[:], p.Masked().Addr().AsSlice())
	for i := range p.Bits() {
		m[i/8] |= 0x80 >> (i % 8)
	}
}
