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

// D4: distributed scans: many sources, each with little, try one port.
//
// For each port and protocol, of first contacts that failed, by sources that nobody
// has ever answered, over the last 60 s:
//
//	S = distinct sources, E = distinct endpoints
//	alarm at S >= max(30, mean + 6 sigma) and (E >= 30 or all there is is one host)
//
// mean and sigma are of S once a minute, with weights exp(-t/24 h): what the
// Internet sends anyway. All there is is one host when four destinations get 90 % of
// such contacts on all ports. What belongs to a flood is not counted (flood.go), nor
// what is one network that is told of as a scanner (scan.go).
const (
	spreadWindow  = time.Minute
	spreadSources = 30
	spreadEnds    = 30
	spreadSigmas  = 6.
	spreadDay     = 24 * 60 // minutes
	spreadQuiet   = 5 * time.Minute
	fewHosts      = 4
	oneHost       = .9
	oneNetwork    = .8
	maxSpread     = 1 << 12 // ports
	maxOfPort     = 1 << 12 // contacts in the window of one
	maxOfPorts    = 1 << 15 // and of all
)

// spread is the state of it.
type spread struct {
	ports  *table[swept]
	active []uint64 // hashes of ports that have something in their window
	kept   int      // contacts in all windows
	hosts  heavy    // destinations of such contacts, of all ports
	halved event.Ktime
}

// swept is a port that is tried.
type swept struct {
	hash   uint64
	netns  event.NetNS
	zone   uint16
	target agg.Target
	window []struck // in the order of time
	from   int      // the first that is within
	active bool
	lost   bool // there was no room for some
	newest Contact

	sources, ends  counted
	returns        [2]uint32 // failed once more, in this minute and the one before
	returnMinute   event.Ktime
	minute         uint32
	minutes        uint32
	mean, variance float64

	incident *incident
	count    sweptCount
}

// struck is one failing contact.
type struck struct {
	at, end event.Ktime // of the contact, and of its outcome
	orig    event.Tuple
	outcome Outcome
}

// sweptCount is what is told: since the first contact of the incident.
type sweptCount struct {
	n, refused, unanswered, half uint64
	sources, ends, dsts          distinct
	s, e, threshold              float64
	last                         event.Ktime
	samples                      []agg.Contacted
	used                         used
}

func newSpread() spread {
	return spread{ports: newTable(maxSpread, func(a, b *swept) bool {
		if x, y := len(a.window)-a.from, len(b.window)-b.from; x != y {
			return x < y
		}
		return a.mean < b.mean
	})}
}

// judge takes the outcome of a first contact.
func (n *spread) judge(d *Engine, s *subject, j *judgement) {
	h := d.fronts.at(ofPort, j.place, j.NetNS, j.Zone, &j.Orig)
	if !j.o.failure() {
		if j.judged {
			n.takeBack(h, j)
		}
		return
	}
	if j.judged || s.answered > 0 || j.known || d.excused(j.At) || j.Orig.IsICMP() {
		return
	}
	n.hosts.add(sketchHash(j.Orig.Dst), 1, j.Orig.Dst)
	p, fresh := n.ports.get(h, n.gone)
	if fresh {
		p.hash, p.netns, p.zone, p.target = h, j.NetNS, j.Zone, agg.Target{Proto: j.Orig.Proto, Port: j.Orig.Dport}
	}
	p.newest = *j.Contact
	x := struck{at: j.At, end: j.now, orig: j.Orig, outcome: j.o}
	if p.incident != nil {
		p.count.add(d, &x)
		p.count.used.add(j.how)
	}
	if len(p.window)-p.from >= maxOfPort || n.kept >= maxOfPorts {
		p.lost = true
		return
	}
	n.kept++
	p.window = append(p.window, x)
	p.sources.add(sketchHash(x.orig.Src))
	p.ends.add(endHash(&x.orig))
	if !p.active {
		p.active = true
		n.active = append(n.active, h)
	}
}

// again counts who comes back to what has failed: that is a client of it. Who scans
// one host from many sources asks once with each.
func (n *spread) again(d *Engine, j *judgement) {
	if !j.o.failure() || j.judged {
		return
	}
	if p := n.ports.find(d.fronts.at(ofPort, j.place, j.NetNS, j.Zone, &j.Orig)); p != nil && p.active {
		p.turn(j.now)
		p.returns[0]++
	}
}

