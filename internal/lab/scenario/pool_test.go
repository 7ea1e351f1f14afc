package scenario

import (
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/pipeline"
)

// pools counts the entries that a namespace has behind each NAT address by
// destination, as the kernel tells them.
func pools(t *testing.T, ns *netlab.NS) map[agg.Key]uint64 {
	t.Helper()
	c, err := trace.Dial(ns)
	must(t, err)
	defer c.Close()
	out := map[agg.Key]uint64{}
	must(t, c.Dump(t.Context(), func(e *ctnl.Entry) error {
		if e.Status&event.SrcNAT != 0 {
			port := e.Reply.Sport
			if e.Reply.IsICMP() {
				port = 0
			}
			out[agg.Key{NetNS: ns.Inode(), Src: e.Reply.Dst, Dst: e.Reply.Src, Dport: port, Proto: e.Reply.Proto}]++
		}
		return nil
	}))
	return out
}

// knownPools are those of a picture.
func knownPools(w *pipeline.Watch, ns event.NetNS) (inUse map[agg.Key]uint64, all map[agg.Key]agg.PoolState) {
	inUse, all = map[agg.Key]uint64{}, map[agg.Key]agg.PoolState{}
	for _, p := range w.Top(agg.BySrc, agg.ColNew, 0, nil).Pools {
		if p.NetNS == ns {
			inUse[p.Key], all[p.Key] = p.InUse, p
		}
	}
	return inUse, all
}

// samePools waits until what is in use is what the kernel has.
func samePools(t *testing.T, w *pipeline.Watch, ns *netlab.NS, what string) {
	t.Helper()
	truth := pools(t, ns)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		got, _ := knownPools(w, ns.Inode())
		if maps.Equal(got, truth) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: in use %v, the kernel has %v", what, got, truth)
		}
	}
}

// A NAT address with 1,000 ports, of which 300 are taken when the watch begins: in
// use is what the kernel has, by destination; when none is left the packets lost
// are those that were sent in vain, and the capacity is where the kernel stopped.
func TestNATPool(t *testing.T) {
	const ports = 1000
	r := router(t, netlab.Options{})
	must(t, r.R.Masquerade(netlab.Match{Proto: event.ProtoUDP}, netlab.Ports{First: 10000, N: ports}))
	busy := agg.Key{NetNS: r.R.Inode(), Src: netlab.RouterBV4, Dst: netlab.Sink(0), Dport: 53, Proto: event.ProtoUDP}
	send(t, r, sources("198.51.100.1", 3, 100, netlab.Sink(0)))
	send(t, r, sources("198.51.100.1", 1, 20, netlab.Sink(1)))
	w, finish := watch(t)
	samePools(t, w, r.R, "before the start")
	sent := send(t, r, sources("198.51.100.11", 4, 100, netlab.Sink(0))).Flows()
	send(t, r, sources("198.51.100.2", 1, 30, netlab.Sink(1)))
	samePools(t, w, r.R, "after more flows")
	run(t, r, "conntrack", "-D", "-s", "198.51.100.2")  // of before
	run(t, r, "conntrack", "-D", "-s", "198.51.100.12") // of after
	samePools(t, w, r.R, "after deletions")
	if _, all := knownPools(w, r.R.Inode()); all[busy].InUse != 500 || all[busy].Learned || all[busy].Capacity != 64_512 {
		t.Errorf("before it is exhausted: %+v", all[busy])
	}
	// The kernel gives up before it has tried all ports: the last are found by chance.
	sent += send(t, r, sources("203.0.113.1", 10, 100, netlab.Sink(0))).Flows()
	samePools(t, w, r.R, "when it is exhausted")
	finish()
	truth := pools(t, r.R)
	_, all := knownPools(w, r.R.Inode())
	got := all[busy]
	if got.InUse != truth[busy] || !got.Learned || got.Capacity != truth[busy] || got.Fill() != 1 {
		t.Errorf("%+v, the kernel stopped at %d", got, truth[busy])
	}
	if got.New+got.Drops != sent || got.Drops == 0 || truth[busy] < ports*98/100 {
		t.Errorf("%d new and %d drops of %d sent, %d of %d ports in use", got.New, got.Drops, sent, truth[busy], ports)
	}
	if other := all[agg.Key{NetNS: busy.NetNS, Src: busy.Src, Dst: netlab.Sink(1), Dport: 53, Proto: event.ProtoUDP}]; other.InUse != 20 || other.Learned || other.Drops != 0 {
		t.Errorf("the other destination: %+v", other)
	}
}

// The ids of pings and the ports of IPv6 are pools too; what is not translated is
// in none.
func TestNATPoolKinds(t *testing.T) {
	r := router(t, netlab.Options{})
	for _, proto := range []uint8{event.ProtoICMP, event.ProtoTCP} {
		must(t, r.R.Masquerade(netlab.Match{Proto: proto}, netlab.Ports{}))
	}
	w, finish := watch(t)
	first := firstPackets(7)
	for _, name := range []string{"icmp", "tcp4", "tcp6", "udp4"} {
		send(t, r, first[name])
	}
	samePools(t, w, r.R, "all kinds")
	finish()
	_, all := knownPools(w, r.R.Inode())
	for name, src := range map[string]netip.Addr{"icmp": netlab.RouterBV4, "tcp4": netlab.RouterBV4, "tcp6": netlab.RouterBV6} {
		f := first[name]
		k := agg.Key{NetNS: r.R.Inode(), Src: src, Dst: f.Dst.First, Dport: 53, Proto: f.Proto}
		want := uint64(64_512)
		if f.Proto == event.ProtoICMP {
			k.Dport, want = 0, 65_536
		}
		if p := all[k]; p.InUse != 7 || p.Capacity != want || p.Drops != 0 {
			t.Errorf("%s: %+v of %v", name, p, all)
		}
		delete(all, k)
	}
	if len(all) > 0 {
		t.Errorf("pools of nothing: %v", all)
	}
}
