package detect

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// segment plans a packet that conntrack calls invalid.
func (w *world) segment(at time.Duration, src string, sport uint16, dst string, dport uint16, f event.TCPFlags) {
	e := event.Event{Kind: event.Invalid, Reason: event.InvalidPacket, NetNS: 1, TCPFlags: f, HasTCPFlags: true,
		Orig: event.Tuple{Src: addr(src), Dst: addr(dst), Sport: sport, Dport: dport, Proto: event.ProtoTCP}}
	w.at(at, func() { x := e; x.Time = w.now; w.d.Add(&x) })
}

const (
	xmas = event.FIN | event.PSH | event.URG
	fin  = event.FIN | event.ACK
)

// What nmap -sF -sN -sX -sM sends to 200 ports, each twice where nobody answers. All
// of them being good endpoints of others is no excuse for what no stack sends.
func TestInvalidScan(t *testing.T) {
	for _, tc := range []struct {
		flags event.TCPFlags
		why   string
		not   string
	}{{event.FIN, "[F]", "flags [F]"}, {0, "[none]", "flags [none]"}, {xmas, "[FPU]", "flags [FPU]"}, {fin, "[F.]", "no connection"}} {
		t.Run(tc.flags.String(), func(t *testing.T) {
			w := newWorld(t, Config{})
			for i := range uint16(200) {
				at := 5*time.Second + time.Duration(i)*10*time.Millisecond
				port := 300 + i
				if tc.flags != fin {
					w.connect(0, "198.51.100.2", "10.0.0.1", port, event.ProtoTCP, closed, time.Second)
				}
				w.segment(at, "198.51.100.9", 40000, "10.0.0.1", port, tc.flags)
				w.segment(at+time.Second, "198.51.100.9", 40001, "10.0.0.1", port, tc.flags) // nmap asks again from the next port
			}
			w.run(2 * time.Minute)
			w.only("scan")
			all := w.of("scan")
			if len(all) == 0 {
				t.Fatal("not found")
			}
			f := all[len(all)-1]
			if f.State != agg.Confirmed || f.Shape != "vertical" || f.Target.Addr != addr("10.0.0.1") || !f.Spoofable ||
				!slices.Equal(f.Evidence.Used, []string{"invalid"}) || !strings.Contains(f.Why, tc.why) || !strings.Contains(f.WhyNotBenign, tc.not) {
				t.Errorf("%+v", f)
			}
			if tc.flags != fin {
				if n := f.Evidence.Invalid; n != 200 || f.Evidence.Attempts != 400 {
					t.Errorf("%d invalid in %d attempts", n, f.Evidence.Attempts)
				}
			} else if n := f.Evidence.Invalid; n < 100 || n > 199 {
				t.Errorf("%d invalid", n)
			}
			if first := all[0]; first.State != agg.Confirmed || first.Time.Sub(first.First) > 200*time.Millisecond {
				t.Errorf("%s after %v", first.State, first.Time.Sub(first.First))
			}
			t.Log(f.Why, "-", f.WhyNotBenign)
		})
	}
}

func TestInvalidScanHorizontal(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 30 {
		w.segment(time.Duration(i)*time.Second, "198.51.100.9", 40000, fmt.Sprintf("10.0.1.%d", i), 80, 0)
	}
	w.run(time.Minute)
	w.only("scan")
	if all := w.of("scan"); len(all) == 0 || all[len(all)-1].State != agg.Confirmed || all[len(all)-1].Shape != "horizontal" {
		t.Errorf("%+v", all)
	}
}

// Nobody has to have the address that such segments come from, not even one who has
// finished handshakes; and who sends them again and again does not poll.
func TestInvalidScanOfTheProven(t *testing.T) {
	w := newWorld(t, Config{})
	w.connect(0, "198.51.100.9", "10.0.0.1", 443, event.ProtoTCP, closed, time.Second)
	for round := range 5 {
		for i := range uint16(50) {
			w.segment(time.Duration(round)*3*time.Minute+time.Duration(i)*10*time.Millisecond+time.Second, "198.51.100.9", 40000, "10.0.0.1", 1+i, xmas)
		}
	}
	w.run(20 * time.Minute)
	w.only("scan")
	all := w.of("scan")
	if len(all) == 0 {
		t.Fatal("not found")
	}
	if f := all[len(all)-1]; f.State != agg.Confirmed || !f.Spoofable || f.Evidence.Invalid != 50 {
		t.Errorf("%+v", f)
	}
}

