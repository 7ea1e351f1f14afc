package scenario

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/pipeline"
)

// watch begins a census of everything and returns it with what ends it.
func watch(t *testing.T) (w *pipeline.Watch, finish func()) {
	t.Helper()
	return watchWith(t, pipeline.Config{}, nil)
}

// watchWith is watch with a configuration, and a consumer of the events.
func watchWith(t *testing.T, cfg pipeline.Config, each func(*event.Event) error) (w *pipeline.Watch, finish func()) {
	t.Helper()
	clock, err := pipeline.NewClock()
	must(t, err)
	p, err := pipeline.Open(t.Context(), cfg)
	must(t, err)
	w = p.NewWatch(clock, agg.CensusConfig{Dims: []agg.Dim{agg.BySrc, agg.ByDst, agg.ByNetNS}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx, each) }()
	finish = sync.OnceFunc(func() {
		cancel()
		must(t, <-done)
		must(t, w.Finish())
	})
	t.Cleanup(func() {
		finish()
		must(t, p.Close())
	})
	for end := time.Now().Add(2 * time.Minute); !w.Seeded(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the tables were not read in two minutes")
		}
	}
	return w, finish
}

// held counts the entries of a table by source, as the kernel tells them.
func held(t *testing.T, ns *netlab.NS) map[netip.Addr]uint64 {
	t.Helper()
	c, err := trace.Dial(ns)
	must(t, err)
	defer c.Close()
	out := map[netip.Addr]uint64{}
	must(t, c.Dump(t.Context(), func(e *ctnl.Entry) error {
		out[e.Orig.Src]++
		return nil
	}))
	return out
}

// entries is the kernel's count of a table.
func entries(t *testing.T, ns *netlab.NS) int {
	t.Helper()
	c, err := trace.Dial(ns)
	must(t, err)
	defer c.Close()
	f, err := c.Fill()
	must(t, err)
	return int(f.Count)
}

// rowsOf are the census of one namespace by source.
func rowsOf(w *pipeline.Watch, ns event.NetNS) map[netip.Addr]agg.TopRow {
	out := map[netip.Addr]agg.TopRow{}
	for _, r := range w.Top(agg.BySrc, agg.ColNew, 1<<20, func(k *agg.Key) bool { return k.NetNS == ns }).Rows {
		out[r.Src] = r
	}
	return out
}

// sameLive compares the live entries of each source with the kernel's table.
func sameLive(t *testing.T, w *pipeline.Watch, ns *netlab.NS) map[netip.Addr]agg.TopRow {
	t.Helper()
	rows, truth := rowsOf(w, ns.Inode()), held(t, ns)
	for a, r := range rows {
		if r.Live != truth[a] {
			t.Errorf("netns %s, %s: %d live, in the table %d", ns.Inode(), a, r.Live, truth[a])
		}
		delete(truth, a)
	}
	for a, n := range truth {
		t.Errorf("netns %s, %s: not there, in the table %d", ns.Inode(), a, n)
	}
	for _, s := range w.Top(agg.BySrc, agg.ColNew, 0, nil).Table {
		if s.NetNS == ns.Inode() && (s.Known != s.Entries || !s.Seeded) {
			t.Errorf("netns %s: %d entries known, the kernel counts %d (%+v)", ns.Inode(), s.Known, s.Entries, s)
		}
	}
	return rows
}

func sources(first string, n, ports int, dst netip.Addr) netlab.Flows {
	return netlab.Flows{Proto: event.ProtoUDP, Src: netlab.Addrs{First: netip.MustParseAddr(first), N: n}, SpreadSources: true,
		Dst: netlab.OneAddr(dst), SPorts: netlab.Ports{First: 1024, N: ports}, DPorts: netlab.OnePort(53)}
}

