package pipeline

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/record/capture"
)

// day is a recording made up: entries that come and go, one a millisecond, with snapshots,
// and with what is there at each moment.
type day struct {
	path  string
	at    []event.Ktime
	live  [][]uint64 // addresses of the entries, in their order
	start event.Ktime
}

const (
	daySteps  = 20_000
	dayBegan  = event.Ktime(1_000_000_000)
	dayBefore = 300 // entries that were there
	dayTakes  = 200 // steps, a snapshot
)

func dayTuple(n uint64) event.Tuple {
	return event.Tuple{Src: netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), Dst: netip.MustParseAddr("192.0.2.1"), Sport: uint16(n), Dport: 443, Proto: event.ProtoTCP}
}

// makeDay writes one; snapshots of every so many steps, 0 for none. A file of a ring begins
// with nothing, not even the beginning.
func makeDay(t *testing.T, snapshots int, ring bool) *day {
	t.Helper()
	d := &day{path: filepath.Join(t.TempDir(), "day.ctsight"), start: dayBegan}
	f, err := os.Create(d.path)
	must(t, err)
	defer f.Close()
	w, err := capture.NewWriter(f, capture.Header{Tool: "test", Start: int64(dayBegan), Mono: int64(dayBegan), Wall: time.Unix(1_700_000_000, 0), Seed: 7})
	must(t, err)
	rnd := rand.New(rand.NewPCG(3, 4))
	entry := func(at event.Ktime, n uint64) event.Event {
		return event.Event{Kind: event.New, Time: at, NetNS: 5, Orig: dayTuple(n), Reply: dayTuple(n).Inverse()}
	}
	var live []uint64
	next := uint64(0)
	if !ring {
		must(t, w.JSON(capture.Steps, dayBegan, censusStep{Begin: true}))
		must(t, w.JSON(capture.Steps, dayBegan, censusStep{Seed: seedBegin}))
	}
	for range dayBefore {
		next++
		live = append(live, next)
		if !ring {
			must(t, w.Entries([]event.Event{entry(0, next)}))
		}
	}
	if !ring {
		must(t, w.JSON(capture.Steps, dayBegan, censusStep{Seed: seedWhole}))
	}
	var walk []uint64 // entries that a snapshot has not come to
	stood := 0
	for i := range daySteps {
		at := dayBegan + event.Ktime(i+1)*event.Ktime(time.Millisecond)
		if snapshots > 0 && i%snapshots == snapshots/2 {
			must(t, w.JSON(capture.Snapshot, at, struct{}{}))
			walk, stood = slices.Clone(live), 0
		}
		if since := (i + snapshots/2) % max(1, snapshots); snapshots > 0 && i >= snapshots/2 && since < dayTakes {
			for range (len(walk) + dayTakes - since - 1) / (dayTakes - since) {
				if slices.Contains(live, walk[0]) {
					must(t, w.Stands([]event.Event{entry(at, walk[0])}))
					stood++
				}
				walk = walk[1:]
			}
			if since == dayTakes-1 {
				must(t, w.JSON(capture.Held, at, snapshotEnd{Entries: uint64(stood), Whole: true}))
			}
		}
		e := event.Event{}
		if len(live) > 0 && rnd.IntN(2) == 0 {
			k := rnd.IntN(len(live))
			e = entry(at, live[k])
			e.Kind, e.Cause = event.Destroy, event.TimeoutGC
			e.Ptr = 0
			live = slices.Delete(live, k, k+1)
		} else {
			next++
			e = entry(at, next)
			live = append(live, next)
		}
		must(t, w.Events([]event.Event{e}))
		if i%1000 == 999 {
			must(t, w.JSON(capture.Second, at, secondState{Tables: []agg.TableState{{NetNS: 5, Entries: uint64(len(live)), Max: 100000}}}))
			must(t, w.Flush())
		}
		d.at, d.live = append(d.at, at), append(d.live, slices.Clone(live))
	}
	must(t, w.Close(nil))
	return d
}

func (d *day) open(t *testing.T) capture.Source {
	t.Helper()
	f, err := os.Open(d.path)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	r, err := capture.NewReader(f)
	must(t, err)
	return r
}