// An outage explains silence, and nothing of this: neither what came as it began nor
// what comes meanwhile.
func TestInvalidScanInOutage(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range uint16(200) {
		w.segment(2*minute-time.Second+time.Duration(i)*10*time.Millisecond, "198.51.100.9", 40000, "10.0.0.1", 1+i, xmas)
		w.segment(2*minute+20*time.Second+time.Duration(i)*10*time.Millisecond, "198.51.100.10", 40000, "10.0.0.1", 1+i, event.FIN)
	}
	office(w, 8, 20, 40)
	w.only("scan", "upstream_outage")
	for _, src := range []string{"198.51.100.9", "198.51.100.10"} {
		var f agg.Finding
		for _, x := range w.of("scan") {
			if x.Source.Addr() == addr(src) {
				f = x
			}
		}
		if f.State != agg.Confirmed || f.Evidence.Invalid != 200 || f.Evidence.Excused != 0 {
			t.Errorf("%s: %s %+v", src, f.State, f.Evidence)
		}
	}
}

// Sources that are made up, of one network, to ports of one host.
func TestInvalidFlood(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 1250 { // five of each
		w.segment(time.Duration(i)*time.Millisecond, fmt.Sprintf("198.51.100.%d", i%250), uint16(w.random.IntN(1<<16)), "10.0.0.1", uint16(1+i), xmas)
	}
	w.run(time.Minute)
	w.only()
}

// Several kinds by one source are one scan, whose explanation names them.
func TestInvalidScansOfOne(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range uint16(100) {
		w.segment(time.Duration(i)*10*time.Millisecond, "198.51.100.9", 40000, "10.0.0.1", 1+i, []event.TCPFlags{fin, xmas}[i/50])
	}
	w.run(time.Minute)
	w.only("scan")
	all := w.of("scan")
	if len(all) == 0 {
		t.Fatal("not found")
	}
	f := all[len(all)-1]
	if f.Evidence.Invalid != 99 || !strings.HasSuffix(f.Why, "flags [F.] [FPU]") || !strings.HasSuffix(f.WhyNotBenign, "no stack sends segments with the flags [FPU]") {
		t.Errorf("%d: %s - %s", f.Evidence.Invalid, f.Why, f.WhyNotBenign)
	}
}

// Nine endpoints are not ten, however often they are tried.
func TestInvalidScanTooSmall(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 500 {
		w.segment(time.Duration(i)*50*time.Millisecond, "198.51.100.9", 40000, "10.0.0.1", uint16(1+i%9), xmas)
	}
	w.run(time.Minute)
	w.only()
}

