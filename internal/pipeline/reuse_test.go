package pipeline

import (
	"context"
	"errors"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
)

// A life is a namespace in which entries were made, which the kernel counts.
type life struct {
	*netlab.NS
	t    testing.TB
	made uint16
}

func born(t testing.TB) *life {
	t.Helper()
	ns, err := netlab.NewNS()
	must(t, err)
	t.Cleanup(func() { ns.Close() })
	return &life{NS: ns, t: t}
}

// insert makes entries, all different, and returns their namespace. A nil life
// stays nil.
func (l *life) insert(n int) *life {
	if l == nil {
		return nil
	}
	l.t.Helper()
	must(l.t, l.Do(func() error {
		c, err := ctnl.Dial(ctnl.NS{})
		if err != nil {
			return err
		}
		defer c.Close()
		for range n {
			l.made++
			o := event.Tuple{Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2"), Sport: l.made, Dport: 53, Proto: event.ProtoUDP}
			if err := c.Create(&ctnl.Entry{Orig: o, Reply: o.Inverse(), Timeout: 10 * time.Minute}); err != nil {
				return err
			}
		}
		return nil
	}))
	return l
}

// reborn ends a namespace and makes another with the same number: the kernel
// takes the lowest that is free, so those that get another are kept meanwhile.
// nil: it did not come to that.
func (l *life) reborn() *life {
	l.t.Helper()
	must(l.t, l.Close())
	tries := 50
	if lab.InVM() { // where one takes long to make and to end
		tries = 20
	}
	for i := range tries {
		time.Sleep(time.Duration(20+10*i) * time.Millisecond) // the kernel ends a namespace in its own time
		if next := born(l.t); next.Inode() == l.Inode() {
			return next
		}
	}
	return nil
}

// ledgerOf draws up the account of what is done while it is traced.
func ledgerOf(t *testing.T, backend string, do func(*Pipeline)) *agg.Doc {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	tracing := make(chan struct{})
	p, err := Open(ctx, Config{Backend: backend, Tracing: func() { close(tracing) }})
	skipOld(t, err)
	must(t, err)
	defer func() { must(t, p.Close()) }()
	clock, err := NewClock()
	must(t, err)
	go func() {
		defer stop()
		<-tracing
		do(p)
	}()
	doc, err := p.Ledger(ctx, clock, nil)
	must(t, err)
	return doc
}

// hooks says whether a backend sees namespaces come and go.
func hasHooks(backend string) bool { return backend == probe.Fentry || backend == probe.Kprobe }

// turnsOf is how often a namespace with the number of l came or went.
func turnsOf(p *Pipeline, l *life) uint64 {
	if l.NS == nil {
		return 0
	}
	return p.countersOf(l.Inode()).Turns
}

// within waits for something that the kernel does in its own time, such as ending a
// namespace that is closed; half a minute, then the test will tell.
func within(ok func() bool) {
	for end := time.Now().Add(30 * time.Second); !ok() && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
}

// backends are those to try here: each somewhere, and the best everywhere. An
// emulated machine takes long over a namespace.
func backends() []string {
	if !lab.InVM() {
		return []string{probe.Netlink, probe.Netfilter}
	}
	switch lab.KernelName() {
	case "5.10":
		return []string{probe.Netlink, probe.Auto} // kprobe
	case "6.1":
		return []string{probe.Kprobe, probe.Auto}
	}
	return []string{probe.Auto}
}

// The account of a number that several namespaces have had: never a difference
// that is none, and where the kernel's counters are known they are those of one
// namespace.
func TestLedgerReusedNumber(t *testing.T) {
	lab.NeedRoot(t)
	for _, m := range []string{"nf_conntrack", "nf_conntrack_netlink", "nf_nat"} {
		_ = exec.Command("modprobe", m).Run() // built in, or the test will tell
	}
	const unknown = -1
	for _, tc := range []struct {
		name   string
		before int // entries made before the trace, -1: no namespace
		do     func(*life) *life
		kernel int64
		note   error
	}{
		{"lives on", 5, func(l *life) *life { return l.insert(3) }, 3, nil},
		{"begins", unknown, func(l *life) *life { return born(l.t).insert(3) }, 3, nil},
		{"handed over", 5, func(l *life) *life { return l.insert(2).reborn().insert(3) }, unknown, errReused},
		{"handed over, empty", 5, func(l *life) *life { return l.reborn().insert(3) }, unknown, errReused},
		{"two lives", unknown, func(l *life) *life { return born(l.t).insert(4).reborn().insert(3) }, unknown, errReused},
		{"ends", 5, func(l *life) *life { must(l.t, l.insert(3).Close()); return l }, unknown, ctnl.ErrNetNSGone},
	} {
		for _, backend := range backends() {
			t.Run(tc.name+"/"+backend, func(t *testing.T) {
				l := &life{t: t}
				if tc.before >= 0 {
					l = born(t).insert(tc.before)
				}
				doc := ledgerOf(t, backend, func(p *Pipeline) {
					turns := turnsOf(p, l)
					l = tc.do(l)
					if errors.Is(tc.note, ctnl.ErrNetNSGone) && hasHooks(p.Report().Backend) {
						within(func() bool { return turnsOf(p, l) > turns })
					}
				})
				if l == nil {
					t.Skip("the kernel did not use the number again for the next namespaces")
				}
				switch {
				case hasHooks(doc.Backend):
					checkInserts(t, doc, l.Inode(), tc.kernel, tc.note)
				case tc.name == "two lives":
					t.Skip("this backend cannot know that there was another")
				case tc.note != nil: // it does not see inserts, and of the kernel's nothing can be said
					checkNothing(t, doc, l.Inode())
				default:
					checkInserts(t, doc, l.Inode(), tc.kernel, nil)
				}
			})
		}
	}
}

func checkInserts(t *testing.T, doc *agg.Doc, ns event.NetNS, kernel int64, note error) {
	t.Helper()
	rows := 0
	for _, r := range doc.Balance {
		if r.NetNS != ns {
			continue
		}
		rows++
		if r.Difference != nil && *r.Difference != 0 {
			t.Errorf("%s: traced %d, kernel %d, difference %d", r.Counter, *r.Traced, *r.Kernel, *r.Difference)
		}
		if note != nil && r.Note != note.Error() {
			t.Errorf("%s: note %q, want %q", r.Counter, r.Note, note)
		}
		if r.Counter != agg.CounterInsert {
			continue
		}
		if known := r.Kernel != nil; known != (kernel >= 0) || known && *r.Kernel != kernel {
			t.Errorf("kernel's inserts %v, want %d", str(r.Kernel), kernel)
		}
	}
	if rows == 0 {
		t.Errorf("no account of netns %s", ns)
	}
}

func checkNothing(t *testing.T, doc *agg.Doc, ns event.NetNS) {
	t.Helper()
	for _, k := range doc.Kernel {
		if k.NetNS == ns {
			t.Errorf("the kernel's inserts are said to be %d", *k.Insert)
		}
	}
}

func str(n *int64) any {
	if n == nil {
		return "unknown"
	}
	return *n
}

// counted is a source that has hooks, and nothing else to say.
type counted struct{ Source }

func (counted) Report() probe.Report {
	r := probe.Report{Backend: probe.Fentry}
	for _, s := range []string{"nf_conntrack_init_net", "nf_conntrack_expect_pernet_fini", "nf_conntrack_hash_check_insert"} {
		r.Hooks = append(r.Hooks, probe.HookStatus{Symbol: s, Backend: probe.Fentry})
	}
	return r
}

func (counted) Counters() []probe.Counters { return nil }

func TestLedgerAccount(t *testing.T) {
	stats := func(insert uint64) ctnl.Totals {
		s := ctnl.Totals{Known: 1<<ctnl.NumCounters - 1}
		s.N[ctnl.StatInsert] = insert
		return s
	}
	is := func(made, turns, kernel, cookie uint64) reading {
		return reading{ns: ctnl.NS{Inode: 7}, exists: true, cookie: cookie, stats: stats(kernel),
			ours: probe.Counters{NetNS: 7, NewByUser: made, Turns: turns}}
	}
	was := func(made, turns uint64) reading { // nobody has the number, now
		return reading{ns: ctnl.NS{Inode: 7}, ours: probe.Counters{NetNS: 7, NewByUser: made, Turns: turns}}
	}
	failed := is(5, 1, 5, 0)
	failed.err = ctnl.ErrNotLoaded
	for _, tc := range []struct {
		name          string
		before, after reading
		kernel        int64 // -1 unknown
		note          string
	}{
		{"lives on", is(5, 1, 9, 11), is(7, 1, 11, 11), 2, ""},
		{"lives on, no cookies", is(5, 1, 9, 0), is(7, 1, 11, 0), 2, ""},
		{"begins", reading{}, is(2, 1, 2, 11), 2, ""},
		{"begins where one had ended", was(5, 2), is(7, 3, 2, 11), 2, ""},
		{"changes hands", is(5, 1, 9, 11), is(7, 3, 1, 12), -1, errReused.Error()},
		{"the programs missed it", is(5, 1, 9, 11), is(7, 1, 1, 12), -1, errReused.Error()},
		{"before there were cookies", is(5, 1, 9, 0), is(7, 3, 1, 0), -1, errReused.Error()},
		{"nothing but the counters tells", is(5, 1, 9, 0), is(7, 1, 1, 0), -1, errReused.Error()},
		{"a counter wraps", is(5, 1, 1<<32-1, 0), is(7, 1, 1<<32+1, 0), 2, ""},
		{"twice, from nobody", was(5, 2), is(8, 5, 1, 11), -1, errReused.Error()},
		{"was overlooked", was(5, 1), is(7, 1, 30, 11), -1, errOverlooked.Error()},
		{"ends", is(5, 1, 9, 11), was(7, 2), -1, ctnl.ErrNetNSGone.Error()},
		{"ends, having begun meanwhile", was(5, 2), was(7, 4), -1, ctnl.ErrNetNSGone.Error()},
		{"hides", is(5, 1, 9, 11), was(7, 1), -1, errHidden.Error()},
		{"begins hidden", was(5, 2), was(7, 3), -1, errHidden.Error()},
		{"was and is hidden", was(5, 1), was(7, 1), -1, errHidden.Error()},
		{"could not be read", failed, is(7, 1, 7, 0), -1, ctnl.ErrNotLoaded.Error()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var doc agg.Doc
			(&Pipeline{Source: counted{}}).hooked().account(&doc, map[event.NetNS]reading{7: tc.before}, map[event.NetNS]reading{7: tc.after})
			r := insertRow(t, &doc, 7)
			if known := r.Kernel != nil; known != (tc.kernel >= 0) || known && (*r.Kernel != tc.kernel || *r.Difference != 0) || r.Note != tc.note {
				t.Errorf("traced %v, kernel %v, note %q; want %d, %q", str(r.Traced), str(r.Kernel), r.Note, tc.kernel, tc.note)
			}
		})
	}
}

