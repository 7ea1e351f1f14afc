package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/detect"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/feed"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/view"
)

type detectFlags struct {
	past
	limit   time.Duration
	states  []string
	invalid bool
	feed    string
	format  string
	nft     bool
}

var findingStates = []string{agg.Suspect, agg.Confirmed, agg.Cleared}

func newDetect(g *globals) *cobra.Command {
	var d detectFlags
	cmd := &cobra.Command{
		Use:   "detect [FILTER]",
		Short: "scans, floods and what else should not be, one line each time that a finding is told",
		Long: `Findings as they are told: when something is suspect, when it is confirmed, while
it goes on, and when it is over. A line ends with the id of its finding.

With --from a capture is read in place of this kernel, as fast as it can be; the
same capture gives the same bytes. Several captures are read side by side, each by itself:
findings come in the order of their time. What is wrong with a capture ends the command
with the number of the line, after what was found before it.

--feed writes what is told to a file too, in a form that collectors read; --feed -
writes it to standard output in place of the lines. --feed-nft blocks who attacks, in
a table of nftables of its own, for as long as it runs. There is no allow list here:
ctsight serve has one.`,
		Example: `  ctsight detect --invalid
  ctsight detect 'dst 10.0.0.0/8' --feed /var/log/ctsight/feed.json --feed-format eve
  ctsight detect --from capture.ctr.tsv.gz --state confirmed
  zcat *.ctr.tsv.gz | ctsight detect --from - -o json | jq .why`,
		RunE: func(cmd *cobra.Command, args []string) error { return d.run(cmd.Context(), g, args) },
	}
	f := cmd.Flags()
	d.flags(f)
	f.DurationVar(&d.limit, "for", 0, "end after this time, of the capture with --from (default: until Ctrl-C, or all of it)")
	f.StringSliceVar(&d.states, "state", findingStates, "only findings in these states")
	f.BoolVar(&d.invalid, "invalid", false, "also scans that make no entry: FIN, NULL, Xmas (hooks every packet)")
	f.StringVar(&d.feed, "feed", "", "append what is told to this file; - is standard output")
	f.StringVar(&d.format, "feed-format", "json", "form of --feed: "+strings.Join(feed.Formats, ", "))
	f.BoolVar(&d.nft, "feed-nft", false, "block the sources of confirmed attacks in a table of nftables of our own")
	return cmd
}

