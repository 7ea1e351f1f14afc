package detect

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// D5: floods of SYNs and of UDP at an endpoint, a host, a port of many hosts, or at
// many ports of many hosts.
//
// A test of cumulative sums (Wang, Zhang, Shin 2002, "Detecting SYN flooding
// attacks") once a second, of first contacts by strangers, that is by sources that
// nobody has ever answered:
//
//	u = of the first contacts of this second those that come to nothing
//	X = u / max(good, bad, 5) - 1,  y <- max(0, min(100, y + X)),  alarm at y >= 5, with
//	u >= 100/s and 200 that came to nothing since y is above 0
//
// good and bad are the averages over ten minutes of first contacts that were
// answered and were not, a second, good that of this second if that is more. u is what was refused, counted, and of the rest
// the share that looks at a sample of the entries find without an answer (UDP) or
// not assured (TCP) 750 ms after they were made: a SYN-ACK is no success, every SYN
// of a flood at an open port gets one.
//
// A crowd that is let in comes to something: u is 0. When a service goes down its
// clients are not strangers, and new ones come no faster than before: X is about 0.
// Who tries one endpoint without pause, where retries of a program would wait, is
// tested by all entries of sources that were never served there, 500/s, from up to
// 128 sources; not by what is refused, which any loop without a pause does.
//
// What was shed under load (event.Sum) is not known by endpoint: u is scaled by how
// many entries there were for each that was told in detail, counts are not.
//
// Spoofed are the sources when 90 % of the entries come from one that was not seen
// before: real ones come back. (SYNs per entry, which would tell too, are not in
// the events.)
const (
	floodAt     = 5. // y
	floodMost   = 100.
	floodLeast  = 5.   // good or bad, a second
	floodRate   = 100. // u a second
	floodSum    = 200. // that came to nothing
	fewRate     = 500.
	fewSources  = 128
	spoofedFrom = .9
	// warmUp: who sends UDP that nobody answers by design (syslog, statsd, flow
	// export) is a stranger at first. Until bad knows them a flood is five times
	// as much.
	warmUp     = time.Minute
	warmUpRate = 500.
	// goesOn is the part of the rates above at which a flood goes on.
	goesOn = .5
	// leastLooks are needed to believe in a share.
	leastLooks = 8
	// A host is flooded where two of its endpoints are, or where no port gets half
	// of it; likewise a port. One source that tries all ports is a scan, and many
	// that try each of many hosts are a distributed one: here few come back.
	manySources   = 30
	massedSources = 256
	severalHosts  = 8
	sprayed       = .5
	crowdIdle     = 3 // ticks without much: no longer followed

	floodQuiet  = time.Minute
	floodReopen = 10 * time.Minute // is the same again if it begins anew within
)

// told is what of a crowd is in a finding: what had come when its flood last went on.
type told struct {
	n, never, strangers, refused, dropped uint64
	sources, networks, dsts, ports        uint64
	estimated                             bool
	looks                                 looks
	source                                netip.Addr // that comes most, and its share
	share                                 float64
	sport                                 uint16
	sportShare                            float64
	statistic, usual, peak, shed          float64
}

// tickFloods weighs what came in since the last tick.
func (d *Engine) tickFloods() {
	w := &d.fronts
	dt := d.now.Sub(w.ticked).Seconds()
	if dt <= 0 {
		return
	}
	w.ticked = d.now
	var crossed []*front
	for _, f := range slices.Clone(w.hot) {
		if d.weigh(f, dt) {
			crossed = append(crossed, f)
		}
	}
	d.raiseFloods(crossed)
	w.tick++
	for _, f := range w.hot {
		f.clear(w.tick)
	}
	w.most = 1
	for k := range w.shed {
		w.most = max(w.most, w.scale(k))
	}
	clear(w.shed)
	w.entries = 0
}

