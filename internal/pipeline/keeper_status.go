package pipeline

import (
	"context"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/probe"
)

const (
	sampleEvery = time.Second
	sampleKept  = 600 // ten minutes
	rankRows    = 16
	rankStep    = 2048 // rows that are looked at in one go: some 0.2 ms
	rankShare   = 100  // of the time at most one part goes into walks over all rows
)

// Status returns what is known now. Its Peaks are those of the last second; who
// wants those since another time asks for them (Peaks).
func (k *Keeper) Status() *agg.Status {
	p, w, release := k.hold()
	defer release()
	k.mu.Lock()
	s := &agg.Status{Start: k.start, At: time.Now().UTC(), Waiting: p == nil, History: k.past(),
		Holders: k.ranks.holders, Arrivals: k.ranks.arrivals, Losers: k.ranks.losers, Prefixes: k.ranks.prefixes}
	j, base := k.journal, k.base
	k.mu.Unlock()
	if p == nil {
		return s
	}
	r := p.Report()
	s.Backend, s.MapBytes, s.Waiting = r.Backend, r.RingBytes+r.MapBytes, !attached(r)
	s.BestEffort = lesser(r.Backend)
	for _, h := range r.Hooks {
		s.Hooks = append(s.Hooks, agg.HookState{Symbol: h.Symbol, Backend: h.Backend, Missed: h.Missed, Lost: h.Lost})
	}
	tables, ahead := w.all(), w.poolsAhead()
	var untold event.ProtoCounts
	if u, ok := p.Source.(untelling); ok {
		untold = u.Untold()
	}
	w.lock()
	at := w.now()
	brief, counts := w.census.Brief(at), w.census.Told()
	s.Peaks = w.census.Peaks(at-event.Ktime(time.Second), at)
	s.Tables = w.tableStates(tables, at)
	s.Pools, s.PoolSums = w.poolStates(tables, ahead)
	s.Examples = j.examples(k.clock)
	if w.detector != nil {
		s.Findings, s.Found, s.Paged, s.Omitted = w.detector.open, w.detector.found, w.detector.paged, w.detector.over.Omissions()
	}
	w.mu.Unlock()
	s.Total, s.Lifetimes, s.Live, s.Tracked, s.Folded = brief.Total, brief.Lifetimes, uint64(brief.Live), brief.Tracked, brief.Folded
	s.Drops, s.Notes = brief.Totals.Drop, brief.Totals.Note
	if _, hooks := p.Source.(*probe.Probe); hooks { // exact whatever was lost, and without delay
		s.Drops, s.Notes = countedSince(p.Counters(), &base)
	}
	counts.Plus(&untold)
	s.New, s.Destroyed = protoRows(&counts)
	s.Difference = k.account.sums()
	s.Loss = p.loss()
	if r := k.flown(); r != nil {
		s.Findings, s.Flight = r.name(s.Findings), r.state()
	}
	return s
}

// untelling is a Source that knows the protocols of what it did not tell.
type untelling interface{ Untold() event.ProtoCounts }

// lesser says whether a backend cannot tell all destroys.
func lesser(backend string) bool { return backend == probe.Netfilter || backend == probe.Netlink }

// countedSince returns the packets lost and the notes that the programs counted
// since base, in all namespaces.
func countedSince(all []probe.Counters, base *probe.Counters) (drops, notes []agg.ReasonCount) {
	var sum probe.Counters
	for i := range all {
		sum.Plus(&all[i])
	}
	for i, n := range sum.Reasons {
		c := agg.ReasonCount{Reason: event.Reason(i), Count: n - base.Reasons[i]}
		switch {
		case c.Count == 0:
		case c.Reason.Kind() == event.Drop:
			drops = append(drops, c)
		case c.Reason.Kind() == event.Note:
			notes = append(notes, c)
		}
	}
	return drops, notes
}

func protoRows(c *event.ProtoCounts) (news []agg.ProtoCount, destroyed []agg.ProtoCauseCount) {
	c.EachNew(func(ipv6 bool, proto uint8, n uint64) {
		news = append(news, agg.ProtoCount{IPv6: ipv6, Proto: proto, Count: n})
	})
	c.EachDestroy(func(proto uint8, cause event.Cause, n uint64) {
		destroyed = append(destroyed, agg.ProtoCauseCount{Proto: proto, Cause: cause, Count: n})
	})
	return news, destroyed
}

