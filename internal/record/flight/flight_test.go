package flight

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/record/capture"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// flying is a ring that is written to, second by second.
type flying struct {
	t    *testing.T
	r    *Ring
	dir  string
	secs atomic.Int64 // the time
	rnd  *rand.Rand
	next uint64 // number of the event, in its mark
	base uint64 // of an earlier process
}

func (x *flying) now() time.Time { return time.Unix(x.secs.Load(), 0) }

const (
	ringBytes = 2 << 20
	perSecond = 4000
)

func fly(t *testing.T, dir string, c Config) *flying {
	t.Helper()
	x := &flying{t: t, dir: dir, rnd: rand.New(rand.NewPCG(1, 2))}
	x.secs.Store(1700000000)
	c.Dir, c.Now, c.Header = dir, x.now, func() capture.Header { return capture.Header{Tool: "test"} }
	var err error
	x.r, err = Open(c)
	must(t, err)
	return x
}

// seconds records so many.
func (x *flying) seconds(n int) {
	x.t.Helper()
	for range n {
		events := make([]event.Event, perSecond)
		for i := range events {
			x.next++
			events[i] = event.Event{Time: event.Ktime(x.next), Kind: event.New, Mark: uint32(x.next), Ptr: x.rnd.Uint64(), // 8 bytes that nothing makes smaller
				Orig: event.Tuple{Src: netip.AddrFrom4([4]byte{10, 0, 0, 1}), Dst: netip.AddrFrom4([4]byte{10, 0, 0, 2}), Proto: 6}}
		}
		x.r.Recorder().Events(capture.Events, events)
		x.r.Recorder().Flush()
		want := x.next - x.base
		for range 1000 { // one second is written before the next begins
			if s := x.r.Stats(); s.Events+s.Lost >= want {
				break
			}
			time.Sleep(time.Millisecond)
		}
		x.secs.Add(1)
	}
}

// marks are the numbers of the events in the recordings of a directory, by name.
func marks(t *testing.T, dir string) (all []uint32, size int64) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	must(t, err)
	slices.Sort(paths)
	for _, p := range paths {
		f, err := os.Open(p)
		must(t, err)
		info, err := f.Stat()
		must(t, err)
		size += info.Size()
		r, err := capture.NewReader(f)
		must(t, err)
		for {
			item, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			must(t, err)
			if item.Kind == capture.Gap {
				t.Errorf("%s has a gap: %+v", p, item.Lost)
			}
			for i := range item.Events {
				all = append(all, item.Events[i].Mark)
			}
		}
		must(t, f.Close())
	}
	return all, size
}

// whole fails where numbers do not follow one another.
func whole(t *testing.T, all []uint32) {
	t.Helper()
	for i := 1; i < len(all); i++ {
		if all[i] != all[i-1]+1 {
			t.Fatalf("behind event %d comes %d", all[i-1], all[i])
		}
	}
}

// TestRing: however long it flies, it takes no more than its bytes, and has the newest
// events without a gap between files.
func TestRing(t *testing.T) {
	x := fly(t, t.TempDir(), Config{Bytes: ringBytes})
	for range 30 {
		x.seconds(10)
		if s := x.r.Stats(); s.InRing > ringBytes || s.Err != nil || s.Lost > 0 {
			t.Fatalf("%+v", s)
		}
	}
	s := x.r.Stats()
	must(t, x.r.Close())
	all, size := marks(t, x.dir)
	whole(t, all)
	paths, err := filepath.Glob(filepath.Join(x.dir, "*"+suffix))
	must(t, err)
	c, skipped, err := capture.OpenChain(paths)
	must(t, err)
	var chained []uint32
	for {
		item, err := c.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		for i := range item.Events {
			chained = append(chained, item.Events[i].Mark)
		}
	}
	if lost, ended := c.Missing(); !slices.Equal(chained, all) || skipped != 0 || lost != (capture.Missing{}) || !ended {
		t.Errorf("one behind the other they have %d events, %d alone; %d left out, %+v, %v", len(chained), len(all), skipped, lost, ended)
	}
	if size > ringBytes || size < ringBytes/2 || all[len(all)-1] != uint32(x.next) || all[0] == 1 || s.Segments < 8 || s.Oldest.IsZero() {
		t.Errorf("%d bytes in %d files, events %d to %d of %d", size, s.Segments, all[0], all[len(all)-1], x.next)
	}
}

