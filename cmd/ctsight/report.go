package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/plan"
	"github.com/ctsight/ctsight/internal/record"
	"github.com/ctsight/ctsight/internal/report"
)

type reportFlags struct {
	to      string
	format  string
	compare []string
	limit   time.Duration
	max     uint64
	png     []string
	page    bool // a report is written, and not only pictures
	past
	where string
}

// Formats of a report.
const (
	formatHTML     = "html"
	formatMarkdown = "md"
)

func newReport(g *globals) *cobra.Command {
	var r reportFlags
	cmd := &cobra.Command{
		Use:   "report FILE... -o OUT",
		Short: "the post-mortem of a capture: pictures, time line, findings and a checklist in one file",
		Long: `What happened in a capture, as one file of HTML that needs nothing else: no network,
no script, light and dark, and it can be printed. Several captures, as of several
nodes, are read as one by their times. The same captures give the same bytes.

--compare sets another capture beside it: before and after. --format md is for a
ticket, and --png writes pictures by themselves. A capture in text tells neither lost
packets nor the limit of the table, which --max does; a recording of ctsight record
tells all.`,
		Example: `  ctsight report night.ctsight -o report.html
  ctsight report node1.ctr.tsv.gz node2.ctr.tsv.gz --max 262144 -o report.html
  ctsight report after.ctr.tsv.zst --compare before.ctr.tsv.zst --format md -o -
  ctsight report night.ctsight --png occupancy=table.png --png drops=lost.png`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.page = len(r.png) == 0 || cmd.Flags().Changed("output")
			return r.run(cmd.Context(), g, args)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&r.png, "png", nil, "write a picture by itself: NAME=FILE, or DIR for all; without -o nothing else; may be given more than once. NAME: "+strings.Join(report.ChartNames, ", "))
	f.StringVarP(&r.to, "output", "o", "report.html", "write to this file; - is standard output")
	f.StringVar(&r.format, "format", formatHTML, "html, or md for a ticket")
	f.StringArrayVar(&r.compare, "compare", nil, "set this capture beside it as what was before; may be given more than once")
	f.StringArrayVar(&r.from, "from", nil, "the same as FILE, as in other commands; may be given more than once")
	r.within(f)
	f.StringVar(&r.where, "filter", "", "only what this FILTER lets through")
	f.DurationVar(&r.limit, "for", 0, "end after this time of the capture (default: all of it)")
	f.Uint64Var(&r.max, "max", 0, "nf_conntrack_max, where the capture does not tell it")
	return cmd
}

func (r *reportFlags) check(files []string) error {
	stdin := 0
	for _, f := range append(files, r.compare...) {
		if f == record.Stdin {
			stdin++
		}
	}
	switch {
	case len(files) == 0:
		return fmt.Errorf("%w: report of which capture? ctsight report FILE... -o report.html", errUsage)
	case stdin > 1:
		return fmt.Errorf("%w: standard input can be read once", errUsage)
	case r.format != formatHTML && r.format != formatMarkdown:
		return fmt.Errorf("%w: --format %q: %s, %s", errUsage, r.format, formatHTML, formatMarkdown)
	case r.page && r.to == "":
		return fmt.Errorf("%w: -o: a file, or - for standard output", errUsage)
	}
	return nil
}

func (r *reportFlags) run(ctx context.Context, g *globals, args []string) error {
	if err := g.check(); err != nil {
		return err
	}
	files := append(args, r.from...)
	if err := errors.Join(r.check(files), r.checkPNG()); err != nil {
		return err
	}
	to := r.to
	if to == record.Stdin || !r.page {
		to = ""
	}
	out, err := newPage("-o", to)
	if err != nil {
		return err
	}
	defer out.discard()
	readMemory()
	d, err := r.gather(ctx, g, past{files, r.since, r.until})
	if err != nil {
		return err
	}
	if len(files) == 1 {
		r.plan(ctx, g, &past{files, r.since, r.until}, d)
	}
	var before *report.Data
	if len(r.compare) > 0 {
		if before, err = r.gather(ctx, g, past{from: r.compare}); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return errors.New("interrupted, no report was written")
	}
	if err := r.pictures(d); err != nil || !r.page {
		return err
	}
	write := func(w io.Writer) error { return report.WriteHTML(w, d, before) }
	if r.format == formatMarkdown {
		write = func(w io.Writer) error { return report.WriteMarkdown(w, d, before) }
	}
	if to == "" {
		return write(g.stdout)
	}
	return out.write(write)
}

// mostPlanned is of how many connections a report has curves of its capacity: a plan
// holds them all.
const mostPlanned = 200_000

// plan reads a capture once more, for what it needs. Where that is not to be had there
// are no curves; nothing of this machine is in them.
func (r *reportFlags) plan(ctx context.Context, g *globals, of *past, d *report.Data) {
	file := of.from[0]
	switch {
	case file == record.Stdin || r.where != "" || d.Totals.New == 0 || ctx.Err() != nil:
		return
	case d.Totals.New > mostPlanned:
		d.Omitted = append(d.Omitted, agg.Omission{What: "connections in curves of what limit they need, for which they are too many: ctsight plan --html makes them", Count: d.Totals.New})
		return
	}
	p, err := planOf(ctx, g, of, r.limit, r.max, nil)
	if err != nil {
		g.logger().Warn("no curves of what limit is needed", "capture", file, "why", oneLine(err))
		return
	}
	doc, err := plan.Make(p.record, plan.WhatIf{}, p.memory)
	if err != nil {
		return
	}
	doc.From, doc.To, doc.Source, doc.NetNS = p.from, p.to, filepath.Base(file), p.netns
	d.Plan = &report.Plan{Doc: doc, Curves: p.record.Curves(doc)}
}

