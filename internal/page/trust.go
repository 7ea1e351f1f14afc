package page

import (
	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/view"
)

// trust is our own account: records lost, difference to the kernel, hooks missing.
func (d *doc) trust() {
	d.begin("trust", "Can this be trusted?")
	d.trustSay()
	d.Put(`</figcaption>`)
	l := &d.s.Loss
	d.Put(`<div class="side">`)
	d.List("trust", "Our records", "our records", "#since the start")
	d.Row("seen in the kernel", l.Seen)
	d.Row("delivered one by one", l.Delivered)
	d.Row("as sums", l.Aggregated)
	d.Row("lost", l.Lost)
	for _, s := range l.ByStage {
		if s.Lost > 0 {
			d.Row("lost: "+view.Name(s.Stage), s.Lost)
		}
	}
	if r := l.Residual(); r != 0 {
		d.Row("not explained", markup.Number(signed(r)))
	}
	d.Put(markup.EndList)
	if len(d.s.Difference) > 0 {
		d.List("ledger", "Differences to the kernel", "counter of the kernel", "#traced minus kernel")
		for _, c := range d.s.Difference {
			d.Row(c.Counter.String(), markup.Number(signed(c.Difference)))
		}
		d.Put(markup.EndList)
	}
	if missing := d.missing(); len(missing) > 0 {
		d.List("hooks", "Hooks that are not attached", "hook not attached", "what is missing without it")
		for _, h := range missing {
			d.Row(view.Name(h.Symbol), markup.Prose(markup.Sentence(h.Lost)))
		}
		d.Put(markup.EndList)
	}
	d.Put(`</div>` + endFigure)
}

func (d *doc) missing() (out []agg.HookState) {
	for _, h := range d.s.Hooks {
		if h.Backend == "" {
			out = append(out, h)
		}
	}
	return out
}

func (d *doc) trustSay() {
	l := &d.s.Loss
	switch {
	case l.Residual() != 0:
		d.Put(`<b>{} records are not explained</b>: a mistake in ctsight, please report it.`, signed(l.Residual()))
	case l.Lost > 0:
		d.Put(`<b>{} of {} records of events were lost</b>`, l.Lost, l.Seen)
		if d.past.lost > 0 {
			d.Put(`, {} of them in the last {}`, d.past.lost, d.window())
		}
		d.Put(`: sources and examples may miss some; sums and drops by reason stay exact.`)
	default:
		d.Put(`No record of {} was lost.`, l.Seen)
	}
	off := 0
	for _, c := range d.s.Difference {
		if c.Difference != 0 {
			off++
		}
	}
	switch {
	case len(d.s.Difference) == 0:
		d.Put(` Nothing was compared with the kernel's own counters yet.`)
	case off == 0:
		d.Put(` What was traced equals the kernel's own counters, all {} of them.`, len(d.s.Difference))
	default:
		d.Put(` {} differ from what was traced.`, markup.Plural(uint64(off), "of the kernel's counters", "of the kernel's counters"))
	}
	if n := uint64(len(d.missing())); n > 0 {
		d.Put(` {} not attached.`, markup.Plural(n, "hook is", "hooks are"))
	}
}

func signed(n int64) string {
	switch {
	case n > 0:
		return "+" + markup.Count(uint64(n))
	case n < 0:
		return "−" + markup.Count(-uint64(n))
	}
	return "0"
}