// Where places have run out no number is without a doubt.
func TestLedgerPlacesRanOut(t *testing.T) {
	other := reading{ns: ctnl.NS{Inode: probe.OtherNetNS}, ours: probe.Counters{NetNS: probe.OtherNetNS, NewByUser: 3}}
	ns := reading{ns: ctnl.NS{Inode: 7}, exists: true, ours: probe.Counters{NetNS: 7, NewByUser: 1, Turns: 1}, stats: ctnl.Totals{Known: 1<<ctnl.NumCounters - 1}}
	ns.stats.N[ctnl.StatInsert] = 4
	var doc agg.Doc
	(&Pipeline{Source: counted{}}).hooked().account(&doc, map[event.NetNS]reading{}, map[event.NetNS]reading{7: ns, probe.OtherNetNS: other})
	if r := insertRow(t, &doc, 7); *r.Difference != -3 || !strings.Contains(r.Note, errTooMany.Error()) {
		t.Errorf("difference %d, note %q", *r.Difference, r.Note)
	}
	if r := insertRow(t, &doc, probe.OtherNetNS); *r.Traced != 3 || r.Kernel != nil || r.Note != errTooMany.Error() {
		t.Errorf("traced %d, kernel %v, note %q", *r.Traced, str(r.Kernel), r.Note)
	}
}

func insertRow(t *testing.T, doc *agg.Doc, ns event.NetNS) agg.BalanceRow {
	t.Helper()
	for _, r := range doc.Balance {
		if r.NetNS == ns && r.Counter == agg.CounterInsert {
			return r
		}
	}
	t.Fatalf("no row for inserts in netns %s", ns)
	return agg.BalanceRow{}
}
