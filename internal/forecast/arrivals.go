package forecast

import (
	"math"
	"slices"

	"github.com/ctsight/ctsight/internal/event"
)

const (
	ringLen     = 128  // buckets
	fewest      = 10   // intervals that make a line
	quarter     = 0.25 // s; a slot of Step.Recent
	rampTime    = 30.0 // s; how long a growth counts as going on at least
	bucketTime  = 0.5  // s; a bucket takes steps until it is this long
	rateMemory  = 60.0 // s; the longest mean of the rate
	surprise    = 4.0  // standard deviations that are a change
	chosen      = 2.5  // variance of a line whose cut was chosen, over that of one given
	mixFaith    = 20.0 // samples
	mixYoungest = 0.5  // s; before that an answer may be on its way
	mixOldest   = 4.0  // s
)

// bucket is what was born in one interval.
type bucket struct {
	end event.Ktime
	dur float64 // s
	n   float64 // entries, without those that died within a second

	mix        [numClassed]float64 // of samples that were settled and young when looked at
	young, old closing
}

// told returns the samples as far as they tell anything: in a small table one
// entry is drawn many times, and more than were born cannot count.
func (b *bucket) told() (m [numClassed]float64) {
	var sum float64
	for _, k := range b.mix {
		sum += k
	}
	for c, k := range b.mix {
		m[c] = k * min(1, max(0, b.n)/max(sum, 1))
	}
	return m
}

// arrivals keeps the last minute or two of births, latest last.
type arrivals struct {
	b      []bucket
	fine   []uint32           // the newest quarters of a second, newest first
	diffs  []float64          // scratch
	recent [4 * ringLen]int16 // bucket by age in units of bucketTime/2, for samples
}

func (a *arrivals) add(at event.Ktime, dt, n float64) {
	if l := len(a.b); l > 0 && a.b[l-1].dur < bucketTime {
		k := &a.b[l-1]
		k.end, k.dur, k.n = at, k.dur+dt, k.n+n
	} else {
		if l == ringLen {
			copy(a.b, a.b[1:])
			a.b = a.b[:l-1]
		}
		a.b = append(a.b, bucket{end: at, dur: dt, n: n})
	}
	i, start := len(a.b)-1, a.b[len(a.b)-1].dur
	for u := range a.recent {
		for i >= 0 && float64(u)*bucketTime/2 >= start {
			if i--; i >= 0 {
				start += a.b[i].dur
			}
		}
		a.recent[u] = int16(i)
	}
}

// born returns the bucket in which an entry of this age was born; nil when
// that is too long ago.
func (a *arrivals) born(age float64) *bucket {
	u := int(age / (bucketTime / 2))
	if u < 0 || u >= len(a.recent) || a.recent[u] < 0 {
		return nil
	}
	return &a.b[a.recent[u]]
}

// back returns the i-th bucket from the latest.
func (a *arrivals) back(i int) *bucket { return &a.b[len(a.b)-1-i] }

// births are those of the i-th interval from the latest, and how long it was (s).
type births func(i int) (n, dur float64)

func (a *arrivals) coarse(i int) (n, dur float64)   { return a.back(i).n, a.back(i).dur }
func (a *arrivals) quarters(i int) (n, dur float64) { return float64(a.fine[i]), quarter }

// buckets returns how many of the latest make up a time.
func (a *arrivals) buckets(t float64) (n int) {
	for dur := 0.0; n < len(a.b) && dur < t; n++ {
		dur += a.back(n).dur
	}
	return n
}

// sum returns the births of the buckets from..to-1, counted from the latest,
// and the time they took.
func (a *arrivals) sum(from, to int) (n, dur float64) {
	for i := from; i < to; i++ {
		n, dur = n+a.back(i).n, dur+a.back(i).dur
	}
	return max(0, n), dur
}

// fano returns the variance of the births over their mean, from the
// differences of neighbours, which a trend does not disturb. The largest
// one and an eighth of the others are left out, so that a step does not hide itself; 1.76 makes up for
// that with a normal distribution.
func (a *arrivals) fano(intervals int, births births) float64 {
	a.diffs = a.diffs[:0]
	for i := 1; i < intervals; i++ {
		xn, xd := births(i - 1)
		yn, yd := births(i)
		if m := (xn + yn) / (xd + yd); m > 0 {
			d := yn/yd - xn/xd
			a.diffs = append(a.diffs, d*d/(m*(1/xd+1/yd)))
		}
	}
	slices.Sort(a.diffs)
	keep := a.diffs[:max(0, len(a.diffs)-1-len(a.diffs)/8)]
	var sum float64
	for _, d := range keep {
		sum += d
	}
	return max(1, 1.76*sum/float64(max(4, len(keep))))
}

// median returns the rate of the bucket in the middle.
func (a *arrivals) median() float64 {
	a.diffs = a.diffs[:0]
	for i := range a.b {
		a.diffs = append(a.diffs, a.b[i].n/a.b[i].dur)
	}
	slices.Sort(a.diffs)
	return max(0, a.diffs[len(a.diffs)/2])
}

// rate is the flow of births, as it is now and may go on.
type rate struct {
	perSec   float64 // now
	variance float64 // of perSec
	slope    float64 // per second and second, over the next `lasts` seconds
	slopeVar float64
	lasts    float64
	window   int     // buckets since the last change
	dur      float64 // s
	fano     float64
}