// Segments that come too late, took another way, or answer to somebody else: ten
// thousand of each are nothing.
func TestInvalidBenign(t *testing.T) {
	const n = 10000
	late := []event.TCPFlags{fin, fin | event.PSH, event.RST, event.RST | event.ACK, event.ACK, event.SYN | event.ACK}
	for name, plan := range map[string]func(w *world, i int, f event.TCPFlags){
		"clients of what was there": func(w *world, i int, f event.TCPFlags) {
			at, dst, port := w.spread(n), fmt.Sprintf("192.0.2.%d", i%200), uint16(8000+i%40)
			w.connect(at, "10.0.0.7", dst, port, event.ProtoTCP, closed, time.Second)
			w.segment(at+150*time.Second, "10.0.0.7", 50000, dst, port, f)
		},
		"clients of what was deleted at once": func(w *world, i int, f event.TCPFlags) {
			at, dst, port := w.spread(n), fmt.Sprintf("192.0.2.%d", i/50%200), uint16(8000+i%50)
			w.deleted(at, "10.0.0.7", dst, port)
			w.segment(at+time.Second, "10.0.0.7", 50000, dst, port, f)
		},
		"those who were not there, but others": func(w *world, i int, f event.TCPFlags) {
			at, port := w.spread(n), uint16(8000+i%500)
			w.connect(at, fmt.Sprintf("10.1.%d.%d", i/250, i%250), "192.0.2.1", port, event.ProtoTCP, closed, time.Second)
			w.segment(at+time.Minute, "10.0.0.7", 50000, "192.0.2.1", port, f)
		},
		"servers of what was deleted at once": func(w *world, i int, f event.TCPFlags) {
			at, src := w.spread(n), fmt.Sprintf("10.0.0.%d", i%10)
			w.deleted(at, src, "192.0.2.1", 60000)
			w.segment(at+time.Second, "192.0.2.1", 60000, src, uint16(20000+i), f)
		},
		"servers of others": func(w *world, i int, f event.TCPFlags) {
			at := w.spread(n)
			w.connect(at, fmt.Sprintf("10.1.%d.%d", i/250, i%250), "192.0.2.1", 60000, event.ProtoTCP, closed, time.Second)
			w.segment(at+time.Minute, "192.0.2.1", 60000, "10.0.0.9", uint16(20000+i), f)
		},
		"servers of what was there": func(w *world, i int, f event.TCPFlags) {
			at, src, port := w.spread(n), fmt.Sprintf("10.0.%d.%d", i%4, i%250), uint16(20000+i%40000)
			w.connect(at, src, "192.0.2.1", 60000, event.ProtoTCP, closed, time.Second)
			w.segment(at+150*time.Second, "192.0.2.1", 60000, src, port, f)
		},
		"servers of nobody knows what": func(w *world, i int, f event.TCPFlags) { // after a failover; victims of a flood
			w.segment(w.spread(n), "192.0.2.1", 8443, fmt.Sprintf("10.0.%d.%d", w.random.IntN(8), w.random.IntN(250)), uint16(32768+w.random.IntN(28000)), f)
		},
		"a server and one gateway of many": func(w *world, i int, f event.TCPFlags) {
			w.segment(w.spread(n), "192.0.2.1", 8443, "203.0.113.1", uint16(10000+i), f)
		},
		"clients after a failover": func(w *world, i int, f event.TCPFlags) {
			w.segment(w.spread(n), "10.0.0.7", uint16(32768+w.random.IntN(28000)), fmt.Sprintf("192.0.%d.%d", w.random.IntN(8), w.random.IntN(250)), 443, f)
		},
		"from one port, one of each host": func(w *world, i int, f event.TCPFlags) {
			w.segment(w.spread(n), "10.0.0.7", 50000, fmt.Sprintf("192.0.%d.%d", i/250, i%250), 443, f)
		},
		"a victim, through one address": func(w *world, i int, f event.TCPFlags) {
			if f&^event.PSH != fin {
				w.segment(w.spread(n), "192.0.2.1", 60000, "10.0.0.9", uint16(1024+i), f)
			}
		},
		"a client of many ports after a failover": func(w *world, i int, f event.TCPFlags) {
			w.segment(w.spread(n), "10.0.0.7", uint16(32768+i%28000), "192.0.2.1", uint16(6800+i%500), f)
		},
	} {
		for _, f := range late {
			t.Run(name+"/"+f.String(), func(t *testing.T) {
				w := newWorld(t, Config{})
				for i := range n {
					plan(w, i, f)
				}
				w.run(20 * time.Minute)
				w.only()
			})
		}
	}
}

// deleted plans an entry that somebody deletes before it was looked at.
func (w *world) deleted(at time.Duration, src, dst string, port uint16) {
	w.ptr++
	e := event.Event{Kind: event.New, NetNS: 1, Ptr: 1<<63 | w.ptr, Orig: event.Tuple{Src: addr(src), Dst: addr(dst),
		Sport: uint16(1024 + w.ptr%60000), Dport: port, Proto: event.ProtoTCP}}
	w.at(at, func() {
		e.Time = w.now
		w.d.Add(&e)
		x := e
		x.Kind, x.Cause = event.Destroy, event.UserDelete
		w.d.Add(&x)
	})
}

// spread is a time within ten minutes.
func (w *world) spread(n int) time.Duration {
	return time.Duration(w.random.IntN(600*1000)) * time.Millisecond
}

// What says nothing of flags, is no TCP, or an ICMP error is no evidence.
func TestInvalidUnknown(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 1000 {
		e := event.Event{Kind: event.Invalid, Reason: event.InvalidPacket, NetNS: 1,
			Orig: event.Tuple{Src: addr("198.51.100.9"), Dst: addr("10.0.0.1"), Sport: 40000, Dport: uint16(1 + i), Proto: event.ProtoTCP}}
		switch i % 3 {
		case 0:
			e.Orig.Proto = event.ProtoUDP
		case 1:
			e.Reason, e.HasTCPFlags = event.ICMPErrorPacket, true
		}
		w.at(time.Duration(i)*time.Millisecond, func() { e.Time = w.now; w.d.Add(&e) })
	}
	w.run(time.Minute)
	w.only()
}

// The flags that nf_conntrack_proto_tcp.c takes (tcp_valid_flags), written once more:
// without PSH, ECE and CWR.
func TestSent(t *testing.T) {
	valid := map[event.TCPFlags]bool{0x02: true, 0x22: true, 0x12: true, 0x04: true, 0x14: true, 0x11: true, 0x31: true, 0x10: true, 0x30: true}
	for f := range 256 {
		f := event.TCPFlags(f)
		if got := sent(f); got != valid[f&0x37] {
			t.Errorf("%v: %t", f, got)
		}
	}
}
