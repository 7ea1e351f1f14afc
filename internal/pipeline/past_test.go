package pipeline

import (
	"context"
	"encoding/json"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
	"github.com/ctsight/ctsight/internal/record/capture"
	"github.com/ctsight/ctsight/internal/record/flight"
)

// open opens what was recorded, as often as it is called.
func (x *taped) capture(t *testing.T) Capture {
	t.Helper()
	r, done := x.open(t)
	return Recording(r, done)
}

func asText(t *testing.T, v any) string {
	t.Helper()
	b, err := json.MarshalIndent(v, "", " ")
	must(t, err)
	return string(b)
}

// same fails where two documents are not the same to the byte, with the first line that
// is not.
func same(t *testing.T, what string, got, want any) {
	t.Helper()
	a, b := strings.Split(asText(t, got), "\n"), strings.Split(asText(t, want), "\n")
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			from := max(0, i-6)
			t.Errorf("%s: line %d of the replay:\n%s\nlive:\n%s", what, i, strings.Join(a[from:min(len(a), i+3)], "\n"), strings.Join(b[from:min(len(b), i+3)], "\n"))
			return
		}
	}
}

// watched is a Watch that is recorded, of a lab with some of everything: clients that are
// served, entries from before, scans, and a table that is full where it may be made so.
func watched(t *testing.T, backend string, begin func(p *Pipeline, clock event.Clock) *Watch) (*Watch, *taped, *agg.Ledger) {
	t.Helper()
	l := newLab(t, netlab.Options{Name: "ctsight-past-test", ClientNets: []netip.Prefix{netip.MustParsePrefix("10.8.0.0/24")}})
	svc, err := l.ServeTCP(netip.AddrPortFrom(netlab.ServerV4, 80))
	must(t, err)
	defer svc.Close()
	served := netip.MustParseAddr("10.8.0.3")
	connect := func(n int) {
		_, err := l.ConnectTCP(t.Context(), netlab.ConnectOptions{N: n, Src: netlab.OneAddr(served), Dst: netip.AddrPortFrom(netlab.ServerV4, 80)})
		must(t, err)
	}
	connect(30)
	if lab.InVM() {
		must(t, l.SetSysctl(nil, "net.netfilter.nf_conntrack_max", "300"))
	}
	p, clock := openIn(t, l, backend)
	w := begin(p, clock)
	rec := recordTo(t, w)
	ledger := agg.NewLedger(agg.LedgerConfig{})
	var events []event.Event
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() {
		ran <- w.Run(ctx, func(e *event.Event) error {
			events = append(events, *e)
			one := *e
			one.Sample = 0
			if e.Time >= w.rec.from {
				ledger.Add(&one)
			}
			return nil
		})
	}()
	time.Sleep(1500 * time.Millisecond) // what was there is read
	connect(40)
	_, err = l.Scan(ctx, netip.MustParseAddr("10.8.0.1"), netlab.ServerV4, netlab.Ports{First: 3000, N: 150}, 500)
	must(t, err)
	_, err = l.Scan(ctx, netip.MustParseAddr("10.8.0.2"), netlab.Sink(0), netlab.Ports{First: 3000, N: 200}, 500)
	must(t, err)
	must(t, l.Drain())
	time.Sleep(5 * time.Second) // first contacts are judged
	cancel()
	must(t, <-ran)
	must(t, w.Finish())
	for _, p := range w.Problems() {
		t.Error(p)
	}
	must(t, rec.rec.Close(nil))
	var again []event.Event // what trace shows
	must(t, rec.capture(t).Events(t.Context(), func(e *event.Event) error {
		again = append(again, *e)
		return nil
	}))
	again = again[:min(len(again), len(events))] // the rest was told by Finish
	if len(events) < 300 {
		t.Errorf("%d events", len(events))
	}
	for i := range events {
		if i >= len(again) || again[i] != events[i] {
			t.Fatalf("event %d of %d, recorded are %d: %+v", i, len(events), len(again), events[i])
		}
	}
	return w, rec, ledger
}

// eachBackend runs a test with every backend that is a source of its own, on the host and
// on one kernel of the matrix; on the others with the best that they have.
func eachBackend(t *testing.T, fn func(t *testing.T, backend string)) {
	lab.NeedRoot(t)
	backends := []string{probe.Auto}
	switch lab.KernelName() {
	case "":
		backends = []string{probe.Netfilter, probe.Netlink}
	case "6.12":
		backends = []string{probe.Fentry, probe.Netfilter, probe.Netlink}
	}
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) { fn(t, backend) })
	}
}

