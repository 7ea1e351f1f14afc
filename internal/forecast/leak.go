package forecast

import (
	"math"

	"github.com/ctsight/ctsight/internal/event"
)

const (
	leakMemory  = 300.0 // s
	leakSamples = 500   // that a bin needs before it is a yardstick
	leakCertain = 5.0   // standard errors
	leakLeast   = .05   // share of new connections that is worth a word
	leakOldest  = 60.0  // s
	leakHalf    = 15.0  // s; where samples are cut in young and old
	leakPlateau = 300.0 // s; who is older does not belong to common traffic
	leakTime    = 1800.0
)

// leak notices TCP connections that are not closed any more, long before the
// missing deaths could tell. In common traffic a certain share of connections
// of each age is closing; where fewer close, a part of them will not.
//
// It is a mixture and not a slower hazard: a part `frac` of the connections
// born since `since` stays, the others live as before. That part is the same at
// each age; if it is smaller among the older ones, they do close, only later.
type leak struct {
	open, all [Bins]float64 // samples of common traffic: assured, assured or closing

	on     bool
	since  event.Ktime
	before float64 // share of old connections in common traffic
	frac   float64
}

// closing is an account of the connections born in one interval.
type closing struct {
	excess   float64 // assured, less the number that common traffic would have
	room     float64 // the most that excess could be: all assured
	variance float64 // of excess
	samples  float64
}

func (c *closing) add(d closing) {
	c.excess, c.room = c.excess+d.excess, c.room+d.room
	c.variance, c.samples = c.variance+d.variance, c.samples+d.samples
}

// frac returns the part of the connections that stay, and its standard error.
// In a small table one connection is drawn many times: only so many different
// ones were there to tell anything, and to make the yardstick.
func (c closing) frac(conns float64) (frac, se float64) {
	if c.room <= 0 {
		return 0, 1
	}
	again := 1.0
	if c.samples > conns {
		again = 2 * c.samples / max(1, conns)
	}
	return min(1, c.excess/c.room), math.Sqrt(again*c.variance+1) / c.room
}

// look takes a sample of a TCP connection.
func (l *leak) look(b int, assured bool, born *bucket) {
	if l.all[b] >= leakSamples && born != nil {
		open := l.open[b] / l.all[b]
		c := closing{excess: -open, room: 1 - open, variance: open * (1 - open), samples: 1}
		if assured {
			c.excess++
		}
		if edges[b] < leakHalf {
			born.young.add(c)
		} else {
			born.old.add(c)
		}
	}
	if l.on {
		return // the yardstick must not learn what it is to measure
	}
	l.all[b]++
	if assured {
		l.open[b]++
	}
}

func (l *leak) scale(k float64) {
	for b := range l.all {
		l.all[b] *= k
		l.open[b] *= k
	}
}

// judge decides whether there is a leak. share is the part of the arrivals that
// are connections, conn their survival as the deaths tell it; when that knows of
// the leak the yardstick is old and starts anew.
func (l *leak) judge(a *arrivals, r rate, share float64, conn *curve, dt float64) {
	if !l.on {
		l.scale(math.Exp(-dt / leakMemory))
	}
	var young, all closing
	var since event.Ktime
	var conns float64
	for i := range a.b {
		k := a.back(i)
		if !l.on && i >= r.window || l.on && k.end <= l.since {
			break
		}
		conns += share * max(0, k.n)
		young.add(k.young)
		all.add(k.young)
		all.add(k.old)
		since = k.end - event.Ktime(k.dur*1e9)
	}
	frac, se := all.frac(conns)
	early, earlySE := young.frac(conns)
	sure := frac > leakLeast && frac > leakCertain*se && frac > early-2*earlySE
	old, _, _ := conn.at(leakPlateau, conn.seek(leakPlateau, 0))
	switch {
	case !l.on && sure:
		l.on, l.since, l.before = true, since, old
	case l.on && (!sure || a.b[len(a.b)-1].end.Sub(l.since).Seconds() > leakTime):
		l.on = false
		l.scale(.01)
	}
	l.frac = 0
	if l.on {
		stay := l.before + frac*(1-l.before)
		l.frac = max(0, (stay-old)/(1-old+1e-9))
		if l.frac < .005 {
			l.on = false
			l.scale(.01)
		}
	}
}

// mix makes the survival of connections born since the leak began.
func (l *leak) mix(to, conn *curve) {
	to.n = 1
	to.s[0] = 1
	for k := 1; k < conn.n; k++ {
		to.add(conn.u[k], l.frac+(1-l.frac)*conn.s[k])
	}
}
