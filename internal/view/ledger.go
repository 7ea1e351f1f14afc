package view

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// LedgerOptions say how the drop ledger is shown.
type LedgerOptions struct {
	Color   bool // text only
	Ruleset bool // list the drops by the operator's own rules too
	Top     int  // text only: rows of each table, 0 for 20
	Names   Names
}

// WriteLedgerText writes the ledger as tables.
func WriteLedgerText(w io.Writer, d *agg.Doc, o LedgerOptions) error {
	o.Top = cmp.Or(o.Top, 20)
	l := ledgerText{d: d, o: o, rows: ledgerRows(d, o), other: ledgerOther(d, o)}
	b := l.header(nil)
	b = l.reasons(b)
	b = l.sources(b)
	b = l.drops(b)
	b = l.evictions(b)
	b = l.destroys(b)
	b = l.tables(b)
	b = l.balance(b)
	b = l.loss(b)
	_, err := w.Write(b)
	return err
}

// ledgerRows are the rows of drops that the options ask for, largest first.
func ledgerRows(d *agg.Doc, o LedgerOptions) []agg.DropRow {
	if !o.Ruleset {
		return d.Drops
	}
	rows := slices.Concat(d.Drops, d.Ruleset)
	slices.SortStableFunc(rows, func(a, b agg.DropRow) int { return cmp.Compare(b.Count, a.Count) })
	return rows
}

func ledgerOther(d *agg.Doc, o LedgerOptions) agg.Other {
	if !o.Ruleset {
		return d.DropsOther
	}
	return agg.Other{Count: d.DropsOther.Count + d.RulesetOther.Count, Rows: d.DropsOther.Rows + d.RulesetOther.Rows}
}

type ledgerText struct {
	d     *agg.Doc
	o     LedgerOptions
	rows  []agg.DropRow
	other agg.Other
}

// sums of packets lost, and of those lost to the operator's rules.
func (l *ledgerText) sums() (lost, ruleset uint64) {
	for _, r := range l.d.Totals.Drop {
		if r.Reason.IsRuleset() {
			ruleset += r.Count
		} else {
			lost += r.Count
		}
	}
	return lost, ruleset
}

func (l *ledgerText) header(b []byte) []byte {
	lost, ruleset := l.sums()
	b = append(b, "ledger "...)
	b = l.d.From.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, " to "...)
	b = l.d.To.UTC().AppendFormat(b, "15:04:05.000Z")
	b = append(b, " ("...)
	b = appendDuration(b, l.d.To.Sub(l.d.From).Round(time.Millisecond))
	b = append(append(b, "), backend "...), safeName(l.d.Backend)...)
	b = fmt.Appendf(b, "\n%s lost", plural(lost, "packet"))
	b = fmt.Appendf(b, ", %s inserted", plural(l.d.Totals.New, "entry"))
	if ruleset > 0 {
		b = fmt.Appendf(b, "; %s dropped by the operator's own rules", plural(ruleset, "packet"))
		if !l.o.Ruleset {
			b = append(b, " (list them with --ruleset)"...)
		}
	}
	return append(b, '\n')
}

func (l *ledgerText) table(columns ...tableColumn) *table {
	return &table{columns: columns, indent: "  ", color: l.o.Color}
}

func num(n uint64) string { return strconv.FormatUint(n, 10) }

// plural is for messages: 1 packet, 2 packets.
func plural(n uint64, noun string) string {
	switch {
	case n == 1:
		return "1 " + noun
	case strings.HasSuffix(noun, "y"):
		return num(n) + " " + strings.TrimSuffix(noun, "y") + "ies"
	}
	return num(n) + " " + noun + "s"
}

func share(n, of uint64) string {
	if of == 0 {
		return ""
	}
	return strconv.FormatFloat(100*float64(n)/float64(of), 'f', 1, 64) + "%"
}

