package view

import (
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/plan"
	"github.com/ctsight/ctsight/internal/triage"
)

// PlanOptions say how a plan is shown.
type PlanOptions struct {
	Color bool // text only
	Names Names
}

// WritePlanText writes a plan: what each class costs, what is needed, what would have
// been, and a file that could be made of it.
func WritePlanText(w io.Writer, d *plan.Doc, o PlanOptions) error {
	t := planText{d: d, o: o}
	t.head()
	t.costs()
	t.need()
	t.whatIf()
	for _, n := range d.Notes {
		t.wrapped("note: " + n)
	}
	t.b = heading(t.b, o.Color, "a file for /etc/sysctl.d (ctsight does not write it)")
	t.b = append(t.b, d.Sysctl()...)
	_, err := w.Write(t.b)
	return err
}

type planText struct {
	b []byte
	d *plan.Doc
	o PlanOptions
}

func (t *planText) line(format string, args ...any) { t.b = fmt.Appendf(t.b, format+"\n", args...) }

func (t *planText) wrapped(text string) {
	for _, l := range wrap(inCells(text), triageWidth) {
		t.line("%s", l)
	}
}

// fact writes a word and what it says, in lines.
func (t *planText) fact(name, format string, args ...any) {
	for i, l := range wrap(inCells(fmt.Sprintf(format, args...)), triageWidth-10) {
		if i > 0 {
			name = ""
		}
		t.line("%-9s %s", name, l)
	}
}

func (t *planText) head() {
	t.b = appendColour(t.b, t.o.Color, bold, "ctsight plan")
	about := ""
	if d := t.d; d.NetNS != 0 {
		about = "  about netns " + nameInCells(d.NetNS.String())
		if name := t.o.Names.netns(d.NetNS); name != "" {
			about = "  about netns " + nameInCells(name)
		}
	}
	t.line("  %s  %s  %s%s\n", t.d.From.UTC().Format("2006-01-02T15:04:05Z"), span(t.d.To.Sub(t.d.From)), nameInCells(t.d.Source), about)
	t.b = t.b[:len(t.b)-1] // a heading begins with a line
}

func (t *planText) costs() {
	t.b = heading(t.b, t.o.Color, fmt.Sprintf("%-15s %8s %7s %9s %8s %8s %8s %6s", "class", "new/s", "peak 1s", "peak 10ms", "lifetime", "entries", "offered", "share"))
	for i := range t.d.Classes {
		t.cost(t.d.Classes[i].Class.String(), &t.d.Classes[i])
	}
	t.cost("all", &t.d.Total)
	t.line("")
}

func (t *planText) cost(name string, c *plan.Cost) {
	life := "-"
	if c.Arrivals > 0 {
		life = fmt.Sprintf("%.1fs", c.Life.Seconds())
	}
	if c.AtLeast {
		life = ">" + life
	}
	t.line("%-15s %8.1f %7d %9d %8s %8.0f %8.0f %5.1f%%", name, c.Rate, c.Peak1s, c.Peak10ms, life, c.Mean, c.Offered, 100*c.Share)
}

// need tells what the limit must be, and what that takes.
func (t *planText) need() {
	d, n := t.d, &t.d.Need
	t.fact("needed", "%.0f entries: the more of %d seen and %.0f offered with its peaks (dispersion %.1f)", n.Peak, d.Today.Peak, d.Total.Offered, d.Total.Dispersed)
	limit := fmt.Sprintf("%d: at the peak %.0f %% of it are taken", n.Limit, 100*plan.Levels[0])
	switch {
	case d.Kernel.Max == 0:
	case d.Kernel.Max >= n.Limit:
		limit += fmt.Sprintf("; today %d, which is enough", d.Kernel.Max)
	default:
		limit += fmt.Sprintf("; today %d, which is too few", d.Kernel.Max)
	}
	t.fact("limit", "%s", limit)
	buckets := fmt.Sprintf("%d: one for each", n.Buckets)
	if d.Kernel.Buckets > 0 {
		buckets += fmt.Sprintf("; today %d", d.Kernel.Buckets)
	}
	t.fact("buckets", "%s", buckets)
	if d.Memory.Object > 0 {
		t.fact("memory", "%s when full, %s at the peak; %d bytes an entry and 8 a bucket", BytesText(d.Bytes(n.Suggest, n.Buckets)),
			BytesText(d.Bytes(d.Today.Peak, d.Memory.Buckets)), d.Memory.Object+triage.Extensions)
	}
	for _, p := range d.Pools {
		t.fact("NAT ports", "%s", poolText(&p))
	}
}

