package probe

import (
	"net/netip"
	"reflect"
	"strconv"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/ctsight/ctsight/internal/abi"
	"github.com/ctsight/ctsight/internal/event"
)

const tick = 4 * time.Millisecond

func tup(proto uint8, src string, sport uint16, dst string, dport uint16) event.Tuple {
	return event.Tuple{Src: netip.MustParseAddr(src), Sport: sport, Dst: netip.MustParseAddr(dst), Dport: dport, Proto: proto}
}

// comm16 is a task's name as the kernel writes it.
func comm16(s string) (b [16]uint8) {
	copy(b[:], s)
	return b
}

var sameAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestDecode(t *testing.T) {
	orig4 := tup(event.ProtoUDP, "10.0.0.1", 4000, "10.0.0.53", 53)
	orig6 := tup(event.ProtoTCP, "2001:db8::1", 40000, "2001:db8::", 443)
	ping := tup(event.ProtoICMP, "10.0.0.1", 7, "10.0.0.2", 8<<8)
	nat := tup(event.ProtoUDP, "10.0.0.53", 53, "192.0.2.1", 1024)
	for _, tc := range []struct {
		name string
		rec  abi.ConntrackCtRec
		ext  *abi.ConntrackCtExt
		want event.Event
	}{
		{
			name: "new",
			rec: abi.ConntrackCtRec{Kind: 1, Ts: 5, Ptr: 0xffff8880deadbe00, Orig: wireTuple(orig4), Reply: wireTuple(orig4.Inverse()), Netns: 4026531840,
				Zone: 7, Mark: 9, Status: uint32(event.Confirmed), Aux: [2]uint32{2, 3}},
			want: event.Event{Kind: event.New, Time: 5, Ptr: 0xffff8880deadbe00, Orig: orig4, Reply: orig4.Inverse(), NetNS: 4026531840, Zone: 7, Mark: 9,
				Status: event.Confirmed, IIf: 2, OIf: 3},
		},
		{
			name: "new of a local task",
			rec:  abi.ConntrackCtRec{Kind: 1, Orig: wireTuple(orig6), Reply: wireTuple(orig6.Inverse()), Flags: flagExt | flagTask},
			ext:  &abi.ConntrackCtExt{Pid: 42, Cgroup: 77, Comm: comm16("curl")},
			want: event.Event{Kind: event.New, Orig: orig6, Reply: orig6.Inverse(), Task: event.Task{PID: 42, Cgroup: 77, Comm: "curl"}},
		},
		{
			name: "new by user space, comm without an end",
			rec:  abi.ConntrackCtRec{Kind: 1, Orig: wireTuple(orig4), Flags: flagExt | flagTask | flagUser},
			ext:  &abi.ConntrackCtExt{Pid: 1, Comm: comm16("0123456789abcdef")},
			want: event.Event{Kind: event.New, Orig: orig4, ByUser: true, Task: event.Task{PID: 1, Comm: "0123456789abcdef"}},
		},
		{
			name: "a bystander is not the task",
			rec:  abi.ConntrackCtRec{Kind: 1, Orig: wireTuple(orig4), Flags: flagExt},
			ext:  &abi.ConntrackCtExt{Pid: 1, Comm: comm16("ksoftirqd/0")},
			want: event.Event{Kind: event.New, Orig: orig4},
		},
		{
			name: "destroy of TCP",
			rec: abi.ConntrackCtRec{Kind: 2, Code: uint8(event.TimeoutGC), Orig: wireTuple(orig6), Reply: wireTuple(orig6.Inverse()), TcpState: 7,
				Aux: [2]uint32{uint32(0xfffffffe), 0}, Status: uint32(event.Confirmed | event.SeenReply)},
			want: event.Event{Kind: event.Destroy, Cause: event.TimeoutGC, Orig: orig6, Reply: orig6.Inverse(), TCPState: 8, Timeout: -2 * tick,
				Status: event.Confirmed | event.SeenReply},
		},
		{
			name: "destroy of UDP: what lies in the TCP state is noise",
			rec:  abi.ConntrackCtRec{Kind: 2, Code: uint8(event.UserFlush), Orig: wireTuple(orig4), TcpState: 5, Aux: [2]uint32{250, 0}, Flags: flagExt | flagTask},
			ext:  &abi.ConntrackCtExt{Pid: 2, Comm: comm16("conntrack")},
			want: event.Event{Kind: event.Destroy, Cause: event.UserFlush, Orig: orig4, Timeout: 250 * tick, Task: event.Task{PID: 2, Comm: "conntrack"}},
		},
		{
			name: "drop without an entry",
			rec:  abi.ConntrackCtRec{Kind: 3, Code: uint8(event.TableFull), Orig: wireTuple(ping)},
			want: event.Event{Kind: event.Drop, Reason: event.TableFull, Orig: ping},
		},
		{
			name: "drop with a place",
			rec:  abi.ConntrackCtRec{Kind: 3, Code: uint8(event.OtherNew), Orig: wireTuple(orig4), Flags: flagExt, Aux: [2]uint32{1, 2}, Hook: 3},
			ext:  &abi.ConntrackCtExt{Location: 0xffffffff81000000, KfreeReason: 9, Pid: 1},
			want: event.Event{Kind: event.Drop, Reason: event.OtherNew, Orig: orig4, IIf: 1, OIf: 2, Hook: 3, Location: 0xffffffff81000000, KfreeReason: 9},
		},
		{
			name: "drop of an exhausted NAT pool",
			rec:  abi.ConntrackCtRec{Kind: 3, Code: uint8(event.NATExhausted), Orig: wireTuple(orig4), Reply: wireTuple(nat)},
			want: event.Event{Kind: event.Drop, Reason: event.NATExhausted, Orig: orig4, Reply: nat},
		},
		{
			name: "note of an entry for replies only",
			rec:  abi.ConntrackCtRec{Kind: 4, Code: uint8(event.ClashNATReplyOnly), Orig: wireTuple(orig4), Flags: flagReplyOnly},
			want: event.Event{Kind: event.Note, Reason: event.ClashNATReplyOnly, Orig: orig4, ReplyOnly: true},
		},
		{
			name: "invalid",
			rec:  abi.ConntrackCtRec{Kind: 5, Code: uint8(event.InvalidPacket), Orig: wireTuple(orig6), Hook: 1},
			want: event.Event{Kind: event.Invalid, Reason: event.InvalidPacket, Orig: orig6, Hook: 1},
		},
		{
			name: "invalid segment",
			rec:  abi.ConntrackCtRec{Kind: 5, Code: uint8(event.InvalidPacket), Orig: wireTuple(orig6), Flags: flagExt | flagTCPFlags},
			ext:  &abi.ConntrackCtExt{TcpFlags: 0x29},
			want: event.Event{Kind: event.Invalid, Reason: event.InvalidPacket, Orig: orig6, TCPFlags: event.FIN | event.PSH | event.URG, HasTCPFlags: true},
		},
		{
			name: "invalid segment without flags",
			rec:  abi.ConntrackCtRec{Kind: 5, Code: uint8(event.InvalidPacket), Orig: wireTuple(orig6), Flags: flagExt | flagTCPFlags},
			ext:  &abi.ConntrackCtExt{},
			want: event.Event{Kind: event.Invalid, Reason: event.InvalidPacket, Orig: orig6, HasTCPFlags: true},
		},
		{
			name: "invalid segment whose flags are not known: what lies there is noise",
			rec:  abi.ConntrackCtRec{Kind: 5, Code: uint8(event.InvalidPacket), Orig: wireTuple(orig6), Flags: flagExt},
			ext:  &abi.ConntrackCtExt{TcpFlags: 0x29},
			want: event.Event{Kind: event.Invalid, Reason: event.InvalidPacket, Orig: orig6},
		},
		{
			name: "unknown kind and family",
			rec:  abi.ConntrackCtRec{Kind: 200, Code: 199, Orig: abi.ConntrackCtTuple{L3num: 7, Proto: 6}},
			want: event.Event{Kind: 200, Reason: 199, Orig: event.Tuple{Proto: 6}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.want.CPU = 3
			got := event.Event{Sample: 99, By: orig4, HasLifetime: true, TCPFlags: 1, HasTCPFlags: true} // nothing of the event before may stay
			decode(&got, &tc.rec, tc.ext, 3, tick)
			if d := cmp.Diff(tc.want, got, sameAddr); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func TestUnknownNumbersPrintAsNumbers(t *testing.T) {
	for n := range 256 {
		r := abi.ConntrackCtRec{Kind: uint8(n), Code: uint8(n)}
		var e event.Event
		decode(&e, &r, nil, 0, tick)
		if n > int(event.Invalid) && e.Kind.String() != strconv.Itoa(n) {
			t.Errorf("kind %d prints as %q", n, e.Kind)
		}
		if n >= event.NumReasons && e.Reason.String() != strconv.Itoa(n) {
			t.Errorf("reason %d prints as %q", n, e.Reason)
		}
		r.Kind = uint8(event.Destroy)
		decode(&e, &r, nil, 0, tick)
		if n >= event.NumCauses && e.Cause.String() != strconv.Itoa(n) {
			t.Errorf("cause %d prints as %q", n, e.Cause)
		}
	}
}

// drawTuple makes any tuple that conntrack can hold.
func drawTuple(t *rapid.T) event.Tuple {
	a := func(label string, v4 bool) netip.Addr {
		if v4 {
			return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, label)))
		}
		return netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, label)))
	}
	v4 := rapid.Bool().Draw(t, "v4")
	return event.Tuple{Src: a("src", v4), Dst: a("dst", v4), Sport: rapid.Uint16().Draw(t, "sport"), Dport: rapid.Uint16().Draw(t, "dport"),
		Proto: rapid.Byte().Draw(t, "proto")}
}

