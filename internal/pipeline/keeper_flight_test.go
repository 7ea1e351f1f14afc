package pipeline

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/detect"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/record/capture"
	"github.com/ctsight/ctsight/internal/record/flight"
)

// recording of a directory, as --from has it.
func openKept(t *testing.T, dir string) *capture.Chain {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.ctsight"))
	must(t, err)
	c, _, err := capture.OpenChain(paths)
	must(t, err)
	return c
}

// A Keeper with a flight recorder: a scan that is for a human is told with the directory
// that is kept around it, which a replay finds the same in; what serve shows has it too.
func TestKeeperFlight(t *testing.T) {
	lab.NeedRoot(t)
	scanner := netip.MustParseAddr("10.7.0.1")
	l := newLab(t, netlab.Options{Name: labName(), ClientNets: []netip.Prefix{netip.MustParsePrefix("10.7.0.0/24")}})
	where := t.TempDir()
	dir, err := flight.Take(flight.Config{Dir: where, Bytes: 64 << 20})
	must(t, err)
	var got told
	k, stop := keep(t, KeeperConfig{Census: agg.CensusConfig{Dims: []agg.Dim{agg.BySrc}}, Detection: Detection{Found: got.add},
		Flight: &Flight{Dir: dir, Before: time.Minute, After: 10 * time.Second, Tool: "test"}})
	if _, err := flight.Take(flight.Config{Dir: where}); err == nil {
		t.Error("two record to one directory")
	}
	_, err = l.Scan(t.Context(), scanner, netlab.ServerV4, netlab.Ports{First: 3000, N: 200}, 2000)
	must(t, err)
	eventually(t, "the scan is told and kept", func() bool {
		s := k.Flight()
		return got.last("scan", scanner).Recording != "" && len(s.Kept) > 0
	})
	f := got.last("scan", scanner)
	shown := func(all []agg.Finding) (dir string) {
		for _, x := range all {
			if x.ID == f.ID {
				dir = x.Recording
			}
		}
		return dir
	}
	eventually(t, "it is shown", func() bool { return shown(k.Status().Findings) == f.Recording })
	doc, err := k.Top(agg.BySrc, agg.ColNew, 1)
	must(t, err)
	s := k.Status().Flight
	if shown(doc.Findings) != f.Recording || s == nil || s.Dir != where || s.Err != "" || s.Lost > 0 || s.Segments != 1 || s.Kept[0].Dir != f.Recording ||
		!strings.Contains(s.Kept[0].Why, f.ID) || time.Since(s.Oldest) > time.Minute {
		t.Errorf("%+v in %q", s, f.Recording)
	}
	eventually(t, "it is over", func() bool { x := got.last("scan", scanner); return x.Evidence.Refused+x.Evidence.Unanswered >= 200 })
	stop()

	got.mu.Lock()
	defer got.mu.Unlock()
	var live, again []string
	for i := range got.all {
		x := got.all[i]
		x.Recording = "" // who hands it out has said so
		live = append(live, asJSON(t, &x))
	}
	_, err = ReplayCapture(t.Context(), openKept(t, f.Recording), ReplayConfig{Detect: detect.Config{Tell: func(f *agg.Finding) { again = append(again, asJSON(t, f)) }}})
	must(t, err)
	if !slices.Equal(live, again) {
		t.Errorf("told live:\n%s\nof what was kept:\n%s", strings.Join(live, "\n"), strings.Join(again, "\n"))
	}
}

