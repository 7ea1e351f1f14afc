package flight

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/record/capture"
)

// ownMounts runs the test again in a mount namespace of its own, where it returns a
// directory of so many bytes.
func ownMounts(t *testing.T, bytes string) string {
	t.Helper()
	const inside = "CTSIGHT_OWN_MOUNTS"
	if os.Getenv(inside) == t.Name() {
		dir := t.TempDir()
		must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+bytes))
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
		return dir
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts a small disk")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=120s")
	cmd.Env = append(os.Environ(), inside+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	}
	return ""
}

// all are the events of files one behind the other, and what their gaps say.
func all(t *testing.T, dir string) (n, lost uint64, last uint32) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	must(t, err)
	c, _, err := capture.OpenChain(paths)
	must(t, err)
	for {
		item, err := c.Next()
		if errors.Is(err, io.EOF) {
			missing, _ := c.Missing()
			return n, missing.Events, last
		}
		must(t, err)
		for i := range item.Events {
			if m := item.Events[i].Mark; m <= last {
				t.Fatalf("behind event %d comes %d", last, m)
			} else {
				last = m
			}
			n++
		}
	}
}

// until records until something is so.
func (x *flying) until(what string, ok func(Stats) bool) {
	x.t.Helper()
	for range 400 {
		if ok(x.r.Stats()) {
			return
		}
		x.seconds(1)
		time.Sleep(100 * time.Millisecond)
	}
	x.t.Fatalf("in vain: %s: %+v", what, x.r.Stats())
}