func (l *ledgerText) reasons(b []byte) []byte {
	lost, ruleset := l.sums()
	if l.o.Ruleset {
		lost += ruleset
	}
	t := l.table(tableColumn{title: "reason"}, tableColumn{title: "packets", right: true}, tableColumn{title: "share", right: true},
		tableColumn{title: "kernel counter"}, tableColumn{title: "what to do"})
	rows := slices.Clone(l.d.Totals.Drop)
	slices.SortStableFunc(rows, func(a, b agg.ReasonCount) int { return cmp.Compare(b.Count, a.Count) })
	for _, r := range rows {
		if r.Reason.IsRuleset() && !l.o.Ruleset {
			continue
		}
		counter, do := "", ""
		if info := r.Reason.Info(); info != nil {
			counter, do = cmp.Or(info.Counter, "none"), info.Do
		}
		t.add(r.Reason.String(), num(r.Count), share(r.Count, lost), counter, do)
	}
	if len(t.rows) > 0 {
		b = t.append(heading(b, l.o.Color, "drops by reason"))
	}
	return l.notes(b)
}

// notes are no loss, but belong to a counter.
func (l *ledgerText) notes(b []byte) []byte {
	if len(l.d.Totals.Note)+len(l.d.Totals.Invalid) == 0 {
		return b
	}
	t := l.table(tableColumn{title: "no loss"}, tableColumn{title: "events", right: true}, tableColumn{title: "kernel counter"})
	for _, r := range slices.Concat(l.d.Totals.Note, l.d.Totals.Invalid) {
		counter := ""
		if info := r.Reason.Info(); info != nil {
			counter = cmp.Or(info.Counter, "none")
		}
		t.add(r.Reason.String(), num(r.Count), counter)
	}
	return t.append(heading(b, l.o.Color, "notes"))
}

// sources sums the rows over destinations.
func (l *ledgerText) sources(b []byte) []byte {
	type source struct {
		netns event.NetNS
		src   netip.Addr
	}
	type sum struct {
		source
		n       uint64
		reasons map[event.Reason]uint64
	}
	by := map[source]*sum{}
	var sums []*sum
	for _, r := range l.rows {
		k := source{r.NetNS, r.Src}
		s := by[k]
		if s == nil {
			s = &sum{source: k, reasons: map[event.Reason]uint64{}}
			by[k], sums = s, append(sums, s)
		}
		s.n += r.Count
		s.reasons[r.Reason] += r.Count
	}
	if len(sums) == 0 {
		return b
	}
	slices.SortStableFunc(sums, func(a, b *sum) int { return cmp.Or(cmp.Compare(b.n, a.n), a.src.Compare(b.src)) })
	t := l.table(tableColumn{title: "source"}, tableColumn{title: "packets", right: true}, tableColumn{title: "netns"}, tableColumn{title: "reasons"})
	rest := l.other
	for i, s := range sums {
		if i >= l.o.Top {
			rest.Count += s.n
			rest.Rows++
			continue
		}
		t.add(addrText(s.src), num(s.n), l.netns(s.netns), reasonsText(s.reasons))
	}
	addOther(t, rest)
	return t.append(heading(b, l.o.Color, "drops by source"))
}

// reasonsText lists reasons with their counts, largest first.
func reasonsText(m map[event.Reason]uint64) string {
	rs := make([]agg.ReasonCount, 0, len(m))
	for r, n := range m {
		rs = append(rs, agg.ReasonCount{Reason: r, Count: n})
	}
	slices.SortFunc(rs, func(a, b agg.ReasonCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Reason, b.Reason))
	})
	var out []string
	for _, r := range rs {
		out = append(out, fmt.Sprintf("%s %d", r.Reason, r.Count))
	}
	return strings.Join(out, ", ")
}

// addOther ends a table with the sum of what it does not show.
func addOther(t *table, o agg.Other) {
	if o.Count > 0 {
		t.add("other", num(o.Count), "", fmt.Sprintf("in %s", plural(o.Rows, "row")))
	}
}

func (l *ledgerText) drops(b []byte) []byte {
	if len(l.rows) == 0 {
		return b
	}
	t := l.table(tableColumn{title: "reason"}, tableColumn{title: "packets", right: true}, tableColumn{title: "proto"}, tableColumn{title: "source > destination"}, tableColumn{title: "netns"})
	rest := l.other
	for i, r := range l.rows {
		if i >= l.o.Top {
			rest.Count += r.Count
			rest.Rows++
			continue
		}
		t.add(r.Reason.String(), num(r.Count), event.ProtoName(r.Proto), flowText(r), l.netns(r.NetNS))
	}
	addOther(t, rest)
	return t.append(heading(b, l.o.Color, "drops by reason, source and destination"))
}

