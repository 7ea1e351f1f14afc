package probe_test

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
)

// A long life on a busy node: more namespaces, one after the other, than there
// are places for counters. Each has its own counts all the same, and every
// beginning and end is noticed.
func TestMoreNamespacesThanPlaces(t *testing.T) {
	lab.NeedVM(t)
	const alive, churn, entries = 30, 600, 2
	for _, backend := range []string{probe.Fentry, probe.Kprobe} {
		t.Run(backend, func(t *testing.T) {
			if lab.KernelName() == "5.10" && backend == probe.Fentry {
				t.Skip("this kernel has no fentry in modules")
			}
			tr := trace(t, probe.Options{Backend: backend})
			made, began := map[event.NetNS]uint64{}, map[event.NetNS]uint64{}
			// The kernel ends namespaces in batches: in an emulated machine more
			// of them would wait for it than a machine ever has.
			waiting := func() (n int) {
				for ns, begun := range began {
					n += 2*int(begun) - int(tr.CountersOf(ns).Turns)
				}
				return n
			}
			var live []*netlab.NS
			for i := range churn {
				if i%20 == 0 {
					within(patience, func() bool { return waiting() <= alive+20 })
				}
				ns, err := netlab.NewNS()
				must(t, err)
				insert(t, ns, entries)
				made[ns.Inode()] += entries
				began[ns.Inode()]++
				if live = append(live, ns); len(live) > alive { // a random one, or the same numbers come again
					i := rand.IntN(len(live))
					must(t, live[i].Close())
					live[i], live = live[len(live)-1], live[:len(live)-1]
				}
			}
			for _, ns := range live {
				must(t, ns.Close())
			}
			within(patience, func() bool { return waiting() == 0 })
			t.Logf("%d namespaces had %d numbers", churn, len(made))
			if len(made) <= tr.Report().NetNSPlaces {
				t.Errorf("only %d numbers: proves nothing", len(made))
			}
			for ns, n := range made {
				c := tr.CountersOf(ns)
				if c.NewByUser != n || destroyed(c) != n || c.Turns != 2*began[ns] {
					t.Errorf("netns %s: %d inserts, %d destroys, %d turns; want %d, %d, %d", ns, c.NewByUser, destroyed(c), c.Turns, n, n, 2*began[ns])
				}
			}
			if c := tr.CountersOf(probe.OtherNetNS); c != (probe.Counters{NetNS: probe.OtherNetNS}) {
				t.Errorf("without a place: %+v, lost %+v", c, tr.Loss())
			}
		})
	}
}

// insert makes entries over netlink.
func insert(t testing.TB, ns *netlab.NS, n int) {
	t.Helper()
	must(t, ns.Do(func() error {
		c, err := ctnl.Dial(ctnl.NS{})
		if err != nil {
			return err
		}
		defer c.Close()
		for i := range n {
			o := event.Tuple{Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2"), Sport: uint16(1 + i), Dport: 53, Proto: event.ProtoUDP}
			if err := c.Create(&ctnl.Entry{Orig: o, Reply: o.Inverse(), Timeout: 10 * time.Minute}); err != nil {
				return err
			}
		}
		return nil
	}))
}
