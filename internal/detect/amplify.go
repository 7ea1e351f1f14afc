package detect

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/wyhash"
)

// D6: UDP amplification, at its victim and at who is abused for it.
//
// Victim: answers nobody has asked for come from services that anybody can be made
// to send from, and their source port is that of the service. Of the entries of UDP
// to one host within 10 s, by sources that it has never answered,
//
//	80 % from one source port, by 50 sources, 20 where the port is known for it,
//	95 % not asked for: nothing went from the host to the source, nor to a group at
//	that port, and of those looked at 750 ms later (8 or more) 95 % unanswered
//
// A flood that is one of these is told as amplification instead (flood.go). Its
// contacts are evidence of no scan: a reflector tries many ports of the victim.
//
// Reflector: somebody who is not of ours makes 50 new entries a second for five of
// ten seconds to a service of ours that is known for it and answers, and has never
// finished a handshake. Events do not tell bytes, so this is a hint: suspect, for
// information. Not for DNS, where it may be any busy resolver.
const (
	reflectShare   = .8
	reflectors     = 50
	reflectorsSure = 20
	unasked        = .95
	mirrorWindow   = 10 * time.Second
	mirrorLooksAt  = 8 // entries in a window from which on they are looked at
	maxMirrors     = 1 << 9
	abusedRate     = 50 // entries of one source in a second
	abusedSeconds  = 5
	maxAbused      = 256
)

// reflecting says whether a UDP port is known for it (US-CERT TA14-017A and later).
func reflecting(port uint16) bool {
	switch port {
	case 17, 19, 53, 111, 123, 137, 161, 389, 500, 1900, 3702, 4500, 5353, 5683, 10001, 11211, 27015, 37810, 47808:
		return true
	}
	return false
}

// least is how many sources it takes.
func least(port uint16) uint64 {
	if reflecting(port) {
		return reflectorsSure
	}
	return reflectors
}

// reflected says whether a crowd is of such answers.
func (c *crowd) reflected() bool {
	sport, _, share := c.sports.top()
	return share >= reflectShare && c.sources.count() >= least(uint16(sport)) && float64(c.solicited) <= (1-unasked)*float64(c.n)
}

// asked says whether the target of a packet has sent to its source before, or to a
// group at its port, or whether it is of a protocol between equal ports among hosts of
// ours, as flow export is.
func (d *Engine) asked(e *event.Event) bool {
	if e.Orig.Sport == e.Orig.Dport && d.cfg.Internal(e.Orig.Src) {
		return true
	}
	var p place
	t := event.Tuple{Src: e.Orig.Dst, Dst: e.Orig.Src, Dport: e.Orig.Sport, Proto: e.Orig.Proto}
	if d.locateTuple(&p, e.NetNS, e.Zone, &t); d.edges.find(p.edge) != nil {
		return true
	}
	t.Dst = anyGroup
	d.locateTuple(&p, e.NetNS, e.Zone, &t)
	return d.edges.find(p.edge) != nil
}

var anyGroup = netip.IPv4Unspecified()

// group says whether an address may be that of many.
func group(a netip.Addr) bool {
	return a.IsMulticast() || a.Is4() && a.As4()[3] == 255
}

// mirrors are the hosts that UDP comes to.
type mirrors struct {
	table  *table[mirror]
	open   []uint64 // hashes of those with an incident
	abused map[uint64]*abused
}

// mirror is what comes to a host within a window.
type mirror struct {
	hash      uint64
	netns     event.NetNS
	zone      uint16
	dst       netip.Addr
	begin     event.Ktime
	n         uint64
	solicited uint64
	sports    heavy
	of        map[uint64]uint16 // sources and the port they last sent from, at most mirrorMost
	looked    uint64
	answered  uint64
	told      *mirrored
}

// mirrorMost sources are enough to know.
const mirrorMost = reflectors + 14

// mirrored is one that was told: what came from its port since.
type mirrored struct {
	incident *incident
	sport    uint16
	n        uint64
	sources  distinct
	ports    distinct
	looked   uint64
	answered uint64
	first    event.Ktime
	last     event.Ktime
	samples  []agg.Contacted
}

func newMirrors() mirrors {
	return mirrors{table: newTable(maxMirrors, func(a, b *mirror) bool {
		if (a.told == nil) != (b.told == nil) {
			return a.told == nil
		}
		return a.n < b.n || a.n == b.n && a.begin < b.begin
	}), abused: map[uint64]*abused{}}
}

