package pipeline

import (
	"cmp"
	"slices"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/forecast"
)

// poolRows is how many NAT port pools a picture has at most.
const poolRows = 20

// poolForecast is what a pool is heading for. It is a table like another, of
// which no entries are sampled: all have its protocol, which says how long they
// live until their deaths do.
type poolForecast struct {
	forecaster *forecast.Forecaster
	steps      int
	last       forecast.Forecast
}

// forecastPools takes a step of every NAT port pool that is full enough.
func (w *Watch) forecastPools(tables []table) {
	w.lock()
	steps := w.census.PoolSteps(now())
	w.mu.Unlock()
	pools := map[agg.Key]poolForecast{}
	for i := range steps {
		k := steps[i].Key
		p := w.pools[k] // only this goroutine writes the map
		if p.forecaster == nil {
			c := forecast.Config{Proto: k.Proto}
			if i := slices.IndexFunc(tables, func(t table) bool { return t.ns.Inode == k.NetNS }); i >= 0 {
				c.Timeouts = timeouts(tables[i].ns.Timeouts())
			}
			p.forecaster = forecast.New(c)
		}
		p.last, p.steps = p.forecaster.Step(steps[i].Step), p.steps+1
		pools[k] = p
	}
	w.nets.Lock()
	w.pools = pools
	w.nets.Unlock()
}

// poolsAhead returns the forecasts, in a map that nobody writes any more.
func (w *Watch) poolsAhead() map[agg.Key]poolForecast {
	w.nets.Lock()
	defer w.nets.Unlock()
	return w.pools
}

// poolStates are the fullest pools and what they are heading for. The lock of the
// census is held.
func (w *Watch) poolStates(tables []table, ahead map[agg.Key]poolForecast) (out []agg.PoolState, sums agg.PoolSums) {
	rows, sums := w.census.Pools(poolRows, nil)
	for _, r := range rows {
		s := agg.PoolState{Pool: r}
		if i := slices.IndexFunc(tables, func(t table) bool { return t.ns.Inode == r.NetNS }); i >= 0 {
			s.Name = tables[i].ns.Name
		}
		if p := ahead[r.Key]; p.steps >= minSteps {
			s.Forecast = true
			s.TimeToFull, s.FullLow, s.FullHigh = inSeconds(p.last.TimeToFull), inSeconds(p.last.Low), inSeconds(p.last.High)
		}
		out = append(out, s)
	}
	return out, sums
}

// exhaustedPools are the pools of a namespace that lost packets, most first. How
// many ports are in use is not known in a triage: a walk does not tell replies.
func exhaustedPools(c *agg.Census, ns event.NetNS) []agg.Pool {
	all, _ := c.Pools(agg.DefaultPools, func(k *agg.Key) bool { return k.NetNS == ns })
	all = slices.DeleteFunc(all, func(p agg.Pool) bool { return p.Drops == 0 })
	slices.SortStableFunc(all, func(a, b agg.Pool) int { return cmp.Compare(b.Drops, a.Drops) })
	return all[:min(len(all), poolRows)]
}
