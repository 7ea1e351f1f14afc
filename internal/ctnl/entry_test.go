package ctnl

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/ctsight/ctsight/internal/event"
)

// attr makes one attribute by hand, padded, in this machine's byte order.
func attr(typ uint16, parts ...[]byte) []byte {
	var val []byte
	for _, p := range parts {
		val = append(val, p...)
	}
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(val)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, val...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func join(parts ...[]byte) (b []byte) {
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

const nested = unix.NLA_F_NESTED

// tup4 is an IPv4 tuple with the given protocol attributes.
func tup4(typ uint16, proto ...[]byte) []byte {
	return attr(typ|nested,
		attr(ctaTupleIP|nested, attr(ctaIPv4Src, []byte{10, 0, 0, 1}), attr(ctaIPv4Dst, []byte{10, 0, 0, 2})),
		attr(ctaTupleProto|nested, proto...))
}

func TestDecodeEntry(t *testing.T) {
	num := func(p byte) []byte { return attr(ctaProtoNum, []byte{p}) }
	udp := join(num(17), attr(ctaProtoSrcPort, []byte{1, 2}), attr(ctaProtoDstPort, []byte{0, 53}))
	both := join(tup4(ctaTupleOrig, udp), tup4(ctaTupleReply, udp))
	tuple4 := tuple(event.ProtoUDP, "10.0.0.1", "10.0.0.2", 258, 53)
	esp := join(tup4(ctaTupleOrig, num(50)), tup4(ctaTupleReply, num(50)))
	icmp := join(num(1), attr(ctaProtoICMPID, []byte{0, 9}), attr(ctaProtoICMPCode, []byte{3}), attr(ctaProtoICMPType, []byte{8}))
	mixed := attr(ctaTupleOrig, attr(ctaTupleIP, attr(ctaIPv4Src, []byte{1, 2, 3, 4}), attr(ctaIPv6Dst, make([]byte, 16))))
	for _, tc := range []struct {
		name string
		in   []byte
		want Entry
		bad  bool
	}{
		{name: "smallest", in: both, want: Entry{Orig: tuple4, Reply: tuple4}},
		{name: "protocol without ports", in: esp, want: Entry{Orig: tuple(50, "10.0.0.1", "10.0.0.2", 0, 0), Reply: tuple(50, "10.0.0.1", "10.0.0.2", 0, 0)}},
		{name: "icmp in any order", in: join(tup4(ctaTupleOrig, icmp), tup4(ctaTupleReply, udp)),
			want: Entry{Orig: tuple(1, "10.0.0.1", "10.0.0.2", 9, 8<<8|3), Reply: tuple4}},
		{name: "unknown attributes", in: join(attr(99, []byte("new")), both, attr(28, make([]byte, 8))), want: Entry{Orig: tuple4, Reply: tuple4}},
		{name: "timeout 0 is a timeout", in: join(both, attr(ctaTimeout, make([]byte, 4))), want: Entry{Orig: tuple4, Reply: tuple4, HasTimeout: true}},
		{name: "largest timeout", in: join(both, attr(ctaTimeout, []byte{255, 255, 255, 255})),
			want: Entry{Orig: tuple4, Reply: tuple4, HasTimeout: true, Timeout: (1<<32 - 1) * time.Second}},
		{name: "impossible state", in: join(both, attr(ctaProtoinfo, attr(ctaProtoinfoTCP, attr(ctaProtoinfoTCPState, []byte{255})))),
			want: Entry{Orig: tuple4, Reply: tuple4, TCPState: 255, hasProto: true}},
		{name: "sctp state is not for us", in: join(both, attr(ctaProtoinfo, attr(3, []byte{1, 2, 3, 4}))), want: Entry{Orig: tuple4, Reply: tuple4, hasProto: true}},
		{name: "last attribute without padding", in: join(both, attr(ctaZone, []byte{0, 7})[:6]), want: Entry{Orig: tuple4, Reply: tuple4, Zone: 7}},

		{name: "empty", bad: true},
		{name: "no reply", in: tup4(ctaTupleOrig, udp), bad: true},
		{name: "no addresses", in: attr(ctaTupleOrig), bad: true},
		{name: "two families in one tuple", in: mixed, bad: true},
		{name: "short address", in: attr(ctaTupleOrig, attr(ctaTupleIP, attr(ctaIPv4Src, []byte{1, 2, 3}))), bad: true},
		{name: "short status", in: join(both, attr(ctaStatus, []byte{1})), bad: true},
		{name: "long status", in: join(both, attr(ctaStatus, make([]byte, 8))), bad: true},
		{name: "short zone", in: join(both, attr(ctaZone, []byte{1})), bad: true},
		{name: "empty state", in: join(both, attr(ctaProtoinfo, attr(ctaProtoinfoTCP, attr(ctaProtoinfoTCPState)))), bad: true},
		{name: "short stamp", in: join(both, attr(ctaTimestamp, attr(ctaTimestampStart, []byte{1, 2, 3, 4}))), bad: true},
		{name: "attribute of length 0", in: join(both, []byte{0, 0, 3, 0}), bad: true},
		{name: "attribute longer than the message", in: join(both, []byte{200, 0, 3, 0}), bad: true},
		{name: "half a header", in: join(both, []byte{8, 0}), bad: true},
		{name: "nested past its parent", in: attr(ctaTupleOrig, []byte{100, 0, 1, 0}), bad: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := Entry{Mark: 1, Zone: 2, Use: 3} // must not shine through
			err := decodeEntry(tc.in, &e)
			if tc.bad {
				if !errors.Is(err, ErrMalformed) {
					t.Errorf("%v, %+v", err, e)
				}
				return
			}
			if err != nil || e != tc.want {
				t.Errorf("%v\n got %+v\nwant %+v", err, e, tc.want)
			}
		})
	}
}

// genEntry makes entries that netlink can express.
func genEntry(t *rapid.T) Entry {
	v6 := rapid.Bool().Draw(t, "v6")
	addr := func(name string) netip.Addr {
		if v6 {
			return netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, name)))
		}
		return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, name)))
	}
	proto := rapid.SampledFrom([]uint8{1, 6, 17, 33, 47, 58, 132, 136, 255}).Draw(t, "proto")
	tup := func(name string) event.Tuple {
		return event.Tuple{Src: addr(name + " src"), Dst: addr(name + " dst"), Proto: proto,
			Sport: rapid.Uint16().Draw(t, name+" sport"), Dport: rapid.Uint16().Draw(t, name+" dport")}
	}
	e := Entry{Orig: tup("orig"), Reply: tup("reply"), Status: event.Status(rapid.Uint32().Draw(t, "status")),
		TCPState: event.TCPState(rapid.Byte().Draw(t, "state")), Zone: rapid.Uint16().Draw(t, "zone"),
		Mark: rapid.Uint32().Draw(t, "mark"), HasTimeout: rapid.Bool().Draw(t, "has timeout"),
		ID: rapid.Uint32().Draw(t, "id"), Use: rapid.Uint32().Draw(t, "use"), Start: rapid.Uint64().Draw(t, "start")}
	if e.HasTimeout {
		e.Timeout = time.Duration(rapid.Uint32().Draw(t, "timeout")) * time.Second
	}
	if e.Zone != 0 {
		e.ZoneDir = ZoneDir(rapid.IntRange(0, 2).Draw(t, "dir"))
	}
	e.hasProto = e.TCPState != event.TCPNone
	return e
}

