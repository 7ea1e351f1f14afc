package scenario

import (
	"sync"
	"testing"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
)

// Zones: the same tuples in two zones are different entries.
func TestZones(t *testing.T) {
	r := router(t, netlab.Options{})
	run(t, r, "nft", `add table ip zones
add chain ip zones pre { type filter hook prerouting priority -300; }
add rule ip zones pre ip ttl 61 ct zone set 1
add rule ip zones pre ip ttl 62 ct zone set 2
add rule ip zones pre ip ttl 63 ct original zone set 3`)
	limit(t, r, 12, noEvictions)
	watch := trace.Start(t, r.R)
	f := udp(3)
	inZone := func(ttl uint8) {
		t.Helper()
		for i := range f.Len() {
			_, err := r.SendPackets(netlab.SendOptions{}, netlab.Packet{Tuple: f.Tuple(i), TTL: ttl})
			must(t, err)
		}
	}
	for _, ttl := range []uint8{60, 61, 62, 60, 61, 62} { // the second time they are known
		inZone(ttl)
	}
	f.SPorts.First = 3000 // the replies of zone 3 are in zone 0, where these are taken
	inZone(63)
	must(t, r.Drain())
	watch.Check()
	got := watch.In(r.R)
	want := trace.Want{New: 12}
	got.Is(t, want)
	byZone := func(e *event.Event) uint16 { return e.Zone }
	for zone, n := range trace.CountBy(got.Events, byZone) {
		if zone > 3 || n != 3 {
			t.Errorf("zone %d: %d events, want 3", zone, n)
		}
	}

	// A full table: drops tell the zone.
	f.SPorts.First = 5000
	inZone(62)
	must(t, r.Drain())
	watch.Check()
	evicted := got.Traced.Causes[event.EarlyDrop] // in one of five hundred runs
	want.New += evicted
	want.Reasons = trace.Reasons{event.TableFull: 3 - evicted}
	want.Causes = trace.Causes{event.EarlyDrop: evicted}
	want.Kernel = trace.Counters{ctnl.StatDrop: 3 - evicted, ctnl.StatEarlyDrop: evicted}
	got.Is(t, want)
	for _, e := range got.Of(trace.ByKind(event.Drop)) {
		if e.Zone != 2 {
			t.Errorf("dropped in zone %d, want 2", e.Zone)
		}
	}

	// Deleting in one zone leaves the others.
	c, err := trace.Dial(r.R)
	must(t, err)
	defer c.Close()
	gone := udp(3).Tuple(1)
	for _, e := range got.Of(trace.ByCause(event.EarlyDrop)) {
		if e.Zone == 1 && e.Orig == gone {
			gone = udp(3).Tuple(2)
		}
	}
	must(t, c.Delete(gone, 1))
	watch.Check()
	want.Causes[event.UserDelete] = 1
	got.Is(t, want)
	for _, e := range got.Of(trace.ByCause(event.UserDelete)) {
		if e.Zone != 1 || e.Orig != gone {
			t.Errorf("deleted %v in zone %d", e.Orig, e.Zone)
		}
	}
}

// A packet is new in every namespace that tracks it: in A in the context of
// its sender, in R in a softirq.
func TestNewInEachNamespace(t *testing.T) {
	r := router(t, netlab.Options{})
	must(t, r.A.EnableConntrack())
	limit(t, r, noGC, noEvictions)
	watch := trace.Start(t, r.A, r.R)
	truth, err := r.SendFlows(t.Context(), udp(120), netlab.SendOptions{ViaStack: true})
	must(t, err)
	must(t, r.Drain())
	watch.Check()
	a, b := watch.In(r.A), watch.In(r.R)
	evicted := a.Traced.Causes[event.EarlyDrop]
	lost := 120 - noGC - evicted
	a.Is(t, trace.Want{
		New: noGC + evicted, Reasons: trace.Reasons{event.TableFull: lost}, Causes: trace.Causes{event.EarlyDrop: evicted},
		Kernel: trace.Counters{ctnl.StatDrop: lost, ctnl.StatEarlyDrop: evicted},
	})
	a.AccountsFor(t, truth)
	if truth.Denied() != lost || b.Traced.New+b.Traced.Reasons[event.TableFull] != noGC+evicted {
		t.Errorf("%d sends were refused, %d lost; %d new in the router", truth.Denied(), lost, b.Traced.New)
	}
	for _, e := range a.Of(trace.ByKind(event.New)) {
		if e.Task.Comm != "scenario.test" || e.Task.PID == 0 {
			t.Errorf("%v sent by %+v", e.Orig, e.Task)
			break
		}
	}
	for _, e := range b.Of(trace.ByKind(event.New)) {
		if e.Task.PID != 0 {
			t.Errorf("%v forwarded, by %+v", e.Orig, e.Task)
			break
		}
	}
}

// Several namespaces at once, each with its own count of entries, full tables
// and evictions, all with the same tuples.
func TestManyNamespaces(t *testing.T) {
	var labs []*netlab.Router
	var namespaces []*netlab.NS
	for range 3 {
		r := router(t, netlab.Options{})
		labs, namespaces = append(labs, r), append(namespaces, r.R)
	}
	limit(t, labs[0], 200, 1024)
	watch := trace.Start(t, namespaces...)
	truths := make([]*netlab.Truth, len(labs))
	errs := make([]error, len(labs))
	var wg sync.WaitGroup
	for i, r := range labs {
		wg.Go(func() {
			truths[i], errs[i] = r.SendFlows(t.Context(), udp(400+100*i), netlab.SendOptions{CPU: i})
		})
	}
	wg.Wait()
	for i, r := range labs {
		must(t, errs[i])
		must(t, r.Drain())
	}
	watch.Check()
	for i, r := range labs {
		evictions(t, watch.In(r.R), uint64(400+100*i), 200, udp(400+100*i))
		watch.In(r.R).AccountsFor(t, truths[i])
	}
}

// Two CPUs send into a full table at once.
func TestTwoCPUs(t *testing.T) {
	for name, stack := range map[string]bool{"softirq": false, "process and softirq": true} {
		t.Run(name, func(t *testing.T) {
			r := router(t, netlab.Options{})
			limit(t, r, 400, 1024)
			namespaces := []*netlab.NS{r.R}
			if stack {
				must(t, r.A.EnableConntrack())
				namespaces = append(namespaces, r.A)
			}
			f := udp(3000)
			watch := trace.Start(t, namespaces...)
			truths, err := r.SendParallel(t.Context(), netlab.SendOptions{ViaStack: stack}, f.Part(0, 2), f.Part(1, 2))
			must(t, err)
			must(t, r.Drain())
			watch.Check()
			truths[0].Add(truths[1])
			first := watch.In(r.R)
			sent := uint64(3000)
			if stack {
				first = watch.In(r.A)
				sent -= truths[0].Denied()
				evictions(t, watch.In(r.R), sent, 400, f)
			}
			evictions(t, first, 3000, 400, f)
			first.AccountsFor(t, truths[0])
		})
	}
}
