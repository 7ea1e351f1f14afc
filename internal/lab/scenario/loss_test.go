package scenario

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/netlab"
	"github.com/ctsight/ctsight/internal/probe"
)

// names are those of this kernel's functions and drop reasons.
var names = probe.NewNames()

var nftPackets = regexp.MustCompile(`packets (\d+)`)

// nftCounter reads a named counter of table inet zz.
func nftCounter(t *testing.T, ns *netlab.NS, name string) uint64 {
	t.Helper()
	out, err := ns.Run("nft", "list", "counter", "inet", "zz", name)
	must(t, err)
	m := nftPackets.FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("counter %s: %q", name, out)
	}
	n, err := strconv.ParseUint(m[1], 10, 64)
	must(t, err)
	return n
}

// T13: nothing on the way out to masquerade with.
func TestT13MasqueradeNoAddress(t *testing.T) {
	for _, name := range []string{"udp4", "tcp4", "udp6", "tcp6"} {
		t.Run(name, func(t *testing.T) {
			r := router(t, netlab.Options{})
			f := firstPackets(2)[name]
			must(t, r.R.Masquerade(netlab.Match{Proto: f.Proto}, netlab.Ports{}))
			if f.Src.First.Is4() {
				// The kernel would take an address of any interface.
				for dev, a := range map[string]string{"ra": "10.0.1.1/24", "rb": "10.0.2.1/24"} {
					run(t, r, "ip", "addr", "del", a, "dev", dev)
					run(t, r, "ip", "addr", "add", a, "dev", dev, "scope", "link")
				}
				run(t, r, "ip", "route", "replace", "10.9.0.0/16", "via", "10.0.2.2", "dev", "rb", "onlink")
			} else {
				must(t, r.SetSysctl(r.R, "net.ipv6.conf.rb.use_oif_addrs_only", "1"))
				must(t, r.R.DelAddr("rb", netip.PrefixFrom(netlab.RouterBV6, 64)))
				run(t, r, "ip", "-6", "route", "replace", "fd00:9::/64", "dev", "rb")
			}
			watch := trace.Start(t, r.R)
			truth := send(t, r, f)
			watch.Check()
			got := watch.In(r.R)
			got.Is(t, trace.Want{Reasons: trace.Reasons{event.MasqNoAddr: 2}})
			got.AccountsFor(t, truth)
			if got.Traced.Alloc != 2 || got.Traced.Free != 2 {
				t.Errorf("%d allocated, %d freed, want 2", got.Traced.Alloc, got.Traced.Free)
			}
		})
	}
}

// T14: the operator's own rules, at every hook after the lookup.
func TestT14Policy(t *testing.T) {
	for _, c := range []struct{ name, chain, flows string }{
		{"forward", "type filter hook forward priority 0; udp dport 53 counter name lost drop;", "udp4"},
		{"forward6", "type filter hook forward priority 0; meta l4proto tcp counter name lost drop;", "tcp6"},
		{"policy", "type filter hook forward priority 0; policy drop; counter name lost;", "icmp"},
		{"prerouting", "type filter hook prerouting priority -150; udp dport 53 counter name lost drop;", "udp6"},
		{"postrouting", "type filter hook postrouting priority 0; udp dport 53 counter name lost drop;", "udp4"},
		{"nat chain", "type nat hook prerouting priority -100; udp dport 53 counter name lost drop;", "udp4"},
		{"reject", "type filter hook forward priority 0; meta l4proto tcp counter name lost reject with tcp reset;", "tcp4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := router(t, netlab.Options{})
			must(t, r.R.NFT("table inet zz { counter lost { }; chain c { "+c.chain+" }; }"))
			watch := trace.Start(t, r.R)
			truth := send(t, r, firstPackets(4)[c.flows])
			watch.Check()
			got := watch.In(r.R)
			got.Is(t, trace.Want{Reasons: trace.Reasons{event.RulesetNew: 4}})
			got.AccountsFor(t, truth)
			if n := nftCounter(t, r.R, "lost"); n != 4 || got.Traced.Alloc != 4 || got.Traced.Free != 4 {
				t.Errorf("the rule counts %d, %d allocated, %d freed; want 4", n, got.Traced.Alloc, got.Traced.Free)
			}
			for _, e := range got.Of(trace.ByKind(event.Drop)) {
				if e.Location == 0 {
					t.Errorf("%v: no location", e.Orig)
				}
			}
		})
	}
}

