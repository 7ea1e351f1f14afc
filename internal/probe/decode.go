package probe

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/abi"
	"github.com/ctsight/ctsight/internal/event"
)

// Flags and kinds of records, bpf/wire.h.
const (
	flagExt       = 1 << 0
	flagTask      = 1 << 1
	flagUser      = 1 << 2
	flagReplyOnly = 1 << 3
	flagTCPFlags  = 1 << 4

	kindEvictor = 6
	kindExt     = 7
	kindSum     = 9
)

// tuple converts one direction. An unknown family gives invalid addresses,
// which print as such; it never fails.
func tuple(t *abi.ConntrackCtTuple) (out event.Tuple) {
	fillTuple(&out, t)
	return out
}

func fillTuple(out *event.Tuple, t *abi.ConntrackCtTuple) {
	out.Src, out.Dst = addr(&t.Src, t.L3num), addr(&t.Dst, t.L3num)
	out.Sport = uint16(t.Sport[0])<<8 | uint16(t.Sport[1])
	out.Dport = uint16(t.Dport[0])<<8 | uint16(t.Dport[1])
	out.Proto = t.Proto
}

func addr(b *[16]uint8, l3num uint16) netip.Addr {
	switch l3num {
	case unix.AF_INET:
		return netip.AddrFrom4([4]byte(b[:4]))
	case unix.AF_INET6:
		return netip.AddrFrom16(*b)
	}
	return netip.Addr{}
}

// decode fills e from a record and its second half (nil for none), which may
// both lie in shared memory. It is the only place that reads the wire format.
func decode(e *event.Event, r *abi.ConntrackCtRec, x *abi.ConntrackCtExt, cpu int, jiffy time.Duration) {
	*e = event.Event{} // and field by field: a literal is made elsewhere and copied
	e.Time, e.Kind, e.CPU = event.Ktime(r.Ts), event.Kind(r.Kind), uint16(cpu)
	e.NetNS, e.Zone, e.Mark = event.NetNS(r.Netns), r.Zone, r.Mark
	e.Status, e.Ptr, e.Hook = event.Status(r.Status), r.Ptr, event.Hook(r.Hook)
	fillTuple(&e.Orig, &r.Orig)
	if r.K > 0 {
		e.Sample = 1 << r.K
	}
	if r.Reply.L3num != 0 {
		fillTuple(&e.Reply, &r.Reply)
	}
	switch e.Kind {
	case event.New:
		e.IIf, e.OIf = r.Aux[0], r.Aux[1]
		e.ByUser = r.Flags&flagUser != 0
	case event.Destroy:
		e.Cause = event.Cause(r.Code)
		e.Timeout = time.Duration(int32(r.Aux[0])) * jiffy
		if r.Orig.Proto == event.ProtoTCP {
			e.TCPState = event.TCPState(r.TcpState + 1)
		}
	default:
		e.Reason = event.Reason(r.Code)
		e.IIf, e.OIf = r.Aux[0], r.Aux[1]
		e.ReplyOnly = r.Flags&flagReplyOnly != 0
	}
	if x != nil {
		decodeExt(e, x, r.Flags)
	}
}

func decodeExt(e *event.Event, x *abi.ConntrackCtExt, flags uint8) {
	e.Location, e.KfreeReason = x.Location, x.KfreeReason
	if flags&flagTCPFlags != 0 {
		e.TCPFlags, e.HasTCPFlags = event.TCPFlags(x.TcpFlags), true
	}
	if flags&flagTask == 0 {
		return
	}
	e.Task = event.Task{PID: x.Pid, Cgroup: x.Cgroup, Comm: comm(&x.Comm)}
}

func comm(b *[16]uint8) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b[:])
}