func (p *swept) turn(now event.Ktime) {
	minute := now / event.Ktime(time.Minute)
	switch minute - p.returnMinute {
	case 0:
		return
	case 1:
		p.returns = [2]uint32{0, p.returns[0]}
	default:
		p.returns = [2]uint32{}
	}
	p.returnMinute = minute
}

// clients says whether as many have come back as there are sources.
func (p *swept) clients(now event.Ktime) bool {
	p.turn(now)
	return int(p.returns[0]+p.returns[1]) >= p.sources.len()
}

func endHash(t *event.Tuple) uint64 { return sketchHash(t.Dst) + uint64(t.Dport) }

// gone lets go of a port whose place is needed.
func (n *spread) gone(p *swept) {
	n.kept -= len(p.window) - p.from
	if i := slices.Index(n.active, p.hash); i >= 0 {
		n.active = slices.Delete(n.active, i, i+1)
	}
}

// takeBack forgets what was answered after all.
func (n *spread) takeBack(h uint64, j *judgement) {
	p := n.ports.find(h)
	if p == nil {
		return
	}
	for i := len(p.window) - 1; i >= p.from; i-- {
		if x := &p.window[i]; x.at == j.At && x.orig == j.Orig {
			p.drop(x)
			p.window = slices.Delete(p.window, i, i+1)
			n.kept--
			return
		}
	}
}

func (p *swept) drop(x *struck) {
	p.sources.remove(sketchHash(x.orig.Src))
	p.ends.remove(endHash(&x.orig))
}

// tick weighs the ports that are tried.
func (n *spread) tick(d *Engine) {
	if d.now-n.halved > event.Ktime(time.Hour) {
		n.halved = d.now
		n.hosts.halve()
	}
	n.active = slices.DeleteFunc(n.active, func(h uint64) bool {
		p := n.ports.find(h)
		if d.fronts.drowned(d, &p.newest) {
			n.clear(p)
		}
		if n.slide(d, p); !d.fronts.building(d, &p.newest) {
			n.weigh(d, p)
		}
		p.active = p.from < len(p.window)
		return !p.active
	})
}

// clear forgets what is of a flood.
func (n *spread) clear(p *swept) {
	n.kept -= len(p.window) - p.from
	p.window, p.from, p.sources, p.ends = nil, 0, counted{}, counted{}
}

// slide lets go of what is older than the window.
func (n *spread) slide(d *Engine, p *swept) {
	for ; p.from < len(p.window) && d.now-p.window[p.from].end > event.Ktime(spreadWindow); p.from++ {
		p.drop(&p.window[p.from])
		n.kept--
	}
	if p.from > len(p.window)/2 {
		p.window = slices.Delete(p.window, 0, p.from)
		p.from = 0
	}
}

// weigh compares a port with what is usual.
func (n *spread) weigh(d *Engine, p *swept) {
	s, e := float64(p.sources.len()), float64(p.ends.len())
	usual := max(spreadSources, p.mean+spreadSigmas*math.Sqrt(p.variance))
	if minute := uint32(d.now.Sub(d.start) / time.Minute); minute != p.minute {
		p.average(s, minute)
	}
	if s < usual || e < spreadEnds && (!n.alone() || n.collects(d, p) || p.clients(d.now)) || n.oneNetwork(d, p) {
		return
	}
	c := &p.count
	if p.incident == nil || p.incident.f.State == agg.Cleared {
		p.begin(d)
	}
	c.s, c.e, c.threshold = max(c.s, s), max(c.e, e), usual
	i := p.incident
	i.changed = i.changed || i.last != c.last
	i.last = c.last
	if i.f.State != agg.Confirmed {
		i.f.State, i.f.Severity = agg.Confirmed, agg.Page
		i.fill()
		d.book.tell(i, d.now)
	}
}

// average takes S of a minute, and 0 for those before in which it was not asked.
func (p *swept) average(s float64, minute uint32) {
	for idle := min(minute-p.minute-1, spreadDay); idle > 0; idle-- {
		p.take(0)
	}
	p.take(s)
	p.minute = minute
}

func (p *swept) take(s float64) {
	p.minutes = min(p.minutes+1, spreadDay)
	a := 1 / float64(p.minutes)
	diff := s - p.mean
	p.mean += a * diff
	p.variance = (1 - a) * (p.variance + a*diff*diff)
}