// share is the part of the entries that comes to nothing, by the looks of two
// seconds.
func (c *crowd) share() (s float64, known bool) {
	k := c.now
	k.add(&c.before)
	if k.len() < leastLooks {
		return 0, false
	}
	return float64(k.silent+k.half) / float64(k.len()), true
}

// weigh takes a second of a front into its statistic, and says whether there is a
// flood that is not open yet.
func (d *Engine) weigh(f *front, dt float64) bool {
	c := f.crowd
	share, known := c.share()
	c.all.add(&c.now)
	c.before, c.now, c.recent = c.now, looks{}, f.tries
	refused := math.Min(float64(f.fresh), float64(f.refused)*float64(f.fresh)/float64(max(1, f.tries)))
	of := d.fronts.scale(domain{c.netns, c.zone})
	u := of * (refused + (float64(f.fresh)-refused)*share + float64(f.lost))
	v := of * (math.Max(0, float64(f.tries)-float64(f.refused))*share + float64(f.lost))
	good := float64(f.answered)
	if known {
		good = max(good, (float64(f.fresh)-refused)*(1-share))
	}
	good *= of
	c.usual = max(float64(f.good), float64(f.bad), good/dt, floodLeast)
	c.y = min(floodMost, max(0, c.y+u/dt/c.usual-1))
	if c.y == 0 {
		c.nothing, c.peak = 0, 0
	}
	c.nothing += u
	c.peak = max(c.peak, u/dt, v/dt)
	few := c.scope == ofEndpoint && v/dt >= fewRate && v/dt/c.usual-1 >= floodAt && c.sources.count() < fewSources
	switch {
	case c.open():
		if u >= goesOn*floodRate*dt || v >= goesOn*fewRate*dt {
			c.goOn(d, f)
		} else {
			c.y = 0
		}
	case few:
		c.y = max(c.y, min(floodMost, v/dt/c.usual-1))
		return true
	case c.y >= floodAt && c.nothing >= floodSum && u/dt >= d.floodBar(c):
		return true
	case c.y == 0 || u/dt < floodRate:
		f.average(float32(good/dt), float32(u/dt), 1)
		if known && c.y == 0 && !c.mayReopen(d.now) {
			c.restart(d.now)
		}
	}
	d.idle(f)
	return false
}

// idle stops following a front where little comes in.
func (d *Engine) idle(f *front) {
	c := f.crowd
	if c.idle++; c.y > 0 || f.tries >= crowdAt[c.scope] && f.surges() {
		c.idle = 0
	}
	if c.idle > crowdIdle && !c.open() && !c.mayReopen(d.now) {
		d.fronts.leave(f)
	}
}

// open says whether there is a flood.
func (c *crowd) open() bool { return c.incident != nil && c.incident.f.State == agg.Confirmed }

// mayReopen says whether one that begins now is that which was over: it is counted on.
func (c *crowd) mayReopen(now event.Ktime) bool {
	return c.incident != nil && now-c.incident.last <= event.Ktime(floodReopen+floodQuiet)
}

func (d *Engine) floodBar(c *crowd) float64 {
	if c.target.Proto == event.ProtoUDP && d.now.Sub(d.start) < warmUp {
		return warmUpRate
	}
	return floodRate
}

// raiseFloods opens incidents for fronts that have crossed the threshold: one for
// what is one flood.
func (d *Engine) raiseFloods(crossed []*front) {
	for l := scopes; l > 0; l-- {
		for _, f := range crossed {
			if c := f.crowd; c.scope == l-1 && !d.within(c) && d.whole(c, crossed) {
				d.openFlood(f)
			}
		}
	}
}

// whole says whether what comes in is one flood, and not that of a part of it.
func (d *Engine) whole(c *crowd, crossed []*front) bool {
	switch c.scope {
	case ofEndpoint:
		return true
	case ofAll:
		return c.spread() && c.sprays()
	}
	return c.spread() && (c.sprays() || d.parts(c, crossed) > int(c.scope))
}

