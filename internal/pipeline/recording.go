package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/detect"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/record/capture"
)

// What a Watch makes use of is recorded where it does so, in that order: with it alone
// all that was made of it can be made again.

// secondState is the state once a second, as it is in a recording (capture.Second).
type secondState struct {
	Tables []agg.TableState `json:"tables,omitempty"`
	Pools  []agg.PoolState  `json:"pools,omitempty"`
	Loss   agg.Loss         `json:"loss"`
	End    bool             `json:"end,omitempty"` // of the recording: what is open is told
}

// secondOf is the state that an item has.
func secondOf(x *capture.Item) (s secondState, err error) {
	if err = json.Unmarshal(x.JSON, &s); err != nil {
		err = badSection("a state", x.JSON, err)
	}
	return s, err
}

// lookStep is a step of looking at contacts (capture.Looks): first those are taken that
// are due, then comes what each has shown.
type lookStep struct {
	Due  bool     `json:"due,omitempty"`
	Seen []uint64 `json:"seen,omitempty"` // packLook
}

// packLook puts what a look has shown into a number: bit 0 known, 1 by a query, 2 live,
// 3 to 10 the state of TCP, the status from bit 11 on.
func packLook(s *detect.Seen) (v uint64) {
	for i, is := range []bool{s.Known, s.Query, s.Live} {
		if is {
			v |= 1 << i
		}
	}
	return v | uint64(s.TCPState)<<3 | uint64(s.Status)<<11
}

func unpackLook(v uint64) detect.Seen {
	return detect.Seen{Known: v&1 != 0, Query: v&2 != 0, Live: v&4 != 0, TCPState: event.TCPState(v >> 3), Status: event.Status(v >> 11)}
}

// Record has the watch record what it makes use of; after Detect and before Run. The
// recorder is not closed.
func (w *Watch) Record(r *capture.Recorder) { w.rec, w.levels = r, levels{} }

// CaptureHeader is that of a recording of this watch; after Detect.
func (w *Watch) CaptureHeader(tool string) capture.Header {
	report := w.p.Report()
	h := capture.Header{Tool: tool, Backend: report.Backend, Wall: w.clock.Wall, Mono: int64(w.clock.Mono), Start: int64(w.start),
		Filter: w.p.cfg.Filter.String(), Sysctls: map[string]map[string]string{}, Names: map[string]string{}}
	if w.detector != nil {
		h.Seed = w.detector.seed
	}
	for _, k := range report.Hooks {
		if k.Backend != "" {
			h.Hooks = append(h.Hooks, k.Symbol)
		}
	}
	all, _ := ctnl.ListAllNetNS() // or nothing is known of them
	only := w.p.cfg.Filter.Kernel().NetNS
	for _, ns := range all {
		if only != 0 && ns.Inode != only || len(h.Sysctls) >= namespacesTold {
			continue
		}
		tellNamespace(&h, ns, ns.Sysctls())
	}
	if own, err := ctnl.OpenNS("/proc/self/ns/net"); err == nil {
		h.Own = uint32(own.Inode)
	}
	h.Node, _ = os.Hostname()
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	h.BootID = BootID()
	return h
}

func tellNamespace(h *capture.Header, ns ctnl.NS, sysctls map[string]uint32) {
	set := map[string]string{}
	for name, v := range sysctls {
		set[name] = strconv.FormatUint(uint64(v), 10)
	}
	if h.Sysctls[ns.Inode.String()] = set; ns.Name != "" {
		h.Names[ns.Inode.String()] = ns.Name
	}
}

// BootID says which run of this machine it is, "" for not known.
func BootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// namespacesTold is of how many namespaces a header has the sysctls: 2 kB each.
const namespacesTold = 256

// record notes events. The lock is held.
func (w *Watch) record(events []event.Event) {
	if w.rec != nil {
		w.rec.Events(capture.Events, events)
	}
}

// recordLooks notes a step of looking. The lock is held.
func (w *Watch) recordLooks(at event.Ktime, seen []detect.Seen) {
	if w.rec == nil {
		return
	}
	s := lookStep{Due: seen == nil}
	for i := range seen {
		s.Seen = append(s.Seen, packLook(&seen[i]))
	}
	w.rec.JSON(capture.Looks, at, s)
}

// recordSecond notes the state. The lock is held.
func (w *Watch) recordSecond(at event.Ktime, s detect.State, end bool) {
	if w.rec != nil {
		w.rec.JSON(capture.Second, at, secondState{s.Tables, s.Pools, s.Loss, end})
		w.rec.Flush()
	}
}

// badSection says that a section of a recording is not what it should be.
func badSection(what string, b json.RawMessage, err error) error {
	const most = 40
	return fmt.Errorf("%s %q: %w", what, b[:min(len(b), most)], err)
}

// ReplayCapture runs an Engine over a recording, as fast as it can: the same steps in the
// same order as live, and so the same findings. With a filter the engine sees less, and is
// told of its contacts what was found out of them then.
func ReplayCapture(ctx context.Context, in capture.Source, c ReplayConfig) (Replayed, error) {
	h := in.About()
	c.Detect.Clock, c.Detect.Seed = h.Clock(), h.Seed
	r := captured{c: c, engine: detect.New(c.Detect, event.Ktime(h.Start)), from: event.Ktime(h.Start)}
	if r.all = r.engine; !c.Filter.All() {
		r.all = detect.New(detect.Config{Clock: h.Clock(), Seed: h.Seed}, event.Ktime(h.Start))
		r.known = map[contact]detect.Seen{}
	}
	err := eachItem(ctx, in, r.take)
	if errors.Is(err, errEnough) {
		err = nil
	}
	return r.done(), err
}

