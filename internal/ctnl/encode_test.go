package ctnl

import (
	"encoding/binary"
	"time"

	"github.com/mdlayher/netlink"

	"github.com/ctsight/ctsight/internal/event"
)

// encodeEntry is the inverse of decodeEntry, in the kernel's order. What is
// zero is left out.
func encodeEntry(e *Entry) ([]byte, error) {
	ae := newEncoder()
	encodeTuple(ae, ctaTupleOrig, e.Orig, e.tupleZone(ZoneOrig))
	encodeTuple(ae, ctaTupleReply, e.Reply, e.tupleZone(ZoneReply))
	if e.Zone != 0 && e.ZoneDir == ZoneBoth {
		ae.Uint16(ctaZone, e.Zone)
	}
	put32(ae, ctaStatus, uint32(e.Status))
	if e.HasTimeout {
		ae.Uint32(ctaTimeout, uint32(e.Timeout/time.Second))
	}
	if e.TCPState != event.TCPNone {
		ae.Nested(ctaProtoinfo, func(ae *netlink.AttributeEncoder) error {
			ae.Nested(ctaProtoinfoTCP, func(ae *netlink.AttributeEncoder) error {
				ae.Uint8(ctaProtoinfoTCPState, uint8(e.TCPState-1))
				return nil
			})
			return nil
		})
	}
	put32(ae, ctaMark, e.Mark)
	put32(ae, ctaID, e.ID)
	put32(ae, ctaUse, e.Use)
	if e.Start != 0 || e.Stop != 0 {
		ae.Nested(ctaTimestamp, func(ae *netlink.AttributeEncoder) error {
			ae.ByteOrder = binary.BigEndian
			ae.Uint64(ctaTimestampStart, e.Start)
			if e.Stop != 0 {
				ae.Uint64(ctaTimestampStop, e.Stop)
			}
			return nil
		})
	}
	return ae.Encode()
}

func newEncoder() *netlink.AttributeEncoder {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	return ae
}

func put32(ae *netlink.AttributeEncoder, typ uint16, v uint32) {
	if v != 0 {
		ae.Uint32(typ, v)
	}
}

func encodeTuple(ae *netlink.AttributeEncoder, typ uint16, t event.Tuple, zone uint16) {
	src, dst := uint16(ctaIPv6Src), uint16(ctaIPv6Dst)
	if t.Src.Is4() {
		src, dst = ctaIPv4Src, ctaIPv4Dst
	}
	ae.Nested(typ, func(ae *netlink.AttributeEncoder) error {
		ae.ByteOrder = binary.BigEndian
		ae.Nested(ctaTupleIP, func(ae *netlink.AttributeEncoder) error {
			ae.Bytes(src, t.Src.AsSlice())
			ae.Bytes(dst, t.Dst.AsSlice())
			return nil
		})
		ae.Nested(ctaTupleProto, func(ae *netlink.AttributeEncoder) error {
			ae.ByteOrder = binary.BigEndian
			encodeProto(ae, t)
			return nil
		})
		if zone != 0 {
			ae.Uint16(ctaTupleZone, zone)
		}
		return nil
	})
}

func encodeProto(ae *netlink.AttributeEncoder, t event.Tuple) {
	ae.Uint8(ctaProtoNum, t.Proto)
	typ, code, id := t.ICMP()
	switch t.Proto {
	case event.ProtoICMP:
		ae.Uint16(ctaProtoICMPID, id)
		ae.Uint8(ctaProtoICMPType, typ)
		ae.Uint8(ctaProtoICMPCode, code)
	case event.ProtoICMPv6:
		ae.Uint16(ctaProtoICMP6ID, id)
		ae.Uint8(ctaProtoICMP6Typ, typ)
		ae.Uint8(ctaProtoICMP6Cod, code)
	default:
		ae.Uint16(ctaProtoSrcPort, t.Sport)
		ae.Uint16(ctaProtoDstPort, t.Dport)
	}
}
