package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/view"
)

type dropsFlags struct {
	limit   time.Duration
	ruleset bool
	invalid bool
	top     int
}

func newDrops(g *globals) *cobra.Command {
	var d dropsFlags
	cmd := &cobra.Command{
		Use:   "drops [FILTER]",
		Short: "the drop ledger: reason x source x destination against the kernel's own counters",
		Long: `The drop ledger of an interval: who lost packets to which reason, what was
evicted for whom, the kernel's own counters over the same time, and the
difference, which is shown even when it is not zero.`,
		RunE: func(cmd *cobra.Command, args []string) error { return d.run(cmd.Context(), g, args) },
	}
	f := cmd.Flags()
	f.DurationVar(&d.limit, "for", 10*time.Second, "how long to look; Ctrl-C ends and prints as well")
	f.BoolVar(&d.ruleset, "ruleset", false, "list drops by the operator's own rules too")
	f.BoolVar(&d.invalid, "invalid", false, "also balance the counters invalid and error (hooks every packet)")
	f.IntVar(&d.top, "top", 20, "rows of each table of the text form")
	return cmd
}

func (d *dropsFlags) run(ctx context.Context, g *globals, args []string) error {
	if err := g.check(); err != nil {
		return err
	}
	flt, err := g.filter(args)
	if err != nil {
		return err
	}
	clock, err := pipeline.NewClock()
	if err != nil {
		return err
	}
	p, err := g.open(ctx, pipeline.Config{Filter: flt, Invalid: d.invalid})
	if err != nil {
		return err
	}
	ctx, cancel := limited(ctx, d.limit)
	defer cancel()
	doc, err := p.Ledger(ctx, clock, nil)
	if err = errors.Join(err, p.Close()); err != nil {
		return err
	}
	names := g.namesNow()
	o := view.LedgerOptions{Color: g.color(), Ruleset: d.ruleset, Top: d.top, Names: names.view()}
	if g.json() {
		return view.WriteLedgerJSON(g.stdout, doc, o)
	}
	return view.WriteLedgerText(g.stdout, doc, o)
}
