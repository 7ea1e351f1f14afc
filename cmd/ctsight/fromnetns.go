package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/filter"
	"github.com/ctsight/ctsight/internal/pipeline"
)

// openPart opens a capture of which the arguments, --since, --until and --netns leave a part.
func (g *globals) openPart(p *past, from string, args []string) (only, error) {
	text := strings.Join(args, " ")
	anything := func(string) (event.NetNS, bool) { return 1, true }
	if _, err := filter.Parse(text, filter.Options{NetNS: anything}); err != nil {
		return only{}, err // before a file is opened
	}
	in, err := p.openOne(from)
	if err != nil {
		return only{}, err
	}
	ns, err := g.captureNetNS(in)
	if err != nil {
		return only{}, err
	}
	flt, err := captureFilter(text, in, ns)
	if err != nil {
		return only{}, err
	}
	return only{in, flt, ns}, nil
}

// openParts opens all captures so, or none.
func (g *globals) openParts(p *past, args []string) (all []pipeline.Capture, err error) {
	for _, from := range p.from {
		in, err := g.openPart(p, from, args)
		if err != nil {
			closeAll(all)
			return nil, err
		}
		all = append(all, in)
	}
	return all, nil
}

func closeAll(all []pipeline.Capture) {
	for _, c := range all {
		c.Close()
	}
}

// captureFilter parses a filter and adds a namespace, 0 for all, for a capture, whose
// namespaces are those that it names, or numbers. It closes a capture for which that fails.
func captureFilter(text string, in pipeline.Capture, ns event.NetNS) (*filter.Filter, error) {
	o := in.Origin()
	f, err := filter.Parse(text, filter.Options{NetNS: func(name string) (event.NetNS, bool) { return netnsNamed(o, name) }})
	if err != nil {
		in.Close()
		return nil, err
	}
	if ns == 0 {
		return f, nil
	}
	both := "netns " + ns.String()
	if !f.All() {
		both += " and (" + f.String() + ")"
	}
	return filter.Parse(both, filter.Options{})
}

// captureNetNS is the namespace of --netns in a capture, 0 for all. It closes a capture
// that has none of that name.
func (g *globals) captureNetNS(in pipeline.Capture) (event.NetNS, error) {
	if g.netns == "" {
		return 0, nil
	}
	o := in.Origin()
	if ns, ok := netnsNamed(o, g.netns); ok {
		return ns, nil
	}
	inode, err := strconv.ParseUint(g.netns, 10, 32)
	if o.Backend != "" && err == nil && inode > 0 {
		return event.NetNS(inode), nil
	}
	in.Close()
	if o.Backend == "" {
		return 0, fmt.Errorf("%w: --netns with --from %q: a capture in text has no network namespaces", errUsage, g.netns)
	}
	known := "the recording names none, give its number"
	if len(o.Names) > 0 {
		var names []string
		for _, n := range o.Names {
			names = append(names, n)
		}
		slices.Sort(names)
		const most = 10
		known = "its number, or one of " + strings.Join(names[:min(most, len(names))], ", ")
	}
	return 0, fmt.Errorf("%w: --netns %q: no network namespace of the recording: %s", errUsage, g.netns, known)
}

func netnsNamed(o pipeline.Origin, name string) (event.NetNS, bool) {
	for ns, n := range o.Names {
		if n == name {
			return ns, true
		}
	}
	return 0, false
}

// only is a part of a capture: what its filter lets through, and of the tables and
// findings those of a namespace, where there is one.
type only struct {
	pipeline.Capture
	filter *filter.Filter
	netns  event.NetNS // 0 for all
}

func (o only) Replay(ctx context.Context, c pipeline.ReplayConfig) (pipeline.Replayed, error) {
	c.Filter = o.filter
	if o.netns == 0 {
		return o.Capture.Replay(ctx, c)
	}
	each, tell := c.Each, c.Detect.Tell
	c.Each = func(t *pipeline.Told) {
		if t.State != nil {
			s := t.State.Only(o.netns)
			t = &pipeline.Told{At: t.At, State: &s}
		}
		if each != nil {
			each(t)
		}
	}
	c.Detect.Tell = func(f *agg.Finding) {
		if tell != nil && (f.NetNS == 0 || f.NetNS == o.netns) {
			tell(f)
		}
	}
	return o.Capture.Replay(ctx, c)
}
