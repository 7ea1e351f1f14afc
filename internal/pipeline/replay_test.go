package pipeline_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/detect"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/filter"
	"github.com/ctsight/ctsight/internal/lab/ctreplay"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/record"
	"github.com/ctsight/ctsight/internal/view"
)

// told collects findings as the bytes that users see.
type told struct {
	bytes.Buffer
	findings []agg.Finding
}

func (b *told) tell(f *agg.Finding) {
	b.findings = append(b.findings, *f)
	_ = view.WriteFindingJSON(b, f, view.FindingOptions{})
}

// replay runs a capture that is in memory.
func replay(t testing.TB, capture io.Reader, c pipeline.ReplayConfig) (*told, pipeline.Replayed, error) {
	t.Helper()
	in, err := record.New("x", capture)
	if err != nil {
		t.Fatal(err)
	}
	var out told
	c.Detect.Tell = out.tell
	r, err := pipeline.Replay(t.Context(), in, c)
	return &out, r, err
}

// captures are the public ones, by name.
func captures(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(ctreplay.Dir(t), "replay", "*.ctr.tsv.gz"))
	if err != nil || len(files) == 0 {
		t.Fatal("no captures", err)
	}
	out := map[string][]byte{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimSuffix(filepath.Base(f), ".ctr.tsv.gz")] = b
	}
	return out
}

// The same capture gives the same bytes, and those that it gives when every event is
// told by itself and every step of the time is taken.
func TestReplaySame(t *testing.T) {
	for name, capture := range captures(t) {
		t.Run(name, func(t *testing.T) {
			first, _, err := replay(t, bytes.NewReader(capture), pipeline.ReplayConfig{})
			if err != nil {
				t.Fatal(err)
			}
			if again, _, _ := replay(t, bytes.NewReader(capture), pipeline.ReplayConfig{}); again.String() != first.String() {
				t.Errorf("the second time:\n%s", cmp.Diff(first.String(), again.String()))
			}
			if plain := stepByStep(t, capture); plain.String() != first.String() {
				t.Errorf("step by step:\n%s", cmp.Diff(plain.String(), first.String()))
			}
			t.Logf("told %d times", len(first.findings))
		})
	}
}

// stepByStep is a replay that knows no short cut: one event at a time, ten looks a
// second, a tick each second, the state of every entry in a map.
func stepByStep(t *testing.T, capture []byte) *told {
	in, err := record.New("x", bytes.NewReader(capture))
	if err != nil {
		t.Fatal(err)
	}
	var out told
	var d *detect.Engine
	type entry struct {
		since  event.Ktime
		status event.Status
	}
	live := map[uint64]*entry{}
	const step, second = event.Ktime(1e8), event.Ktime(1e9)
	var now, last event.Ktime
	until := func(to event.Ktime) {
		for ; now < to; now += step {
			for looks := d.Due(now, make([]detect.Look, 0, 7)); len(looks) > 0; looks = d.Due(now, looks) {
				for i := range looks {
					l, s := &looks[i], detect.Seen{Known: true}
					if e := live[l.Ptr]; e != nil && e.since == l.At {
						s.Live, s.Status = true, e.status
						if l.Orig.Proto == event.ProtoTCP {
							s.TCPState = map[bool]event.TCPState{true: event.TCPSynRecv, false: event.TCPSynSent}[s.Status&event.SeenReply != 0]
							if s.Status&event.Assured != 0 {
								s.TCPState = event.TCPEstablished
							}
						}
					}
					d.Seen(l, now, s)
				}
			}
			if now%second == 0 {
				d.Tick(now, detect.State{})
			}
		}
	}
	for {
		var e event.Event
		what, err := in.Read(&e)
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if d == nil {
			d = detect.New(detect.Config{Clock: record.Clock(), Tell: out.tell}, e.Time)
			now = e.Time/step*step + step
		}
		until(e.Time)
		last = e.Time
		switch what {
		case record.Inserted:
			live[e.Ptr] = &entry{e.Time, e.Status}
		case record.Destroyed:
			if was := live[e.Ptr]; was != nil {
				e.Lifetime, e.HasLifetime = e.Time.Sub(was.since), true
			}
			delete(live, e.Ptr)
		default:
			if was := live[e.Ptr]; was != nil {
				was.status |= e.Status
			}
			continue
		}
		d.Add(&e)
	}
	until(last + 4*second + 1)
	d.End((last + 4*second) / step * step)
	return &out
}

