package capture

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// disk is a file in memory with room that comes and goes, and that may be slow.
type disk struct {
	data   []byte
	at     int64
	room   atomic.Int64
	slow   atomic.Bool  // stuck
	each   atomic.Int64 // ns that a write takes
	closed bool
}

func (d *disk) Write(b []byte) (int, error) {
	for d.slow.Load() {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(time.Duration(d.each.Load()))
	n := int(min(int64(len(b)), max(0, d.room.Load()-d.at)))
	d.data = append(d.data[:d.at], b[:n]...)
	d.at += int64(n)
	if n < len(b) {
		return n, syscall.ENOSPC
	}
	return n, nil
}

func (d *disk) Truncate(n int64) error { d.data = d.data[:n]; return nil }

func (d *disk) Seek(n int64, _ int) (int64, error) { d.at = n; return n, nil }

func (d *disk) Sync() error { return nil }

func (d *disk) Close() error { d.closed = true; return nil }

func someEvents(r *rand.Rand, at *event.Ktime, n int) (out []event.Event) {
	for range n {
		*at += event.Ktime(r.IntN(1000))
		out = append(out, anything(r, *at))
	}
	return out
}

// account reads a recording: its events, and the sum of its gaps.
func account(t *testing.T, b []byte) (events []event.Event, lost uint64, whys []string) {
	t.Helper()
	r, err := NewReader(bytes.NewReader(b))
	must(t, err)
	for _, x := range read(t, r) {
		switch x.Kind {
		case Events:
			events = append(events, x.Events...)
		case Gap:
			lost += x.Lost.Events
			whys = append(whys, x.Lost.Why)
		}
	}
	if r.End == nil {
		t.Fatal("the file was not ended")
	}
	if r.End.Events != uint64(len(events)) || r.End.Lost != lost {
		t.Errorf("its end says %d events and %d lost, in it are %d and %d", r.End.Events, r.End.Lost, len(events), lost)
	}
	return events, lost, whys
}

// TestDiskFull: while there is no room nothing waits, all that is left out is counted
// where it is missing, and it goes on when there is room again.
func TestDiskFull(t *testing.T) {
	d := &disk{}
	d.room.Store(100_000)
	f, err := NewFile(d, Header{})
	must(t, err)
	r := NewRecorder(f)
	rnd, at := rand.New(rand.NewPCG(1, 1)), event.Ktime(5)
	var all []event.Event
	give := func(n int) {
		e := someEvents(rnd, &at, n)
		all = append(all, e...)
		r.Events(Events, e)
		r.Flush()
	}
	for range 50 {
		give(100)
		time.Sleep(time.Millisecond)
	}
	waitFor(t, func() bool { return errors.Is(r.Stats().Err, syscall.ENOSPC) })
	for range 20 {
		give(100)
		time.Sleep(time.Millisecond)
	}
	d.room.Store(1 << 40)
	time.Sleep(retryEvery + 50*time.Millisecond)
	for range 20 {
		give(100)
		time.Sleep(time.Millisecond)
	}
	must(t, r.Close(nil))
	got, lost, _ := account(t, d.data)
	s := r.Stats()
	if lost == 0 || uint64(len(got))+lost != uint64(len(all)) || s.Events != uint64(len(got)) || s.Lost != lost || s.Err != nil {
		t.Errorf("%d given, %d recorded and %d lost; stats %+v", len(all), len(got), lost, s)
	}
	rest := all
	for i := range got { // in their order
		k := slices.IndexFunc(rest, func(e event.Event) bool { return reflect.DeepEqual(e, got[i]) })
		if k < 0 {
			t.Fatalf("event %d was not given, or not then", i)
		}
		rest = rest[k+1:]
	}
}

// TestRoomAtLast: what could not be written until the end, and then could, is there, and
// all is well.
func TestRoomAtLast(t *testing.T) {
	d := &disk{}
	d.room.Store(1 << 40)
	f, err := NewFile(d, Header{})
	must(t, err)
	d.room.Store(d.at) // the header, and no more
	r := NewRecorder(f)
	rnd, at := rand.New(rand.NewPCG(1, 1)), event.Ktime(5)
	r.Events(Events, someEvents(rnd, &at, 100))
	r.Flush()
	waitFor(t, func() bool { return errors.Is(r.Stats().Err, syscall.ENOSPC) })
	d.room.Store(1 << 40)
	must(t, r.Close(nil))
	got, lost, _ := account(t, d.data)
	if s := r.Stats(); len(got) != 100 || lost != 0 || s.Events != 100 || s.Err != nil || s.Bytes == 0 {
		t.Errorf("%d recorded, %d lost; %+v", len(got), lost, s)
	}
}

// TestSlowDisk: who gives events never waits, and what finds no room is counted.
func TestSlowDisk(t *testing.T) {
	d := &disk{}
	d.room.Store(1 << 40)
	f, err := NewFile(d, Header{})
	must(t, err)
	d.slow.Store(true)
	r := NewRecorder(f)
	rnd, at, all := rand.New(rand.NewPCG(1, 1)), event.Ktime(5), 0
	e := someEvents(rnd, &at, 1000)
	for range 100 {
		r.Events(Events, e)
		all += len(e)
	}
	if r.Stats().Lost == 0 {
		t.Fatal("100,000 events found room in memory for some 50,000")
	}
	begin := time.Now()
	for range 30 { // of them the first waits for a second
		r.Wait()
	}
	if waited := time.Since(begin); waited > 15*time.Second {
		t.Errorf("30 have waited %v for a disk that hangs", waited)
	}
	d.slow.Store(false)
	must(t, r.Close(nil))
	got, lost, whys := account(t, d.data)
	if len(got)+int(lost) != all || len(got) < chunkEvents || !slices.Contains(whys, "the recording could not keep up") {
		t.Errorf("%d given, %d recorded and %d lost: %q", all, len(got), lost, whys)
	}
}

// TestWait: a table of more entries than there is room for finds its place, however slow
// the disk, where it waits.
func TestWait(t *testing.T) {
	d := &disk{}
	d.room.Store(1 << 40)
	d.each.Store(int64(5 * time.Millisecond))
	f, err := NewFile(d, Header{})
	must(t, err)
	r := NewRecorder(f)
	rnd, at := rand.New(rand.NewPCG(1, 1)), event.Ktime(5)
	e := someEvents(rnd, &at, 1000)
	const times = 200
	for range times {
		r.Wait()
		r.Events(Stands, e)
	}
	must(t, r.Close(nil))
	in, err := NewReader(bytes.NewReader(d.data))
	must(t, err)
	n := 0
	for _, x := range read(t, in) {
		if x.Kind == Stands {
			n += len(x.Events)
		}
	}
	if n != times*len(e) {
		t.Errorf("%d of %d entries are there", n, times*len(e))
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it does not happen")
}

// TestCreateTwice: nobody's file is written over.
func TestCreateTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.ctsight")
	must(t, os.WriteFile(path, []byte("mine"), 0o600))
	if _, err := Create(path, Header{}); err == nil {
		t.Error("a file was written over")
	}
	if b, _ := os.ReadFile(path); string(b) != "mine" {
		t.Errorf("it holds %q", b)
	}
}

// TestKill: what was flushed before a kill -9 is there.
func TestKill(t *testing.T) {
	if path := os.Getenv("CAPTURE_KILL"); path != "" {
		killed(t, path)
	}
	path := filepath.Join(t.TempDir(), "a.ctsight")
	cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
	cmd.Env = append(os.Environ(), "CAPTURE_KILL="+path)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	told := make([]byte, 1)
	_, err = io.ReadFull(out, told) // it has flushed 5000 events, and goes on
	must(t, err)
	time.Sleep(20 * time.Millisecond)
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	r, err := NewReader(f)
	must(t, err)
	n := 0
	for _, x := range read(t, r) {
		n += len(x.Events)
	}
	if n < 5000 || r.End != nil {
		t.Errorf("%d events, want 5000 at least; end %v", n, r.End)
	}
}

// killed writes until it is.
func killed(t *testing.T, path string) {
	f, err := Create(path, Header{})
	must(t, err)
	r := NewRecorder(f)
	rnd, at := rand.New(rand.NewPCG(1, 1)), event.Ktime(5)
	for i := 0; ; i++ {
		r.Events(Events, someEvents(rnd, &at, 100))
		r.Flush()
		if i == 50 {
			waitFor(t, func() bool { return r.Stats().Events >= 5000 })
			_, _ = os.Stdout.Write([]byte{1})
		}
		time.Sleep(100 * time.Microsecond)
	}
}
