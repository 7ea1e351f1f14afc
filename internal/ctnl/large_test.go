package ctnl

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/lab"
)

// A dump of a million entries must not need memory for them: the peak is
// measured, and the size of the table must not show in it. On a machine that is
// not ours nf_conntrack_max is not ours either: there as many as fit. One kernel
// of the lab makes the million, which takes it a minute.
func TestDumpLarge(t *testing.T) {
	if testing.Short() {
		t.Skip("makes as many entries as fit, up to a million; left out by -short")
	}
	const limit = 40 << 20
	ns := testNS(t)
	most := 200_000
	switch {
	case lab.KernelName() != "6.1" && lab.InVM(): // emulated
		most = 20_000
	case lab.InVM():
		most = 1_000_000
		setSysctl(t, "nf_conntrack_max", 1<<20)
		setSysctl(t, "nf_conntrack_buckets", 1<<18) // chains of 50 and more are refused
	}
	c := mustDial(t, ns)
	f, err := c.Fill()
	if err != nil {
		t.Fatal(err)
	}
	entries := min(most, int(f.Max)-1000)
	start := time.Now()
	mustMakeMany(t, ns, entries)
	t.Logf("%d entries made in %v", entries, time.Since(start))

	seen := make([]bool, entries) // counted before, not in the growth
	clear(seen)
	beforeMem, before := memStats(), resetPeak(t)
	start = time.Now()
	n := 0
	if err := c.Dump(t.Context(), func(e *Entry) error {
		a := e.Orig.Src.As4()
		seen[int(a[1])<<16|int(a[2])<<8|int(a[3])] = true
		n++
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	took, peak, afterMem := time.Since(start), status(t, "VmHWM"), memStats()
	for i, ok := range seen {
		if !ok {
			t.Fatalf("entry %d is missing", i)
		}
	}
	if n != entries {
		t.Errorf("%d entries, want %d", n, entries)
	}
	t.Logf("%d entries in %v: resident before %.1f MB, at most %.1f MB; allocated %.2f MB in %d objects", n, took, float64(before)/1e6,
		float64(peak)/1e6, float64(afterMem.TotalAlloc-beforeMem.TotalAlloc)/1e6, afterMem.Mallocs-beforeMem.Mallocs)
	if peak > limit || afterMem.Sys > limit {
		t.Errorf("%d bytes resident at the most, %d from the system", peak, afterMem.Sys)
	}
	if n := afterMem.TotalAlloc - beforeMem.TotalAlloc; n > uint64(4*entries) { // a deadline for each datagram
		t.Errorf("allocated %d bytes for %d entries", n, entries)
	}
	start = time.Now()
	if err := c.Flush(); err != nil && !errors.Is(err, ErrTimeout) { // the kernel may take longer than Flush waits
		t.Error(err)
	}
	t.Logf("flushed in %v", time.Since(start))
}

// setSysctl sets a number of the whole machine until the test ends.
func setSysctl(t testing.TB, name string, n int) {
	t.Helper()
	path := "/proc/sys/net/netfilter/" + name
	old, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, []byte(fmt.Sprint(n)), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(path, old, 0o644); err != nil {
			t.Error(err)
		}
	})
}

// mustMakeMany is mustMake with many requests in a datagram, which differ in
// the client's address only, and no answers but of what failed: an emulated
// machine makes a million so in half a minute.
func mustMakeMany(t testing.TB, ns NS, n int) {
	t.Helper()
	s, err := openSocket(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	one := createRequest(t, udpEntry(0))
	many := bytes.Repeat(one, 512)
	for i := 0; i < n; i += 512 {
		part := many[:min(512, n-i)*len(one)]
		for k := 0; k < len(part); k += len(one) {
			setClient(part[k:k+len(one)], udpEntry(i+k/len(one)).Orig.Src.As4())
		}
		if err := s.raw.Control(func(fd uintptr) { err = unix.Sendto(int(fd), part, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) }); err != nil {
			t.Fatal(err)
		}
		if d, rerr := s.recv(make([]byte, recvSize), false); err != nil || !errors.Is(rerr, unix.EAGAIN) {
			t.Fatalf("entries from %d on: %v, %d bytes of errors, %v", i, err, d.n, rerr)
		}
	}
}

// createRequest is the message that makes an entry.
func createRequest(t testing.TB, e *Entry) []byte {
	t.Helper()
	e.Timeout, e.HasTimeout = time.Hour, true
	attrs, err := encodeEntry(e)
	if err != nil {
		t.Fatal(err)
	}
	m := netlink.Message{
		Header: netlink.Header{Type: typeNew, Flags: netlink.Request | netlink.Create | netlink.Excl},
		Data:   append([]byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0}, attrs...),
	}
	m.Header.Length = uint32(16 + len(m.Data))
	b, err := m.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// setClient writes the client's address, which is in 10.0.0.0/8, into both
// tuples of a message. Attributes are aligned to four bytes.
func setClient(m []byte, a [4]byte) {
	for i := 20; i < len(m); i += 4 {
		if m[i] == 10 && m[i-3] == 0 && (m[i-2] == ctaIPv4Src || m[i-2] == ctaIPv4Dst) && m[i-4] == 8 {
			copy(m[i:], a[:])
		}
	}
}

// resetPeak makes the peak of resident memory what it is now, and returns it.
func resetPeak(t testing.TB) int64 {
	t.Helper()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
	return status(t, "VmHWM")
}

// status reads a number of /proc/self/status, in bytes.
func status(t testing.TB, name string) (n int64) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\n"+name+":")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatalf("%s of /proc/self/status: %v", name, err)
	}
	return n << 10
}

func memStats() (m runtime.MemStats) {
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m
}
