package report

import (
	"net/netip"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// began is when the made captures begin.
var began = time.Date(2026, 11, 22, 19, 38, 0, 0, time.UTC)

var testClock = event.Clock{Mono: 1_000_000_000_000, Wall: began}

// play tells a Gatherer what it is made to, and keeps a second count of it.
type play struct {
	g     *Gatherer
	at    event.Ktime
	ptr   uint64
	truth struct {
		new, destroyed, evicted, dropped uint64
		bySource                         map[netip.Addr]uint64
	}
}

func newPlay(o Options) *play {
	o.Clock = testClock
	p := &play{g: New(o), at: testClock.Mono}
	p.truth.bySource = map[netip.Addr]uint64{}
	return p
}

func (p *play) wait(d time.Duration) { p.at += event.Ktime(d) }

func tupleOf(proto uint8, src, dst string, sport, dport uint16) event.Tuple {
	return event.Tuple{Proto: proto, Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Sport: sport, Dport: dport}
}

// open inserts an entry and returns it.
func (p *play) open(t event.Tuple) event.Event {
	p.ptr++
	e := event.Event{Time: p.at, Kind: event.New, NetNS: 4026532000, Orig: t, Ptr: p.ptr, Status: event.Confirmed}
	p.g.Event(&e)
	p.truth.new++
	p.truth.bySource[t.Src]++
	return e
}

func (p *play) status(e event.Event, s event.Status) {
	p.g.Status(Status{Time: p.at, Ptr: e.Ptr, Bits: s})
}

// close ends an entry.
func (p *play) close(e event.Event, cause event.Cause, by event.Tuple) {
	e.Lifetime, e.HasLifetime = p.at.Sub(e.Time), true
	e.Time, e.Kind, e.Cause, e.By = p.at, event.Destroy, cause, by
	p.g.Event(&e)
	p.truth.destroyed++
	if cause == event.EarlyDrop {
		p.truth.evicted++
	}
}

func (p *play) drop(t event.Tuple, r event.Reason) {
	p.g.Event(&event.Event{Time: p.at, Kind: event.Drop, NetNS: 4026532000, Orig: t, Reason: r})
	p.truth.dropped++
}

// incident is a small one with everything in it: ordinary traffic, a scan, a table that
// fills and loses packets, a limit that is raised, and records that are missing.
func incident() *play {
	p := newPlay(Options{Name: "incident"})
	p.g.From(0, Node{Name: "gw", Backend: "fentry"})
	const max = 1000
	var held []event.Event
	table := func(limit uint64) {
		p.g.Table(p.at, Table{NetNS: 4026532000, Name: "router", Entries: uint64(p.g.live.Len()), Max: limit})
	}
	clients := []string{"10.0.0.11", "10.0.0.12", "10.0.0.13", "2001:db8::14"}
	servers := []string{"10.9.0.1", "10.9.0.1", "10.9.0.2", "2001:db8:9::1"}
	web := func(i int) {
		e := p.open(tupleOf(event.ProtoTCP, clients[i%4], servers[i%4], uint16(20000+i), 443))
		p.wait(2 * time.Millisecond)
		p.status(e, event.SeenReply|event.Assured)
		e.Status |= event.SeenReply | event.Assured
		if i%3 != 0 {
			held = append(held, e)
			return
		}
		p.wait(8 * time.Millisecond)
		p.close(e, event.TimeoutGC, event.Tuple{})
	}
	for s := range 20 {
		for i := range 15 {
			web(s*15 + i)
			p.wait(50 * time.Millisecond)
		}
		p.g.Loss(Loss{From: p.at - event.Ktime(time.Second), To: p.at})
		table(max)
	}
	scan := tupleOf(event.ProtoTCP, "203.0.113.7", "10.9.0.1", 40000, 0)
	var first time.Time
	for i := range 200 {
		scan.Dport = uint16(1 + i*5%1024)
		e := p.open(scan)
		if i == 10 {
			first = testClock.At(p.at)
			p.g.Found(&agg.Finding{ID: "5ca1ab1e0001", Class: "scan", Shape: "vertical", State: agg.Confirmed, Severity: agg.Page, NetNS: 4026532000,
				Source: netip.MustParsePrefix("203.0.113.7/32"), Target: agg.Target{Addr: scan.Dst}, Time: first, First: testClock.At(p.at - event.Ktime(100*time.Millisecond)), Last: first.Add(3 * time.Second),
				Why: "203.0.113.7 tried 200 ports of 10.9.0.1 in 3s: 200 refused of 200 first contacts", WhyNotBenign: "no port answered",
				Evidence: agg.Evidence{Samples: []agg.Contacted{{At: first, Orig: scan, Outcome: "refused"}}}})
		}
		p.wait(5 * time.Millisecond)
		p.close(e, event.TCPRstUnreplied, event.Tuple{})
		p.wait(10 * time.Millisecond)
	}
	table(max)
	flood := tupleOf(event.ProtoUDP, "198.51.100.9", "10.9.0.53", 0, 53)
	for i := range 1600 {
		flood.Sport = uint16(1000 + i)
		flood.Dst = netip.AddrFrom4([4]byte{10, 9, 0, byte(53 + i%5)})
		switch {
		case p.g.live.Len() < max:
			held = append(held, p.open(flood))
		case i%3 == 0 && len(held) > 0:
			p.close(held[len(held)-1], event.EarlyDrop, flood)
			held[len(held)-1] = p.open(flood)
		default:
			p.drop(flood, event.TableFull)
			if i%5 == 0 {
				p.drop(tupleOf(event.ProtoTCP, clients[i/5%4], servers[i/5%4], 5, 443), event.TableFull)
			}
			if i%50 == 0 {
				p.drop(tupleOf(event.ProtoUDP, clients[0], "10.9.0.53", 6, 53), event.ClashSameFlow)
			}
		}
		p.wait(12 * time.Millisecond)
		if i%80 == 79 {
			table(max)
			lost := uint64(0)
			if i == 1119 {
				lost = 42
			}
			p.g.Loss(Loss{From: p.at - event.Ktime(time.Second), To: p.at, Lost: lost})
		}
	}
	p.g.Found(&agg.Finding{ID: "f100d0000002", Class: "udp_flood", State: agg.Suspect, Severity: agg.Feed, NetNS: 4026532000, Source: netip.MustParsePrefix("198.51.100.9/32"),
		Target: agg.Target{Port: 53, Proto: event.ProtoUDP}, Time: testClock.At(p.at), First: testClock.At(p.at - event.Ktime(15*time.Second)), Last: testClock.At(p.at), Spoofable: true,
		Why: "198.51.100.9 sent 1600 first packets and none was answered"})
	p.g.Change(Change{Time: p.at, Name: "nf_conntrack_max", From: "1000", To: "4000"})
	table(4000)
	for _, e := range held {
		p.wait(8 * time.Millisecond)
		p.close(e, event.TimeoutGC, event.Tuple{})
	}
	table(4000)
	return p
}