// TestExcerpt: of any part of a recording the entries that were there at its beginning are
// known, and what happened in it; with snapshots, without, and with a stream, which has no
// beginning but its own.
func TestExcerpt(t *testing.T) {
	for _, tc := range []struct {
		name      string
		snapshots int
		stream    bool
	}{{"snapshots", 3000, false}, {"none", 0, false}, {"stream", 3000, true}} {
		t.Run(tc.name, func(t *testing.T) {
			d := makeDay(t, tc.snapshots, false)
			for _, x := range []struct{ from, to int }{{0, 10}, {1, daySteps - 1}, {999, 1000}, {1499, 1600}, {1500, 1501}, {1501, 9999}, {1600, 1601}, {4600, 4900}, {10_699, 10_700}, {12345, 12346}, {19_998, daySteps - 1}} {
				in := d.open(t)
				if tc.stream {
					b, err := os.ReadFile(d.path)
					must(t, err)
					in, err = capture.NewReader(bytes.NewBuffer(b))
					must(t, err)
				}
				since, until := d.at[x.from], d.at[x.to]
				var entries []uint64
				var events []event.Ktime
				p, read, err := ReadPast(t.Context(), []Capture{Between(Recording(in, func() {}), since, until)}, PastConfig{})
				must(t, err)
				if n := uint64(x.to - x.from); read[0].Events != n {
					t.Errorf("%v: %d events, want %d", x, read[0].Events, n)
				}
				in2 := d.open(t)
				_, err = Between(Recording(in2, func() {}), since, until).Replay(t.Context(), ReplayConfig{Each: func(s *Told) {
					if s.Entry != nil {
						entries = append(entries, uint64(s.Entry.Orig.Sport))
					}
					if s.Event != nil {
						events = append(events, s.Event.Time)
					}
				}})
				must(t, err)
				var want []uint64
				for _, n := range d.live[max(0, x.from-1)] {
					want = append(want, uint64(uint16(n)))
				}
				if x.from == 0 {
					want = nil
					for n := range dayBefore {
						want = append(want, uint64(n+1))
					}
				}
				slices.Sort(entries)
				slices.Sort(want)
				if !slices.Equal(entries, want) {
					t.Errorf("%v: %d entries were there, want %d", x, len(entries), len(want))
				}
				if !slices.Equal(events, d.at[x.from:x.to]) {
					t.Errorf("%v: events %d, want %d", x, len(events), x.to-x.from)
				}
				top := p.Top(agg.ByNetNS, agg.ColLive, 10, nil)
				if live := uint64(len(d.live[x.to-1])); top.Total.Live != live || !top.From.Equal(in2.About().Clock().At(since)) || !top.To.Equal(in2.About().Clock().At(until)) {
					t.Errorf("%v: %d live from %v to %v, want %d", x, top.Total.Live, top.From, top.To, live)
				}
			}
		})
	}
}

// TestExcerptOfRing: the oldest file of a ring has no beginning. From its first snapshot on
// what is in the tables is known, also where the excerpt begins in the middle of that.
func TestExcerptOfRing(t *testing.T) {
	d := makeDay(t, 3000, true)
	for _, x := range []struct{ from, to int }{{1, 2000}, {1499, 1750}, {1501, 2000}, {1600, 1750}, {1699, 9000}, {4600, 4601}} {
		past, _, err := ReadPast(t.Context(), []Capture{Between(Recording(d.open(t), func() {}), d.at[x.from], d.at[x.to])}, PastConfig{})
		must(t, err)
		top := past.Top(agg.ByNetNS, agg.ColLive, 10, nil)
		if live := uint64(len(d.live[x.to-1])); top.Total.Live != live {
			t.Errorf("%v: %d live, want %d", x, top.Total.Live, live)
		}
	}
}

// TestExcerptBehindGap: what is missing before an excerpt begins makes its tables wrong,
// until the next snapshot.
func TestExcerptBehindGap(t *testing.T) {
	var b bytes.Buffer
	w, err := capture.NewWriter(&b, capture.Header{Start: 1, Seed: 3})
	must(t, err)
	must(t, w.JSON(capture.Steps, 1, censusStep{Begin: true}))
	for n := range uint64(100) {
		must(t, w.Events([]event.Event{{Kind: event.New, Time: event.Ktime(n + 2), NetNS: 5, Orig: dayTuple(n)}}))
	}
	must(t, w.Gap(200, capture.Missing{Events: 70, Why: "a full disk"}))
	must(t, w.Events([]event.Event{{Kind: event.New, Time: 300, NetNS: 5, Orig: dayTuple(100)}}))
	snapshot := func(at event.Ktime, more func()) {
		must(t, w.JSON(capture.Snapshot, at, struct{}{}))
		for n := range uint64(31) {
			must(t, w.Stands([]event.Event{{Kind: event.New, Time: at, NetNS: 5, Orig: dayTuple(70 + n)}}))
		}
		more()
		must(t, w.JSON(capture.Held, at+100, snapshotEnd{Entries: 31, Whole: true}))
	}
	snapshot(400, func() { // of which the end is not told
		must(t, w.Stands([]event.Event{{Kind: event.New, Time: 400, NetNS: 5, Orig: dayTuple(1000)}}))
		must(t, w.Gap(450, capture.Missing{Events: 1, Why: "a full disk"}))
	})
	snapshot(600, func() {})
	must(t, w.Events([]event.Event{{Kind: event.New, Time: 800, NetNS: 5, Orig: dayTuple(101)}}))
	must(t, w.Close(nil))
	for since, want := range map[event.Ktime]uint64{150: 32, 250: 32, 420: 32, 470: 32, 550: 32, 650: 32, 750: 32} {
		r, err := capture.NewReader(bytes.NewReader(b.Bytes()))
		must(t, err)
		past, _, err := ReadPast(t.Context(), []Capture{Between(Recording(r, func() {}), since, 0)}, PastConfig{})
		must(t, err)
		if top := past.Top(agg.ByNetNS, agg.ColLive, 10, nil); top.Total.Live != want {
			t.Errorf("from %d on: %d live, want %d", since, top.Total.Live, want)
		}
	}
}

