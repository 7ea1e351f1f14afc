// Package event is the vocabulary of ctsight: what the kernel did to an entry
// of the connection tracking table or to a packet on its way into it. It holds
// plain values and their names; it reads no kernel, no clock and no file, and
// imports the standard library only.
package event

import (
	"net/netip"
	"strconv"
	"time"
)

// Ktime is kernel monotonic time in nanoseconds (CLOCK_MONOTONIC, the clock of
// bpf_ktime_get_ns). It is a type of its own so that it cannot be mixed with
// wall time by accident; Clock converts.
type Ktime int64

// Sub returns the time from u to k.
func (k Ktime) Sub(u Ktime) time.Duration { return time.Duration(k - u) }

// Clock is one pair of readings of the monotonic and the wall clock. All
// conversions of one run use the same pair, so that differences of printed
// times are differences of kernel time.
type Clock struct {
	Mono Ktime
	Wall time.Time
}

// At converts kernel time to wall time (UTC).
func (c Clock) At(k Ktime) time.Time { return c.Wall.Add(time.Duration(k - c.Mono)).UTC() }

// Of is the inverse of At.
func (c Clock) Of(t time.Time) Ktime { return c.Mono + Ktime(t.Sub(c.Wall)) }

// NetNS is the inode number of a network namespace (net->ns.inum).
type NetNS uint32

// String returns the inode number in decimal.
func (n NetNS) String() string { return strconv.FormatUint(uint64(n), 10) }

// Tuple is one direction of a flow: addresses, protocol, and ports, or for
// ICMP type, code and id (struct nf_conntrack_tuple).
type Tuple struct {
	Src, Dst netip.Addr
	// Sport and Dport are 0 for protocols without ports. For ICMP and
	// ICMPv6 Sport holds the id and Dport holds type<<8 | code, as the
	// kernel's own union does; use ICMP to read them.
	Sport, Dport uint16
	Proto        uint8
}

// Protocol numbers (IANA) that have a name in conntrack(8)'s output.
const (
	ProtoICMP    = 1
	ProtoTCP     = 6
	ProtoUDP     = 17
	ProtoDCCP    = 33
	ProtoGRE     = 47
	ProtoICMPv6  = 58
	ProtoSCTP    = 132
	ProtoUDPLite = 136
)

// IsICMP says whether the ports of the tuple are ICMP type, code and id.
func (t Tuple) IsICMP() bool { return t.Proto == ProtoICMP || t.Proto == ProtoICMPv6 }

// ICMP returns type, code and id of an ICMP or ICMPv6 tuple.
func (t Tuple) ICMP() (typ, code uint8, id uint16) {
	return uint8(t.Dport >> 8), uint8(t.Dport), t.Sport
}

// IsZero says whether the tuple holds nothing.
func (t Tuple) IsZero() bool { return t == Tuple{} }

// Inverse returns the tuple of the answer when no NAT is done
// (nf_ct_invert_tuple). ICMP request types become their reply types.
func (t Tuple) Inverse() Tuple {
	r := Tuple{Src: t.Dst, Dst: t.Src, Sport: t.Dport, Dport: t.Sport, Proto: t.Proto}
	if t.IsICMP() {
		typ, code, id := t.ICMP()
		r.Sport, r.Dport = id, uint16(inverseICMP(t.Proto, typ))<<8|uint16(code)
	}
	return r
}

// inverseICMP is invmap of nf_conntrack_proto_icmp.c and _icmpv6.c. It runs
// once per event and must not allocate.
func inverseICMP(proto, typ uint8) uint8 {
	if proto == ProtoICMPv6 {
		switch typ {
		case 128, 139: // echo, node information
			return typ + 1
		case 129, 140:
			return typ - 1
		}
		return typ
	}
	switch typ {
	case 0, 8: // echo reply, echo
		return 8 - typ
	case 13, 15, 17: // timestamp, information, address mask
		return typ + 1
	case 14, 16, 18:
		return typ - 1
	}
	return typ
}

// Task is the process that caused an event, where the kernel ran in its
// context: user-space deletes, dumps that reap, new entries of local sockets.
type Task struct {
	PID    uint32
	Comm   string
	Cgroup uint64 // id of the cgroup v2 directory; 0 when unknown
}

// NAT pool of a drop with reason nat_exhausted: the address whose ports ran
// out, towards which destination.
type NATPool struct {
	Addr    netip.Addr
	Dst     netip.Addr
	DstPort uint16
	Proto   uint8
}

// Event is one thing that happened. Fields that do not apply, or are not
// known, are zero.
type Event struct {
	Time  Ktime
	Kind  Kind
	CPU   uint16
	NetNS NetNS
	Zone  uint16
	Mark  uint32

	Reason Reason // Drop, Note, Invalid
	Cause  Cause  // Destroy

	Orig  Tuple
	Reply Tuple // zero where it is not known

	Status   Status
	TCPState TCPState // Destroy of TCP only; TCPNone otherwise
	Lifetime time.Duration
	// HasLifetime is set when Lifetime is known: the insert of this entry
	// was seen. A lifetime of 0 is possible.
	HasLifetime bool
	// Timeout is what was left of the entry's timeout at its destroy; 0 or
	// negative means expired. Resolution is one jiffy.
	Timeout time.Duration

	By   Tuple // Destroy early_drop: the packet that made the kernel evict
	Task Task

	// ByUser is set on a New that user space or BPF made, not a packet.
	ByUser bool
	// ReplyOnly is set on a Note clash_nat_reply_only: the entry is in the
	// table, for replies only, and will be destroyed like any other.
	ReplyOnly bool

	IIf, OIf uint32 // interface indexes, 0 unknown
	Hook     Hook
	// TCPFlags of an Invalid segment; HasTCPFlags is set where they are known, for
	// a segment may have none.
	TCPFlags    TCPFlags
	HasTCPFlags bool

	// Ptr is the kernel address of the entry. With the time of its insert
	// it identifies a live entry; alone it does not, memory is reused.
	Ptr uint64
	// KfreeReason is the kernel's own drop reason number and Location the
	// text address, for reasons other_new and ruleset_*; 0 when unknown.
	KfreeReason uint32
	Location    uint64

	Sample     uint32 // this record stands for that many; 0 and 1 mean one
	BestEffort bool
}

// NATPool names the pool whose ports were taken, for drops with reason
// nat_exhausted or nat_race: the translated source, that is the reply's
// destination, towards the reply's source.
func (e *Event) NATPool() NATPool {
	if e.Reason != NATExhausted && e.Reason != NATRace || e.Reply.IsZero() {
		return NATPool{}
	}
	return NATPool{Addr: e.Reply.Dst, Dst: e.Reply.Src, DstPort: e.Reply.Sport, Proto: e.Orig.Proto}
}

// NAT says which side of the entry was translated: "", "snat", "dnat", "both".
func (e *Event) NAT() string {
	if e.Reply.IsZero() {
		return ""
	}
	inv := e.Orig.Inverse()
	s := e.Reply.Dst != inv.Dst || (e.Reply.Dport != inv.Dport && !e.Orig.IsICMP()) || (e.Orig.IsICMP() && e.Reply.Sport != inv.Sport)
	d := e.Reply.Src != inv.Src || (e.Reply.Sport != inv.Sport && !e.Orig.IsICMP())
	switch {
	case s && d:
		return "both"
	case s:
		return "snat"
	case d:
		return "dnat"
	}
	return ""
}
