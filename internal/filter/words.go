package filter

import (
	"strconv"

	"github.com/ctsight/ctsight/internal/event"
)

type field uint8

const (
	fieldEvent field = iota
	fieldReason
	fieldCause
	fieldSrc
	fieldDst
	fieldHost
	fieldReplySrc
	fieldReplyDst
	fieldSport
	fieldDport
	fieldPort
	fieldReplySport
	fieldReplyDport
	fieldProto
	fieldFamily
	fieldICMPType
	fieldICMPCode
	fieldICMPID
	fieldNetNS
	fieldZone
	fieldMark
	fieldHook
	fieldStatus
	fieldState
	fieldNAT
	fieldPID
	fieldComm
	numFields
)

// sort of the values of a field.
type sort uint8

const (
	sortName  sort = iota // a word of a closed list, see number
	sortAddr              // an address or a prefix
	sortRange             // a number or two with a dash, up to max
	sortMark              // a number with or without a mask
	sortNetNS             // an inode number or a name
	sortText              // any text
)

// fieldInfo describes a field: its words, its values and their names.
type fieldInfo struct {
	name    string
	aliases []string // words of conntrack(8) and tcpdump for the same
	sort    sort
	max     uint32 // sortRange
	want    string // what is expected behind the word
	// number and numberName translate the names of sortName.
	number     func(string) (uint32, bool)
	numberName func(uint32) string
}

// fields is the vocabulary, in the order of the field numbers.
var fields = [numFields]fieldInfo{
	fieldEvent:      {name: "event", aliases: []string{"kind"}, want: "new, destroy, drop, note or invalid", number: number(event.ParseKind), numberName: name[event.Kind]},
	fieldReason:     {name: "reason", want: "a reason", number: number(event.ParseReason), numberName: name[event.Reason]},
	fieldCause:      {name: "cause", want: "a cause", number: number(event.ParseCause), numberName: name[event.Cause]},
	fieldSrc:        {name: "src", aliases: []string{"orig-src"}, sort: sortAddr},
	fieldDst:        {name: "dst", aliases: []string{"orig-dst"}, sort: sortAddr},
	fieldHost:       {name: "host", aliases: []string{"net"}, sort: sortAddr},
	fieldReplySrc:   {name: "reply-src", sort: sortAddr},
	fieldReplyDst:   {name: "reply-dst", sort: sortAddr},
	fieldSport:      {name: "sport", aliases: []string{"orig-port-src"}, sort: sortRange, max: 65535, want: "a port or a range of ports"},
	fieldDport:      {name: "dport", aliases: []string{"orig-port-dst"}, sort: sortRange, max: 65535, want: "a port or a range of ports"},
	fieldPort:       {name: "port", aliases: []string{"portrange"}, sort: sortRange, max: 65535, want: "a port or a range of ports"},
	fieldReplySport: {name: "reply-sport", aliases: []string{"reply-port-src"}, sort: sortRange, max: 65535, want: "a port or a range of ports"},
	fieldReplyDport: {name: "reply-dport", aliases: []string{"reply-port-dst"}, sort: sortRange, max: 65535, want: "a port or a range of ports"},
	fieldProto:      {name: "proto", aliases: []string{"protonum", "l4proto"}, want: "a protocol (tcp, udp, icmp, icmpv6, sctp, dccp, gre, udplite) or its number", number: protoNumber, numberName: protoName},
	fieldFamily:     {name: "family", want: "ipv4 or ipv6", number: familyNumber, numberName: func(n uint32) string { return "ipv" + strconv.Itoa(int(n)) }},
	fieldICMPType:   {name: "icmp-type", sort: sortRange, max: 255, want: "an ICMP type"},
	fieldICMPCode:   {name: "icmp-code", sort: sortRange, max: 255, want: "an ICMP code"},
	fieldICMPID:     {name: "icmp-id", sort: sortRange, max: 65535, want: "an ICMP id"},
	fieldNetNS:      {name: "netns", sort: sortNetNS},
	fieldZone:       {name: "zone", aliases: []string{"orig-zone"}, sort: sortRange, max: 65535, want: "a conntrack zone"},
	fieldMark:       {name: "mark", sort: sortMark},
	fieldHook:       {name: "hook", want: "prerouting, input, forward, output or postrouting", number: number(event.ParseHook), numberName: name[event.Hook]},
	fieldStatus:     {name: "status", want: "a status bit (seen_reply, assured, confirmed, src_nat, dst_nat, dying, ...)", number: statusNumber, numberName: func(n uint32) string { return event.Status(n).Names()[0] }},
	fieldState:      {name: "state", want: "a TCP state (SYN_SENT, ESTABLISHED, TIME_WAIT, ...)", number: number(event.ParseTCPState), numberName: name[event.TCPState]},
	fieldNAT:        {name: "nat", want: "snat, dnat, both or none", number: natParse, numberName: func(n uint32) string { return natNames[n] }},
	fieldPID:        {name: "pid", sort: sortRange, max: ^uint32(0), want: "a process id"},
	fieldComm:       {name: "comm", sort: sortText, want: "the name of a process"},
}

