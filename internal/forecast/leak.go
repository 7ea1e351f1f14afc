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
	leakDelay   = 20 // s
	leakBlock   = 5  // s
)

// leak notices TCP connections that are not closed any more, long before the
// missing deaths could tell. In common traffic a certain share of connections
// of each age is closing; where fewer close, a part of them will not.
//
// It is a mixture and not a slower hazard: a part `frac` of the connections
// born since `since` stays, the others live as before. That part is the same at
// each age; if it is smaller among the older ones, they do close, only later.
type leak struct {
	yardstick
	fresh [leakDelay / leakBlock]yardstick // not in it yet, latest first
	age   float64                          // of fresh[0], s

	on     bool
	since  event.Ktime
	before float64 // share of old connections in common traffic
	frac   float64
	err    float64 // of frac
}

// yardstick is samples of common traffic by age: assured, and assured or closing.
type yardstick struct {
	open, all [Bins]float64
	conns     float64 // that came meanwhile
}

func (y *yardstick) add(d *yardstick) {
	for b := range y.all {
		y.all[b], y.open[b] = y.all[b]+d.all[b], y.open[b]+d.open[b]
	}
	y.conns += d.conns
}

func (y *yardstick) scale(k float64) {
	for b := range y.all {
		y.all[b] *= k
		y.open[b] *= k
	}
	y.conns *= k
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
		again = 3 * c.samples / max(1, conns)
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
	l.fresh[0].all[b]++
	if assured {
		l.fresh[0].open[b]++
	}
}

// wait lets samples become common traffic. They are held back for as long as a
// leak takes to be noticed: what is not common then never gets in.
func (l *leak) wait(dt float64) {
	l.scale(math.Exp(-dt / leakMemory))
	if l.age += dt; l.age < leakBlock {
		return
	}
	l.age = 0
	l.add(&l.fresh[len(l.fresh)-1])
	copy(l.fresh[1:], l.fresh[:])
	l.fresh[0] = yardstick{}
}

// judge decides whether there is a leak. share is the part of the arrivals that
// are connections, conn their survival as the deaths tell it; when that knows of
// the leak the yardstick is old and starts anew.
func (l *leak) judge(a *arrivals, r rate, share float64, conn *curve, dt float64) {
	if !l.on {
		l.fresh[0].conns += share * r.perSec * dt
		l.wait(dt)
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
	both := math.Sqrt(1 + conns/max(1, l.conns)) // what is measured, and the yardstick
	se, earlySE = se*both, earlySE*both
	certain := leakCertain
	if l.on { // what ends takes the yardstick along
		certain /= 2
	}
	sure := frac > leakLeast && frac > certain*se && frac > early-2*earlySE
	old, err := conn.plateau()
	switch {
	case !l.on && sure:
		l.on, l.since, l.before = true, since, old
		clear(l.fresh[:])
	case l.on && (!sure || a.b[len(a.b)-1].end.Sub(l.since).Seconds() > leakTime):
		l.on = false
		l.scale(.01)
	}
	l.frac, l.err = 0, se
	if l.on {
		l.before = min(l.before, old) // known better by now
		stay := l.before + frac*(1-l.before)
		if old -= err; old > l.before { // deaths have told of a part
			stay = (stay - old) / (1 - old + 1e-9)
		} else {
			stay = frac
		}
		l.frac = max(0, stay)
		if l.frac < .005 {
			l.on = false
			l.scale(.01)
		}
	}
}

// plateau returns the survival of those that outlive common traffic, and its error.
func (c *curve) plateau() (s, err float64) {
	k := c.seek(leakPlateau, 0)
	s, e := c.left(leakPlateau, k)
	return s, s * e
}

// mix makes the survival of connections born since the leak began.
func (l *leak) mix(to, conn *curve) {
	to.n = 1
	to.s[0] = 1
	for k := 1; k < conn.n; k++ {
		s := l.frac + (1-l.frac)*conn.s[k]
		to.add(conn.u[k], s, ((1-l.frac)*conn.s[k]*conn.e[k]+l.err*(1-conn.s[k]))/s)
	}
}
