package scenario

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
)

// helper gives connections to a TCP port of other hosts a conntrack helper.
func helper(t *testing.T, r *netlab.Router, name string, port int) {
	t.Helper()
	must(t, r.R.NFT(fmt.Sprintf(`table ip help { ct helper h { type "%s" protocol tcp; };
		chain c { type filter hook prerouting priority -150; tcp dport %d ct helper set "h"; }; }`, name, port)))
}

// controls are control connections to a port of n servers, with their
// handshake done.
func controls(t *testing.T, r *netlab.Router, n int, port uint16) *netlab.TCP {
	t.Helper()
	var tuples []event.Tuple
	for i := range n {
		tuples = append(tuples, event.Tuple{Src: netlab.ClientV4, Dst: netlab.Sink(i + 1), Sport: uint16(4000 + i), Dport: port, Proto: event.ProtoTCP})
	}
	tcp, err := r.ForgeTCP(netlab.SendOptions{}, tuples...)
	must(t, err)
	t.Cleanup(func() { must(t, tcp.End()) })
	must(t, tcp.Open(t.Context()))
	return tcp
}

func say(t *testing.T, tcp *netlab.TCP, from netlab.Side, what string) {
	t.Helper()
	must(t, tcp.Segment(t.Context(), from, netlab.PSH|netlab.ACK, []byte(what)))
}

// T18: two FTP servers announce a data connection, and only one may be
// expected. The helper drops the other announcement, a packet of a connection
// that is long in the table.
func TestT18ExpectLimit(t *testing.T) {
	r := router(t, netlab.Options{})
	must(t, r.SetSysctl(nil, "net.netfilter.nf_conntrack_expect_max", "1"))
	helper(t, r, "ftp", 21)
	must(t, r.A.Count("answers", netlab.Prerouting, netlab.Match{Proto: event.ProtoTCP, SPort: netlab.OnePort(21)}))
	watch := trace.Start(t, r.R)
	tcp := controls(t, r, 2, 21)
	say(t, tcp, netlab.Server, "220 hello\r\n")
	say(t, tcp, netlab.Client, "EPSV\r\n")
	say(t, tcp, netlab.Server, "229 Entering Extended Passive Mode (|||7100|)\r\n")
	watch.Check()
	got := watch.In(r.R)
	got.Is(t, trace.Want{New: 2, Reasons: trace.Reasons{event.ExpectLimit: 1}})
	for _, e := range got.Of(trace.ByKind(event.Drop)) {
		if e.Orig.Dst != netlab.Sink(2) || e.Orig.Dport != 21 {
			t.Errorf("dropped a packet of %v, want the second connection", e.Orig)
		}
	}
	if n, _, err := r.A.Counter("answers"); err != nil || n != 5 {
		t.Errorf("%d packets of 6 came back (%v), want 5", n, err)
	}
	// The data connection that is expected is new like any other.
	data := netlab.Packet{Flags: netlab.SYN, Seq: 1, Tuple: event.Tuple{Src: netlab.ClientV4, Dst: netlab.Sink(1), Sport: 5000, Dport: 7100, Proto: event.ProtoTCP}}
	_, err := r.SendPackets(netlab.SendOptions{}, data)
	must(t, err)
	watch.Check()
	got.Is(t, trace.Want{New: 3, Reasons: trace.Reasons{event.ExpectLimit: 1}})
	for _, e := range got.Of(trace.ByKind(event.New)) {
		if (e.Status&event.Expected != 0) != (e.Orig == data.Tuple) {
			t.Errorf("new %v: %v", e.Orig, e.Status.Names())
		}
	}
}

// A helper drops what it cannot read to the end, and says so.
func TestT18HelperDrop(t *testing.T) {
	r := router(t, netlab.Options{})
	helper(t, r, "ftp", 21)
	must(t, r.A.Count("answers", netlab.Prerouting, netlab.Match{Proto: event.ProtoTCP, SPort: netlab.OnePort(21)}))
	watch := trace.Start(t, r.R)
	tcp := controls(t, r, 3, 21)
	say(t, tcp, netlab.Server, "220 hello\r\n")
	say(t, tcp, netlab.Client, "EPSV\r\n")
	say(t, tcp, netlab.Server, "229 Entering Extended Passive Mode (|||71")
	watch.Check()
	watch.In(r.R).Is(t, trace.Want{New: 3, Reasons: trace.Reasons{event.HelperDrop: 3}})
	if n, _, err := r.A.Counter("answers"); err != nil || n != 6 {
		t.Errorf("%d packets of 9 came back (%v), want 6", n, err)
	}
}

