package pcapct

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/ctreplay"
)

var orig = event.Tuple{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), Sport: 1000, Dport: 80, Proto: event.ProtoTCP}

// at is a packet of the client, or with a minus before its flags of the server.
func at(ms int, flags string) Packet {
	p := Packet{At: time.Duration(ms) * time.Millisecond, Tuple: orig}
	if flags, back := strings.CutPrefix(flags, "-"); back {
		p.Tuple = orig.Inverse()
		p.Flags = bits(flags)
		return p
	}
	p.Flags = bits(flags)
	return p
}

func bits(s string) (f uint8) {
	for _, c := range s {
		f |= map[rune]uint8{'F': fin, 'S': syn, 'R': rst, 'A': ack}[c]
	}
	return f
}

func told(lines []ctreplay.Line) string {
	var out []string
	for _, l := range lines {
		s := fmt.Sprintf("%c%g", l.What, time.Duration(l.Event.Time).Seconds())
		if l.What == 'D' {
			s += ":" + l.Event.Cause.String()
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func TestTCP(t *testing.T) {
	for _, tc := range []struct {
		name    string
		packets []Packet
		want    string
	}{
		{"refused", []Packet{at(0, "S"), at(1, "-RA")}, "N0 D0.001:tcp_rst_unreplied"},
		{"filtered; a second SYN renews nothing", []Packet{at(0, "S"), at(3000, "S")}, "N0 D120:timeout_gc"},
		{"half open", []Packet{at(0, "S"), at(1, "-SA"), at(2, "R")}, "N0 R0.001 D10.002:timeout_gc"},
		{"a client that is silent", []Packet{at(0, "S"), at(1, "-SA"), at(1000, "-SA")}, "N0 R0.001 D60.001:timeout_gc"},
		{"whole", []Packet{at(0, "S"), at(1, "-SA"), at(2, "A"), at(5, "FA"), at(6, "-FA"), at(7, "A")}, "N0 R0.001 A0.002 D120.007:timeout_gc"},
		{"reset when it stands", []Packet{at(0, "S"), at(1, "-SA"), at(2, "A"), at(5, "-R")}, "N0 R0.001 A0.002 D10.005:timeout_gc"},
		{"still there", []Packet{at(0, "S"), at(1, "-SA"), at(2, "A")}, "N0 R0.001 A0.002"},
		{"again while it closes", []Packet{at(0, "S"), at(1, "-SA"), at(2, "R"), at(50, "S"), at(51, "-R")}, "N0 R0.001 N0.05 D0.05:tcp_reopen D0.051:tcp_rst_unreplied"},
		{"picked up in the middle", []Packet{at(0, "A"), at(1, "-A"), at(2, "A")}, "N0 R0.001 A0.002"},
		{"an ACK probe", []Packet{at(0, "A"), at(1, "-R")}, "N0 D0.001:tcp_rst_unreplied"},
		{"no beginning", []Packet{at(0, "SA"), at(1, "F"), at(2, "R"), at(3, "")}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := sorted(told(Convert(tc.packets))); got != sorted(tc.want) {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

// sorted: things of one moment have no order.
func sorted(s string) string {
	w := strings.Fields(s)
	for i := range w {
		for j := i + 1; j < len(w); j++ {
			if w[j] < w[i] {
				w[i], w[j] = w[j], w[i]
			}
		}
	}
	return strings.Join(w, " ")
}

func TestOthers(t *testing.T) {
	udp, ping := orig, orig
	udp.Proto, ping.Proto = event.ProtoUDP, event.ProtoICMP
	ping.Sport, ping.Dport = 7, 8<<8
	unreachable := ping
	unreachable.Dport = 3 << 8
	for _, tc := range []struct {
		name    string
		packets []Packet
		want    string
	}{
		{"udp, one way", []Packet{{At: 0, Tuple: udp}, {At: 20e9, Tuple: udp}}, "N0 D50:timeout_gc"},
		{"udp, answered", []Packet{{At: 0, Tuple: udp}, {At: 1e9, Tuple: udp.Inverse()}}, "N0 R1 D31:timeout_gc"},
		{"udp, a stream", []Packet{{At: 0, Tuple: udp}, {At: 1e9, Tuple: udp.Inverse()}, {At: 3e9, Tuple: udp}}, "N0 R1 A3 D123:timeout_gc"},
		{"udp, the next one", []Packet{{At: 0, Tuple: udp}, {At: 40e9, Tuple: udp}}, "N0 D30:timeout_gc N40 D70:timeout_gc"},
		{"ping", []Packet{{At: 0, Tuple: ping}, {At: 1e9, Tuple: ping.Inverse()}}, "N0 R1 D31:timeout_gc"},
		{"an error, and an answer that nobody has asked for", []Packet{{At: 0, Tuple: unreachable}, {At: 1, Tuple: ping.Inverse()}}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := sorted(told(Convert(tc.packets))); got != sorted(tc.want) {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

// Others have read the same packets with another program (Zeek, by way of its log):
// the entries, and how they ended, agree for those captures in which it has them.
func TestAgainstTheReplays(t *testing.T) {
	dir := ctreplay.Dir(t)
	for file, replay := range map[string]string{"ndpi/synscan": "synscan", "scan-ng/23-tcp-scan": "23-tcp-scan",
		"slips/test19-ssh-bruteforce": "ssh-bruteforce", "zeek/sshguess": "zeek-sshguess"} {
		packets, _, err := Read(filepath.Join(dir, file+".pcap.gz"))
		if err != nil {
			t.Fatal(err)
		}
		got, want := counts(Convert(packets)), counts(ctreplay.Read(t, replay))
		if got != want {
			t.Errorf("%s: %s, in the replay %s", file, got, want)
		}
	}
}

// counts are the entries, those that were refused and those that were answered. How far
// an answered one came Zeek's log does not always say.
func counts(lines []ctreplay.Line) string {
	var n, refused, answered int
	for _, l := range lines {
		switch {
		case l.What == 'N':
			n++
		case l.What == 'R':
			answered++
		case l.What == 'D' && l.Event.Cause == event.TCPRstUnreplied:
			refused++
		}
	}
	return fmt.Sprintf("%d entries, %d refused, %d answered", n, refused, answered)
}