// within says whether a crowd is part of a flood that is open.
func (d *Engine) within(c *crowd) bool {
	if d.mirrors.holds(c) {
		return true
	}
	for _, f := range d.fronts.hot {
		if o := f.crowd; o.open() && c.in(o) {
			return true
		}
	}
	return false
}

// in says whether what c is of is part of what o is of.
func (c *crowd) in(o *crowd) bool {
	switch {
	case o.netns != c.netns || o.zone != c.zone || o.target.Proto != c.target.Proto || o.scope <= c.scope:
		return false
	case o.scope == ofHost:
		return o.target.Addr == c.target.Addr
	case o.scope == ofPort:
		return c.scope == ofEndpoint && o.target.Port == c.target.Port
	}
	return true
}

// parts is how many endpoints of a crowd are flooded.
func (d *Engine) parts(o *crowd, crossed []*front) (n int) {
	for _, f := range d.fronts.hot {
		if c := f.crowd; c.scope == ofEndpoint && c.in(o) && (c.open() || slices.Contains(crossed, f)) {
			n++
		}
	}
	return n
}

// sprays says whether nothing in it gets half of it.
func (c *crowd) sprays() bool {
	_, _, host := c.hosts.top()
	_, _, port := c.dports.top()
	return host < sprayed && port < sprayed
}

// spread says whether what comes to many endpoints comes from as many sources as a
// flood does, and not from scanners.
func (c *crowd) spread() bool {
	n := c.sources.count()
	each := float64(n) / float64(max(1, c.n))
	if c.scope != ofHost {
		return n >= manySources && each >= spoofedFrom && c.dsts.count() >= severalHosts
	}
	return n >= manySources && each >= sprayed || n >= massedSources
}

// openFlood tells of one.
func (d *Engine) openFlood(f *front) {
	c := f.crowd
	if i := c.incident; i == nil || !c.mayReopen(d.now) {
		k := incidentKey{class: "syn_flood", netns: c.netns, zone: c.zone, target: c.target}
		if c.target.Proto == event.ProtoUDP {
			if k.class = "udp_flood"; c.reflected() {
				k.class = "amplification"
			}
		}
		c.incident = d.book.renew(k, c.first, d.now)
		c.incident.quiet = floodQuiet
		c.incident.refill = func() { d.fillFlood(c) }
		c.told = told{}
	}
	i := c.incident
	i.f.State, i.f.Severity = agg.Confirmed, agg.Page
	c.goOn(d, f)
	d.fillFlood(c)
	d.book.tell(i, d.now)
}

// goOn notes that the flood does.
func (c *crowd) goOn(d *Engine, f *front) {
	f.flooded = d.second(d.now)
	d.fronts.until = f.flooded + coverFor
	c.idle = 0
	t := &c.told
	*t = told{n: c.n, never: c.never, strangers: c.strangers, refused: c.refused, dropped: c.dropped,
		sources: c.sources.count(), networks: c.networks.count(), dsts: c.dsts.count(), ports: c.ports.count(),
		estimated: c.sources.estimated() || c.dsts.estimated() || c.ports.estimated(), looks: c.all,
		statistic: max(t.statistic, c.y), usual: c.usual, peak: max(t.peak, c.peak), shed: t.shed + float64(d.fronts.shed[domain{c.netns, c.zone}])}
	_, t.source, t.share = c.top.top()
	sport, _, share := c.sports.top()
	t.sport, t.sportShare = uint16(sport), share
	i := c.incident
	i.changed = i.changed || i.last != c.last
	i.last = max(i.last, c.last)
}

// dispersal is how many of the entries came from a source that was not there before.
func (c *crowd) dispersal() float64 {
	each := float64(c.told.strangers) / float64(max(1, c.told.never))
	if c.scope != ofEndpoint { // first contacts are with endpoints
		each = min(each, float64(c.told.sources)/float64(max(1, c.told.n)))
	}
	return each
}

