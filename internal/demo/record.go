package demo

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/detect"
	"github.com/ctsight/ctsight/internal/event"
)

// Width of a place on the page's time line.
const binWidth = 100 * time.Millisecond

// Bin is what happened in one place of the time line.
type Bin struct {
	New, Gone, Lost uint64
}

// source is what was traced of one source.
type source struct {
	made      []event.Ktime // its new entries
	new, lost uint64
	reasons   map[event.Reason]uint64
	causes    map[event.Cause]uint64 // of its entries that are gone
	ports     map[uint16]bool        // destination ports of its new entries
	lifetimes []time.Duration        // of entries reset before a reply
}

// pair is whose entry was evicted for whose packet.
type pair struct{ victim, culprit netip.Addr }

// recorder takes the events of the demo's namespace. Events come from the
// tracer's goroutine, questions from the demo's.
type recorder struct {
	start event.Ktime
	line  func(event.Ktime, *event.Event) error
	first chan struct{} // closed with the first event

	mu      sync.Mutex
	any     bool
	bins    []Bin
	sources map[netip.Addr]*source
	pairs   map[pair]uint64
	assured uint64 // evicted although assured, which the kernel never does
	watch   func(*event.Event) bool
	left    int // lines that watch may still show
	engine  *detect.Engine
	scans   []agg.Finding // as they were confirmed
}

func newRecorder(start event.Ktime, line func(event.Ktime, *event.Event) error) *recorder {
	r := &recorder{start: start, line: line, first: make(chan struct{}), sources: map[netip.Addr]*source{}, pairs: map[pair]uint64{}}
	r.engine = detect.New(detect.Config{Tell: func(f *agg.Finding) {
		if f.Class == "scan" && f.State == agg.Confirmed && f.Raised == 1 {
			r.scans = append(r.scans, *f)
		}
	}}, start)
	return r
}

// scan returns when a scan of a source was confirmed, how long that was after its
// first failing contact, and how many there were by then.
func (r *recorder) scan(a netip.Addr) (after time.Duration, ports uint64, found bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.scans {
		if f := &r.scans[i]; f.Source.Addr() == a {
			return f.Time.Sub(f.First), f.Evidence.Dports, true
		}
	}
	return 0, 0, false
}

// show lets the next n events that match appear as lines of a trace.
func (r *recorder) show(n int, match func(*event.Event) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watch, r.left = match, n
}

// add takes one event; its error, of writing a line, ends the trace.
func (r *recorder) add(e *event.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.any {
		r.any = true
		close(r.first)
	}
	r.engine.Add(e)
	n := uint64(max(1, e.Sample))
	b := r.bin(e.Time)
	s := r.source(e.Orig.Src)
	switch e.Kind {
	case event.New:
		b.New += n
		s.new += n
		s.made = append(s.made, e.Time)
		s.ports[e.Orig.Dport] = true
	case event.Drop:
		b.Lost += n
		s.lost += n
		s.reasons[e.Reason] += n
	case event.Destroy:
		b.Gone += n
		s.causes[e.Cause] += n
		r.gone(e, s, n)
	}
	if r.left > 0 && r.watch(e) {
		r.left--
		return r.line(e.Time-r.start, e)
	}
	return nil
}

func (r *recorder) gone(e *event.Event, s *source, n uint64) {
	switch e.Cause {
	case event.EarlyDrop:
		r.pairs[pair{e.Orig.Src, e.By.Src}] += n
		if e.Status&event.Assured != 0 {
			r.assured += n
		}
	case event.TCPRstUnreplied:
		if e.HasLifetime {
			s.lifetimes = append(s.lifetimes, e.Lifetime)
		}
	}
}

func (r *recorder) bin(t event.Ktime) *Bin {
	i := max(0, int(t.Sub(r.start)/binWidth))
	for len(r.bins) <= i {
		r.bins = append(r.bins, Bin{})
	}
	return &r.bins[i]
}

func (r *recorder) source(a netip.Addr) *source {
	s := r.sources[a]
	if s == nil {
		s = &source{reasons: map[event.Reason]uint64{}, causes: map[event.Cause]uint64{}, ports: map[uint16]bool{}}
		r.sources[a] = s
	}
	return s
}

// of returns everything traced of the sources of a role.
func (r *recorder) of(ro role) []counted {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []counted
	for a, s := range r.sources {
		if ro.has(a) {
			out = append(out, counted{Source: a, New: s.new, Lost: s.lost, Reasons: reasons(s.reasons), Ports: len(s.ports),
				Reset: s.causes[event.TCPRstUnreplied], ResetAfter: median(s.lifetimes), Peak: peak(s.made, peakWindow), Span: span(s.made)})
		}
	}
	slices.SortFunc(out, func(a, b counted) int { return a.Source.Compare(b.Source) })
	return out
}

// counted is what was traced of one source, for the story.
type counted struct {
	Source     netip.Addr
	New, Lost  uint64
	Reasons    []Loss
	Ports      int // distinct destination ports of new entries
	Reset      uint64
	ResetAfter time.Duration // median life of an entry that was reset
	Peak       int           // most new entries in any 10 ms
	Span       time.Duration // from the first new entry to the last
}

// Loss is packets lost for a reason.
type Loss struct {
	Reason event.Reason
	Count  uint64
}

func reasons(m map[event.Reason]uint64) []Loss {
	var out []Loss
	for r, n := range m {
		out = append(out, Loss{r, n})
	}
	slices.SortFunc(out, func(a, b Loss) int { return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Reason, b.Reason)) })
	return out
}

// evictions returns the pairs, most frequent first.
func (r *recorder) evictions() (out []Eviction, assured uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p, n := range r.pairs {
		out = append(out, Eviction{Victim: p.victim, Culprit: p.culprit, Count: n})
	}
	slices.SortFunc(out, func(a, b Eviction) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), a.Victim.Compare(b.Victim), a.Culprit.Compare(b.Culprit))
	})
	return out, r.assured
}

// byCause sums the destroys of a cause over all sources.
func (r *recorder) byCause(c event.Cause) (n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sources {
		n += s.causes[c]
	}
	return n
}

// peakWindow is the time over which ctsight's finest rate is taken.
const peakWindow = 10 * time.Millisecond

// peak is the largest number of times that lie within any window.
func peak(times []event.Ktime, window time.Duration) (most int) {
	times = slices.Clone(times)
	slices.Sort(times)
	from := 0
	for i, t := range times {
		for t.Sub(times[from]) >= window {
			from++
		}
		most = max(most, i-from+1)
	}
	return most
}

func span(times []event.Ktime) time.Duration {
	if len(times) == 0 {
		return 0
	}
	return slices.Max(times).Sub(slices.Min(times))
}

func median(d []time.Duration) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Clone(d)
	slices.Sort(d)
	return d[len(d)/2]
}
