package page

import (
	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/view"
)

// trust is our own account: records lost, difference to the kernel, hooks missing.
func (d *doc) trust() {
	d.begin("trust", "Can this be trusted?")
	d.trustSay()
	d.put(`</figcaption>`)
	l := &d.s.Loss
	d.put(`<div class="side">`)
	d.list("trust", "Our records", "our records", "#since the start")
	d.row("seen in the kernel", l.Seen)
	d.row("delivered one by one", l.Delivered)
	d.row("as sums", l.Aggregated)
	d.row("lost", l.Lost)
	for _, s := range l.ByStage {
		if s.Lost > 0 {
			d.row("lost: "+view.Name(s.Stage), s.Lost)
		}
	}
	if r := l.Residual(); r != 0 {
		d.row("not explained", number(signed(r)))
	}
	d.put(endList)
	if len(d.s.Difference) > 0 {
		d.list("ledger", "Differences to the kernel", "counter of the kernel", "#traced minus kernel")
		for _, c := range d.s.Difference {
			d.row(c.Counter.String(), number(signed(c.Difference)))
		}
		d.put(endList)
	}
	if missing := d.missing(); len(missing) > 0 {
		d.list("hooks", "Hooks that are not attached", "hook not attached", "what is missing without it")
		for _, h := range missing {
			d.row(view.Name(h.Symbol), prose(sentence(h.Lost)))
		}
		d.put(endList)
	}
	d.put(`</div>` + endFigure)
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
		d.put(`<b>{} records are not explained</b>: a mistake in ctsight, please report it.`, signed(l.Residual()))
	case l.Lost > 0:
		d.put(`<b>{} of {} records of events were lost</b>`, l.Lost, l.Seen)
		if d.past.lost > 0 {
			d.put(`, {} of them in the last {}`, d.past.lost, d.window())
		}
		d.put(`: sources and examples may miss some; sums and drops by reason stay exact.`)
	default:
		d.put(`No record of {} was lost.`, l.Seen)
	}
	off := 0
	for _, c := range d.s.Difference {
		if c.Difference != 0 {
			off++
		}
	}
	switch {
	case len(d.s.Difference) == 0:
		d.put(` Nothing was compared with the kernel's own counters yet.`)
	case off == 0:
		d.put(` What was traced equals the kernel's own counters, all {} of them.`, len(d.s.Difference))
	default:
		d.put(` {} differ from what was traced.`, plural(uint64(off), "of the kernel's counters", "of the kernel's counters"))
	}
	if n := uint64(len(d.missing())); n > 0 {
		d.put(` {} not attached.`, plural(n, "hook is", "hooks are"))
	}
}

func signed(n int64) string {
	switch {
	case n > 0:
		return "+" + count(uint64(n))
	case n < 0:
		return "−" + count(-uint64(n))
	}
	return "0"
}
