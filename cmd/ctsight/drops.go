package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/view"
)

type dropsFlags struct {
	past
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
difference, which is shown even when it is not zero.

With --from it is the account of a recording, or of a part of one, with the counters that
it has: they were read four times a minute.`,
		Example: `  ctsight drops --for 1m
  ctsight drops --from night.ctsight --since 03:10 --until 03:20`,
		RunE: func(cmd *cobra.Command, args []string) error {
			d.whole(cmd.Flags(), &d.limit)
			return d.run(cmd.Context(), g, args)
		},
	}
	f := cmd.Flags()
	d.flags(f)
	f.DurationVar(&d.limit, "for", 10*time.Second, "how long to look; Ctrl-C ends and prints as well; with --from: so much of the capture (default: all of it)")
	f.BoolVar(&d.ruleset, "ruleset", false, "list drops by the operator's own rules too")
	f.BoolVar(&d.invalid, "invalid", false, "also balance the counters invalid and error (hooks every packet)")
	f.IntVar(&d.top, "top", 20, "rows of each table of the text form")
	return cmd
}

func (d *dropsFlags) run(ctx context.Context, g *globals, args []string) error {
	if err := errors.Join(g.check(), d.check(1)); err != nil {
		return err
	}
	if d.given() {
		return d.replay(ctx, g, args)
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
	return d.print(g, doc, names.view())
}

// replay prints the account of a capture.
func (d *dropsFlags) replay(ctx context.Context, g *globals, args []string) error {
	if d.invalid {
		return fmt.Errorf("%w: --invalid with --from: what is in a capture is in it", errUsage)
	}
	all, err := g.openParts(&d.past, args)
	if err != nil {
		return err
	}
	p, o, err := g.read(ctx, &d.past, all, pipeline.PastConfig{For: d.limit})
	if err != nil {
		return err
	}
	doc, err := p.Ledger()
	if err != nil {
		return err
	}
	return d.print(g, doc, g.namesIn(o))
}

func (d *dropsFlags) print(g *globals, doc *agg.Doc, names view.Names) error {
	o := view.LedgerOptions{Color: g.color(), Ruleset: d.ruleset, Top: d.top, Names: names}
	if g.json() {
		return view.WriteLedgerJSON(g.stdout, doc, o)
	}
	return view.WriteLedgerText(g.stdout, doc, o)
}
