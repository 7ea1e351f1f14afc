package pipeline

import (
	"cmp"
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/detect"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/probe"
	"github.com/ctsight/ctsight/internal/record/capture"
)

// What a Watch makes use of is recorded where it does so, in that order: with it alone
// all that was made of it can be made again.

// tape is how the recording of a Watch stands.
type tape struct {
	*capture.Recorder // nil where nothing is recorded

	limit     int       // that the census was told last
	files     int       // that were begun when the last snapshot was taken
	lost      uint64    // events that had found no room
	snapshot  time.Time // when that was
	events    uint64    // how many events there had been
	took      time.Duration
	told      bool      // of readings by who takes some
	counts    time.Time // of the last reading of its own
	countsFor time.Duration

	// The first and the last reading: the first had ended, and the last began.
	before, after map[event.NetNS]reading
	from, to      event.Ktime
}

const (
	countsEvery   = 15 * time.Second
	countsShare   = 200 // of the time at most one part goes into readings
	snapshotEvery = 10 * time.Minute
	snapshotLong  = time.Hour // and then whatever it costs
	snapshotShare = 20        // as for countsShare
)

// Record has the watch record what it makes use of; after Detect and before Run. The
// recorder is not closed.
func (w *Watch) Record(r *capture.Recorder) {
	w.rec, w.levels = tape{Recorder: r, limit: -1, snapshot: time.Now()}, levels{}
	w.recordStep(w.start, censusStep{Begin: true})
	w.recordCounts(false)
}

// recordStep notes a step of the census. The lock is held.
func (w *Watch) recordStep(at event.Ktime, s censusStep) {
	if w.rec.Recorder != nil {
		w.rec.JSON(capture.Steps, at, s)
	}
}

// recordLimit notes a bound, when it is another one. The lock is held.
func (w *Watch) recordLimit(n int) {
	if w.rec.Recorder != nil && n != w.rec.limit {
		w.rec.limit = n
		w.recordStep(w.now(), censusStep{Limit: &n})
	}
}

// recordJudged notes what first contacts have shown. The lock is held.
func (w *Watch) recordJudged(contacts []agg.Contact, q []probe.Peek) {
	if w.rec.Recorder == nil {
		return
	}
	s, verdicts := censusStep{}, make([]byte, len(q))
	for i := range q {
		switch {
		case q[i].Result != probe.PeekLive:
			verdicts[i] = contactGone
		case q[i].Status&event.SeenReply != 0:
			verdicts[i] = contactAnswered
		default:
			verdicts[i] = contactSilent
		}
		s.Tags = append(s.Tags, tag(contacts[i].Ptr, contacts[i].Time, &contacts[i].Orig))
	}
	s.Judged = string(verdicts)
	w.recordStep(w.now(), s)
}

// recordCounts takes a reading of all counters, and notes it. Where it cannot be taken the
// next one will do.
func (w *Watch) recordCounts(last bool) {
	began, at := time.Now(), now()
	all, err := w.p.readings()
	if err != nil {
		return
	}
	w.recordReading(all, at, now(), last)
	w.rec.counts, w.rec.countsFor = time.Now(), time.Since(began)
}

// recordReading notes a reading that somebody has taken.
func (w *Watch) recordReading(all map[event.NetNS]reading, at, done event.Ktime, last bool) {
	w.lock()
	defer w.mu.Unlock()
	t := &w.rec
	for _, c := range countsOf(all, done, last) {
		t.JSON(capture.Counts, at, c)
	}
	if t.before == nil {
		t.before, t.from = all, done
	}
	t.after, t.to = all, at
}

// keepRecords is keepRecord until ctx ends: nobody else waits for the tables to be read, or
// for the disk.
func (w *Watch) keepRecords(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if conntrackLoaded() {
			w.keepRecord(ctx)
		}
	}
}

// keepRecord notes once in a while what a recording needs to be read from its middle: the
// counters, and what is in the tables. The latter takes as much room as so many events: it
// comes when as many have come, at the beginning of a file, behind a gap, and now and then.
func (w *Watch) keepRecord(ctx context.Context) {
	t, s := &w.rec, time.Now()
	if !t.told && s.Sub(t.counts) >= max(countsEvery, countsShare*t.countsFor) {
		w.recordCounts(false)
	}
	if w.unread() || s.Sub(t.snapshot) < snapshotShare*t.took {
		return
	}
	stats, events, since := t.Stats(), w.cameSoFar(), s.Sub(t.snapshot)
	wanted := stats.Files != t.files || stats.Lost != t.lost || since >= snapshotEvery
	if wanted && (events-t.events >= uint64(w.held()) || since >= snapshotLong) {
		w.takeSnapshot(ctx)
		t.files, t.lost, t.events = stats.Files, stats.Lost, events
	}
}

// takeSnapshot notes which entries there are.
func (w *Watch) takeSnapshot(ctx context.Context) {
	began := time.Now()
	w.note(capture.Snapshot, struct{}{})
	var n uint64
	var some []event.Event
	hand := func() { // when nobody waits for us
		for all := some; len(all) > 0; all = all[min(len(all), standsAtOnce):] {
			w.rec.Wait()
			w.rec.Events(capture.Stands, all[:min(len(all), standsAtOnce)])
		}
		n += uint64(len(some))
		some = some[:0]
	}
	end := w.walkStanding(ctx, func(e *event.Event) {
		if w.p.cfg.Filter.Match(e) {
			some = append(some, *e)
		}
	}, hand)
	end.Entries = n
	w.note(capture.Held, end)
	w.rec.snapshot, w.rec.took = time.Now(), time.Since(began)
}