// capture writes lines of ctreplay.
type capture struct{ strings.Builder }

func (c *capture) line(at time.Duration, what string, id int, src string, port int, end string) {
	fmt.Fprintf(c, "%d\t%s\t%d\ttcp\t%s\t40000\t10.0.0.1\t%d\t%s\t1\t1\n", 1e18+at.Nanoseconds(), what, id, src, port, end)
}

const open = "-\t-\t-1"

// Silence is told 3 s after the contacts, though the file ends before; what was
// answered in time, or is in no table any more, is no scan.
func TestReplayLooks(t *testing.T) {
	var c capture
	const n = 30
	for i := range n {
		c.line(time.Duration(i)*time.Millisecond, "N", i, "192.0.2.1", 1000+i, open)
		c.line(time.Duration(i)*time.Millisecond, "N", n+i, "192.0.2.2", 2000+i, open)
	}
	for i := range n {
		c.line(50*time.Millisecond, "R", n+i, "192.0.2.2", 2000+i, open)
		c.line(50*time.Millisecond, "A", n+i, "192.0.2.2", 2000+i, open)
	}
	out, r, err := replay(t, strings.NewReader(c.String()), pipeline.ReplayConfig{})
	if err != nil || r.Lines != 4*n || r.Events != 2*n || r.Doubles+r.Strangers+r.Forgotten != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if len(out.findings) == 0 {
		t.Fatal("no finding")
	}
	start := time.Unix(0, 1e18).UTC()
	for _, f := range out.findings {
		if at := f.Time.Sub(start); f.Source.Addr().String() != "192.0.2.1" || f.Class != "scan" || at < 3*time.Second || at > 3600*time.Millisecond {
			t.Errorf("%v: %s %s %s", at, f.Class, f.Source, f.Why)
		}
	}
	if !r.First.Equal(start) || !r.Last.Equal(start.Add(50*time.Millisecond)) {
		t.Errorf("from %v to %v", r.First, r.Last)
	}
}

// What does not fit together is counted.
func TestReplayTolerates(t *testing.T) {
	var c capture
	c.line(0, "N", 1, "192.0.2.1", 80, open)
	c.line(1, "N", 1, "192.0.2.1", 81, open)
	c.line(2, "R", 7, "192.0.2.1", 80, open)
	c.line(3, "A", 7, "192.0.2.1", 80, open)
	c.line(4, "D", 7, "192.0.2.1", 80, "U\ttimeout\t4")
	c.line(5, "D", 1, "192.0.2.1", 81, "U\trst\t4")
	c.line(6, "D", 1, "192.0.2.1", 81, "U\trst\t4")
	_, r, err := replay(t, strings.NewReader(c.String()), pipeline.ReplayConfig{})
	if err != nil || r.Doubles != 1 || r.Strangers != 4 || r.Lines != 7 || r.Events != 5 {
		t.Errorf("%+v, %v", r, err)
	}
}

// The filter and the limit of time leave out what they say.
func TestReplayLeavesOut(t *testing.T) {
	var c capture
	for i := range 40 {
		c.line(time.Duration(i)*time.Second, "N", i, "192.0.2.1", 1000+i, open)
		c.line(time.Duration(i)*time.Second+time.Millisecond, "D", i, "192.0.2.1", 1000+i, "U\trst\t1000000")
	}
	f, err := filter.Parse("dport 1000-1004", filter.Options{})
	if err != nil {
		t.Fatal(err)
	}
	out, r, err := replay(t, strings.NewReader(c.String()), pipeline.ReplayConfig{Filter: f})
	if err != nil || len(out.findings) != 0 || r.Lines != 80 || r.Events != 10 {
		t.Errorf("filter: %d findings, %+v, %v", len(out.findings), r, err)
	}
	out, r, err = replay(t, strings.NewReader(c.String()), pipeline.ReplayConfig{For: 5 * time.Second})
	if err != nil || len(out.findings) != 0 || r.Lines != 10 {
		t.Errorf("limit: %d findings, %+v, %v", len(out.findings), r, err)
	}
}

