package view

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/ctsight/ctsight/internal/event"
)

var update = flag.Bool("update", false, "rewrite testdata/*.golden")

// golden compares got with a file of testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run with -update)", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// harmless fails if a terminal would do anything but print b.
func harmless(t *testing.T, b []byte) {
	t.Helper()
	if !utf8.Valid(b) {
		t.Error("not UTF-8")
	}
	for _, r := range string(b) {
		if r != '\n' && !safe(r) {
			t.Errorf("rune %U reaches the terminal", r)
		}
	}
}

// decode reads a JSON document and fails on anything behind it, or on a key
// that occurs twice.
func decode(t *testing.T, doc []byte) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(doc, &m); err != nil {
		t.Fatalf("%v in %s", err, doc)
	}
	again, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, doc); err != nil {
		t.Fatal(err)
	}
	if a, b := strings.Count(string(again), `":`), strings.Count(compact.String(), `":`); a != b {
		t.Errorf("%d keys, %d after decoding: one occurs twice in %s", b, a, doc)
	}
	return m
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func tuple(proto uint8, src, dst string, sport, dport uint16) event.Tuple {
	return event.Tuple{Src: addr(src), Dst: addr(dst), Sport: sport, Dport: dport, Proto: proto}
}

func echo(proto uint8, src, dst string, typ uint8, id uint16) event.Tuple {
	return tuple(proto, src, dst, id, uint16(typ)<<8)
}

const (
	ownNS     = 4026531840
	hostileNS = 4026532001
)

// hostile has everything that has been used against terminals and parsers.
const hostile = "a\x1b]0;owned\a\x1b[2J \"b\"\\\u202egpj\u2066\u0085\u200b\xff\n{}"

var testNames = Names{
	NetNS: func(n event.NetNS) string {
		return map[event.NetNS]string{4026532000: "blue", hostileNS: hostile}[n]
	},
	Interface: func(ns event.NetNS, i uint32) string {
		if ns == hostileNS {
			return "eth0\x1b[31m\u202e"
		}
		return map[uint32]string{2: "eth0", 3: "veth9"}[i]
	},
	Cgroup:      func(id uint64) string { return map[uint64]string{77: "/kubepods/pod 1\u2029"}[id] },
	KfreeReason: func(n uint32) string { return map[uint32]string{7: "NETFILTER_DROP"}[n] },
	Symbol:      func(a uint64) string { return map[uint64]string{0xffffffff81000010: "ip_error+0x10"}[a] },
}

func testOptions() EventOptions {
	return EventOptions{Own: ownNS, Names: testNames,
		Clock: event.Clock{Mono: 1_000_000_000, Wall: time.Date(2026, 11, 22, 19, 38, 1, 123_456_789, time.UTC)}}
}

