package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/filter"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/plan"
	"github.com/ctsight/ctsight/internal/report"
	"github.com/ctsight/ctsight/internal/triage"
	"github.com/ctsight/ctsight/internal/view"
)

type planFlags struct {
	past
	limit    time.Duration
	max      uint64
	timeouts string
	factor   float64
	after    time.Duration
	html     string

	recordedMax      uint64
	recordedTimeouts string
}

func newPlan(g *globals) *cobra.Command {
	var p planFlags
	cmd := &cobra.Command{
		Use:   "plan [FILE]",
		Short: "what limit, buckets, timeouts and NAT ports this traffic needs, and what if",
		Long: `What each class of connections costs a table, and what limit, buckets, memory and NAT
ports it needs for them: measured here for a while, or in a capture (FILE, or --from).
It changes nothing: a file for sysctl.d is printed, with its reasons.

--max, --timeout and --factor ask what would have been: the arrivals that were seen
are replayed with the kernel's rules, and new timeouts are for new and refreshed
entries only. docs/plan.md has the formulas and their limits. Live it is about the
fullest table, or that of --netns.`,
		Example: `  ctsight plan --for 5m
  ctsight plan --timeout udp=10s,tcp_established=1h --max 131072
  ctsight plan capture.ctr.tsv.gz --factor 2 -o json | jq .then.entries_peak
  ctsight plan night.ctsight --html plan.html`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("%w: plan reads one capture, got %d", errUsage, len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return p.run(cmd.Context(), g, cmd.Flags(), args) },
	}
	f := cmd.Flags()
	p.flags(f)
	f.DurationVar(&p.limit, "for", time.Minute, "how long to look, of the capture with one (default: all of it); Ctrl-C ends and prints as well")
	f.Uint64Var(&p.max, "max", 0, "what if nf_conntrack_max were this")
	f.StringVar(&p.timeouts, "timeout", "", "what if these timeouts were, as udp=10s,udp_stream=60s,tcp_established=1h")
	f.Float64Var(&p.factor, "factor", 1, "what if so many times as many connections came")
	f.DurationVar(&p.after, "after", 0, "the new timeouts are set so long after the beginning")
	f.StringVar(&p.html, "html", "", "write the curves, too: entries and losses over the limit and over timeouts, as a file of HTML")
	f.Uint64Var(&p.recordedMax, "recorded-max", 0, "the nf_conntrack_max under which a capture was made")
	f.StringVar(&p.recordedTimeouts, "recorded-timeout", "", "the timeouts under which a capture was made, where they were not the kernel's own")
	return cmd
}

// check takes what flags say together.
func (p *planFlags) check(g *globals, f *pflag.FlagSet, args []string) (w plan.WhatIf, err error) {
	if err := g.check(); err != nil {
		return w, err
	}
	if len(args) == 1 {
		if p.given() {
			return w, fmt.Errorf("%w: --from %s and %s: one capture at a time", errUsage, p.from[0], args[0])
		}
		p.from = args[:1]
	}
	w = plan.WhatIf{Max: p.max, Factor: p.factor, After: p.after}
	switch {
	case f.Changed("max") && (p.max < 1 || p.max > 1<<31-1):
		return w, fmt.Errorf("%w: --max %d: from 1 to %d", errUsage, p.max, 1<<31-1)
	case !(p.factor > 0 && p.factor <= 100):
		return w, fmt.Errorf("%w: --factor %g: more than 0, at most 100", errUsage, p.factor)
	case p.after < 0:
		return w, fmt.Errorf("%w: --after %s: not before the beginning", errUsage, p.after)
	case p.limit <= 0 && f.Changed("for"):
		return w, fmt.Errorf("%w: --for %s: a time to look", errUsage, p.limit)
	case !p.given() && (p.recordedMax > 0 || p.recordedTimeouts != ""):
		return w, fmt.Errorf("%w: --recorded-max and --recorded-timeout are for a capture: this kernel is asked", errUsage)
	}
	if p.timeouts != "" {
		if w.Timeouts, err = plan.ParseChanges(p.timeouts); err != nil {
			return w, fmt.Errorf("%w: --timeout %w", errUsage, err)
		}
	}
	return w, nil
}

func (p *planFlags) run(ctx context.Context, g *globals, f *pflag.FlagSet, args []string) error {
	w, err := p.check(g, f, args)
	if err != nil {
		return err
	}
	p.whole(f, &p.limit)
	if p.given() {
		return p.capture(ctx, g, w)
	}
	return p.live(ctx, g, w)
}

// planned is a capture that was read for a plan.
type planned struct {
	in       pipeline.Capture // closed
	record   *plan.Record
	memory   triage.Memory
	from, to time.Time
	netns    event.NetNS
	backend  string
}

