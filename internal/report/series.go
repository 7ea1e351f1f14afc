package report

import (
	"encoding/json"

	"github.com/ctsight/ctsight/internal/markup"
)

// What the script draws again when somebody zooms: the fine columns, as JSON in the
// document. Without the script the pictures are of the wide ones.

// seriesDoc is that. Times are seconds since 1970; arrays have a number for each fine
// column, and begin and end where a wide one does.
type seriesDoc struct {
	From  float64              `json:"from"`
	Step  float64              `json:"step"`
	Per   int                  `json:"per"`  // of a wide column
	N     int                  `json:"n"`    // wide columns
	Told  bool                 `json:"told"` // whether records are missing is known
	Gaps  [][2]int             `json:"gaps"` // from one to before another
	Rates ratesSeries          `json:"rates"`
	Table *tableSeries         `json:"occupancy,omitempty"`
	Maps  map[string]mapSeries `json:"maps"` // by their sections
}

// mapSeries is the rows of a map from the top, with a number for each wide column.
type mapSeries struct {
	H     int        `json:"h"` // of a row
	Names []string   `json:"names"`
	N     [][]uint64 `json:"n"`
}

type ratesSeries struct {
	New  []uint64 `json:"new"`
	Peak []uint64 `json:"peak"` // in 10 ms
	Lost []uint64 `json:"lost,omitempty"`
}

type tableSeries struct {
	Classes []classSeries `json:"classes"` // from the bottom
	Kernel  []uint64      `json:"kernel,omitempty"`
	Max     [][2]uint64   `json:"max,omitempty"` // from which column on
	Levels  []int         `json:"levels,omitempty"`
	Fans    []fanSeries   `json:"fans,omitempty"`
}

type classSeries struct {
	Name string   `json:"name"`
	Fill string   `json:"fill"`
	N    []uint64 `json:"n"`
}

// fanSeries is a forecast, as it is drawn: points of time and entries.
type fanSeries struct {
	Band     [][2]float64 `json:"band"`
	Expected [][2]float64 `json:"expected,omitempty"`
}

// fine makes the array of a number of each fine column.
func fine[T any](d *Data, all []T, of func(*T) uint64) []uint64 {
	out := make([]uint64, len(d.Columns)<<fineBits)
	for i := range all {
		out[d.Lead+i] = of(&all[i])
	}
	return out
}

// series writes what the script needs.
func (d *doc) series() {
	x := d.data
	s := seriesDoc{From: float64(x.Start.UnixNano()) / 1e9, Step: x.Width.Seconds() / (1 << fineBits), Per: 1 << fineBits, N: len(x.Columns), Told: x.LossTold, Gaps: [][2]int{}, Maps: d.maps,
		Rates: ratesSeries{New: fine(x, x.Fine, newOf), Peak: fine(x, x.Fine, peakOf)}}
	if x.lostPackets() > 0 {
		s.Rates.Lost = fine(x, x.Fine, droppedOf)
	}
	runs(len(x.Fine), func(i int) bool { return x.Fine[i].Gap }, func(from, to int) { s.Gaps = append(s.Gaps, [2]int{x.Lead + from, x.Lead + to}) })
	if t := x.main(); t != nil {
		s.Table = d.tableSeries(t)
	}
	b, err := json.Marshal(s) // which escapes < and >
	if err != nil {           // a time that no clock shows
		return
	}
	d.Put(`<script type="application/json" id="series">{}</script>`+"\n", markup.Text(b))
}

func (d *doc) tableSeries(t *TableData) *tableSeries {
	x := d.data
	out := &tableSeries{Fans: d.drawnFans}
	for _, c := range stacked {
		if t.has(c) {
			out.Classes = append(out.Classes, classSeries{c.String(), string(classFill[c]), fine(x, t.Fine, func(h *Hold) uint64 { return uint64(h.By[c]) })})
		}
	}
	if t.Counted {
		out.Kernel = fine(x, t.Fine, func(h *Hold) uint64 { return h.Kernel })
	}
	if !t.showsLimit() {
		return out
	}
	out.Levels = levels[:]
	last := uint64(0)
	for i, n := range fine(x, t.Fine, func(h *Hold) uint64 { return h.Max }) {
		if n != last {
			out.Max, last = append(out.Max, [2]uint64{uint64(i), n}), n
		}
	}
	return out
}
