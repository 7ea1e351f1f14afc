package netlab

import (
	"encoding/binary"
	"net/netip"

	"github.com/ctsight/ctsight/internal/event"
)

// Ports are N consecutive port numbers; N 0 means none (in a Match: any) or,
// in Flows, the one port First.
type Ports struct {
	First uint16
	N     int
}

// OnePort returns a single port.
func OnePort(p uint16) Ports { return Ports{First: p, N: 1} }

// At returns the i-th port.
func (p Ports) At(i int) uint16 { return p.First + uint16(i) }

func (p Ports) last() uint16 { return p.First + uint16(max(p.N, 1)-1) }

// Addrs are N consecutive addresses; N 0 means the one address First.
type Addrs struct {
	First netip.Addr
	N     int
}

// OneAddr returns a single address.
func OneAddr(a netip.Addr) Addrs { return Addrs{First: a, N: 1} }

// At returns the i-th address.
func (a Addrs) At(i int) netip.Addr {
	if i == 0 {
		return a.First
	}
	if a.First.Is4() {
		b := a.First.As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(i))
		return netip.AddrFrom4(b)
	}
	b := a.First.As16()
	lo := binary.BigEndian.Uint64(b[8:])
	binary.BigEndian.PutUint64(b[8:], lo+uint64(i))
	return netip.AddrFrom16(b)
}

// Flows are tuples numbered from 0 to Len-1, all different: every source with
// every destination, every source port with every destination port.
type Flows struct {
	// Proto is the protocol. ICMP and ICMPv6 send echo requests with
	// SPorts as ids; GRE and others without ports use the addresses only.
	Proto          uint8
	Src, Dst       Addrs
	SPorts, DPorts Ports
	// SpreadSources makes the source change fastest; otherwise it changes
	// last and each source sends all of its flows in one go.
	SpreadSources bool
	// Flags of TCP segments; none means SYN.
	Flags   TCPFlags
	Payload []byte
	// First and Count select some of the flows; Count 0 means all from First on.
	First, Count int
}

// normal returns the flows with every count at least 1, and 1 where the
// protocol has no such number.
func (f Flows) normal() Flows {
	if f.Proto == event.ProtoICMP || f.Proto == event.ProtoICMPv6 {
		f.DPorts = OnePort(ICMPEcho << 8)
		if f.Proto == event.ProtoICMPv6 {
			f.DPorts = OnePort(ICMPv6Echo << 8)
		}
	}
	if !hasPorts(f.Proto) {
		f.SPorts, f.DPorts = Ports{}, Ports{}
	}
	for _, n := range []*int{&f.Src.N, &f.Dst.N, &f.SPorts.N, &f.DPorts.N} {
		*n = max(*n, 1)
	}
	return f
}

func hasPorts(proto uint8) bool {
	switch proto {
	case event.ProtoTCP, event.ProtoUDP, event.ProtoUDPLite, event.ProtoSCTP, event.ProtoDCCP, event.ProtoICMP, event.ProtoICMPv6:
		return true
	}
	return false
}

// Len returns how many flows there are.
func (f Flows) Len() int {
	n := f.normal()
	all := n.Src.N*n.Dst.N*n.SPorts.N*n.DPorts.N - f.First
	if f.Count > 0 {
		return min(all, f.Count)
	}
	return max(all, 0)
}

// Tuple returns the i-th tuple.
func (f Flows) Tuple(i int) event.Tuple {
	n := f.normal()
	return n.tuple(i)
}

// Part returns the k-th of n parts of about equal size.
func (f Flows) Part(k, n int) Flows {
	total := f.Len()
	from, to := total*k/n, total*(k+1)/n
	f.First, f.Count = f.First+from, to-from
	return f
}

// tuple is Tuple of flows that are already normal.
func (f *Flows) tuple(i int) event.Tuple {
	i += f.First
	next := func(n int) int {
		k := i % n
		i /= n
		return k
	}
	t := event.Tuple{Proto: f.Proto}
	src := 0
	if f.SpreadSources {
		src = next(f.Src.N)
	}
	t.Sport = f.SPorts.At(next(f.SPorts.N))
	t.Dport = f.DPorts.At(next(f.DPorts.N))
	t.Dst = f.Dst.At(next(f.Dst.N))
	if !f.SpreadSources {
		src = next(f.Src.N)
	}
	t.Src = f.Src.At(src)
	return t
}

// packet returns the i-th packet of flows that are already normal.
func (f *Flows) packet(i int) Packet {
	p := Packet{Tuple: f.tuple(i), Payload: f.Payload, Flags: f.Flags, Seq: 1}
	if f.Proto == event.ProtoTCP && p.Flags == 0 {
		p.Flags = SYN
	}
	return p
}
