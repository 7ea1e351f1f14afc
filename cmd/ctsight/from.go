package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"github.com/ctsight/ctsight/internal/detect"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/record"
	"github.com/ctsight/ctsight/internal/record/capture"
	"github.com/ctsight/ctsight/internal/view"
)

// fromFlag is the flag for a capture in place of this kernel.
func fromFlag(f *pflag.FlagSet, from *string) {
	f.StringVar(from, "from", "", "work on this capture (of ctsight record, the directory of one with --ring, or .ctr.tsv, plain, gzip or zstd; - is standard input), in its time")
}

// openCapture opens a capture for a replay: what its first bytes say decides how.
func openCapture(from string) (pipeline.Capture, error) {
	if info, err := os.Stat(from); err == nil && info.IsDir() {
		return openRing(from)
	}
	name, in, done := from, io.Reader(os.Stdin), func() {}
	if from == record.Stdin {
		name = "stdin"
	} else {
		f, err := os.Open(from)
		if err != nil {
			return nil, err
		}
		in, done = f, func() { _ = f.Close() }
	}
	head := make([]byte, len(capture.Magic))
	n, err := io.ReadFull(in, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		done()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	in = io.MultiReader(bytes.NewReader(head[:n]), in)
	if string(head[:n]) == capture.Magic {
		r, err := capture.NewReader(in)
		if err != nil {
			done()
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return pipeline.Recording(r, done), nil
	}
	r, err := record.New(name, in)
	if err != nil {
		done()
		return nil, err
	}
	return pipeline.Text(closing{r, done}), nil
}

// openRing opens what a recorder has left in a directory.
func openRing(dir string) (pipeline.Capture, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.ctsight")) // by name, which is by time
	if err != nil {
		return nil, err
	}
	c, _, err := capture.OpenChain(paths)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return pipeline.Recording(c, c.Close), nil
}

// closing is lines of a file.
type closing struct {
	*record.Reader
	done func()
}

func (c closing) Close() { c.Reader.Close(); c.done() }

// namesIn are the names of a capture: those it has itself, and where it was made since
// this machine has started those that things have now. What another machine's are
// called nobody knows here.
func (g *globals) namesIn(o pipeline.Origin) (v view.Names) {
	if o.Boot != "" && o.Boot == pipeline.BootID() {
		v = g.names().view()
	}
	now := v.NetNS
	v.NetNS = func(ns event.NetNS) string {
		if name := o.Names[ns]; name != "" || now == nil {
			return name
		}
		return now(ns)
	}
	return v
}

// lacks says what is missing in a capture that was read to its end.
func (g *globals) lacks(from string, in pipeline.Capture) {
	lost, whole := in.Lost()
	if lost.Events > 0 || lost.Bytes > 0 || lost.Frames > 0 {
		g.logger().Warn("not all that happened is in the recording", "capture", from, "events", lost.Events, "damaged bytes", lost.Bytes, "frames", lost.Frames)
	}
	if !whole {
		g.logger().Warn("the recording has no end: who wrote it was killed, or still does", "capture", from)
	}
}

// replayed says what was in a capture, and what of it does not fit together.
func (g *globals) replayed(from string, r *pipeline.Replayed) {
	log := g.logger()
	findings := uint64(0)
	for _, c := range r.Found {
		findings += c.Count
	}
	log.Info("read", "capture", from, "lines", r.Lines, "events", r.Events, "findings", findings,
		"from", r.First.Format(time.RFC3339), "for", r.Last.Sub(r.First).Round(time.Millisecond))
	if r.Doubles > 0 {
		log.Warn("entries were inserted while one of the same id was in the table", "times", r.Doubles)
	}
	if r.Strangers > 0 {
		log.Warn("lines were about entries that were not in the table: the capture began later, or is incomplete", "lines", r.Strangers, "forgotten", r.Forgotten)
	}
	if o := r.Overflow; o != (detect.Overflow{}) {
		log.Warn("bounds were reached", "sources", o.Subjects, "evidence", o.Records, "contacts", o.Contacts, "incidents", o.Incidents)
	}
}