func poolText(p *plan.PoolNeed) string {
	return fmt.Sprintf("%d at once from %s to %s %s: addresses: %d", p.Peak, p.Addr, event.ProtoName(p.Proto), netip.AddrPortFrom(p.Dst, p.Port), p.Addresses)
}

// whatIf puts both runs beside each other.
func (t *planText) whatIf() {
	d := t.d
	if d.Then == nil {
		t.line("")
		return
	}
	t.b = heading(t.b, t.o.Color, fmt.Sprintf("%-28s %12s %12s", "what if: "+changesText(&d.WhatIf), "today", "then"))
	row := func(name, format string, of func(*plan.Run) any) {
		t.line("%-28s %12s %12s", name, fmt.Sprintf(format, of(&d.Today)), fmt.Sprintf(format, of(d.Then)))
	}
	row("limit", "%d", func(r *plan.Run) any { return r.Max })
	row("entries, mean", "%.0f", func(r *plan.Run) any { return r.Mean })
	row("entries, at most", "%d", func(r *plan.Run) any { return r.Peak })
	row("connections", "%d", func(r *plan.Run) any { return r.Arrivals })
	row("refused (table_full)", "%d", func(r *plan.Run) any { return r.Drops })
	row("evicted (early_drop)", "%d", func(r *plan.Run) any { return r.Evicted })
	row("evicted (early_drop_gc)", "%d", func(r *plan.Run) any { return r.EvictedGC })
	for i, l := range plan.Levels {
		row(fmt.Sprintf("time over %.0f %%", 100*l), "%.1f%%", func(r *plan.Run) any { return 100 * r.Above[i] })
	}
	if d.Memory.Object > 0 {
		row("memory when full", "%s", func(r *plan.Run) any { return BytesText(d.Bytes(max(r.Max, r.Peak), d.Memory.Buckets)) })
	}
	t.line("%-28s %12.0f %12.0f", "settles at", d.Total.Offered, d.Settles)
	t.line("%-28s %12d %12d\n", "limit that is needed", d.Need.Limit, d.ThenNeed.Limit)
}

// changesText is what is different, as it was asked for.
func changesText(w *plan.WhatIf) string {
	var parts []string
	if w.Max != 0 {
		parts = append(parts, fmt.Sprintf("max=%d", w.Max))
	}
	for _, c := range w.Timeouts {
		parts = append(parts, fmt.Sprintf("%s=%s", c.Timer.Short(), c.To))
	}
	if w.Factor != 0 && w.Factor != 1 {
		parts = append(parts, fmt.Sprintf("x%g", w.Factor))
	}
	return strings.Join(parts, " ")
}

// The JSON of plan.
type (
	planDoc struct {
		From    stamp       `json:"from"`
		To      stamp       `json:"to"`
		Source  outside     `json:"source"`
		NetNS   event.NetNS `json:"netns,omitempty"`
		Max     *uint64     `json:"max"` // null when not known
		Buckets *uint64     `json:"buckets"`
		Classes []planCost  `json:"classes"`
		Total   planCost    `json:"total"`
		Need    planNeed    `json:"need"`
		Pools   []planPool  `json:"nat_pools"`
		Today   planRun     `json:"today"`
		Then    *planRun    `json:"then"` // null when nothing is to be different
		WhatIf  *planWhatIf `json:"what_if"`
		Notes   []outside   `json:"notes"`
		Sysctl  outside     `json:"sysctl"`
	}
	planCost struct {
		Class      string `json:"class"`
		New        uint64 `json:"new"`
		Refused    uint64 `json:"refused"`
		Rate       number `json:"new_rate"`
		Peak1s     uint64 `json:"peak_1s"`
		Peak10ms   uint64 `json:"peak_10ms"`
		Life       number `json:"lifetime_s"`
		AtLeast    bool   `json:"lifetime_at_least"`
		Mean       number `json:"entries_mean"`
		Peak       uint64 `json:"entries_peak"`
		Offered    number `json:"offered"`
		Share      number `json:"share"`
		Dispersion number `json:"dispersion"`
	}
	planNeed struct {
		Peak    number  `json:"entries"`
		Limit   uint64  `json:"limit"`
		Suggest uint64  `json:"suggested_max"`
		Buckets uint64  `json:"buckets"`
		Entry   *int    `json:"entry_bytes"` // with extensions, at most; null when not known
		Bytes   *uint64 `json:"bytes_full"`
	}
	planPool struct {
		Addr      string `json:"nat_addr"`
		Dst       string `json:"dst"`
		Dport     uint16 `json:"dport"`
		Proto     string `json:"proto"`
		Peak      uint64 `json:"peak"`
		Addresses uint64 `json:"addresses"`
	}
	planRun struct {
		Max       *uint64  `json:"max"`
		New       uint64   `json:"new"`
		Mean      number   `json:"entries_mean"`
		Peak      uint64   `json:"entries_peak"`
		Drops     uint64   `json:"table_full"`
		Evicted   uint64   `json:"early_drop"`
		EvictedGC uint64   `json:"early_drop_gc"`
		Above70   number   `json:"above_70"`
		Above85   number   `json:"above_85"`
		Above95   number   `json:"above_95"`
		Step      number   `json:"step_s"`
		Entries   []uint32 `json:"entries"` // at the end of each step
	}
	planWhatIf struct {
		Max      *uint64        `json:"max"`
		Timeouts map[string]int `json:"timeouts"` // seconds
		Factor   number         `json:"factor"`
		After    number         `json:"after_s"`
		Settles  number         `json:"settles_at"`
		Limit    uint64         `json:"limit"` // that is needed then
	}
)

