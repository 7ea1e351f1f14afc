package probe_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/filter"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
)

// mixed makes events of many kinds in the router: new entries of four
// protocols, answers, a full table with evictions and refusals, zones, deletes.
func mixed(t *testing.T, r *netlab.Router) {
	t.Helper()
	c := dial(t, r.R)
	for i, f := range []netlab.Flows{
		flows(netlab.Addrs{First: netip.MustParseAddr("198.51.100.1"), N: 4}, 30, 0),
		{Proto: event.ProtoTCP, Src: one, Dst: netlab.OneAddr(netlab.Sink(1)), SPorts: netlab.Ports{First: 2000, N: 20}, DPorts: netlab.Ports{First: 80, N: 3}},
		{Proto: event.ProtoICMP, Src: one, Dst: netlab.OneAddr(netlab.Sink(0)), SPorts: netlab.Ports{First: 1, N: 20}},
		{Proto: event.ProtoUDP, Src: netlab.OneAddr(netlab.ClientV6), Dst: netlab.OneAddr(netlab.Sink6(0)), SPorts: netlab.Ports{First: 1024, N: 40}, DPorts: netlab.OnePort(53)},
		{Proto: event.ProtoTCP, Src: one, Dst: netlab.OneAddr(netlab.ServerV4), SPorts: netlab.Ports{First: 3000, N: 10}, DPorts: netlab.OnePort(22)}, // refused by a RST
	} {
		if i == 3 { // the last 40 entries fit, and half of the next
			fill, err := c.Fill()
			must(t, err)
			limit(t, r, int(fill.Count)+20)
		}
		send(t, r, f)
	}
	limit(t, r, 1<<20)
	err := c.Delete(event.Tuple{Src: netlab.ClientV4, Dst: netlab.Sink(1), Sport: 2000, Dport: 80, Proto: event.ProtoTCP}, 0)
	if !errors.Is(err, ctnl.ErrNotFound) { // the full table may have evicted it
		must(t, err)
	}
	send(t, r, flows(one, 50, 2)) // zone 7
	flush(t, c)
}

// zone7 puts what goes to the third sink into zone 7.
func zone7(t *testing.T, r *netlab.Router) {
	t.Helper()
	must(t, r.R.NFT(fmt.Sprintf("table ip zones { chain c { type filter hook prerouting priority -300; ip daddr %s ct zone set 7; }; }", netlab.Sink(2))))
}

// what an event says apart from its time, so that two probes can be compared.
func what(e *event.Event) string {
	return fmt.Sprint(e.Kind, e.Reason, e.Cause, e.NetNS, e.Zone, e.Orig, e.Reply, e.Status, e.By, e.Mark)
}

func whats(events []event.Event) []string {
	out := []string{}
	for i := range events {
		out = append(out, what(&events[i]))
	}
	slices.Sort(out)
	return out
}

// sameEvents compares two multisets of events and shows some of what differs.
func sameEvents(t *testing.T, name string, got, want []string) {
	t.Helper()
	if slices.Equal(got, want) {
		return
	}
	t.Errorf("%s: %d events, want %d", name, len(got), len(want))
	n := map[string]int{}
	for _, s := range got {
		n[s]++
	}
	for _, s := range want {
		n[s]--
	}
	shown := 0
	for s, d := range n {
		if d != 0 && shown < 8 {
			t.Logf("%+d %s", d, s)
			shown++
		}
	}
}

// Two instances side by side count and tell the same (R24).
func TestTwoInstances(t *testing.T) {
	r := router(t)
	zone7(t, r)
	a, b := trace(t, probe.Options{}), trace(t, probe.Options{})
	mixed(t, r)
	a.settle()
	b.settle()
	if x, y := countersOf(a, r.R), countersOf(b, r.R); x != y || x.New == 0 {
		t.Errorf("counters differ:\n%+v\n%+v", x, y)
	}
	sameEvents(t, "second instance", whats(b.told(r.R)), whats(a.told(r.R)))
	// One going away must not disturb the other.
	before := countersOf(a, r.R)
	b.stop()
	must(t, b.Close())
	truth := send(t, r, flows(one, 100, 3))
	a.settle()
	if n := countersOf(a, r.R).New - before.New; n != truth.Flows() {
		t.Errorf("after the other has gone: %d new, sent %d", n, truth.Flows())
	}
}