// TestGapIsMended: what went while nothing could be recorded is not live for ever: the next
// snapshot says what there is.
func TestGapIsMended(t *testing.T) {
	var b bytes.Buffer
	w, err := capture.NewWriter(&b, capture.Header{Start: 1, Seed: 3, Census: &capture.Census{Rows: 1000, Live: 1000, Judged: 1000, Pools: 10, Seed: 3}})
	must(t, err)
	must(t, w.JSON(capture.Steps, 1, censusStep{Begin: true}))
	at := event.Ktime(1)
	tell := func(kind event.Kind, n uint64) {
		at++
		must(t, w.Events([]event.Event{{Kind: kind, Time: at, NetNS: 5, Ptr: n << 8, Orig: dayTuple(n)}}))
	}
	for n := range uint64(100) {
		tell(event.New, n+1)
	}
	must(t, w.Gap(at, capture.Missing{Events: 70, Why: "a full disk"}))
	must(t, w.JSON(capture.Snapshot, at, struct{}{}))
	for n := range uint64(30) {
		must(t, w.Stands([]event.Event{{Kind: event.New, Time: at, NetNS: 5, Orig: dayTuple(n + 1)}}))
	}
	tell(event.Destroy, 1) // it is told of again, behind its end
	must(t, w.Stands([]event.Event{{Kind: event.New, Time: at, NetNS: 5, Orig: dayTuple(1)}}))
	must(t, w.JSON(capture.Held, at, snapshotEnd{Entries: 31, Whole: true}))
	tell(event.Destroy, 2)
	must(t, w.Close(nil))
	r, err := capture.NewReader(bytes.NewReader(b.Bytes()))
	must(t, err)
	p, _, err := ReadPast(t.Context(), []Capture{Recording(r, func() {})}, PastConfig{Dims: []agg.Dim{agg.BySrc}})
	must(t, err)
	if top := p.Top(agg.BySrc, agg.ColLive, 100, nil); top.Total.Live != 28 || top.Total.New != 100 {
		t.Errorf("%d live, %d new; 30 were left, and two have gone", top.Total.Live, top.Total.New)
	}
}

// TestSetMeanwhile: a triage has the timeouts of the end.
func TestSetMeanwhile(t *testing.T) {
	var b bytes.Buffer
	w, err := capture.NewWriter(&b, capture.Header{Start: 1, Sysctls: map[string]map[string]string{"5": {"nf_conntrack_udp_timeout": "30", "nf_conntrack_icmp_timeout": "30", "nf_conntrack_max": "9"}}})
	must(t, err)
	must(t, w.JSON(capture.Steps, 1, censusStep{Begin: true}))
	must(t, w.JSON(capture.Second, 2, secondState{Tables: []agg.TableState{{NetNS: 5, Max: 9}}}))
	must(t, w.JSON(capture.Mark, 3, Mark{Sysctl: &SysctlMark{Name: "nf_conntrack_udp_timeout", From: 30, To: 7, Where: []Place{{NetNS: 5}}, Namespaces: 1}}))
	must(t, w.JSON(capture.Mark, 3, Mark{Sysctl: &SysctlMark{Name: "nf_conntrack_icmp_timeout", From: 30, To: 8, Where: []Place{{NetNS: 6}}, Namespaces: 200}}))
	must(t, w.JSON(capture.Mark, 3, Mark{Sysctl: &SysctlMark{Name: "nf_conntrack_max", From: 9, To: 10, Where: []Place{{NetNS: 5}}, Namespaces: 1}}))
	must(t, w.Close(nil))
	r, err := capture.NewReader(bytes.NewReader(b.Bytes()))
	must(t, err)
	p, _, err := ReadPast(t.Context(), []Capture{Recording(r, func() {})}, PastConfig{Dims: TriageDims})
	must(t, err)
	d, err := p.Triage(0, 1)
	must(t, err)
	if len(d.Timeouts) != 2 || d.Timeouts["udp_timeout"] != 7 || d.Timeouts["icmp_timeout"] != 8 {
		t.Errorf("%v", d.Timeouts)
	}
}