// alone says whether all that is tried is one host.
func (n *spread) alone() bool {
	v := slices.Sorted(slices.Values(n.hosts.n[:]))
	top := uint64(0)
	for _, x := range v[len(v)-fewHosts:] {
		top += x
	}
	return float64(top) >= oneHost*float64(n.hosts.all)
}

// collects says whether a port may be one that hosts of ours send to and that never
// answers: syslog, flow export.
func (n *spread) collects(d *Engine, p *swept) bool {
	ours := 0
	for i := range p.window[p.from:] {
		if d.cfg.Internal(p.window[p.from+i].orig.Src) {
			ours++
		}
	}
	return p.target.Proto == event.ProtoUDP && 2*ours > len(p.window)-p.from
}

// oneNetwork says whether most of the sources are of one network, and it is told of
// as a scanner.
func (n *spread) oneNetwork(d *Engine, p *swept) bool {
	nets := map[netip.Prefix]int{}
	most, all := netip.Prefix{}, p.window[p.from:]
	for i := range all {
		net := prefixOf(all[i].orig.Src)
		if nets[net]++; nets[net] > nets[most] {
			most = net
		}
	}
	if float64(nets[most]) < oneNetwork*float64(len(all)) {
		return false
	}
	i := d.book.find(incidentKey{class: "scan", netns: p.netns, zone: p.zone, source: most})
	return i != nil && i.f.State != agg.Cleared
}

// begin opens an incident, with what is in the window.
func (p *swept) begin(d *Engine) {
	c := &p.count
	*c = sweptCount{}
	c.sources.seed, c.ends.seed, c.dsts.seed = d.cfg.Seed, d.cfg.Seed, d.cfg.Seed
	first := p.window[p.from].at
	for i := p.from; i < len(p.window); i++ {
		c.add(d, &p.window[i])
		first = min(first, p.window[i].at)
	}
	p.incident = d.book.renew(incidentKey{class: "distributed_scan", netns: p.netns, zone: p.zone, target: p.target}, first, d.now)
	i, hash := p.incident, p.hash
	i.quiet = spreadQuiet
	i.refill = func() {
		if p := d.spread.ports.find(hash); p != nil && p.incident == i {
			p.fill(i)
		}
	}
}

func (c *sweptCount) add(d *Engine, x *struck) {
	c.n++
	switch x.outcome {
	case Refused:
		c.refused++
	case HalfOpen:
		c.half++
	default:
		c.unanswered++
	}
	c.sources.add(sketchHash(x.orig.Src))
	c.ends.add(endHash(&x.orig))
	c.dsts.add(sketchHash(x.orig.Dst))
	c.last = max(c.last, x.end)
	if e := (agg.Contacted{At: d.cfg.Clock.At(x.at), Orig: x.orig, Outcome: x.outcome.String()}); len(c.samples) < samples {
		c.samples = append(c.samples, e)
	} else {
		c.samples[samples-1] = e
	}
}

// fill writes what is known into the finding.
func (p *swept) fill(i *incident) {
	c, f := &p.count, &i.f
	f.Statistic, f.Threshold, f.Spoofable = c.s, c.threshold, true
	f.Evidence = agg.Evidence{Contacts: c.n, Attempts: c.n, Refused: c.refused, Unanswered: c.unanswered, HalfOpen: c.half,
		Sources: c.sources.count(), Dsts: c.dsts.count(), Dports: 1, Estimated: c.sources.estimated() || c.dsts.estimated(),
		Used: c.used.names(), Samples: slices.Clone(c.samples),
		Figures: []agg.Figure{{Name: "sources_in_60_s", Value: c.s}, {Name: "endpoints_in_60_s", Value: c.e},
			{Name: "mean_sources_in_60_s", Value: p.mean}, {Name: "sigma", Value: math.Sqrt(p.variance)}}}
	f.Why = fmt.Sprintf("%d sources that nobody has ever answered tried %s/%d of %s in %s: %d refused, %d unanswered, %d half open; up to %.0f sources in a minute, where %.0f are usual",
		f.Evidence.Sources, event.ProtoName(p.target.Proto), p.target.Port, plural(int(f.Evidence.Dsts), "destination"), brief(i.last.Sub(i.first)), c.refused, c.unanswered, c.half, c.s, p.mean)
	f.WhyNotBenign = "clients of a service that is down have been answered before, and an outage is everybody's; what the Internet sends anyway is in the mean"
}
