package baseline

import (
	"net/netip"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// limits of one kind of alert: connections that were not answered, answers that say
// no, changes of the address and of the port. 0 connections: that way is off.
type limits struct{ connections, noes, addrs, ports int }

// sense is a level of sfPortscan: its window, and limits for TCP and UDP of a scan of
// one host, with decoys, of many hosts, and by many hosts.
type sense struct {
	window                           time.Duration
	one, decoy, many, udpOne, byMany limits
	udpByMany                        limits
}

// The thresholds and windows of Snort 2.9 (README.sfportscan, portscan.c).
var (
	low = sense{time.Minute, limits{0, 5, 25, 5}, limits{0, 15, 50, 30}, limits{0, 5, 5, 15}, limits{0, 5, 25, 5},
		limits{0, 15, 50, 15}, limits{0, 15, 50, 15}}
	high = sense{10 * time.Minute, limits{200, 5, 100, 10}, limits{200, 7, 200, 60}, limits{30, 3, 3, 10}, limits{200, 3, 100, 10},
		limits{200, 5, 200, 10}, limits{200, 3, 200, 10}}
)

// tracker is PS_PROTO: what happened to a host, or by it, in a window.
type tracker struct {
	until             event.Ktime
	connections, noes int
	addrs, ports      int
	addr              netip.Addr
	port              uint16
	told              bool
}

func (t *tracker) try(at event.Ktime, window time.Duration, addr netip.Addr, port uint16) {
	if at >= t.until {
		*t = tracker{until: at + event.Ktime(window)}
	}
	t.connections++
	if t.addr != addr { // of the last one: a change, not a new one
		t.addr, t.addrs = addr, t.addrs+1
	}
	if t.port != port {
		t.port, t.ports = port, t.ports+1
	}
}

// over says whether a limit is reached by noes or by what was not answered.
func (t *tracker) over(l limits) bool {
	return t != nil && !t.told && (t.noes >= l.noes || l.connections > 0 && t.connections >= l.connections)
}

// sfPortscan is Snort's preprocessor with all protocols and kinds of scans; TCP and UDP
// here. An alert is about the packet at which it was raised, so its source is that
// packet's: for a scan by many that is one of them.
func sfPortscan(all []Seen, s sense) (out []Alarm) {
	type key struct {
		addr  netip.Addr
		proto uint8
		by    bool
	}
	hosts := map[key]*tracker{}
	host := func(k key) *tracker {
		if hosts[k] == nil {
			hosts[k] = &tracker{}
		}
		return hosts[k]
	}
	for i := range all {
		e := &all[i]
		if e.Orig.Proto != event.ProtoTCP && e.Orig.Proto != event.ProtoUDP {
			continue
		}
		of, by := host(key{e.Orig.Dst, e.Orig.Proto, false}), host(key{e.Orig.Src, e.Orig.Proto, true})
		switch e.Kind {
		case Tried:
			of.try(e.At, s.window, e.Orig.Src, e.Orig.Dport)
			by.try(e.At, s.window, e.Orig.Dst, e.Orig.Dport)
		case Opened:
			of.connections, by.connections = max(0, of.connections-1), max(0, by.connections-1)
		case Refused:
			of.noes, by.noes = of.noes+1, by.noes+1
		default:
			continue
		}
		if s.alert(of, by, e.Orig.Proto) {
			out = append(out, Alarm{e.Orig.Src, e.At})
		}
	}
	return out
}

// alert looks for the four kinds, in Snort's order.
func (s *sense) alert(of, by *tracker, proto uint8) bool {
	one, byMany := s.one, s.byMany
	if proto == event.ProtoUDP {
		one, byMany = s.udpOne, s.udpByMany
	}
	filtered := one.connections > 0 && of.connections >= one.connections
	switch {
	case of.over(one) && of.addrs < one.addrs && of.ports >= one.ports && (filtered || by.noes >= one.noes),
		of.over(s.decoy) && of.addrs >= s.decoy.addrs && of.ports >= s.decoy.ports:
		of.told = true
	case by.over(s.many) && by.addrs >= s.many.addrs && by.ports <= s.many.ports:
		by.told = true
	case of.over(byMany) && of.addrs >= byMany.addrs && of.ports <= byMany.ports:
		of.told = true
	default:
		return false
	}
	return true
}