// Rules of iptables, which free packets elsewhere than nftables does.
func TestT14Iptables(t *testing.T) {
	for _, c := range []struct{ name, cmd, flows string }{
		{"filter", "iptables-legacy", "udp4"},
		{"filter6", "ip6tables-legacy", "udp6"},
		{"nft", "iptables-nft", "udp4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := router(t, netlab.Options{})
			run(t, r, c.cmd, "-A", "FORWARD", "-p", "udp", "--dport", "53", "-j", "DROP")
			watch := trace.Start(t, r.R)
			truth := send(t, r, firstPackets(4)[c.flows])
			watch.Check()
			watch.In(r.R).Is(t, trace.Want{Reasons: trace.Reasons{event.RulesetNew: 4}})
			watch.In(r.R).AccountsFor(t, truth)
		})
	}
}

// Local sockets: the sender is told, and the first packet of the flow is lost
// all the same.
func TestT14Output(t *testing.T) {
	r := router(t, netlab.Options{})
	must(t, r.A.NFT("table inet zz { counter lost { }; chain c { type filter hook output priority 0; ct state new udp dport 53 counter name lost drop; }; }"))
	watch := trace.Start(t, r.A)
	truth, err := r.SendFlows(t.Context(), udp(4), netlab.SendOptions{ViaStack: true})
	must(t, err)
	must(t, r.Drain())
	watch.Check()
	watch.In(r.A).Is(t, trace.Want{Reasons: trace.Reasons{event.RulesetNew: 4}})
	watch.In(r.A).AccountsFor(t, truth)
	if n := nftCounter(t, r.A, "lost"); n != 4 || truth.Denied() != 4 {
		t.Errorf("the rule counts %d, the senders %d; want 4", n, truth.Denied())
	}
}

// What is dropped before conntrack, and packets that are exempt from it, have
// nothing to do with it; also when the memory of an invalid packet is used
// again for them. So each follows an invalid packet that is gone by then.
func TestNotConntrack(t *testing.T) {
	r := router(t, netlab.Options{})
	must(t, r.R.NFT(`table inet zz { counter raw { }; counter untracked { };
		chain raw { type filter hook prerouting priority -300; udp dport 53 counter name raw drop; udp dport 54 notrack; }
		chain f { type filter hook forward priority 0; udp dport 54 counter name untracked drop; }; }`))
	watch := trace.Start(t, r.R)
	var packets []netlab.Packet
	for i := range 150 {
		// An answer to what nobody asked. B consumes it, which no hook sees.
		stray := netlab.Packet{Tuple: event.Tuple{Src: netlab.ClientV4, Dst: netlab.ServerV4, Sport: uint16(i + 1), Dport: 14 << 8, Proto: event.ProtoICMP}}
		raw := netlab.Packet{Tuple: udp(150).Tuple(i)}
		untracked := raw
		untracked.Tuple.Dport = 54
		packets = append(packets, stray, raw, stray, untracked)
	}
	_, err := r.SendPackets(netlab.SendOptions{}, packets...)
	must(t, err)
	must(t, r.Drain())
	watch.Check()
	watch.In(r.R).Is(t, trace.Want{Reasons: trace.Reasons{event.InvalidPacket: 300}, Kernel: trace.Counters{ctnl.StatInvalid: 300}})
	if raw, un := nftCounter(t, r.R, "raw"), nftCounter(t, r.R, "untracked"); raw != 150 || un != 150 {
		t.Errorf("the rules count %d and %d, want 150", raw, un)
	}
}

// A rule that drops later packets of a flow drops no new flow.
func TestEstablishedDrop(t *testing.T) {
	r := router(t, netlab.Options{})
	tcp := forge(t, r)
	must(t, r.R.NFT("table inet zz { counter lost { }; chain c { type filter hook forward priority 0; ct state established tcp flags psh counter name lost drop; }; }"))
	watch := trace.Start(t, r.R)
	must(t, tcp.Open(t.Context()))
	must(t, tcp.Segment(t.Context(), netlab.Client, netlab.PSH|netlab.ACK, []byte("hello")))
	watch.Check()
	watch.In(r.R).Is(t, trace.Want{New: 1})
	if n := nftCounter(t, r.R, "lost"); n != 1 {
		t.Errorf("the rule counts %d, want 1", n)
	}
}

