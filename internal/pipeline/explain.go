package pipeline

import (
	"context"
	"errors"
	"slices"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/detect"
	"github.com/ctsight/ctsight/internal/event"
)

// ErrNoFinding is what Explain answers for an id that is not found.
var ErrNoFinding = errors.New("no such finding")

// Explain returns a finding as it was told the last time, with the first and the
// last pieces of its evidence, n of each at most. It runs the capture twice: once to
// know whose evidence it is, and once to keep that. What was found before an error
// of the capture is explained with it.
func Explain(ctx context.Context, open func() (Capture, error), id string, n int, c ReplayConfig) (agg.Explanation, error) {
	var out agg.Explanation
	known := false
	c.Detect.Step = nil
	c.Detect.Tell = func(f *agg.Finding) {
		if f.ID == id {
			out.Finding, known = *f, true
		}
	}
	err := replayOnce(ctx, open, c)
	switch {
	case ctx.Err() != nil:
		return out, ctx.Err()
	case !known && err != nil:
		return out, err
	case !known:
		return out, ErrNoFinding
	}
	k := pieces{f: &out.Finding, n: n, out: &out}
	c.Detect.Tell, c.Detect.Step = nil, k.step
	clocked := func() (in Capture, err error) {
		if in, err = open(); err == nil {
			k.clock = in.Clock()
		}
		return in, err
	}
	err = replayOnce(ctx, clocked, c)
	k.finish()
	return out, errors.Join(err, ctx.Err())
}

func replayOnce(ctx context.Context, open func() (Capture, error), c ReplayConfig) error {
	in, err := open()
	if err == nil {
		_, err = in.Replay(ctx, c)
	}
	return err
}

// pieces keeps the first and the last pieces of evidence of one finding.
type pieces struct {
	f     *agg.Finding
	n     int
	out   *agg.Explanation
	clock event.Clock

	under *detect.Step // the piece that is being told, one test after the other
	piece agg.Weighed
	next  int // in Last, when that is full
}

// step takes a piece, or one more test of it. Those from before or behind the
// finding's evidence are of another one, or were not told.
func (k *pieces) step(s *detect.Step) {
	at := k.clock.At(s.At)
	if s.Subject != k.f.Source || s.Contact.NetNS != k.f.NetNS || s.Contact.Zone != k.f.Zone || at.Before(k.f.First) || at.After(k.f.Last) {
		return
	}
	if u := k.under; u == nil || u.At != s.At || u.Contact != s.Contact || u.Outcome != s.Outcome || u.Note != s.Note {
		k.end()
		k.under = s
		k.piece = agg.Weighed{Time: at, Increment: s.Increment, Note: s.Note,
			Contact: agg.Contacted{At: k.clock.At(s.Contact.At), Orig: s.Contact.Orig, Outcome: s.Outcome.String()}}
	}
	if s.Key != "" {
		k.piece.Tests = append(k.piece.Tests, agg.Tested{Key: s.Key, Statistic: s.Statistic})
	}
}

// end puts a piece where it belongs.
func (k *pieces) end() {
	o := k.out
	switch {
	case k.under == nil:
	case len(o.First) < k.n:
		o.First = append(o.First, k.piece)
	case len(o.Last) < k.n:
		o.Last = append(o.Last, k.piece)
	default:
		o.Between++
		if k.n > 0 {
			o.Last[k.next] = k.piece
			k.next = (k.next + 1) % k.n
		}
	}
	k.under = nil
}

// finish puts the last pieces in the order of their time.
func (k *pieces) finish() {
	k.end()
	k.out.Last = slices.Concat(k.out.Last[k.next:], k.out.Last[:k.next])
}