var errEnough = errors.New("enough")

// captured is a replay of a recording that is under way.
type captured struct {
	c      ReplayConfig
	out    Replayed
	engine *detect.Engine
	all    *detect.Engine // without the filter: the one that the looks were for
	known  map[contact]detect.Seen
	kept   []event.Event
	looks  []detect.Look // that are due
	filled []detect.Look // of the engine with the filter
	from   event.Ktime
	first  event.Ktime
	last   event.Ktime
}

// contact says whose look it was.
type contact struct {
	ptr uint64
	at  event.Ktime
}

func (r *captured) take(x *capture.Item) error {
	switch x.Kind {
	case capture.Events:
		return r.events(x.Events)
	case capture.Entries:
		for i := range x.Events {
			if r.all.Seed(&x.Events[i]); r.known != nil && r.c.Filter.Match(&x.Events[i]) {
				r.engine.Seed(&x.Events[i])
			}
			if r.c.Filter.Match(&x.Events[i]) {
				r.c.each(Told{At: x.Events[i].Time, Entry: &x.Events[i]})
			}
		}
	case capture.Sums:
		for i := range x.Sums {
			r.all.AddSum(&x.Sums[i]) // of a filter that programs know nothing of, nothing is summed
			if !r.c.takes(&x.Sums[i]) {
				continue
			}
			if r.known != nil {
				r.engine.AddSum(&x.Sums[i])
			}
			r.c.each(Told{At: x.Sums[i].Last, Sum: &x.Sums[i]})
		}
	case capture.Looks:
		return r.look(x)
	case capture.Second:
		return r.second(x)
	case capture.Mark:
		m, err := markOf(x)
		if err != nil {
			return err
		}
		r.c.each(Told{At: x.At, Mark: &m})
	case capture.Gap:
		r.c.each(Told{At: x.At, Missing: max(1, x.Lost.Events)})
	}
	return nil
}

func (r *captured) events(events []event.Event) error {
	if r.first == 0 {
		r.first = events[0].Time
	}
	if r.c.For > 0 && events[len(events)-1].Time.Sub(r.from) >= r.c.For {
		n := 0
		for n < len(events) && events[n].Time.Sub(r.from) < r.c.For {
			n++
		}
		if events = events[:n]; n == 0 {
			return errEnough
		}
	}
	r.last = events[len(events)-1].Time
	r.out.Lines += uint64(len(events))
	if r.known == nil {
		r.out.Events += uint64(len(events))
		r.tell(events)
	}
	r.all.AddAll(events)
	if r.known == nil {
		return nil
	}
	r.kept = r.kept[:0]
	for i := range events {
		if r.c.Filter.Match(&events[i]) {
			r.kept = append(r.kept, events[i])
		}
	}
	r.out.Events += uint64(len(r.kept))
	r.tell(r.kept)
	r.engine.AddAll(r.kept)
	return nil
}

func (r *captured) tell(events []event.Event) {
	for i := range events {
		r.c.each(Told{At: events[i].Time, Event: &events[i]})
	}
}

func (r *captured) look(x *capture.Item) error {
	var s lookStep
	if err := json.Unmarshal(x.JSON, &s); err != nil {
		return badSection("looks", x.JSON, err)
	}
	if s.Due {
		r.looks = r.all.Due(x.At, slices.Grow(r.looks[:0], contactBatch)[:0:contactBatch])
		if r.known != nil {
			r.filled = r.engine.Due(x.At, slices.Grow(r.filled[:0], contactBatch)[:0:contactBatch])
		}
		return nil
	}
	seen := make([]detect.Seen, len(r.looks)) // where a part of the file is missing they are others
	for i := range min(len(s.Seen), len(seen)) {
		seen[i] = unpackLook(s.Seen[i])
	}
	for i := range seen {
		if l := &r.looks[i]; seen[i].Known && seen[i].Live {
			r.c.each(Told{At: x.At, Seen: &Standing{l.NetNS, l.Zone, l.Ptr, l.Orig, seen[i].Status}})
		}
	}
	r.all.SeenAll(r.looks, x.At, seen)
	if r.known == nil {
		return nil
	}
	clear(r.known)
	for i := range r.looks {
		r.known[contact{r.looks[i].Ptr, r.looks[i].At}] = seen[i]
	}
	for i := range r.filled {
		r.engine.Seen(&r.filled[i], x.At, r.known[contact{r.filled[i].Ptr, r.filled[i].At}])
	}
	r.filled = r.filled[:0]
	return nil
}

func (r *captured) second(x *capture.Item) error {
	s, err := secondOf(x)
	if err != nil {
		return err
	}
	state := detect.State{Tables: s.Tables, Pools: s.Pools, Loss: s.Loss}
	r.c.each(Told{At: x.At, State: &Second{s.Tables, s.Loss}})
	engines := []*detect.Engine{r.all}
	if r.known != nil {
		engines = append(engines, r.engine)
	}
	for _, e := range engines {
		if s.End {
			e.End(x.At)
		} else {
			e.Tick(x.At, state)
		}
	}
	return nil
}

func (r *captured) done() Replayed {
	clock := r.c.Detect.Clock
	r.out.First, r.out.Last = clock.At(r.first), clock.At(r.last)
	r.out.Found, r.out.Overflow = r.engine.Found(), r.engine.Overflow()
	return r.out
}