// fillFlood writes what is known into the finding.
func (d *Engine) fillFlood(c *crowd) {
	i, t := c.incident, &c.told
	f := &i.f
	dispersal := c.dispersal()
	spoofed := dispersal >= spoofedFrom
	f.Spoofable = spoofed || t.looks.half == 0 && t.looks.done == 0
	f.Source = netip.Prefix{}
	if t.sources == 1 {
		f.Source = netip.PrefixFrom(t.source, t.source.BitLen())
	}
	f.Statistic, f.Threshold = t.statistic, floodAt
	f.Evidence = agg.Evidence{Attempts: t.n, Refused: t.refused, Sources: t.sources, Dsts: max(1, t.dsts), Dports: max(1, t.ports),
		Estimated: t.estimated || t.shed > 0, Used: c.used.names(), Samples: slices.Clone(c.samples),
		Figures: []agg.Figure{{Name: "spoofed", Value: number(spoofed)}, {Name: "dispersal", Value: dispersal},
			{Name: "top_source_share", Value: t.share}, {Name: "source_networks", Value: float64(t.networks)},
			{Name: "strangers", Value: float64(t.strangers)}, {Name: "looked_at", Value: float64(t.looks.len())},
			{Name: "of_these_half_open", Value: float64(t.looks.half)}, {Name: "of_these_silent", Value: float64(t.looks.silent)},
			{Name: "peak_per_second", Value: t.peak}, {Name: "usual_per_second", Value: t.usual},
			{Name: "no_room", Value: float64(t.dropped)}, {Name: "shed", Value: t.shed}}}
	if f.Class == "amplification" {
		f.Evidence.Figures = append(f.Evidence.Figures, agg.Figure{Name: "source_port", Value: float64(t.sport)}, agg.Figure{Name: "source_port_share", Value: t.sportShare})
	}
	f.Why = c.why(i.last.Sub(i.first), dispersal, spoofed)
	f.WhyNotBenign = "clients that are let in finish their handshakes or get an answer, and when a service goes down those fail that it has served before; these it has never served"
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// why is the sentence of the finding.
func (c *crowd) why(took time.Duration, dispersal float64, spoofed bool) string {
	t, about := &c.told, ""
	if t.estimated {
		about = "about "
	}
	verdict := "real"
	if spoofed {
		verdict = "spoofed"
	}
	s := fmt.Sprintf("%s got %d new connections in %s from %s%s, %.0f %% of them by sources not seen before: they look %s",
		c.name(), t.n, brief(took), about, plural(int(t.sources), "source"), 100*dispersal, verdict)
	if t.refused > 0 {
		s += fmt.Sprintf("; %d were refused", t.refused)
	}
	if n := t.looks.len(); n > 0 {
		s += fmt.Sprintf("; of %d looked at %d were never answered and %d never taken up", n, t.looks.silent, t.looks.half)
	}
	s += fmt.Sprintf("; up to %.0f a second came to nothing, where %.0f are usual", t.peak, t.usual)
	if c.incident.f.Class == "amplification" {
		s += fmt.Sprintf("; %.0f %% come from port %d, as answers nobody asked for", 100*t.sportShare, t.sport)
	}
	if t.shed > 0 {
		s += fmt.Sprintf("; %.0f more came to this namespace without detail", t.shed)
	}
	return s
}

// name says what is flooded.
func (c *crowd) name() string {
	p := event.ProtoName(c.target.Proto)
	switch c.scope {
	case ofHost:
		return fmt.Sprintf("%d ports of %s (%s)", c.told.ports, c.target.Addr, p)
	case ofPort:
		return fmt.Sprintf("%s/%d of %d hosts", p, c.target.Port, c.told.dsts)
	case ofAll:
		return fmt.Sprintf("%d ports of %d hosts (%s)", c.told.ports, c.told.dsts, p)
	}
	return fmt.Sprintf("%s/%d of %s", p, c.target.Port, c.target.Addr)
}
