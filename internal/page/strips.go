package page

import "math"

// Strips are rows of cells, one cell a second: who, or why, against when. The more
// there was, the darker and the taller a cell, so that it can be read without
// colour.

const (
	rowLabel = 19 // pixels above each strip, for its name
	rowCell  = 16
	rowH     = rowLabel + rowCell + 3
	levels   = 6
)

// strip is one row.
type strip struct {
	name, right string
	class       markup
	per         []float64
}

// ladder are the levels of a picture: the lowest counts from which each begins,
// 1, 3, 10, 30 and so on up to the highest there is.
type ladder [levels]float64

func newLadder(most float64) (l ladder) {
	top := 0
	for step(top+1) <= most {
		top++
	}
	for i := range l {
		l[i] = step(max(top, levels-1) - levels + 1 + i)
	}
	return l
}

// step is 1, 3, 10, 30, ...
func step(i int) float64 {
	n := math.Pow10(i / 2)
	if i%2 == 1 {
		n *= 3
	}
	return n
}

// level is -1 for nothing; what is below the lowest counts as that.
func (l *ladder) level(n float64) int {
	if n <= 0 {
		return -1
	}
	for i := levels - 1; i > 0; i-- {
		if n >= l[i] {
			return i
		}
	}
	return 0
}

// cellHeight is how tall a level is.
func cellHeight(level int) int { return 6 + 2*level }

// strips draws rows of cells between begin and end of the plot.
func (p *plot) strips(rows []strip, l *ladder) {
	for i := range rows {
		y := i * rowH
		p.put(`<path class="floor" d="M0 {}h{}"/>`, y+rowLabel+rowCell, seconds)
		for level := range levels {
			p.cells(&rows[i], l, level, y+rowLabel+rowCell)
		}
	}
}

// cells draws the seconds of one level.
func (p *plot) cells(r *strip, l *ladder, level, bottom int) {
	h, drawn, at := cellHeight(level), false, 0
	for i := 0; i < seconds; i++ {
		if l.level(r.per[i]) != level {
			continue
		}
		from := i
		for i < seconds && l.level(r.per[i]) == level {
			i++
		}
		if !drawn {
			p.put(`<path class="{}{}" stroke-width="{}" d="M{} {}`, r.class, level, h, from, float64(bottom)-float64(h)/2)
			drawn = true
		} else {
			p.put(`m{} 0`, from-at)
		}
		p.put(`h{}`, i-from)
		at = i
	}
	if drawn {
		p.put(`"/>`)
	}
}

// names are written above the strips, over the stretched part.
func (p *plot) names(rows []strip) {
	for i := range rows {
		y := head + i*rowH + rowLabel - 5
		p.put(`<text class="name" x="0" y="{}">{}</text><text class="right" x="100%" y="{}">{}</text>`, y, rows[i].name, y, rows[i].right)
	}
}

// legend says what the levels are.
func (w *writer) legend(class markup, l *ladder, unit string) {
	w.put(`<p class="legend"><span class="soft">{}</span>`, unit)
	for i := range levels {
		h := cellHeight(i)
		w.put(` <span><svg width="22" height="18" aria-hidden="true"><rect class="{}{}" y="{}" width="22" height="{}"/></svg> `, class, i, 17-h, h)
		switch {
		case i == levels-1:
			w.put(`{} and more</span>`, uint64(l[i]))
		case i == 0 && l[0] > 1:
			w.put(`below {}</span>`, uint64(l[1]))
		case l[i+1]-l[i] == 1:
			w.put(`{}</span>`, uint64(l[i]))
		default:
			w.put(`{}–{}</span>`, uint64(l[i]), uint64(l[i+1])-1)
		}
	}
	w.put(`</p>`)
}
