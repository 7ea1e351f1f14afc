// Package scenario provokes what conntrack can do to a packet or an entry, on
// real kernels, and holds ctsight against oracles it knows nothing of: the
// kernel's statistics, nft counters, conntrack(8), the generator's truth. The
// tests carry the numbers of the recipes in docs/exactness.md; the harness and
// what it checks after each of them is package trace.
package scenario

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"testing"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
)

func TestMain(m *testing.M) { os.Exit(trace.Main(m)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// router builds a lab for one test; outside the VM the test is skipped.
func router(t *testing.T, o netlab.Options) *netlab.Router {
	t.Helper()
	lab.NeedVM(t)
	trace.LoadModules() // the sysctls of conntrack are there with its module only
	r, err := netlab.NewRouter(o)
	must(t, err)
	t.Cleanup(func() { must(t, r.Close()) })
	for _, ns := range []*netlab.NS{r.A, r.R} { // longer than any test takes, where the machine is slow
		for _, name := range []string{"udp", "icmp", "icmpv6"} {
			must(t, r.SetSysctl(ns, "net.netfilter.nf_conntrack_"+name+"_timeout", "600"))
		}
	}
	return r
}

// limit sets nf_conntrack_max, and the number of buckets unless it is 0, for
// the whole machine until the lab closes.
func limit(t *testing.T, r *netlab.Router, most, buckets int) {
	t.Helper()
	must(t, r.SetSysctl(nil, "net.netfilter.nf_conntrack_max", strconv.Itoa(most)))
	if buckets > 0 {
		must(t, r.SetSysctl(nil, "net.netfilter.nf_conntrack_buckets", strconv.Itoa(buckets)))
	}
}

// noEvictions are so many buckets that early drop, which looks into eight of
// them, practically never finds one of a few entries.
const noEvictions = 262144

// noGC is the largest table that the garbage collector spares, whenever it comes
// round: where early drop has failed it evicts from max/100*95 entries on, which
// it takes for never when it is 0 (gc_worker).
const noGC = 99

func sysctl(t *testing.T, r *netlab.Router, name string, value int) {
	t.Helper()
	must(t, r.SetSysctl(r.R, "net.netfilter."+name, strconv.Itoa(value)))
}

// send sends one packet of each flow from A.
func send(t *testing.T, r *netlab.Router, f netlab.Flows) *netlab.Truth {
	t.Helper()
	truth, err := r.SendFlows(t.Context(), f, netlab.SendOptions{})
	must(t, err)
	must(t, r.Drain())
	return truth
}

// run runs a program in the router.
func run(t *testing.T, r *netlab.Router, name string, args ...string) string {
	t.Helper()
	out, err := r.R.Run(name, args...)
	must(t, err)
	return out
}

// firstPackets are flows to where nobody answers, one for each protocol that a
// first packet can have.
func firstPackets(n int) map[string]netlab.Flows {
	out := map[string]netlab.Flows{}
	for _, f := range []netlab.Flows{
		{Proto: event.ProtoUDP, Dst: netlab.OneAddr(netlab.Sink(0))},
		{Proto: event.ProtoTCP, Dst: netlab.OneAddr(netlab.Sink(0))},
		{Proto: event.ProtoICMP, Dst: netlab.OneAddr(netlab.Sink(0))},
		{Proto: event.ProtoUDP, Dst: netlab.OneAddr(netlab.Sink6(0))},
		{Proto: event.ProtoTCP, Dst: netlab.OneAddr(netlab.Sink6(0))},
		{Proto: event.ProtoICMPv6, Dst: netlab.OneAddr(netlab.Sink6(0))},
	} {
		v := 4
		f.Src = netlab.OneAddr(netlab.ClientV4)
		if f.Dst.First.Is6() {
			f.Src, v = netlab.OneAddr(netlab.ClientV6), 6
		}
		f.SPorts, f.DPorts = netlab.Ports{First: 1024, N: n}, netlab.OnePort(53)
		name := event.ProtoName(f.Proto)
		if f.Proto == event.ProtoUDP || f.Proto == event.ProtoTCP {
			name = fmt.Sprintf("%s%d", name, v)
		}
		out[name] = f
	}
	return out
}

// udp are n UDP flows of one source to one destination that does not answer.
func udp(n int) netlab.Flows { return firstPackets(n)["udp4"] }

// create makes entries over netlink which are answered and assured, so that
// early drop spares them.
func create(t *testing.T, r *netlab.Router, n int) {
	t.Helper()
	c, err := trace.Dial(r.R)
	must(t, err)
	defer c.Close()
	for i := range n {
		must(t, c.Create(assured(i)))
	}
}

func assured(i int) *ctnl.Entry {
	orig := event.Tuple{Src: netip.MustParseAddr("192.0.2.1"), Dst: netlab.Sink(i / 50000), Sport: uint16(1024 + i%50000), Dport: 9, Proto: event.ProtoUDP}
	return &ctnl.Entry{Orig: orig, Reply: orig.Inverse(), Status: event.SeenReply | event.Assured, Timeout: 600e9}
}