// TestFullDisk: on a disk that is smaller than the ring the newest is what is there. When
// others fill it nothing is recorded, which is said and counted, and goes on by itself; no
// call waits meanwhile.
func TestFullDisk(t *testing.T) {
	dir := ownMounts(t, "1m")
	if dir == "" {
		return
	}
	x := fly(t, dir, Config{Bytes: ringBytes, Segment: leastFile})
	x.seconds(60) // 2.4 MB
	x.until("there is room", func(s Stats) bool { return s.Err == nil && s.InRing > 1<<19 })
	oldest := x.r.Stats().Oldest

	other := filepath.Join(dir, "other")
	fill := func() {
		f, err := os.OpenFile(other, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		must(t, err)
		defer f.Close()
		for err == nil {
			_, err = f.Write(bytes.Repeat([]byte{1}, 4096))
		}
	}
	x.until("others have all of it", func(s Stats) bool { fill(); return s.Err != nil && s.Segments <= leastFiles })
	s := x.r.Stats()
	if !full(s.Err) || s.Lost == 0 || !s.Oldest.After(oldest) {
		t.Errorf("%+v", s)
	}
	if _, err := x.r.Keep("while-full", x.now().Add(-time.Minute), x.now().Add(time.Minute), "why"); err != nil {
		t.Error(err)
	}
	must(t, os.Remove(other))
	x.until("it goes on", func(s Stats) bool { return s.Err == nil && len(s.Kept) == 1 })
	x.seconds(3)
	s = x.r.Stats()
	must(t, x.r.Close())
	if kept, _, last := all(t, s.Kept[0].Dir); kept == 0 || last != uint32(x.next) || s.Kept[0].Why != "why" {
		t.Errorf("%d events are kept, the last is %d of %d, because of %q", kept, last, x.next, s.Kept[0].Why)
	}
	n, lost, last := all(t, dir)
	if last != uint32(x.next) || lost == 0 || n == 0 || s.Events+s.Lost != x.next {
		t.Errorf("%d events, %d in gaps, the last is %d of %d; %+v", n, lost, last, x.next, s)
	}
}

// TestFullAtTheStart: a disk that is full when it begins is no reason not to begin.
func TestFullAtTheStart(t *testing.T) {
	dir := ownMounts(t, "256k")
	if dir == "" {
		return
	}
	other := filepath.Join(dir, "other")
	f, err := os.Create(other)
	must(t, err)
	for err == nil {
		_, err = f.Write(bytes.Repeat([]byte{1}, 4096))
	}
	must(t, f.Close())
	x := fly(t, filepath.Join(dir, "ring"), Config{Bytes: ringBytes})
	x.seconds(2)
	if s := x.r.Stats(); !full(s.Err) || s.Events > 0 || s.Lost != x.next {
		t.Errorf("%+v", s)
	}
	must(t, os.Remove(other))
	x.until("it goes on", func(s Stats) bool { return s.Err == nil && s.Events > 0 })
	s := x.r.Stats()
	must(t, x.r.Close())
	if n, lost, last := all(t, filepath.Join(dir, "ring")); last != uint32(x.next) || n != s.Events || n+lost != x.next {
		t.Errorf("%d events, %d lost, the last is %d of %d; %+v", n, lost, last, x.next, s)
	}
}

// TestTake: who cannot write there is told so, and what to do; a directory that was given
// back is free.
func TestTake(t *testing.T) {
	dir := t.TempDir()
	d, err := Take(Config{Dir: dir})
	must(t, err)
	if _, err := Take(Config{Dir: dir}); !errors.Is(err, ErrInUse) {
		t.Errorf("a second one: %v", err)
	}
	must(t, d.Close())
	d, err = Take(Config{Dir: dir})
	must(t, err)
	must(t, d.Close())
	if _, err := Take(Config{Dir: filepath.Join(dir, lockName, "x")}); err == nil {
		t.Error("below a file")
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, []string{keptDir, lockName}) {
		t.Errorf("left are %q", names)
	}
}

// TestSpan: a file ends with its time, however little is in it.
func TestSpan(t *testing.T) {
	x := fly(t, t.TempDir(), Config{Bytes: 1 << 30, Span: 5 * time.Second})
	x.seconds(60)
	s := x.r.Stats()
	must(t, x.r.Close())
	if s.Segments < 9 || s.Segments > 13 {
		t.Errorf("%d files in a minute", s.Segments)
	}
}

// TestKeptGoesOn: a keep that is extended is one; what was kept is known to the next
// process, with its reason.
func TestKeptGoesOn(t *testing.T) {
	x := fly(t, t.TempDir(), Config{Bytes: ringBytes, Span: 2 * time.Second})
	x.seconds(10)
	at, number := x.now(), x.next
	dir, err := x.r.Keep("a", at.Add(-2*time.Second), at.Add(2*time.Second), "first\nreason")
	must(t, err)
	x.seconds(1)
	_, err = x.r.Keep("a", at.Add(-4*time.Second), at.Add(10*time.Second), "second")
	must(t, err)
	x.seconds(20)
	must(t, x.r.Close())
	kept, _ := marks(t, dir)
	whole(t, kept)
	if kept[0] > uint32(number-4*perSecond+1) || kept[0] == 1 || kept[len(kept)-1] < uint32(number+10*perSecond) || kept[len(kept)-1] == uint32(x.next) {
		t.Errorf("around %d of %d are kept %d to %d", number, x.next, kept[0], kept[len(kept)-1])
	}
	why, err := os.ReadFile(filepath.Join(dir, whyName))
	must(t, err)
	y := fly(t, x.dir, Config{Bytes: ringBytes})
	s := y.r.Stats()
	must(t, y.r.Close())
	if string(why) != "first reason\nsecond\n" || len(s.Kept) != 1 || s.Kept[0].Why != "first reason" || s.Kept[0].Name != "a" || s.Kept[0].Bytes == 0 {
		t.Errorf("%q %+v", why, s.Kept)
	}
}

// TestKeptRemoved: what somebody has removed is not told any more when the ring has turned
// over.
func TestKeptRemoved(t *testing.T) {
	x := fly(t, t.TempDir(), Config{Bytes: ringBytes, Span: 2 * time.Second})
	dir, err := x.r.Keep("a", x.now(), x.now(), "")
	must(t, err)
	x.seconds(3)
	if s := x.r.Stats(); len(s.Kept) != 1 {
		t.Errorf("%+v", s.Kept)
	}
	must(t, os.RemoveAll(dir))
	x.seconds(5)
	s := x.r.Stats()
	must(t, x.r.Close())
	if len(s.Kept) != 0 || s.Err != nil {
		t.Errorf("%+v, %v", s.Kept, s.Err)
	}
}

// TestMostKept: of many small ones the newest stay, and what one is kept for while the disk
// takes nothing is bounded.
func TestMostKept(t *testing.T) {
	x := fly(t, t.TempDir(), Config{Bytes: ringBytes, Kept: 1 << 30})
	for i := range mostKept + 7 {
		_, err := x.r.Keep(fmt.Sprintf("%03d", i), x.now(), x.now(), "")
		must(t, err)
		if i%20 == 0 {
			x.seconds(1)
		}
	}
	for range 3 * whysWait {
		_, err := x.r.Keep("many", x.now(), x.now(), "why")
		must(t, err)
	}
	x.seconds(2)
	must(t, x.r.Close())
	s := x.r.Stats()
	why, err := os.ReadFile(filepath.Join(x.dir, keptDir, "many", whyName))
	must(t, err)
	if len(s.Kept) != mostKept || s.Err != nil || strings.Count(string(why), "\n") != whysWait {
		t.Errorf("%d are kept, one for %d reasons; %v", len(s.Kept), strings.Count(string(why), "\n"), s.Err)
	}
	names := map[string]bool{}
	for _, k := range s.Kept {
		names[k.Name] = true
	}
	if names["000"] || !names["206"] || !names["many"] {
		t.Error("the oldest are kept")
	}
}
