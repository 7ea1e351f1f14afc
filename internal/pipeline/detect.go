package pipeline

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/detect"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/probe"
)

// Detection has a Watch find incidents.
type Detection struct {
	// Found is called with every finding that is told, one after the other, by a
	// goroutine that reads no events; it may take its time, and then hears of many
	// at once. nil is for who asks for Status.
	Found func(*agg.Finding)
	// Allow is that of detect.Config.
	Allow func(netip.Addr, time.Time) string
}

// detector is the engine of a Watch and what waits for others.
type detector struct {
	cfg    Detection
	engine *detect.Engine
	looks  looker
	due    []detect.Look // of the goroutine that looks, used again
	seen   []detect.Seen

	told  []agg.Finding // not handed out yet
	news  bool          // something was told since the last picture
	open  []agg.Finding // the picture of the last second: nobody changes it
	found []agg.ClassCount
	paged []agg.ClassCount
	over  detect.Overflow
	err   error // of looking
}

// looker looks at live entries. It fills in seen, of as many as there are looks.
type looker interface {
	look(ctx context.Context, looks []detect.Look, seen []detect.Seen) error
}

const (
	contactEvery = 100 * time.Millisecond // looks at contacts
	contactBatch = 1024
)

// Detect has the watch find incidents; before Run.
func (w *Watch) Detect(c Detection) {
	d := &detector{cfg: c, due: make([]detect.Look, 0, contactBatch), seen: make([]detect.Seen, contactBatch)}
	d.engine = detect.New(detect.Config{Clock: w.clock, Seed: w.tableSeed, Allow: c.Allow,
		Tell: func(f *agg.Finding) { d.tell(f); w.markFinding(f) }}, w.start)
	switch p := w.p.Source.(type) {
	case peeker:
		d.looks = peeks{p}
	case *Fallback:
		d.looks = queries{p}
	}
	w.detector = d
}

// tell is called by the engine, while the lock is held.
func (d *detector) tell(f *agg.Finding) {
	d.news = true
	if d.cfg.Found != nil {
		d.told = append(d.told, *f)
	}
}

// Findings returns the incidents that are open and those of the last day, and how
// many there were, as of the last second.
func (w *Watch) Findings() ([]agg.Finding, []agg.ClassCount) {
	w.lock()
	defer w.mu.Unlock()
	if w.detector == nil {
		return nil, nil
	}
	return w.detector.open, w.detector.found
}

// urgent returns the incidents that are open, the most urgent first. The lock is
// held; a nil detector has none.
func (d *detector) urgent() []agg.Finding {
	if d == nil {
		return nil
	}
	return urgent(d.open)
}

func urgent(all []agg.Finding) []agg.Finding {
	out := slices.DeleteFunc(slices.Clone(all), func(f agg.Finding) bool { return f.State == agg.Cleared })
	slices.SortStableFunc(out, func(a, b agg.Finding) int {
		return cmp.Or(cmp.Compare(agg.Urgency(a.Severity), agg.Urgency(b.Severity)), cmp.Compare(a.State, b.State))
	})
	return out
}

// contacts looks at contacts that are old enough until ctx ends.
func (w *Watch) contacts(ctx context.Context) {
	tick := time.NewTicker(contactEvery)
	defer tick.Stop()
	for {
		w.lookAtContacts(ctx)
		w.handOut()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// lookAtContacts looks at all that are due. No lock is held meanwhile: what is
// destroyed in between tells by itself.
func (w *Watch) lookAtContacts(ctx context.Context) {
	d := w.detector
	for until := now(); ; {
		w.lock()
		looks, seen := d.engine.Due(until, d.due), d.seen
		w.recordLooks(until, nil, nil)
		w.mu.Unlock()
		if len(looks) == 0 {
			return
		}
		clear(seen)
		if d.looks != nil {
			if err := d.looks.look(ctx, looks, seen[:len(looks)]); err != nil {
				w.failed(err)
			}
		}
		w.lock()
		at := now()
		d.engine.SeenAll(looks, at, seen)
		w.recordLooks(at, looks, seen[:len(looks)])
		w.mu.Unlock()
	}
}

// failed keeps the first error of looking, for Problems.
func (w *Watch) failed(err error) {
	w.nets.Lock()
	defer w.nets.Unlock()
	if w.detector.err == nil {
		w.detector.err = err
	}
}

// looksErr is why contacts could not be looked at. The lock of nets is held.
func (w *Watch) looksErr() error {
	if w.detector == nil {
		return nil
	}
	return w.detector.err
}

// handOut calls who wants to hear of findings.
func (w *Watch) handOut() {
	d := w.detector
	w.lock()
	told := d.told
	d.told = nil
	w.mu.Unlock()
	for i := range told {
		d.cfg.Found(&told[i])
	}
}

// second ends a second, where somebody wants to know.
func (w *Watch) second() {
	d := w.detector
	if d == nil && w.rec.Recorder == nil {
		return
	}
	tables, ahead, loss := w.all(), w.poolsAhead(), w.p.loss()
	w.lock()
	defer w.mu.Unlock()
	at := w.now()
	s := secondState{Tables: w.tableStates(tables, at), Loss: loss}
	s.Pools, s.PoolSums = w.poolStates(tables, ahead)
	w.recordSecond(at, s)
	w.markLevels(at, s.Tables)
	if d == nil {
		return
	}
	d.engine.Tick(at, detect.State{Tables: s.Tables, Pools: s.Pools, Loss: loss})
	d.over = d.engine.Overflow()
	if d.news {
		d.news = false
		d.open, d.found, d.paged = d.engine.Findings(), d.engine.Found(), d.engine.Paged()
	}
}

// peeks looks with a program that reads the entries where they lie.
type peeks struct{ p peeker }

func (l peeks) look(_ context.Context, looks []detect.Look, seen []detect.Seen) error {
	q := make([]probe.Peek, 0, len(looks))
	at := make([]int, 0, len(looks))
	for i := range looks {
		if x := &looks[i]; x.Ptr != 0 {
			q = append(q, probe.Peek{Ptr: x.Ptr, Orig: x.Orig, Zone: x.Zone, NetNS: x.NetNS})
			at = append(at, i)
		}
	}
	if len(q) == 0 {
		return nil
	}
	if err := l.p.Peek(q); err != nil {
		return err
	}
	for i := range q {
		seen[at[i]] = detect.Seen{Known: q[i].Result != probe.PeekFault, Live: q[i].Result == probe.PeekLive,
			Status: q[i].Status, TCPState: q[i].TCPState}
	}
	return nil
}

// seeded tells the engine of an entry that was there.
func (d *detector) seeded(e *event.Event) {
	if d != nil {
		d.engine.Seed(e)
	}
}
