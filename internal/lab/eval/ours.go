package main

import (
	"context"
	"io"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/detect"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/eval/capture"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/record"
)

// told is a finding as it was told, and when.
type told struct {
	agg.Finding
	at event.Ktime // since the first line
}

// listed says whether lists and pagers would get it.
func (t *told) listed() bool { return t.State == agg.Confirmed && t.Severity != agg.Info }

// about says whether it is about a source, or about a network that it is in.
func (t *told) about(s *capture.Source) bool { return t.Source.IsValid() && t.Source.Overlaps(s.Net) }

// ours runs what `ctsight detect --from` runs over a capture.
func ours(c *capture.Capture) (out []told, err error) {
	var in pipeline.Lines = &lines{of: c}
	if c.Path != "" {
		if in, err = record.Open(c.Path, nil); err != nil {
			return nil, err
		}
	}
	_, err = pipeline.Replay(context.Background(), in, pipeline.ReplayConfig{Detect: detect.Config{Tell: func(f *agg.Finding) {
		out = append(out, told{*f, event.Ktime(f.Time.Sub(c.Start))})
	}}})
	return out, err
}

// lines reads a capture from memory.
type lines struct {
	of   *capture.Capture
	next int
}

func (l *lines) Close()      {}
func (l *lines) Waits() bool { return false }

func (l *lines) Read(e *event.Event) (record.What, error) {
	if l.next == len(l.of.Lines) {
		return 0, io.EOF
	}
	v := &l.of.Lines[l.next]
	l.next++
	*e = v.Event
	e.Time += event.Ktime(l.of.Start.UnixNano())
	switch v.What {
	case 'R':
		e.Status = event.SeenReply
	case 'A':
		e.Status = event.SeenReply | event.Assured
	}
	return record.What(v.What), nil
}
