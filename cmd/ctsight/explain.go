package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/record"
	"github.com/ctsight/ctsight/internal/view"
)

type explainFlags struct {
	past
	steps int
}

func newExplain(g *globals) *cobra.Command {
	var x explainFlags
	cmd := &cobra.Command{
		Use:   "explain ID [FILTER]",
		Short: "why: a finding whole, and its evidence piece by piece",
		Long: `A finding of ctsight detect --from, whole, and the evidence of its test piece by
piece: the contact, what became of it, what that has counted, and where the tests
were after it. Give the same capture and FILTER of which the finding is.`,
		Example: `  ctsight explain 62c92fd5d6aa --from capture.ctr.tsv.gz`,
		RunE:    func(cmd *cobra.Command, args []string) error { return x.run(cmd.Context(), g, args) },
	}
	x.flags(cmd.Flags())
	cmd.Flags().IntVar(&x.steps, "steps", 50, "the first and the last so many pieces of evidence")
	return cmd
}

func (x *explainFlags) check(args []string) error {
	switch {
	case len(args) == 0:
		return fmt.Errorf("%w: explain which finding? ctsight detect --from FILE lists them, the id is at the end of a line", errUsage)
	case !x.given():
		return fmt.Errorf("%w: explain needs the capture that the finding is of: --from FILE", errUsage)
	case slices.Contains(x.from, record.Stdin):
		return fmt.Errorf("%w: explain reads the capture twice: --from a file", errUsage)
	case x.steps < 0:
		return fmt.Errorf("%w: --steps %d: a number from 0 on", errUsage, x.steps)
	}
	return x.past.check(1)
}

func (x *explainFlags) run(ctx context.Context, g *globals, args []string) error {
	if err := g.check(); err != nil {
		return err
	}
	if err := x.check(args); err != nil {
		return err
	}
	id := args[0]
	open := func() (pipeline.Capture, error) { return g.openPart(&x.past, x.from[0], args[1:]) }
	e, err := pipeline.Explain(ctx, open, id, x.steps, pipeline.ReplayConfig{})
	switch {
	case errors.Is(err, pipeline.ErrNoFinding):
		return fmt.Errorf("%s has no finding %q; this lists them: ctsight detect --from %[1]s", x.from[0], id)
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted before the capture was read twice")
	case e.Finding.ID == "":
		return err
	}
	return errors.Join(view.WriteExplanation(g.stdout, &e, view.FindingOptions{JSON: g.json(), Color: g.color()}), err)
}
