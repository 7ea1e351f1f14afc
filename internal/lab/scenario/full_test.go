package scenario

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
)

// T1: 20 flows into a table of 8, in which early drop finds nothing.
func TestT1TableFull(t *testing.T) {
	r := router(t, netlab.Options{})
	limit(t, r, 8, noEvictions)
	for name, f := range firstPackets(20) {
		t.Run(name, func(t *testing.T) {
			run(t, r, "conntrack", "-F")
			must(t, r.R.Count(name, netlab.Prerouting, netlab.Match{Proto: f.Proto}))
			watch := trace.Start(t, r.R)
			truth := send(t, r, f)
			watch.Check()
			got := watch.In(r.R)
			evicted := got.Traced.Causes[event.EarlyDrop] // at one in a thousand tries
			got.Is(t, trace.Want{
				New: 8 + evicted, Reasons: trace.Reasons{event.TableFull: 12 - evicted}, Causes: trace.Causes{event.EarlyDrop: evicted},
				Kernel: trace.Counters{ctnl.StatDrop: 12 - evicted, ctnl.StatEarlyDrop: evicted},
			})
			if got.Count != 8 {
				t.Errorf("count %d, want 8", got.Count)
			}
			got.AccountsFor(t, truth)
			if n, _, err := r.R.Counter(name); err != nil || n != truth.Packets() {
				t.Errorf("the router's rule counts %d packets (%v), sent %d", n, err, truth.Packets())
			}
			sent := trace.Tuples(f)
			for _, e := range got.Of(trace.ByKind(event.Drop)) {
				if !sent[e.Orig] {
					t.Errorf("dropped %v, which nobody sent", e.Orig)
				}
				delete(sent, e.Orig) // once
			}
		})
	}
}

// T1b: the table is full of entries that may not be evicted.
func TestT1bFullOfAssured(t *testing.T) {
	r := router(t, netlab.Options{})
	limit(t, r, 8, 0)
	watch := trace.Start(t, r.R)
	create(t, r, 8)
	truth := send(t, r, udp(20))
	watch.Check()
	watch.In(r.R).Is(t, trace.Want{
		ByUser: 8, Reasons: trace.Reasons{event.TableFull: 20}, Kernel: trace.Counters{ctnl.StatDrop: 20, ctnl.StatInsert: 8},
	})
	watch.In(r.R).AccountsFor(t, truth)
}

// T1c: user space wants an entry in a full table.
func TestT1cCreateRefused(t *testing.T) {
	r := router(t, netlab.Options{})
	limit(t, r, 8, 0)
	create(t, r, 8)
	watch := trace.Start(t, r.R)
	c, err := trace.Dial(r.R)
	must(t, err)
	defer c.Close()
	if err := c.Create(assured(8)); !errors.Is(err, unix.ENOMEM) {
		t.Errorf("create in a full table: %v, want %v", err, unix.ENOMEM)
	}
	watch.Check()
	watch.In(r.R).Is(t, trace.Want{Reasons: trace.Reasons{event.CreateRefused: 1}})
	for _, e := range watch.In(r.R).Events {
		if e.Orig != assured(8).Orig {
			t.Errorf("refused %v, want %v", e.Orig, assured(8).Orig)
		}
	}
}

// T2: 500 flows into a dense table of 400, in which early drop finds victims.
func TestT2EarlyDrop(t *testing.T) {
	r := router(t, netlab.Options{})
	limit(t, r, 400, 512)
	for name, f := range firstPackets(500) {
		if f.Proto == event.ProtoTCP {
			continue // nothing new after T1
		}
		t.Run(name, func(t *testing.T) {
			run(t, r, "conntrack", "-F")
			watch := trace.Start(t, r.R)
			truth := send(t, r, f)
			watch.Check()
			evictions(t, watch.In(r.R), 500, 400, f)
			watch.In(r.R).AccountsFor(t, truth)
		})
	}
}