// A helper whose first wish is refused, and the second granted, drops nothing;
// that a rule drops a packet of the connection later on is not its doing.
func TestHelperSecondTry(t *testing.T) {
	r := router(t, netlab.Options{})
	helper(t, r, "ftp", 21)
	must(t, r.R.Masquerade(netlab.Match{Proto: event.ProtoTCP}, netlab.Ports{})) // the helper of NAT tries ports
	run(t, r, "modprobe", "nf_nat_ftp")
	watch := trace.Start(t, r.R)
	runtime.LockOSThread() // what a context leaves behind, the same one would find
	defer runtime.UnlockOSThread()
	// Active mode: clients announce a port, which NAT maps to one of the
	// router's. Both announce the same; the second is refused and gets another.
	client := netlab.ClientV4
	var conns []*netlab.TCP
	for i := range 2 {
		tcp, err := r.ForgeTCP(netlab.SendOptions{}, event.Tuple{Src: client, Dst: netlab.Sink(1), Sport: uint16(4000 + i), Dport: 21, Proto: event.ProtoTCP})
		must(t, err)
		defer tcp.End()
		tcp.Seen = func(o event.Tuple) event.Tuple { o.Src = netlab.RouterBV4; return o }
		must(t, tcp.Open(t.Context()))
		say(t, tcp, netlab.Server, "220 hello\r\n")
		say(t, tcp, netlab.Client, "NOOP\r\n")
		say(t, tcp, netlab.Client, fmt.Sprintf("EPRT |1|%s|7100|\r\n", client))
		client, conns = client.Next(), append(conns, tcp)
	}
	out := run(t, r, "conntrack", "-L", "expect")
	if strings.Count(out, "helper=ftp") != 2 || strings.Count(out, " dport=7100 ") != 1 {
		t.Errorf("not two are expected, or on one port:\n%s", out)
	}
	must(t, r.R.NFT("table inet zz { counter lost { }; chain c { type filter hook prerouting priority 0; ct state established counter name lost drop; }; }"))
	for _, tcp := range conns {
		must(t, tcp.Segment(t.Context(), netlab.Client, netlab.ACK, nil))
	}
	watch.Check()
	watch.In(r.R).Is(t, trace.Want{New: 2})
	if n := nftCounter(t, r.R, "lost"); n != 2 {
		t.Errorf("the rule counts %d, want 2", n)
	}
}

// withOption returns an IPv4 packet with a TCP option put into its header.
func withOption(t *testing.T, p netlab.Packet, option [4]byte) []byte {
	t.Helper()
	b, err := p.Append(nil)
	must(t, err)
	out := append(append(append([]byte(nil), b[:40]...), option[:]...), b[40:]...)
	out[32] += 1 << 4 // the length of the TCP header
	sumUp(out)
	return out
}