// Peaks returns the highest rates of new connections since a time, at most two
// minutes back.
func (k *Keeper) Peaks(since time.Time) agg.Peaks {
	p, w, release := k.hold()
	defer release()
	if p == nil {
		return agg.Peaks{}
	}
	w.lock()
	defer w.mu.Unlock()
	at := w.now()
	return w.census.Peaks(at-event.Ktime(max(0, time.Since(since))), at)
}

// past returns the samples of the last ten minutes. The lock is held; nobody
// writes what it returns.
func (k *Keeper) past() []agg.Sample {
	return k.history[max(0, len(k.history)-sampleKept):]
}

// sample takes one each second until ctx ends.
func (k *Keeper) sample(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	var next time.Time // of the next walk
	for {
		select {
		case <-ctx.Done():
			return
		case at := <-tick.C:
			if !at.Before(next) {
				next = at.Add(rankShare * k.rank())
			}
			k.takeSample(at)
		}
	}
}

// rank walks over all rows, a few at a time: events wait no longer than for these.
// It returns how long they waited for all of them.
func (k *Keeper) rank() (cost time.Duration) {
	w := k.w
	src := agg.Ranking{By: agg.BySrc, Columns: []agg.Column{agg.ColLive, agg.ColNewRate, agg.ColDrops}, N: rankRows}
	prefix := agg.Ranking{By: agg.ByPrefix, Columns: []agg.Column{agg.ColNew}, N: k.cfg.Prefixes}
	cost = w.walk(&src)
	if k.cfg.Prefixes > 0 {
		cost += w.walk(&prefix)
	}
	w.lock()
	at := w.now()
	r := ranks{w.census.Ranked(&src, 0, at), w.census.Ranked(&src, 1, at), w.census.Ranked(&src, 2, at), w.census.Ranked(&prefix, 0, at)}
	w.mu.Unlock()
	k.mu.Lock()
	k.ranks = r
	k.mu.Unlock()
	return cost
}

func (w *Watch) walk(r *agg.Ranking) (cost time.Duration) {
	for more := true; more; {
		w.lock()
		begin := time.Now() // what it waits for others is not its cost
		more = w.census.Rank(r, rankStep, w.now())
		cost += time.Since(begin)
		w.mu.Unlock()
	}
	return cost
}

// takeSample adds the second that ends at a time to the past.
func (k *Keeper) takeSample(at time.Time) {
	s := k.Status()
	out := agg.Sample{At: at.UTC(), Peak: s.Peaks.In10ms}
	sums := total{new: sumNew(s.New), evicted: sumEvicted(s.Destroyed), seen: s.Loss.Seen, lost: s.Loss.Lost, drops: s.Drops}
	for _, t := range s.Tables {
		if t.Err == "" {
			out.Tables = append(out.Tables, agg.TableSample{NetNS: t.NetNS, Entries: t.Entries, Max: t.Max})
		}
	}
	out.Sources = k.arrived(s.Arrivals)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last.gain(&out, sums)
	k.last = sums
	k.history = append(k.history, out)
	if len(k.history) >= 2*sampleKept {
		k.history = append(make([]agg.Sample, 0, 2*sampleKept), k.past()...)
	}
	k.beat = time.Now()
}

// total is what samples are differences of.
type total struct {
	new, evicted, seen, lost uint64
	drops                    []agg.ReasonCount
}

// gain fills in what came since.
func (t *total) gain(s *agg.Sample, now total) {
	s.New, s.Evicted, s.Seen, s.Lost = now.new-t.new, now.evicted-t.evicted, now.seen-t.seen, now.lost-t.lost
	before := map[event.Reason]uint64{}
	for _, c := range t.drops {
		before[c.Reason] = c.Count
	}
	for _, c := range now.drops {
		if n := c.Count - before[c.Reason]; n > 0 {
			s.Drops = append(s.Drops, agg.ReasonCount{Reason: c.Reason, Count: n})
		}
	}
}

func sumNew(all []agg.ProtoCount) (n uint64) {
	for _, c := range all {
		n += c.Count
	}
	return n
}

func sumEvicted(all []agg.ProtoCauseCount) (n uint64) {
	for _, c := range all {
		if c.Cause == event.EarlyDrop || c.Cause == event.EarlyDropGC {
			n += c.Count
		}
	}
	return n
}
