package detect

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// traffic is connections that a test makes up, with what becomes of them: the truth.
type traffic struct {
	together bool // events and looks are taken many at a time
	conns    []conn
}

// conn is one connection.
type conn struct {
	at     time.Duration
	orig   event.Tuple
	ending ending
	rtt    time.Duration
}

type ending uint8

const (
	finishes ending = iota // the handshake, after one rtt, or the answer comes
	synAcked               // and nothing after that
	rejected               // RST at once
	mute
	rstByClient // what the server had accepted
)

const ms = time.Millisecond

func v4(a, b, c, d int) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(a), byte(b), byte(c), byte(d)})
}

// anywhere is a random address of the Internet.
func anywhere(r *rand.Rand) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 0x10000000+r.Uint32N(0xc0000000))
	return netip.AddrFrom4(b)
}

func tcp(src netip.Addr, sport uint16, dst netip.Addr, dport uint16) event.Tuple {
	return event.Tuple{Src: src, Sport: sport, Dst: dst, Dport: dport, Proto: event.ProtoTCP}
}

func udp(src netip.Addr, sport uint16, dst netip.Addr, dport uint16) event.Tuple {
	return event.Tuple{Src: src, Sport: sport, Dst: dst, Dport: dport, Proto: event.ProtoUDP}
}

// flow makes n connections a second from a time on for so long, evenly with some
// noise.
func (x *traffic) flow(r *rand.Rand, from, length time.Duration, perSecond float64, one func(i int) conn) {
	n := int(length.Seconds() * perSecond)
	for i := range n {
		c := one(i)
		c.at = from + time.Duration((float64(i)+r.Float64())/perSecond*float64(time.Second))
		if c.rtt == 0 {
			c.rtt = 20 * ms
		}
		x.conns = append(x.conns, c)
	}
}

// ends is when the entry goes, and how.
func (c *conn) ends() (time.Duration, event.Cause, event.Status) {
	switch {
	case c.ending == rejected && c.orig.Proto == event.ProtoTCP:
		return c.at + c.rtt, event.TCPRstUnreplied, 0
	case c.ending == rstByClient:
		return c.at + c.rtt + 10*time.Second, event.TimeoutGC, event.SeenReply
	case c.ending == synAcked:
		return c.at + 70*time.Second, event.TimeoutGC, event.SeenReply
	case c.ending == finishes && c.orig.Proto == event.ProtoTCP:
		return c.at + 125*time.Second, event.TimeoutGC, event.SeenReply | event.Assured
	case c.ending == finishes:
		return c.at + 35*time.Second, event.TimeoutGC, event.SeenReply
	case c.orig.Proto == event.ProtoTCP:
		return c.at + 150*time.Second, event.TimeoutGC, 0
	}
	return c.at + 40*time.Second, event.TimeoutGC, 0
}

// now is what a look at a time shows.
func (c *conn) now(t time.Duration) Seen {
	end, _, _ := c.ends()
	s := Seen{Known: true, Live: t < end, TCPState: event.TCPSynSent}
	switch {
	case c.ending == mute || c.ending == rejected || t < c.at+c.rtt/2:
	case c.orig.Proto == event.ProtoUDP:
		s.Status = event.SeenReply
	default:
		s.Status, s.TCPState = event.SeenReply, event.TCPSynRecv
		switch {
		case t < c.at+c.rtt:
		case c.ending == finishes:
			s.Status, s.TCPState = s.Status|event.Assured, event.TCPEstablished
		case c.ending == rstByClient:
			s.TCPState = event.TCPClose
		}
	}
	return s
}

// run plays it until a time; the findings are those told, the newest of each last.
func (x *traffic) run(t testing.TB, until time.Duration, c Config) (d *Engine, told []agg.Finding) {
	t.Helper()
	slices.SortStableFunc(x.conns, func(a, b conn) int { return int(a.at - b.at) })
	type happens struct {
		at  time.Duration
		i   int
		end bool
	}
	var all []happens
	for i := range x.conns {
		all = append(all, happens{x.conns[i].at, i, false})
		if end, _, _ := x.conns[i].ends(); end < until {
			all = append(all, happens{end, i, true})
		}
	}
	slices.SortStableFunc(all, func(a, b happens) int { return int(a.at - b.at) })
	c.Tell = func(f *agg.Finding) { told = append(told, *f) }
	c.Clock = event.Clock{Wall: time.Unix(1700000000, 0).UTC()}
	d = New(c, 0)
	looks, events := make([]Look, 0, 200), []event.Event(nil)
	for now := 100 * ms; now <= until; now += 100 * ms {
		for len(all) > 0 && all[0].at < now {
			h := all[0]
			all = all[1:]
			o := &x.conns[h.i]
			e := event.Event{Time: event.Ktime(h.at), Kind: event.New, NetNS: 1, Orig: o.orig, Ptr: uint64(h.i) + 1}
			if h.end {
				_, e.Cause, e.Status = o.ends()
				e.Kind, e.Lifetime, e.HasLifetime = event.Destroy, h.at-o.at, true
			}
			if events = append(events, e); !x.together {
				d.Add(&e)
			}
		}
		if x.together {
			d.AddAll(events)
		}
		events = events[:0]
		for looks = d.Due(event.Ktime(now), looks); len(looks) > 0; looks = d.Due(event.Ktime(now), looks) {
			seen := make([]Seen, len(looks))
			for i := range looks {
				seen[i] = x.conns[looks[i].Ptr-1].now(now)
				if !x.together {
					d.Seen(&looks[i], event.Ktime(now), seen[i])
				}
			}
			if x.together {
				d.SeenAll(looks, event.Ktime(now), seen)
			}
		}
		if now%time.Second == 0 {
			d.Tick(event.Ktime(now), State{})
		}
	}
	return d, told
}

// raised are those of scans and floods that were alarms: told the first time as
// confirmed.
func raised(told []agg.Finding) (out []agg.Finding) {
	seen := map[string]bool{}
	for _, f := range told {
		switch f.Class {
		case "scan", "distributed_scan", "syn_flood", "udp_flood", "amplification":
		default:
			continue
		}
		if f.State == agg.Confirmed && !seen[f.ID] {
			seen[f.ID] = true
			out = append(out, f)
		}
	}
	return out
}

func numberOf(t testing.TB, f *agg.Finding, name string) float64 {
	t.Helper()
	for _, x := range f.Evidence.Figures {
		if x.Name == name {
			return x.Value
		}
	}
	t.Fatalf("%s has no figure %s", f.Class, name)
	return 0
}