// T7b: the rule's own counter, where packets are forwarded, come in or go out.
func TestT7bInvalidDrop(t *testing.T) {
	r := router(t, netlab.Options{})
	rules := "table inet zz { "
	for _, h := range []string{"forward", "input", "output"} {
		rules += "counter " + h + " { }; chain " + h + " { type filter hook " + h + " priority 0; ct state invalid counter name " + h + " drop; }; "
	}
	must(t, r.R.NFT(rules+"}"))
	must(t, r.A.NFT(rules+"}"))
	watch := trace.Start(t, r.R, r.A)
	forward := invalid()
	input := invalid()
	for i := range input {
		input[i].Tuple.Dst = netlab.RouterAV4
	}
	_, err := r.SendPackets(netlab.SendOptions{}, append(forward, input...)...)
	must(t, err)
	output, err := r.SendPackets(netlab.SendOptions{ViaStack: true}, forward...)
	must(t, err)
	must(t, r.Drain())
	watch.Check()
	watch.In(r.R).Is(t, trace.Want{
		Reasons: trace.Reasons{event.InvalidPacket: 6, event.RulesetInvalid: 6}, Kernel: trace.Counters{ctnl.StatInvalid: 6},
	})
	watch.In(r.A).Is(t, trace.Want{
		Reasons: trace.Reasons{event.InvalidPacket: 3, event.RulesetInvalid: 3}, Kernel: trace.Counters{ctnl.StatInvalid: 3},
	})
	if f, i, o := nftCounter(t, r.R, "forward"), nftCounter(t, r.R, "input"), nftCounter(t, r.A, "output"); f != 3 || i != 3 || o != 3 || output.Denied() != 3 {
		t.Errorf("the rules count %d, %d and %d, the sender %d; want 3", f, i, o, output.Denied())
	}
}

// T24: ICMP errors about flows that nobody knows.
func TestT24ICMPError(t *testing.T) {
	r := router(t, netlab.Options{})
	must(t, r.R.NFT("table inet zz { counter lost { }; chain c { type filter hook forward priority 0; ct state invalid counter name lost drop; }; }"))
	watch := trace.Start(t, r.R)
	var sent []netlab.Packet
	for _, name := range []string{"udp4", "tcp4", "icmp", "udp6", "tcp6"} {
		f := firstPackets(1)[name]
		inner := netlab.Packet{Tuple: f.Tuple(0)} // as if the client had answered
		inner.Tuple.Src, inner.Tuple.Dst = inner.Tuple.Dst, inner.Tuple.Src
		p, err := netlab.Unreachable(f.Src.First, inner)
		must(t, err)
		sent = append(sent, p)
	}
	_, err := r.SendPackets(netlab.SendOptions{}, sent...)
	must(t, err)
	must(t, r.Drain())
	watch.Check()
	n := uint64(len(sent))
	got := watch.In(r.R)
	got.Is(t, trace.Want{Reasons: trace.Reasons{event.ICMPErrorPacket: n, event.RulesetInvalid: n}, Kernel: trace.Counters{ctnl.StatError: n}})
	if lost := nftCounter(t, r.R, "lost"); lost != n || got.Traced.Alloc != 0 {
		t.Errorf("the rule counts %d, want %d; %d allocated", lost, n, got.Traced.Alloc)
	}
}

