package metrics

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// tables makes a block of each table, the fullest first. One whose numbers the
// kernel would not tell has none.
func tables(all []agg.TableState, names map[event.NetNS]string) (out []*block) {
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b agg.TableState) int {
		return cmp.Or(cmp.Compare(b.Fill(), a.Fill()), cmp.Compare(b.Entries, a.Entries), cmp.Compare(a.NetNS, b.NetNS))
	})
	told := map[event.NetNS]bool{}
	for i := range all {
		if t := &all[i]; t.Err == "" && !told[t.NetNS] {
			told[t.NetNS] = true
			out = append(out, tableBlock(t, names[t.NetNS]))
		}
	}
	return out
}

func tableBlock(t *agg.TableState, name string) *block {
	b := &block{}
	b.add(tableEntries.metric(float64(t.Entries), name), tableLimit.metric(float64(t.Max), name), tableFill.metric(t.Fill(), name))
	for l := agg.LevelOK; l <= agg.LevelCritical; l++ {
		at := 0.0
		if l == agg.LevelOf(t.Fill()) {
			at = 1
		}
		b.add(tableThreshold.metric(at, name, l.String()))
	}
	if !t.Forecast {
		return b
	}
	for i, s := range []*float64{t.FullLow, t.TimeToFull, t.FullHigh} {
		if v := orNever(s); !math.IsNaN(v) {
			b.add(tableTimeToFull.metric(v, name, [...]string{"low", "expected", "high"}[i]))
		}
	}
	return b
}

// prefixes makes a block of each prefix, in their order. Rows of several zones
// of one prefix are one.
func prefixes(rows []agg.TopRow, names map[event.NetNS]string) (out []*block) {
	opened, live := newTally(prefixNew), newTally(prefixLive)
	for i := range rows {
		r := &rows[i]
		p := netip.PrefixFrom(r.Src, int(r.Bits))
		if !p.IsValid() {
			continue
		}
		opened.add(float64(r.New), p.String(), names[r.NetNS])
		live.add(float64(r.Live), p.String(), names[r.NetNS])
	}
	for i, m := range opened.block(time.Time{}).metrics {
		l := &live.rows[i]
		out = append(out, (&block{}).add(m, prefixLive.metric(l.n, l.labels[:]...)))
	}
	return out
}