// TestPastTop: top and the account of a recording are those of the Watch that was
// recorded, to the byte.
func TestPastTop(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		dims := []agg.Dim{agg.BySrc, agg.ByNetNS}
		w, rec, ledger := watched(t, backend, func(p *Pipeline, clock event.Clock) *Watch {
			w := p.NewWatch(clock, agg.CensusConfig{Dims: dims})
			w.Detect(Detection{})
			return w
		})
		want := w.Top(agg.BySrc, agg.ColNew, 20, nil)
		if len(want.Rows) < 3 || want.Total.New < 300 || len(want.Table) != 1 || len(want.Findings) == 0 {
			t.Errorf("live: %s", asText(t, want))
		}
		past, read, err := ReadPast(t.Context(), []Capture{rec.capture(t)}, PastConfig{Dims: []agg.Dim{agg.BySrc}})
		must(t, err)
		if read[0].Events == 0 {
			t.Error("nothing was read")
		}
		same(t, "top", past.Top(agg.BySrc, agg.ColNew, 20, nil), want)

		doc := &agg.Doc{From: w.clock.At(w.rec.from), To: w.clock.At(w.rec.to), Backend: w.p.Report().Backend, Snapshot: ledger.Snapshot(), Loss: w.p.loss()}
		w.p.hooked().account(doc, w.rec.before, w.rec.after)
		got, err := past.Ledger()
		must(t, err)
		same(t, "drops", got, doc)
		if len(doc.Balance) == 0 || len(doc.Kernel) == 0 { // of other tests' namespaces, too
			t.Errorf("no account: %s", asText(t, doc))
		}
		for _, r := range got.Balance {
			if r.Difference != nil && *r.Difference != 0 && r.Note == "" {
				t.Errorf("%s: %d traced, %d by the kernel", r.Counter, *r.Traced, *r.Kernel)
			}
		}
	})
}

// TestPastTriage: the triage of a recording is that of the Watch that was recorded.
func TestPastTriage(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		w, rec, _ := watched(t, backend, func(p *Pipeline, clock event.Clock) *Watch {
			return p.NewTriage(clock, agg.CensusConfig{Dims: TriageDims})
		})
		want := w.Triage(0, 0, 20)
		past, _, err := ReadPast(t.Context(), []Capture{rec.capture(t)}, PastConfig{Dims: TriageDims})
		must(t, err)
		got, err := past.Triage(0, 20)
		must(t, err)
		got.Enter, want.Enter = "", "" // own is another one
		same(t, "triage", got, want)
		if want.Focus.Entries == 0 || len(want.Findings) == 0 {
			t.Errorf("live: %s", asText(t, want))
		}
	})
}

// TestSnapshotInRing: each file of a ring can be read alone: what is in the tables is in a
// snapshot at its beginning, and the account is between the readings in it.
func TestSnapshotInRing(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		l := newLab(t, netlab.Options{Name: "ctsight-ring-test", ClientNets: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}})
		must(t, l.SetSysctl(l.R, "net.netfilter.nf_conntrack_udp_timeout", "300")) // what is to stay outlives the slowest guest
		p, clock := openIn(t, l, backend)
		w := p.NewWatch(clock, agg.CensusConfig{Dims: []agg.Dim{agg.ByNetNS}})
		w.Detect(Detection{})
		dir := t.TempDir()
		ring, err := flight.Open(flight.Config{Dir: dir, Bytes: 1 << 20, Header: func() capture.Header { return w.CaptureHeader("test") }})
		must(t, err)
		w.Record(ring.Recorder())
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- w.Run(ctx, nil) }()
		kernel := conn(t, l.R)
		send := func(src string, n int) {
			_, err := l.SendFlows(ctx, flows(src, n, 500, netlab.Sink(0)), netlab.SendOptions{Rate: 4000})
			must(t, err)
			must(t, l.Drain())
		}
		const stay = 500
		send("10.9.2.1", stay/500)
		for range 10 { // many more events than entries
			send("10.9.1.1", 3)
			time.Sleep(1200 * time.Millisecond) // a snapshot is taken where one is due
			var gone []event.Tuple
			must(t, kernel.Dump(ctx, func(e *ctnl.Entry) error {
				if e.Orig.Src.As4()[2] == 1 {
					gone = append(gone, e.Orig)
				}
				return nil
			}))
			for _, o := range gone {
				must(t, kernel.Delete(o, 0))
			}
		}
		time.Sleep(2 * time.Second)
		cancel()
		must(t, <-ran)
		must(t, w.Finish())
		must(t, ring.Close())
		fill, err := kernel.Fill()
		must(t, err)
		files, err := filepath.Glob(filepath.Join(dir, "*.ctsight"))
		must(t, err)
		if len(files) < 3 { // of which the second has nothing of the entries but its snapshot
			t.Fatalf("%v", files)
		}
		for i := range files {
			c, _, err := capture.OpenChain(files[i:])
			must(t, err)
			past, read, err := ReadPast(t.Context(), []Capture{Recording(c, c.Close)}, PastConfig{})
			must(t, err)
			top := past.Top(agg.ByNetNS, agg.ColLive, 10, nil)
			if i > 0 && i == len(files)-1 {
				continue // too little may have come in it for a snapshot
			}
			if files := top.To.Sub(top.From); i > 0 && files > top.To.Sub(w.clock.At(w.start))-2*time.Second {
				t.Errorf("file %d begins with the run: %v", i, files)
			}
			if top.Total.Live != stay || fill.Count != stay || len(top.Table) != 1 || top.Table[0].Entries != uint64(fill.Count) {
				t.Errorf("from file %d of %d on: %d live, table %+v, the kernel has %d; read %+v", i, len(files), top.Total.Live, top.Table, fill.Count, read)
			}
		}
		c, _, err := capture.OpenChain(files)
		must(t, err)
		_, last, err := c.Bounds()
		must(t, err)
		past, _, err := ReadPast(t.Context(), []Capture{Between(Recording(c, c.Close), last-event.Ktime(2*time.Second), 0)}, PastConfig{})
		must(t, err)
		if top := past.Top(agg.ByNetNS, agg.ColLive, 10, nil); top.Total.Live != stay || top.Total.New > 0 {
			t.Errorf("the last seconds: %d live, %d new, the kernel has %d", top.Total.Live, top.Total.New, fill.Count)
		}
	})
}