// The table-full scenario: 1,000 flows of four sources into a table of 300.
func TestTableFullBySource(t *testing.T) {
	for _, src := range []string{"198.51.100.1", "2001:db8::1"} {
		t.Run(src, func(t *testing.T) {
			r := router(t, netlab.Options{})
			limit(t, r, 300, 0)
			f := udp(250)
			f.Src, f.SpreadSources = netlab.Addrs{First: netip.MustParseAddr(src), N: 4}, true
			if f.Src.First.Is6() {
				f.Dst = netlab.OneAddr(netlab.Sink6(0))
			}
			must(t, r.B.CountSources("arrived", netlab.Prerouting, netlab.Match{Proto: event.ProtoUDP}))
			watch := trace.Start(t, r.R)
			truth := send(t, r, f)
			watch.Check()
			got := watch.In(r.R)
			evictions(t, got, 1000, 300, f)
			got.AccountsFor(t, truth)
			bySource := func(e *event.Event) netip.Addr { return e.Orig.Src }
			made, lost := trace.CountBy(got.Of(trace.ByKind(event.New)), bySource), trace.CountBy(got.Of(trace.ByKind(event.Drop)), bySource)
			arrived, err := r.B.SourceCounts("arrived")
			must(t, err)
			for i := range 4 {
				if a := f.Src.At(i); made[a]+lost[a] != 250 || made[a] != arrived[a] {
					t.Errorf("%s: %d new, %d dropped, %d arrived at the server; want 250 in all", a, made[a], lost[a], arrived[a])
				}
			}
		})
	}
}

// evictions asserts what must hold when flows more than fit went into a table
// of the given size: who was evicted and by whom.
func evictions(t *testing.T, got *trace.Account, sent, size uint64, flows ...netlab.Flows) {
	t.Helper()
	victims := got.Of(trace.ByCause(event.EarlyDrop))
	evicted := uint64(len(victims))
	made, lost := got.Traced.New, got.Traced.Reasons[event.TableFull]
	// Now and then the garbage collector comes round and evicts, too.
	byGC := got.Traced.Causes[event.EarlyDropGC]
	got.Is(t, trace.Want{
		New: sent - lost, Reasons: trace.Reasons{event.TableFull: lost}, Causes: trace.Causes{event.EarlyDrop: evicted, event.EarlyDropGC: byGC},
		Kernel: trace.Counters{ctnl.StatDrop: lost, ctnl.StatEarlyDrop: evicted},
	})
	if evicted == 0 || got.Count != made-evicted-byGC || got.Count > size {
		t.Errorf("%d new, %d evicted, %d by the garbage collector, count %d of %d", made, evicted, byGC, got.Count, size)
	}
	known := trace.Tuples(flows...)
	fresh := map[event.Tuple]bool{}
	for _, e := range got.Of(trace.ByKind(event.New)) {
		fresh[e.Orig] = true
	}
	gone := map[event.Tuple]bool{}
	culprits := map[event.Tuple]bool{}
	for _, e := range victims {
		if !fresh[e.Orig] || gone[e.Orig] || e.Status&event.Assured != 0 || e.Timeout <= 0 {
			t.Errorf("evicted %v (new %t, evicted before %t, %v, %v left)", e.Orig, fresh[e.Orig], gone[e.Orig], e.Status.Names(), e.Timeout)
		}
		// An evictor finds room, so it is in the table afterwards.
		if !known[e.By] || !fresh[e.By] || e.By == e.Orig {
			t.Errorf("%v evicted by %v (sent %t, new %t)", e.Orig, e.By, known[e.By], fresh[e.By])
		}
		gone[e.Orig], culprits[e.By] = true, true
	}
	if n := got.Traced.EvictingPackets; uint64(len(culprits)) != n {
		t.Errorf("%d packets evicted, their victims name %d", n, len(culprits))
	}
}