// WritePlanJSON writes the plan as one JSON object and a newline.
func WritePlanJSON(w io.Writer, d *plan.Doc) error {
	doc := planDoc{
		From: stamp(d.From), To: stamp(d.To), Source: outside(d.Source), NetNS: d.NetNS, Max: orNull(d.Kernel.Max), Buckets: orNull(d.Kernel.Buckets),
		Classes: []planCost{}, Total: costJSON("all", &d.Total), Pools: []planPool{}, Today: planRunJSON(&d.Today),
		Need:  planNeed{Peak: number(d.Need.Peak), Limit: d.Need.Limit, Suggest: d.Need.Suggest, Buckets: d.Need.Buckets},
		Notes: convert(d.Notes, func(s string) outside { return outside(s) }), Sysctl: outside(d.Sysctl()),
	}
	if d.Memory.Object > 0 {
		entry := d.Memory.Object + triage.Extensions
		doc.Need.Entry, doc.Need.Bytes = &entry, orNull(d.Bytes(d.Need.Suggest, d.Need.Buckets))
	}
	for i := range d.Classes {
		doc.Classes = append(doc.Classes, costJSON(d.Classes[i].Class.String(), &d.Classes[i]))
	}
	for _, p := range d.Pools {
		doc.Pools = append(doc.Pools, planPool{p.Addr.String(), p.Dst.String(), p.Port, event.ProtoName(p.Proto), p.Peak, p.Addresses})
	}
	if d.Then == nil {
		return writeJSON(w, doc)
	}
	then := planRunJSON(d.Then)
	doc.Then, doc.WhatIf = &then, &planWhatIf{orNull(d.WhatIf.Max), map[string]int{}, number(max(d.WhatIf.Factor, 0)), number(d.WhatIf.After.Seconds()), number(d.Settles), d.ThenNeed.Limit}
	for _, c := range d.WhatIf.Timeouts {
		doc.WhatIf.Timeouts[c.Timer.String()] = int(c.To.Seconds())
	}
	return writeJSON(w, doc)
}

// orNull is nil for a 0 that stands for not known, or none.
func orNull(n uint64) *uint64 {
	if n == 0 {
		return nil
	}
	return &n
}

func costJSON(name string, c *plan.Cost) planCost {
	return planCost{name, c.Arrivals, c.Refused, number(c.Rate), c.Peak1s, c.Peak10ms, number(c.Life.Seconds()), c.AtLeast,
		number(c.Mean), c.Peak, number(c.Offered), number(c.Share), number(c.Dispersed)}
}

func planRunJSON(r *plan.Run) planRun {
	x := planRun{Max: orNull(r.Max), New: r.Arrivals, Mean: number(r.Mean), Peak: r.Peak, Drops: r.Drops, Evicted: r.Evicted, EvictedGC: r.EvictedGC,
		Above70: number(r.Above[0]), Above85: number(r.Above[1]), Above95: number(r.Above[2]), Step: number(r.Step.Seconds()), Entries: r.Curve}
	if x.Entries == nil {
		x.Entries = []uint32{}
	}
	return x
}
