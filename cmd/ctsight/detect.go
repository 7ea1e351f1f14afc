package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/detect"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/view"
)

type detectFlags struct {
	from   string
	limit  time.Duration
	states []string
}

var findingStates = []string{agg.Suspect, agg.Confirmed, agg.Cleared}

func newDetect(g *globals) *cobra.Command {
	var d detectFlags
	cmd := &cobra.Command{
		Use:   "detect [FILTER]",
		Short: "scans and what else should not be, one line each time that a finding is told",
		Long: `Findings as they are told: when something is suspect, when it is confirmed, while
it goes on, and when it is over. A line ends with the id for ctsight explain.

With --from a capture is read in place of this kernel, as fast as it can be; the
same capture gives the same bytes. What is wrong with a capture ends the command
with the number of the line, after what was found before it.`,
		Example: `  ctsight detect --from capture.ctr.tsv.gz
  zcat *.ctr.tsv.gz | ctsight detect --from - -o json | jq 'select(.state == "confirmed")'
  ctsight detect --from capture.ctr.tsv.gz 'src 10.0.0.0/8' --state confirmed`,
		RunE: func(cmd *cobra.Command, args []string) error { return d.run(cmd.Context(), g, args) },
	}
	f := cmd.Flags()
	fromFlag(f, &d.from)
	f.DurationVar(&d.limit, "for", 0, "end after this time, of the capture with --from (default: all of it)")
	f.StringSliceVar(&d.states, "state", findingStates, "only findings in these states")
	return cmd
}

func (d *detectFlags) check() error {
	for _, s := range d.states {
		if !slices.Contains(findingStates, s) {
			return fmt.Errorf("%w: --state %q: %s", errUsage, s, strings.Join(findingStates, ", "))
		}
	}
	if d.from == "" {
		return fmt.Errorf("%w: detect needs a capture: --from FILE", errUsage)
	}
	return nil
}

func (d *detectFlags) run(ctx context.Context, g *globals, args []string) error {
	if err := g.check(); err != nil {
		return err
	}
	if err := d.check(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := &findingOutput{states: d.states, cancel: cancel,
		w: view.NewFindingWriter(g.stdout, view.FindingOptions{JSON: g.json(), Color: g.color()})}
	return d.replay(ctx, g, args, out)
}

// replay finds in a capture.
func (d *detectFlags) replay(ctx context.Context, g *globals, args []string, out *findingOutput) error {
	flt, err := g.captureFilter(args)
	if err != nil {
		return err
	}
	in, err := openCapture(d.from)
	if err != nil {
		return err
	}
	r, err := pipeline.Replay(ctx, in, pipeline.ReplayConfig{Filter: flt, For: d.limit, Detect: detect.Config{Tell: out.tell}})
	if out.err != nil {
		return out.err
	}
	if err == nil {
		g.replayed(d.from, &r)
	}
	return err
}

// findingOutput writes findings as they are told: they are few, and each is written
// at once.
type findingOutput struct {
	w      *view.FindingWriter
	states []string
	cancel context.CancelFunc // nobody reads any more
	err    error
}

func (o *findingOutput) tell(f *agg.Finding) {
	if o.err != nil || !slices.Contains(o.states, f.State) {
		return
	}
	if o.err = o.w.Write(f); o.err != nil {
		o.cancel()
	}
}
