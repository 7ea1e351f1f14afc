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

	kindEvictor = 6
	kindExt     = 7
	kindSum     = 9
)

// tuple converts one direction. An unknown family gives invalid addresses,
// which print as such; it never fails.
func tuple(t *abi.ConntrackCtTuple) event.Tuple {
	return event.Tuple{
		Src:   addr(&t.Src, t.L3num),
		Dst:   addr(&t.Dst, t.L3num),
		Sport: uint16(t.Sport[0])<<8 | uint16(t.Sport[1]),
		Dport: uint16(t.Dport[0])<<8 | uint16(t.Dport[1]),
		Proto: t.Proto,
	}
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
	*e = event.Event{
		Time:   event.Ktime(r.Ts),
		Kind:   event.Kind(r.Kind),
		CPU:    uint16(cpu),
		NetNS:  event.NetNS(r.Netns),
		Zone:   r.Zone,
		Mark:   r.Mark,
		Orig:   tuple(&r.Orig),
		Status: event.Status(r.Status),
		Ptr:    r.Ptr,
		Hook:   event.Hook(r.Hook),
	}
	if r.K > 0 {
		e.Sample = 1 << r.K
	}
	if r.Reply.L3num != 0 {
		e.Reply = tuple(&r.Reply)
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
	if e.Reason == event.NATExhausted || e.Reason == event.NATRace {
		e.NATPool = natPool(e)
	}
	if x != nil {
		decodeExt(e, x, r.Flags)
	}
}

func decodeExt(e *event.Event, x *abi.ConntrackCtExt, flags uint8) {
	e.Location, e.KfreeReason = x.Location, x.KfreeReason
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

// natPool names the pool whose ports were taken: the translated source, that
// is the reply's destination, towards the reply's source.
func natPool(e *event.Event) event.NATPool {
	if e.Reply.IsZero() {
		return event.NATPool{}
	}
	return event.NATPool{Addr: e.Reply.Dst, Dst: e.Reply.Src, DstPort: e.Reply.Sport, Proto: e.Orig.Proto}
}
