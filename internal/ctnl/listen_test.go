package ctnl

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
)

func mustListen(t testing.TB, ns NS, cfg ListenConfig) *Listener {
	t.Helper()
	l, err := Listen(ns, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// next reads until it has n events, at most a minute: an emulated machine is slow.
func next(t testing.TB, l *Listener, n int) []event.Event {
	t.Helper()
	if err := l.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	var evs []event.Event
	for len(evs) < n {
		if err := l.Read(func(e *event.Event) { evs = append(evs, *e) }); err != nil {
			t.Fatalf("%v after %d of %d events, the last ones %+v", err, len(evs), n, evs[max(0, len(evs)-3):])
		}
	}
	return evs
}

func TestListen(t *testing.T) {
	ns := testNS(t)
	c := mustDial(t, ns)
	l := mustListen(t, ns, ListenConfig{})
	before := now()

	sendUDP(t, ns, 1)
	ev := next(t, l, 1)[0]
	want := tuple(event.ProtoUDP, "127.0.0.1", "127.9.9.9", 20000, 9)
	if ev.Time < before || ev.Time > now() {
		t.Errorf("time %d, asked at %d", ev.Time, before)
	}
	ev.Time = 0
	if w := (event.Event{Kind: event.New, NetNS: ns.Inode, Orig: want, Reply: want.Inverse(), Status: event.Confirmed, BestEffort: true}); ev != w {
		t.Errorf("\n got %+v\nwant %+v", ev, w)
	}

	tells, timeout, reset := true, event.Timeout, event.TCPRstUnreplied
	if lab.KernelName() == "5.10" { // tells neither of what is destroyed
		tells, timeout, reset = false, event.CauseUnknown, event.CauseUnknown
	}
	// This one has state and time left: from here on the listener knows that
	// this kernel tells the timeout.
	tcp := tuple(event.ProtoTCP, "2001:db8::1", "2001:db8::2", 1001, 443)
	mustCreate(t, c, &Entry{Orig: tcp, Reply: tcp.Inverse(), TCPState: 4, Zone: 7, Mark: 9, Timeout: 600 * time.Second})
	if err := c.Delete(tcp, 7); err != nil {
		t.Fatal(err)
	}
	evs := next(t, l, 2)
	if ev := evs[0]; ev.Kind != event.New || ev.Zone != 7 || ev.Mark != 9 || ev.Orig != tcp {
		t.Errorf("new: %+v", ev)
	}
	ev = evs[1]
	if ev.Kind != event.Destroy || ev.Cause != event.UserDelete || ev.Zone != 7 || ev.Mark != 9 || ev.Orig != tcp ||
		ev.Reply != tcp.Inverse() || tells && (ev.TCPState != 4 || ev.Timeout < 590*time.Second) || ev.Status&event.Dying == 0 {
		t.Errorf("delete: %+v", ev)
	}

	short := udpEntry(1)
	short.Timeout = time.Second
	mustCreate(t, c, short)
	next(t, l, 1)
	time.Sleep(1100 * time.Millisecond)
	dump(t, c) // reaps it
	if ev := next(t, l, 1)[0]; ev.Kind != event.Destroy || ev.Cause != timeout || ev.Orig != short.Orig || ev.Timeout != 0 {
		t.Errorf("timeout: %+v", ev)
	}

	refused(t, ns)
	evs = next(t, l, 2)
	if ev := evs[1]; ev.Kind != event.Destroy || ev.Cause != reset || tells && ev.TCPState != tcpClose {
		t.Errorf("reset: %+v", ev)
	}

	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	if ev := next(t, l, 1)[0]; ev.Cause != event.UserDelete || ev.Orig != want {
		t.Errorf("flush: %+v", ev)
	}
	if n := l.Counts(); n != (Counts{Messages: 8, Decoded: 8}) {
		t.Errorf("%+v", n)
	}
}

// refused makes a TCP connection that is answered with RST.
func refused(t testing.TB, ns NS) {
	t.Helper()
	if err := ns.Do(func() error {
		// The dialer's own threads would be outside of the namespace.
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 9, 9, 9}, Port: 9})
		if !errors.Is(err, unix.ECONNREFUSED) {
			return errors.Join(net.ErrClosed, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// With a buffer for a few events and a reader that sleeps, most are lost. The
// listener says how many, and goes on.
func TestListenOverrun(t *testing.T) {
	ns := testNS(t)
	c := mustDial(t, ns)
	l := mustListen(t, ns, ListenConfig{Groups: NewEvents, Buffer: 8192})
	const rounds, perRound = 5, 2000
	read := 0
	for r := range rounds {
		for i := range perRound {
			mustCreate(t, c, udpEntry(r*perRound+i))
		}
		// Everything in the buffer, the notice of the loss included.
		_ = l.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		var err error
		for err == nil {
			err = l.Read(func(*event.Event) { read++ })
		}
		if !errors.Is(err, ErrTimeout) {
			t.Fatal(err)
		}
		n := l.Counts()
		if n.Overruns != uint64(r+1) || n.Lost == 0 {
			t.Errorf("round %d: %+v", r, n)
		}
		if want := uint64((r + 1) * perRound); n.Messages+n.Lost != want || n.Decoded != uint64(read) {
			t.Errorf("round %d: %+v, read %d: seen and lost are not %d", r, n, read, want)
		}
	}
	// It still listens.
	mustCreate(t, c, udpEntry(rounds*perRound))
	if ev := next(t, l, 1)[0]; ev.Orig != udpEntry(rounds*perRound).Orig {
		t.Errorf("%+v", ev)
	}
	n := l.Counts()
	l.Close()
	if after := l.Counts(); after != n {
		t.Errorf("%+v after close, %+v before", after, n)
	}
	t.Logf("%+v", n)
}

// Under load with the default buffer nothing is lost and nothing is made up.
func TestListenLoad(t *testing.T) {
	ns := testNS(t)
	c := mustDial(t, ns)
	l := mustListen(t, ns, ListenConfig{})
	n := 20_000
	if lab.InVM() { // emulated
		n = 4_000
	}
	go func() {
		for i := range n {
			_ = c.Create(udpEntry(i))
		}
		_ = c.Flush()
	}()
	var kinds [3]int
	for _, e := range next(t, l, 2*n) {
		kinds[e.Kind]++
	}
	if got := l.Counts(); kinds[event.New] != n || kinds[event.Destroy] != n || got != (Counts{Messages: uint64(2 * n), Decoded: uint64(2 * n)}) {
		t.Errorf("%v, %+v", kinds, got)
	}
	size, err := l.Buffer()
	t.Logf("buffer %d, %v", size, err)
}

func TestListenClose(t *testing.T) {
	l := mustListen(t, testNS(t), ListenConfig{})
	done := make(chan error)
	go func() { done <- l.Read(func(*event.Event) {}) }()
	time.Sleep(20 * time.Millisecond) // so that it most likely waits
	l.Close()
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := l.Read(nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// Root of a container may send to our socket in the container's namespace.
// What the kernel did not send is no event.
func TestListenForeign(t *testing.T) {
	ns := testNS(t)
	l := mustListen(t, ns, ListenConfig{})
	forged := golden(t, "new-tcp6")
	if err := ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		group := uint32(1 << (unix.NFNLGRP_CONNTRACK_NEW - 1))
		err = unix.Sendto(fd, forged, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: group})
		if errors.Is(err, unix.ECONNREFUSED) { // the kernel itself does not listen
			err = nil
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	_ = l.SetReadDeadline(time.Now().Add(5 * time.Second))
	if err := l.Read(func(e *event.Event) { t.Errorf("forged event: %+v", e) }); err != nil {
		t.Error(err)
	}
	if n := l.Counts(); n != (Counts{Foreign: 1}) {
		t.Errorf("%+v", n)
	}
}

func TestCause(t *testing.T) {
	const sec = time.Second
	for _, tc := range []struct {
		name   string
		portid uint32
		tells  bool
		e      Entry
		want   event.Cause
	}{
		{"deleted or flushed", 4711, true, Entry{Timeout: sec}, event.UserDelete},
		{"deleted, old kernel", 4711, false, Entry{}, event.UserDelete},
		{"expired", 0, true, Entry{}, event.Timeout},
		{"old kernel tells no timeout", 0, false, Entry{}, event.CauseUnknown},
		{"reset, unreplied", 0, true, Entry{Timeout: sec, TCPState: tcpClose}, event.TCPRstUnreplied},
		{"closed, replied", 0, true, Entry{Timeout: sec, TCPState: tcpClose, Status: event.SeenReply}, event.CauseUnknown},
		{"evicted or other", 0, true, Entry{Timeout: sec}, event.CauseUnknown},
	} {
		if got := cause(tc.portid, &tc.e, tc.tells); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
	if tcpClose.String() != "CLOSE" {
		t.Error("tcpClose is " + tcpClose.String())
	}
}

// TestCapture writes what this kernel sends into testdata, for the golden tests:
// CTNL_CAPTURE=1 go test -run Capture. Times and ids in TestGoldenEntries are
// then to be read again from the bytes.
func TestCapture(t *testing.T) {
	if os.Getenv("CTNL_CAPTURE") == "" {
		t.Skip("rewrites testdata; set CTNL_CAPTURE=1")
	}
	ns := testNS(t)
	if err := ns.Do(func() error {
		return os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_timestamp", []byte("1"), 0)
	}); err != nil {
		t.Fatal(err)
	}
	c := mustDial(t, ns)
	l := mustListen(t, ns, ListenConfig{})
	save := func(name string) {
		d, err := l.s.recv(l.buf, true)
		if err != nil {
			t.Fatal(err)
		}
		writeGolden(t, name, l.buf[:d.n])
	}
	keep := func(name string, r request) {
		first := true
		if err := c.do(t.Context(), r, func(m message) error {
			if first {
				writeGolden(t, name, c.buf[:unix.SizeofNlMsghdr+len(m.data)])
			}
			first = false
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	sendUDP(t, ns, 1)
	save("new-udp4")
	tcp := tuple(event.ProtoTCP, "2001:db8::1", "2001:db8::2", 1001, 443)
	mustCreate(t, c, &Entry{Orig: tcp, Reply: tcp.Inverse(), TCPState: 4, Zone: 7, Mark: 9, Timeout: 600 * time.Second})
	save("new-tcp6")
	if err := c.Delete(tcp, 7); err != nil {
		t.Fatal(err)
	}
	save("destroy-tcp6-user")
	refused(t, ns)
	save("new-tcp4")
	save("destroy-tcp4-rst")
	keep("dump-udp4", request{typ: typeGet, flags: 0x300})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	save("destroy-udp4-flush")
	icmp := tuple(event.ProtoICMPv6, "2001:db8::1", "2001:db8::2", 78, 128<<8)
	mustCreate(t, c, &Entry{Orig: icmp, Reply: icmp.Inverse(), Zone: 8, ZoneDir: ZoneOrig, Timeout: time.Second})
	save("new-icmp6")
	time.Sleep(1100 * time.Millisecond)
	dump(t, c)
	save("destroy-icmp6-timeout")
	keep("stats-cpu0", request{typ: typeStatsCPU, flags: 0x300})
	keep("fill", request{typ: typeStats, flags: 4})
}

// A flood has an event for each of its entries: to receive one makes no garbage.
func TestReceiveAllocs(t *testing.T) {
	ns := testNS(t)
	l := mustListen(t, ns, ListenConfig{Groups: NewEvents})
	const n = 100
	mustMake(t, mustDial(t, ns), n+1) // AllocsPerRun runs once more
	var d datagram
	var err error
	allocs := testing.AllocsPerRun(n, func() {
		if err == nil {
			d, err = l.s.recv(l.buf, true)
		}
	})
	if allocs != 0 || err != nil || d.n == 0 || d.foreign || d.truncated {
		t.Errorf("%v allocations, %+v, %v", allocs, d, err)
	}
	if _, err := l.s.recv(l.buf, false); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("nothing waits: %v", err)
	}
}