// flowText is a row's flow without the source port, which rows do not have.
func flowText(r agg.DropRow) string {
	if !r.Dst.IsValid() && !r.Src.IsValid() {
		return "?"
	}
	u := event.Tuple{Dst: r.Dst, Dport: r.Dport, Proto: r.Proto}
	b := appendAddrPort([]byte(addrText(r.Src)+" > "), &u, false)
	if u.IsICMP() {
		typ, code, _ := u.ICMP()
		b = fmt.Appendf(b, " type %d code %d", typ, code)
	}
	return string(b)
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return "?"
	}
	return a.String()
}

func (l *ledgerText) netns(n event.NetNS) string { return netnsText(n, l.o.Names.netns(n)) }

func netnsText(n event.NetNS, name string) string {
	if name == "" {
		return n.String()
	}
	return n.String() + " (" + safeName(name) + ")"
}

func (l *ledgerText) evictions(b []byte) []byte {
	if len(l.d.Evictions) == 0 {
		return b
	}
	t := l.table(tableColumn{title: "victim"}, tableColumn{title: "entries", right: true}, tableColumn{title: "culprit"}, tableColumn{title: "netns"}, tableColumn{title: "for example"})
	rest := l.d.EvictionsOther
	for i, r := range l.d.Evictions {
		if i >= l.o.Top {
			rest.Count += r.Count
			rest.Rows++
			continue
		}
		example := fmt.Sprintf("%s %s by %s %s", event.ProtoName(r.Entry.Proto), appendTuple(nil, &r.Entry), event.ProtoName(r.By.Proto), appendTuple(nil, &r.By))
		if r.By.IsZero() {
			example = fmt.Sprintf("%s %s", event.ProtoName(r.Entry.Proto), appendTuple(nil, &r.Entry))
		}
		t.add(addrText(r.Victim), num(r.Count), addrText(r.Culprit), l.netns(r.NetNS), example)
	}
	addOther(t, rest)
	return t.append(heading(b, l.o.Color, "entries evicted early: whose, and whose packet took the place"))
}

func (l *ledgerText) destroys(b []byte) []byte {
	if len(l.d.Totals.Destroy) == 0 {
		return b
	}
	t := l.table(tableColumn{title: "cause"}, tableColumn{title: "entries", right: true}, tableColumn{title: "what the kernel did"})
	rows := slices.Clone(l.d.Totals.Destroy)
	slices.SortStableFunc(rows, func(a, b agg.CauseCount) int { return cmp.Compare(b.Count, a.Count) })
	for _, r := range rows {
		what := ""
		if int(r.Cause) < len(event.Causes) {
			what = event.Causes[r.Cause].Kernel
		}
		t.add(r.Cause.String(), num(r.Count), what)
	}
	return t.append(heading(b, l.o.Color, "destroys by cause"))
}

func (l *ledgerText) loss(b []byte) []byte {
	b = append(heading(b, l.o.Color, "our own records"), "  "...)
	lossText(&l.d.Loss, func(sgr, text string) { b = appendColour(b, l.o.Color && sgr != "", sgr, text) })
	return append(b, '\n')
}

// lossText writes the account of our own records in pieces with their colours.
func lossText(x *agg.Loss, put func(sgr, text string)) {
	put("", fmt.Sprintf("%d seen = %d delivered + %d aggregated + ", x.Seen, x.Delivered, x.Aggregated))
	lost := ""
	if x.Lost > 0 {
		lost = red
	}
	put(lost, num(x.Lost)+" lost")
	for i, s := range x.ByStage {
		sep := ", "
		if i == 0 {
			sep = " ("
		}
		put("", fmt.Sprintf("%s%s %d", sep, s.Stage, s.Lost))
	}
	if len(x.ByStage) > 0 {
		put("", ")")
	}
	if r := x.Residual(); r != 0 {
		put(red, fmt.Sprintf(", %d unexplained", r))
	}
}
