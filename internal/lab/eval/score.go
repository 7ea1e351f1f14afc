package main

import (
	"net/netip"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/eval/baseline"
	"github.com/ctsight/ctsight/internal/lab/eval/capture"
)

// tiers are the distinct failing endpoints in a day that a scanner has at least.
var tiers = [...]int{10, 15, 25}

// score is what a detector made of a capture.
type score struct {
	name    string
	alarms  int             // all, again and again included
	sources int             // that were named
	hit     [len(tiers)]int // scanners of a tier that were
	benign  int             // benign sources that were
	other   int             // password guessers and retries that were
	below   int             // scanners of less than ten endpoints that were: neither right nor wrong
}

func scoreOf(c *capture.Capture, name string, alarms []baseline.Alarm) score {
	s, named := score{name: name, alarms: len(alarms)}, map[netip.Addr]bool{}
	for _, a := range alarms {
		if named[a.Src] {
			continue
		}
		named[a.Src] = true
		s.sources++
		switch v := c.Of(a.Src); {
		case v == nil:
		case v.Role == capture.Benign:
			s.benign++
		case v.Role == capture.Other:
			s.other++
		case v.Role == capture.Below:
			s.below++
		default:
			for i, n := range tiers {
				if v.Failing >= n {
					s.hit[i]++
				}
			}
		}
	}
	return s
}

// baselines are the scores of what others use.
func baselines(c *capture.Capture) (out []score) {
	seen := baseline.Observe(c.Lines)
	for _, d := range baseline.All() {
		out = append(out, scoreOf(c, d.Name, d.Run(seen)))
	}
	return out
}

// delay is how long something took since the first probe, and how many first contacts
// the source had made.
type delay struct {
	took   time.Duration
	probes int
}

// verdict is what was said of a source.
type verdict struct {
	*capture.Source
	suspect, confirmed *delay // as a scan
	cleared            bool   // in the end
	alarms             int    // scans of its own that were confirmed
	network            bool   // its network was, and it is not alone in it
	classes            []string
}

// verdicts are for all sources of a capture.
func verdicts(c *capture.Capture, all []told) []verdict {
	tries := c.Tries()
	out := make([]verdict, len(c.Sources))
	for i := range c.Sources {
		out[i] = judge(&c.Sources[i], tries[i], all)
	}
	return out
}

func judge(s *capture.Source, tries []event.Ktime, all []told) verdict {
	v, ids := verdict{Source: s}, map[string]bool{}
	for i := range all {
		t := &all[i]
		if !t.about(s) {
			continue
		}
		if name := t.Class + " " + t.State; !slices.Contains(v.classes, name) {
			v.classes = append(v.classes, name)
		}
		wider := t.Source.Bits() < s.Net.Bits()
		switch {
		case t.Class != "scan" || t.at < s.Since:
		case wider:
			v.network = v.network || t.listed()
		case t.State == agg.Cleared:
			v.cleared = true
		case t.State == agg.Suspect && v.suspect == nil:
			v.suspect = since(tries, t.at)
		case t.listed():
			if v.cleared = false; v.confirmed == nil {
				v.confirmed = since(tries, t.at)
			}
			if v.suspect == nil {
				v.suspect = v.confirmed
			}
			if ids[t.ID] = true; len(ids) > v.alarms {
				v.alarms = len(ids)
			}
		}
	}
	return v
}

// since measures from the first probe.
func since(tries []event.Ktime, at event.Ktime) *delay {
	n, _ := slices.BinarySearch(tries, at+1)
	if n == 0 {
		return &delay{}
	}
	return &delay{at.Sub(tries[0]), n}
}

// ourScore is the score of a capture.
func ourScore(vs []verdict) score {
	s := score{name: "ctsight"}
	for i := range vs {
		v := &vs[i]
		hurt := v.network && v.Role == capture.Benign // by what was said of its neighbours
		if s.alarms += v.alarms; v.confirmed == nil && !hurt {
			continue
		}
		s.sources++
		switch v.Role {
		case capture.Benign:
			s.benign++
		case capture.Other:
			s.other++
		case capture.Below:
			s.below++
		case capture.Scanner:
			for i, n := range tiers {
				if v.Failing >= n {
					s.hit[i]++
				}
			}
		}
	}
	return s
}

// middle is the median and the worst of delays, nil ones left out.
func middle(all []*delay) (median, worst delay, n int) {
	var took []time.Duration
	var probes []int
	for _, d := range all {
		if d != nil {
			took, probes = append(took, d.took), append(probes, d.probes)
		}
	}
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	slices.Sort(probes)
	m := (len(took) - 1) / 2
	return delay{took[m], probes[m]}, delay{took[len(took)-1], probes[len(probes)-1]}, len(took)
}
