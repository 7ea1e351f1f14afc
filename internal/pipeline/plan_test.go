package pipeline

import (
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/plan"
	"github.com/ctsight/ctsight/internal/record/capture"
)

// Of a recording a plan takes the namespace that it is told, or that with most
// connections, with what was in its table, its limit and its timeouts.
func TestPlanRecording(t *testing.T) {
	const second, start = event.Ktime(time.Second), 100 * event.Ktime(time.Second)
	path := filepath.Join(t.TempDir(), "a.ctsight")
	h := capture.Header{Start: int64(start), Wall: time.Unix(1e9, 0), Mono: int64(start), Backend: "fentry", Kernel: "5.10.0-34-amd64", HZ: 1000, EntryBytes: 320,
		Sysctls: map[string]map[string]string{"9": {"nf_conntrack_udp_timeout": "7", "nf_conntrack_buckets": "512"}}}
	f, err := capture.Create(path, h)
	must(t, err)
	rec := capture.NewRecorder(f)
	conn := func(kind event.Kind, at event.Ktime, ns event.NetNS, sport uint16) event.Event {
		e := event.Event{Kind: kind, Time: at, NetNS: ns, Status: event.Confirmed, Orig: event.Tuple{Src: netip.MustParseAddr("10.0.0.7"), Dst: netip.MustParseAddr("192.0.2.1"), Sport: sport, Dport: 53, Proto: event.ProtoUDP}}
		if kind == event.Destroy {
			e.Cause = event.TimeoutGC
		}
		return e
	}
	rec.Events(capture.Entries, []event.Event{conn(event.New, start, 9, 1), conn(event.New, start, 5, 1)})
	rec.Events(capture.Events, []event.Event{conn(event.New, start+second, 9, 2), conn(event.New, start+2*second, 9, 3), conn(event.New, start+2*second, 5, 3), conn(event.Destroy, start+4*second, 9, 1)})
	rec.JSON(capture.Second, start+5*second, secondState{Tables: []agg.TableState{{NetNS: 9, Max: 1234, Entries: 2}, {NetNS: 5, Max: 99}}})
	must(t, rec.Close(nil))
	for _, tc := range []struct {
		ns, want event.NetNS
		conns    int
		max      uint64
		limit    time.Duration
		span     event.Ktime
	}{{0, 9, 3, 1234, 0, 5 * second}, {5, 5, 2, 99, 0, 5 * second}, {7, 7, 0, 0, 0, 0}, {9, 9, 2, 0, 1500 * time.Millisecond, 3 * second / 2}} {
		r, done := (&taped{path: path}).open(t)
		p, err := PlanCapture(t.Context(), Recording(r, done), tc.ns, tc.limit)
		must(t, err)
		from, to := p.Window()
		if p.NetNS != tc.want || p.Len() != tc.conns || p.Kernel.Max != tc.max || to-from != tc.span {
			t.Errorf("%d: netns %d, %d connections, limit %d, %v; want %+v", tc.ns, p.NetNS, p.Len(), p.Kernel.Max, to.Sub(from), tc)
		}
		if k := p.Kernel; tc.want == 9 && (k.Timeouts[plan.UDP] != 7*time.Second || k.Buckets != 512 || k.HZ != 1000 || k.Pause != 2*time.Minute || p.Object != 320 || tc.limit == 0 && !slices.Equal(p.Counts(), []plan.Count{{At: start + 5*second, N: 2}})) {
			t.Errorf("%+v, %d bytes, %v", k, p.Object, p.Counts())
		}
	}
}

// The kernel counts all entries: of a recording of some its counts are not taken.
func TestPlanRecordingFiltered(t *testing.T) {
	for text, want := range map[string]int{"": 1, "netns 9": 1, "netns 9 and proto udp": 0, "dst 192.0.2.1": 0} {
		path := filepath.Join(t.TempDir(), "a.ctsight")
		f, err := capture.Create(path, capture.Header{Backend: "netlink", Filter: text})
		must(t, err)
		rec := capture.NewRecorder(f)
		rec.Events(capture.Events, []event.Event{{Kind: event.New, Time: 5, NetNS: 9}})
		rec.JSON(capture.Second, 9, secondState{Tables: []agg.TableState{{NetNS: 9, Max: 7, Entries: 2}}})
		must(t, rec.Close(nil))
		r, done := (&taped{path: path}).open(t)
		p, err := PlanCapture(t.Context(), Recording(r, done), 9, 0)
		must(t, err)
		if len(p.Counts()) != want {
			t.Errorf("%q: %v, want %d", text, p.Counts(), want)
		}
	}
}