// planOf reads a capture. A limit and timeouts that are given win over what it says of its
// kernel.
func planOf(ctx context.Context, g *globals, of *past, limit time.Duration, was uint64, were []plan.Change) (*planned, error) {
	file := of.from[0]
	in, err := of.openOne(file)
	if err != nil {
		return nil, err
	}
	ns, err := g.captureNetNS(in)
	if err != nil {
		return nil, err
	}
	clock, backend := in.Clock(), in.Origin().Backend
	c, err := pipeline.PlanCapture(ctx, in, ns, limit)
	if err != nil {
		return nil, err
	}
	from, to := c.Window()
	if from == to {
		return nil, fmt.Errorf("%s: nothing in it to plan for", file)
	}
	k := c.Kernel
	k.Max = cmp.Or(was, k.Max)
	for _, c := range were {
		k.Timeouts[c.Timer] = c.To
	}
	return &planned{in, plan.Read(c, k), triage.Memory{Object: c.Object, Buckets: k.Buckets}, clock.At(from), clock.At(to), c.NetNS, backend}, nil
}

// capture plans for what is in a file. What an entry costs is asked of this kernel where
// the file does not have it of its own.
func (p *planFlags) capture(ctx context.Context, g *globals, w plan.WhatIf) error {
	var were []plan.Change
	var err error
	if p.recordedTimeouts != "" {
		if were, err = plan.ParseChanges(p.recordedTimeouts); err != nil {
			return fmt.Errorf("%w: --recorded-timeout %w", errUsage, err)
		}
	}
	c, err := planOf(ctx, g, &p.past, p.limit, p.recordedMax, were)
	if err != nil {
		return err
	}
	g.lacks(p.from[0], c.in)
	if c.memory.Object == 0 {
		c.memory.Object = pipeline.EntrySize()
	}
	d, err := plan.Make(c.record, w, c.memory)
	if err != nil {
		return err
	}
	d.From, d.To, d.Source, d.NetNS = c.from, c.to, p.from[0], c.netns
	if c.backend != "" {
		d.Source += " (" + c.backend + ")"
	}
	return p.write(g, c.record, d)
}

// live plans for what this kernel does meanwhile.
func (p *planFlags) live(ctx context.Context, g *globals, w plan.WhatIf) error {
	ns, err := p.about(g)
	if err != nil {
		return err
	}
	only, err := filter.Parse("netns "+ns.Inode.String(), filter.Options{})
	if err != nil {
		return err
	}
	clock, err := pipeline.NewClock()
	if err != nil {
		return err
	}
	k, err := pipeline.PlanKernel(ns)
	if err != nil {
		return err
	}
	src, err := g.open(ctx, pipeline.Config{Filter: only})
	if err != nil {
		return err
	}
	ctx, cancel := limited(ctx, p.limit)
	defer cancel()
	c, problems, err := src.Plan(ctx, ns)
	loss, backend := src.Loss(), src.Report().Backend
	if err = errors.Join(err, src.Close()); err != nil {
		return err
	}
	g.warn(problems)
	if loss.Lost > 0 {
		g.logger().Warn("events were lost: there are more connections than those that are counted", "lost", loss.Lost, "seen", loss.Seen)
	}
	r := plan.Read(c, k)
	d, err := plan.Make(r, w, pipeline.EntryMemory())
	if err != nil {
		return err
	}
	from, to := c.Window()
	d.From, d.To, d.Source, d.NetNS = clock.At(from), clock.At(to), backend, ns.Inode
	return p.write(g, r, d)
}

// about is the namespace of --netns, or the fullest.
func (p *planFlags) about(g *globals) (ctnl.NS, error) {
	if g.netns == "" {
		return pipeline.Fullest()
	}
	ino, err := g.resolveNetNS(g.netns)
	if err != nil {
		return ctnl.NS{}, err
	}
	all, err := ctnl.ListNetNS()
	for _, ns := range all {
		if ns.Inode == ino {
			return ns, nil
		}
	}
	return ctnl.NS{}, errors.Join(err, fmt.Errorf("network namespace %s has gone", g.netns))
}

func (p *planFlags) write(g *globals, r *plan.Record, d *plan.Doc) error {
	if p.html != "" {
		out, err := newPage("--html", p.html)
		if err != nil {
			return err
		}
		defer out.discard()
		if err := out.write(func(w io.Writer) error { return report.WritePlanHTML(w, &report.Plan{Doc: d, Curves: r.Curves(d)}) }); err != nil {
			return err
		}
	}
	if g.json() {
		return view.WritePlanJSON(g.stdout, d)
	}
	return view.WritePlanText(g.stdout, d, view.PlanOptions{Color: g.color(), Names: g.namesNow().view()})
}
