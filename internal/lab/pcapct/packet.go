package pcapct

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// Packet is what conntrack looks at.
type Packet struct {
	At    time.Duration // since the first
	Tuple event.Tuple
	Flags uint8 // of TCP
}

// request says whether an ICMP packet may begin something.
func (p *Packet) request() bool {
	typ, _, _ := p.Tuple.ICMP()
	if p.Tuple.Proto == event.ProtoICMP {
		return typ == 8 || typ == 13 || typ == 15 || typ == 17
	}
	return typ == 128
}

// Read returns the packets of a gzipped pcap file of Ethernet frames, and the time of
// the first. Frames may be cut after their headers.
func Read(path string) (out []Packet, start time.Time, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, start, err
	}
	defer f.Close()
	z, err := gzip.NewReader(bufio.NewReader(f))
	if err != nil {
		return nil, start, err
	}
	var head [24]byte
	if _, err := io.ReadFull(z, head[:]); err != nil {
		return nil, start, err
	}
	if binary.LittleEndian.Uint32(head[:]) != 0xa1b2c3d4 || binary.LittleEndian.Uint32(head[20:]) != 1 {
		return nil, start, fmt.Errorf("%s: no pcap of Ethernet frames in microseconds", path)
	}
	for {
		at, frame, err := next(z)
		if errors.Is(err, io.EOF) {
			return out, start, nil
		}
		if err != nil {
			return nil, start, fmt.Errorf("%s: %w", path, err)
		}
		if start.IsZero() {
			start = at
		}
		if p, ok := parse(frame); ok {
			p.At = at.Sub(start)
			out = append(out, p)
		}
	}
}

func next(r io.Reader) (at time.Time, frame []byte, err error) {
	var head [16]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return at, nil, err
	}
	n := binary.LittleEndian.Uint32(head[8:])
	if n > 1<<18 {
		return at, nil, fmt.Errorf("a frame of %d bytes", n)
	}
	frame = make([]byte, n)
	if _, err := io.ReadFull(r, frame); err != nil {
		return at, nil, io.ErrUnexpectedEOF
	}
	return time.Unix(int64(binary.LittleEndian.Uint32(head[:])), int64(binary.LittleEndian.Uint32(head[4:]))*1000).UTC(), frame, nil
}

// parse reads the headers; false for what conntrack does not track or what is cut.
func parse(b []byte) (p Packet, ok bool) {
	if len(b) < 14 {
		return p, false
	}
	kind, b := binary.BigEndian.Uint16(b[12:]), b[14:]
	for kind == 0x8100 && len(b) >= 4 {
		kind, b = binary.BigEndian.Uint16(b[2:]), b[4:]
	}
	t := &p.Tuple
	switch {
	case kind == 0x0800 && len(b) >= 20 && b[0]>>4 == 4 && len(b) >= int(b[0]&15)*4:
		if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return p, false // not the first fragment
		}
		t.Proto, t.Src, t.Dst = b[9], netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		b = b[b[0]&15*4:]
	case kind == 0x86dd && len(b) >= 40:
		t.Proto, t.Src, t.Dst = b[6], netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		b = b[40:]
	default:
		return p, false
	}
	switch {
	case t.Proto == event.ProtoTCP && len(b) >= 14:
		p.Flags = b[13] & (fin | syn | rst | ack)
		fallthrough
	case t.Proto == event.ProtoUDP && len(b) >= 4:
		t.Sport, t.Dport = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	case t.IsICMP() && len(b) >= 8:
		t.Sport, t.Dport = binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b)
	default:
		return p, false
	}
	return p, true
}
