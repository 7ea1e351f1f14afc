package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/view"
)

type triageFlags struct {
	limit time.Duration
	top   int
}

func newTriage(g *globals) *cobra.Command {
	var t triageFlags
	cmd := &cobra.Command{
		Use:   "triage",
		Short: "the first five minutes of an incident on one screen, and what to type",
		Long: `The first five minutes of an incident on one screen: how full which table is, how
fast it fills and until when, who holds it and in which state, what is lost to
which cause, whether that looks legitimate and new, and what to do first, with
the commands to type. It executes none of them, changes nothing, and reads a full
table without dumping it. It is about the fullest table, or that of --netns.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return t.run(cmd.Context(), g) },
	}
	f := cmd.Flags()
	f.DurationVar(&t.limit, "for", 5*time.Second, "how long to look; Ctrl-C ends and prints as well")
	f.IntVar(&t.top, "top", 20, "rows of each list (JSON)")
	return cmd
}

func (t *triageFlags) run(ctx context.Context, g *globals) error {
	if err := g.check(); err != nil {
		return err
	}
	if t.top < 1 {
		return fmt.Errorf("%w: --top %d: at least 1", errUsage, t.top)
	}
	var focus event.NetNS
	if g.netns != "" {
		ns, err := g.resolveNetNS(g.netns)
		if err != nil {
			return err
		}
		focus = ns
	}
	own, err := resolveOwn()
	if err != nil {
		return err
	}
	clock, err := pipeline.NewClock()
	if err != nil {
		return err
	}
	p, err := g.open(ctx, pipeline.Config{Sums: true})
	if err != nil {
		return err
	}
	w := p.NewTriage(clock, agg.CensusConfig{Dims: []agg.Dim{agg.BySrc, agg.ByDst, agg.ByPrefix, agg.ByNetNS}})
	ctx, cancel := limited(ctx, t.limit)
	defer cancel()
	if err := errors.Join(w.Run(ctx, nil), w.Finish()); err != nil {
		return errors.Join(err, p.Close())
	}
	doc := w.Triage(focus, own, t.top)
	g.warn(w.Problems())
	if err := p.Close(); err != nil {
		return err
	}
	names := g.namesNow()
	o := view.TriageOptions{Color: g.color(), Names: names.view()}
	if g.json() {
		return view.WriteTriageJSON(g.stdout, doc, o)
	}
	return view.WriteTriageText(g.stdout, doc, o)
}
