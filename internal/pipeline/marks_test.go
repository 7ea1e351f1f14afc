package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/filter"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
	"github.com/ctsight/ctsight/internal/record/capture"
)

// marksIn are the marks of a recording, as the reader tells them.
func marksIn(t *testing.T, path string) (out []Mark) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	r, err := capture.NewReader(f)
	must(t, err)
	for {
		x, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		must(t, err)
		if x.Kind == capture.Mark {
			m, err := sectionOf[Mark](x)
			must(t, err)
			out = append(out, m)
		}
	}
}

// marking is a Watch that records and does nothing else.
func marking(t *testing.T) (w *Watch, path string, done func() []Mark) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "a.ctsight")
	f, err := capture.Create(path, capture.Header{})
	must(t, err)
	flt, err := filter.Parse("", filter.Options{})
	must(t, err)
	w = &Watch{p: &Pipeline{Source: counted{}, cfg: Config{Filter: flt}}, tables: map[event.NetNS]*table{}, first: map[event.NetNS]probe.Counters{}, census: agg.NewCensus(agg.CensusConfig{}, 0)}
	w.Record(capture.NewRecorder(f))
	return w, path, func() []Mark {
		must(t, w.rec.Close(nil))
		return marksIn(t, path)
	}
}

// A threshold is told once each way, however the fill flickers around it; where a table
// is when it is first seen, and that it goes, is no crossing.
func TestMarkLevels(t *testing.T) {
	w, _, done := marking(t)
	const ns = event.NetNS(7)
	for i, x := range []struct {
		entries uint64
		err     string
	}{{100, ""}, {699, ""}, {700, ""}, {699, ""}, {701, ""}, {690, ""}, {680, ""}, {679, ""}, {849, ""}, {851, ""}, {840, ""}, {860, ""}, {0, "gone"}, {960, ""}, {948, ""}, {952, ""}, {10, ""}} {
		tables := []agg.TableState{{NetNS: ns, Name: "gw", Entries: x.entries, Max: 1000, Err: x.err}, {NetNS: 8, Entries: 990, Max: 1000}, {NetNS: 9, Entries: 5}}
		w.markLevels(event.Ktime(i), tables)
	}
	w.markLevels(99, nil)
	w.markLevels(100, []agg.TableState{{NetNS: ns, Entries: 990, Max: 1000}})
	var got []string
	for _, m := range done() {
		x := m.Threshold
		got = append(got, fmt.Sprint(x.NetNS, x.Name, " ", x.From, ">", x.To, " ", x.Entries, "/", x.Max))
	}
	want := []string{"7gw ok>trend 700/1000", "7gw trend>ok 679/1000", "7gw ok>trend 849/1000", "7gw trend>action 851/1000", "7gw action>critical 960/1000", "7gw critical>ok 10/1000"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// What somebody has written is noted with what was there before; a sysctl that is one for
// all namespaces is one mark; what comes and goes is none.
func TestSysctlChanges(t *testing.T) {
	all := []ctnl.NS{{Inode: 1, Name: "a"}, {Inode: 2}, {Inode: 3}}
	before := sysctls{1: {"max": 10, "udp": 30, "old": 1}, 2: {"max": 10, "udp": 30}}
	after := sysctls{1: {"max": 20, "udp": 31, "new": 1}, 2: {"max": 20, "udp": 30}, 3: {"max": 20, "udp": 5}}
	want := []SysctlMark{{Name: "max", From: 10, To: 20, Where: []Place{{1, "a"}, {2, ""}}, Namespaces: 2}, {Name: "udp", From: 30, To: 31, Where: []Place{{1, "a"}}, Namespaces: 1}}
	if d := cmp.Diff(want, before.changes(after, all)); d != "" {
		t.Error(d)
	}
	if got := sysctls(nil).changes(after, all); got != nil {
		t.Errorf("at first: %+v", got)
	}
	many, was, is := []ctnl.NS{}, sysctls{}, sysctls{}
	for i := range event.NetNS(1000) {
		many = append(many, ctnl.NS{Inode: i})
		was[i], is[i] = map[string]uint32{"max": 1}, map[string]uint32{"max": 2}
	}
	if got := was.changes(is, many); len(got) != 1 || got[0].Namespaces != 1000 || len(got[0].Where) != placesTold {
		t.Errorf("%d marks, %+v", len(got), got[0])
	}
}

// The kernel's own: a timeout that is written in a namespace is a mark with the values
// that were read there, and nothing else is.
func TestMarkSysctls(t *testing.T) {
	lab.NeedRoot(t)
	ns, err := netlab.NewNS()
	must(t, err)
	defer ns.Close()
	const udp, icmp = "nf_conntrack_udp_timeout", "nf_conntrack_icmp_timeout"
	if _, err := ns.Sysctl("net.netfilter." + udp); errors.Is(err, os.ErrNotExist) {
		t.Skip("needs nf_conntrack: modprobe nf_conntrack")
	}
	w, _, done := marking(t)
	all, err := ctnl.ListAllNetNS()
	must(t, err)
	for _, x := range all {
		if x.Inode == ns.Inode() {
			w.tables[x.Inode] = &table{ns: x}
		}
	}
	w.lookAtSysctls()
	was := w.sysctls[ns.Inode()]
	must(t, ns.Do(func() error {
		return errors.Join(os.WriteFile("/proc/sys/net/netfilter/"+udp, []byte("7"), 0o644), os.WriteFile("/proc/sys/net/netfilter/"+icmp, []byte("8"), 0o644))
	}))
	w.lookAtSysctls()
	w.lookAtSysctls()
	place := []Place{{NetNS: ns.Inode()}}
	want := []Mark{{Sysctl: &SysctlMark{Name: icmp, From: was[icmp], To: 8, Where: place, Namespaces: 1}}, {Sysctl: &SysctlMark{Name: udp, From: was[udp], To: 7, Where: place, Namespaces: 1}}}
	if d := cmp.Diff(want, done()); d != "" || len(w.sysctls[ns.Inode()]) < 20 {
		t.Error(d, w.sysctls)
	}
}

// marksFindings fails where a recording has other marks of findings than were told.
func marksFindings(t *testing.T, path string, live []agg.Finding) {
	t.Helper()
	var got, want []string
	for _, m := range marksIn(t, path) {
		if f := m.Finding; f != nil {
			got = append(got, fmt.Sprint(f.ID, f.Class, f.State, f.Severity, f.NetNS, f.Source, f.Why))
		}
	}
	for _, f := range live {
		source := ""
		if f.Source.IsValid() {
			source = f.Source.Addr().String()
		}
		want = append(want, fmt.Sprint(f.ID, f.Class, f.State, f.Severity, f.NetNS, source, f.Why))
	}
	if !slices.Equal(got, want) {
		t.Errorf("marks of findings: %q, told were %q", got, want)
	}
}

// A replay tells marks where they are, and finds the same with and without them.
func TestReplayMarks(t *testing.T) {
	w, path, done := marking(t)
	w.rec.JSON(capture.Second, 5, secondState{})
	w.rec.JSON(capture.Mark, 7, Mark{Sysctl: &SysctlMark{Name: "x", From: 1, To: 2}})
	w.rec.JSON(capture.Mark, 8, struct{ Later int }{1}) // of a later version
	w.rec.JSON(capture.Second, 9, secondState{})
	done()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	r, err := capture.NewReader(f)
	must(t, err)
	var told []string
	_, err = ReplayCapture(t.Context(), r, ReplayConfig{Each: func(x *Told) {
		if x.counts != nil { // of the beginning
			return
		}
		b, err := json.Marshal(x.Mark)
		must(t, err)
		told = append(told, fmt.Sprint(x.At)+" "+string(b)+fmt.Sprint(" ", x.State != nil))
	}})
	must(t, err)
	if d := cmp.Diff([]string{"5 null true", `7 {"sysctl":{"name":"x","from":1,"to":2,"where":null,"namespaces":0}} false`, "8 {} false", "9 null true"}, told); d != "" {
		t.Error(d)
	}
}
