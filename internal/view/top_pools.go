package view

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// A pool is shown from this fill on, and not more of them: most destinations of a
// NAT address have a few ports of it.
const (
	poolShown = 0.50
	maxPools  = 3
)

// The JSON of a NAT port pool: the words of nat_pool, and of a table what it is
// heading for.
type (
	topPool struct {
		NetNS      uint32  `json:"netns"`
		Name       outside `json:"netns_name,omitempty"`
		Zone       uint16  `json:"zone,omitempty"`
		Addr       string  `json:"addr"`
		Dst        string  `json:"dst"`
		Dport      *uint16 `json:"dport,omitempty"` // not of ICMP
		Proto      string  `json:"proto"`
		InUse      uint64  `json:"in_use"`
		Capacity   uint64  `json:"capacity"`
		Learned    bool    `json:"capacity_learned"`
		Fill       number  `json:"fill"`
		Threshold  string  `json:"threshold"`
		Forecast   string  `json:"forecast"`
		TimeToFull *number `json:"time_to_full_s"`
		FullLow    *number `json:"time_to_full_low_s"`
		FullHigh   *number `json:"time_to_full_high_s"`
		New        uint64  `json:"new"`
		Drops      uint64  `json:"nat_exhausted"`
	}
	// topPoolSums has the fields of agg.PoolSums.
	topPoolSums struct {
		Known  int    `json:"pools"`
		Folded uint64 `json:"folded"`
		Lost   uint64 `json:"folded_in_use"`
	}
)

func poolJSON(p *agg.PoolState, o TopOptions) topPool {
	j := topPool{NetNS: uint32(p.NetNS), Name: outside(o.Names.table(p.NetNS, p.Name)), Zone: p.Zone,
		Addr: jsonAddr(p.Src), Dst: jsonAddr(p.Dst), Proto: event.ProtoName(p.Proto),
		InUse: p.InUse, Capacity: p.Capacity, Learned: p.Learned, Fill: number(p.Fill()), Threshold: agg.LevelOf(p.Fill()).String(),
		Forecast: forecastWord(p.Forecast, p.TimeToFull), New: p.New, Drops: p.Drops}
	if u := (event.Tuple{Proto: p.Proto}); !u.IsICMP() {
		j.Dport = &p.Dport
	}
	if p.Forecast {
		j.TimeToFull, j.FullLow, j.FullHigh = (*number)(p.TimeToFull), (*number)(p.FullLow), (*number)(p.FullHigh)
	}
	return j
}

// fullPools are those that deserve a line, the fullest first.
func (s *screen) fullPools() []agg.PoolState {
	out := slices.DeleteFunc(slices.Clone(s.d.Pools), func(p agg.PoolState) bool { return p.Fill() <= poolShown })
	slices.SortStableFunc(out, func(a, b agg.PoolState) int { return cmp.Compare(b.Fill(), a.Fill()) })
	return out[:min(maxPools, len(out))]
}

// withPools puts under the gauge of each table those of its namespace's pools,
// and the pools of namespaces that are not listed at the end.
func (s *screen) withPools(tables []agg.TableState) (out []gauge) {
	pools := s.fullPools()
	for i := range tables {
		t := &tables[i]
		out = append(out, gauge{s.gaugeCells(t), t.Fill(), t.Level, false})
		for j := range pools {
			if p := &pools[j]; p.NetNS == t.NetNS && slices.IndexFunc(tables, func(t agg.TableState) bool { return t.NetNS == p.NetNS }) == i {
				out = append(out, s.poolGauge(p, "  "))
			}
		}
	}
	for j := range pools {
		if p := &pools[j]; !slices.ContainsFunc(tables, func(t agg.TableState) bool { return t.NetNS == p.NetNS }) {
			out = append(out, s.poolGauge(p, nsText(&s.o.Names, p.NetNS)+" "))
		}
	}
	return out
}

func (s *screen) poolGauge(p *agg.PoolState, under string) gauge {
	level := agg.LevelOf(p.Fill())
	c := gaugeCells{name: under + "nat " + addrText(p.Src) + " > " + endpointText(&p.Key),
		known: fmt.Sprintf("%d/%d", p.InUse, p.Capacity), fill: share(p.InUse, p.Capacity), level: level.String(),
		full: forecastText(p.Forecast, p.TimeToFull, p.FullLow, p.FullHigh)}
	return gauge{c, p.Fill(), level, true}
}
