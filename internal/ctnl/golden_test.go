package ctnl

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/event"
)

// Messages of a real kernel are kept in testdata as hex, one per file; see
// TestCapture.

func golden(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		part, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, part...)
	}
	return b
}

func writeGolden(t testing.TB, name string, b []byte) {
	t.Helper()
	var u unix.Utsname
	_ = unix.Uname(&u)
	var text strings.Builder
	fmt.Fprintf(&text, "# kernel %s %s\n", unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:]))
	for len(b) > 0 {
		n := min(32, len(b))
		fmt.Fprintf(&text, "%x\n", b[:n])
		b = b[n:]
	}
	if err := os.MkdirAll("testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("testdata", name+".hex"), []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func goldenMessage(t testing.TB, name string) message {
	t.Helper()
	m, rest, err := cutMessage(golden(t, name))
	if err != nil || len(rest) != 0 {
		t.Fatalf("%s: %v, %d bytes left", name, err, len(rest))
	}
	return m
}

func TestGoldenEntries(t *testing.T) {
	const sec = time.Second
	udp := tuple(event.ProtoUDP, "127.0.0.1", "127.9.9.9", 20000, 9)
	tcp := tuple(event.ProtoTCP, "127.0.0.1", "127.9.9.9", 53570, 9)
	tcp6 := tuple(event.ProtoTCP, "2001:db8::1", "2001:db8::2", 1001, 443)
	icmp6 := tuple(event.ProtoICMPv6, "2001:db8::1", "2001:db8::2", 78, 128<<8)
	dying := event.Confirmed | event.Dying
	for _, tc := range []struct {
		name   string
		typ    uint16
		portid uint32
		want   Entry
	}{
		{"new-udp4", typeNew, 0, Entry{Orig: udp, Status: event.Confirmed, Timeout: 30 * sec, HasTimeout: true, ID: 0x2fad086d}},
		{"new-tcp6", typeNew, 27816, Entry{Orig: tcp6, Status: event.Confirmed, TCPState: 4, Zone: 7, Mark: 9,
			Timeout: 600 * sec, HasTimeout: true, ID: 0x9a2e1b20, hasProto: true}},
		{"destroy-tcp6-user", typeDelete, 27816, Entry{Orig: tcp6, Status: dying, TCPState: 4, Zone: 7, Mark: 9, Timeout: 600 * sec,
			HasTimeout: true, ID: 0x9a2e1b20, Start: 1795393477152304333, Stop: 1795393477152367166, hasProto: true}},
		{"destroy-tcp4-rst", typeDelete, 0, Entry{Orig: tcp, Status: dying, TCPState: tcpClose, Timeout: 120 * sec,
			HasTimeout: true, ID: 0xc7d9d898, Start: 1795393477152596797, Stop: 1795393477152634272, hasProto: true}},
		{"dump-udp4", typeNew, 27816, Entry{Orig: udp, Status: event.Confirmed, Timeout: 29 * sec, HasTimeout: true,
			ID: 0x2fad086d, Use: 1, Start: 1795393477151941925}},
		{"destroy-udp4-flush", typeDelete, 27816, Entry{Orig: udp, Status: dying, Timeout: 29 * sec, HasTimeout: true,
			ID: 0x2fad086d, Start: 1795393477151941925, Stop: 1795393477162538339}},
		{"new-icmp6", typeNew, 27816, Entry{Orig: icmp6, Status: event.Confirmed, Zone: 8, ZoneDir: ZoneOrig,
			Timeout: sec, HasTimeout: true, ID: 0x327ae01c}},
		{"destroy-icmp6-timeout", typeDelete, 0, Entry{Orig: icmp6, Status: dying, Zone: 8, ZoneDir: ZoneOrig,
			ID: 0x327ae01c, Start: 1795393477162808851, Stop: 1795393478164246483}},
	} {
		tc.want.Reply = tc.want.Orig.Inverse()
		m := goldenMessage(t, tc.name)
		b, _, err := m.body()
		var e Entry
		if err == nil {
			err = decodeEntry(b, &e)
		}
		if err != nil || e != tc.want || m.typ != tc.typ || m.portid != tc.portid {
			t.Errorf("%s: type %#x port %d, %v\n got %+v\nwant %+v", tc.name, m.typ, m.portid, err, e, tc.want)
			continue
		}
		// Both ways: the tuples, which come first, must be made byte by byte
		// as the kernel makes them; the order of the rest is the kernel's.
		enc, err := encodeEntry(&e)
		if err != nil {
			t.Fatal(err)
		}
		n := tuplesLen(t, b)
		if len(enc) < n || !bytes.Equal(enc[:n], b[:n]) {
			t.Errorf("%s: encoded\n%x\nkernel\n%x", tc.name, enc, b[:n])
		}
		var again Entry
		if err := decodeEntry(enc, &again); err != nil || again != e {
			t.Errorf("%s: decoded again: %v\n got %+v\nwant %+v", tc.name, err, again, e)
		}
	}
}