func (d *detectFlags) check() error {
	if err := d.past.check(manyCaptures); err != nil {
		return err
	}
	for _, s := range d.states {
		if !slices.Contains(findingStates, s) {
			return fmt.Errorf("%w: --state %q: %s", errUsage, s, strings.Join(findingStates, ", "))
		}
	}
	if !slices.Contains(feed.Formats, d.format) {
		return fmt.Errorf("%w: --feed-format %q: %s", errUsage, d.format, strings.Join(feed.Formats, ", "))
	}
	if d.invalid && d.given() {
		return fmt.Errorf("%w: --invalid with --from: a capture in text has no packets", errUsage)
	}
	if d.nft && d.given() {
		return fmt.Errorf("%w: --feed-nft with --from: a capture is not now", errUsage)
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
	out := &findingOutput{g: g, states: d.states, cancel: cancel, allow: feed.NewAllow(nil, nil)}
	if d.given() {
		return d.replay(ctx, out, args)
	}
	return d.live(ctx, out, args)
}

// replay finds in a capture.
func (d *detectFlags) replay(ctx context.Context, out *findingOutput, args []string) error {
	in, err := out.g.openParts(&d.past, args)
	if err != nil {
		return err
	}
	var o pipeline.Origin
	if len(in) == 1 {
		o = in[0].Origin()
	}
	if err := out.open(d, view.FindingOptions{Names: out.g.namesIn(o), Own: o.Own}); err != nil {
		closeAll(in)
		return err
	}
	config := pipeline.ReplayConfig{For: d.limit, Detect: detect.Config{Tell: out.tell}}
	var read []pipeline.Replayed
	if len(in) == 1 {
		var r pipeline.Replayed
		r, err = in[0].Replay(ctx, config)
		read = append(read, r)
	} else {
		read, err = pipeline.ReplayTogether(ctx, in, config, func(_ int, t *pipeline.Told) {
			if t.Found != nil {
				out.tell(t.Found)
			}
		})
	}
	if broken := out.close(); broken != nil {
		return broken
	}
	for i := range read {
		if err == nil {
			out.g.replayed(d.from[i], &read[i])
			out.g.lacks(d.from[i], in[i])
		}
	}
	return err
}

// live finds in what this kernel does.
func (d *detectFlags) live(ctx context.Context, out *findingOutput, args []string) error {
	g := out.g
	flt, err := g.filter(args)
	if err != nil {
		return err
	}
	clock, err := pipeline.NewClock()
	if err != nil {
		return err
	}
	vital, err := feed.LookupVital()
	if err != nil && d.nft {
		return fmt.Errorf("not known: what this host must not block: %w", err)
	}
	if err != nil {
		g.logger().Warn("not known: what this host must not block", "answer", oneLine(err))
	}
	out.allow = feed.NewAllow(nil, vital)
	o := view.FindingOptions{Names: g.names().view()}
	if o.Own, err = resolveOwn(); err != nil {
		return err
	}
	if err := out.open(d, o); err != nil {
		return err
	}
	p, err := g.open(ctx, pipeline.Config{Filter: flt, Invalid: d.invalid, Sums: true})
	if err != nil {
		return errors.Join(err, out.close())
	}
	w := p.NewWatch(clock, agg.CensusConfig{Dims: []agg.Dim{agg.ByNetNS}})
	w.Detect(pipeline.Detection{Found: out.tell})
	ctx, cancel := limited(ctx, d.limit)
	defer cancel()
	var blocking sync.WaitGroup
	if d.nft {
		blocking.Go(func() { out.block(ctx, w, o.Own) })
	}
	err = errors.Join(w.Run(ctx, nil), w.Finish(), out.close(), p.Close())
	cancel()
	blocking.Wait()
	g.warn(w.Problems())
	return err
}

// findingOutput writes findings as they are told: they are few, and each is written
// at once.
type findingOutput struct {
	g      *globals
	states []string
	allow  *feed.Allow
	cancel context.CancelFunc // nobody reads any more

	w    *view.FindingWriter // nil when the feed is on standard output
	feed *feed.File          // nil for none
	err  error
}

func (o *findingOutput) open(d *detectFlags, v view.FindingOptions) error {
	if v.JSON, v.Color = o.g.json(), o.g.color(); d.feed != "-" {
		o.w = view.NewFindingWriter(o.g.stdout, v)
	}
	if d.feed == "" {
		return nil
	}
	host, _ := os.Hostname() // or it is left out
	format, err := feed.NewFormat(d.format, feed.Options{Names: v.Names, Host: host})
	if err == nil {
		o.feed, err = feed.OpenFile(d.feed, format)
	}
	return err
}

// tell writes a finding; the first error is the last.
func (o *findingOutput) tell(f *agg.Finding) {
	if o.err != nil || !slices.Contains(o.states, f.State) {
		return
	}
	if o.w != nil {
		o.err = o.w.Write(f)
	}
	if o.err == nil && o.feed != nil {
		o.err = o.feed.Write(context.Background(), feed.Telling{Finding: f, Unlisted: o.policy().Why(f, f.Time)})
	}
	if o.err != nil {
		o.cancel()
	}
}

func (o *findingOutput) policy() *feed.Policy {
	return &feed.Policy{Allow: func() *feed.Allow { return o.allow }}
}

// block keeps our table of nftables until ctx ends, and then removes it.
func (o *findingOutput) block(ctx context.Context, w *pipeline.Watch, own event.NetNS) {
	pass := o.allow.Prefixes(time.Now()) // for good
	b := feed.Blocker{Log: o.g.logger(), Want: func(now time.Time) (int, *feed.Ruleset) {
		findings, _ := w.Findings()
		list := feed.NewList(findings, o.policy(), now, &feed.Place{NetNS: own})
		return feed.On, &feed.Ruleset{Hook: "prerouting", Action: "drop", Allow: pass, Block: list.Entries()}
	}}
	_ = b.Run(ctx) // it has none
}

func (o *findingOutput) close() error {
	if o.feed == nil {
		return o.err
	}
	return errors.Join(o.err, o.feed.Close())
}
