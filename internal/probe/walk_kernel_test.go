package probe_test

import (
	"context"
	"net/netip"
	"strconv"
	"sync"
	"testing"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
)

// walked reads the whole table and returns the entries of one namespace.
func walked(t testing.TB, p *probe.Probe, ns *netlab.NS) (out []probe.Peek) {
	t.Helper()
	w, err := p.Walk(0, 0, func(q *probe.Peek) error {
		if q.NetNS == ns.Inode() {
			out = append(out, *q)
		}
		return nil
	})
	must(t, err)
	if w.Cut != 0 || w.Buckets == 0 || w.Next != w.Buckets {
		t.Errorf("%+v", w)
	}
	return out
}

// A walk tells of every entry what a listing by netlink tells, once, and its
// address as the event of its insert did.
func TestWalk(t *testing.T) {
	r := router(t)
	zone7(t, r)
	must(t, r.R.Masquerade(netlab.Match{Dst: netip.PrefixFrom(netlab.Sink(5), 32)}, netlab.Ports{}))
	c := dial(t, r.R)
	tr := trace(t, probe.Options{})
	want := states(t, r, c)
	tr.settle()
	before := dumped(t, c)
	all := walked(t, tr.Probe, r.R)
	after := dumped(t, c)
	if len(all) != len(before) || len(all) == 0 {
		t.Errorf("%d entries in the table, %d told", len(before), len(all))
	}
	t.Logf("%d entries: %v", len(all), sameAsListed(t, all, before, after, want))
	ptr := map[key]uint64{}
	for _, q := range questions(tr, r.R) {
		ptr[key{q.Orig, q.Zone}] = q.Ptr
	}
	for _, q := range all {
		if k := (key{q.Orig, q.Zone}); ptr[k] != q.Ptr {
			t.Errorf("%v zone %d is at %#x, inserted at %#x or told twice", q.Orig, q.Zone, q.Ptr, ptr[k])
		} else {
			delete(ptr, k)
		}
	}
	flush(t, c)
	if left := walked(t, tr.Probe, r.R); len(left) != 0 {
		t.Errorf("after a flush: %d entries", len(left))
	}
}

// A walk in parts, of long chains, while other entries come and go: what stays
// is told once each time.
func TestWalkUnderChurn(t *testing.T) {
	r := router(t)
	must(t, r.SetSysctl(nil, "net.netfilter.nf_conntrack_buckets", strconv.Itoa(1024)))
	tr := trace(t, probe.Options{Only: usual})
	const stay = 5000
	send(t, r, flows(one, stay, 0))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		c := dial(t, r.R)
		for i := 0; ctx.Err() == nil; i++ {
			f := flows(one, 200, 3)
			f.SPorts.First += uint16(i % 50 * 200)
			if _, err := r.SendFlows(ctx, f, netlab.SendOptions{}); err != nil {
				return
			}
			for j := range f.Len() {
				_ = c.Delete(f.Tuple(j), 0) // it may be on its way yet
			}
		}
	})
	for round := range 10 {
		told := map[event.Tuple]int{}
		from := uint32(0)
		for n := uint32(1); n != 0; {
			until := from + 300
			w, err := tr.Walk(from, until, func(q *probe.Peek) error {
				if q.NetNS == r.R.Inode() && q.Orig.Dst == netlab.Sink(0) {
					told[q.Orig]++
				}
				return nil
			})
			must(t, err)
			if w.Cut != 0 {
				t.Fatalf("%+v", w)
			}
			n, from = w.Buckets-w.Next, w.Next
		}
		for x, n := range told {
			if n != 1 {
				t.Fatalf("round %d: %v told %d times", round, x, n)
			}
		}
		if len(told) != stay {
			t.Fatalf("round %d: told %d of %d", round, len(told), stay)
		}
	}
}
