package main

import (
	"bytes"
	"context"
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

// past is the flags for captures in place of this kernel.
type past struct {
	from         []string
	since, until string
}

func (p *past) flags(f *pflag.FlagSet) {
	f.StringArrayVar(&p.from, "from", nil, "work on this `capture` (of ctsight record, the directory of one with --ring, or .ctr.tsv, plain, gzip or zstd; - is standard input), in its time")
	p.within(f)
}

// within are the flags for a part of it.
func (p *past) within(f *pflag.FlagSet) {
	f.StringVar(&p.since, "since", "", "of a capture only what is from this `time` on: RFC 3339, 15:04:05, +10m after its beginning, or -5m before its end")
	f.StringVar(&p.until, "until", "", "and before this `time`")
}

func (p *past) given() bool { return len(p.from) > 0 }

// whole has --for, whose default is for this kernel, take all of a capture unless it is given.
func (p *past) whole(f *pflag.FlagSet, limit *time.Duration) {
	if p.given() && !f.Changed("for") {
		*limit = 0
	}
}

// check says what does not fit together; most is how many captures there may be.
func (p *past) check(most int) error {
	switch {
	case !p.given() && p.since+p.until != "":
		return fmt.Errorf("%w: --since and --until are for a capture: --from FILE", errUsage)
	case len(p.from) > most:
		return fmt.Errorf("%w: --from %d times: this works on one capture", errUsage, len(p.from))
	}
	return nil
}

const manyCaptures = 1 << 10

func (p *past) openOne(from string) (pipeline.Capture, error) {
	in, err := openCapture(from)
	if err != nil || p.since+p.until == "" {
		return in, err
	}
	since, err := timeIn(in, p.since)
	if err != nil {
		in.Close()
		return nil, fmt.Errorf("%w: --since %w", errUsage, err)
	}
	until, err := timeIn(in, p.until)
	if err == nil && until != 0 && until <= since {
		err = fmt.Errorf("%q: not after --since %q", p.until, p.since)
	}
	if err != nil {
		in.Close()
		return nil, fmt.Errorf("%w: --until %w", errUsage, err)
	}
	if err := p.outside(in, since, until); err != nil {
		in.Close()
		return nil, err
	}
	return pipeline.Between(in, since, until), nil
}

// outside says that nothing of a capture is in the time that is asked for, as far as that
// is known before it is read.
func (p *past) outside(in pipeline.Capture, since, until event.Ktime) error {
	first, last, err := in.Bounds()
	if err != nil || last == 0 {
		return err
	}
	at := func(k event.Ktime) string { return in.Clock().At(k).Format(time.RFC3339Nano) }
	switch {
	case since > last:
		return fmt.Errorf("%w: --since %q: the capture ends at %s", errUsage, p.since, at(last))
	case until != 0 && until <= first:
		return fmt.Errorf("%w: --until %q: the capture begins at %s", errUsage, p.until, at(first))
	}
	return nil
}

// timeIn is a time of a capture, 0 for "".
func timeIn(in pipeline.Capture, s string) (event.Ktime, error) {
	if s == "" {
		return 0, nil
	}
	clock := in.Clock()
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return max(1, clock.Of(t)), nil
	}
	first, last, err := in.Bounds()
	if err != nil {
		return 0, err
	}
	if d, err := time.ParseDuration(s); err == nil && (s[0] == '+' || s[0] == '-') {
		switch {
		case first == 0:
			return 0, fmt.Errorf("%q: when this capture begins and ends is not known before it is read: give a time, as 2006-01-02T15:04:05Z", s)
		case s[0] == '+':
			return first + event.Ktime(d), nil
		}
		return max(1, last+event.Ktime(d)), nil
	}
	for _, form := range []string{time.TimeOnly, "15:04"} {
		t, err := time.Parse(form, s)
		if err != nil {
			continue
		}
		if first == 0 {
			return 0, fmt.Errorf("%q: of which day is not known before this capture is read: give a time, as 2006-01-02T15:04:05Z", s)
		}
		begin := clock.At(first).Local()
		day := time.Date(begin.Year(), begin.Month(), begin.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.Local)
		if day.Before(begin) {
			day = day.AddDate(0, 0, 1)
		}
		return clock.Of(day), nil
	}
	return 0, fmt.Errorf("%q: a time, as 2006-01-02T15:04:05Z, 15:04:05, +10m or -5m", s)
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
	if f, ok := in.(*os.File); ok && rewind(f, n) { // which can be read anywhere
		in = f
	} else {
		in = io.MultiReader(bytes.NewReader(head[:n]), in)
	}
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

// rewind goes back to the beginning, where so many bytes were read of; not of a pipe.
func rewind(f *os.File, n int) bool {
	_, err := f.Seek(-int64(n), io.SeekCurrent)
	return err == nil
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

// read adds up captures that were opened, and says what is missing in them. Of several the names are not
// known: numbers of namespaces are those of one machine.
func (g *globals) read(ctx context.Context, p *past, all []pipeline.Capture, c pipeline.PastConfig) (*pipeline.Past, pipeline.Origin, error) {
	var o pipeline.Origin
	if len(all) == 1 {
		o = all[0].Origin()
	}
	out, read, err := pipeline.ReadPast(ctx, all, c)
	if err != nil {
		return nil, o, err
	}
	if ctx.Err() != nil {
		return nil, o, errors.New("interrupted before the capture was read")
	}
	for i := range read {
		g.replayed(p.from[i], &read[i])
		if c.For == 0 {
			g.lacks(p.from[i], all[i])
		}
	}
	return out, o, nil
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
