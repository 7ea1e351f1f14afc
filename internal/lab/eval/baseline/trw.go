package baseline

import (
	"net/netip"

	"github.com/ctsight/ctsight/internal/event"
)

// trw is the threshold random walk of Jung, Paxson, Berger and Balakrishnan, "Fast
// Portscan Detection Using Sequential Hypothesis Testing" (2004): the outcomes of a
// source's first contacts multiply a likelihood ratio; theta0 = .8 and theta1 = .2 are
// the chances of success of the benign and of scanners, alpha = .01, beta = .99. At
// beta/alpha it is a scanner, at (1-beta)/(1-alpha) it is benign, and either is final.
// The paper's contact is with a host and of TCP. Where a scanner tries the ports of one
// host that would be a single one, so that here it is with an endpoint.
func trw(all []Seen) (out []Alarm) {
	const alpha, beta, theta0, theta1 = .01, .99, .8, .2
	type walk struct {
		ratio float64
		done  bool
		seen  map[endpoint]bool
	}
	walks := map[netip.Addr]*walk{}
	for i := range all {
		s := &all[i]
		if s.Kind == Tried || s.Orig.Proto != event.ProtoTCP {
			continue
		}
		w := walks[s.Orig.Src]
		if w == nil {
			w = &walk{ratio: 1, seen: map[endpoint]bool{}}
			walks[s.Orig.Src] = w
		}
		if w.done || w.seen[to(&s.Orig)] {
			continue
		}
		w.seen[to(&s.Orig)] = true
		if s.Kind == Opened {
			w.ratio *= theta1 / theta0
		} else {
			w.ratio *= (1 - theta1) / (1 - theta0)
		}
		switch {
		case w.ratio >= beta/alpha:
			w.done = true
			out = append(out, Alarm{s.Orig.Src, s.At})
		case w.ratio <= (1-beta)/(1-alpha):
			w.done = true
		}
	}
	return out
}
