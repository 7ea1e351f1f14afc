package netlab

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/netip"

	"github.com/ctsight/ctsight/internal/event"
)

// TCPFlags are the flag bits of a TCP header.
type TCPFlags = event.TCPFlags

// The TCP flags. A packet without any is what nmap calls a null probe.
const (
	FIN = event.FIN
	SYN = event.SYN
	RST = event.RST
	PSH = event.PSH
	ACK = event.ACK
	URG = event.URG
)

// Types of ICMP, and of ICMPv6 where they differ.
const (
	ICMPUnreachable   = 3
	ICMPEcho          = 8
	ICMPv6Unreachable = 1
	ICMPv6Echo        = 128
)

// Packet is an IP packet to be built, checksums included. The tuple is read as
// conntrack reads it: for ICMP Sport is the id and Dport type<<8|code; for GRE
// a Dport makes it version 1 (PPTP) with that call id.
type Packet struct {
	Tuple event.Tuple

	Flags    TCPFlags // TCP; DCCP is a request, or with RST a reset
	Seq, Ack uint32   // TCP; Seq is also the ICMP sequence number
	Window   uint16   // TCP; 0 means 64240

	Payload []byte // not with SCTP
	TTL     uint8  // 0 means 64
	ID      uint16 // IPv4 identification, and that of fragments
}

const (
	v4Header, v6Header, fragHeader = 20, 40, 8
	defaultTTL                     = 64
	defaultWindow                  = 64240
)

// EchoRequest returns an ICMP or ICMPv6 echo request with a chosen id.
func EchoRequest(src, dst netip.Addr, id, seq uint16) Packet {
	t := event.Tuple{Src: src, Dst: dst, Proto: event.ProtoICMP, Sport: id, Dport: ICMPEcho << 8}
	if src.Is6() {
		t.Proto, t.Dport = event.ProtoICMPv6, ICMPv6Echo<<8
	}
	return Packet{Tuple: t, Seq: uint32(seq)}
}

// Unreachable returns the ICMP error "port unreachable" that a host src sends
// to the source of the packet it quotes. Conntrack knows the inner tuple only
// if it has seen that packet.
func Unreachable(src netip.Addr, inner Packet) (Packet, error) {
	quote, err := inner.Append(nil)
	if err != nil {
		return Packet{}, err
	}
	t := event.Tuple{Src: src, Dst: inner.Tuple.Src, Proto: event.ProtoICMP, Dport: ICMPUnreachable<<8 | 3}
	if src.Is6() {
		t.Proto, t.Dport = event.ProtoICMPv6, ICMPv6Unreachable<<8|4
	}
	return Packet{Tuple: t, Payload: quote[:min(len(quote), 500)]}, nil
}

// Append appends the packet to b, from the IP header on.
func (p *Packet) Append(b []byte) ([]byte, error) {
	src, dst := p.Tuple.Src, p.Tuple.Dst
	if src.Is4() != dst.Is4() || !src.IsValid() || !dst.IsValid() {
		return b, fmt.Errorf("build packet %s > %s: not one address family", src, dst)
	}
	start := len(b)
	b = p.appendIP(b)
	body := len(b)
	b = p.appendBody(b)
	if total := len(b) - start; total > 0xffff {
		return b[:start], fmt.Errorf("build packet: %d bytes are too many", total)
	}
	p.checksumBody(b[body:])
	setLength(b[start:], src.Is4())
	return b, nil
}

func (p *Packet) appendIP(b []byte) []byte {
	ttl := p.TTL
	if ttl == 0 {
		ttl = defaultTTL
	}
	if p.Tuple.Src.Is4() {
		src, dst := p.Tuple.Src.As4(), p.Tuple.Dst.As4()
		b = append(b, 0x45, 0, 0, 0, byte(p.ID>>8), byte(p.ID), 0, 0, ttl, p.Tuple.Proto, 0, 0)
		b = append(b, src[:]...)
		return append(b, dst[:]...)
	}
	src, dst := p.Tuple.Src.As16(), p.Tuple.Dst.As16()
	b = append(b, 0x60, 0, 0, 0, 0, 0, p.Tuple.Proto, ttl)
	b = append(b, src[:]...)
	return append(b, dst[:]...)
}

// setLength fills in the length of an IP packet, and IPv4's header checksum.
func setLength(ip []byte, v4 bool) {
	if !v4 {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-v6Header))
		return
	}
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^fold(sum(0, ip[:v4Header])))
}