// sumUp puts length and checksums of a TCP packet of IPv4 right.
func sumUp(b []byte) {
	checksum := func(sum uint32, b []byte) uint16 {
		for ; len(b) > 1; b = b[2:] {
			sum += uint32(b[0])<<8 | uint32(b[1])
		}
		if len(b) > 0 {
			sum += uint32(b[0]) << 8
		}
		for sum > 0xffff {
			sum = sum>>16 + sum&0xffff
		}
		return ^uint16(sum)
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	b[10], b[11], b[36], b[37] = 0, 0, 0, 0
	binary.BigEndian.PutUint16(b[10:], checksum(0, b[:20]))
	pseudo := append(append([]byte(nil), b[12:20]...), 0, b[9])
	sum := uint32(^checksum(uint32(len(b)-20), pseudo))
	binary.BigEndian.PutUint16(b[36:], checksum(sum, b[20:]))
}

// A helper has changed the length of what was said, so that sequence numbers
// are adjusted from then on. A packet whose options make no sense cannot be.
func TestSeqAdj(t *testing.T) {
	r := router(t, netlab.Options{})
	helper(t, r, "ftp", 21)
	must(t, r.R.Masquerade(netlab.Match{Proto: event.ProtoTCP}, netlab.Ports{}))
	run(t, r, "modprobe", "nf_nat_ftp")
	watch := trace.Start(t, r.R)
	tuple := event.Tuple{Src: netip.MustParseAddr("198.51.100.177"), Dst: netlab.Sink(1), Sport: 4000, Dport: 21, Proto: event.ProtoTCP}
	tcp, err := r.ForgeTCP(netlab.SendOptions{}, tuple)
	must(t, err)
	defer tcp.End()
	tcp.Seen = func(o event.Tuple) event.Tuple { o.Src = netlab.RouterBV4; return o }
	must(t, tcp.Open(t.Context()))
	const hello, noop, port = "220 hello\r\n", "NOOP\r\n", "EPRT |1|198.51.100.177|7100|\r\n"
	say(t, tcp, netlab.Server, hello)
	say(t, tcp, netlab.Client, noop)
	say(t, tcp, netlab.Client, port) // 198.51.100.177 becomes 10.0.2.1
	s, err := r.NewSender(r.A, netlab.SendOptions{})
	must(t, err)
	defer s.Close()
	next := netlab.Packet{Tuple: tuple, Flags: netlab.ACK, Seq: uint32(100_001 + len(noop) + len(port)), Ack: uint32(500_001 + len(hello))}
	for _, option := range [][4]byte{{1, 1, 1, 1}, {99, 1, 0, 0}, {99, 0, 0, 0}} { // nothing; too short for itself, twice
		must(t, s.SendRaw(withOption(t, next, option), tuple))
	}
	must(t, s.Sync())
	watch.Check()
	got := watch.In(r.R)
	got.Is(t, trace.Want{New: 1, Reasons: trace.Reasons{event.SeqAdj: 2}, Kernel: trace.Counters{ctnl.StatDrop: 2}})
	for _, e := range got.Events {
		if e.Orig != tuple {
			t.Errorf("%s %s of %v", e.Kind, e.Reason, e.Orig)
		}
	}
}

// pptp builds a control message of a given body length; fields are numbers of
// two bytes at an offset of the body.
func pptp(kind, length int, fields map[int]uint16) string {
	b := make([]byte, 12+length)
	binary.BigEndian.PutUint16(b, uint16(len(b)))
	binary.BigEndian.PutUint16(b[2:], 1)
	binary.BigEndian.PutUint32(b[4:], 0x1a2b3c4d)
	binary.BigEndian.PutUint16(b[8:], uint16(kind))
	for off, v := range fields {
		binary.BigEndian.PutUint16(b[12+off:], v)
	}
	return string(b)
}

// A PPTP server ends a call, or somebody deletes the control connection: the
// call's GRE flow goes with it.
func TestPPTP(t *testing.T) {
	for name, c := range map[string]struct {
		end    func(*testing.T, *netlab.Router, *netlab.TCP)
		causes trace.Causes
	}{
		"disconnect": {func(t *testing.T, r *netlab.Router, tcp *netlab.TCP) {
			say(t, tcp, netlab.Server, pptp(13, 136, map[int]uint16{0: 0x2222, 2: 1 << 8}))
		}, trace.Causes{event.PPTP: 1}},
		"deleted": {func(t *testing.T, r *netlab.Router, tcp *netlab.TCP) {
			run(t, r, "conntrack", "-D", "-p", "tcp", "--dport", "1723")
		}, trace.Causes{event.UserDelete: 1, event.PPTP: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			r := router(t, netlab.Options{})
			helper(t, r, "pptp", 1723)
			watch := trace.Start(t, r.R)
			tcp := controls(t, r, 1, 1723)
			say(t, tcp, netlab.Client, pptp(1, 144, nil))
			say(t, tcp, netlab.Server, pptp(2, 144, map[int]uint16{2: 1 << 8}))
			say(t, tcp, netlab.Client, pptp(7, 156, map[int]uint16{0: 0x1111}))
			say(t, tcp, netlab.Server, pptp(8, 20, map[int]uint16{0: 0x2222, 2: 0x1111, 4: 1 << 8}))
			gre := event.Tuple{Src: netlab.ClientV4, Dst: netlab.Sink(1), Dport: 0x2222, Proto: event.ProtoGRE}
			_, err := r.SendPackets(netlab.SendOptions{}, netlab.Packet{Tuple: gre, Payload: []byte("call")})
			must(t, err)
			must(t, r.Drain())
			c.end(t, r, tcp)
			watch.Check()
			got := watch.In(r.R)
			got.Is(t, trace.Want{New: 2, Causes: c.causes})
			for _, e := range got.Of(trace.ByKind(event.Destroy)) {
				if (e.Cause == event.PPTP) != (e.Orig.Proto == event.ProtoGRE) {
					t.Errorf("%s: %v", e.Cause, e.Orig)
				}
			}
		})
	}
}
