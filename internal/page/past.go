package page

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// seconds is how much of the past is kept.
const seconds = 600

// windows are how much of it is shown, the shortest that has all that is known.
var windows = [...]int{120, 300, seconds}

// past is the last ten minutes, second by second.
type past struct {
	edge time.Time // end of the last second
	n    int       // seconds that are known
	from int       // the first that is shown
	s    [seconds]second

	new, lost, seen, evicted uint64 // sums
	drops                    uint64 // packets, not those to the operator's own rules
	sources                  []series[origin]
	others                   series[origin] // connections of those that have no row
	reasons                  []series[event.Reason]
}

// second is what is known of one. A sample that stands for more, because the one
// before it is missing, is spread over them.
type second struct {
	known   bool
	lost    bool
	new     float64
	peak    float64 // rate in the busiest 10 ms
	drops   float64
	evicted float64
}

// origin is who opens connections.
type origin struct {
	netns event.NetNS
	src   netip.Addr
}

// series are counts of one thing per second.
type series[K comparable] struct {
	key   K
	total uint64
	per   []float64 // seconds of them
}

// most returns the highest second.
func (s *series[K]) most() (at int, n float64) {
	for i, x := range s.per {
		if x > n {
			at, n = i, x
		}
	}
	return at, n
}

// plus adds another.
func (s *series[K]) plus(o *series[K]) {
	s.total += o.total
	if s.per == nil {
		s.per = make([]float64, seconds)
	}
	for i, n := range o.per {
		s.per[i] += n
	}
}

// slot returns the place of the second that ends at t, below 0 before the window.
func (p *past) slot(t time.Time) int {
	return seconds - 1 - int(math.Round(p.edge.Sub(t).Seconds()))
}

// end is when the second of a slot ends.
func (p *past) end(slot int) time.Time {
	return p.edge.Add(time.Duration(slot-seconds+1) * time.Second)
}

// stretch is what a sample stands for: the seconds from to until, that included.
type stretch struct {
	*agg.Sample
	from, until int
}

// part is a share of a count for each of its seconds.
func (t *stretch) part(n uint64) float64 { return float64(n) / float64(t.until-t.from+1) }

// stretches are the samples of the window.
func (p *past) stretches(all []agg.Sample) []stretch {
	out := make([]stretch, 0, len(all))
	for i := range all {
		t := stretch{&all[i], 0, p.slot(all[i].At)}
		t.from = t.until
		if i > 0 {
			t.from = min(t.until, p.slot(all[i-1].At)+1)
		}
		if t.until >= 0 && t.until < seconds {
			out = append(out, t)
		}
	}
	return out
}

// newPast sorts samples, oldest first, into seconds; rows bounds the sources.
func newPast(all []agg.Sample, now time.Time, rows int) *past {
	p := &past{edge: now}
	if n := len(all); n > 0 && now.Sub(all[n-1].At) < 2*time.Second { // else no more are taken, which is to be seen
		p.edge = all[n-1].At
	}
	list := p.stretches(all)
	for i := range list {
		p.add(&list[i])
	}
	known := seconds
	for i := range p.s {
		if p.s[i].known {
			p.n++
			known = min(known, i)
		}
	}
	for _, w := range windows {
		if p.from = seconds - w; p.from <= known {
			break
		}
	}
	p.addSources(list, rows)
	p.addReasons(list)
	return p
}

func (p *past) add(t *stretch) {
	p.new += t.New
	p.seen += t.Seen
	p.lost += t.Lost
	p.evicted += t.Evicted
	drops := dropped(t.Drops)
	p.drops += drops
	for i := max(0, t.from); i <= t.until; i++ {
		s := &p.s[i]
		s.known, s.lost = true, s.lost || t.Lost > 0
		s.new += t.part(t.New)
		s.drops += t.part(drops)
		s.evicted += t.part(t.Evicted)
	}
	p.s[t.until].peak = max(p.s[t.until].peak, t.Peak)
}

// dropped sums packets lost, those to the operator's own rules not among them.
func dropped(all []agg.ReasonCount) (n uint64) {
	for _, r := range all {
		if !r.Reason.IsRuleset() {
			n += r.Count
		}
	}
	return n
}

// addSources finds the busiest and their seconds. Of a sample's sources only its
// last second is known.
func (p *past) addSources(list []stretch, rows int) {
	total := map[origin]uint64{}
	for i := range list {
		for _, c := range list[i].Sources {
			total[origin{c.NetNS, c.Src}] += c.New
		}
	}
	p.sources = first(total, rows, func(a, b origin) int {
		return cmp.Or(a.src.Compare(b.src), cmp.Compare(a.netns, b.netns))
	})
	row := map[origin][]float64{}
	for i := range p.sources {
		row[p.sources[i].key] = p.sources[i].per
	}
	p.others.per = make([]float64, seconds)
	for i := range list {
		t := &list[i]
		left := t.New
		for _, c := range t.Sources {
			if per := row[origin{c.NetNS, c.Src}]; per != nil {
				per[t.until] += float64(c.New)
				left -= min(left, c.New)
			}
		}
		p.others.total += left
		for k := max(0, t.from); k <= t.until; k++ {
			p.others.per[k] += t.part(left)
		}
	}
}

func (p *past) addReasons(list []stretch) {
	total := map[event.Reason]uint64{}
	for i := range list {
		for _, c := range list[i].Drops {
			total[c.Reason] += c.Count
		}
	}
	p.reasons = first(total, len(total), cmp.Compare[event.Reason])
	for r := range p.reasons {
		s := &p.reasons[r]
		for i := range list {
			t := &list[i]
			for _, c := range t.Drops {
				for k := max(0, t.from); c.Reason == s.key && k <= t.until; k++ {
					s.per[k] += t.part(c.Count)
				}
			}
		}
	}
}

// first returns the n largest, without their seconds yet.
func first[K comparable](total map[K]uint64, n int, compare func(a, b K) int) []series[K] {
	out := make([]series[K], 0, len(total))
	for k, c := range total {
		out = append(out, series[K]{key: k, total: c})
	}
	slices.SortFunc(out, func(a, b series[K]) int { return cmp.Or(cmp.Compare(b.total, a.total), compare(a.key, b.key)) })
	out = slices.Clip(out[:min(n, len(out))])
	for i := range out {
		out[i].per = make([]float64, seconds)
	}
	return out
}