// T15: more connections than connlimit allows. That is a rule that matches.
func TestT15Connlimit(t *testing.T) {
	for name, rule := range map[string]func(*testing.T, *netlab.Router){
		"iptables": func(t *testing.T, r *netlab.Router) {
			run(t, r, "iptables-legacy", "-A", "FORWARD", "-p", "udp", "-m", "connlimit", "--connlimit-above", "2", "-j", "DROP")
		},
		"nftables": func(t *testing.T, r *netlab.Router) {
			must(t, r.R.NFT("table inet zz { chain c { type filter hook forward priority 0; meta l4proto udp ct count over 2 drop; }; }"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := router(t, netlab.Options{})
			rule(t, r)
			watch := trace.Start(t, r.R)
			truth := send(t, r, udp(5))
			watch.Check()
			watch.In(r.R).Is(t, trace.Want{New: 2, Reasons: trace.Reasons{event.RulesetNew: 3}})
			watch.In(r.R).AccountsFor(t, truth)
		})
	}
}

// Connlimit cannot count a packet that has neither an entry nor ports.
func TestConnlimitError(t *testing.T) {
	r := router(t, netlab.Options{})
	run(t, r, "iptables-legacy", "-A", "FORWARD", "-p", "udp", "-m", "connlimit", "--connlimit-above", "2", "-j", "DROP")
	s, err := r.NewSender(r.A, netlab.SendOptions{})
	must(t, err)
	defer s.Close()
	watch := trace.Start(t, r.R)
	tuple := event.Tuple{Src: netlab.ClientV4, Dst: netlab.Sink(0), Proto: event.ProtoUDP}
	b, err := (&netlab.Packet{Tuple: tuple}).Append(nil)
	must(t, err)
	b = b[:22]
	b[2], b[3], b[10], b[11] = 0, 22, 0, 0
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	sum = sum>>16 + sum&0xffff
	b[10], b[11] = ^byte(sum>>8), ^byte(sum)
	for range 3 {
		must(t, s.SendRaw(b, tuple))
	}
	must(t, s.Sync())
	watch.Check()
	watch.In(r.R).Is(t, trace.Want{
		Reasons: trace.Reasons{event.InvalidPacket: 3, event.ConnlimitError: 3}, Kernel: trace.Counters{ctnl.StatInvalid: 3},
	})
}

// T16: lost by routing, after the lookup.
func TestT16Routing(t *testing.T) {
	for _, c := range []struct {
		name  string
		route []string
		dst   netip.Addr
		ttl   uint8
	}{
		{"blackhole", []string{"blackhole", "10.9.9.0/24"}, netip.MustParseAddr("10.9.9.9"), 64},
		{"unreachable", []string{"unreachable", "10.9.9.0/24"}, netip.MustParseAddr("10.9.9.9"), 64},
		{"prohibit", []string{"prohibit", "10.9.9.0/24"}, netip.MustParseAddr("10.9.9.9"), 64},
		{"blackhole6", []string{"blackhole", "fd00:9::9/128"}, netip.MustParseAddr("fd00:9::9"), 64},
		{"ttl", nil, netlab.Sink(0), 1},
		{"hop limit", nil, netlab.Sink6(0), 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := router(t, netlab.Options{})
			if c.route != nil {
				run(t, r, "ip", append([]string{"route", "add"}, c.route...)...)
			}
			watch := trace.Start(t, r.R)
			src := netlab.ClientV4
			if c.dst.Is6() {
				src = netlab.ClientV6
			}
			var packets []netlab.Packet
			for i := range 2 {
				packets = append(packets, netlab.Packet{TTL: c.ttl, Tuple: event.Tuple{Src: src, Dst: c.dst, Sport: uint16(1024 + i), Dport: 53, Proto: event.ProtoUDP}})
			}
			truth, err := r.SendPackets(netlab.SendOptions{}, packets...)
			must(t, err)
			must(t, r.Drain())
			watch.Check()
			got := watch.In(r.R)
			// What R has to say about it refers to a flow that is not in its table.
			told := got.Traced.Reasons[event.ICMPErrorPacket]
			got.Is(t, trace.Want{
				Reasons: trace.Reasons{event.OtherNew: 2, event.ICMPErrorPacket: told}, Kernel: trace.Counters{ctnl.StatError: told},
			})
			got.AccountsFor(t, truth)
			for _, e := range got.Of(trace.ByKind(event.Drop)) {
				if at, why := names.Symbol(e.Location), names.KfreeReason(e.KfreeReason); at == "" || strings.EqualFold(why, "netfilter_drop") {
					t.Errorf("lost at %q, kernel reason %q", at, why)
				} else {
					t.Logf("lost at %s, kernel reason %s, %d errors", at, why, told)
				}
			}
		})
	}
}
