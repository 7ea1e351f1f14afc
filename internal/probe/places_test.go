package probe

import (
	"errors"
	"math/rand/v2"
	"os"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf/rlimit"

	"github.com/ctsight/ctsight/internal/abi"
	"github.com/ctsight/ctsight/internal/event"
)

// countWays is COUNT_WAYS of bpf/emit.h.
const countWays = 32

// fakeCounts is the map counts and what programs do with it (count() of
// bpf/emit.h), in plain memory.
func fakeCounts(ncpu, each int) *places {
	stride := int(unsafe.Sizeof(abi.ConntrackCtCount{}))
	mem := &shared{mem: make([]byte, ncpu*(each+1)*stride), stride: stride}
	p := newPlaces(mem, &objects{ncpu: ncpu, places: each})
	p.grace = func() error { return nil }
	return p
}

func (p *places) count(cpu int, ns uint32, word int) {
	base := cpu * (p.each + 1)
	for i := range uint32(countWays) {
		at := base + int((ns+i*(ns>>8|1))&uint32(p.each-1))
		if c := p.at(at); c.Netns == ns || c.Netns == 0 {
			c.Netns = ns
			p.words(at)[word]++
			return
		}
	}
	p.at(base + p.each).Netns = uint32(OtherNetNS)
	p.words(base + p.each)[word]++
}

func tidy(t *testing.T, p *places) {
	t.Helper()
	_, err := p.tidy()
	must(t, err)
}

const wordNew = int(unsafe.Offsetof(abi.ConntrackCtCount{}.New) / 8)

// Namespaces come and go for long, 100 at a time, each of which counts once in
// a while: nothing is counted as another's, nothing twice, nothing is lost.
func TestPlacesAreTakenBack(t *testing.T) {
	const alive = 100
	p := fakeCounts(2, 256)
	rnd := rand.New(rand.NewPCG(1, 2))
	live, want := make([]uint32, alive), map[event.NetNS]uint64{}
	next := func() uint32 { return 0xf0000000 + rnd.Uint32N(30_000) }
	for i := range live {
		live[i] = next()
	}
	for range 1000 {
		for range 20 {
			live[rnd.IntN(alive)] = next()
		}
		for range 100 {
			ns := live[rnd.IntN(alive)]
			p.count(rnd.IntN(2), ns, wordNew)
			want[event.NetNS(ns)]++
		}
		tidy(t, p)
	}
	all := p.all()
	if len(all) != len(want) {
		t.Errorf("%d namespaces, want %d", len(all), len(want))
	}
	for ns, n := range want {
		if c := all[ns]; c == nil || c.New != n {
			t.Fatalf("netns %s: %+v, want %d new", ns, c, n)
		}
		if c := p.of(ns); c != *all[ns] {
			t.Fatalf("one by one %+v, all together %+v", c, *all[ns])
		}
	}
}

// What is in use stays, and so does everything while there is room.
func TestPlacesStay(t *testing.T) {
	p := fakeCounts(1, 256)
	fill := func(n int) {
		for ns := range n {
			p.count(0, uint32(1000+ns), wordNew)
		}
	}
	fill(64)
	for range 3 {
		tidy(t, p)
	}
	if len(p.sums) != 0 {
		t.Errorf("%d namespaces put away while most places are free", len(p.sums))
	}
	fill(129)
	tidy(t, p)
	fill(100)
	tidy(t, p)
	if len(p.sums) != 29 {
		t.Errorf("%d namespaces put away, want the 29 at rest", len(p.sums))
	}
}

// The kernel may refuse to say when programs are done: then nothing moves.
func TestPlacesWithoutGrace(t *testing.T) {
	p := fakeCounts(1, 256)
	refused := errors.New("refused")
	p.grace = func() error { return refused }
	for ns := range 200 {
		p.count(0, uint32(1000+ns), wordNew)
	}
	tidy(t, p)
	if _, err := p.tidy(); !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
	for ns := range 200 {
		if c := p.of(event.NetNS(1000 + ns)); c.New != 1 {
			t.Fatalf("netns %d: %d new, want 1", 1000+ns, c.New)
		}
	}
}

func TestWaitForPrograms(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes BPF maps")
	}
	must(t, rlimit.RemoveMemlock())
	must(t, waitForPrograms())
}