// What the programs let through with a filter is what the same filter matches
// in Go, of the same traffic; the counters are not filtered. Filters look at
// the same packets, each with a probe of its own, five at a time: a function
// takes 38 programs (BPF_MAX_TRAMP_LINKS).
func TestFilterInTheKernel(t *testing.T) {
	texts := []string{
		"new", "reason table_full", "cause early_drop", "zone 7", "src 198.51.100.0/31",
		"drop", "cause user_flush,user_delete", "proto icmp", "ip6", "netns 1",
		"dst 10.9.0.0/16 and dport 53", "destroy dport 81-82", "src 2001:db8::/32", "new proto udp zone 7 sport 1030-1040", "netns HERE zone 0 proto tcp",
	}
	if k := lab.KernelName(); k != "5.10" && k != "newest" { // one object file; the oldest and the newest kernel see all
		texts = texts[:5]
	}
	for some := range slices.Chunk(texts, 5) {
		filters(t, some)
	}
}

func filters(t *testing.T, texts []string) {
	r := router(t)
	zone7(t, r)
	all := trace(t, probe.Options{Only: usual})
	some := make([]*tracer, len(texts))
	kernel := make([]filter.Kernel, len(texts))
	for i, text := range texts {
		f, err := filter.Parse(strings.Replace(text, "HERE", fmt.Sprint(uint32(r.R.Inode())), 1), filter.Options{})
		must(t, err)
		kernel[i] = f.Kernel()
		some[i] = trace(t, probe.Options{Only: usual, Filter: wireFilter(kernel[i])})
	}
	mixed(t, r)
	all.settle()
	told := all.told(r.R)
	for i, text := range texts {
		t.Run(text, func(t *testing.T) {
			l := some[i].settle()
			if x, y := countersOf(all, r.R), countersOf(some[i], r.R); x != y || x.New == 0 || x.Reasons[event.TableFull] == 0 {
				t.Errorf("counters are filtered:\n%+v\n%+v", y, x)
			}
			want := slices.DeleteFunc(slices.Clone(told), func(e event.Event) bool { return !kernel[i].Match(&e) })
			got := some[i].told(r.R)
			sameEvents(t, text, whats(got), whats(want))
			if n := uint64(len(told) - len(want)); l.Filtered < n { // other namespaces may have had some
				t.Errorf("%d filtered by its own account, %d are missing", l.Filtered, n)
			}
			t.Logf("%d of %d events, exact %t", len(got), len(told), kernel[i].Exact)
		})
	}
	for _, tr := range append(some, all) { // before the next five
		tr.stop()
		must(t, tr.Close())
	}
}

// usual are the hooks that the mixed traffic needs.
func usual(symbol string) bool {
	return slices.Contains([]string{"__nf_conntrack_confirm", "__nf_conntrack_alloc", "nf_ct_helper_destroy", "early_drop",
		"nf_ct_iterate_cleanup", "ctnetlink_del_conntrack", "nf_ct_kill_acct"}, symbol)
}

// wireFilter is what package pipeline makes of a filter, without the new
// entries that it needs for lifetimes.
func wireFilter(k filter.Kernel) probe.Filter {
	return probe.Filter{On: true, Kinds: k.Kinds, Reasons: k.ReasonMask, Causes: k.CauseMask, NetNS: k.NetNS, Zone: int(k.Zone), Proto: k.Proto,
		Src: k.Src, Dst: k.Dst, SportMin: k.SportMin, SportMax: k.SportMax, DportMin: k.DportMin, DportMax: k.DportMax}
}