// short are words that are a whole term.
var short = map[string]term{
	"new":       {field: fieldEvent, spans: one(uint32(event.New))},
	"destroy":   {field: fieldEvent, spans: one(uint32(event.Destroy))},
	"drop":      {field: fieldEvent, spans: one(uint32(event.Drop))},
	"note":      {field: fieldEvent, spans: one(uint32(event.Note))},
	"invalid":   {field: fieldEvent, spans: one(uint32(event.Invalid))},
	"tcp":       {field: fieldProto, spans: one(event.ProtoTCP)},
	"udp":       {field: fieldProto, spans: one(event.ProtoUDP)},
	"icmp":      {field: fieldProto, spans: one(event.ProtoICMP)},
	"icmp6":     {field: fieldProto, spans: one(event.ProtoICMPv6)},
	"icmpv6":    {field: fieldProto, spans: one(event.ProtoICMPv6)},
	"sctp":      {field: fieldProto, spans: one(event.ProtoSCTP)},
	"dccp":      {field: fieldProto, spans: one(event.ProtoDCCP)},
	"gre":       {field: fieldProto, spans: one(event.ProtoGRE)},
	"udplite":   {field: fieldProto, spans: one(event.ProtoUDPLite)},
	"ip":        {field: fieldFamily, spans: one(4)},
	"ipv4":      {field: fieldFamily, spans: one(4)},
	"ip6":       {field: fieldFamily, spans: one(6)},
	"ipv6":      {field: fieldFamily, spans: one(6)},
	"assured":   {field: fieldStatus, spans: one(uint32(event.Assured))},
	"snat":      {field: fieldNAT, spans: []span{{1, 1}, {3, 3}}},
	"dnat":      {field: fieldNAT, spans: []span{{2, 2}, {3, 3}}},
	"src-nat":   {field: fieldNAT, spans: []span{{1, 1}, {3, 3}}},
	"dst-nat":   {field: fieldNAT, spans: []span{{2, 2}, {3, 3}}},
	"any-nat":   {field: fieldNAT, spans: []span{{1, 1}, {2, 2}, {3, 3}}},
	"unreplied": {field: fieldStatus, spans: one(uint32(event.SeenReply))}, // negated by the parser
}

func one(n uint32) []span { return []span{{n, n}} }

// number fits a Parse function of package event to the table.
func number[T ~uint8](parse func(string) (T, bool)) func(string) (uint32, bool) {
	return func(s string) (uint32, bool) {
		n, ok := parse(s)
		return uint32(n), ok
	}
}

// name is the inverse of number.
func name[T interface {
	~uint8
	String() string
}](n uint32) string {
	return T(n).String()
}

func protoNumber(s string) (uint32, bool) {
	switch s {
	case "icmp6", "ipv6-icmp":
		s = "icmpv6"
	}
	n, ok := event.ParseProto(s)
	return uint32(n), ok
}

func protoName(n uint32) string { return event.ProtoName(uint8(n)) }

func familyNumber(s string) (uint32, bool) {
	switch s {
	case "ipv4", "ip", "ip4", "inet", "4":
		return 4, true
	case "ipv6", "ip6", "inet6", "6":
		return 6, true
	}
	return 0, false
}

func statusNumber(s string) (uint32, bool) {
	n, ok := event.ParseStatus(s)
	return uint32(n), ok
}

func natParse(s string) (uint32, bool) {
	n := natNumber(s)
	return n, natNames[n] == s
}

// fieldOf finds a field by its name or one of its aliases.
func fieldOf(word string) (field, bool) {
	for f := range fields {
		if fields[f].name == word {
			return field(f), true
		}
		for _, a := range fields[f].aliases {
			if a == word {
				return field(f), true
			}
		}
	}
	return 0, false
}
