package report

import (
	"net/netip"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// recent holds the newest arrivals: a scanner is found some contacts after its first.
type recent struct {
	all  []arrival
	next int
	from event.Ktime // arrivals before it are gone
}

type arrival struct {
	at   event.Ktime
	orig event.Tuple
}

func (r *recent) add(e *event.Event) {
	a := arrival{e.Time, e.Orig}
	if len(r.all) < maxRecent {
		r.all = append(r.all, a)
		return
	}
	r.from = r.all[r.next].at + 1
	r.all[r.next] = a
	r.next = (r.next + 1) % maxRecent
}

// each calls fn for all, the oldest first.
func (r *recent) each(fn func(*arrival)) {
	for i := range r.all {
		fn(&r.all[(r.next+i)%len(r.all)])
	}
}

// scanner is a source that was found to scan, and where it went.
type scanner struct {
	who      netip.Prefix
	id       string
	byDst    bool // it goes from host to host, and not from port to port
	from     event.Ktime
	dots     []Dot
	every    uint64 // one arrival of so many has a dot
	seen     uint64
	distinct map[uint64]struct{}
	unsure   bool // distinct is full
	line     []Distinct
}

// Dot is a connection of a scanner: to which port, or to which host.
type Dot struct {
	At   event.Ktime
	Port uint16
	Dst  netip.Addr
}

// Distinct is how many different ports or hosts there were until then.
type Distinct struct {
	At event.Ktime
	N  uint64
}

const maxDistinct = 1 << 16

// watch begins to follow who a finding says scans.
func (g *Gatherer) watch(f *agg.Finding) {
	if (f.Class != "scan" && f.Class != "distributed_scan") || !f.Source.IsValid() || len(g.scanners) >= maxScanners {
		return
	}
	for _, s := range g.scanners {
		if s.who == f.Source {
			return
		}
	}
	s := &scanner{who: f.Source, id: f.ID, byDst: f.Shape == "horizontal", every: 1, from: g.recent.from, distinct: map[uint64]struct{}{}}
	g.recent.each(func(a *arrival) { s.note(a.at, &a.orig) })
	g.scanners = append(g.scanners, s)
}

func (s *scanner) take(e *event.Event) { s.note(e.Time, &e.Orig) }

func (s *scanner) note(at event.Ktime, o *event.Tuple) {
	if !s.who.Contains(o.Src.Unmap()) && !s.who.Contains(o.Src) {
		return
	}
	key := uint64(o.Dport)
	if s.byDst {
		b := o.Dst.As16()
		for _, x := range b {
			key = key*1099511628211 ^ uint64(x)
		}
		key |= 1 << 63
	}
	if _, ok := s.distinct[key]; !ok {
		if len(s.distinct) >= maxDistinct {
			s.unsure = true
		} else {
			s.distinct[key] = struct{}{}
			s.line = append(s.line, Distinct{at, uint64(len(s.distinct))})
		}
	}
	if s.seen++; (s.seen-1)%s.every != 0 {
		return
	}
	if len(s.dots) == maxDots { // every second one goes
		for i := range maxDots / 2 {
			s.dots[i] = s.dots[2*i]
		}
		s.dots = s.dots[:maxDots/2]
		s.every *= 2
		if (s.seen-1)%s.every != 0 {
			return
		}
	}
	s.dots = append(s.dots, Dot{at, o.Dport, o.Dst})
}
