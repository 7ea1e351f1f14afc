package metrics

import (
	"math"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// traced says whether the status is of attached probes.
func traced(s *agg.Status) bool { return s.Backend != "" && !s.Waiting }

// choose makes the series of a status, as many as there is room for. The
// counters are those of counted: of the status itself, or of an earlier one
// while it waits for nf_conntrack to come back. It may be nil.
func (x *Exporter) choose(s, counted *agg.Status, room int) []prometheus.Metric {
	c := &chosen{room: room - 1} // one is for the number of those left out
	on := 0.0
	if traced(s) {
		on = 1
	}
	c.take((&block{}).add(tracing.metric(on)))
	if counted != nil {
		counters(c, counted)
	}
	if traced(s) {
		levels(c, s)
		names := x.netnsLabels(s)
		c.takeFirst(tables(s.Tables, names))
		c.takeFirst(prefixes(s.Prefixes[:min(x.opts.TopPrefixes, len(s.Prefixes))], names))
	}
	return append(c.metrics, omitted.metric(float64(c.omitted)))
}

// counters takes what never goes back, the most wanted first. Each family is
// a block: within the default budget all of them always fit.
func counters(c *chosen, s *agg.Status) {
	c.take(dropBlock(s))
	c.take(newBlock(s))
	c.take(destroyBlock(s))
	c.take(lossBlock(s))
	c.take(missedBlock(s))
	c.take(noteBlock(s))
	c.take(classBlock(findings, s.Found, s))
	c.take(classBlock(paged, s.Paged, s))
	c.take(omissionBlock(s))
	c.take(lifetimeBlock(s))
	c.take((&block{}).add(sourcesEvicted.since(s.Start, float64(s.Folded))))
}

// levels takes what is true of now only.
func levels(c *chosen, s *agg.Status) {
	c.take((&block{}).add(liveEntries.metric(float64(s.Live)), sourcesTracked.metric(float64(s.Tracked)),
		mapBytes.metric(float64(s.MapBytes))))
	c.take(peakBlock(s.Peaks))
	c.take(differenceBlock(s))
	c.take(attachedBlock(s))
	c.take(rankBlock(s))
}

// dropBlock makes each reason known before it first happens: each is worth an alert.
func dropBlock(s *agg.Status) *block {
	t := newTally(drops)
	for i := range event.Reasons {
		if r := event.Reasons[i].Reason; r.Kind() == event.Drop {
			t.add(0, reasonLabel(r))
		}
	}
	for _, d := range s.Drops {
		t.add(float64(d.Count), reasonLabel(d.Reason))
	}
	return exemplify(t.block(s.Start), t, s.Examples)
}

// exemplify hangs the newest lost packet of each reason to its counter: there
// an address costs no series.
func exemplify(b *block, t *tally, examples []agg.DropExample) *block {
	newest := map[int]agg.DropExample{}
	for _, e := range examples {
		i, ok := t.index[[2]string{reasonLabel(e.Reason)}]
		if ok && e.Src.IsValid() && e.Dst.IsValid() && e.At.After(newest[i].At) {
			newest[i] = e
		}
	}
	for i, e := range newest {
		b.metrics[i] = &exemplified{Metric: b.metrics[i], of: e}
	}
	return b
}

// exemplified is a counter with an exemplar. The library's own would write the
// labels in another order each time.
type exemplified struct {
	prometheus.Metric
	of agg.DropExample
}

// Write implements prometheus.Metric. Without zones, two addresses are at most 84
// of the 128 runes that OpenMetrics allows.
func (m *exemplified) Write(out *dto.Metric) error {
	if err := m.Metric.Write(out); err != nil {
		return err
	}
	out.Counter.Exemplar = &dto.Exemplar{Value: new(1.0), Timestamp: timestamppb.New(m.of.At), Label: []*dto.LabelPair{
		{Name: new("src"), Value: new(m.of.Src.WithZone("").String())}, {Name: new("dst"), Value: new(m.of.Dst.WithZone("").String())}}}
	return nil
}

func newBlock(s *agg.Status) *block {
	t := newTally(newConnections)
	for _, proto := range []string{"tcp", "udp", "icmp", "sctp", "dccp", "gre", "udplite", "other"} {
		t.add(0, "ipv4", proto)
		if proto == "icmp" {
			proto = "icmpv6"
		}
		t.add(0, "ipv6", proto)
	}
	for _, n := range s.New {
		family := "ipv4"
		if n.IPv6 {
			family = "ipv6"
		}
		t.add(float64(n.Count), family, protoLabel(n.Proto))
	}
	return t.block(s.Start)
}

// alarming are the causes that alerts wait for, known before the first of
// them: the evictions, and somebody emptying the table. The other causes are
// shown from their first entry on.
var alarming = []event.Cause{event.EarlyDrop, event.EarlyDropGC, event.UserFlush}

func destroyBlock(s *agg.Status) *block {
	t := newTally(destroyed)
	for _, p := range protoGroups {
		for _, c := range alarming {
			t.add(0, p, causeLabel(c))
		}
	}
	for _, d := range s.Destroyed {
		if d.Count > 0 {
			t.add(float64(d.Count), protoGroup(d.Proto), causeLabel(d.Cause))
		}
	}
	return t.block(s.Start)
}

func noteBlock(s *agg.Status) *block {
	t := newTally(notes)
	for i := range event.Reasons {
		if r := event.Reasons[i].Reason; r.Kind() == event.Note {
			t.add(0, reasonLabel(r))
		}
	}
	for _, n := range s.Notes {
		t.add(float64(n.Count), reasonLabel(n.Reason))
	}
	return t.block(s.Start)
}

func lossBlock(s *agg.Status) *block {
	t := newTally(eventsLost)
	for _, stage := range []string{"ring", "recursion", "stash", "netlink"} {
		t.add(0, stage)
	}
	for _, l := range s.Loss.ByStage {
		t.add(float64(l.Lost), label(l.Stage))
	}
	return t.block(s.Start).add(eventsSeen.since(s.Start, float64(s.Loss.Seen)),
		eventsDelivered.since(s.Start, float64(s.Loss.Delivered)), eventsAggregated.since(s.Start, float64(s.Loss.Aggregated)))
}

func classBlock(f *family, counts []agg.ClassCount, s *agg.Status) *block {
	t := newTally(f)
	for _, c := range counts {
		t.add(float64(c.Count), label(c.Class))
	}
	return t.block(s.Start)
}

func omissionBlock(s *agg.Status) *block {
	t := newTally(omissions)
	for _, o := range s.Omitted {
		t.add(float64(o.Count), label(o.What))
	}
	return t.block(s.Start)
}

func missedBlock(s *agg.Status) *block {
	t := newTally(hookMissed)
	for i := range s.Hooks {
		t.add(float64(s.Hooks[i].Missed), label(s.Hooks[i].Symbol))
	}
	return t.block(s.Start)
}

// attachedBlock tells each hook once with each of its backends.
func attachedBlock(s *agg.Status) *block {
	t, b := newTally(hookAttached), &block{}
	for i := range s.Hooks {
		t.add(0, label(s.Hooks[i].Symbol), label(s.Hooks[i].Backend))
	}
	for _, r := range t.rows {
		on := 0.0
		if r.labels[1] != "" {
			on = 1
		}
		b.add(t.f.metric(on, r.labels[:]...))
	}
	return b
}

func differenceBlock(s *agg.Status) *block {
	t := newTally(ledgerDifference)
	for _, d := range s.Difference {
		t.add(float64(d.Difference), d.Counter.String())
	}
	return t.block(time.Time{})
}

func peakBlock(p agg.Peaks) *block {
	return (&block{}).add(newPeak.metric(p.In10ms, "10ms"), newPeak.metric(p.In100ms, "100ms"), newPeak.metric(p.In1s, "1s"))
}

// ranks is how many sources are told of, by rank and never by address.
const ranks = 10

func rankBlock(s *agg.Status) *block {
	b := &block{}
	for i := range ranks {
		var share, rate float64
		if i < len(s.Holders) && s.Live > 0 {
			share = min(1, float64(s.Holders[i].Live)/float64(s.Live))
		}
		if i < len(s.Arrivals) {
			rate = s.Arrivals[i].S1
		}
		rank := strconv.Itoa(i + 1)
		b.add(topShare.metric(share, rank), topNewRate.metric(rate, rank))
	}
	return b
}

// orNever is the time of what may not happen at all.
func orNever(seconds *float64) float64 {
	if seconds == nil {
		return math.Inf(1)
	}
	return *seconds
}