// What is kept of the middle of a run finds what was found in it, though the files before
// it are not there: the same incident with the same counts.
func TestKeeperFlightMiddle(t *testing.T) {
	lab.NeedRoot(t)
	scanner := netip.MustParseAddr("10.7.0.1")
	l := newLab(t, netlab.Options{Name: labName(), ClientNets: []netip.Prefix{netip.MustParsePrefix("10.7.0.0/24")}})
	where := t.TempDir()
	dir, err := flight.Take(flight.Config{Dir: where, Bytes: 64 << 20, Span: time.Second})
	must(t, err)
	var got told
	k, stop := keep(t, KeeperConfig{Census: agg.CensusConfig{Dims: []agg.Dim{agg.BySrc}}, Detection: Detection{Found: got.add},
		Flight: &Flight{Dir: dir, Before: time.Second, After: 3 * time.Second}})
	_, err = l.SendFlows(t.Context(), flows("198.51.100.1", 2, 50, netlab.Sink(0)), netlab.SendOptions{})
	must(t, err)
	eventually(t, "the ring has turned over", func() bool { s := k.Flight(); return s != nil && s.Segments > 15 })
	was, err := l.R.Sysctl("net.netfilter." + timeoutName)
	must(t, err)
	must(t, l.SetSysctl(l.R, "net.netfilter."+timeoutName, "7"))
	_, err = l.Scan(t.Context(), scanner, netlab.ServerV4, netlab.Ports{First: 3000, N: 200}, 2000)
	must(t, err)
	eventually(t, "the scan is told and kept", func() bool { return got.last("scan", scanner).Recording != "" && len(k.Flight().Kept) > 0 })
	first := got.last("scan", scanner)
	until := k.Flight().Segments + 8
	eventually(t, "what comes behind it", func() bool { return k.Flight().Segments > until })
	head := func(path string) string { return headerOf(t, path).Sysctls[l.R.Inode().String()][timeoutName] }
	var all []string
	lookedAtSysctls(func() bool {
		all, err = filepath.Glob(filepath.Join(where, "*.ctsight"))
		must(t, err)
		return len(all) > 1 && head(all[len(all)-2]) == "7" // the last one may have no header yet
	})
	stop()

	kept, err := filepath.Glob(filepath.Join(first.Recording, "*.ctsight"))
	must(t, err)
	if len(kept) == 0 || len(kept) >= len(all)-10 || filepath.Base(kept[0]) == filepath.Base(all[0]) {
		t.Fatalf("%d of %d files are kept, from %s on", len(kept), len(all), kept[0])
	}
	if before, after := head(all[0]), head(all[len(all)-1]); before != was || after != "7" {
		t.Errorf("in the headers %s is %s and then %s, want %s and 7", timeoutName, before, after, was)
	}
	same := false
	_, err = ReplayCapture(t.Context(), openKept(t, first.Recording), ReplayConfig{Detect: detect.Config{Tell: func(f *agg.Finding) {
		a, b := f.Evidence, first.Evidence
		same = same || f.ID == first.ID && f.State == first.State && f.Severity == first.Severity && f.Why == first.Why && a.Refused == b.Refused && a.Unanswered == b.Unanswered && f.First.Equal(first.First)
	}}})
	must(t, err)
	if !same {
		t.Errorf("it is not found again: %s", asJSON(t, &first))
	}
}

const timeoutName = "nf_conntrack_icmp_timeout"

// lookedAtSysctls waits for what a look at the sysctls brings: where one takes long the next
// one is far.
func lookedAtSysctls(ok func() bool) {
	for end := time.Now().Add(2 * time.Minute); !ok() && time.Now().Before(end); {
		time.Sleep(time.Second)
	}
}

func headerOf(t *testing.T, path string) *capture.Header {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	r, err := capture.NewReader(f)
	must(t, err)
	return r.About()
}