// tuplesLen returns the length of the two tuples at the beginning of b.
func tuplesLen(t *testing.T, b []byte) int {
	t.Helper()
	rest := b
	for _, want := range []uint16{ctaTupleOrig, ctaTupleReply} {
		typ, _, r, err := cutAttr(rest)
		if err != nil || typ != want {
			t.Fatalf("attribute %d, %v", typ, err)
		}
		rest = r
	}
	return len(b) - len(rest)
}

func TestGoldenStats(t *testing.T) {
	var s CPUStats
	if err := decodeStats(goldenMessage(t, "stats-cpu0"), &s); err != nil {
		t.Fatal(err)
	}
	want := CPUStats{CPU: 0, Known: 1<<NumCounters - 1}
	want.N[StatInsert] = 2
	if s != want {
		t.Errorf("\n got %+v\nwant %+v", s, want)
	}
	f, full, err := decodeFill(goldenMessage(t, "fill"))
	if err != nil || !full || f != (Fill{Count: 0, Max: 262144}) {
		t.Errorf("%+v %v %v", f, full, err)
	}
}

// An independent decoder reads the same out of the same bytes.
func TestGoldenAgainstTiMo(t *testing.T) {
	for _, name := range []string{"new-udp4", "new-tcp6", "destroy-tcp6-user", "destroy-tcp4-rst", "new-icmp6"} {
		var nm netlink.Message
		if err := nm.UnmarshalBinary(golden(t, name)); err != nil {
			t.Fatal(err)
		}
		var theirs conntrack.Event
		if err := theirs.Unmarshal(nm); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var ours Entry
		b, _, err := goldenMessage(t, name).body()
		if err == nil {
			err = decodeEntry(b, &ours)
		}
		f := theirs.Flow
		if err != nil || f.ID != ours.ID || uint32(f.Status) != uint32(ours.Status) || f.Mark != ours.Mark ||
			f.Timeout != uint32(ours.Timeout/time.Second) || f.TupleReply.IP.SourceAddress != ours.Reply.Src ||
			f.TupleOrig.IP.DestinationAddress != ours.Orig.Dst || f.TupleOrig.Proto.Protocol != ours.Orig.Proto {
			t.Errorf("%s: %v\nours   %+v\ntheirs %+v", name, err, ours, f)
		}
		if !ours.Orig.IsICMP() && f.TupleOrig.Proto.SourcePort != ours.Orig.Sport {
			t.Errorf("%s: port %d, theirs %d", name, ours.Orig.Sport, f.TupleOrig.Proto.SourcePort)
		}
		if p := f.ProtoInfo.TCP; p != nil && event.TCPState(p.State+1) != ours.TCPState {
			t.Errorf("%s: state %v, theirs %d", name, ours.TCPState, p.State)
		}
	}
}
