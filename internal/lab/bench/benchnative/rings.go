package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/abi"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/bench/measure"
	"github.com/ctsight/ctsight/internal/probe"
)

const (
	sources = 100_000
	// held is how many connections exist at a time.
	held    = 200_000
	seconds = 5       // of a measurement
	warmUp  = 500_000 // connections, at full speed
)

const recSize = int(unsafe.Sizeof(abi.ConntrackCtRec{}))

// ofRings has a reader count what we write into its rings, at a rate: once as `top`
// does, for the time it takes, once with each event at once, for its age.
func ofRings(ctx context.Context, view string, rate int) (measure.NativeLoad, error) {
	l := measure.NativeLoad{Source: measure.Rings, View: view, Rate: rate, Sources: sources}
	for _, delays := range []bool{false, true} {
		r, err := start(measure.Rings, view, delays)
		if err != nil {
			return l, err
		}
		made, used, err := fill(ctx, r, rate, !delays)
		s, e := r.stop()
		if err := errors.Join(err, e); err != nil {
			return l, err
		}
		if delays {
			l.Delay = s.Delay
			continue
		}
		if s.Told.New != made || s.Lost != 0 {
			return l, fmt.Errorf("%d connections made, told of %d, %d records lost", made, s.Told.New, s.Lost)
		}
		slices.Sort(used)
		l.Least, l.CPU = float64(used[0])/float64(rate), float64(used[len(used)/2])/float64(rate)
		l.Share = l.CPU * float64(rate) / 1e9
	}
	return l, nil
}

// fill makes connections for some seconds, after enough of them to fill the reader's
// tables. It returns how many there were in all, and the reader's time in each second.
func fill(ctx context.Context, r *reader, rate int, warm bool) (made int, used []time.Duration, err error) {
	g, err := newGenerator(r.cmd.Process.Pid)
	if err != nil {
		return 0, nil, err
	}
	defer g.close()
	if warm {
		if err := g.make(ctx, warmUp, 250_000); err != nil {
			return 0, nil, err
		}
	}
	for range seconds {
		d, err := r.during(func() error { return g.make(ctx, rate, rate) })
		if err != nil {
			return 0, nil, err
		}
		used = append(used, d)
	}
	time.Sleep(100 * time.Millisecond) // what is in the rings is read
	return g.n, used, nil
}

// generator writes what the programs would: connections of random sources to few
// servers, each of which ends when as many as held have come after it.
type generator struct {
	rings, cpus []byte
	slots       uint64 // of a ring
	n           int    // connections
	records     uint64
	src         [1 << 20]uint32
	began       time.Time // and the kernel's clock then
	at          event.Ktime
}

func newGenerator(pid int) (*generator, error) {
	g := &generator{began: time.Now()}
	var err error
	if g.at, err = probe.Now(); err != nil {
		return nil, err
	}
	for i := range g.src {
		g.src[i] = rand.Uint32N(sources)
	}
	for name, mem := range map[string]*[]byte{"rings": &g.rings, "cpus": &g.cpus} {
		m, err := mapOf(pid, name)
		if err != nil {
			return nil, err
		}
		*mem, err = unix.Mmap(m.FD(), 0, int(m.ValueSize()*m.MaxEntries()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err := errors.Join(err, m.Close()); err != nil {
			return nil, fmt.Errorf("map %s into memory: %w", name, err)
		}
	}
	g.slots = uint64(len(g.rings)) / uint64(g.ncpu()) / uint64(recSize)
	return g, nil
}

func (g *generator) close() {
	_ = unix.Munmap(g.rings)
	_ = unix.Munmap(g.cpus)
}

func (g *generator) ncpu() int { return len(g.cpus) / int(unsafe.Sizeof(abi.ConntrackCtCpu{})) }

// mapOf finds a map of another process by its name.
func mapOf(pid int, name string) (*ebpf.Map, error) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	for _, f := range files {
		text, err := os.ReadFile(f)
		_, rest, ok := strings.Cut(string(text), "map_id:")
		var id ebpf.MapID
		if _, e := fmt.Sscan(rest, &id); err != nil || !ok || e != nil {
			continue
		}
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return nil, err
		}
		if info, err := m.Info(); err == nil && info.Name == name {
			return m, nil
		}
		m.Close()
	}
	return nil, fmt.Errorf("process %d has no map %s: %w", pid, name, os.ErrNotExist)
}

// make makes connections at a rate, those of a millisecond at a time.
func (g *generator) make(ctx context.Context, n, rate int) error {
	begin := time.Now()
	for done := 0; done < n; {
		due := min(n, int(time.Since(begin).Seconds()*float64(rate)))
		for ; done < due; done++ {
			if err := g.connection(); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// connection begins one and ends an older one.
func (g *generator) connection() error {
	err := g.put(event.New, g.n)
	if g.n >= held && err == nil {
		err = g.put(event.Destroy, g.n-held)
	}
	g.n++
	return err
}

// put writes a record, to the rings in turn.
func (g *generator) put(kind event.Kind, n int) error {
	cpu := g.records % uint64(g.ncpu())
	g.records++
	c := (*abi.ConntrackCtCpu)(unsafe.Pointer(&g.cpus[cpu*uint64(unsafe.Sizeof(abi.ConntrackCtCpu{}))]))
	for waited := 0; c.Head-atomic.LoadUint64(&c.Tail) >= g.slots-16; waited++ {
		if waited == 1000 {
			return fmt.Errorf("ring %d is full and nobody reads: %d %d", cpu, c.Head, c.Tail)
		}
		time.Sleep(time.Millisecond)
	}
	at := cpu*g.slots + c.Head&(g.slots-1)
	r := (*abi.ConntrackCtRec)(unsafe.Pointer(&g.rings[at*uint64(recSize)]))
	now := g.at + event.Ktime(time.Since(g.began))
	*r = abi.ConntrackCtRec{Seq: r.Seq, Kind: uint8(kind), Ts: uint64(now), Ptr: slab(n), Orig: g.tuple(n), Netns: 1}
	if kind == event.Destroy {
		r.Code = uint8(event.TimeoutGC)
	}
	c.Seen++
	c.Head++
	atomic.StoreUint32(&r.Seq, uint32(c.Head))
	return nil
}

// slab is the address of an entry, as the kernel gives them: used again, 320 bytes apart.
func slab(n int) uint64 { return 0xffff_8880_0000_0000 + uint64(n%(2*held))*320 }

func (g *generator) tuple(n int) abi.ConntrackCtTuple {
	t := abi.ConntrackCtTuple{L3num: unix.AF_INET, Proto: event.ProtoUDP}
	binary.BigEndian.PutUint32(t.Src[:], 10<<24+g.src[n%len(g.src)])
	binary.BigEndian.PutUint32(t.Dst[:], 192<<24+168<<16+uint32(n%16))
	binary.BigEndian.PutUint16(t.Sport[:], uint16(n))
	binary.BigEndian.PutUint16(t.Dport[:], 443)
	return t
}
