package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/filter"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/tui"
	"github.com/ctsight/ctsight/internal/view"
)

type topFlags struct {
	past
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
Entries from before the start are read once from each namespace's table.

With --from it is the picture at the end of a capture, or of a part of one, as it was
then. Several captures are added up: what has one address in network namespaces of one
number is one row, of whichever machine.`,
		Example: `  ctsight top
  ctsight top --once --by dst --sort live
  ctsight top --from /var/lib/ctsight/ring --since -5m --by edge
  ctsight top -o json --for 10s 'src 10.0.0.0/8' | jq .sources`,
		RunE: func(cmd *cobra.Command, args []string) error {
			t.whole(cmd.Flags(), &t.limit)
			return t.run(cmd.Context(), g, args)
		},
	}
	f := cmd.Flags()
	t.flags(f)
	f.DurationVar(&t.limit, "for", 3*time.Second, "with --once or -o json: how long to look; with --from: so much of the capture (default: all of it)")
	f.BoolVar(&t.once, "once", false, "print one picture as text and end")
	f.StringVar(&t.sort, "sort", agg.ColNew.String(), "column to sort by: "+strings.Join(words(agg.NumColumns), ", "))
	f.StringVar(&t.by, "by", agg.BySrc.String(), "rows: "+strings.Join(words(agg.NumDims), ", "))
	f.IntVar(&t.top, "top", 20, "rows to show; the rest is summed up (live view: as many as there is room for)")
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
	if err := errors.Join(g.check(), t.check(manyCaptures)); err != nil {
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
	if t.given() {
		return t.replay(ctx, g, args, by, column)
	}
	flt, err := g.filter(args)
	if err != nil {
		return err
	}
	var tty *os.File // of the live view
	if !t.once && !g.json() {
		if tty, err = tui.Terminal(g.stdout, os.Getenv("TERM")); err != nil {
			return fmt.Errorf("%w: %w", errUsage, err)
		}
	}
	clock, err := pipeline.NewClock()
	if err != nil {
		return err
	}
	names := g.names()
	p, err := g.open(ctx, pipeline.Config{Filter: flt, Sums: true})
	if err != nil {
		return err
	}
	if tty == nil {
		dims := []agg.Dim{by}
		if by != agg.ByNetNS {
			dims = append(dims, agg.ByNetNS)
		}
		w := p.NewWatch(clock, agg.CensusConfig{Dims: dims})
		w.Detect(pipeline.Detection{})
		ctx, cancel := limited(ctx, t.limit)
		defer cancel()
		if err := errors.Join(w.Run(ctx, nil), w.Finish()); err != nil {
			return errors.Join(err, p.Close())
		}
		doc := w.Top(by, column, t.top, nil)
		g.warn(w.Problems())
		if err := p.Close(); err != nil {
			return err
		}
		names := g.namesNow()
		return t.print(g, doc, column, names.view())
	}
	w := p.NewWatch(clock, agg.CensusConfig{})
	w.Detect(pipeline.Detection{})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	traced := make(chan error, 1)
	go func() {
		defer cancel() // a trace that fails ends the view
		traced <- w.Run(ctx, nil)
	}()
	g.live.Store(true)
	defer g.live.Store(false)
	err = tui.Run(ctx, topSource{w, g}, tui.Options{Query: tui.Query{By: by, Sort: column}, Color: g.color(),
		ASCII: !utf8Locale(), Names: names.view()}, os.Stdin, tty)
	cancel()
	return errors.Join(err, <-traced, p.Close())
}

// replay prints the picture of captures.
func (t *topFlags) replay(ctx context.Context, g *globals, args []string, by agg.Dim, column agg.Column) error {
	all, err := g.openParts(&t.past, args)
	if err != nil {
		return err
	}
	p, o, err := g.read(ctx, &t.past, all, pipeline.PastConfig{For: t.limit, Dims: []agg.Dim{by}})
	if err != nil {
		return err
	}
	return t.print(g, p.Top(by, column, t.top, nil), column, g.namesIn(o))
}

func (t *topFlags) print(g *globals, doc *agg.TopDoc, column agg.Column, names view.Names) error {
	if g.json() {
		return view.WriteTopJSON(g.stdout, doc, view.TopOptions{Sort: column, Names: names})
	}
	_, err := io.WriteString(g.stdout, view.TopScreen(doc, view.ScreenOptions{Color: g.color(), Sort: column, Names: names}))
	return err
}

// rowFields are the words of a filter that choose among rows.
var rowFields = [agg.NumDims][]string{
	agg.BySrc:    {"src", "family", "netns", "zone"},
	agg.ByDst:    {"dst", "dport", "proto", "family", "netns", "zone"},
	agg.ByEdge:   {"src", "dst", "host", "dport", "proto", "family", "netns", "zone"},
	agg.ByPrefix: {"src", "family", "netns", "zone"},
	agg.ByNetNS:  {"netns"},
}

// topSource is a watch as the live view wants it.
type topSource struct {
	w *pipeline.Watch
	g *globals
}

func (s topSource) Top(q tui.Query) (*agg.TopDoc, error) {
	f, err := filter.Parse(q.Filter, filter.Options{NetNS: s.g.netnsByName})
	if err != nil {
		return nil, err
	}
	for _, word := range f.Fields() {
		if !slices.Contains(rowFields[q.By], word) {
			return nil, fmt.Errorf("rows by %s have no %s, only %s", q.By, word, strings.Join(rowFields[q.By], ", "))
		}
	}
	return s.w.Top(q.By, q.Sort, q.Rows, func(k *agg.Key) bool {
		return f.Match(&event.Event{Kind: event.New, NetNS: k.NetNS, Zone: k.Zone, Orig: event.Tuple{Src: k.Src, Dst: k.Dst, Dport: k.Dport, Proto: k.Proto}})
	}), nil
}

func (s topSource) Detail(q tui.Query, k agg.Key) (*view.Detail, error) {
	row, edges, lifetimes := s.w.Detail(q.By, q.Sort, k, q.Rows)
	return &view.Detail{By: q.By, Row: row, Edges: edges, Lifetimes: lifetimes}, nil
}

// utf8Locale says whether the terminal is expected to show block characters.
func utf8Locale() bool {
	for _, v := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if s := os.Getenv(v); s != "" {
			s = strings.ToLower(s)
			return strings.Contains(s, "utf-8") || strings.Contains(s, "utf8")
		}
	}
	return false
}
