package page

import (
	"slices"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/view"
)

// keptRows is how many recordings are shown, the newest ones.
const keptRows = 20

// flight is the flight recorder: how far back it reaches, and what is kept.
func (d *doc) flight() {
	f := d.s.Flight
	d.begin("flight", "Flight recorder")
	d.flightSay(f)
	d.Put(`</figcaption>`)
	if len(f.Kept) > 0 {
		d.List("flight", "Recordings that are kept", "kept around", "#size", "to read it")
		for i, k := range slices.Backward(f.Kept) {
			if len(f.Kept)-i > keptRows {
				break
			}
			why := view.Name(k.Name)
			if k.Why != "" {
				why = markup.Sentence(k.Why)
			}
			d.Row(markup.Prose(why), markup.Number(view.BytesText(uint64(k.Bytes))), "ctsight report --from "+view.Text(k.Dir))
		}
		d.Put(markup.EndList)
	}
	d.Put(endFigure)
}

func (d *doc) flightSay(f *agg.Flight) {
	if f.Err != "" {
		d.Put(`<b>It cannot record or keep what it should now:</b> {}. `, markup.Sentence(f.Err))
	}
	d.Put(`It reaches back to {} UTC`, f.Oldest.UTC().Format("2006-01-02 15:04:05"))
	if back := d.s.At.Sub(f.Oldest); back > 0 {
		d.Put(` ({})`, view.Span(back.Round(1e9)))
	}
	d.Put(`, with {} in {}: <code>ctsight report --from {}</code> reads it.`, view.BytesText(uint64(f.Bytes)), markup.Plural(uint64(f.Segments), "file", "files"), view.Text(f.Dir))
	if f.Lost > 0 {
		d.Put(` <b>{} of {} events were not recorded.</b>`, f.Lost, f.Events+f.Lost)
	}
	if n := uint64(len(f.Kept)); n > keptRows {
		d.Put(` {} are kept, of which the newest {} stand here.`, n, keptRows)
	}
	if f.Omitted > 0 {
		d.Put(` Around {} nothing was kept, since too many came within an hour.`, markup.Plural(f.Omitted, "finding or threshold", "findings or thresholds"))
	}
}