// A table that fills to 85 and 95 % of a limit that somebody has lowered: all of that is
// in the recording, and what was around it is kept. In a guest, since the limit is that of
// the machine.
func TestKeeperFlightFills(t *testing.T) {
	lab.NeedVM(t)
	l := newLab(t, netlab.Options{Name: labName()})
	const name, limit = "net.netfilter.nf_conntrack_max", 2000
	was, err := l.R.Sysctl(name)
	must(t, err)
	where := t.TempDir()
	dir, err := flight.Take(flight.Config{Dir: where, Bytes: 64 << 20})
	must(t, err)
	k, stop := keep(t, KeeperConfig{Census: agg.CensusConfig{Dims: []agg.Dim{agg.BySrc}}, Flight: &Flight{Dir: dir, Before: time.Minute, After: 10 * time.Second}})
	level := func() (level agg.Level, fill float64) {
		for _, x := range k.Status().Tables {
			if x.NetNS == l.R.Inode() {
				level, fill = x.Level, x.Fill()
			}
		}
		return level, fill
	}
	eventually(t, "the table is known", func() bool { _, fill := level(); return fill > 0 || len(k.Status().Tables) > 0 })
	time.Sleep(2 * sysctlEvery) // a change is one from what was seen before
	must(t, l.SetSysctl(nil, name, fmt.Sprint(limit)))
	eventually(t, "the limit is known", func() bool {
		for _, x := range k.Status().Tables {
			if x.NetNS == l.R.Inode() && x.Max == limit {
				return true
			}
		}
		return false
	})
	for i, want := range []agg.Level{agg.LevelTrend, agg.LevelAction, agg.LevelCritical} {
		n := []int{1450, 1750, 1920}[i]
		_, err := l.SendFlows(t.Context(), flows(fmt.Sprintf("198.51.100.%d", i+1), 1, n-[]int{0, 1450, 1750}[i], netlab.Sink(i)), netlab.SendOptions{})
		must(t, err)
		eventually(t, want.String(), func() bool { l, _ := level(); return l == want })
	}
	must(t, conn(t, l.R).Flush())
	eventually(t, "it is empty", func() bool { l, _ := level(); return l == agg.LevelOK })
	eventually(t, "it is kept", func() bool { return len(k.Flight().Kept) > 0 })
	files, err := filepath.Glob(filepath.Join(where, "*.ctsight"))
	must(t, err)
	lookedAtSysctls(func() bool {
		return slices.ContainsFunc(marksIn(t, files[0]), func(m Mark) bool { return m.Sysctl != nil })
	})
	kept := k.Flight().Kept
	stop()

	var crossed []string
	limits := 0
	for _, m := range marksIn(t, files[0]) {
		if x := m.Threshold; x != nil && x.NetNS == l.R.Inode() {
			crossed = append(crossed, x.From+">"+x.To)
		}
		if x := m.Sysctl; x != nil && x.Name == "nf_conntrack_max" {
			if limits++; fmt.Sprint(x.From) != was || x.To != limit || x.Namespaces < 2 {
				t.Errorf("%+v, it was %s", x, was)
			}
		}
	}
	if d := cmp.Diff([]string{"ok>trend", "trend>action", "action>critical", "critical>ok"}, crossed); d != "" || limits != 1 {
		t.Errorf("%d changes of the limit; %s", limits, d)
	}
	why, err := os.ReadFile(filepath.Join(kept[0].Dir, "why.txt"))
	must(t, err)
	if !strings.Contains(string(why), "at 8") || !strings.Contains(string(why), "at 9") {
		t.Errorf("kept because of %s", why)
	}
}