func TestTupleBothWays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawTuple(t)
		w := wireTuple(want)
		if got := tuple(&w); got != want {
			t.Fatalf("got %v, want %v", got, want)
		}
		if again := wireTuple(tuple(&w)); again != w {
			t.Fatalf("got % x, want % x", again, w)
		}
	})
}

func TestWireTupleIsTheKernels(t *testing.T) {
	got := wireTuple(tup(event.ProtoTCP, "10.1.2.3", 0x1234, "192.0.2.9", 80))
	want := abi.ConntrackCtTuple{Src: [16]byte{10, 1, 2, 3}, Sport: [2]byte{0x12, 0x34}, L3num: unix.AF_INET, Dst: [16]byte{192, 0, 2, 9},
		Dport: [2]byte{0, 80}, Proto: 6}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := wireTuple(tup(event.ProtoTCP, "::ffff:10.1.2.3", 1, "::", 2)); got.L3num != unix.AF_INET6 {
		t.Errorf("a mapped address is of family %d, want IPv6", got.L3num)
	}
}

func TestFilterWire(t *testing.T) {
	off := Filter{Kinds: 1, Proto: 6}.wire()
	if off.On != 0 || off.Kinds != ^uint32(0) || off.Proto != 0 || off.Zone != -1 {
		t.Errorf("a filter that is off filters: %+v", off)
	}
	f := Filter{On: true, Zone: -1, Src: netip.MustParsePrefix("10.1.2.3/9"), DportMin: 53, DportMax: 54, Kinds: 1 << event.Drop, Reasons: 1 << event.TableFull}
	got := f.wire()
	want := abi.ConntrackCtFilter{On: 1, Zone: -1, L3num: unix.AF_INET, Kinds: 1 << event.Drop, Reasons: 1 << event.TableFull, Causes: ^uint32(0),
		Src: [16]byte{10}, SrcMask: [16]byte{0xff, 0x80}, SportMax: 0xffff, DportMin: 53, DportMax: 54}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// FuzzDecode: whatever the bytes of a record are, decoding does not panic, what
// is not known prints as a number, and tuples of known families survive the
// way back.
func FuzzDecode(f *testing.F) {
	seed := func(r abi.ConntrackCtRec, x abi.ConntrackCtExt) {
		b := append(bytesOf(&r), bytesOf(&x)...)
		f.Add(b[:recSize])
		f.Add(b)
	}
	t4, t6 := tup(event.ProtoTCP, "10.0.0.1", 1, "10.0.0.2", 2), tup(event.ProtoICMPv6, "2001:db8::1", 7, "2001:db8::2", 128<<8)
	for k := range uint8(9) {
		seed(abi.ConntrackCtRec{Seq: 1, Kind: k, Code: k, Orig: wireTuple(t4), Reply: wireTuple(t4.Inverse()), Flags: flagExt | flagTask},
			abi.ConntrackCtExt{Kind: kindExt, Pid: 1, Comm: comm16("bash")})
	}
	seed(abi.ConntrackCtRec{Kind: 3, Code: uint8(event.NATRace), Orig: wireTuple(t6), Reply: wireTuple(t6.Inverse())}, abi.ConntrackCtExt{})
	seed(abi.ConntrackCtRec{Kind: 255, Code: 255, Flags: 255, Orig: abi.ConntrackCtTuple{L3num: 65535}}, abi.ConntrackCtExt{})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r abi.ConntrackCtRec
		var x abi.ConntrackCtExt
		n := copy(bytesOf(&r), b)
		copy(bytesOf(&x), b[n:])
		ext := &x
		if len(b) == n {
			ext = nil
		}
		var e event.Event
		decode(&e, &r, ext, 1, tick)
		if e.Kind > event.Invalid && e.Kind.String() != strconv.Itoa(int(r.Kind)) {
			t.Errorf("kind %d prints as %q", r.Kind, e.Kind)
		}
		for _, s := range []string{e.Kind.String(), e.Reason.String(), e.Cause.String(), e.TCPState.String()} {
			if len(s) > 40 {
				t.Errorf("a name of %d bytes", len(s))
			}
		}
		_, _, _, _ = e.NAT(), e.Status.Names(), e.Orig.Inverse(), e.Hook.String()
		w := r.Orig
		if w.L3num == unix.AF_INET6 {
			w.Dir = 0
			if got := wireTuple(e.Orig); got != w {
				t.Errorf("back: got %+v, want %+v", got, w)
			}
		}
		if len(e.Task.Comm) > 16 {
			t.Errorf("comm of %d bytes", len(e.Task.Comm))
		}
	})
}

// bytesOf is the memory of a record.
func bytesOf[T any](p *T) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(p)), unsafe.Sizeof(*p)) }
