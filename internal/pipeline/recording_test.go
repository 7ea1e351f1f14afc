package pipeline

import (
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/detect"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/filter"
	"github.com/ctsight/ctsight/internal/record/capture"
)

// taped is a recording under way.
type taped struct {
	rec  *capture.Recorder
	path string
}

func recordTo(t *testing.T, w *Watch) *taped {
	t.Helper()
	x := &taped{path: filepath.Join(t.TempDir(), "a.ctsight")}
	f, err := capture.Create(x.path, w.CaptureHeader("test"))
	must(t, err)
	x.rec = capture.NewRecorder(f)
	w.Record(x.rec)
	return x
}

func (x *taped) open(t *testing.T) (*capture.Reader, func()) {
	t.Helper()
	f, err := os.Open(x.path)
	must(t, err)
	r, err := capture.NewReader(f)
	must(t, err)
	return r, func() { must(t, f.Close()) }
}

// sameAs ends a recording, and fails where a replay tells something else than was told
// live, to the byte, or where one of the ports that were scanned is not in it.
func (x *taped) sameAs(t *testing.T, live []agg.Finding, scanned map[netip.Addr]int) {
	t.Helper()
	must(t, x.rec.Close(nil))
	again := func(c ReplayConfig) (out []string) {
		r, done := x.open(t)
		defer done()
		c.Detect.Tell = func(f *agg.Finding) { out = append(out, asJSON(t, f)) }
		_, err := ReplayCapture(t.Context(), r, c)
		must(t, err)
		return out
	}
	got := again(ReplayConfig{Detect: detect.Config{}})
	for i := range max(len(live), len(got)) {
		switch {
		case i >= len(live):
			t.Errorf("told by the replay alone: %s", got[i])
		case i >= len(got):
			t.Errorf("not told by the replay: %s", asJSON(t, &live[i]))
		case got[i] != asJSON(t, &live[i]):
			t.Errorf("finding %d of the replay:\n%s\nlive:\n%s", i, got[i], asJSON(t, &live[i]))
		}
	}
	marksFindings(t, x.path, live)
	r, done := x.open(t)
	defer done()
	if h := r.Header; len(h.Sysctls) != 1 || h.Kernel == "" || h.BootID == "" || h.Backend == "" || h.Seed == 0 || len(h.Names) != 1 {
		t.Errorf("header %+v", h)
	}
	for ns, set := range r.Header.Sysctls { // one for each protocol and then some
		if len(set) < 20 || set["nf_conntrack_max"] == "" || set["nf_conntrack_udp_timeout"] == "" || set["nf_conntrack_count"] != "" {
			t.Errorf("sysctls of %s: %v", ns, set)
		}
	}
	n, ports := uint64(0), map[netip.AddrPort]bool{}
	for {
		item, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		if item.Kind == capture.Events {
			n += uint64(len(item.Events))
			for i := range item.Events {
				if e := &item.Events[i]; e.Kind == event.New {
					ports[netip.AddrPortFrom(e.Orig.Src, e.Orig.Dport)] = true
				}
			}
		}
	}
	if s := x.rec.Stats(); n != s.Events || s.Lost != 0 || r.Lost.Events != 0 {
		t.Errorf("%d events in the recording; %+v, %+v", n, s, r.Lost)
	}
	for src, want := range scanned {
		got := 0
		for p := range ports {
			if p.Addr() == src {
				got++
			}
		}
		if got != want {
			t.Errorf("%s scanned %d ports, %d are in the recording", src, want, got)
		}
	}
	if !closeTo(t, x, live) {
		t.Error("with a filter for one source nothing is found of it")
	}
}

// closeTo replays with a filter for the source of the first confirmed scan: it is found
// with the same counts.
func closeTo(t *testing.T, x *taped, live []agg.Finding) bool {
	t.Helper()
	var want agg.Finding
	for _, f := range live {
		if f.Class == "scan" && f.State == agg.Confirmed && (want.ID == "" || f.ID == want.ID) {
			want = f
		}
	}
	if want.ID == "" {
		return true
	}
	flt, err := filter.Parse("src "+want.Source.Addr().String(), filter.Options{})
	must(t, err)
	r, done := x.open(t)
	defer done()
	same := false
	_, err = ReplayCapture(t.Context(), r, ReplayConfig{Filter: flt, Detect: detect.Config{Tell: func(f *agg.Finding) {
		if f.Source != want.Source {
			t.Errorf("a filter for %s finds %s", want.Source, f.Source)
		}
		e, w := &f.Evidence, &want.Evidence
		same = f.Class == "scan" && f.State == agg.Confirmed && e.Refused == w.Refused && e.Unanswered == w.Unanswered && e.Dports == w.Dports
	}}})
	must(t, err)
	return same
}

func asJSON(t *testing.T, f *agg.Finding) string {
	t.Helper()
	b, err := json.Marshal(f)
	must(t, err)
	return string(b)
}

// TestPackLook: what a look has shown is the same again.
func TestPackLook(t *testing.T) {
	for _, s := range []detect.Seen{{}, {Known: true}, {Query: true}, {Live: true}, {Known: true, Live: true, Status: 1<<32 - 1, TCPState: 255},
		{Known: true, Live: true, Status: event.SeenReply | event.Assured, TCPState: event.TCPEstablished}} {
		if got := unpackLook(packLook(&s)); got != s {
			t.Errorf("%+v comes back as %+v", s, got)
		}
	}
}
