package relief

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"testing"
	"time"
)

// world is a disk, a kernel and a clock in memory, where a process may die before,
// within or after each step that changes something.
type world struct {
	files  map[string][]byte
	none   bool // no directory yet
	locked bool
	full   bool  // no room for new files
	deny   error // of writes of sysctls

	values   map[string]uint64
	readOnly map[string]bool
	gone     bool
	entries  uint64
	written  []Ask // in their order

	boot   string
	now    time.Time
	uptime time.Duration
	armed  []string

	steps, dieAt int
	how          string // before, torn, after
}

const (
	limitName = "nf_conntrack_max"
	udp       = "nf_conntrack_udp_timeout"
	bucketN   = "nf_conntrack_buckets"
)

var place = Place{NetNS: 4026531840, Cookie: 1}

func newWorld() *world {
	return &world{files: map[string][]byte{}, none: true, values: map[string]uint64{limitName: 262144, bucketN: 65536, udp: 30}, readOnly: map[string]bool{},
		boot: "boot-1", now: time.Date(2026, 11, 30, 3, 0, 0, 0, time.UTC), uptime: time.Hour}
}

// died is what a process that was killed throws.
type died struct{}

// step is one that changes something; torn does a part of it.
func (w *world) step(do, torn func()) {
	w.steps++
	if w.steps != w.dieAt {
		do()
		return
	}
	switch w.how {
	case "torn":
		torn()
	case "after":
		do()
	}
	panic(died{})
}

func nothing() {}

func (w *world) Make() error {
	w.step(func() { w.none = false }, nothing)
	return nil
}

func (w *world) Lock() (func() error, error) {
	if w.none {
		return nil, os.ErrNotExist
	}
	if w.locked {
		panic("deadlock")
	}
	w.locked = true
	return func() error { w.locked = false; return nil }, nil
}

func (w *world) List() ([]string, error) { return slices.Sorted(maps.Keys(w.files)), nil }

func (w *world) Create(name string, data []byte) (err error) {
	w.step(func() {
		if w.full {
			w.files[name], err = []byte{}, errors.New("no space left on device")
			return
		}
		w.files[name] = data
	}, func() { w.files[name] = data[:len(data)/2] })
	return err
}

func (w *world) Rename(from, to string) error {
	w.step(func() { w.files[to] = w.files[from]; delete(w.files, from) }, nothing)
	return nil
}

func (w *world) Sync() error { w.step(nothing, nothing); return nil }

func (w *world) Remove(name string) error {
	if _, ok := w.files[name]; !ok {
		return os.ErrNotExist
	}
	w.step(func() { delete(w.files, name) }, nothing)
	return nil
}

// disk and kernel are the two sides of a world: both have a Read.
type (
	disk   struct{ *world }
	kernel struct{ *world }
)

func (d disk) Read(name string, most int) ([]byte, error) {
	b, ok := d.files[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return b, nil
}

func (k kernel) Read(p Place, sysctl string) (uint64, bool, error) {
	if k.gone {
		return 0, false, ErrGone
	}
	v, ok := k.values[sysctl]
	if !ok {
		return 0, false, os.ErrNotExist
	}
	return v, !k.readOnly[sysctl], nil
}

func (k kernel) Write(p Place, sysctl string, v uint64) error {
	if k.deny != nil {
		return k.deny
	}
	k.step(func() {
		k.values[sysctl] = v
		k.written = append(k.written, Ask{sysctl, v})
	}, nothing)
	return nil
}

func (k kernel) Fullest() (uint64, error) { return k.entries, nil }

// book is that of a process which has just started.
func (w *world) book() *Book {
	w.locked = false
	return &Book{Disk: disk{w}, Kernel: kernel{w}, Host: Host{w.boot, func() time.Time { return w.now }, func() time.Duration { return w.uptime }},
		Arm: func(id string, after time.Duration) error {
			w.armed = append(w.armed, fmt.Sprint(id, " ", after))
			return nil
		}}
}

// pass lets time go by.
func (w *world) pass(d time.Duration) { w.now, w.uptime = w.now.Add(d), w.uptime+d }

// reboot gives the kernel its values of the boot.
func (w *world) reboot(values map[string]uint64) {
	w.boot, w.uptime = w.boot+"'", time.Minute
	maps.Copy(w.values, values)
}

// lives runs fn and says whether the process outlived it.
func (w *world) lives(fn func()) (alive bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(died); !ok {
				panic(r)
			}
		}
		w.dieAt, w.locked = 0, false
	}()
	fn()
	return true
}

func request(asks ...Ask) Request {
	return Request{Asks: asks, Place: place, For: 2 * time.Hour, Reason: "INC-42", Who: Who{0, "alice", 4711}, Share: 0.25,
		Memory: Memory{Entry: 256, Total: 16 << 30, Available: 8 << 30}}
}

func (w *world) mustSet(t *testing.T, asks ...Ask) *Plan {
	t.Helper()
	p, err := w.book().Set(request(asks...))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// all are the changes of the journal.
func (w *world) all(t *testing.T) []*Change {
	t.Helper()
	all, err := journal{disk{w}}.load()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func (w *world) open(t *testing.T) (n int) {
	t.Helper()
	for _, c := range w.all(t) {
		if c.Open() {
			n++
		}
	}
	return n
}