// Each is told every line in its order, a destroy with its lifetime, and of what has
// happened what the filter lets through.
func TestReplayEach(t *testing.T) {
	var c capture
	c.line(0, "N", 1, "192.0.2.1", 80, open)
	c.line(time.Second, "N", 2, "192.0.2.1", 81, open)
	c.line(2*time.Second, "R", 1, "192.0.2.1", 80, open)
	c.line(3*time.Second, "D", 1, "192.0.2.1", 80, "R\ttimeout\t-1")
	c.line(4*time.Second, "D", 2, "192.0.2.1", 81, "U\trst\t-1")
	f, err := filter.Parse("dport 80", filter.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for text, f := range map[string]*filter.Filter{"new 80, new 81, seen 80, destroy 80 3s, destroy 81 3s, ": nil, "new 80, seen 80, destroy 80 3s, ": f} {
		got := ""
		_, _, err := replay(t, strings.NewReader(c.String()), pipeline.ReplayConfig{Filter: f, Each: func(x *pipeline.Told) { got += toldText(x) }})
		if err != nil || got != text {
			t.Errorf("%q, want %q, %v", got, text, err)
		}
	}
}

func toldText(x *pipeline.Told) string {
	switch {
	case x.Seen != nil:
		return fmt.Sprintf("seen %d, ", x.Seen.Orig.Dport)
	case x.Event != nil && x.Event.HasLifetime:
		return fmt.Sprintf("%v %d %v, ", x.Event.Kind, x.Event.Orig.Dport, x.Event.Lifetime)
	case x.Event != nil:
		return fmt.Sprintf("%v %d, ", x.Event.Kind, x.Event.Orig.Dport)
	}
	return "other, "
}

// Captures are replayed side by side and told in the order of time, and an id of one is
// none of another; an error of one ends all.
func TestReplayTogether(t *testing.T) {
	lines := func(start int, ports ...int) pipeline.Capture {
		var c capture
		for i, port := range ports {
			c.line(time.Duration(start+20*i)*time.Millisecond, "N", i, "192.0.2.1", port, open)
		}
		in, err := record.New("x", strings.NewReader(c.String()))
		if err != nil {
			t.Fatal(err)
		}
		return pipeline.Text(in)
	}
	var ports []uint16
	entries := map[uint64]bool{}
	last := event.Ktime(0)
	var config pipeline.ReplayConfig
	read, err := pipeline.ReplayTogether(t.Context(), []pipeline.Capture{lines(0, 1, 3, 5), lines(10, 2, 4), lines(45, 6)}, config, func(node int, x *pipeline.Told) {
		if node != 0 || x.At < last || x.Event.Time != x.At {
			t.Errorf("node %d, %d after %d", node, x.At, last)
		}
		last = x.At
		ports, entries[x.Event.Ptr] = append(ports, x.Event.Orig.Dport), true
	})
	if want := []uint16{1, 2, 3, 4, 5, 6}; err != nil || !slices.Equal(ports, want) || len(entries) != 6 || len(read) != 3 || read[0].Events != 3 || read[1].Events != 2 {
		t.Errorf("ports %v, want %v, %d entries, %+v, %v", ports, want, len(entries), read, err)
	}
	bad, err := record.New("bad", strings.NewReader("nonsense\n"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = pipeline.ReplayTogether(t.Context(), []pipeline.Capture{lines(0, 1, 2), pipeline.Text(bad)}, config, func(int, *pipeline.Told) {})
	if err == nil || !strings.HasPrefix(err.Error(), "bad:1: ") {
		t.Errorf("error %v", err)
	}
}

// What was found before an error is told.
func TestReplayOfBadFile(t *testing.T) {
	var c capture
	for i := range 30 {
		c.line(time.Duration(i)*time.Millisecond, "N", i, "192.0.2.1", 1000+i, open)
		c.line(time.Duration(i)*time.Millisecond, "D", i, "192.0.2.1", 1000+i, "U\trst\t0")
	}
	out, _, err := replay(t, strings.NewReader(c.String()+"nonsense\n"), pipeline.ReplayConfig{})
	if err == nil || !strings.HasPrefix(err.Error(), "x:61: ") || len(out.findings) == 0 {
		t.Errorf("%d findings, %v", len(out.findings), err)
	}
}

// A year of silence is no year of seconds, and what was open is over after it.
func TestReplaySilence(t *testing.T) {
	var c capture
	for i := range 30 {
		c.line(time.Duration(i)*time.Millisecond, "N", i, "192.0.2.1", 1000+i, open)
		c.line(time.Duration(i)*time.Millisecond, "D", i, "192.0.2.1", 1000+i, "U\trst\t0")
	}
	const year = 365 * 24 * time.Hour
	c.line(year, "N", 100, "192.0.2.1", 1, open)
	out, _, err := replay(t, strings.NewReader(c.String()), pipeline.ReplayConfig{})
	if err != nil || len(out.findings) < 2 {
		t.Fatalf("%d findings, %v", len(out.findings), err)
	}
	last := out.findings[len(out.findings)-1]
	if after := last.Time.Sub(last.Last); last.State != agg.Cleared || after > 25*time.Hour {
		t.Errorf("%s %v after its end", last.State, after)
	}
}

// endless writes inserts that never end.
type endless struct {
	n, limit int
	rest     []byte
}

func (e *endless) Read(b []byte) (int, error) {
	if len(e.rest) == 0 {
		if e.n >= e.limit {
			return 0, io.EOF
		}
		for range 256 {
			e.rest = fmt.Appendf(e.rest, "%d\tN\t%d\tudp\t10.%d.%d.%d\t%d\t10.0.0.1\t53\t-\t-\t-1\t1\t0\n", 1e18+e.n*1000, e.n, e.n>>16&255, e.n>>8&255, e.n&255, e.n%65536)
			e.n++
		}
	}
	n := copy(b, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

// Entries that never go take a bounded place.
func TestReplayBounded(t *testing.T) {
	const n, most = 3 << 19, 1 << 20
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	peak := uint64(0)
	in, err := record.New("x", &endless{limit: n})
	if err != nil {
		t.Fatal(err)
	}
	r, err := pipeline.Replay(t.Context(), &watched{Lines: in, each: func(i int) {
		if i%(1<<18) == 0 {
			runtime.ReadMemStats(&after)
			peak = max(peak, after.HeapAlloc-min(before.HeapAlloc, after.HeapAlloc))
		}
	}}, pipeline.ReplayConfig{})
	if err != nil || r.Lines != n || r.Forgotten != n-most {
		t.Fatalf("%+v, %v", r, err)
	}
	if peak > 400<<20 {
		t.Errorf("%d MB", peak>>20)
	}
}

// watched calls each for every line that is read.
type watched struct {
	pipeline.Lines
	n    int
	each func(int)
}

func (w *watched) Read(e *event.Event) (record.What, error) {
	w.n++
	w.each(w.n)
	return w.Lines.Read(e)
}

// A pipe that says nothing more is no reason to wait when it is to end, and what has
// come through it is looked at meanwhile.
func TestReplayEndsWhileItWaits(t *testing.T) {
	pr, pw := io.Pipe()
	defer pw.Close()
	go func() {
		var c capture
		for i := range 30 {
			c.line(time.Duration(i)*time.Second, "N", i, "192.0.2.1", 1000+i, open)
			c.line(time.Duration(i)*time.Second, "D", i, "192.0.2.1", 1000+i, "U\trst\t0")
		}
		_, _ = io.WriteString(pw, c.String())
	}()
	in, err := record.New("x", pr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = pipeline.Replay(ctx, in, pipeline.ReplayConfig{Detect: detect.Config{Tell: func(*agg.Finding) { cancel() }}})
	if err != nil || !errors.Is(context.Cause(ctx), context.Canceled) {
		t.Errorf("%v, %v", err, context.Cause(ctx))
	}
}

func BenchmarkReplay(b *testing.B) {
	for _, name := range []string{"strat011", "23-tcp-scan", "westermo-right"} {
		packed, ok := captures(b)[name]
		if !ok {
			continue
		}
		b.Run(name, func(b *testing.B) {
			n := uint64(0)
			for b.Loop() {
				in, err := record.New("x", bytes.NewReader(packed))
				if err != nil {
					b.Fatal(err)
				}
				r, err := pipeline.Replay(b.Context(), in, pipeline.ReplayConfig{})
				if err != nil {
					b.Fatal(err)
				}
				n += r.Lines
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "lines/s")
		})
	}
	b.Run("dense", func(b *testing.B) {
		const n = 1 << 20
		var all bytes.Buffer
		_, _ = io.Copy(&all, &endless{limit: n})
		for b.Loop() {
			in, err := record.New("x", bytes.NewReader(all.Bytes()))
			if err != nil {
				b.Fatal(err)
			}
			if _, err := pipeline.Replay(b.Context(), in, pipeline.ReplayConfig{}); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "lines/s")
	})
}
