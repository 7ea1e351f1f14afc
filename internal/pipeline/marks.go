package pipeline

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/record/capture"
	"github.com/ctsight/ctsight/internal/view"
)

// Mark is something worth finding again in a recording (capture.Mark; docs/format.md).
// Nothing is made of it in a replay. One of its parts is set.
type Mark struct {
	Finding   *FindingMark   `json:"finding,omitempty"`   // was told
	Threshold *ThresholdMark `json:"threshold,omitempty"` // was crossed
	Sysctl    *SysctlMark    `json:"sysctl,omitempty"`    // was changed by somebody
}

// FindingMark is a finding as it was told.
type FindingMark struct {
	ID       string      `json:"id"`
	Class    string      `json:"class"`
	State    string      `json:"state"`
	Severity string      `json:"severity"`
	NetNS    event.NetNS `json:"netns,omitempty"`
	Source   string      `json:"source,omitempty"`
	Why      string      `json:"why"`
}

// ThresholdMark is a table that has come to another level: up as soon as its fill has
// reached one, down when it is so far below that it is no flicker (levelSlack).
type ThresholdMark struct {
	Place
	From    string `json:"from"` // ok, trend, action, critical
	To      string `json:"to"`
	Entries uint64 `json:"entries"`
	Max     uint64 `json:"max"`
}

// SysctlMark is a change of net.netfilter.nf_conntrack_*, seen within seconds of it.
type SysctlMark struct {
	Name       string  `json:"name"`
	From       uint32  `json:"from"`
	To         uint32  `json:"to"`
	Where      []Place `json:"where"`      // some of the namespaces that it was changed in at once
	Namespaces int     `json:"namespaces"` // how many there are
}

// Place is a network namespace.
type Place struct {
	NetNS event.NetNS `json:"netns"`
	Name  string      `json:"netns_name,omitempty"`
}

// markFinding notes a finding that is told. The lock is held.
func (w *Watch) markFinding(f *agg.Finding) {
	if w.rec.Recorder != nil {
		w.rec.JSON(capture.Mark, now(), Mark{Finding: &FindingMark{ID: f.ID, Class: f.Class, State: f.State, Severity: f.Severity,
			NetNS: f.NetNS, Source: view.SourceText(f.Source), Why: f.Why}})
	}
}

// levels are what tables have reached.
type levels map[event.NetNS]agg.Level

// levelSlack is how far below a threshold the fill of a table has to be until it counts
// as below.
const levelSlack = 0.02

// next returns the level of a table that was at another one.
func next(was agg.Level, t *agg.TableState) agg.Level {
	fill := t.Fill()
	return max(agg.LevelOf(fill), min(was, agg.LevelOf(fill+levelSlack)))
}

// crossed takes the tables of a second, and calls fn for those that have crossed a
// threshold since the one before. Where one is when it is first seen is no crossing.
func (l levels) crossed(tables []agg.TableState, fn func(t *agg.TableState, from, to agg.Level)) {
	there := make(map[event.NetNS]bool, len(tables))
	for i := range tables {
		t := &tables[i]
		there[t.NetNS] = true
		if t.Err != "" {
			continue
		}
		was, known := l[t.NetNS]
		if !known {
			l[t.NetNS] = agg.LevelOf(t.Fill())
			continue
		}
		if to := next(was, t); to != was {
			l[t.NetNS] = to
			fn(t, was, to)
		}
	}
	maps.DeleteFunc(l, func(ns event.NetNS, _ agg.Level) bool { return !there[ns] })
}

// markLevels notes thresholds that were crossed. The lock is held.
func (w *Watch) markLevels(at event.Ktime, tables []agg.TableState) {
	if w.rec.Recorder == nil {
		return
	}
	w.levels.crossed(tables, func(t *agg.TableState, from, to agg.Level) {
		w.rec.JSON(capture.Mark, at, Mark{Threshold: &ThresholdMark{Place{t.NetNS, t.Name}, from.String(), to.String(), t.Entries, t.Max}})
		if w.crossed != nil {
			w.crossed(t, from, to)
		}
	})
}

const (
	sysctlEvery = 3 * time.Second
	sysctlShare = 500 // of the time at most one part goes into reading them
	placesTold  = 16  // of a change
)

// sysctls are those of each namespace, as of the last look.
type sysctls map[event.NetNS]map[string]uint32

// mindSysctls looks for changes until ctx ends. Names that come or go with a module are
// none, and neither are namespaces.
func (w *Watch) mindSysctls(ctx context.Context) {
	for {
		begin := time.Now()
		w.lookAtSysctls()
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(sysctlEvery, sysctlShare*time.Since(begin))):
		}
	}
}

func (w *Watch) lookAtSysctls() {
	var all []ctnl.NS
	for _, t := range w.all() {
		all = append(all, t.ns)
	}
	if only := w.p.cfg.Filter.Kernel().NetNS; only != 0 {
		all = slices.DeleteFunc(all, func(ns ctnl.NS) bool { return ns.Inode != only })
	}
	seen := make(sysctls, len(all))
	for _, ns := range all {
		seen[ns.Inode] = ns.Sysctls()
	}
	w.nets.Lock()
	known := w.sysctls
	w.sysctls = seen
	w.nets.Unlock()
	for _, m := range known.changes(seen, all) {
		w.lock()
		w.rec.JSON(capture.Mark, now(), Mark{Sysctl: &m})
		w.mu.Unlock()
	}
}

// changes are what is another than before, one for all namespaces that have it in
// common: the limit is one for all of them.
func (s sysctls) changes(seen sysctls, all []ctnl.NS) (out []SysctlMark) {
	type change struct {
		name     string
		from, to uint32
	}
	at := map[change]int{}
	for _, ns := range all {
		before := s[ns.Inode]
		for name, v := range seen[ns.Inode] {
			was, ok := before[name]
			if !ok || was == v {
				continue
			}
			c := change{name, was, v}
			i, ok := at[c]
			if !ok {
				i = len(out)
				at[c], out = i, append(out, SysctlMark{Name: name, From: was, To: v})
			}
			if out[i].Namespaces++; len(out[i].Where) < placesTold {
				out[i].Where = append(out[i].Where, Place{ns.Inode, ns.Name})
			}
		}
	}
	slices.SortFunc(out, func(a, b SysctlMark) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
