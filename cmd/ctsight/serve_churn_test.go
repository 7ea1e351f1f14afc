package main

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/lab/sidecar"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
)

// churn is how many namespaces come and go: 10,000 where they come fast.
func churn() int {
	if lab.InVM() && os.Getenv("CTSIGHT_LONG") == "" {
		return 200
	}
	return 10000
}

// Namespaces come and go, each with entries: nothing of them is left in the sidecar,
// and where the backend sees all, not one entry is missing in its counters.
func TestServeNamespaces(t *testing.T) {
	lab.NeedRoot(t)
	trace.LoadModules()
	s := sidecar.Start(t, ctsight(t)).Tracing(t)
	stop := s.NeverBack(t)
	const perNS = 3
	each := func(n int) {
		t.Helper()
		for range n {
			brief(t, perNS)
		}
	}
	settled := func() map[string]float64 {
		t.Helper()
		last := -1.0
		var v map[string]float64
		eventually(t, "the last are gone", func() bool {
			v = s.Values(t)
			seen := v["events_seen_total"]
			still := seen == last && v["live_entries"] == 0
			last = seen
			time.Sleep(time.Second)
			return still
		})
		return v
	}
	each(churn() / 5) // until all tables have the size they need
	before := settled()
	rss, fds := s.Status(t, "VmRSS"), s.Descriptors(t)
	begin := time.Now()
	each(churn())
	t.Logf("%d namespaces in %v", churn(), time.Since(begin).Round(time.Second))
	after := settled()
	t.Logf("RSS %d -> %d kB, descriptors %d -> %d", rss, s.Status(t, "VmRSS"), fds, s.Descriptors(t))
	if now := s.Status(t, "VmRSS"); now > rss+rss/5 { // as much as one collection of garbage differs from the next
		t.Errorf("RSS grew from %d to %d kB", rss, now)
	}
	if now := s.Descriptors(t); now > fds+10 {
		t.Errorf("descriptors grew from %d to %d", fds, now)
	}
	if after["bpf_map_bytes"] != before["bpf_map_bytes"] {
		t.Errorf("maps grew from %v to %v bytes", before["bpf_map_bytes"], after["bpf_map_bytes"])
	}
	if lab.InVM() { // function hooks
		for _, name := range []string{"new_connections_total{family=ipv4,proto=udp}", "destroyed_connections_total{cause=netns_exit,proto=udp}"} {
			if n := after[name] - before[name]; n != float64(perNS*churn()) {
				t.Errorf("%s grew by %v, made %d", name, n, perNS*churn())
			}
		}
	}
	if n := stop(); n == 0 {
		t.Error("no look at the counters")
	}
}

// When a namespace ends, its entries do, on backends too that nobody tells of it.
func TestServeForgets(t *testing.T) {
	lab.NeedRoot(t)
	trace.LoadModules()
	r, err := netlab.NewRouter(netlab.Options{Name: "forgets"})
	must(t, err)
	s := sidecar.Start(t, ctsight(t), "--netns", "forgets-router").Tracing(t) // others may have entries too
	for k := range s.Values(t) {
		if name, _, _ := strings.Cut(k, "{"); name == "table_entries" && k != "table_entries{netns=forgets-router}" {
			t.Errorf("--netns shows %s", k)
		}
	}
	live := func() float64 { return s.Values(t)["live_entries"] }
	_, err = r.SendFlows(t.Context(), netlab.Flows{Proto: event.ProtoUDP, Src: netlab.OneAddr(netlab.ClientV4), Dst: netlab.OneAddr(netlab.Sink(0)),
		SPorts: netlab.Ports{First: 1024, N: 500}, DPorts: netlab.OnePort(53)}, netlab.SendOptions{})
	must(t, err)
	eventually(t, "all are known", func() bool { return live() >= 500 })
	must(t, r.Close())
	eventually(t, "all are forgotten", func() bool { return live() == 0 })
}

// brief is the life of a namespace that tracks n packets to itself.
func brief(t *testing.T, n int) {
	t.Helper()
	ns, err := netlab.NewNS()
	must(t, err)
	must(t, ns.EnableConntrack())
	must(t, ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			return err
		}
		for i := range n {
			c, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1000 + i})
			if err != nil {
				return err
			}
			_, err = c.Write([]byte("x"))
			if err := errors.Join(err, c.Close()); err != nil {
				return err
			}
		}
		return nil
	}))
	must(t, ns.Close())
}
