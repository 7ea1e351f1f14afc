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
	"github.com/ctsight/ctsight/internal/triage"
	"github.com/ctsight/ctsight/internal/view"
)

type triageFlags struct {
	past
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
table without dumping it. It is about the fullest table, or that of --netns.

With --from it is the triage of the end of a recording, or of a part of one, as it would
have been told then; who held the table in which state is known as of its snapshots.`,
		Example: `  ctsight triage
  ctsight triage --from /var/lib/ctsight/ring --until 03:12`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t.whole(cmd.Flags(), &t.limit)
			return t.run(cmd.Context(), g)
		},
	}
	f := cmd.Flags()
	t.flags(f)
	f.DurationVar(&t.limit, "for", 5*time.Second, "how long to look; Ctrl-C ends and prints as well; with --from: so much of the capture (default: all of it)")
	f.IntVar(&t.top, "top", 20, "rows of each list (JSON)")
	return cmd
}

func (t *triageFlags) run(ctx context.Context, g *globals) error {
	if err := errors.Join(g.check(), t.check(1)); err != nil {
		return err
	}
	if t.top < 1 {
		return fmt.Errorf("%w: --top %d: at least 1", errUsage, t.top)
	}
	if t.given() {
		return t.replay(ctx, g)
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
	w := p.NewTriage(clock, agg.CensusConfig{Dims: pipeline.TriageDims})
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
	return t.print(g, doc, names.view())
}

// replay prints the triage of a recording.
func (t *triageFlags) replay(ctx context.Context, g *globals) error {
	in, err := t.openOne(t.from[0])
	if err != nil {
		return err
	}
	focus, err := g.captureNetNS(in)
	if err != nil {
		return err
	}
	p, o, err := g.read(ctx, &t.past, []pipeline.Capture{in}, pipeline.PastConfig{For: t.limit, Dims: pipeline.TriageDims})
	if err != nil {
		return err
	}
	doc, err := p.Triage(focus, t.top)
	if err != nil {
		return err
	}
	return t.print(g, doc, g.namesIn(o))
}

func (t *triageFlags) print(g *globals, doc *triage.Doc, names view.Names) error {
	o := view.TriageOptions{Color: g.color(), Names: names}
	if g.json() {
		return view.WriteTriageJSON(g.stdout, doc, o)
	}
	return view.WriteTriageText(g.stdout, doc, o)
}
