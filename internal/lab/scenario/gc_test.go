package scenario

import (
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
)

// gcInterval is how long the garbage collector may let one wait: a minute, two
// minutes before 5.15 (GC_SCAN_INTERVAL).
const gcInterval = 135 * time.Second

// T10 d and T17: what the garbage collector does when it comes round. It
// removes what has expired; and in a namespace that is at 95 % of the limit,
// where early drop has failed since the last time, everything that is not
// assured.
func TestT10dT17GarbageCollector(t *testing.T) {
	if testing.Short() {
		t.Skip("long: waits for the garbage collector, up to two minutes")
	}
	full, idle := router(t, netlab.Options{}), router(t, netlab.Options{})
	limit(t, full, 1000, noEvictions)
	sysctl(t, full, "nf_conntrack_udp_timeout", 600)
	watch := trace.Start(t, full.R, idle.R)
	create(t, full, 960)
	sysctl(t, idle, "nf_conntrack_udp_timeout", 1)
	send(t, idle, udp(3))
	truth := send(t, full, udp(60))
	watch.Until(idle.R, gcInterval, "the garbage collector came round", func(c probe.Counters) bool { return c.Causes[event.TimeoutGC] >= 3 })
	watch.Until(full.R, gcInterval, "it evicted", func(c probe.Counters) bool { return c.Causes[event.EarlyDropGC] >= 40 })
	watch.Check()
	got := watch.In(full.R)
	evicted := got.Traced.Causes[event.EarlyDrop] // at one in a thousand tries
	lost, gone := got.Traced.Reasons[event.TableFull], got.Traced.Causes[event.EarlyDropGC]
	got.Is(t, trace.Want{
		New: 60 - lost, ByUser: 960, Reasons: trace.Reasons{event.TableFull: lost},
		Causes: trace.Causes{event.EarlyDropGC: gone, event.EarlyDrop: evicted},
		Kernel: trace.Counters{ctnl.StatDrop: lost, ctnl.StatEarlyDrop: evicted, ctnl.StatInsert: 960},
	})
	// It may come round while the last twenty are sent, and make room for the rest.
	if early := lost+evicted < 20; !early && gone != 40 {
		t.Errorf("the garbage collector evicted %d, want 40; %d refused", gone, lost)
	}
	got.AccountsFor(t, truth)
	watch.In(idle.R).Is(t, trace.Want{New: 3, Causes: trace.Causes{event.TimeoutGC: 3}})
}
