package scenario

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/lab/sidecar"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
)

// What the metrics say is what was sent, what the kernel counted, and what the
// ledger says.
func TestServeMetrics(t *testing.T) {
	r := router(t, netlab.Options{Name: "metrics"}) // with Landlock only names are found
	limit(t, r, 300, noEvictions)
	s := sidecar.Start(t, exec.Command("ctsight")).Tracing(t)
	before, kernel := s.Values(t), stats(t, r.R)
	const sent = 1000
	send(t, r, sources("198.51.100.1", 4, sent/4, netlab.Sink(0)))
	var after map[string]float64
	diff := func(name string) float64 { return after[name] - before[name] }
	until(t, "all are told", func() bool { // lost packets are counted at once, new ones come as events
		after = s.Values(t)
		return diff("new_connections_total{family=ipv4,proto=udp}")+diff("drops_total{reason=table_full}") >= sent
	})
	now := stats(t, r.R)

	dropped := diff("drops_total{reason=table_full}")
	if want := now.N[ctnl.StatDrop] - kernel.N[ctnl.StatDrop]; dropped != float64(want) || dropped == 0 {
		t.Errorf("%v packets dropped for a full table, the kernel counted %d", dropped, want)
	}
	if n := diff("new_connections_total{family=ipv4,proto=udp}"); n+dropped != sent {
		t.Errorf("%v new and %v dropped, sent %d", n, dropped, sent)
	}
	if after["build_info"] != 0 || sidecar.Sum(after, "build_info") != 1 || after["tracing"] != 1 || after["events_lost_total{stage=ring}"] != 0 {
		t.Errorf("state: %v", after)
	}
	a := s.Account(t)
	same := s.Values(t)
	if got := same["drops_total{reason=table_full}"]; got != float64(a.Totals.Drop["table_full"]) {
		t.Errorf("metrics: %v dropped for a full table, ledger: %d", got, a.Totals.Drop["table_full"])
	}
	if got := sidecar.Sum(same, "new_connections_total"); got != float64(a.Totals.New) {
		t.Errorf("metrics: %v new, ledger: %d", got, a.Totals.New)
	}
	compared(t, s, r)
	for _, name := range []string{"drop", "insert_failed"} {
		if d, ok := same["ledger_difference{counter="+name+"}"]; ok && d != 0 {
			t.Errorf("difference of %s: %v", name, d)
		}
	}
}

// compared wants four counters of the router or more, without difference.
func compared(t *testing.T, s *sidecar.Sidecar, r *netlab.Router) {
	t.Helper()
	rows := 0
	for _, b := range s.Account(t).Balance {
		if b.NetNS != uint32(r.R.Inode()) || b.Difference == nil {
			continue
		}
		if rows++; *b.Difference != 0 {
			t.Errorf("%s: difference %d", b.Counter, *b.Difference)
		}
	}
	if rows < 4 {
		t.Errorf("only %d counters were compared: %s", rows, s.Get(t, "/api/v1/drops"))
	}
}

// stats are the kernel's own counters of a namespace.
func stats(t *testing.T, ns *netlab.NS) ctnl.Totals {
	t.Helper()
	c, err := trace.Dial(ns)
	must(t, err)
	defer c.Close()
	all, err := c.Stats()
	must(t, err)
	return ctnl.Sum(all)
}

