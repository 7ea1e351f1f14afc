package view

import (
	"strings"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// Detail is one row looked at closely: where to, with which outcomes, for how
// long.
type Detail struct {
	By        agg.Dim    // what Row is of
	Row       agg.TopRow // as it is now
	Edges     agg.Top    // by edge, only those of Row
	Lifetimes agg.Lifetimes
	All       bool // Lifetimes are of the whole table, not of Row alone
}

// detail is shown in place of the rows.
func (s *screen) detail() []block {
	edges := newRowTable(s, &s.o.Detail.Edges)
	keys := s.o.Detail.Lifetimes.Keys()
	return []block{
		{prio: 4, n: 5, lines: s.detailHead},
		{prio: 10, n: len(keys) + 1, grow: max(0, len(keys)-3), lines: func(n int) []*rowLine { return s.lifetimes(keys, n) }},
		{prio: 9, n: 1 + len(edges.top.Rows), grow: max(0, len(edges.top.Rows)-3), lines: edges.page},
	}
}

func (s *screen) detailHead(n int) []*rowLine {
	d := s.o.Detail
	r := &d.Row
	about := rowTable{s: s, top: &agg.Top{By: d.By}}
	a, b := about.label(&r.Key)
	if b != "" {
		a += " > " + b
	}
	head := s.line().put(bold, aligned(d.By.String(), 8, false)).put(bold, a)
	if d.By != agg.ByNetNS {
		head.putf("  netns %s", nsText(&s.o.Names, r.NetNS))
	}
	if r.First != 0 {
		head.putf("  first %s ago, last %s ago", span(s.d.Top.To.Sub(r.First)), span(s.d.Top.To.Sub(r.Last)))
	}
	arrived := s.line().put(bold, "new     ").putf("%s; per second %s, 10s %s, 1m %s, 10ms peak %s", count(r.New), rate(r.S1), rate(r.S10), rate(r.M1), rate(r.Peak10ms))
	entries := s.line().put(bold, "entries ").putf("%s live, %s destroyed, %s evicted, %s of others evicted for it; drops %s",
		count(r.Live), count(r.Destroyed), count(r.Evicted), count(r.Evictor), count(r.Drops))
	spread := s.line().put(bold, "spread  ").putf("dsts %s, ports %s; ", count(r.DistinctDsts), count(r.DistinctDports)).
		put(green, count(r.Answered)+" answered").put("", ", ").put(yellow, count(r.Refused)+" refused").put("", ", ").put(red, count(r.Unanswered)+" unanswered")
	why := s.line().put(bold, "why     ").put("", whyText(r.Why))
	return []*rowLine{head, arrived, entries, spread, why}[:n]
}

// lifetimes shows each histogram over a scale of powers of two.
func (s *screen) lifetimes(keys []agg.LifetimeKey, n int) []*rowLine {
	of := "lifetimes"
	if s.o.Detail.All {
		of = "lifetimes, whole table"
	}
	if len(keys) == 0 {
		return one(s.line().put(bold, of).put("", ": none ended yet"))
	}
	out := one(s.line().put(bold, aligned(of, 25, false)+aligned("ended", 6, true)+aligned("mean", 7, true)+"  "+lifetimeScale()))
	for _, k := range keys[:min(len(keys), n-1)] {
		h := s.o.Detail.Lifetimes[k]
		words := []string{event.ProtoName(k.Proto)}
		if k.State != event.TCPNone {
			words = append(words, k.State.String())
		}
		if !k.Answered {
			words = append(words, "unanswered")
		}
		out = append(out, s.line().put("", "  "+aligned(s.cut(strings.Join(words, " "), 23), 23, false)+aligned(count(h.N), 6, true)+aligned(span(h.Mean()), 7, true)+"  ").
			put(cyan, s.spark(h.Buckets[:], len(h.Buckets))))
	}
	return out
}

// lifetimeScale has a label at every tenth bucket: 1us, 1ms, 1.0s, 17m53s.
func lifetimeScale() string {
	out := ""
	for i := 0; i < len(agg.Histogram{}.Buckets); i += 10 {
		out += aligned(span(time.Duration(1<<i)*time.Microsecond), 10, false)
	}
	return out
}
