package page

import (
	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/view"
)

// reliefs are temporary changes of sysctls, those that are open first.
func (d *doc) reliefs() {
	open, overdue, alone := 0, 0, 0
	for i := range d.s.Reliefs {
		switch r := &d.s.Reliefs[i]; {
		case r.Overdue:
			open, overdue = open+1, overdue+1
		case r.Open:
			open++
		case r.State == "left_alone":
			alone++
		}
	}
	d.begin("relief", "Temporary changes")
	d.Put(`{} open`, markup.Plural(uint64(open), "change of a sysctl is", "changes of sysctls are"))
	if overdue > 0 {
		d.Put(`, <b>{} overdue</b>: <code>ctsight relief list</code> says why`, overdue)
	}
	d.Put(`.`)
	if alone > 0 {
		d.Put(` <b>{} left alone</b> within a day, since somebody else has written: look whether that is meant.`, markup.Plural(uint64(alone), "was", "were"))
	}
	d.Put(`</figcaption>`)
	d.List("relief", "Temporary changes", "state", "sysctl", "netns", "#found", "#set", "#now", "until (UTC)", "reason", "by", "what happened")
	for _, first := range []bool{true, false} {
		for i := range d.s.Reliefs {
			if r := &d.s.Reliefs[i]; r.Open == first {
				d.relief(r)
			}
		}
	}
	d.Put(markup.EndList + endFigure)
}

func (d *doc) relief(r *agg.Relief) {
	now, last, ns := "", "", d.netnsName(r.NetNS)
	if r.Present != nil {
		now = markup.Count(*r.Present)
	}
	if n := len(r.Notes); n > 0 {
		last = markup.Sentence(r.Notes[n-1].Text)
	}
	if r.NetNSName != "" { // as it was called then
		ns = d.o.Names.TableText(&agg.TableState{NetNS: r.NetNS, Name: r.NetNSName})
	}
	d.Row(view.ReliefState(r), view.Name(r.Sysctl), ns, r.Found, r.Set, markup.Number(now),
		r.Expires.UTC().Format("01-02 15:04:05"), view.Name(r.Reason), view.Name(r.Who), markup.Prose(last))
}
