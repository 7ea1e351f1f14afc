package probe

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/ctsight/ctsight/internal/abi"
	"github.com/ctsight/ctsight/internal/event"
)

// netnsLeaving marks a place that is being taken back: NETNS_LEAVING of bpf/wire.h.
const netnsLeaving = 0xfffffffe

// maxSums bounds the namespaces whose counts are kept here. A machine on which
// n namespaces live at once uses about 70 n numbers, over and over. Places of
// numbers beyond that are not taken back, and new ones count as OtherNetNS.
const maxSums = 1 << 16

// places looks after the map counts. Programs take a place for each namespace
// and CPU and never give it back, while namespaces come and go; what has not
// counted anything for a while is therefore moved into memory of this process
// when a CPU runs short of places. It makes no difference whether the namespace
// is dead: it takes another place with its next event.
type places struct {
	mem   *shared
	ncpu  int
	each  int // places of a CPU, without that of OtherNetNS
	grace func() error

	mu   sync.Mutex // a place must not be read while its counts move
	sums map[event.NetNS]tally
	seen map[int]uint64 // what crowded places had counted at the last look
}

// A tally is a struct ct_count without its zeros.
type tally []struct {
	word int
	n    uint64
}

func (t tally) add(word int, n uint64) tally {
	for i := range t {
		if t[i].word == word {
			t[i].n += n
			return t
		}
	}
	return append(t, struct {
		word int
		n    uint64
	}{word, n})
}

type countWords [unsafe.Sizeof(abi.ConntrackCtCount{}) / 8]uint64

// firstWord is where counters begin in struct ct_count.
const firstWord = int(unsafe.Offsetof(abi.ConntrackCtCount{}.New) / 8)

func newPlaces(mem *shared, obj *objects) *places {
	return &places{mem: mem, ncpu: obj.ncpu, each: obj.places, grace: waitForPrograms,
		sums: map[event.NetNS]tally{}, seen: map[int]uint64{}}
}

func (p *places) at(i int) *abi.ConntrackCtCount { return (*abi.ConntrackCtCount)(p.mem.elem(i)) }

func (p *places) words(i int) *countWords { return (*countWords)(p.mem.elem(i)) }

// all returns what every namespace has counted.
func (p *places) all() map[event.NetNS]*Counters {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[event.NetNS]*Counters{}
	of := func(ns event.NetNS) *Counters {
		if out[ns] == nil {
			out[ns] = &Counters{NetNS: ns}
		}
		return out[ns]
	}
	for i := range p.ncpu * (p.each + 1) {
		c := p.at(i)
		if ns := atomic.LoadUint32(&c.Netns); ns != 0 {
			of(event.NetNS(ns)).add(c)
		}
	}
	for ns, t := range p.sums {
		of(ns).addTally(t)
	}
	return out
}

// of returns what one namespace has counted.
func (p *places) of(ns event.NetNS) Counters {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := Counters{NetNS: ns}
	for i := range p.ncpu * (p.each + 1) {
		if c := p.at(i); event.NetNS(atomic.LoadUint32(&c.Netns)) == ns {
			out.add(c)
		}
	}
	out.addTally(p.sums[ns])
	return out
}

func (t *Counters) addTally(sum tally) {
	var c abi.ConntrackCtCount
	for _, w := range sum {
		(*countWords)(unsafe.Pointer(&c))[w.word] = w.n
	}
	t.add(&c)
}

// How long between two looks at the places, and where places are short: from where they
// are not to where they are taken back, three quarters of the places last for half a
// second, while 400 namespaces a second begin or end on a CPU.
const (
	tidyEvery = 250 * time.Millisecond
	tidySoon  = 200 * time.Millisecond
)

// keepTidy looks after the places until stop is called. When the kernel does
// not let it, the places run out and the counters of OtherNetNS say so.
func (p *places) keepTidy() (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		wait := tidyEvery
		for {
			select {
			case <-done:
				return
			case <-time.After(wait):
			}
			crowded, err := p.tidy()
			if err != nil {
				return
			}
			if wait = tidyEvery; crowded {
				wait = tidySoon
			}
		}
	}()
	return func() { close(done); <-ended }
}

// tidy takes back the places of crowded CPUs that have counted nothing since
// the last call, and says whether there are such CPUs.
func (p *places) tidy() (crowded bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	idle := p.idle()
	crowded = len(p.seen) > 0
	if len(idle) == 0 {
		return crowded, nil
	}
	for i := range idle { // no program writes to a number that is set
		atomic.StoreUint32(&p.at(i).Netns, netnsLeaving)
	}
	// A program may have read the number before and may count only now.
	if err := p.grace(); err != nil {
		for i, ns := range idle {
			atomic.StoreUint32(&p.at(i).Netns, ns)
		}
		return crowded, fmt.Errorf("take back places of counters: %w", err)
	}
	for i, ns := range idle {
		p.move(i, event.NetNS(ns))
	}
	return crowded, nil
}

// idle returns the places to take back and whose they are. It remembers what
// all places of crowded CPUs have counted by now.
func (p *places) idle() map[int]uint32 {
	idle, seen := map[int]uint32{}, map[int]uint64{}
	for cpu := range p.ncpu {
		first := cpu * (p.each + 1)
		if !p.crowded(first) {
			continue
		}
		for i := first; i < first+p.each; i++ {
			ns := atomic.LoadUint32(&p.at(i).Netns)
			if ns == 0 {
				continue
			}
			seen[i] = uint64(ns)<<32 + p.total(i)
			if was, ok := p.seen[i]; ok && was == seen[i] && p.mayKeep(event.NetNS(ns)) {
				idle[i] = ns
			}
		}
	}
	p.seen = seen
	return idle
}

// crowded says whether more than a quarter of a CPU's places are taken: a new
// namespace must find one of its 32 free, however many begin before the next look.
func (p *places) crowded(first int) bool {
	n := 0
	for i := first; i < first+p.each; i++ {
		if atomic.LoadUint32(&p.at(i).Netns) != 0 {
			n++
		}
	}
	return n > p.each/4
}

func (p *places) mayKeep(ns event.NetNS) bool {
	_, known := p.sums[ns]
	return known || len(p.sums) < maxSums
}

func (p *places) total(i int) (n uint64) {
	w := p.words(i)
	for k := firstWord; k < len(w); k++ {
		n += atomic.LoadUint64(&w[k])
	}
	return n
}

// move empties a place that no program uses any more, and frees it.
func (p *places) move(i int, ns event.NetNS) {
	w := p.words(i)
	for k := firstWord; k < len(w); k++ {
		if n := atomic.SwapUint64(&w[k], 0); n != 0 {
			p.sums[ns] = p.sums[ns].add(k, n)
		}
	}
	delete(p.seen, i)
	atomic.StoreUint32(&p.at(i).Netns, 0)
}

// waitForPrograms returns when no program runs any more that ran when it was
// called. The kernel promises that to whoever replaces a map in a map
// (maybe_wait_bpf_programs, 5.0), and to nobody else.
func waitForPrograms() error {
	array := ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	inner, err := ebpf.NewMap(&array)
	if err != nil {
		return explain(err)
	}
	defer inner.Close()
	outer, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: &array})
	if err != nil {
		return explain(err)
	}
	defer outer.Close()
	return explain(outer.Put(uint32(0), inner))
}