// now returns the mean since the last change, over rateMemory at most. The
// window grows backwards from the latest bucket while the next one agrees with
// it and its older half with its younger one. After a jump it is as short as
// the jump is recent, and the longer nothing happens the smoother the mean:
// one rule in place of a choice between a short and a long mean.
func (a *arrivals) now() rate {
	r := rate{fano: a.fano(len(a.b), a.coarse)}
	if len(a.b) == 0 {
		return r
	}
	var z float64 // standard deviations of the last difference
	differ := func(n1, d1, n2, d2 float64) bool {
		m := (n1 + n2) / (d1 + d2)
		z = math.Abs(n1/d1-n2/d2) / math.Sqrt(r.fano*(m+1)*(1/d1+1/d2))
		return z > surprise
	}
	n, dur := a.sum(0, 1)
	w := 1
	for ; w < len(a.b) && dur < rateMemory; w++ {
		k := a.back(w)
		if differ(n, dur, max(0, k.n), k.dur) {
			break
		}
		n, dur = n+max(0, k.n), dur+k.dur
		n1, d1 := a.sum(0, (w+1)/2)
		if differ(n1, d1, n-n1, dur-d1) {
			n, dur, w = n1, d1, (w+1)/2
			break
		}
	}
	dur = max(dur, 0.2) // the very first step may be shorter than any use
	r.window, r.dur, r.perSec = w, dur, n/dur
	r.variance = r.fano * (r.perSec + 1/dur) / dur
	if z > surprise { // who just stands out does so by chance in part
		r.variance *= 1 + 3*surprise*surprise/z/z
	}
	if a.trend(&r, len(a.b), a.coarse, noise{fano: r.fano, certain: 1.5 * surprise}); r.slope == 0 {
		// What comes in bursts of some seconds does not show it in quarters of one:
		// what is there all the time may have shown it before, for the rest twice as
		// much certainty has to do.
		a.trend(&r, len(a.fine), a.quarters, noise{a.fano(len(a.fine), a.quarters), (r.fano - 1) * a.median(), 2.2 * surprise})
	}
	return r
}

// noise is what a line has to stand out of.
type noise struct {
	fano    float64 // variance of births over their mean
	beside  float64 // variance of those of a second apart from that
	certain float64 // standard deviations of a slope
}

// trend looks for a rate that was steady and then grows or falls along a line: the
// cut between the two that leaves least unexplained, if that is clearly less than
// any jump leaves, with a slope that is certain. The line is followed for as long
// as it has been seen, and for rampTime at least.
func (a *arrivals) trend(r *rate, intervals int, births births, x noise) {
	var sums [ringLen]line // of the youngest i+1
	var l line
	n := 0
	for ; n < intervals && l.t < rateMemory; n++ {
		l.add(births(n))
		sums[n] = l
	}
	worst := jump(sums[:n])
	left, seen := worst, 0.0
	for i := fewest - 1; i < n; i++ {
		young := sums[i]
		noise := x.fano*(max(0, young.y/young.w)+1) + x.beside // variance of a rate over 1 s
		slope, sxx := young.slope()
		rest := max(0, young.around()-slope*slope*sxx) + l.minus(young).around()
		if sxx <= 0 || math.Abs(slope) < x.certain*math.Sqrt(noise/sxx) || rest > left || rest+.44*x.certain*x.certain*noise > worst {
			continue
		}
		left, seen = rest, young.t
		r.perSec = max(0, (young.y-slope*young.x)/young.w)
		r.slope, r.slopeVar, r.lasts = slope, chosen*noise/sxx, max(young.t, rampTime)
		r.variance = chosen * noise * (1/young.w + young.x*young.x/young.w/young.w/sxx)
	}
	if seen > 0 {
		r.window = a.buckets(seen)
	}
	if r.slope < 0 { // it may not fall below zero
		r.lasts = min(r.lasts, r.perSec/-r.slope)
	}
}

// jump returns what the best jump leaves of the sum of squares.
func jump(sums []line) float64 {
	if len(sums) == 0 {
		return 0
	}
	all := sums[len(sums)-1]
	best := all.around()
	for _, young := range sums {
		best = min(best, young.around()+all.minus(young).around())
	}
	return best
}

// line holds the sums of least squares of rate over time before the end, each
// bucket weighed by its duration.
type line struct{ w, x, xx, y, xy, yy, t float64 }

func (l *line) add(n, dur float64) {
	w, x, y := dur, -(l.t + dur/2), n/dur
	l.t += dur
	l.w, l.x, l.xx = l.w+w, l.x+w*x, l.xx+w*x*x
	l.y, l.xy, l.yy = l.y+w*y, l.xy+w*x*y, l.yy+w*y*y
}

func (l line) minus(m line) line {
	return line{w: l.w - m.w, y: l.y - m.y, yy: l.yy - m.yy}
}

// slope returns the slope and the spread of time that it rests on.
func (l line) slope() (slope, sxx float64) {
	sxx = l.xx - l.x*l.x/l.w
	return (l.xy - l.x*l.y/l.w) / sxx, sxx
}

// around is the sum of squares around the mean.
func (l line) around() float64 {
	if l.w <= 0 {
		return 0
	}
	return max(0, l.yy-l.y*l.y/l.w)
}

// mixture returns the shares of the tracks among the births of the last buckets, and
// the number of samples among them. Where there are none, as after a jump, the older
// ones count like mixFaith of them, and less the more there are.
func (a *arrivals) mixture(buckets int) (p [numClassed]float64, n float64) {
	var older [numClassed]float64
	var m float64
	for i := range a.b {
		to, sum := &p, &n
		if i >= buckets {
			to, sum = &older, &m
		}
		for c, k := range a.back(i).told() {
			to[c] += k
			*sum += k
		}
	}
	faith := min(mixFaith*mixFaith/(mixFaith+n), m)
	for c := range p {
		p[c] = (p[c] + faith*older[c]/max(m, 1e-9)) / max(n+faith, 1e-9)
	}
	return p, n
}
