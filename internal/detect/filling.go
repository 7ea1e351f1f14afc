package detect

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// D10: a table, or the ports of a NAT address towards a destination, that is
// heading to full. The forecast is from the survival of entries (internal/forecast)
// and comes with the state: T the expected time to full in seconds, H that of the
// mean less 1.5 standard deviations. Taking time as normal between the two,
//
//	P(full within t) >= .8  where  t >= T + (.8416/1.5) (H - T),  Phi(.8416) = .8
//
// critical within 60 s, warning within 300 s. What is never certain to fill raises
// nothing, be its fill what it may. Of what has no forecast yet, 95 % is critical:
// from there on the kernel evicts (GC_EVICT).
//
// A table that evicts (early_drop: it is at its limit, or the garbage collector from
// 95 % on) or drops is full, whatever is known of it: early_drop hides it, as no packet
// is lost while others' entries are.
//
// Room: L, the entries a day from now if all goes on, at .9 of the limit or more for
// two minutes is a capacity warning.
const (
	criticalSeconds = 60.
	warningSeconds  = 300.
	eightyPercent   = .8416 / 1.5
	blindFill       = .95
	roomShare       = .9
	roomSeconds     = 120
	calmSeconds     = 30 // without any of these it is over
	holders         = 5  // sources that are named
)

// filling is what D10 keeps from one second to the next.
type filling struct {
	tight map[event.NetNS]int      // seconds for which L has been near the limit
	drops map[incidentKey]uint64   // of pools, as of the last second
	since map[incidentKey]poolSeen // what an open incident of a pool began with
	lost  map[event.NetNS]*lossOf
	ns    event.NetNS // of the last
	last  *lossOf
}

// lossOf is what a full table has lost, since its incident began.
type lossOf struct {
	first, at        event.Ktime
	evicted, dropped uint64
	fresh            bool // since the last tick
}

// note takes an entry that was evicted, or a packet that was dropped because the table
// was full.
func (f *filling) note(e *event.Event) {
	evicted := e.Kind == event.Destroy && (e.Cause == event.EarlyDrop || e.Cause == event.EarlyDropGC)
	if !evicted && (e.Kind != event.Drop || e.Reason != event.TableFull) {
		return
	}
	if f.last == nil || f.ns != e.NetNS {
		if f.lost == nil {
			f.lost = map[event.NetNS]*lossOf{}
		}
		if f.ns, f.last = e.NetNS, f.lost[e.NetNS]; f.last == nil {
			f.last = &lossOf{first: e.Time}
			f.lost[e.NetNS] = f.last
		}
	}
	l := f.last
	l.at, l.fresh = e.Time, true
	if n := max(1, uint64(e.Sample)); evicted {
		l.evicted += n
	} else {
		l.dropped += n
	}
}

// losing are the namespaces that lost something since the last tick, and are not among
// the tables that are known.
func (f *filling) losing(d *Engine) (out []event.NetNS) {
	for ns, l := range f.lost {
		known := slices.ContainsFunc(d.state.Tables, func(t agg.TableState) bool { return t.NetNS == ns && t.Max > 0 && t.Err == "" })
		if l.fresh && !known {
			out = append(out, ns)
		}
	}
	slices.Sort(out)
	return out
}

// forget ends a second: what has lost nothing for a while is over.
func (f *filling) forget(now event.Ktime) {
	for ns, l := range f.lost {
		if l.fresh = false; now-l.at > event.Ktime(calmSeconds*time.Second) {
			delete(f.lost, ns)
			f.last = nil
		}
	}
}

type poolSeen struct{ new, drops uint64 }

// level is how near the end is.
type level uint8

const (
	fine level = iota
	room
	warning
	critical
)

var levelNames = [...]string{"", "capacity", "warning", "critical"}

// heading is one forecast.
type heading struct {
	used, limit     uint64
	known           bool
	full, high      *float64
	by              float64 // seconds by which it is full with a probability of .8; -1 never
	level           level
	statistic, than float64
}

// judge says how near it is.
func (h *heading) judge() {
	h.by = -1
	fill := float64(h.used) / float64(max(1, h.limit))
	switch {
	case h.used >= h.limit:
		h.by = 0
	case h.known && h.full != nil && h.high != nil:
		h.by = *h.full + eightyPercent*max(0, *h.high-*h.full)
	}
	h.statistic, h.than = h.by, criticalSeconds
	switch {
	case h.by >= 0 && h.by <= criticalSeconds:
		h.level = critical
	case h.by >= 0 && h.by <= warningSeconds:
		h.level, h.than = warning, warningSeconds
	case !h.known && fill >= blindFill:
		h.level, h.statistic, h.than = critical, fill, blindFill
	}
}

