package pipeline

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/record/capture"
	"github.com/ctsight/ctsight/internal/record/flight"
	"github.com/ctsight/ctsight/internal/view"
)

// Flight has a Keeper record what it traces to a ring of files, and keep what was around
// a finding that is for a human, and around a table that comes near its limit.
type Flight struct {
	Dir           *flight.Dir
	Before, After time.Duration // what is kept
	Tool          string        // version of ctsight
}

const (
	// longestKeep is how long a keep goes on when one thing comes after the other.
	longestKeep = 30 * time.Minute
	// longestBack is how many times Before a keep goes back to where evidence begins.
	longestBack = 4
	// keepsHourly is how many are begun within an hour: of what comes thick and fast the
	// first is worth more than the last.
	keepsHourly = 12
	// keptFindings is of how many findings it is known where they are, before those that
	// are not told any more are forgotten.
	keptFindings = 1024
	closeTimeout = 5 * time.Second // of a disk that hangs
)

// recorder is the flight recorder of a Keeper.
type recorder struct {
	c    Flight
	ring *flight.Ring
	now  func() time.Time

	mu       sync.Mutex
	last     moment
	begun    []time.Time       // of the last hour
	findings map[string]string // directories by id
	omitted  uint64            // that were not kept, for there were too many
}

// moment is one that is kept.
type moment struct {
	name         string
	begun, until time.Time
}

// fly begins to record, before the watch runs.
func (k *Keeper) fly(w *Watch) error {
	c := k.cfg.Flight
	if c == nil {
		return nil
	}
	ring, err := c.Dir.Begin(w.headers(c.Tool))
	if err != nil {
		return fmt.Errorf("flight recorder: %w", err)
	}
	w.Record(ring.Recorder())
	w.rec.told, k.account.note = true, w.recordReading // one reads for both
	r := &recorder{c: *c, ring: ring, now: time.Now, findings: map[string]string{}}
	w.crossed = r.crossed
	k.mu.Lock()
	k.recorder = r
	k.mu.Unlock()
	return nil
}

// headers are those of the files of a ring. The goroutine that writes asks for them, and
// shall not have to look through all namespaces: what their sysctls are now is known.
func (w *Watch) headers(tool string) func() capture.Header {
	first := w.CaptureHeader(tool)
	return func() capture.Header {
		h := first
		w.nets.Lock()
		defer w.nets.Unlock()
		if len(w.sysctls) == 0 {
			return h
		}
		h.Sysctls, h.Names = map[string]map[string]string{}, map[string]string{}
		for _, ns := range slices.Sorted(maps.Keys(w.sysctls)) {
			if t := w.tables[ns]; t != nil && len(h.Sysctls) < namespacesTold {
				tellNamespace(&h, t.ns, w.sysctls[ns])
			}
		}
		return h
	}
}

// flown returns the flight recorder, nil for none.
func (k *Keeper) flown() *recorder {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.recorder
}

// found tells of a finding that is handed out, with the recording that has it.
func (k *Keeper) found(f *agg.Finding) {
	if r := k.flown(); r != nil {
		told := *f
		told.Recording = r.found(f)
		f = &told
	}
	if k.cfg.Found != nil {
		k.cfg.Found(f)
	}
}

// land ends the recording. A disk that hangs is left behind.
func (r *recorder) land() error {
	done := make(chan error, 1)
	go func() { done <- r.ring.Close() }()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("flight recorder: %w", err)
		}
		return nil
	case <-time.After(closeTimeout):
		return fmt.Errorf("flight recorder: %s hangs, the end of the recording is missing", r.c.Dir.Path())
	}
}

// forHumans says whether a finding is worth keeping what was around it.
func forHumans(f *agg.Finding) bool {
	return f.State == agg.Confirmed && f.Severity == agg.Page && f.Suppress == ""
}

// found returns the directory that a finding is kept in, "" for none.
func (r *recorder) found(f *agg.Finding) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if dir, ok := r.findings[f.ID]; ok || !forHumans(f) {
		return dir
	}
	from := f.First.Add(-10 * time.Second) // what was ordinary before
	dir := r.keep(from, f.Class+"-"+f.ID, fmt.Sprintf("%s %s: %s", f.Class, f.ID, f.Why))
	if dir != "" {
		r.findings[f.ID] = dir
	}
	return dir
}

// crossed keeps what was around a table that has come to 85 or 95 %. It does not wait: the
// lock of the census is held.
func (r *recorder) crossed(t *agg.TableState, from, to agg.Level) {
	if to < from || to < agg.LevelAction {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	name := t.Name
	if name == "" {
		name = "netns " + t.NetNS.String()
	}
	r.keep(r.now(), fmt.Sprintf("table-%s-%s", to, t.NetNS), fmt.Sprintf("table of %s at %.0f %%: %d of %d entries", view.Name(name), 100*t.Fill(), t.Entries, t.Max))
}

// keep keeps what is around now, and from an earlier time on where that is not too far
// back. What comes while something is kept is kept with it.
func (r *recorder) keep(from time.Time, what, why string) string {
	now := r.now()
	until := now.Add(r.c.After)
	if now.Before(r.last.until) {
		if most := r.last.begun.Add(longestKeep); until.After(most) {
			until = most
		}
		if until.Before(r.last.until) {
			until = r.last.until
		}
		r.last.until = until
	} else {
		r.begun = slices.DeleteFunc(r.begun, func(t time.Time) bool { return now.Sub(t) > time.Hour })
		if len(r.begun) >= keepsHourly {
			r.omitted++
			return ""
		}
		r.begun = append(r.begun, now)
		r.last = moment{name: now.UTC().Format("20060102T150405Z") + "-" + what, begun: now, until: until}
	}
	if least := now.Add(-longestBack * r.c.Before); from.Before(least) {
		from = least
	}
	if before := now.Add(-r.c.Before); before.Before(from) {
		from = before
	}
	dir, err := r.ring.Keep(r.last.name, from, until, now.UTC().Format(time.RFC3339)+" "+why)
	if err != nil { // a name of ours
		return ""
	}
	return dir
}

// name sets the recordings of findings that are shown: in a copy, for they are shared.
func (r *recorder) name(all []agg.Finding) []agg.Finding {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.findings) == 0 {
		return all
	}
	out := slices.Clone(all)
	for i := range out {
		out[i].Recording = r.findings[out[i].ID]
	}
	if len(r.findings) > keptFindings {
		r.forget(out)
	}
	return out
}

// forget leaves those that are still shown.
func (r *recorder) forget(shown []agg.Finding) {
	there := map[string]bool{}
	for i := range shown {
		there[shown[i].ID] = true
	}
	maps.DeleteFunc(r.findings, func(id, _ string) bool { return !there[id] })
}

// state is how it goes.
func (r *recorder) state() *agg.Flight {
	s := r.ring.Stats()
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &agg.Flight{Dir: r.c.Dir.Path(), Oldest: s.Oldest, Bytes: s.InRing, Segments: s.Segments, Events: s.Events, Lost: s.Lost, Omitted: r.omitted}
	if s.Err != nil {
		out.Err = strings.ReplaceAll(s.Err.Error(), "\n", "; ")
	}
	for _, k := range s.Kept {
		out.Kept = append(out.Kept, agg.Recording(k))
	}
	return out
}

// Flight says how the flight recorder goes, nil where there is none or it has not begun.
func (k *Keeper) Flight() *agg.Flight {
	if r := k.flown(); r != nil {
		return r.state()
	}
	return nil
}