// A disk that hangs keeps nobody waiting but who writes to it: not who traces, shows, finds
// or ends.
func TestHangingDisk(t *testing.T) {
	var hangs atomic.Bool
	goes := make(chan struct{})
	d, err := flight.Take(flight.Config{Dir: t.TempDir(), Bytes: 16 << 20, Now: func() time.Time {
		if hangs.Load() {
			<-goes
		}
		return time.Now()
	}})
	must(t, err)
	ring, err := d.Begin(func() capture.Header { return capture.Header{} })
	must(t, err)
	r := &recorder{c: Flight{Dir: d, Before: time.Minute, After: time.Minute}, ring: ring, now: time.Now, findings: map[string]string{}}
	hangs.Store(true)
	done := make(chan error, 1)
	go func() {
		events := make([]event.Event, 4096)
		for range 100 {
			ring.Recorder().Events(capture.Events, events)
			ring.Recorder().Flush()
		}
		for i := range 100 {
			r.found(paged(fmt.Sprint(i), time.Now()))
		}
		r.crossed(&agg.TableState{NetNS: 7}, agg.LevelOK, agg.LevelCritical)
		if s := r.state(); s.Events+s.Lost < 50*4096 || s.Lost == 0 {
			t.Errorf("%+v", s)
		}
		done <- r.land()
	}()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "hangs") {
			t.Errorf("it ends with %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("somebody waits for the disk")
	}
	hangs.Store(false)
	close(goes)
	eventually(t, "it is kept after all", func() bool { return len(ring.Stats().Kept) == 1 })
}

// keeping is a flight recorder of which the clock is ours.
func keeping(t *testing.T, before, after time.Duration) (r *recorder, at *time.Time) {
	t.Helper()
	d, err := flight.Take(flight.Config{Dir: t.TempDir(), Bytes: 16 << 20})
	must(t, err)
	ring, err := d.Begin(func() capture.Header { return capture.Header{} })
	must(t, err)
	t.Cleanup(func() { must(t, ring.Close()) })
	now := time.Date(2026, 11, 23, 3, 14, 7, 0, time.UTC)
	return &recorder{c: Flight{Dir: d, Before: before, After: after}, ring: ring, now: func() time.Time { return now }, findings: map[string]string{}}, &now
}

func paged(id string, first time.Time) *agg.Finding {
	return &agg.Finding{ID: id, Class: "scan", State: agg.Confirmed, Severity: agg.Page, First: first}
}

// What is kept: findings for a human, once each; what comes while something is kept goes
// with it, for half an hour; and a dozen an hour, of which the first are kept.
func TestWhatIsKept(t *testing.T) {
	r, at := keeping(t, 5*time.Minute, 2*time.Minute)
	for _, f := range []agg.Finding{{ID: "a", State: agg.Suspect, Severity: agg.Page}, {ID: "a", State: agg.Confirmed, Severity: agg.Feed}, {ID: "a", State: agg.Cleared, Severity: agg.Page},
		{ID: "a", State: agg.Confirmed, Severity: agg.Page, Suppress: "allowed by netops"}} {
		if dir := r.found(&f); dir != "" {
			t.Errorf("%+v is kept in %s", f, dir)
		}
	}
	first := r.found(paged("a", *at))
	if filepath.Base(first) != "20261123T031407Z-scan-a" {
		t.Error(first)
	}
	over := *paged("a", *at)
	over.State = agg.Cleared
	*at = at.Add(90 * time.Second)
	if r.found(paged("a", *at)) != first || r.found(&over) != first || r.found(paged("b", *at)) != first {
		t.Error("what comes while it is kept is not kept with it")
	}
	if want := at.Add(2 * time.Minute); !r.last.until.Equal(want) {
		t.Errorf("kept until %v, want %v", r.last.until, want)
	}
	dirs := map[string]bool{}
	for i := range 60 * 60 / 30 { // for an hour every 30 seconds another one
		*at = at.Add(30 * time.Second)
		dirs[r.found(paged(fmt.Sprint("c", i), *at))] = true
	}
	if len(dirs) != 3 || r.omitted != 0 {
		t.Errorf("an hour of findings is kept in %d directories, %d omitted", len(dirs), r.omitted)
	}
	*at = at.Add(2 * time.Hour)
	kept := 0
	for i := range 20 {
		*at = at.Add(150 * time.Second)
		if r.found(paged(fmt.Sprint("d", i), *at)) != "" {
			kept++
		}
	}
	if kept != keepsHourly || r.omitted != 20-keepsHourly {
		t.Errorf("%d are kept, %d omitted", kept, r.omitted)
	}
}

