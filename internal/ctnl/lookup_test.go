package ctnl

import (
	"bytes"
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/event"
)

// A request has the bytes that a library writes.
func TestLookupRequest(t *testing.T) {
	for _, q := range []Query{
		{Orig: tuple(event.ProtoTCP, "10.0.0.1", "10.0.0.2", 40000, 443)},
		{Orig: tuple(event.ProtoUDP, "2001:db8::1", "2001:db8::2", 53, 1053), Zone: 0x1234},
		{Orig: tuple(event.ProtoICMP, "10.0.0.1", "10.0.0.2", 77, 8<<8|1)},
		{Orig: tuple(event.ProtoICMPv6, "2001:db8::1", "2001:db8::2", 78, 128<<8)},
		{Orig: tuple(event.ProtoTCP, "::ffff:10.0.0.1", "::ffff:10.0.0.2", 1, 2), Zone: 7},
	} {
		ae := newEncoder()
		encodeTuple(ae, ctaTupleOrig, q.Orig, 0)
		if q.Zone != 0 {
			ae.Uint16(ctaZone, q.Zone)
		}
		attrs, err := ae.Encode()
		if err != nil {
			t.Fatal(err)
		}
		family := uint8(unix.AF_INET6)
		if q.Orig.Src.Is4() {
			family = unix.AF_INET
		}
		m := netlink.Message{Header: netlink.Header{Type: typeGet, Flags: netlink.Request, Sequence: 99},
			Data: append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...)}
		m.Header.Length = uint32(unix.SizeofNlMsghdr + len(m.Data))
		want, err := m.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if got := appendLookup([]byte{1, 2, 3, 4}, &q, 99)[4:]; !bytes.Equal(got, want) {
			t.Errorf("%+v:\n got %x\nwant %x", q, got, want)
		}
	}
}

// Entries of all sorts are found as they were made, with one request too many for
// a batch, and what is not there is not.
func TestLookup(t *testing.T) {
	c := mustDial(t, testNS(t))
	udp := tuple(event.ProtoUDP, "10.0.0.1", "10.0.0.2", 1000, 53)
	nat := tuple(event.ProtoTCP, "10.0.0.2", "203.0.113.9", 443, 2000)
	tcp6 := tuple(event.ProtoTCP, "2001:db8::1", "2001:db8::2", 1001, 443)
	icmp := tuple(event.ProtoICMP, "10.0.0.1", "10.0.0.2", 77, 8<<8)
	icmp6 := tuple(event.ProtoICMPv6, "2001:db8::1", "2001:db8::2", 78, 128<<8)
	gre := event.Tuple{Src: udp.Src, Dst: udp.Dst, Proto: 50} // ESP: no ports
	made := []Entry{
		{Orig: udp, Reply: udp.Inverse(), Zone: 7},
		{Orig: udp, Reply: tuple(event.ProtoUDP, "10.0.0.2", "203.0.113.9", 53, 2001), Zone: 8, ZoneDir: ZoneOrig},
		{Orig: tuple(event.ProtoTCP, "10.0.0.3", "10.0.0.2", 1000, 443), Reply: nat, TCPState: 2},
		{Orig: tcp6, Reply: tcp6.Inverse(), Status: event.SeenReply | event.Assured, TCPState: 4},
		{Orig: icmp, Reply: icmp.Inverse()}, {Orig: icmp6, Reply: icmp6.Inverse()}, {Orig: gre, Reply: gre.Inverse()},
	}
	var qs []Query
	for i := range made {
		e := &made[i]
		e.Timeout = time.Hour
		mustCreate(t, c, e)
		qs = append(qs, Query{Orig: e.Orig, Zone: e.Zone})
	}
	absent := []Query{{Orig: udp}, {Orig: udp, Zone: 9}, {Orig: tcp6, Zone: 1},
		{Orig: tcp6.Inverse()}, // the same entry from behind
		{Orig: nat}}
	qs = append(qs, absent...)
	const many = 3 * lookupBatch
	for i := range many {
		e := udpEntry(i)
		if i%3 > 0 {
			mustCreate(t, c, e)
		}
		qs = append(qs, Query{Orig: e.Orig})
	}
	if err := c.Lookup(t.Context(), qs); err != nil {
		t.Fatal(err)
	}
	for i, q := range qs {
		k := i - len(made) - len(absent)
		live := i < len(made) || k >= 0 && k%3 > 0
		a := q.Answer
		if !a.Known || a.Live != live || live != (a.ID != 0) {
			t.Errorf("%+v, want live %v", q, live)
		}
		if i < len(made) {
			e := made[i]
			if want := e.Status | event.Confirmed; a.Status&(want|event.SeenReply|event.Assured) != want || a.TCPState != e.TCPState {
				t.Errorf("%+v of %+v", a, e)
			}
		}
	}
	ids := map[event.Tuple]uint32{}
	for _, e := range dump(t, c) {
		if e.Zone == 0 {
			ids[e.Orig] = e.ID
		}
	}
	for _, q := range qs {
		if q.Zone == 0 && q.Answer.ID != ids[q.Orig] {
			t.Errorf("%+v, the dump has %d", q, ids[q.Orig])
		}
	}
}