// TestKeep: what was recorded around a moment stays when the ring has long gone on, and
// what is kept is bounded too.
func TestKeep(t *testing.T) {
	x := fly(t, t.TempDir(), Config{Bytes: ringBytes, Kept: ringBytes / 2})
	x.seconds(20)
	at, number := x.now(), x.next
	dir, err := x.r.Keep("9e6517915acc", at.Add(-5*time.Second), at.Add(5*time.Second), "scan 9e6517915acc")
	must(t, err)
	x.seconds(300)
	kept, _ := marks(t, dir)
	whole(t, kept)
	if len(kept) == 0 || kept[0] > uint32(number-5*perSecond+1) || kept[len(kept)-1] < uint32(number+5*perSecond) || len(kept) > 40*perSecond {
		t.Fatalf("around event %d are kept %d to %d", number, kept[0], kept[len(kept)-1])
	}
	for i := range 20 {
		_, err := x.r.Keep(fmt.Sprint("later", i), x.now(), x.now().Add(3*time.Second), "later")
		must(t, err)
		x.seconds(10)
	}
	dirs, err := os.ReadDir(filepath.Join(x.dir, keptDir))
	must(t, err)
	total := int64(0)
	for _, d := range dirs {
		_, size := marks(t, filepath.Join(x.dir, keptDir, d.Name()))
		total += size
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) || total > ringBytes/2+ringBytes/8 || len(dirs) < 2 {
		t.Errorf("%d are kept with %d bytes where there may be %d; the first: %v", len(dirs), total, ringBytes/2, err)
	}
	if dirs[len(dirs)-1].Name() == "" {
		t.Error("a directory without a name")
	}
	for _, bad := range []string{"", "..", "a/b"} {
		if _, err := x.r.Keep(bad, at, at, ""); err == nil {
			t.Errorf("%q was kept", bad)
		}
	}
	must(t, x.r.Close())
}

// TestAge: what is too old goes, though there is room.
func TestAge(t *testing.T) {
	x := fly(t, t.TempDir(), Config{Bytes: 1 << 30, Age: time.Minute})
	x.seconds(200)
	must(t, x.r.Close())
	all, _ := marks(t, x.dir)
	whole(t, all)
	if n := len(all) / perSecond; n < 60 || n > 75 {
		t.Errorf("%d seconds are there, want those of a minute and of a file", n)
	}
}

// TestAgain: a second process is told who records; the next one takes the ring over.
func TestAgain(t *testing.T) {
	x := fly(t, t.TempDir(), Config{Bytes: ringBytes})
	x.seconds(60)
	if _, err := Open(Config{Dir: x.dir, Header: x.r.c.Header}); !errors.Is(err, ErrInUse) {
		t.Errorf("a second one: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(x.dir, "README"), []byte("not ours"), 0o600))
	must(t, x.r.Close())
	y := fly(t, x.dir, Config{Bytes: ringBytes})
	y.next, y.base = x.next, x.next
	y.secs.Store(x.secs.Load())
	if s := y.r.Stats(); s.Segments < 3 || s.InRing < ringBytes/8 {
		t.Errorf("of the earlier one is left %+v", s)
	}
	y.seconds(300)
	must(t, y.r.Close())
	all, size := marks(t, x.dir)
	whole(t, all)
	if size > ringBytes || all[len(all)-1] != uint32(y.next) {
		t.Errorf("%d bytes, the last event is %d of %d", size, all[len(all)-1], y.next)
	}
	if _, err := os.Stat(filepath.Join(x.dir, "README")); err != nil {
		t.Errorf("a file of somebody else: %v", err)
	}
}

// TestNoRoom: where no file can be made, the old one goes on, and it is said; later it
// turns over again.
func TestNoRoom(t *testing.T) {
	x := fly(t, t.TempDir(), Config{Bytes: ringBytes})
	x.seconds(5)
	away := x.dir + ".away"
	must(t, os.Rename(x.dir, away))
	x.seconds(20)
	if s := x.r.Stats(); s.Err == nil || s.Lost > 0 {
		t.Errorf("the directory is gone: %+v", s)
	}
	must(t, os.Rename(away, x.dir))
	x.seconds(20)
	if s := x.r.Stats(); s.Err != nil || s.Lost > 0 {
		t.Errorf("it is there again: %+v", s)
	}
	must(t, x.r.Close())
	all, _ := marks(t, x.dir)
	whole(t, all)
	if all[len(all)-1] != uint32(x.next) {
		t.Errorf("the last event is %d of %d", all[len(all)-1], x.next)
	}
}
