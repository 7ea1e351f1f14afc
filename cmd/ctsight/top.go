package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/view"
)

type topFlags struct {
	limit time.Duration
	once  bool
	sort  string
	by    string
	top   int
}

func newTop(g *globals) *cobra.Command {
	var t topFlags
	cmd := &cobra.Command{
		Use:   "top [FILTER]",
		Short: "who fills the table: sources by new/s, live entries, drops, evictions",
		Long: `Who fills the connection tracking tables: sources (or destinations, edges,
prefixes, namespaces) by new connections, live entries, packets lost, entries
evicted, distinct destinations and ports, and the outcome of first contacts.
Entries from before the start are read once from each namespace's table.`,
		Example: `  ctsight top
  ctsight top --once --by dst --sort live
  ctsight top -o json --for 10s 'src 10.0.0.0/8' | jq .sources`,
		RunE: func(cmd *cobra.Command, args []string) error { return t.run(cmd.Context(), g, args) },
	}
	f := cmd.Flags()
	f.DurationVar(&t.limit, "for", 3*time.Second, "with --once or -o json: how long to look")
	f.BoolVar(&t.once, "once", false, "print one picture as text and end")
	f.StringVar(&t.sort, "sort", agg.ColNew.String(), "column to sort by: "+strings.Join(words(agg.NumColumns), ", "))
	f.StringVar(&t.by, "by", agg.BySrc.String(), "rows: "+strings.Join(words(agg.NumDims), ", "))
	f.IntVar(&t.top, "top", 20, "rows to show; the rest is summed up")
	return cmd
}

// words are the names of the values below n.
func words[T interface {
	~uint8
	fmt.Stringer
}](n T) (out []string) {
	for v := T(0); v < n; v++ {
		out = append(out, v.String())
	}
	return out
}

func (t *topFlags) run(ctx context.Context, g *globals, args []string) error {
	if err := g.check(); err != nil {
		return err
	}
	by, ok := agg.ParseDim(t.by)
	if !ok {
		return fmt.Errorf("%w: --by %q: %s", errUsage, t.by, strings.Join(words(agg.NumDims), ", "))
	}
	column, ok := agg.ParseColumn(t.sort)
	if !ok {
		return fmt.Errorf("%w: --sort %q: %s", errUsage, t.sort, strings.Join(words(agg.NumColumns), ", "))
	}
	if t.top < 0 {
		return fmt.Errorf("%w: --top %d: a number of rows", errUsage, t.top)
	}
	flt, err := g.filter(args)
	if err != nil {
		return err
	}
	clock, err := pipeline.NewClock()
	if err != nil {
		return err
	}
	p, err := g.open(ctx, pipeline.Config{Filter: flt})
	if err != nil {
		return err
	}
	dims := []agg.Dim{by}
	if by != agg.ByNetNS {
		dims = append(dims, agg.ByNetNS)
	}
	slices.Sort(dims)
	w := p.NewWatch(clock, agg.CensusConfig{Dims: dims})
	ctx, cancel := limited(ctx, t.limit)
	defer cancel()
	if err := errors.Join(w.Run(ctx, nil), w.Finish()); err != nil {
		return errors.Join(err, p.Close())
	}
	doc := w.Top(by, column, t.top, nil)
	if err := p.Close(); err != nil {
		return err
	}
	names := newNames()
	if g.json() {
		return view.WriteTopJSON(g.stdout, doc, view.TopOptions{Sort: column, Names: names.view()})
	}
	_, err = io.WriteString(g.stdout, view.TopScreen(doc, view.ScreenOptions{Color: g.color(), Sort: column, Names: names.view()}))
	return err
}
