package view

import (
	"fmt"
	"strconv"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// tables shows the fill of each namespace's table before and after.
func (l *ledgerText) tables(b []byte) []byte {
	t := l.table(tableColumn{title: "netns"}, tableColumn{title: "before", right: true}, tableColumn{title: "after", right: true},
		tableColumn{title: "max", right: true}, tableColumn{title: "fill", right: true})
	for _, k := range l.d.Kernel {
		fill := ""
		if k.CountAfter != nil && k.Max != nil {
			fill = share(*k.CountAfter, *k.Max)
		}
		t.add(l.deltaName(k), known(k.CountBefore), known(k.CountAfter), known(k.Max), fill)
	}
	if len(t.rows) == 0 {
		return b
	}
	return t.append(heading(b, l.o.Color, "tables"))
}

func (l *ledgerText) deltaName(k agg.KernelDelta) string {
	return netnsText(k.NetNS, l.o.Names.table(k.NetNS, k.Name))
}

// balance shows every counter of a namespace where something was counted, with
// its difference also when that is 0. Namespaces at rest share one line.
func (l *ledgerText) balance(b []byte) []byte {
	t := l.table(tableColumn{title: "netns"}, tableColumn{title: "counter"}, tableColumn{title: "traced", right: true},
		tableColumn{title: "kernel", right: true}, tableColumn{title: "difference", right: true, sgr: differenceColour}, tableColumn{title: "note"})
	busy := map[event.NetNS]bool{}
	atRest := map[event.NetNS]bool{}
	for _, r := range l.d.Balance {
		busy[r.NetNS] = busy[r.NetNS] || some(r.Traced) || some(r.Kernel)
	}
	for _, r := range l.d.Balance {
		if !busy[r.NetNS] {
			atRest[r.NetNS] = true
			continue
		}
		note := "" // why there is a difference, or why there is none to show
		if some(r.Difference) || r.Traced != nil && r.Kernel == nil {
			note = r.Note
		}
		t.add(l.balanceName(r.NetNS), r.Counter.String(), known(r.Traced), known(r.Kernel), known(r.Difference), note)
	}
	if len(l.d.Balance) == 0 {
		return b
	}
	b = heading(b, l.o.Color, "balance: what was traced against the kernel's own counters")
	if len(t.rows) > 0 {
		b = t.append(b)
	}
	if n := uint64(len(atRest)); n > 0 {
		b = fmt.Appendf(b, "  %s in which neither side counted anything: no difference\n", plural(n, "network namespace"))
	}
	return b
}

// balanceName prefers the name that came with the kernel's counters.
func (l *ledgerText) balanceName(n event.NetNS) string {
	for _, k := range l.d.Kernel {
		if k.NetNS == n {
			return l.deltaName(k)
		}
	}
	return l.netns(n)
}

func differenceColour(cell string) string {
	if cell == "0" || cell == unknown {
		return ""
	}
	return red
}

// unknown stands for a number that nobody has, which is not 0.
const unknown = "-"

func known[T int64 | uint64](n *T) string {
	switch {
	case n == nil:
		return unknown
	case *n < 0:
		return strconv.FormatInt(int64(*n), 10)
	}
	return strconv.FormatUint(uint64(*n), 10)
}

func some(n *int64) bool { return n != nil && *n != 0 }
