package ctnl

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/event"
)

// testNS is a network namespace made for one test, with loopback up and
// conntrack at work in it. It ends with the test.
func testNS(t testing.TB) NS {
	t.Helper()
	needRoot(t)
	type result struct {
		f   *os.File
		err error
	}
	ch := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with us
		f, err := makeNS()
		ch <- result{f, err}
	}()
	r := <-ch
	if r.err != nil {
		t.Fatalf("make a network namespace: %v", r.err)
	}
	t.Cleanup(func() { r.f.Close() })
	ns, err := OpenNS(fmt.Sprintf("/proc/self/fd/%d", r.f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a network namespace and asks the kernel's conntrack table in it")
	}
}

func makeNS() (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	f, err := os.Open(threadPath)
	if err != nil {
		return nil, err
	}
	if err := loUp(); err != nil {
		return nil, fmt.Errorf("lo: %w", err)
	}
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader("table inet t {\nchain c {\ntype filter hook input priority 0;\nct state invalid counter\n}\n}\n")
	if out, err := nft.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("nft: %w: %s", err, out)
	}
	return f, nil
}

func loUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

func mustDial(t testing.TB, ns NS) *Conn {
	t.Helper()
	c, err := Dial(ns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// udpEntry is entry number i of a series without doubles.
func udpEntry(i int) *Entry {
	orig := event.Tuple{
		Src: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), Dst: netip.MustParseAddr("192.0.2.1"),
		Sport: 40000, Dport: 53, Proto: event.ProtoUDP,
	}
	return &Entry{Orig: orig, Reply: orig.Inverse(), Timeout: 600 * time.Second}
}

func mustCreate(t testing.TB, c *Conn, es ...*Entry) {
	t.Helper()
	for _, e := range es {
		if err := c.Create(e); err != nil {
			t.Fatalf("%v: %+v", err, e.Orig)
		}
	}
}

func mustMake(t testing.TB, c *Conn, n int) {
	t.Helper()
	for i := range n {
		mustCreate(t, c, udpEntry(i))
	}
}

// dump collects a whole table.
func dump(t testing.TB, c *Conn) []Entry {
	t.Helper()
	var out []Entry
	if err := c.Dump(t.Context(), func(e *Entry) error {
		out = append(out, *e)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func tuple(proto uint8, src, dst string, sport, dport uint16) event.Tuple {
	return event.Tuple{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Sport: sport, Dport: dport, Proto: proto}
}

// What is put into the table must come out the same, field by field.
func TestCreateDump(t *testing.T) {
	ns := testNS(t)
	c := mustDial(t, ns)
	icmp := tuple(event.ProtoICMP, "10.0.0.1", "10.0.0.2", 77, 8<<8)
	icmp6 := tuple(event.ProtoICMPv6, "2001:db8::1", "2001:db8::2", 78, 128<<8)
	udp := tuple(event.ProtoUDP, "10.0.0.1", "10.0.0.2", 1000, 53)
	tcp6 := tuple(event.ProtoTCP, "2001:db8::", "2001:db8::2", 1001, 443)
	mapped := tuple(event.ProtoTCP, "::ffff:10.0.0.1", "::ffff:10.0.0.2", 1002, 443)
	nat := tuple(event.ProtoUDP, "10.0.0.2", "203.0.113.9", 53, 2000)
	want := []Entry{
		{Orig: udp, Reply: udp.Inverse(), Mark: 0x12345678, Timeout: 100 * time.Second},
		{Orig: udp, Reply: udp.Inverse(), Zone: 7, Timeout: 100 * time.Second},
		{Orig: udp, Reply: tuple(event.ProtoUDP, "10.0.0.2", "203.0.113.9", 53, 2001), Zone: 8, ZoneDir: ZoneOrig, Timeout: 100 * time.Second},
		{Orig: tuple(event.ProtoUDP, "10.0.0.3", "10.0.0.2", 1000, 53), Reply: nat, Timeout: 100 * time.Second},
		{Orig: icmp, Reply: icmp.Inverse(), Timeout: 30 * time.Second},
		{Orig: icmp6, Reply: icmp6.Inverse(), Timeout: 30 * time.Second},
		{Orig: tcp6, Reply: tcp6.Inverse(), Status: event.SeenReply | event.Assured, TCPState: 4, Timeout: 432000 * time.Second},
		{Orig: mapped, Reply: mapped.Inverse(), TCPState: 9, Timeout: 10 * time.Second},
	}
	for i := range want {
		mustCreate(t, c, &want[i])
	}
	got := map[event.Tuple]map[uint16]Entry{}
	for _, e := range dump(t, c) {
		if got[e.Orig] == nil {
			got[e.Orig] = map[uint16]Entry{}
		}
		got[e.Orig][e.Zone] = e
	}
	for _, w := range want {
		g, ok := got[w.Orig][w.Zone]
		if !ok {
			t.Errorf("not dumped: %+v", w)
			continue
		}
		if g.ID == 0 || g.Use == 0 || g.Timeout > w.Timeout || g.Timeout < w.Timeout-5*time.Second {
			t.Errorf("id, use or timeout: %+v", g)
		}
		w.Status |= event.Confirmed
		w.Timeout, w.HasTimeout, w.ID, w.Use, w.hasProto = g.Timeout, true, g.ID, g.Use, w.TCPState != 0
		g.Status &= w.Status // the kernel sets seq_adjust and others by itself
		if g != w {
			t.Errorf("\n got %+v\nwant %+v", g, w)
		}
	}
	if err := c.Create(&want[0]); !errors.Is(err, ErrExists) {
		t.Errorf("create twice: %v", err)
	}
	for _, w := range want {
		if err := c.Delete(w.Orig, w.Zone); err != nil {
			t.Errorf("%v: %+v", err, w)
		}
	}
	if err := c.Delete(udp, 0); !errors.Is(err, ErrNotFound) {
		t.Errorf("delete twice: %v", err)
	}
	if n := len(dump(t, c)); n != 0 {
		t.Errorf("%d entries left", n)
	}
}

func TestTraffic(t *testing.T) {
	ns := testNS(t)
	c := mustDial(t, ns)
	sendUDP(t, ns, 3)
	es := dump(t, c)
	if len(es) != 3 {
		t.Fatalf("%d entries, want 3", len(es))
	}
	for _, e := range es {
		if e.Orig.Proto != event.ProtoUDP || e.Orig.Dport != 9 || e.Reply != e.Orig.Inverse() || e.Status&event.SeenReply != 0 {
			t.Errorf("%+v", e)
		}
	}
	f, err := c.Fill()
	if err != nil || f.Count != 3 || f.Max == 0 {
		t.Errorf("fill %+v, %v", f, err)
	}
	if s, err := ns.fill(); err != nil || s != f {
		t.Errorf("sysctl %+v, %v; netlink %+v", s, err, f)
	}
	if err := c.Flush(); err != nil {
		t.Error(err)
	}
	if n := len(dump(t, c)); n != 0 {
		t.Errorf("%d entries after flush", n)
	}
}

// sendUDP makes n entries by packets on loopback.
func sendUDP(t testing.TB, ns NS, n int) {
	t.Helper()
	err := ns.Do(func() error {
		for i := range n {
			c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 20000 + i}, &net.UDPAddr{IP: net.IPv4(127, 9, 9, 9), Port: 9})
			if err != nil {
				return err
			}
			_, _ = c.Write([]byte("x")) // nobody listens
			c.Close()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Every counter that conntrack(8) prints must be the same here, and the other
// way round.
func TestStatsAgainstConntrackTool(t *testing.T) {
	tool, err := exec.LookPath("conntrack")
	if err != nil {
		t.Skip("needs conntrack(8) to compare with")
	}
	ns := testNS(t)
	c := mustDial(t, ns)
	mustMake(t, c, 10)
	_ = c.Create(udpEntry(0)) // one insert_failed, where the kernel counts it
	got, err := c.Stats()
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	if err := ns.Do(func() (err error) {
		out, err = exec.Command(tool, "-S").Output()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, s := range got {
		fmt.Fprintf(&text, "cpu=%d   \t", s.CPU)
		for n := range NumCounters {
			if v, ok := s.Get(n); ok {
				fmt.Fprintf(&text, "%v=%d ", n, v)
			}
		}
		text.WriteByte('\n')
	}
	if text.String() != string(out) {
		t.Errorf("got\n%sconntrack -S\n%s", &text, out)
	}
	sum := Sum(got)
	if n, ok := sum.Get(StatInsert); !ok || n != 10 {
		t.Errorf("insert %d %v, want 10", n, ok)
	}
}

func TestDumpEndsEarly(t *testing.T) {
	c := mustDial(t, testNS(t))
	mustMake(t, c, 5000)
	stop := errors.New("stop")
	n := 0
	err := c.Dump(t.Context(), func(*Entry) error {
		if n++; n == 3 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || n != 3 {
		t.Fatalf("%d entries, %v", n, err)
	}
	if n := len(dump(t, c)); n != 5000 {
		t.Errorf("the dump after it has %d entries", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	n = 0
	err = c.Dump(ctx, func(*Entry) error {
		if n++; n == 3 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || n == 5000 {
		t.Errorf("cancelled: %d entries, %v", n, err)
	}
	if err := c.Dump(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %v", err)
	}
	if f, err := c.Fill(); err != nil || f.Count != 5000 {
		t.Errorf("the request after it: %+v, %v", f, err)
	}
	if err := c.Dump(t.Context(), func(*Entry) error { return c.Close() }); !errors.Is(err, ErrClosed) {
		t.Errorf("closed in the middle: %v", err)
	}
	if _, err := c.Stats(); !errors.Is(err, ErrClosed) {
		t.Errorf("after close: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func TestNoDescriptorsLeft(t *testing.T) {
	ns := testNS(t)
	gone := NS{Inode: 1, Path: ns.Path}
	use := func() {
		c, err := Dial(ns)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Stats()
		_, _ = c.Fill()
		_ = c.Dump(t.Context(), func(*Entry) error { return nil })
		l, err := Listen(ns, ListenConfig{})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = ns.EventsSysctl()
		_, _ = ListNetNS()
		if _, err := Dial(gone); !errors.Is(err, ErrNetNSGone) {
			t.Fatal(err)
		}
		c.Close()
		l.Close()
	}
	use() // opens the runtime's own
	before := descriptors(t)
	for range 20 {
		use()
	}
	if n := descriptors(t); n != before {
		t.Errorf("%d descriptors, %d before", n, before)
	}
}

func descriptors(t testing.TB) int {
	t.Helper()
	es, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(es)
}

func TestUnprivileged(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("needs a normal user: shows what the kernel refuses")
	}
	c, err := Dial(NS{})
	if err != nil {
		if errors.Is(err, ErrNotLoaded) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Dump(t.Context(), func(*Entry) error { return nil }); !errors.Is(err, ErrPermission) {
		t.Errorf("dump: %v", err)
	}
	if _, err := c.Stats(); !errors.Is(err, ErrPermission) {
		t.Errorf("stats: %v", err)
	}
	if _, err := Listen(NS{}, ListenConfig{}); !errors.Is(err, ErrPermission) {
		t.Errorf("listen: %v", err)
	}
	if f, err := c.Fill(); err != nil || f.Max == 0 {
		t.Errorf("fill from sysctl: %+v, %v", f, err)
	}
}