// arrive takes an entry of a source that was never served by its endpoint, and says
// whether it is one of an amplification.
func (m *mirrors) arrive(d *Engine, e *event.Event, p *place, s *subject) bool {
	if e.Orig.Proto != event.ProtoUDP {
		return false
	}
	if group(e.Orig.Dst) { // who asks a group is answered by many
		var at place
		d.locateTuple(&at, e.NetNS, e.Zone, &event.Tuple{Src: e.Orig.Src, Dst: anyGroup, Dport: e.Orig.Dport, Proto: e.Orig.Proto})
		edge, _ := d.edges.get(at.edge)
		edge.last = d.second(e.Time)
		return false
	}
	if s.flags&(heard|proven) != 0 {
		return false
	}
	x, fresh := m.table.get(m.at(p), func(*mirror) {})
	if fresh {
		x.hash, x.netns, x.zone, x.dst, x.begin = m.at(p), e.NetNS, e.Zone, e.Orig.Dst, e.Time
	}
	n := uint64(max(1, e.Sample))
	if t := x.told; t != nil && t.sport == e.Orig.Sport {
		t.add(d, e, n)
		return true
	}
	if e.Time-x.begin > event.Ktime(mirrorWindow) {
		x.begin, x.n, x.solicited, x.sports, x.looked, x.answered = e.Time, 0, 0, heavy{}, 0, 0
		clear(x.of)
	}
	x.n += n
	x.sports.add(uint64(e.Orig.Sport), n, e.Orig.Src)
	if d.asked(e) {
		x.solicited += n
	}
	if x.of == nil {
		x.of = map[uint64]uint16{}
	}
	if len(x.of) < mirrorMost {
		x.of[sketchHash(e.Orig.Src)] = e.Orig.Sport
	}
	if x.n >= mirrorLooksAt && x.looked+x.answered < mirrorMost {
		d.fronts.queue.push(&waiting{t: e.Time, ptr: e.Ptr, orig: e.Orig, netns: e.NetNS, zone: e.Zone, before: ofMirror})
	}
	return false
}

// ofMirror is the scope of looks for mirrors.
const ofMirror = uint32(scopes)

func (m *mirrors) at(p *place) uint64 { return max(1, wyhash.Mix(p.dst, 1<<35)) }

func (t *mirrored) add(d *Engine, e *event.Event, n uint64) {
	if t.n == 0 {
		t.first = e.Time
	}
	t.n += n
	t.last = e.Time
	t.sources.add(sketchHash(e.Orig.Src))
	t.ports.add(max(1, wyhash.Mix(uint64(e.Orig.Dport), 1)))
	if len(t.samples) < samples {
		t.samples = append(t.samples, agg.Contacted{At: d.cfg.Clock.At(e.Time), Orig: e.Orig, Outcome: Unanswered.String()})
	}
}

// seen takes what a look has shown, and tells when that makes it sure.
func (m *mirrors) seen(d *Engine, l *Look, p *place, s *Seen) {
	x := m.table.find(m.at(p))
	if x == nil {
		return
	}
	x.looked++
	if s.Status&event.SeenReply != 0 {
		x.answered++
	}
	sport, _, share := x.sports.top()
	if x.told != nil || share < reflectShare || x.looked < leastLooks || float64(x.answered) > (1-unasked)*float64(x.looked) ||
		float64(x.solicited) > (1-unasked)*float64(x.n) || m.senders(x, uint16(sport)) < least(uint16(sport)) || d.fronts.tells(d, p, &l.Contact) {
		return
	}
	x.told = &mirrored{sport: uint16(sport), looked: x.looked, answered: x.answered}
	x.told.sources.seed, x.told.ports.seed = d.cfg.Seed, d.cfg.Seed
	m.open = append(m.open, x.hash)
}

// senders is how many sources sent from a port.
func (m *mirrors) senders(x *mirror, sport uint16) (n uint64) {
	for _, p := range x.of {
		if p == sport {
			n++
		}
	}
	return n
}

// tick tells what has come since.
func (m *mirrors) tick(d *Engine) {
	m.open = slices.DeleteFunc(m.open, func(h uint64) bool {
		x := m.table.find(h)
		if x == nil || x.told == nil {
			return true
		}
		t := x.told
		switch {
		case t.incident != nil && t.incident.f.State == agg.Cleared:
			x.told = nil
			return true
		case t.n == 0:
			return false
		}
		if t.incident == nil {
			k := incidentKey{class: "amplification", netns: x.netns, zone: x.zone, target: agg.Target{Addr: x.dst, Proto: event.ProtoUDP}}
			t.incident = d.book.renew(k, t.first, d.now)
			t.incident.quiet = floodQuiet
			t.incident.refill = func() { t.fill() }
		}
		i := t.incident
		i.changed = i.changed || i.last != t.last
		i.last = t.last
		d.fronts.until = max(d.fronts.until, d.second(d.now)+coverFor)
		if i.f.State != agg.Confirmed {
			i.f.State, i.f.Severity = agg.Confirmed, agg.Page
			t.fill()
			d.book.tell(i, d.now)
		}
		return false
	})
}