func (f *filling) tick(d *Engine) {
	if f.tight == nil {
		f.tight, f.since = map[event.NetNS]int{}, map[incidentKey]poolSeen{}
	}
	for i := range d.state.Tables {
		if t := &d.state.Tables[i]; t.Max > 0 && t.Err == "" {
			f.table(d, t)
		}
	}
	for _, ns := range f.losing(d) {
		f.table(d, &agg.TableState{NetNS: ns})
	}
	f.forget(d.now)
	drops := make(map[incidentKey]uint64, len(d.state.Pools))
	for i := range d.state.Pools {
		p := &d.state.Pools[i]
		k := poolIncident(p)
		drops[k] = p.Drops
		f.pool(d, p, k)
	}
	f.drops = drops
}

func (f *filling) table(d *Engine, t *agg.TableState) {
	h := heading{used: t.Entries, limit: t.Max, known: t.Forecast, full: t.TimeToFull, high: t.FullHigh}
	h.judge()
	if n := f.tight[t.NetNS]; t.Forecast && t.Saturation >= roomShare*float64(t.Max) {
		f.tight[t.NetNS] = n + 1
	} else {
		delete(f.tight, t.NetNS)
	}
	var lost lossOf
	if l := f.lost[t.NetNS]; l != nil {
		if lost = *l; l.fresh {
			h.level, h.by, h.statistic, h.than = critical, 0, float64(l.evicted+l.dropped), 1
		}
	}
	if h.level == fine && f.tight[t.NetNS] >= roomSeconds {
		h.level, h.statistic, h.than = room, t.Saturation, roomShare*float64(t.Max)
	}
	i := d.book.find(incidentKey{class: "table_filling", netns: t.NetNS})
	if h.level == fine {
		return
	}
	if i == nil || i.f.State == agg.Cleared {
		first := d.now
		if lost.fresh {
			first = lost.first
		}
		i = d.begin(incidentKey{class: "table_filling", netns: t.NetNS}, first)
	}
	last := *t
	f.tell(d, i, &h, func() {
		top, figures := d.attribute(last.NetNS)
		i.f.Evidence = agg.Evidence{Figures: append(h.figures(), figures...), Items: append(top, d.holds(last.NetNS)...)}
		i.f.Evidence.Figures = append(i.f.Evidence.Figures, agg.Figure{Name: "new_per_second", Value: last.NewRate})
		i.f.Why = "the table of " + netnsName(last.NetNS, last.Name)
		if last.Max > 0 {
			i.f.Why += fmt.Sprintf(" holds %d of %d entries (%.0f %%), %.0f new per second", h.used, h.limit, 100*last.Fill(), last.NewRate)
		}
		if i.f.Why += ": " + h.says() + most(top); lost.at != 0 {
			i.f.Evidence.Figures = append(i.f.Evidence.Figures, agg.Figure{Name: "evicted", Value: float64(lost.evicted)},
				agg.Figure{Name: "dropped_by_us", Value: float64(lost.dropped)})
			i.f.Why += fmt.Sprintf("; %d entries were evicted and %d packets dropped by us", lost.evicted, lost.dropped)
		}
	})
}

func (f *filling) pool(d *Engine, p *agg.PoolState, k incidentKey) {
	h := heading{used: p.InUse, limit: p.Capacity, known: p.Forecast, full: p.TimeToFull, high: p.FullHigh}
	if h.limit == 0 {
		return
	}
	h.judge()
	before, seen := f.drops[k]
	if seen && p.Drops > before {
		h.level, h.by, h.statistic, h.than = critical, 0, float64(p.Drops-before), 1
	}
	if h.level == fine {
		return
	}
	i := d.book.find(k)
	if i == nil || i.f.State == agg.Cleared {
		i = d.begin(k, d.now)
		// The address is ours: nobody shall take it for who did it.
		i.f.Source = netip.Prefix{}
		f.since[k] = poolSeen{p.New, before}
	}
	last, from := *p, f.since[k]
	f.tell(d, i, &h, func() {
		i.f.Evidence = agg.Evidence{Figures: append(h.figures(),
			agg.Figure{Name: "new", Value: float64(last.New - from.new)},
			agg.Figure{Name: "dropped_by_us", Value: float64(last.Drops - from.drops)}), Items: []string{last.Src.String()}}
		end := event.Tuple{Dst: last.Dst, Dport: last.Dport, Proto: last.Proto}
		i.f.Why = fmt.Sprintf("of the %d ports of %s towards %s %d are in use (%.0f %%) while the table has room of its own: %s",
			h.limit, last.Src, endpointName(&end), h.used, 100*last.Fill(), h.says())
		if n := last.Drops - from.drops; n > 0 {
			i.f.Why += fmt.Sprintf("; %s found no port and %s dropped by us", plural(int(n), "packet"), wasWere(int(n)))
		}
	})
}