// Another entry with the same tuple is not the one that was meant, nor is the one of
// the way back, which the kernel finds by its reply.
func TestLookupReplaced(t *testing.T) {
	c := mustDial(t, testNS(t))
	e := udpEntry(1)
	mustCreate(t, c, e)
	one := []Query{{Orig: e.Orig}}
	look := func() Answer {
		t.Helper()
		if err := c.Lookup(t.Context(), one); err != nil {
			t.Fatal(err)
		}
		return one[0].Answer
	}
	was := look()
	if one[0].ID = was.ID; !was.Live || look() != was {
		t.Fatalf("%+v, then %+v", was, look())
	}
	replace := func(with *Entry) {
		t.Helper()
		if err := c.Delete(e.Orig, 0); err != nil {
			t.Fatal(err)
		}
		mustCreate(t, c, with)
	}
	again := *e
	again.Status = event.SeenReply
	// The kernel makes the number of an address, which may come again at once.
	other := udpEntry(2)
	other.Reply.Sport = 54
	replace(other)
	mustCreate(t, c, &again)
	if a := look(); a != (Answer{Known: true}) {
		t.Errorf("replaced: %+v, was %d", a, was.ID)
	}
	one[0].ID = 0
	if a := look(); !a.Live || a.ID == was.ID || a.Status&event.SeenReply == 0 {
		t.Errorf("the new one: %+v", a)
	}
	replace(&Entry{Orig: e.Reply, Reply: e.Orig, Timeout: time.Hour})
	if a := look(); a != (Answer{Known: true}) {
		t.Errorf("the way back: %+v", a)
	}
}

// A connection by packets: what the kernel says of it while it lives.
func TestLookupConnection(t *testing.T) {
	ns := testNS(t)
	c := mustDial(t, ns)
	var l net.Listener
	var conn net.Conn
	if err := ns.Do(func() (err error) {
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err == nil {
			conn, err = net.Dial("tcp", l.Addr().String())
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	defer conn.Close()
	from, to := conn.LocalAddr().(*net.TCPAddr).AddrPort(), conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	q := []Query{{Orig: tuple(event.ProtoTCP, from.Addr().String(), to.Addr().String(), from.Port(), to.Port())}}
	if err := c.Lookup(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	const established = 4
	if a := q[0].Answer; !a.Live || a.TCPState != established || a.Status&(event.SeenReply|event.Assured) != event.SeenReply|event.Assured {
		t.Errorf("%+v", a)
	}
}

// Answers that do not fit into the receive buffer are asked for again.
func TestLookupSmallBuffer(t *testing.T) {
	c := mustDial(t, testNS(t))
	mustMake(t, c, 100)
	if err := c.s.raw.Control(func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	qs := make([]Query, 150)
	for i := range qs {
		qs[i].Orig = udpEntry(i).Orig
	}
	if err := c.Lookup(t.Context(), qs); err != nil {
		t.Fatal(err)
	}
	for i, q := range qs {
		if q.Answer.Live != (i < 100) {
			t.Fatalf("%d: %+v", i, q)
		}
	}
	if n, _ := c.s.drops(); n == 0 {
		t.Log("this kernel had room for all")
	}
}

// What cannot be asked for does not keep the rest from being answered; a Conn that
// is cancelled, in the middle of a dump or closed says so.
func TestLookupErrors(t *testing.T) {
	c := mustDial(t, testNS(t))
	mustMake(t, c, 5000)
	qs := []Query{{}, {Orig: udpEntry(1).Orig},
		{Orig: tuple(event.ProtoICMP, "10.0.0.1", "10.0.0.2", 1, 3<<8)}, // unreachable: never an entry
		{Orig: event.Tuple{Src: udpEntry(1).Orig.Src, Dst: tuple(6, "::1", "::2", 0, 0).Dst, Proto: 6}},
		{Orig: udpEntry(5000).Orig}}
	stop := errors.New("stop")
	if err := c.Dump(t.Context(), func(*Entry) error { return stop }); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	if err := c.Lookup(t.Context(), qs); !errors.Is(err, ErrMalformed) {
		t.Errorf("%v", err)
	}
	for i, known := range []bool{false, true, false, false, true} {
		if a := qs[i].Answer; a.Known != known || a.Live != (i == 1) {
			t.Errorf("%d: %+v", i, a)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Lookup(ctx, qs); !errors.Is(err, context.Canceled) || qs[1].Answer.Known {
		t.Errorf("cancelled: %v, %+v", err, qs[1])
	}
	if err := c.Lookup(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if n := len(dump(t, c)); n != 5000 {
		t.Errorf("%d entries afterwards", n)
	}
	c.Close()
	if err := c.Lookup(t.Context(), qs); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func BenchmarkLookup(b *testing.B) {
	c := mustDial(b, testNS(b))
	const n = 1000
	mustMake(b, c, n/2)
	qs := make([]Query, n)
	for i := range qs {
		qs[i].Orig = udpEntry(i).Orig
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Lookup(b.Context(), qs); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n)/1000, "us/entry")
}

// The deadline of an earlier call has passed when the next one comes later.
func TestLookupAfterDeadline(t *testing.T) {
	c := mustDial(t, testNS(t))
	e := udpEntry(1)
	mustCreate(t, c, e)
	if err := c.s.nl.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	q := []Query{{Orig: e.Orig}}
	if err := c.Lookup(t.Context(), q); err != nil || !q[0].Answer.Live {
		t.Errorf("%+v, %v", q[0].Answer, err)
	}
}