// testEvents has every kind, and every field at least once.
func testEvents() []event.Event {
	tcp := tuple(event.ProtoTCP, "10.0.0.7", "192.0.2.1", 40000, 443)
	dns := tuple(event.ProtoUDP, "10.0.0.7", "10.0.0.53", 40000, 53)
	tcp6 := tuple(event.ProtoTCP, "2001:db8::", "2001:db8:0:1::2", 50000, 22)
	ping := echo(event.ProtoICMP, "10.0.0.7", "192.0.2.1", 8, 4660)
	ping6 := echo(event.ProtoICMPv6, "fe80::1", "fe80::2", 128, 1)
	const second = 1_000_000_000
	return []event.Event{
		{Time: second, Kind: event.New, NetNS: ownNS, Orig: tcp, Reply: tcp.Inverse(), Status: event.Confirmed, IIf: 2, OIf: 3, Ptr: 0xffff888000000000},
		{Time: second + 1, Kind: event.New, NetNS: ownNS, Orig: tcp, Reply: tuple(event.ProtoTCP, "192.0.2.1", "203.0.113.9", 443, 40000),
			Status: event.Confirmed | event.SrcNAT | event.SrcNATDone, Task: event.Task{PID: 4242, Comm: "curl", Cgroup: 12345678901234567890}},
		{Time: second - 1, Kind: event.New, NetNS: 4026532000, Zone: 7, Mark: 0x1f, Orig: tcp6, Reply: tcp6.Inverse(), Status: event.Confirmed, Sample: 8},
		{Time: 0, Kind: event.New, NetNS: ownNS, Orig: ping, Reply: echo(event.ProtoICMP, "192.0.2.1", "203.0.113.9", 0, 4661), Status: event.Confirmed},
		{Time: 2 * second, Kind: event.New, NetNS: ownNS, Orig: tuple(47, "10.0.0.1", "10.0.0.2", 1, 2)},
		{Time: 2 * second, Kind: event.New, NetNS: ownNS, Orig: tuple(199, "10.0.0.1", "10.0.0.2", 0, 0), BestEffort: true},
		{Time: 3 * second, Kind: event.Destroy, Cause: event.TimeoutGC, NetNS: ownNS, Orig: tcp, Reply: tcp.Inverse(), TCPState: 8,
			Status: event.SeenReply | event.Assured | event.Confirmed | event.Dying, Lifetime: 754*second + 5_000_000, HasLifetime: true},
		{Time: 3 * second, Kind: event.Destroy, Cause: event.EarlyDrop, NetNS: ownNS, Orig: dns, Reply: tuple(event.ProtoUDP, "10.9.9.9", "203.0.113.9", 5353, 1024),
			Status: event.Confirmed | event.Dying, By: tuple(event.ProtoTCP, "10.6.6.6", "10.0.0.1", 1024, 80), HasLifetime: true, Timeout: 29 * second},
		{Time: 3 * second, Kind: event.Destroy, Cause: event.EarlyDrop, NetNS: ownNS, Orig: ping6, Status: 1 << 20, By: echo(event.ProtoICMPv6, "fe80::3", "fe80::4", 128, 9), Timeout: -4_000_000},
		{Time: 3 * second, Kind: event.Destroy, Cause: event.UserDelete, NetNS: ownNS, Orig: tcp6, TCPState: 4, Status: event.SeenReply | event.Offload | event.DstNAT,
			Task: event.Task{PID: 99, Comm: "conntrack", Cgroup: 77}, Lifetime: 86_400*second*3 + 7_300*second, HasLifetime: true},
		{Time: 3 * second, Kind: event.Destroy, Cause: event.CauseUnknown, NetNS: ownNS, Orig: dns, BestEffort: true},
		{Time: 3 * second, Kind: event.Destroy, Cause: 99, NetNS: ownNS, Orig: dns, Lifetime: 999, HasLifetime: true},
		{Time: 4 * second, Kind: event.Drop, Reason: event.TableFull, NetNS: ownNS, Orig: dns, Hook: 1, IIf: 2},
		{Time: 4 * second, Kind: event.Drop, Reason: event.NATExhausted, NetNS: ownNS, Orig: tcp, Hook: 5, OIf: 9, Sample: 1,
			Reply: event.Tuple{Src: addr("192.0.2.1"), Sport: 443, Dst: addr("203.0.113.9"), Dport: tcp.Sport, Proto: event.ProtoTCP}},
		{Time: 4 * second, Kind: event.Drop, Reason: event.OtherNew, NetNS: ownNS, Orig: dns, KfreeReason: 7, Location: 0xffffffff81000010},
		{Time: 4 * second, Kind: event.Drop, Reason: event.RulesetNew, NetNS: ownNS, Orig: dns, KfreeReason: 200, Location: 0xffffffff81999999},
		{Time: 4 * second, Kind: event.Drop, Reason: 123, NetNS: ownNS, Orig: ping},
		{Time: 4 * second, Kind: event.Drop, Reason: event.LookupUnknown, NetNS: 4026532000, BestEffort: true},
		{Time: 5 * second, Kind: event.Note, Reason: event.ClashNATReplyOnly, NetNS: ownNS, Orig: dns},
		{Time: 5 * second, Kind: event.Note, Reason: event.CreateRefused, NetNS: ownNS, Orig: tcp, Task: event.Task{PID: 7}},
		{Time: 5 * second, Kind: event.Invalid, Reason: event.InvalidPacket, NetNS: ownNS, Orig: tcp, Hook: 4,
			TCPFlags: event.FIN | event.PSH | event.URG, HasTCPFlags: true},
		{Time: 6 * second, Kind: event.Destroy, Cause: event.UserFlush, NetNS: hostileNS, Orig: tcp, IIf: 2, Hook: 77,
			Task: event.Task{PID: 666, Comm: "a b)\x1b]52;c;x\a\u202e\xfe"}},
		{Time: 6 * second, Kind: 77, NetNS: ownNS, Orig: tcp},
	}
}

func renderEvents(t *testing.T, o EventOptions) []byte {
	t.Helper()
	var out bytes.Buffer
	w := NewEventWriter(&out, o)
	for _, e := range testEvents() {
		if err := w.Write(&e); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}
