package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/filter"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/probe"
	"github.com/ctsight/ctsight/internal/record"
	"github.com/ctsight/ctsight/internal/view"
)

// flushEvery is how long a line may wait in the output buffer.
const flushEvery = 50 * time.Millisecond

// errEnough ends a trace that has printed --count events.
var errEnough = errors.New("enough")

type traceFlags struct {
	past
	limit   time.Duration
	count   uint64
	invalid bool
	ring    int
}

func newTrace(g *globals) *cobra.Command {
	var t traceFlags
	cmd := &cobra.Command{
		Use:   "trace [FILTER]",
		Short: "one line per event as it happens: new, destroy with cause, drop with reason",
		Example: `  ctsight trace drop
  ctsight trace 'src 10.0.0.0/8 and dport 53' -o json | jq .
  ctsight trace cause early_drop --for 10s
  ctsight trace --from night.ctsight 'drop and src 10.0.0.7'`,
		RunE: func(cmd *cobra.Command, args []string) error { return t.run(cmd.Context(), g, args) },
	}
	f := cmd.Flags()
	t.flags(f)
	f.DurationVar(&t.limit, "for", 0, "end after this time, of the capture with --from (default: until Ctrl-C, or all of it)")
	f.Uint64Var(&t.count, "count", 0, "end after this many events")
	f.BoolVar(&t.invalid, "invalid", false, "also packets that conntrack calls invalid (hooks every packet)")
	f.IntVar(&t.ring, "ring", 0, "bytes of each CPU's ring (default 2097152, at most 4194304)")
	return cmd
}

func (t *traceFlags) run(ctx context.Context, g *globals, args []string) error {
	if err := errors.Join(g.check(), t.check(manyCaptures)); err != nil {
		return err
	}
	if t.given() {
		return t.replay(ctx, g, args)
	}
	flt, err := g.filter(args)
	if err != nil {
		return err
	}
	names := g.names()
	ctx, cancel := limited(ctx, t.limit)
	defer cancel()
	clock, err := pipeline.NewClock()
	if err != nil {
		return err
	}
	p, err := g.open(ctx, pipeline.Config{Filter: flt, Invalid: t.invalid, RingBytes: t.ring})
	if err != nil {
		return err
	}
	own, _ := resolveOwn() // 0 is nobody's
	out := newLineOutput(g, names.view(), own, clock, cancel)
	err = p.Run(ctx, func(e *event.Event) error {
		if err := out.write(e); err != nil {
			return err
		}
		if t.count > 0 && out.lines >= t.count {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	loss := p.Loss()
	if err = errors.Join(err, out.flush(), p.Close()); err != nil {
		return err
	}
	if loss.Lost > 0 || loss.ByStage["recursion"] > 0 || loss.ByStage["netlink"] > 0 {
		fmt.Fprintf(g.stderr, "ctsight: %d events seen, %d lost (%s); the counters of ctsight drops stay exact\n", loss.Seen, loss.Lost, stages(loss))
	}
	return nil
}

// replay prints what has happened in a capture.
func (t *traceFlags) replay(ctx context.Context, g *globals, args []string) error {
	if t.invalid {
		return fmt.Errorf("%w: --invalid with --from: what is in a capture is in it", errUsage)
	}
	if len(t.from) > 1 {
		in, err := g.openParts(&t.past, args)
		if err != nil {
			return err
		}
		return t.together(ctx, g, in)
	}
	in, err := g.openPart(&t.past, t.from[0], args)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	o := in.Origin()
	out := newLineOutput(g, g.namesIn(o), o.Own, in.Clock(), cancel)
	err = in.Events(ctx, t.printer(out, in.filter))
	switch {
	case errors.Is(err, errEnough):
		err = nil
	case err == nil:
		g.lacks(t.from[0], in)
	}
	return errors.Join(err, out.flush())
}

// printer prints what a filter lets through, until it is enough.
func (t *traceFlags) printer(out *lineOutput, f *filter.Filter) func(*event.Event) error {
	var first event.Ktime
	return func(e *event.Event) error {
		if first == 0 {
			first = e.Time
		}
		if t.limit > 0 && e.Time.Sub(first) >= t.limit {
			return errEnough
		}
		if !f.Match(e) {
			return nil
		}
		if err := out.write(e); err != nil {
			return err
		}
		if t.count > 0 && out.lines >= t.count {
			return errEnough
		}
		return nil
	}
}

// together prints what has happened in several captures, in the order of the time. Where
// that was is said with the name of the node.
func (t *traceFlags) together(ctx context.Context, g *globals, in []pipeline.Capture) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	where := make([]view.Names, len(in))
	node := 0
	for i, c := range in {
		where[i] = g.namesIn(c.Origin())
	}
	names := view.Names{NetNS: func(ns event.NetNS) string {
		name, of := where[node].NetNS(ns), in[node].Origin().Node
		if of == "" {
			return name
		}
		return of + ":" + cmp.Or(name, ns.String())
	}}
	out := newLineOutput(g, names, 0, record.Clock(), cancel)
	write := t.printer(out, nil) // each has its own
	var failed error
	_, err := pipeline.ReplayTogether(ctx, in, pipeline.ReplayConfig{}, func(n int, x *pipeline.Told) {
		if x.Event == nil || failed != nil {
			return
		}
		node = n // the names are asked for meanwhile
		if failed = write(x.Event); failed != nil {
			cancel()
		}
	})
	switch {
	case errors.Is(failed, errEnough):
		err = nil
	case failed != nil:
		err = failed
	case err == nil:
		for i := range in {
			g.lacks(t.from[i], in[i])
		}
	}
	return errors.Join(err, out.flush())
}

func stages(l probe.Loss) string {
	s := ""
	for _, k := range []string{"ring", "recursion", "stash", "netlink"} {
		if l.ByStage[k] > 0 {
			s += fmt.Sprintf(" %s %d", k, l.ByStage[k])
		}
	}
	return s[min(1, len(s)):]
}

// lineOutput writes events as lines: at once when they are few, in blocks when
// they are many. No line waits longer than flushEvery, whether or not another
// one follows.
type lineOutput struct {
	lines uint64
	fail  func() // called when a line could not be written and write is not there to say so

	mu    sync.Mutex
	buf   *bufio.Writer
	w     *view.EventWriter
	last  time.Time
	timer *time.Timer
	armed bool
}

func newLineOutput(g *globals, names view.Names, own event.NetNS, clock event.Clock, fail func()) *lineOutput {
	buf := bufio.NewWriterSize(g.stdout, 64<<10)
	o := &lineOutput{fail: fail, buf: buf, w: view.NewEventWriter(buf, view.EventOptions{
		JSON: g.json(), Color: g.color(), Clock: clock, Own: own, Names: names,
	})}
	o.timer = time.AfterFunc(time.Hour, o.flushLate)
	return o
}

func (o *lineOutput) write(e *event.Event) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.w.Write(e); err != nil {
		return err
	}
	o.lines++
	if t := time.Now(); t.Sub(o.last) >= flushEvery {
		o.last = t
		return o.buf.Flush()
	}
	if !o.armed {
		o.armed = true
		o.timer.Reset(flushEvery)
	}
	return nil
}

// flushLate writes what no later event has pushed out.
func (o *lineOutput) flushLate() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.armed = false
	if o.buf.Flush() != nil { // the error stays in buf, for flush
		o.fail()
	}
}

func (o *lineOutput) flush() error {
	o.timer.Stop()
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Flush()
}
