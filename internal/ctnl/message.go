package ctnl

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Message types of the conntrack subsystem of nfnetlink (enum
// cntl_msg_types), with the subsystem in the upper byte.
const (
	subsys         = unix.NFNL_SUBSYS_CTNETLINK << 8
	typeNew        = subsys     // IPCTNL_MSG_CT_NEW
	typeGet        = subsys | 1 // IPCTNL_MSG_CT_GET
	typeDelete     = subsys | 2 // IPCTNL_MSG_CT_DELETE
	typeStatsCPU   = subsys | 4 // IPCTNL_MSG_CT_GET_STATS_CPU
	typeStats      = subsys | 5 // IPCTNL_MSG_CT_GET_STATS
	nfgenLen       = 4          // struct nfgenmsg
	attrTypeMask   = 0x3fff     // NLA_TYPE_MASK
	controlTypeMax = 0x0f       // below NLMSG_MIN_TYPE
)

// message is one netlink message inside a receive buffer.
type message struct {
	typ, flags  uint16
	seq, portid uint32
	data        []byte // without the nlmsghdr
}

// cutMessage takes the first message off b.
func cutMessage(b []byte) (m message, rest []byte, err error) {
	if len(b) < unix.SizeofNlMsghdr {
		return m, nil, fmt.Errorf("message header: %d bytes: %w", len(b), ErrMalformed)
	}
	n := binary.NativeEndian.Uint32(b)
	if n < unix.SizeofNlMsghdr || uint64(n) > uint64(len(b)) {
		return m, nil, fmt.Errorf("message length %d of %d: %w", n, len(b), ErrMalformed)
	}
	m = message{
		typ:    binary.NativeEndian.Uint16(b[4:]),
		flags:  binary.NativeEndian.Uint16(b[6:]),
		seq:    binary.NativeEndian.Uint32(b[8:]),
		portid: binary.NativeEndian.Uint32(b[12:]),
		data:   b[unix.SizeofNlMsghdr:n],
	}
	return m, b[align(int(n), len(b)):], nil
}

// errno reads the error of an NLMSG_ERROR or NLMSG_DONE; 0 is an ack. A DONE
// without a body, as some kernels send, is no error.
func (m message) errno() error {
	if len(m.data) < 4 {
		return nil
	}
	if n := int32(binary.NativeEndian.Uint32(m.data)); n < 0 {
		return unix.Errno(-n)
	}
	return nil
}

// body returns the attributes of a conntrack message and the res_id of its
// nfgenmsg, which is the CPU in statistics.
func (m message) body() (attrs []byte, resID uint16, err error) {
	if len(m.data) < nfgenLen {
		return nil, 0, fmt.Errorf("nfgenmsg: %d bytes: %w", len(m.data), ErrMalformed)
	}
	return m.data[nfgenLen:], binary.BigEndian.Uint16(m.data[2:]), nil
}

// cutAttr takes the first attribute off b.
func cutAttr(b []byte) (typ uint16, val, rest []byte, err error) {
	if len(b) < unix.SizeofNlAttr {
		return 0, nil, nil, errAttr
	}
	n := int(binary.NativeEndian.Uint16(b))
	if n < unix.SizeofNlAttr || n > len(b) {
		return 0, nil, nil, errAttr
	}
	return binary.NativeEndian.Uint16(b[2:]) & attrTypeMask, b[unix.SizeofNlAttr:n], b[align(n, len(b)):], nil
}

// errAttr is a value, not made on the spot: a hostile message must not cost
// more than a good one.
var errAttr = fmt.Errorf("attribute length: %w", ErrMalformed)

// align rounds n up to the netlink alignment of 4, at most to limit: the last
// part of a message may come without its padding.
func align(n, limit int) int { return min((n+3)&^3, limit) }

// be8, be16, be32 and be64 read an attribute of exactly that size; everything
// inside nfnetlink is in network order.
func be8(b []byte, dst *uint8) error {
	if len(b) != 1 {
		return errSize
	}
	*dst = b[0]
	return nil
}

func be16(b []byte, dst *uint16) error {
	if len(b) != 2 {
		return errSize
	}
	*dst = binary.BigEndian.Uint16(b)
	return nil
}

func be32(b []byte, dst *uint32) error {
	if len(b) != 4 {
		return errSize
	}
	*dst = binary.BigEndian.Uint32(b)
	return nil
}

func be64(b []byte, dst *uint64) error {
	if len(b) != 8 {
		return errSize
	}
	*dst = binary.BigEndian.Uint64(b)
	return nil
}

var errSize = fmt.Errorf("attribute size: %w", ErrMalformed)