// A real Prometheus with our rules watches a table of 20,000 fill at 300 a second
// and overflow. Its counters are those of the ledger, none of them ever goes back,
// and the alert fires before the first packet is lost.
func TestServePrometheus(t *testing.T) {
	if _, err := exec.LookPath("prometheus"); err != nil {
		t.Skip("no prometheus in the guest: make deps-test")
	}
	if k := lab.KernelName(); k != "" && k != "6.12" {
		t.Skip("takes minutes, and nothing in it depends on the kernel: runs on 6.12")
	}
	r := router(t, netlab.Options{Name: "gw"})
	s := sidecar.Start(t, exec.Command("ctsight")).Tracing(t)
	p := sidecar.Scrape(t, s)
	stop := s.NeverBack(t)
	const most, rate = 20000, 300
	limit(t, r, most, noEvictions)
	begin := time.Now()
	flood(t, r, sources("198.51.100.1", 50, 600, netlab.Sink(0)), rate)
	fired := map[string]time.Time{}
	var first time.Time // packet lost
	until(t, "a packet is lost", func() bool {
		alerts, err := p.Query(`ALERTS{alertstate="firing"}`)
		must(t, err)
		for _, a := range alerts {
			if name := a.Metric["alertname"]; fired[name].IsZero() {
				fired[name] = time.Now()
				t.Logf("at +%.0f s %s fires (%s)", time.Since(begin).Seconds(), name, a.Metric["severity"])
			}
		}
		if first.IsZero() && stats(t, r.R).N[ctnl.StatDrop] > 0 {
			first = time.Now()
			t.Logf("at +%.0f s the first packet is lost", time.Since(begin).Seconds())
		}
		return !first.IsZero()
	})
	warned := false
	for name, at := range fired {
		if strings.Contains(name, "Fill") || strings.Contains(name, "Full") {
			warned = warned || at.Before(first)
			t.Logf("%s: %.0f s before the first packet was lost", name, first.Sub(at).Seconds())
		}
	}
	if !warned {
		t.Errorf("no alert about the table before the first packet was lost: %v", fired)
	}
	until(t, "the alert about lost packets", func() bool {
		alerts, err := p.Query(`ALERTS{alertstate="firing",alertname=~".*Drop.*|.*Lost.*"}`)
		must(t, err)
		return len(alerts) > 0
	})
	if n := stop(); n < 20 {
		t.Errorf("only %d looks at the counters", n)
	}
	settled(t, s, p)
	compared(t, s, r)
}

// settled compares Prometheus with the ledger once both stand still.
func settled(t *testing.T, s *sidecar.Sidecar, p *sidecar.Prometheus) {
	t.Helper()
	number := func(q string) float64 {
		r, err := p.Query(q)
		must(t, err)
		if len(r) != 1 {
			return -1
		}
		f, err := strconv.ParseFloat(r[0].Last(), 64)
		must(t, err)
		return f
	}
	until(t, "Prometheus has what the ledger has", func() bool {
		a := s.Account(t)
		return a.Totals.Drop["table_full"] > 0 &&
			number(`sum(ctsight_drops_total{reason="table_full"})`) == float64(a.Totals.Drop["table_full"]) &&
			number(`sum(ctsight_new_connections_total)`) == float64(a.Totals.New) &&
			number(`ctsight_events_seen_total`) == float64(a.Loss.Seen)
	})
}

// A namespace that only a process holds cannot be looked at from under Landlock. Its
// connections are counted all the same, and the ledger and the log say why it has
// no balance.
func TestServeHidden(t *testing.T) {
	lab.NeedVM(t)
	trace.LoadModules()
	s := sidecar.Start(t, exec.Command("ctsight")).Tracing(t)
	until(t, "it has given up privileges", func() bool { return strings.Contains(s.Said(), "msg=tracing") })
	if !strings.Contains(s.Said(), "landlock ABI") {
		t.Skip("this kernel has no Landlock")
	}
	r := router(t, netlab.Options{})
	send(t, r, udp(50))
	until(t, "the log tells of it", func() bool {
		notes := ""
		for _, b := range s.Account(t).Balance {
			if b.NetNS == uint32(r.R.Inode()) {
				notes += b.Note
			}
		}
		if !strings.Contains(notes, "has not ended") {
			t.Fatalf("the ledger notes %q", notes)
		}
		return strings.Count(s.Said(), "has not ended") == 1
	})
	if n := s.Values(t)["new_connections_total{family=ipv4,proto=udp}"]; n != 50 {
		t.Errorf("%v new, sent 50", n)
	}
}