// A census begins in the middle of traffic, in three namespaces at once, two of
// which hold 200,000 entries already: per source, what is live is what the kernel has,
// and what came after the start is what the generator sent.
func TestCensusInTheMiddle(t *testing.T) {
	const before = 100_000
	var labs [3]*netlab.Router
	for i := range labs {
		labs[i] = router(t, netlab.Options{})
		if i == 0 {
			limit(t, labs[i], 1<<19, 1<<17)
		}
		must(t, labs[i].SetSysctl(labs[i].R, "net.netfilter.nf_conntrack_udp_timeout", "3600")) // all are there when it begins
		if i < 2 {
			send(t, labs[i], sources("198.51.100.1", 20, before/20, netlab.Sink(0)))
		}
	}
	there := entries(t, labs[0].R) + entries(t, labs[1].R)
	if there < 2*before {
		t.Fatalf("%d entries are there before, want %d", there, 2*before)
	}
	// Traffic that begins before the programs and ends long after the dump.
	stop, stopped := make(chan struct{}), make(chan *netlab.Truth, 1)
	go func() {
		f := sources("203.0.113.1", 5, 10000, netlab.Sink(1))
		truth := &netlab.Truth{}
		for i := 0; ; i++ {
			select {
			case <-stop:
				stopped <- truth
				return
			default:
			}
			if i < 1000 {
				x, err := labs[0].SendFlows(t.Context(), f.Part(i, 1000), netlab.SendOptions{Rate: 1000, Burst: 10})
				if err != nil {
					t.Error(err)
				} else {
					truth.Add(x)
				}
			}
		}
	}()
	w, finish := watch(t)
	begun := time.Now()
	after := map[netip.Addr]uint64{}
	truth := send(t, labs[1], sources("198.51.100.11", 20, 2000, netlab.Sink(2))) // ten old sources, ten new ones
	for a, n := range truth.FlowsBySource() {
		after[a] = n
	}
	run(t, labs[1], "conntrack", "-D", "-s", "198.51.100.3")
	run(t, labs[1], "conntrack", "-D", "-s", "198.51.100.12")
	send(t, labs[2], sources("198.51.100.1", 3, 500, netlab.Sink(0)))
	run(t, labs[2], "conntrack", "-F")
	send(t, labs[2], sources("2001:db8::1", 4, 100, netlab.Sink6(0)))
	close(stop)
	crossing := <-stopped
	must(t, labs[0].Drain())
	finish()
	t.Logf("%d entries before, %d flows crossed the start, %v after it", there, crossing.Flows(), time.Since(begun).Round(time.Millisecond))

	for i, r := range labs {
		rows := sameLive(t, w, r.R)
		if i != 1 {
			continue
		}
		for a, n := range after {
			if rows[a].New != n {
				t.Errorf("%s: %d new, sent %d", a, rows[a].New, n)
			}
		}
		for a, want := range map[string]uint64{"198.51.100.3": before / 20, "198.51.100.12": before/20 + 2000} {
			if r := rows[netip.MustParseAddr(a)]; r.Destroyed != want || r.Live != 0 {
				t.Errorf("%s: %d destroyed and %d live, deleted were %d", a, r.Destroyed, r.Live, want)
			}
		}
	}
	for a, r := range rowsOf(w, labs[0].R.Inode()) {
		if n := crossing.FlowsBySource()[a]; n > 0 && (r.Live != n || r.New > n) {
			t.Errorf("%s: %d live, %d new, sent %d", a, r.Live, r.New, n)
		}
	}
	if l := w.Top(agg.BySrc, agg.ColNew, 0, nil).Loss; l.Lost != 0 || l.Residual() != 0 {
		t.Errorf("loss %+v", l)
	}
}

// A namespace appears after the start: its table is found within a second or two,
// and is known from its first entry on.
func TestCensusNewNamespace(t *testing.T) {
	router(t, netlab.Options{}) // conntrack is there
	w, finish := watch(t)
	r := router(t, netlab.Options{})
	truth := send(t, r, sources("198.51.100.1", 3, 50, netlab.Sink(0)))
	until(t, "the table is listed and read", func() bool {
		s, _ := tableOf(w, r.R.Inode())
		return s.Seeded && s.Entries > 0
	})
	finish()
	for a, row := range sameLive(t, w, r.R) {
		if n := truth.FlowsBySource()[a]; row.New != n || row.Live != n {
			t.Errorf("%s: %d new, %d live, sent %d", a, row.New, row.Live, n)
		}
	}
}

// A table of 99 and 1,000 flows of four sources: per source what is new, lost
// and evicted, against what was sent and what the table still has.
func TestCensusTableFull(t *testing.T) {
	r := router(t, netlab.Options{})
	limit(t, r, noGC, 4096)
	w, finish := watch(t)
	truth := send(t, r, sources("198.51.100.1", 4, 250, netlab.Sink(0)))
	finish()
	rows := sameLive(t, w, r.R)
	left := held(t, r.R)
	var evicted, evictor uint64
	for a, sent := range truth.FlowsBySource() {
		got := rows[a]
		if got.New+got.Drops != sent || got.Evicted != got.New-left[a] || got.Destroyed != got.Evicted {
			t.Errorf("%s: %+v, sent %d, left %d", a, got.Sums, sent, left[a])
		}
		evicted += got.Evicted
		evictor += got.Evictor
	}
	if evicted == 0 || evictor != evicted {
		t.Errorf("%d evicted, %d for somebody", evicted, evictor)
	}
}

// First contacts have their outcome: open, refused and silent ports.
func TestCensusOutcomes(t *testing.T) {
	r := router(t, netlab.Options{})
	open := netip.AddrPortFrom(netlab.ServerV4, 8080)
	s, err := r.ServeTCP(open)
	must(t, err)
	defer s.Close()
	w, finish := watch(t)
	scanned, err := r.ConnectScan(t.Context(), netlab.ConnectOptions{Dst: open}, netlab.Ports{First: 8070, N: 20})
	must(t, err)
	must(t, r.Drain())
	send(t, r, sources(netlab.ClientV4.String(), 1, 1, netlab.Sink(0)))
	send(t, r, sources(netlab.ClientV4.String(), 1, 3, netlab.Sink(0))) // known: not first contacts any more
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if row := rowsOf(w, r.R.Inode())[netlab.ClientV4]; row.Unanswered > 0 || time.Now().After(end) {
			break
		}
	}
	finish()
	row := rowsOf(w, r.R.Inode())[netlab.ClientV4]
	if row.Answered != 1 || row.Refused != 19 || row.Unanswered != 1 || row.DistinctDports != 21 || row.DistinctDsts != 2 {
		t.Errorf("answered %d, refused %d, unanswered %d, %d ports of %d hosts; scan: %s", row.Answered, row.Refused, row.Unanswered,
			row.DistinctDports, row.DistinctDsts, fmt.Sprint(scanned))
	}
}
