package detect

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// What the clients of a network do at one endpoint is one incident: they are the
// replicas of one program, and a leak of it is not to be told forty times. It names
// the client as long as there is one, and their network from the second on.

// member is a link that an incident is about.
type member struct {
	hash  uint64
	since event.Ktime // of the link
	fill  func(*link, *agg.Finding)
}

// mostMembers of an incident are kept; that there are more is not shown.
const mostMembers = 256

// summed are figures that add up over clients.
var summed = []string{"made", "ended", "live", "live_before", "per_hour", "per_minute", "per_minute_before", "per_second", "table_share"}

// join opens the incident of the network of a link, or notes that the link is part of
// it.
func (d *Engine) join(x *link, class string, first event.Ktime, quiet time.Duration, state string, fill func(*link, *agg.Finding)) {
	k := x.incident(class)
	k.source = prefixOf(x.tuple.Src)
	i := d.book.find(k)
	if i == nil || i.f.State == agg.Cleared {
		i = d.begin(k, first)
		i.members = nil
	}
	if first < i.first {
		i.first, i.f.First = first, d.cfg.Clock.At(first)
	}
	i.last, i.changed, i.quiet = d.now, true, quiet
	at := slices.IndexFunc(i.members, func(m member) bool { return m.hash == x.hash })
	switch m := (member{x.hash, x.since, fill}); {
	case at >= 0:
		i.members[at] = m
	case len(i.members) < mostMembers:
		i.members = append(i.members, m)
	}
	i.refill = func() { d.fillParty(i) }
	if i.f.State == agg.Confirmed || i.f.State == state {
		return
	}
	i.f.State, i.f.Severity = state, agg.Info
	i.fill()
	d.book.tell(i, d.now)
}

// fillParty writes what its members are: the words are of the one that makes most.
func (d *Engine) fillParty(i *incident) {
	f := &i.f
	var most agg.Finding
	var sums []agg.Figure
	var who []netip.Addr
	for _, m := range i.members {
		x := d.linkOf(m.hash, m.since)
		if x == nil {
			continue
		}
		var g agg.Finding
		if m.fill(x, &g); g.Why == "" { // not any more
			continue
		}
		if who = append(who, x.tuple.Src); len(who) == 1 || value(g.Evidence.Figures, "made") > value(most.Evidence.Figures, "made") {
			most = g
		}
		sums = plus(sums, g.Evidence.Figures)
	}
	if len(who) == 0 {
		return
	}
	f.Statistic, f.Threshold, f.Why, f.WhyNotBenign, f.Evidence = most.Statistic, most.Threshold, most.Why, most.WhyNotBenign, most.Evidence
	f.Source = netip.PrefixFrom(who[0], who[0].BitLen())
	if len(who) == 1 {
		return
	}
	f.Source, f.Evidence.Sources, f.Evidence.Figures = i.key.source, uint64(len(who)), sums
	slices.SortFunc(who, netip.Addr.Compare)
	for _, a := range who[:min(downNames, len(who))] {
		f.Evidence.Items = append(f.Evidence.Items, a.String())
	}
	f.Why = fmt.Sprintf("%d clients of %s, %.0f connections of theirs: %s", len(who), i.key.source, value(sums, "made"), f.Why)
}

func value(all []agg.Figure, name string) float64 {
	for _, x := range all {
		if x.Name == name {
			return x.Value
		}
	}
	return 0
}

// plus adds those that add up.
func plus(sums, more []agg.Figure) []agg.Figure {
	for _, x := range more {
		at := slices.IndexFunc(sums, func(s agg.Figure) bool { return s.Name == x.Name })
		switch {
		case !slices.Contains(summed, x.Name):
		case at < 0:
			sums = append(sums, x)
		default:
			sums[at].Value += x.Value
		}
	}
	return sums
}
