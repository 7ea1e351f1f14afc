package ctnl

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// ZoneDir says for which direction of an entry its zone holds.
type ZoneDir uint8

// Directions of a zone.
const (
	ZoneBoth  ZoneDir = iota // CTA_ZONE, or no zone
	ZoneOrig                 // CTA_ZONE inside the orig tuple
	ZoneReply                // CTA_ZONE inside the reply tuple
)

// Entry is one row of the table as netlink tells it.
type Entry struct {
	Orig, Reply event.Tuple
	Status      event.Status
	TCPState    event.TCPState
	Zone        uint16
	ZoneDir     ZoneDir
	Mark        uint32

	// Timeout is what is left, in whole seconds rounded down. The kernel
	// tells none for offloaded entries; then HasTimeout is false.
	Timeout    time.Duration
	HasTimeout bool

	// ID is the kernel's hash of the entry (nf_ct_get_id), stable for its
	// life and not unique. Use is its reference count, dumps only.
	ID  uint32
	Use uint32

	// Start and Stop are wall clock nanoseconds, 0 unless the sysctl
	// nf_conntrack_timestamp was on when the entry was made.
	Start, Stop uint64

	// hasProto is set when there was protocol state, of whatever protocol.
	hasProto bool
}

// Attributes of an entry (enum ctattr_type).
const (
	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaStatus     = 3
	ctaProtoinfo  = 4
	ctaTimeout    = 7
	ctaMark       = 8
	ctaUse        = 11
	ctaID         = 12
	ctaZone       = 18
	ctaTimestamp  = 20
)

// Attributes of a tuple (enum ctattr_tuple, ctattr_ip, ctattr_l4proto).
const (
	ctaTupleIP    = 1
	ctaTupleProto = 2
	ctaTupleZone  = 3

	ctaIPv4Src = 1
	ctaIPv4Dst = 2
	ctaIPv6Src = 3
	ctaIPv6Dst = 4

	ctaProtoNum      = 1
	ctaProtoSrcPort  = 2
	ctaProtoDstPort  = 3
	ctaProtoICMPID   = 4
	ctaProtoICMPType = 5
	ctaProtoICMPCode = 6
	ctaProtoICMP6ID  = 7
	ctaProtoICMP6Typ = 8
	ctaProtoICMP6Cod = 9
)

// Attributes of protocol state and time stamps.
const (
	ctaProtoinfoTCP      = 1 // CTA_PROTOINFO_TCP
	ctaProtoinfoTCPState = 1 // CTA_PROTOINFO_TCP_STATE

	ctaTimestampStart = 1
	ctaTimestampStop  = 2
)

// decodeEntry fills e from the attributes of one entry. It allocates nothing
// unless the message is malformed. Attributes it does not know are skipped:
// newer kernels add some.
func decodeEntry(b []byte, e *Entry) error {
	*e = Entry{}
	for len(b) > 0 {
		typ, val, rest, err := cutAttr(b)
		if err == nil {
			err = e.attr(typ, val)
		}
		if err != nil {
			return fmt.Errorf("entry attribute %d: %w", typ, err)
		}
		b = rest
	}
	if !e.Orig.Src.IsValid() || !e.Reply.Src.IsValid() {
		return fmt.Errorf("entry without tuples: %w", ErrMalformed)
	}
	return nil
}

func (e *Entry) attr(typ uint16, val []byte) error {
	switch typ {
	case ctaTupleOrig:
		return e.tuple(val, &e.Orig, ZoneOrig)
	case ctaTupleReply:
		return e.tuple(val, &e.Reply, ZoneReply)
	case ctaStatus:
		return be32(val, (*uint32)(&e.Status))
	case ctaMark:
		return be32(val, &e.Mark)
	case ctaUse:
		return be32(val, &e.Use)
	case ctaID:
		return be32(val, &e.ID)
	case ctaZone:
		e.ZoneDir = ZoneBoth
		return be16(val, &e.Zone)
	case ctaTimeout:
		var s uint32
		err := be32(val, &s)
		e.Timeout, e.HasTimeout = time.Duration(s)*time.Second, err == nil
		return err
	case ctaProtoinfo:
		e.hasProto = true
		return e.protoinfo(val)
	case ctaTimestamp:
		return e.timestamp(val)
	}
	return nil
}

