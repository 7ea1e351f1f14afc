package scenario

import (
	"os"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
)

// T9: one of three entries is deleted, then the rest.
func TestT9DeleteAndFlush(t *testing.T) {
	r := router(t, netlab.Options{})
	watch := trace.Start(t, r.R)
	f := udp(3)
	send(t, r, f)
	run(t, r, "conntrack", "-D", "-p", "udp", "--orig-port-src", "1025")
	watch.Check()
	got := watch.In(r.R)
	got.Is(t, trace.Want{New: 3, Causes: trace.Causes{event.UserDelete: 1}})
	run(t, r, "conntrack", "-F")
	watch.Check()
	got.Is(t, trace.Want{New: 3, Causes: trace.Causes{event.UserDelete: 1, event.UserFlush: 2}})
	for _, e := range got.Of(trace.ByKind(event.Destroy)) {
		if e.Task.Comm != "conntrack" || e.Task.PID == 0 {
			t.Errorf("%s of %v by %+v", e.Cause, e.Orig, e.Task)
		}
		if (e.Orig == f.Tuple(1)) != (e.Cause == event.UserDelete) {
			t.Errorf("%s of %v", e.Cause, e.Orig)
		}
	}
}

// shortLived sends flows whose entries have expired when it returns.
func shortLived(t *testing.T, r *netlab.Router, f netlab.Flows) {
	t.Helper()
	sysctl(t, r, "nf_conntrack_udp_timeout", 1)
	send(t, r, f)
	time.Sleep(1100 * time.Millisecond) // expiry is a matter of time alone
}

// T10 a to c: expired entries are found by whoever comes across them first. It
// may be the garbage collector, so there are three tries.
func TestT10Timeout(t *testing.T) {
	for _, c := range []struct {
		name  string
		cause event.Cause
		made  uint64 // in the end
		comm  string
		do    func(*testing.T, *netlab.Router)
	}{
		{"lookup", event.TimeoutLookup, 6, "", func(t *testing.T, r *netlab.Router) { send(t, r, udp(3)) }},
		{"dump", event.TimeoutDump, 3, "conntrack", func(t *testing.T, r *netlab.Router) { run(t, r, "conntrack", "-L") }},
		{"proc", event.TimeoutDump, 3, "scenario.test", readProc},
	} {
		t.Run(c.name, func(t *testing.T) {
			for try := 1; ; try++ {
				r := router(t, netlab.Options{})
				watch := trace.Start(t, r.R)
				shortLived(t, r, udp(3))
				byGC := watch.Counters(r.R).Causes[event.TimeoutGC]
				if byGC > 0 && try < 3 {
					continue
				}
				sysctl(t, r, "nf_conntrack_udp_timeout", 100)
				c.do(t, r)
				watch.Check()
				got := watch.In(r.R)
				if got.Traced.Causes[event.TimeoutGC] > byGC && try < 3 {
					continue
				}
				got.Is(t, trace.Want{New: c.made, Causes: trace.Causes{c.cause: 3}})
				for _, e := range got.Of(trace.ByKind(event.Destroy)) {
					if e.Timeout > 0 || e.Task.Comm != c.comm {
						t.Errorf("%v: %v left, by %q", e.Orig, e.Timeout, e.Task.Comm)
					}
				}
				return
			}
		})
	}
}

func readProc(t *testing.T, r *netlab.Router) {
	t.Helper()
	must(t, r.R.Do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/nf_conntrack")
		if len(b) > 0 {
			t.Errorf("the proc file shows %s", b)
		}
		return err
	}))
}

// T11: a namespace goes away with its entries.
func TestT11NetNSExit(t *testing.T) {
	r := router(t, netlab.Options{})
	watch := trace.Start(t, r.R)
	send(t, r, udp(3))
	must(t, r.Close())
	watch.Destroyed(r.R, 3)
	watch.Check()
	watch.In(r.R).Is(t, trace.Want{New: 3, Causes: trace.Causes{event.NetNSExit: 3}})
	for _, e := range watch.In(r.R).Of(trace.ByKind(event.Destroy)) {
		if e.Task.PID != 0 {
			t.Errorf("%v destroyed by %+v", e.Orig, e.Task)
		}
	}
}
