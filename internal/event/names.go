package event

import (
	"strconv"
	"strings"
)

// ProtoName returns conntrack(8)'s name of an IP protocol, or the number.
func ProtoName(p uint8) string {
	switch p {
	case ProtoICMP:
		return "icmp"
	case ProtoTCP:
		return "tcp"
	case ProtoUDP:
		return "udp"
	case ProtoDCCP:
		return "dccp"
	case ProtoGRE:
		return "gre"
	case ProtoICMPv6:
		return "icmpv6"
	case ProtoSCTP:
		return "sctp"
	case ProtoUDPLite:
		return "udplite"
	}
	return strconv.Itoa(int(p))
}

// ParseProto is the inverse of ProtoName; it also takes numbers.
func ParseProto(s string) (uint8, bool) {
	for _, p := range []uint8{ProtoICMP, ProtoTCP, ProtoUDP, ProtoDCCP, ProtoGRE, ProtoICMPv6, ProtoSCTP, ProtoUDPLite} {
		if ProtoName(p) == s {
			return p, true
		}
	}
	n, err := strconv.ParseUint(s, 10, 8)
	return uint8(n), err == nil
}

// Status holds the IPS_* bits of an entry (enum ip_conntrack_status).
type Status uint32

// Bits of Status, with their kernel names.
const (
	Expected     Status = 1 << 0  // IPS_EXPECTED
	SeenReply    Status = 1 << 1  // IPS_SEEN_REPLY
	Assured      Status = 1 << 2  // IPS_ASSURED
	Confirmed    Status = 1 << 3  // IPS_CONFIRMED
	SrcNAT       Status = 1 << 4  // IPS_SRC_NAT
	DstNAT       Status = 1 << 5  // IPS_DST_NAT
	SeqAdjust    Status = 1 << 6  // IPS_SEQ_ADJUST
	SrcNATDone   Status = 1 << 7  // IPS_SRC_NAT_DONE
	DstNATDone   Status = 1 << 8  // IPS_DST_NAT_DONE
	Dying        Status = 1 << 9  // IPS_DYING
	FixedTimeout Status = 1 << 10 // IPS_FIXED_TIMEOUT
	Template     Status = 1 << 11 // IPS_TEMPLATE
	NATClash     Status = 1 << 12 // IPS_NAT_CLASH (IPS_UNTRACKED before 5.10)
	Helper       Status = 1 << 13 // IPS_HELPER
	Offload      Status = 1 << 14 // IPS_OFFLOAD
	HWOffload    Status = 1 << 15 // IPS_HW_OFFLOAD
)

var statusNames = [...]string{"expected", "seen_reply", "assured", "confirmed", "src_nat", "dst_nat",
	"seq_adjust", "src_nat_done", "dst_nat_done", "dying", "fixed_timeout", "template", "nat_clash",
	"helper", "offload", "hw_offload"}

// ParseStatus returns the bit of a name; conntrack(8)'s upper-case words and
// bitN are taken as well.
func ParseStatus(s string) (Status, bool) {
	s = strings.ToLower(s)
	for i, n := range statusNames {
		if n == s {
			return 1 << i, true
		}
	}
	if n, ok := strings.CutPrefix(s, "bit"); ok {
		i, err := strconv.ParseUint(n, 10, 8)
		return 1 << i, err == nil && i < 32
	}
	return 0, false
}

// StatusName returns the name of bit number i, "" when it has none.
func StatusName(i int) string {
	if i < 0 || i >= len(statusNames) {
		return ""
	}
	return statusNames[i]
}

// Names returns the names of the bits that are set, lowest first; a bit
// without a name comes as bitN.
func (s Status) Names() []string {
	var out []string
	for i := range 32 {
		if s&(1<<i) == 0 {
			continue
		}
		if i < len(statusNames) {
			out = append(out, statusNames[i])
		} else {
			out = append(out, "bit"+strconv.Itoa(i))
		}
	}
	return out
}

// TCPState is enum tcp_conntrack plus one, so that zero means "not TCP".
type TCPState uint8

// TCP states; TCPNone says that there is none.
const (
	TCPNone    TCPState = 0
	TCPSynSent TCPState = iota + 1 // 1 is TCP_CONNTRACK_NONE
	TCPSynRecv
	TCPEstablished
	TCPFinWait
	TCPCloseWait
	TCPLastAck
	TCPTimeWait
	TCPClose
)

var tcpStateNames = [...]string{"", "NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT",
	"CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2"}

// String returns conntrack(8)'s word, or the kernel's number.
func (s TCPState) String() string {
	if int(s) < len(tcpStateNames) {
		return tcpStateNames[s]
	}
	return strconv.Itoa(int(s) - 1)
}

// ParseTCPState is the inverse of String for known states, in any case.
func ParseTCPState(s string) (TCPState, bool) {
	return parse[TCPState](tcpStateNames[:], strings.ToUpper(s))
}

// Hook is the netfilter hook at which a packet was, plus one; zero is unknown.
type Hook uint8

var hookNames = [...]string{"", "prerouting", "input", "forward", "output", "postrouting"}

// String returns nft's name of the hook, or "" when it is not known.
func (h Hook) String() string {
	if int(h) < len(hookNames) {
		return hookNames[h]
	}
	return strconv.Itoa(int(h) - 1)
}

// ParseHook is the inverse of String for known hooks, in any case.
func ParseHook(s string) (Hook, bool) { return parse[Hook](hookNames[:], strings.ToLower(s)) }

// TCPFlags are the flags of a TCP segment, byte 13 of its header.
type TCPFlags uint8

// Flags of a TCP segment.
const (
	FIN TCPFlags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

var tcpFlagNames = [...]string{"fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"}

// tcpFlagLetters are those of tcpdump(8).
const tcpFlagLetters = "FSRP.UEW"

// TCPFlagName returns the name of bit number i.
func TCPFlagName(i int) string { return tcpFlagNames[i] }

// String returns the flags as tcpdump(8) prints them between brackets: "S.", "FPU",
// "none".
func (f TCPFlags) String() string {
	if f == 0 {
		return "none"
	}
	return string(f.AppendTo(nil))
}

// AppendTo appends the letters of the flags to b, nothing where there are none.
func (f TCPFlags) AppendTo(b []byte) []byte {
	for i := range len(tcpFlagLetters) {
		if f>>i&1 != 0 {
			b = append(b, tcpFlagLetters[i])
		}
	}
	return b
}
