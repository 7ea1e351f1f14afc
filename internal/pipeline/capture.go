package pipeline

import (
	"context"
	"errors"
	"io"
	"strconv"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/record"
	"github.com/ctsight/ctsight/internal/record/capture"
)

// Capture is one that was opened, text or a recording. It is read once: the methods
// that read close it.
type Capture interface {
	// Clock converts its times.
	Clock() event.Clock
	// Origin is where it comes from; nothing is known of that of text.
	Origin() Origin
	// Replay finds what is in it.
	Replay(ctx context.Context, c ReplayConfig) (Replayed, error)
	// Events calls fn for what has happened, in the order of its time, until it
	// returns an error or ctx ends. Events are not to be kept.
	Events(ctx context.Context, fn func(*event.Event) error) error
	// Bounds are the times of its first and its last event, as far as a look at its
	// index tells; 0 where it has to be read for that.
	Bounds() (first, last event.Ktime, err error)
	// Lost is what is missing in what was read: events that found no room when it was
	// recorded, and what is damaged. Whole says whether it was ended by who wrote it.
	Lost() (lost capture.Missing, whole bool)
	Close()
}

// Text is a capture of lines.
func Text(l Lines) Capture { return text{l} }

// Origin is where a capture comes from.
type Origin struct {
	Boot    string // of the machine, as long as it runs: two captures with one Boot are of one
	Node    string
	Backend string
	Own     event.NetNS // namespace of who recorded, 0 for not known
	Names   map[event.NetNS]string

	header *capture.Header // nil of text
}

type text struct{ Lines }

func (text) Origin() Origin { return Origin{} }

func (text) Bounds() (first, last event.Ktime, err error) { return 0, 0, nil }

func (text) Clock() event.Clock { return record.Clock() }

func (text) Lost() (capture.Missing, bool) { return capture.Missing{}, true }

func (t text) Replay(ctx context.Context, c ReplayConfig) (Replayed, error) {
	return Replay(ctx, t.Lines, c)
}

func (t text) Events(ctx context.Context, fn func(*event.Event) error) error {
	defer t.Close()
	r := replay{live: agg.NewLive[entry](keepLive, 0)}
	for ctx.Err() == nil {
		var l line
		var err error
		if l.what, err = t.Read(&l.Event); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if r.note(&l); l.Kind == 0 {
			continue
		}
		if err := fn(&l.Event); err != nil {
			return err
		}
	}
	return nil
}

// Recording is one of ctsight record; done closes what it is read from.
func Recording(r capture.Source, done func()) Capture { return recording{settle(r), done} }

// settled is a recording that says of itself that it begins where it does: a file of a ring
// is of a run that may have begun long before.
type settled struct {
	capture.Source
	about capture.Header
	first *capture.Item // was read already
	err   error
}

func settle(in capture.Source) capture.Source {
	s := &settled{Source: in, about: *in.About()}
	if s.about.Minor == 0 { // nothing says where a run begins
		return in
	}
	if s.first, s.err = in.Next(); s.err != nil {
		return s
	}
	if s.first.Kind == capture.Steps {
		if step, err := sectionOf[censusStep](s.first); err == nil && step.Begin {
			return s
		}
	}
	s.about.Start = max(s.about.Start, int64(timeOf(s.first)))
	return s
}

func (s *settled) About() *capture.Header { return &s.about }

func (s *settled) Next() (*capture.Item, error) {
	if x, err := s.first, s.err; x != nil || err != nil {
		s.first, s.err = nil, nil
		return x, err
	}
	return s.Source.Next()
}

func (s *settled) SeekSnapshot(t event.Ktime) (bool, error) {
	went, err := s.Source.SeekSnapshot(t)
	if went {
		s.first, s.err = nil, nil
	}
	return went, err
}

type recording struct {
	r    capture.Source
	done func()
}

func (c recording) Bounds() (first, last event.Ktime, err error) { return c.r.Bounds() }

func (c recording) Clock() event.Clock { return c.r.About().Clock() }

func (c recording) Origin() Origin {
	h := c.r.About()
	o := Origin{Boot: h.BootID, Node: h.Node, Backend: h.Backend, Own: event.NetNS(h.Own), Names: map[event.NetNS]string{}, header: h}
	for number, name := range h.Names {
		if n, err := strconv.ParseUint(number, 10, 32); err == nil {
			o.Names[event.NetNS(n)] = name
		}
	}
	return o
}

func (c recording) Close() { c.done() }

func (c recording) Lost() (capture.Missing, bool) { return c.r.Missing() }

func (c recording) Replay(ctx context.Context, config ReplayConfig) (Replayed, error) {
	defer c.done()
	return ReplayCapture(ctx, c.r, config)
}

func (c recording) Events(ctx context.Context, fn func(*event.Event) error) error {
	defer c.done()
	return eachItem(ctx, c.r, func(x *capture.Item) error {
		if x.Kind != capture.Events {
			return nil
		}
		for i := range x.Events {
			if err := fn(&x.Events[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// eachItem calls fn for the items of a recording until it returns an error or ctx ends.
func eachItem(ctx context.Context, in capture.Source, fn func(*capture.Item) error) error {
	for ctx.Err() == nil {
		x, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = fn(x)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