func (p *Packet) appendBody(b []byte) []byte {
	be := binary.BigEndian
	t := p.Tuple
	switch t.Proto {
	case event.ProtoUDP, event.ProtoUDPLite:
		b = be.AppendUint16(b, t.Sport)
		b = be.AppendUint16(b, t.Dport)
		b = be.AppendUint16(b, uint16(8+len(p.Payload)))
		b = append(b, 0, 0)
	case event.ProtoTCP:
		window := p.Window
		if window == 0 {
			window = defaultWindow
		}
		b = be.AppendUint16(b, t.Sport)
		b = be.AppendUint16(b, t.Dport)
		b = be.AppendUint32(b, p.Seq)
		b = be.AppendUint32(b, p.Ack)
		b = append(b, 5<<4, byte(p.Flags))
		b = be.AppendUint16(b, window)
		b = append(b, 0, 0, 0, 0)
	case event.ProtoICMP, event.ProtoICMPv6:
		b = be.AppendUint16(b, t.Dport)
		b = append(b, 0, 0)
		b = be.AppendUint16(b, t.Sport)
		b = be.AppendUint16(b, uint16(p.Seq))
	case event.ProtoSCTP: // INIT: tag, window, 1 stream out, 1 in, first TSN; it stands alone
		b = be.AppendUint16(b, t.Sport)
		b = be.AppendUint16(b, t.Dport)
		b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
		return append(b, 1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1)
	case event.ProtoDCCP:
		b = be.AppendUint16(b, t.Sport)
		b = be.AppendUint16(b, t.Dport)
		if p.Flags&RST == 0 { // length in words, type and long sequence number, service code
			b = append(b, 5, 0, 0, 0, 0<<1|1, 0, 0, 0)
			b = append(be.AppendUint32(b, p.Seq), 0, 0, 0, 42)
			break
		}
		b = append(b, 7, 0, 0, 0, 7<<1|1, 0, 0, 0)
		b = append(be.AppendUint32(b, p.Seq), 0, 0, 0, 0)
		b = append(be.AppendUint32(b, p.Ack), 2, 0, 0, 0) // aborted
	case event.ProtoGRE:
		if t.Dport == 0 {
			b = append(b, 0, 0, 0x08, 0)
			break
		}
		b = append(b, 0x30, 1, 0x88, 0x0b) // key and sequence present, version 1, PPP
		b = be.AppendUint16(b, uint16(len(p.Payload)))
		b = be.AppendUint16(b, t.Dport)
		b = be.AppendUint32(b, p.Seq)
	}
	return append(b, p.Payload...)
}

// checksumBody fills in the transport checksum.
func (p *Packet) checksumBody(body []byte) {
	var at int
	switch p.Tuple.Proto {
	case event.ProtoTCP:
		at = 16
	case event.ProtoUDP, event.ProtoUDPLite, event.ProtoDCCP:
		at = 6
	case event.ProtoICMP:
		binary.BigEndian.PutUint16(body[2:], ^fold(sum(0, body)))
		return
	case event.ProtoICMPv6:
		at = 2
	case event.ProtoSCTP:
		binary.LittleEndian.PutUint32(body[8:], crc32.Checksum(body, castagnoli))
		return
	default:
		return
	}
	c := ^fold(sum(p.pseudoSum(len(body)), body))
	if c == 0 && at == 6 {
		c = 0xffff // 0 says "no checksum" in UDP, and is the same in DCCP
	}
	binary.BigEndian.PutUint16(body[at:], c)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// pseudoSum is the sum over the pseudo header.
func (p *Packet) pseudoSum(n int) uint64 {
	s := uint64(n) + uint64(p.Tuple.Proto)
	if p.Tuple.Src.Is4() {
		a, b := p.Tuple.Src.As4(), p.Tuple.Dst.As4()
		return sum(sum(s, a[:]), b[:])
	}
	a, b := p.Tuple.Src.As16(), p.Tuple.Dst.As16()
	return sum(sum(s, a[:]), b[:])
}

// sum adds b as big-endian 16-bit words, an odd last byte as a high byte.
func sum(s uint64, b []byte) uint64 {
	for ; len(b) >= 4; b = b[4:] {
		s += uint64(binary.BigEndian.Uint32(b)) // folds to the same 16 bits
	}
	if len(b) >= 2 {
		s += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint64(b[0]) << 8
	}
	return s
}

func fold(s uint64) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// Fragments returns the packet cut into fragments with at most size bytes of
// body each (rounded down to a multiple of 8).
func (p *Packet) Fragments(size int) ([][]byte, error) {
	if size &^= 7; size == 0 {
		return nil, fmt.Errorf("build fragments: size below 8")
	}
	whole, err := p.Append(nil)
	if err != nil {
		return nil, err
	}
	header := v6Header
	if p.Tuple.Src.Is4() {
		header = v4Header
	}
	var out [][]byte
	for off := 0; off < len(whole)-header; off += size {
		end := min(off+size, len(whole)-header)
		out = append(out, p.fragment(whole[:header], whole[header+off:header+end], off, end < len(whole)-header))
	}
	return out, nil
}

func (p *Packet) fragment(header, part []byte, off int, more bool) []byte {
	f := append([]byte(nil), header...)
	if p.Tuple.Src.Is4() {
		field := uint16(off / 8)
		if more {
			field |= 1 << 13
		}
		binary.BigEndian.PutUint16(f[6:], field)
	} else {
		field := uint16(off)
		if more {
			field |= 1
		}
		f[6] = 44 // fragment header
		f = append(f, p.Tuple.Proto, 0)
		f = binary.BigEndian.AppendUint16(f, field)
		f = binary.BigEndian.AppendUint32(f, uint32(p.ID))
	}
	f = append(f, part...)
	setLength(f, p.Tuple.Src.Is4())
	return f
}