// note notes that a snapshot begins or has ended.
func (w *Watch) note(k capture.Kind, v any) {
	w.lock()
	defer w.mu.Unlock()
	w.rec.JSON(k, w.now(), v)
}

const (
	standsAtOnce  = 1 << 10
	bucketsAtOnce = 1 << 13 // of the table, while nobody else can look at entries: 1 ms
)

// walkStanding calls fn for the entries of all tables, which is told of one twice where a
// table was replaced meanwhile, and hand now and then.
func (w *Watch) walkStanding(ctx context.Context, fn func(*event.Event), hand func()) (end snapshotEnd) {
	at := now()
	if _, ok := w.p.Source.(walker); ok {
		buckets, err := w.walkHeld(func(q *probe.Peek) {
			fn(&event.Event{Kind: event.New, Time: at, NetNS: q.NetNS, Zone: q.Zone, Orig: q.Orig, Status: q.Status, TCPState: q.TCPState})
		}, hand)
		if err != nil {
			end.Why = err.Error()
		}
		end.Whole, end.Buckets, end.Held = err == nil, buckets, w.heldRows()
		return end
	}
	end.Whole, end.Why = true, errNoWalk.Error()
	for _, t := range w.all() {
		told := 0
		err := w.dumpTo(ctx, t.ns, func(e event.Event) {
			e.Time = at
			fn(&e)
			if told++; told%standsAtOnce == 0 {
				hand()
			}
		})
		hand()
		end.Whole = end.Whole && err == nil
	}
	return end
}

// walkHeld reads all tables and keeps what sort of entries hold them. fn, if not nil, is
// called for each entry, and hand behind each part of the table.
func (w *Watch) walkHeld(fn func(*probe.Peek), hand func()) (buckets uint64, err error) {
	p, ok := w.p.Source.(walker)
	if !ok {
		return 0, errNoWalk
	}
	err = untilWhole(func() (err error) {
		all := map[event.NetNS]*agg.Holdings{}
		buckets, err = walkParts(p, func(q *probe.Peek) {
			if all[q.NetNS] == nil {
				all[q.NetNS] = &agg.Holdings{}
			}
			all[q.NetNS].Add(&q.Orig, q.Status, q.TCPState, q.Timeout)
			if fn != nil {
				fn(q)
			}
		}, hand)
		w.holders = all
		return err
	})
	return buckets, err
}

// walkParts reads the whole table, a part at a time.
func walkParts(p walker, fn func(*probe.Peek), hand func()) (buckets uint64, err error) {
	for from := uint32(0); ; {
		walked, err := p.Walk(from, from+bucketsAtOnce, func(q *probe.Peek) error {
			fn(q)
			return nil
		})
		if hand != nil {
			hand()
		}
		switch {
		case err != nil:
			return 0, err
		case buckets != 0 && buckets != uint64(walked.Buckets):
			return 0, probe.ErrResized
		case walked.Next >= walked.Buckets || walked.Next <= from:
			return uint64(walked.Buckets), nil
		}
		buckets, from = uint64(walked.Buckets), walked.Next
	}
}

func (w *Watch) heldRows() (out []held) {
	for ns, h := range w.holders {
		out = append(out, held{ns, h})
	}
	slices.SortFunc(out, func(a, b held) int { return cmp.Or(cmp.Compare(b.Held.N, a.Held.N), cmp.Compare(a.NetNS, b.NetNS)) })
	return out[:min(len(out), namespacesTold)] // a section has an end
}

// CaptureHeader is that of a recording of this watch; after Detect.
func (w *Watch) CaptureHeader(tool string) capture.Header {
	report := w.p.Report()
	h := capture.Header{Tool: tool, Backend: report.Backend, Wall: w.clock.Wall, Mono: int64(w.clock.Mono), Start: int64(w.start),
		Filter: w.p.cfg.Filter.String(), Sysctls: map[string]map[string]string{}, Names: map[string]string{}}
	h.Seed = w.tableSeed
	c := w.census.Config()
	h.Census = &capture.Census{Rows: c.MaxRows, Live: c.MaxLive, Judged: c.MaxJudged, Pools: c.MaxPools, Sums: c.Sums, Seed: c.Seed}
	h.EntryBytes = EntrySize()
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
	h.Kernel, h.HZ = kernelRelease(), hz()
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
	if w.rec.Recorder != nil {
		w.rec.Events(capture.Events, events)
	}
}

// recordLooks notes a step of looking. The lock is held.
func (w *Watch) recordLooks(at event.Ktime, looks []detect.Look, seen []detect.Seen) {
	if w.rec.Recorder == nil {
		return
	}
	s := lookStep{Due: seen == nil}
	for i := range seen {
		s.Seen = append(s.Seen, packLook(&seen[i]))
		s.Tags = append(s.Tags, tag(looks[i].Ptr, looks[i].At, &looks[i].Orig))
	}
	w.rec.JSON(capture.Looks, at, s)
}

// recordSecond notes the state. The lock is held.
func (w *Watch) recordSecond(at event.Ktime, s secondState) {
	if w.rec.Recorder != nil {
		w.rec.JSON(capture.Second, at, s)
		w.rec.Flush()
	}
}