// pictures writes those of --png.
func (r *reportFlags) pictures(d *report.Data) error {
	if len(r.png) == 0 {
		return nil
	}
	all := report.Charts(d)
	var names []string
	for i := range all {
		names = append(names, all[i].Name)
	}
	for _, arg := range r.png {
		name, file, one := strings.Cut(arg, "=")
		if !one {
			if err := os.MkdirAll(arg, 0o755); err != nil {
				return fmt.Errorf("--png: %w", err)
			}
			for i := range all {
				if err := writePicture(&all[i], filepath.Join(arg, all[i].Name+".png")); err != nil {
					return err
				}
			}
			continue
		}
		i := slices.Index(names, name)
		if i < 0 {
			return fmt.Errorf("--png %s: this capture has no picture of that name, but %s", arg, strings.Join(names, ", "))
		}
		if err := writePicture(&all[i], file); err != nil {
			return err
		}
	}
	return nil
}

func writePicture(c *report.Chart, file string) error {
	out, err := newPage("--png", file)
	if err != nil {
		return err
	}
	defer out.discard()
	return out.write(c.WritePNG)
}

// checkPNG is what --png can be told before anything is read.
func (r *reportFlags) checkPNG() error {
	for _, arg := range r.png {
		name, file, one := strings.Cut(arg, "=")
		known := slices.Contains(report.ChartNames, name) || strings.HasPrefix(name, "scan")
		switch {
		case arg == "" || one && file == "":
			return fmt.Errorf("%w: --png %q: NAME=FILE, or a directory for all pictures", errUsage, arg)
		case one && !known:
			return fmt.Errorf("%w: --png %q: the pictures are %s", errUsage, arg, strings.Join(report.ChartNames, ", "))
		}
	}
	return nil
}

// gather reads captures as one.
func (r *reportFlags) gather(ctx context.Context, g *globals, p past) (*report.Data, error) {
	files := p.from
	all, err := g.openParts(&p, strings.Fields(r.where))
	if err != nil {
		return nil, err
	}
	names := make([]string, len(files))
	for i, f := range files {
		if names[i] = filepath.Base(f); f == record.Stdin {
			names[i] = "standard input"
		}
	}
	to := report.New(report.Options{Clock: record.Clock(), Name: strings.Join(names, ", "), Max: r.max})
	var nodes []report.Node
	for _, c := range all {
		nodes = append(nodes, report.Node{Name: c.Origin().Node, Backend: c.Origin().Backend})
	}
	var kernel pipeline.Reckoning // of one kernel only
	read, err := pipeline.ReplayTogether(ctx, all, pipeline.ReplayConfig{For: r.limit}, func(node int, t *pipeline.Told) {
		to.From(node, nodes[node])
		tellReport(to, t)
		if len(all) == 1 {
			kernel.Take(t)
		}
	})
	if err != nil {
		return nil, err
	}
	to.Balance(kernel.Balance(all[0].Origin()))
	for i := range read {
		g.replayed(files[i], &read[i])
		g.lacks(files[i], all[i])
	}
	return to.Data(), nil
}

// tellReport gives a step of a replay to a report.
func tellReport(to *report.Gatherer, t *pipeline.Told) {
	switch {
	case t.Event != nil:
		to.Event(t.Event)
	case t.Entry != nil:
		to.Entry(t.Entry)
	case t.Seen != nil:
		s := t.Seen
		to.Status(report.Status{Time: t.At, NetNS: s.NetNS, Zone: s.Zone, Ptr: s.Ptr, Orig: s.Orig, Bits: s.Status})
	case t.Sum != nil:
		to.Sum(t.Sum)
	case t.State != nil:
		to.State(t.At, t.State.Tables, t.State.Loss)
	case t.Found != nil:
		to.Found(t.Found)
	case t.Mark != nil && t.Mark.Sysctl != nil:
		tellChange(to, t.At, t.Mark.Sysctl)
	case t.Missing > 0:
		to.Loss(report.Loss{From: t.At, To: t.At, Lost: t.Missing})
	}
}

// tellChange gives a change of a sysctl to a report. Of the limit the tables tell, at the
// second in which it was another.
func tellChange(to *report.Gatherer, at event.Ktime, m *pipeline.SysctlMark) {
	name := m.Name
	switch {
	case name == "nf_conntrack_max":
		return
	case m.Namespaces == 1 && len(m.Where) == 1:
		name += " of netns " + cmp.Or(m.Where[0].Name, m.Where[0].NetNS.String())
	case m.Namespaces > 1:
		name += fmt.Sprintf(" of %d network namespaces", m.Namespaces)
	}
	to.Change(report.Change{Time: at, Name: name, From: strconv.FormatUint(uint64(m.From), 10), To: strconv.FormatUint(uint64(m.To), 10)})
}