// TestAlign: contacts that were looked at are found among those of a replay, though some
// are there only, and others are not; without tags the first is the first.
func TestAlign(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	wrong, found, all := 0, 0, 0
	for range 200 {
		var tags, of []byte
		var ids []int // of the replay's, their places among the recorded ones
		for range 500 {
			x := byte(rnd.Uint32())
			recorded, replayed := rnd.IntN(30) > 0, rnd.IntN(30) > 0
			if replayed {
				of = append(of, x)
				if ids = append(ids, -1); recorded {
					ids[len(ids)-1] = len(tags)
					all++
				}
			}
			if recorded {
				tags = append(tags, x)
			}
		}
		match, used := align(tags, len(tags), len(of), func(i int) byte { return of[i] })
		if used > len(tags) {
			t.Fatalf("%d of %d", used, len(tags))
		}
		for i, m := range match {
			switch {
			case m >= 0 && m == ids[i]:
				found++
			case m >= 0:
				wrong++
			}
		}
	}
	if wrong > all/1000 || found < all*95/100 {
		t.Errorf("of %d contacts that both have %d were found, and %d were taken for others", all, found, wrong)
	}
	if m, used := align(nil, 2, 3, func(int) byte { return 0 }); !slices.Equal(m, []int{0, 1, -1}) || used != 2 {
		t.Errorf("without tags %v", m)
	}
	one, two := tag(1, 2, &event.Tuple{Sport: 3}), tag(4, 5, &event.Tuple{Dport: 6})
	if m, _ := align([]byte{one, two}, 2, 2, func(i int) byte { return []byte{one, two}[i] }); one == two || !slices.Equal(m, []int{0, 1}) {
		t.Errorf("all are the same: %v", m)
	}
}

// TestBadSections: what is no section of ours, or says what cannot be, ends the reading
// with an error or is passed over; nothing breaks and nothing takes all memory.
func TestBadSections(t *testing.T) {
	huge := 1 << 60
	for i, tc := range []struct {
		kind capture.Kind
		v    any
	}{
		{capture.Steps, censusStep{Forget: &huge}}, {capture.Steps, censusStep{Limit: &huge}}, {capture.Steps, censusStep{Seed: "nonsense"}},
		{capture.Steps, censusStep{Judged: "1-0", Tags: []byte{1}}}, {capture.Steps, censusStep{Judged: string(make([]byte, 3000))}}, {capture.Steps, censusStep{Due: true}},
		{capture.Steps, []int{1}}, {capture.Counts, countsState{NetNS: []netnsCounts{{Reasons: map[string]uint64{"250": 1, "nonsense": 2}, Causes: map[string]uint64{"99": 1}}}}},
		{capture.Counts, "x"}, {capture.Held, snapshotEnd{}}, {capture.Snapshot, 1}, {capture.Held, map[string]any{"held": []any{map[string]any{"netns": 1}}}},
		{capture.Looks, lookStep{Seen: make([]uint64, 5000), Tags: make([]byte, 5000)}}, {capture.Second, secondState{End: true}}, {capture.Second, 1},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			var b bytes.Buffer
			w, err := capture.NewWriter(&b, capture.Header{Census: &capture.Census{Rows: 1 << 60, Live: -1, Judged: 1 << 40, Pools: 1 << 50}})
			must(t, err)
			must(t, w.Entries([]event.Event{{Kind: event.New, Orig: dayTuple(1)}}))
			must(t, w.JSON(tc.kind, 5, tc.v))
			must(t, w.Events([]event.Event{{Kind: event.New, Time: 6, Orig: dayTuple(2)}}))
			must(t, w.JSON(tc.kind, 7, tc.v))
			must(t, w.Stands([]event.Event{{Kind: event.New, Orig: dayTuple(3)}}))
			must(t, w.JSON(tc.kind, 8, tc.v))
			must(t, w.Close(nil))
			for _, since := range []event.Ktime{0, 6, 7} {
				r, err := capture.NewReader(bytes.NewReader(b.Bytes()))
				must(t, err)
				p, _, err := ReadPast(t.Context(), []Capture{Between(Recording(r, func() {}), since, 0)}, PastConfig{Dims: TriageDims})
				if err != nil {
					t.Logf("since %d: %v", since, err)
				}
				p.Top(agg.BySrc, agg.ColNew, 5, nil)
				if _, err := p.Ledger(); err != nil {
					t.Error(err)
				}
				if _, err := p.Triage(0, 5); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