func (e *Entry) tuple(b []byte, t *event.Tuple, dir ZoneDir) error {
	*t = event.Tuple{}
	for len(b) > 0 {
		typ, val, rest, err := cutAttr(b)
		if err != nil {
			return err
		}
		switch typ {
		case ctaTupleIP:
			err = decodeIP(val, t)
		case ctaTupleProto:
			err = decodeProto(val, t)
		case ctaTupleZone:
			e.ZoneDir = dir
			err = be16(val, &e.Zone)
		}
		if err != nil {
			return err
		}
		b = rest
	}
	if !t.Src.IsValid() || !t.Dst.IsValid() || t.Src.Is4() != t.Dst.Is4() {
		return errTuple
	}
	return nil
}

var errTuple = fmt.Errorf("tuple without two addresses of one family: %w", ErrMalformed)

func decodeIP(b []byte, t *event.Tuple) error {
	for len(b) > 0 {
		typ, val, rest, err := cutAttr(b)
		if err != nil {
			return err
		}
		switch typ {
		case ctaIPv4Src, ctaIPv6Src:
			err = decodeAddr(typ == ctaIPv4Src, val, &t.Src)
		case ctaIPv4Dst, ctaIPv6Dst:
			err = decodeAddr(typ == ctaIPv4Dst, val, &t.Dst)
		}
		if err != nil {
			return err
		}
		b = rest
	}
	return nil
}

// decodeAddr keeps IPv4 addresses mapped into IPv6 as what they are: entries
// of the IPv6 table.
func decodeAddr(is4 bool, b []byte, dst *netip.Addr) error {
	switch {
	case is4 && len(b) == 4:
		*dst = netip.AddrFrom4([4]byte(b))
	case !is4 && len(b) == 16:
		*dst = netip.AddrFrom16([16]byte(b))
	default:
		return errSize
	}
	return nil
}

// decodeProto puts ICMP into the ports as event.Tuple has it: id in Sport,
// type and code in Dport.
func decodeProto(b []byte, t *event.Tuple) error {
	var typ, code uint8
	for len(b) > 0 {
		at, val, rest, err := cutAttr(b)
		if err != nil {
			return err
		}
		switch at {
		case ctaProtoNum:
			err = be8(val, &t.Proto)
		case ctaProtoSrcPort, ctaProtoICMPID, ctaProtoICMP6ID:
			err = be16(val, &t.Sport)
		case ctaProtoDstPort:
			err = be16(val, &t.Dport)
		case ctaProtoICMPType, ctaProtoICMP6Typ:
			err = be8(val, &typ)
		case ctaProtoICMPCode, ctaProtoICMP6Cod:
			err = be8(val, &code)
		}
		if err != nil {
			return err
		}
		b = rest
	}
	if t.IsICMP() {
		t.Dport = uint16(typ)<<8 | uint16(code)
	}
	return nil
}

func (e *Entry) protoinfo(b []byte) error {
	for len(b) > 0 {
		typ, val, rest, err := cutAttr(b)
		if err == nil && typ == ctaProtoinfoTCP {
			err = e.tcp(val)
		}
		if err != nil {
			return err
		}
		b = rest
	}
	return nil
}

func (e *Entry) tcp(b []byte) error {
	for len(b) > 0 {
		typ, val, rest, err := cutAttr(b)
		if err != nil {
			return err
		}
		if typ == ctaProtoinfoTCPState {
			var s uint8
			if err := be8(val, &s); err != nil {
				return err
			}
			e.TCPState = event.TCPState(min(int(s)+1, 255))
		}
		b = rest
	}
	return nil
}

func (e *Entry) timestamp(b []byte) error {
	for len(b) > 0 {
		typ, val, rest, err := cutAttr(b)
		switch {
		case err != nil:
		case typ == ctaTimestampStart:
			err = be64(val, &e.Start)
		case typ == ctaTimestampStop:
			err = be64(val, &e.Stop)
		}
		if err != nil {
			return err
		}
		b = rest
	}
	return nil
}
