package page

import (
	"math"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/view"
)

// lived are the lifetimes of a protocol, by whether the entry was answered.
type lived struct {
	name                 string
	answered, unanswered agg.Histogram
}

func (l *lived) n() uint64 { return l.answered.N + l.unanswered.N }

// protocols are the rows of the picture.
func protocols(all agg.Lifetimes) (out []lived) {
	rows := [...]lived{{name: "tcp"}, {name: "udp"}, {name: "icmp"}, {name: "other"}}
	for _, k := range all.Keys() {
		r := &rows[protocolRow(k.Proto)]
		h := &r.unanswered
		if k.Answered {
			h = &r.answered
		}
		h.N, h.Sum = h.N+all[k].N, h.Sum+all[k].Sum
		for i, n := range all[k].Buckets {
			h.Buckets[i] += n
		}
	}
	for _, r := range rows {
		if r.n() > 0 {
			out = append(out, r)
		}
	}
	return out
}

func protocolRow(proto uint8) int {
	switch proto {
	case event.ProtoTCP:
		return 0
	case event.ProtoUDP:
		return 1
	case event.ProtoICMP, event.ProtoICMPv6:
		return 2
	}
	return 3
}

// bucketFrom is where a bucket begins.
func bucketFrom(i int) time.Duration { return time.Microsecond << i }

// median is the bucket in which the middle one of all is, -1 of nothing.
func (l *lived) median() int {
	sum := uint64(0)
	for i := range l.answered.Buckets {
		sum += l.answered.Buckets[i] + l.unanswered.Buckets[i]
		if 2*sum >= l.n() && sum > 0 {
			return i
		}
	}
	return -1
}

// between names the bounds of a bucket.
func between(i int) string {
	switch {
	case i <= 0:
		return "less than " + view.Span(bucketFrom(1))
	case i >= len(agg.Histogram{}.Buckets)-1:
		return "more than " + view.Span(bucketFrom(i))
	}
	return view.Span(bucketFrom(i)) + " to " + view.Span(bucketFrom(i+1))
}

const (
	lifeHalf = 24 // pixels of a row's bars, up for answered, down for unanswered
	lifeRow  = rowLabel + 2*lifeHalf + 6
	buckets  = len(agg.Histogram{}.Buckets)
)

// lifetimes are how long entries lived, those that ended since the start.
func (d *doc) lifetimes() {
	rows := protocols(d.s.Lifetimes)
	d.begin("lifetimes", "Lifetimes")
	say := plain(func(d *doc) { d.lifetimesSay(rows) }, d)
	d.Put(`{}</figcaption>`, say)
	if len(rows) == 0 {
		d.Put(endFigure)
		return
	}
	d.Put(`<p class="legend"><span><svg width="22" height="12" aria-hidden="true"><rect class="life" width="22" height="12"/></svg> answered, upwards</span> <span><svg width="22" height="12" aria-hidden="true"><rect class="mute" width="22" height="12"/></svg> never answered, downwards</span> <span class="soft">each row to its own scale</span></p>`)
	h := lifeRow * len(rows)
	d.Put(`<div class="plot flush"><svg class="chart" role="img" aria-labelledby="life-t life-d" width="100%" height="{}"><title id="life-t">Lifetimes by protocol</title><desc id="life-d">{}</desc>`, h+24, say)
	d.Put(`<svg width="100%" height="{}" viewBox="0 0 {} {}" preserveAspectRatio="none"><path class="grid" d="`, h, buckets, h)
	for _, t := range lifeTicks {
		d.Put(`M{} 0v{}`, bucketAt(t.at), h)
	}
	d.Put(`"/>`)
	for i := range rows {
		d.lifeBars(&rows[i], i*lifeRow+rowLabel+lifeHalf)
	}
	d.Put(`</svg>`)
	for i := range rows {
		r := &rows[i]
		y := i*lifeRow + rowLabel - 5
		d.Put(`<text class="name" x="0" y="{}">{}</text><text class="right" x="100%" y="{}">{}, the middle one {}, {} never answered</text>`,
			y, r.name, y, markup.Plural(r.n(), "entry", "entries"), between(r.median()), markup.Percent(r.unanswered.N, r.n()))
	}
	for _, t := range lifeTicks {
		d.Put(`<text class="time" x="{}%" y="{}">{}</text>`, 100*bucketAt(t.at)/float64(buckets), h+16, t.name)
	}
	d.Put(`</svg></div>`)
	d.Numbers("lifetimes", "protocol", "lived", "#answered", "#never answered")
	for i := range rows {
		for b := range buckets {
			if a, u := rows[i].answered.Buckets[b], rows[i].unanswered.Buckets[b]; a+u > 0 {
				d.Row(rows[i].name, between(b), a, u)
			}
		}
	}
	d.Put(markup.EndNumbers + endFigure)
}

var lifeTicks = []struct {
	at   time.Duration
	name string
}{{time.Millisecond, "1 ms"}, {time.Second, "1 s"}, {time.Minute, "1 min"}, {time.Hour, "1 h"}, {24 * time.Hour, "1 d"}}

// bucketAt is where a time lies on the axis of buckets, in buckets.
func bucketAt(d time.Duration) float64 { return math.Log2(float64(d) / float64(time.Microsecond)) }

// lifeBars draws a row around its middle line; what is not nothing can be seen.
func (d *doc) lifeBars(r *lived, middle int) {
	most := uint64(1)
	for b := range buckets {
		most = max(most, r.answered.Buckets[b], r.unanswered.Buckets[b])
	}
	high := func(n uint64) float64 { return max(1.5, lifeHalf*float64(n)/float64(most)) }
	d.Put(`<path class="floor" d="M0 {}h{}"/><path class="life" d="`, middle, buckets)
	for b, n := range r.answered.Buckets {
		if n > 0 {
			d.Put(`M{} {}v{}h.9v{}z`, b, middle, -high(n), high(n))
		}
	}
	d.Put(`"/><path class="mute" d="`)
	for b, n := range r.unanswered.Buckets {
		if n > 0 {
			d.Put(`M{} {}v{}h.9v{}z`, b, middle, high(n), -high(n))
		}
	}
	d.Put(`"/>`)
}

func (d *doc) lifetimesSay(rows []lived) {
	switch {
	case len(rows) == 0 && d.s.BestEffort:
		d.Put(`No end of an entry was told yet; this backend does not tell all ends.`)
		return
	case len(rows) == 0:
		d.Put(`No entry whose insert was seen has ended yet.`)
		return
	}
	var n, unanswered uint64
	for i := range rows {
		n, unanswered = n+rows[i].n(), unanswered+rows[i].unanswered.N
	}
	d.Put(`{} that were seen to begin have ended since the start, {} of them ({}) without any answer.`, markup.Plural(n, "entry", "entries"), unanswered, markup.Percent(unanswered, n))
	for i := range rows {
		if i > 1 {
			break
		}
		d.Put(` The middle one of {} lived {}.`, rows[i].name, between(rows[i].median()))
	}
	if d.s.BestEffort {
		d.Put(` Best effort: this backend does not tell all ends.`)
	}
}