// tell opens the incident, or says that it is worse or better.
func (f *filling) tell(d *Engine, i *incident, h *heading, fill func()) {
	i.quiet, i.last, i.changed = calmSeconds*time.Second, d.now, true
	i.refill = func() {
		i.f.Statistic, i.f.Threshold = h.statistic, h.than
		if i.f.Severity = agg.Page; h.level == room {
			i.f.Severity = agg.Info
		}
		i.f.WhyNotBenign = ""
		if h.level > room {
			i.f.WhyNotBenign = "the forecast is from how long entries live: a load that settles below the limit raises nothing"
		}
		fill()
	}
	if i.f.State == agg.Confirmed && h.level <= i.level {
		return
	}
	i.level, i.f.State = h.level, agg.Confirmed
	i.fill()
	d.book.tell(i, d.now)
}

// says is the forecast in words.
func (h *heading) says() string {
	switch {
	case h.level == room:
		return fmt.Sprintf("if all goes on it settles at %.0f, which leaves no room for a burst", h.statistic)
	case h.by == 0:
		return "it is full"
	case h.by < 0:
		return "there is no forecast yet, and the kernel evicts from 95 % on"
	}
	return fmt.Sprintf("full in %s, within %s with a probability of 80 %%",
		brief(time.Duration(*h.full*1e9)), brief(time.Duration(h.by*1e9)))
}

func (h *heading) figures() []agg.Figure {
	out := []agg.Figure{{Name: "entries", Value: float64(h.used)}, {Name: "limit", Value: float64(h.limit)},
		{Name: "level_" + levelNames[h.level], Value: 1}}
	if h.full != nil {
		out = append(out, agg.Figure{Name: "time_to_full_seconds", Value: *h.full})
	}
	return out
}

func poolIncident(p *agg.PoolState) incidentKey {
	return incidentKey{class: "nat_pool_filling", netns: p.NetNS, zone: p.Zone, source: netip.PrefixFrom(p.Src, p.Src.BitLen()),
		target: agg.Target{Addr: p.Dst, Proto: p.Proto, Port: p.Dport}}
}

// attribute names the sources of a namespace with the most new entries in the last
// second or so, and how much of all that is.
func (d *Engine) attribute(ns event.NetNS) (top []string, figures []agg.Figure) {
	type holder struct {
		s *subject
		n uint32
	}
	var all []holder
	total, sec := uint64(0), d.second(d.now)
	d.subjects.all(func(s *subject) {
		if n := s.burst.lately(sec); s.bits == 0 && s.netns == ns && n > 0 {
			total += uint64(n)
			all = append(all, holder{s, n})
		}
	})
	slices.SortFunc(all, func(a, b holder) int {
		return cmp.Or(cmp.Compare(b.n, a.n), a.s.addr.Compare(b.s.addr))
	})
	of := uint64(0)
	for _, h := range all[:min(holders, len(all))] {
		top = append(top, fmt.Sprintf("%s (%.0f %% of the new entries)", h.s.addr, 100*float64(h.n)/float64(total)))
		of += uint64(h.n)
	}
	if total > 0 {
		figures = []agg.Figure{{Name: "sources", Value: float64(len(all))}, {Name: "top_sources_share", Value: float64(of) / float64(total)}}
	}
	return top, figures
}

// holds names the links of a namespace that hold most entries, of those that were made
// since they are followed.
func (d *Engine) holds(ns event.NetNS) (out []string) {
	var all []*link
	d.links.table.all(func(x *link) {
		if x.netns == ns && x.live() > 0 {
			all = append(all, x)
		}
	})
	slices.SortFunc(all, func(a, b *link) int {
		return cmp.Or(cmp.Compare(b.live(), a.live()), a.tuple.Src.Compare(b.tuple.Src), a.tuple.Dst.Compare(b.tuple.Dst),
			cmp.Compare(a.tuple.Dport, b.tuple.Dport), cmp.Compare(a.tuple.Proto, b.tuple.Proto))
	})
	for _, x := range all[:min(holders, len(all))] {
		out = append(out, fmt.Sprintf("%s to %s (%d entries live)", x.tuple.Src, endpointName(&x.tuple), x.live()))
	}
	return out
}

func most(top []string) string {
	if len(top) == 0 {
		return ""
	}
	return "; most are from " + top[0]
}

func netnsName(ns event.NetNS, name string) string {
	if name != "" {
		return "netns " + name
	}
	return "netns " + ns.String()
}

func wasWere(n int) string {
	if n == 1 {
		return "was"
	}
	return "were"
}

// endpointName is address, port and protocol of the other side.
func endpointName(t *event.Tuple) string {
	if t.IsICMP() {
		return t.Dst.String() + " " + event.ProtoName(t.Proto)
	}
	return netip.AddrPortFrom(t.Dst, t.Dport).String() + "/" + event.ProtoName(t.Proto)
}