// A table is kept at 85 and at 95 %, and not on its way down or at 70.
func TestCrossingsAreKept(t *testing.T) {
	r, at := keeping(t, time.Minute, 10*time.Second)
	for _, x := range []struct {
		from, to agg.Level
		want     string
	}{{agg.LevelOK, agg.LevelTrend, ""}, {agg.LevelTrend, agg.LevelAction, "20261123T031707Z-table-action-7"}, {agg.LevelAction, agg.LevelCritical, "20261123T032007Z-table-critical-7"},
		{agg.LevelCritical, agg.LevelAction, "20261123T032007Z-table-critical-7"}, {agg.LevelOK, agg.LevelCritical, "20261123T032607Z-table-critical-7"}} {
		r.crossed(&agg.TableState{NetNS: 7, Name: "gw", Entries: 96, Max: 100}, x.from, x.to)
		if r.last.name != x.want {
			t.Errorf("from %v to %v: %q, want %q", x.from, x.to, r.last.name, x.want)
		}
		*at = at.Add(3 * time.Minute)
	}
	eventually(t, "they are there", func() bool {
		r.ring.Recorder().JSON(capture.Second, 0, 1)
		r.ring.Recorder().Flush()
		return len(r.ring.Stats().Kept) == 3
	})
	if k := r.ring.Stats().Kept; len(k) != 3 || !strings.HasSuffix(k[0].Why, " table of gw at 96 %: 96 of 100 entries") {
		t.Errorf("%+v", k)
	}
}

// However many are kept, those are forgotten that nobody shows any more.
func TestRecordingsAreForgotten(t *testing.T) {
	r, at := keeping(t, time.Minute, time.Minute)
	var shown []agg.Finding
	for i := range 3 * keptFindings {
		f := *paged(fmt.Sprint(i), *at)
		if r.found(&f); i%300 == 0 {
			shown = append(shown, f)
		}
	}
	named := r.name(shown)
	if len(r.findings) != len(shown) || named[1].Recording == "" || shown[1].Recording != "" {
		t.Errorf("%d are known, %d shown: %+v", len(r.findings), len(shown), named[1])
	}
}

// A directory that goes, and a disk that hangs at the end, do not keep a Keeper from
// tracing and from ending.
func TestKeeperFlightGone(t *testing.T) {
	lab.NeedRoot(t)
	l := newLab(t, netlab.Options{Name: labName()})
	where := filepath.Join(t.TempDir(), "ring")
	dir, err := flight.Take(flight.Config{Dir: where, Bytes: 16 << 20, Span: time.Second})
	must(t, err)
	k, stop := keep(t, KeeperConfig{Census: agg.CensusConfig{Dims: []agg.Dim{agg.BySrc}}, Flight: &Flight{Dir: dir, Before: time.Minute, After: time.Minute}})
	must(t, os.Rename(where, where+".away"))
	eventually(t, "it is said", func() bool { return k.Status().Flight.Err != "" })
	before := sumNew(k.Status().New)
	_, err = l.SendFlows(t.Context(), flows("198.51.100.1", 2, 50, netlab.Sink(0)), netlab.SendOptions{})
	must(t, err)
	eventually(t, "it traces all the same", func() bool { return sumNew(k.Status().New) >= before+100 })
	must(t, os.Rename(where+".away", where))
	eventually(t, "it records again", func() bool { s := k.Status().Flight; return s.Err == "" && s.Segments > 1 })
	stop()
	events := 0
	c := openKept(t, where)
	must(t, eachItem(t.Context(), c, func(x *capture.Item) error {
		if x.Kind == capture.Events {
			events += len(x.Events)
		}
		return nil
	}))
	if lost, whole := c.Missing(); events < 100 || lost.Events > 0 || !whole {
		t.Errorf("%d events, %+v, whole: %v", events, lost, whole)
	}
}
