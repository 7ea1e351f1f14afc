package page

import (
	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/svg"
)

// Strips are rows of cells, one cell a second: who, or why, against when. The more
// there was, the darker and the taller a cell, so that it can be read without
// colour.

const (
	rowLabel = 19 // pixels above each strip, for its name
	rowCell  = 16
	rowH     = rowLabel + rowCell + 3
)

// strip is one row.
type strip struct {
	name, right string
	class       markup.Text
	per         []float64
}

// cellHeight is how tall a level is.
func cellHeight(level int) int { return 6 + 2*level }

// strips draws rows of cells between begin and end of the plot.
func (p *plot) strips(rows []strip, l *svg.Ladder) {
	for i := range rows {
		y := i * rowH
		p.Put(`<path class="floor" d="M0 {}h{}"/>`, y+rowLabel+rowCell, seconds)
		for level := range svg.Levels {
			p.cells(&rows[i], l, level, y+rowLabel+rowCell)
		}
	}
}

// cells draws the seconds of one level.
func (p *plot) cells(r *strip, l *svg.Ladder, level, bottom int) {
	h, drawn, at := cellHeight(level), false, 0
	for i := 0; i < seconds; i++ {
		if l.Level(r.per[i]) != level {
			continue
		}
		from := i
		for i < seconds && l.Level(r.per[i]) == level {
			i++
		}
		if !drawn {
			p.Put(`<path class="{}{}" stroke-width="{}" d="M{} {}`, r.class, level, h, from, float64(bottom)-float64(h)/2)
			drawn = true
		} else {
			p.Put(`m{} 0`, from-at)
		}
		p.Put(`h{}`, i-from)
		at = i
	}
	if drawn {
		p.Put(`"/>`)
	}
}

// names are written above the strips, over the stretched part.
func (p *plot) names(rows []strip) {
	for i := range rows {
		y := head + i*rowH + rowLabel - 5
		p.Put(`<text class="name" x="0" y="{}">{}</text><text class="right" x="100%" y="{}">{}</text>`, y, rows[i].name, y, rows[i].right)
	}
}

// legend says what the levels are.
func (d *doc) legend(class markup.Text, l *svg.Ladder, unit string) {
	d.Put(`<p class="legend"><span class="soft">{}</span>`, unit)
	for i := range svg.Levels {
		h := cellHeight(i)
		d.Put(` <span><svg width="22" height="18" aria-hidden="true"><rect class="{}{}" y="{}" width="22" height="{}"/></svg> `, class, i, 17-h, h)
		switch {
		case i == svg.Levels-1:
			d.Put(`{} and more</span>`, uint64(l[i]))
		case i == 0 && l[0] > 1:
			d.Put(`below {}</span>`, uint64(l[1]))
		case l[i+1]-l[i] == 1:
			d.Put(`{}</span>`, uint64(l[i]))
		default:
			d.Put(`{}–{}</span>`, uint64(l[i]), uint64(l[i+1])-1)
		}
	}
	d.Put(`</p>`)
}