// covers says whether a contact is of an amplification that is told of.
func (m *mirrors) covers(p *place, c *Contact) bool {
	if len(m.open) == 0 || c.Orig.Proto != event.ProtoUDP {
		return false
	}
	x := m.table.find(m.at(p))
	return x != nil && x.told != nil && x.told.sport == c.Orig.Sport
}

// holds says whether a crowd is of one.
func (m *mirrors) holds(c *crowd) bool {
	if c.target.Proto != event.ProtoUDP || !c.target.Addr.IsValid() {
		return false
	}
	for _, h := range m.open {
		if x := m.table.find(h); x != nil && x.told != nil && x.dst == c.target.Addr && x.netns == c.netns && x.zone == c.zone {
			sport, _, share := c.sports.top()
			return share >= reflectShare && uint16(sport) == x.told.sport
		}
	}
	return false
}

func (t *mirrored) fill() {
	f := &t.incident.f
	n := t.sources.count()
	f.Statistic, f.Threshold, f.Spoofable = float64(n), float64(least(t.sport)), false
	f.Evidence = agg.Evidence{Attempts: t.n, Sources: n, Dsts: 1, Dports: t.ports.count(), Estimated: t.sources.estimated() || t.ports.estimated(),
		Used: []string{"peek"}, Samples: slices.Clone(t.samples),
		Figures: []agg.Figure{{Name: "source_port", Value: float64(t.sport)}, {Name: "looked_at", Value: float64(t.looked)}, {Name: "of_these_answered", Value: float64(t.answered)}}}
	f.Why = fmt.Sprintf("%s got %d entries from port %d of %s, to %s of its own, in %s, and has sent to none of them: of %d looked at %d were answered",
		f.Target.Addr, t.n, t.sport, plural(int(n), "source"), plural(int(f.Evidence.Dports), "port"), brief(t.last.Sub(t.incident.first)), t.looked, t.answered)
	f.WhyNotBenign = "clients of a service come from ports of their own and are answered"
}

// abused is a source that makes a service of ours send much.
type abused struct {
	seconds, first, last uint32
}

// reflect takes an entry to a service of ours that is known for it, from a source
// that has made many in this second.
func (m *mirrors) reflect(d *Engine, e *event.Event, p *place, s *subject, sec uint32) {
	if e.Orig.Proto != event.ProtoUDP || s.burst.n != abusedRate || s.flags&proven != 0 || e.Orig.Dport == 53 || !reflecting(e.Orig.Dport) || d.cfg.Internal(e.Orig.Src) {
		return
	}
	if edge := d.edges.find(p.edge); edge == nil || !edge.served() {
		return
	}
	a := m.abused[p.edge]
	if a == nil || sec-a.first >= 2*abusedSeconds {
		if a == nil && len(m.abused) >= maxAbused {
			clear(m.abused)
		}
		a = &abused{first: sec}
		m.abused[p.edge] = a
	}
	if a.last != sec {
		a.last = sec
		a.seconds++
	}
	if a.seconds < abusedSeconds {
		return
	}
	k := incidentKey{class: "amplification", netns: e.NetNS, zone: e.Zone, source: netip.PrefixFrom(e.Orig.Src, e.Orig.Src.BitLen()),
		target: agg.Target{Addr: e.Orig.Dst, Proto: e.Orig.Proto, Port: e.Orig.Dport}}
	i := d.begin(k, e.Time-event.Ktime(time.Duration(sec-a.first)*time.Second))
	i.last, i.changed, i.quiet = e.Time, true, floodQuiet
	if f := &i.f; f.State != agg.Suspect {
		f.State, f.Severity, f.Spoofable, f.Statistic, f.Threshold = agg.Suspect, agg.Info, true, abusedRate, abusedRate
		f.Evidence.Figures = []agg.Figure{{Name: "entries_per_second_at_least", Value: abusedRate}}
		f.Evidence.Samples = []agg.Contacted{{At: d.cfg.Clock.At(e.Time), Orig: e.Orig, Outcome: Answered.String()}}
		f.Why = fmt.Sprintf("%s makes %d new entries a second or more to udp/%d of %s, which answers, and has never finished a handshake: it may be the victim, and its address spoofed", e.Orig.Src, abusedRate, e.Orig.Dport, e.Orig.Dst)
		d.book.tell(i, d.now)
	}
}