// R3: nobody reads while the rings overflow. The counters stay exact, what is
// lost is counted, and reading again makes all well.
func TestReaderStops(t *testing.T) {
	r := router(t)
	p := open(t, probe.Options{RingBytes: 64 << 10}) // 512 records per CPU
	c := dial(t, r.R)
	const n = 20000
	truth := send(t, r, flows(one, n, 0))
	flush(t, c)
	l := p.Loss()
	got := countersOf(p, r.R)
	if got.New != truth.Flows() || truth.Flows() != n || got.Causes[event.UserFlush] != n || destroyed(got) != n {
		t.Errorf("sent %d, counted %d new, %d flushed, %d destroyed", truth.Flows(), got.New, got.Causes[event.UserFlush], destroyed(got))
	}
	if l.Lost == 0 || l.Delivered != 0 || l.Seen != 2*n {
		t.Errorf("%+v, want %d seen, most of them lost", l, 2*n)
	}
	t.Logf("ring of 512 records per CPU, %d events, ratio %.0f: %d lost", l.Seen, float64(l.Seen)/float64(512*runtime.NumCPU()), l.Lost)

	tr := read(t, p)
	after := tr.settle()
	if after.Seen != after.Delivered+after.Lost || after.Lost != l.Lost || uint64(len(tr.told(r.R))) != after.Delivered {
		t.Errorf("reading again: %+v, %d events", after, len(tr.told(r.R)))
	}
	had := len(tr.told(r.R))
	again := send(t, r, flows(one, 300, 1)) // fits, and nothing is lost any more
	end := tr.settle()
	if end.Lost != l.Lost || countersOf(p, r.R).New-got.New != again.Flows() || len(tr.told(r.R))-had != int(again.Flows()) {
		t.Errorf("after recovery: %+v, %d events of %d", end, len(tr.told(r.R))-had, again.Flows())
	}
}

// As fast as two CPUs can: nothing is lost with rings of the default size, and
// every event is told once.
func TestLossless(t *testing.T) {
	r := router(t)
	tr := trace(t, probe.Options{})
	const each = 50000
	tr.makeRoom(2 * 2 * each) // new and destroyed
	start := time.Now()
	truths, err := r.SendParallel(context.Background(), netlab.SendOptions{}, flows(one, each, 0), flows(one, each, 1))
	must(t, err)
	took := time.Since(start)
	must(t, r.Drain())
	l := tr.settle()
	var sent uint64
	for _, x := range truths {
		sent += x.Flows()
	}
	t.Logf("%d flows in %v, %.0f/s: %+v", sent, took.Round(time.Millisecond), float64(sent)/took.Seconds(), l)
	if got := countersOf(tr, r.R); got.New != sent {
		t.Errorf("sent %d, counted %d new", sent, got.New)
	}
	if l.Lost != 0 || l.ByStage["recursion"] != 0 || l.ByStage["stash"] != 0 || l.Seen != l.Delivered {
		t.Errorf("lost: %+v", l)
	}
	seen := map[event.Tuple]int{}
	for _, e := range tr.told(r.R) {
		if e.Kind == event.New {
			seen[e.Orig]++
		}
	}
	for tuple, n := range seen {
		if n != 1 {
			t.Fatalf("%v told %d times", tuple, n)
		}
	}
	if uint64(len(seen))+l.Lost != sent {
		t.Errorf("%d different tuples told, %d lost, %d sent", len(seen), l.Lost, sent)
	}
	if l.Late == 0 && !slices.IsSortedFunc(tr.told(r.R), func(a, b event.Event) int { return cmp.Compare(a.Time, b.Time) }) {
		t.Error("not in order of time, and none counted as late")
	}

	// A flush of them all is one loop in the kernel, which no reader may keep
	// up with: what is lost then is counted, and the counters are exact.
	flush(t, dial(t, r.R))
	end := tr.settle()
	told := tr.count(r.R, func(e *event.Event) bool { return e.Kind == event.Destroy })
	got := countersOf(tr, r.R)
	if got.Causes[event.UserFlush] != sent || destroyed(got) != sent || told+end.Lost-l.Lost != sent {
		t.Errorf("flushed %d: counted %d (%d in all), told %d, lost %d", sent, got.Causes[event.UserFlush], destroyed(got), told, end.Lost-l.Lost)
	}
	t.Logf("flush of %d entries: %d told, %d lost", sent, told, end.Lost-l.Lost)
}
