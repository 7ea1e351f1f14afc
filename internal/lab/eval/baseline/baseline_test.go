package baseline

import (
	"net/netip"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/ctreplay"
)

var scanner = netip.MustParseAddr("203.0.113.9")

// try makes things that were seen of a source: n endpoints, one every step.
func try(n int, step time.Duration, k Kind, at func(int) (host byte, port uint16)) (out []Seen) {
	for i := range n {
		host, port := at(i)
		t := event.Tuple{Src: scanner, Dst: netip.AddrFrom4([4]byte{192, 0, 2, host}), Sport: 1000, Dport: port, Proto: event.ProtoTCP}
		now := event.Ktime(time.Duration(i) * step)
		out = append(out, Seen{At: now, Orig: t}, Seen{At: now + 1, Kind: k, Orig: t, Sent: 1})
	}
	return out
}

func hosts(i int) (byte, uint16) { return byte(i), 23 }
func ports(i int) (byte, uint16) { return 1, uint16(1 + i) }
func one(int) (byte, uint16)     { return 1, 22 }

// Each rule is crossed where its documentation says, and not before.
func TestThresholds(t *testing.T) {
	run := map[string]func([]Seen) []Alarm{}
	for _, d := range All() {
		run[d.Name] = d.Run
	}
	const fast = 100 * time.Millisecond
	for _, tc := range []struct {
		rule  string
		what  string
		least int // endpoints
		seen  func(n int) []Seen
	}{
		{"Zeek misc/scan", "hosts", 25, func(n int) []Seen { return try(n, fast, Silent, hosts) }},
		{"Zeek misc/scan", "ports", 15, func(n int) []Seen { return try(n, fast, Refused, ports) }},
		{"Zeek misc/scan", "in the handshake", 15, func(n int) []Seen { return try(n, fast, Reset, ports) }},
		{"Zeek simple-scan", "knocking", 20, func(n int) []Seen { return try(n, fast, Silent, hosts) }},
		{"Zeek simple-scan", "ports", 25, func(n int) []Seen { return try(n, fast, Refused, ports) }},
		{"sfPortscan low", "refused ports", 5, func(n int) []Seen { return try(n, fast, Refused, ports) }},
		{"sfPortscan low", "refused hosts", 5, func(n int) []Seen { return try(n, fast, Refused, hosts) }},
		{"sfPortscan high", "refused hosts", 3, func(n int) []Seen { return try(n, fast, Refused, hosts) }},
		{"sfPortscan high", "filtered hosts", 30, func(n int) []Seen { return try(n, fast, Silent, hosts) }},
		{"sfPortscan high", "filtered ports", 200, func(n int) []Seen { return try(n, fast, Silent, ports) }},
		{"psad", "ports", 5, func(n int) []Seen { return try(n, fast, Silent, ports) }},
		{"TRW alpha .01", "ports", 4, func(n int) []Seen { return try(n, fast, Silent, ports) }},
	} {
		t.Run(tc.rule+" "+tc.what, func(t *testing.T) {
			if a := run[tc.rule](tc.seen(tc.least - 1)); len(a) != 0 {
				t.Errorf("%d are enough", tc.least-1)
			}
			if a := run[tc.rule](tc.seen(tc.least)); len(a) == 0 || a[0].Src != scanner {
				t.Errorf("%d are not enough", tc.least)
			}
		})
	}
}

// What each rule is known not to see.
func TestBlindSpots(t *testing.T) {
	for _, tc := range []struct {
		rule string
		run  func([]Seen) []Alarm
		seen []Seen
	}{
		{"Zeek misc/scan, slow", zeek, try(200, time.Minute, Silent, hosts)},
		{"simple-scan, slower than its memory", simpleScan, try(60, 16*time.Minute, Silent, hosts)},
		{"simple-scan, open ports", simpleScan, try(200, time.Second, Reset, hosts)},
		{"sfPortscan low, filtered", func(s []Seen) []Alarm { return sfPortscan(s, low) }, try(200, time.Second, Silent, hosts)},
		{"psad, one port", psad, try(200, time.Second, Silent, hosts)},
		{"TRW, one endpoint", trw, try(200, time.Second, Refused, one)},
		{"TRW, four successes first", trw, append(try(4, time.Second, Opened, hosts), try(200, time.Second, Refused, ports)...)},
	} {
		if a := tc.run(tc.seen); len(a) != 0 {
			t.Errorf("%s: %v", tc.rule, a)
		}
	}
}

func TestForgets(t *testing.T) {
	seen := try(16, 5*time.Minute, Silent, ports)
	if a := psadWith(seen, 15, 0); len(a) == 0 {
		t.Error("psad does not remember")
	}
	if a := psadWith(seen, 15, time.Hour); len(a) != 0 {
		t.Error("psad does not forget")
	}
}

// Outcomes are read out of the lines of a replay.
func TestObserve(t *testing.T) {
	tuple := event.Tuple{Src: scanner, Dst: netip.MustParseAddr("192.0.2.1"), Dport: 80, Proto: event.ProtoTCP}
	udp := tuple
	udp.Proto = event.ProtoUDP
	line := func(what byte, id uint64, at time.Duration, o event.Tuple, c event.Cause) ctreplay.Line {
		return ctreplay.Line{What: what, ID: id, Event: event.Event{Time: event.Ktime(at), Orig: o, Cause: c}, Sent: 2}
	}
	got := map[Kind]int{}
	for _, s := range Observe([]ctreplay.Line{
		line('N', 1, 0, tuple, 0), line('R', 1, 1, tuple, 0), line('A', 1, 2, tuple, 0), line('D', 1, 9e9, tuple, event.TimeoutGC),
		line('N', 2, 0, tuple, 0), line('D', 2, 1, tuple, event.TCPRstUnreplied),
		line('N', 3, 0, tuple, 0), line('D', 3, 120e9, tuple, event.TimeoutGC),
		line('N', 4, 0, tuple, 0), line('R', 4, 1, tuple, 0), line('D', 4, 10e9, tuple, event.TimeoutGC),
		line('N', 5, 0, udp, 0), line('R', 5, 1, udp, 0),
		line('N', 6, 0, udp, 0), // and no more: the capture ends
		line('D', 7, 5, udp, event.TimeoutGC),
	}) {
		got[s.Kind]++
		if s.Kind == Silent && s.At != event.Ktime(patience) {
			t.Errorf("silence is known at %d", s.At)
		}
	}
	for k, n := range map[Kind]int{Tried: 6, Opened: 2, Refused: 1, Silent: 2, Reset: 1} {
		if got[k] != n {
			t.Errorf("kind %d: %d, want %d", k, got[k], n)
		}
	}
}

// The figures that the design has for the same rules on the same captures.
func TestAgainstTheDesign(t *testing.T) {
	for name, want := range map[string]int{"strat008": 81, "strat011": 99} {
		if a := once(trw(Observe(ctreplay.Read(t, name)))); len(a) != want {
			t.Errorf("%s: the random walk names %d, in the design %d", name, len(a), want)
		}
	}
}