func TestEncodeDecode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := genEntry(t)
		b, err := encodeEntry(&want)
		if err != nil {
			t.Fatal(err)
		}
		var got Entry
		if err := decodeEntry(b, &got); err != nil || got != want {
			t.Fatalf("%v\n got %+v\nwant %+v", err, got, want)
		}
	})
}

func TestCutMessage(t *testing.T) {
	good := golden(t, "new-udp4")
	for n := range good { // every cut of a message is malformed
		if _, _, err := cutMessage(good[:n]); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	two := join(good, golden(t, "fill"))
	m, rest, err := cutMessage(two)
	if err != nil || m.typ != typeNew || len(rest) != len(two)-len(good) {
		t.Errorf("%+v, %d left, %v", m, len(rest), err)
	}
	m, rest, err = cutMessage(rest)
	if err != nil || m.typ != typeStats || len(rest) != 0 {
		t.Errorf("%+v, %d left, %v", m, len(rest), err)
	}
	if _, _, err := (message{data: []byte{1, 2, 3}}).body(); !errors.Is(err, ErrMalformed) {
		t.Errorf("short nfgenmsg: %v", err)
	}
	if err := (message{data: []byte{1}}).errno(); err != nil {
		t.Errorf("short errno: %v", err)
	}
}

var fuzzSeeds = []string{"new-udp4", "new-tcp6", "new-tcp4", "new-icmp6", "destroy-tcp6-user", "destroy-tcp4-rst",
	"destroy-udp4-flush", "destroy-icmp6-timeout", "dump-udp4", "stats-cpu0", "fill"}

// Any bytes in a receive buffer: no panic, no endless loop, and what decodes
// as an entry survives encoding.
func FuzzDecodeMessages(f *testing.F) {
	for _, name := range fuzzSeeds {
		f.Add(golden(f, name))
	}
	f.Add(join(golden(f, "new-udp4"), golden(f, "stats-cpu0")))
	f.Fuzz(func(t *testing.T, b []byte) {
		l := &Listener{buf: b}
		l.datagram(datagram{n: len(b)}, new(event.Event), func(*event.Event) {})
		n := l.messages.Load()
		if n != l.decoded.Load()+l.undecodable.Load()+l.skipped.Load() || n > uint64(len(b)/unix.SizeofNlMsghdr+1) {
			t.Fatalf("counts: %d messages, %d decoded", n, l.decoded.Load())
		}
		for len(b) > 0 {
			m, rest, err := cutMessage(b)
			if err != nil {
				return
			}
			b = rest
			_ = m.errno()
			var s CPUStats
			_ = decodeStats(m, &s)
			_, _, _ = decodeFill(m)
			if body, _, err := m.body(); err == nil {
				fuzzEntry(t, body)
			}
		}
	})
}

func fuzzEntry(t *testing.T, b []byte) {
	var e, again Entry
	if decodeEntry(b, &e) != nil {
		return
	}
	enc, err := encodeEntry(&e)
	if err != nil {
		t.Fatal(err)
	}
	if err := decodeEntry(enc, &again); err != nil {
		t.Fatalf("%v: %+v", err, e)
	}
	// A zone of 0 and state without TCP are not encoded.
	again.hasProto = e.hasProto
	if e.Zone == 0 {
		again.ZoneDir = e.ZoneDir
	}
	if again != e {
		t.Fatalf("\n got %+v\nwant %+v", again, e)
	}
}

func BenchmarkDecodeEntry(b *testing.B) {
	for _, name := range []string{"dump-udp4", "new-tcp6"} {
		b.Run(name, func(b *testing.B) {
			body, _, err := goldenMessage(b, name).body()
			if err != nil {
				b.Fatal(err)
			}
			var e Entry
			b.ReportAllocs()
			for b.Loop() {
				if err := decodeEntry(body, &e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecodeEvent(b *testing.B) {
	raw := golden(b, "destroy-tcp4-rst")
	l := &Listener{buf: raw}
	var ev event.Event
	b.ReportAllocs()
	for b.Loop() {
		l.datagram(datagram{n: len(raw)}, &ev, func(*event.Event) {})
	}
}

func BenchmarkDump(b *testing.B) {
	c := mustDial(b, testNS(b))
	const n = 10_000
	mustMake(b, c, n)
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Dump(b.Context(), func(*Entry) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/entry")
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	body, _, err := goldenMessage(t, "dump-udp4").body()
	if err != nil {
		t.Fatal(err)
	}
	var e Entry
	if n := testing.AllocsPerRun(100, func() { err = decodeEntry(body, &e) }); n != 0 || err != nil {
		t.Errorf("%v allocations, %v", n, err)
	}
}
