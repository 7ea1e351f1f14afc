package triage

import (
	"fmt"
	"math"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

const ns = 4026531840

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// sort is n entries of one sort, with this many seconds left.
type sort struct {
	n     int
	proto uint8
	state event.TCPState
	st    event.Status
	left  int
}

func held(sorts ...sort) *agg.Holdings {
	h := &agg.Holdings{}
	for _, s := range sorts {
		t := event.Tuple{Proto: s.proto}
		for range s.n {
			h.Add(&t, s.st, s.state, time.Duration(s.left)*time.Second)
		}
	}
	return h
}

const answered = event.SeenReply | event.Assured

// doc is a table of 10,000 with some fill, watched for 5 s: top for the rest.
func doc(fill, came uint64, h *agg.Holdings) *Doc {
	d := &Doc{From: time.Unix(1000, 0), To: time.Unix(1005, 0), Backend: "fentry",
		Focus:  agg.TableState{NetNS: ns, Entries: fill, Max: 10_000, Forecast: true},
		Held:   h,
		Memory: Memory{Object: 256, Buckets: 10_000},
		Timeouts: map[string]int{"udp_timeout": 30, "udp_timeout_stream": 120, "tcp_timeout_established": 432_000,
			"tcp_timeout_syn_sent": 120, "tcp_timeout_syn_recv": 60, "tcp_timeout_time_wait": 120, "icmp_timeout": 30}}
	d.Focus.Level = agg.LevelOf(d.Focus.Fill())
	d.Holders.Total.Live = fill
	d.Arrivals.Total = agg.TopRow{Sums: agg.Sums{New: came, Live: fill}, Rates: agg.Rates{S1: float64(came) / 5, Peak10ms: float64(came)}}
	d.Arrivals.Tracked = 100
	return d
}

func (d *Doc) source(s string, came, live uint64) *Doc {
	r := agg.TopRow{Key: agg.Key{NetNS: ns, Src: addr(s)}, Sums: agg.Sums{New: came, Live: live}, Rates: agg.Rates{S1: float64(came) / 5}}
	d.Arrivals.Rows, d.Holders.Rows = append(d.Arrivals.Rows, r), append(d.Holders.Rows, r)
	return d
}

func (d *Doc) prefix(s string, came, live uint64) *Doc {
	p := netip.MustParsePrefix(s)
	d.Prefixes.Rows = append(d.Prefixes.Rows, agg.TopRow{Key: agg.Key{NetNS: ns, Src: p.Addr(), Bits: uint8(p.Bits())},
		Sums: agg.Sums{New: came, Live: live}, Rates: agg.Rates{S1: float64(came) / 5}})
	return d
}

func (d *Doc) target(proto uint8, dst string, port uint16, came, live, sources uint64) *Doc {
	d.Targets.Rows = append(d.Targets.Rows, agg.TopRow{Key: agg.Key{NetNS: ns, Dst: addr(dst), Dport: port, Proto: proto},
		Sums: agg.Sums{New: came, Live: live}, Rates: agg.Rates{S1: float64(came) / 5}, DistinctDsts: sources})
	return d
}

func (d *Doc) full(in float64) *Doc { d.Focus.TimeToFull = &in; return d }

func ordinary() *Doc {
	return doc(6000, 1000, held(sort{5000, event.ProtoTCP, event.TCPEstablished, answered, 400_000}, sort{800, event.ProtoUDP, 0, event.SeenReply, 20},
		sort{200, event.ProtoUDP, 0, 0, 15})).
		source("10.0.0.1", 120, 700).source("10.0.0.2", 110, 600).source("10.0.0.3", 100, 600).source("10.0.0.4", 90, 500).target(event.ProtoTCP, "192.0.2.1", 443, 700, 5000, 80)
}

func udpFlood(src string) *Doc {
	return doc(9700, 5000, held(sort{9000, event.ProtoUDP, 0, 0, 26}, sort{700, event.ProtoTCP, event.TCPEstablished, answered, 400_000})).
		source(src, 4800, 8900).source("10.0.0.2", 20, 100).source("10.0.0.3", 20, 50).source("10.0.0.4", 20, 50).
		target(event.ProtoUDP, "192.0.2.1", 53, 4800, 8900, 1).full(0.3)
}

func forgedSYN(h *agg.Holdings, dst string) *Doc {
	return doc(9600, 5000, h).source("198.51.100.1", 2, 3).source("203.0.113.9", 1, 2).prefix("198.51.100.0/24", 9, 12).
		target(event.ProtoTCP, dst, 443, 4900, 9000, 4600).full(0.4)
}

func leaking() *Doc {
	return doc(9000, 500, held(sort{8500, event.ProtoTCP, event.TCPEstablished, answered, 414_000}, sort{500, event.ProtoUDP, 0, event.SeenReply, 20})).
		source("10.0.0.1", 60, 8000).source("10.0.0.2", 100, 100).source("10.0.0.3", 90, 100).source("10.0.0.4", 90, 90).
		target(event.ProtoTCP, "10.9.9.9", 5432, 60, 8000, 1)
}

func withLoss(d *Doc) *Doc {
	d.Focus.Entries, d.Focus.Level = 10_000, agg.LevelCritical
	d.Drops = []agg.ReasonCount{{Reason: event.TableFull, Count: 412}, {Reason: event.RulesetNew, Count: 9}}
	d.Evicted = []agg.CauseCount{{Cause: event.EarlyDrop, Count: 31}, {Cause: event.EarlyDropGC}}
	return d
}

const (
	raise = "ctsight relief set nf_conntrack_max=20000 --for 2h --reason triage --yes"
	udp10 = "ctsight relief set nf_conntrack_udp_timeout=10 --for 2h --reason triage --yes"
)

func limit(from string, n int) string {
	return fmt.Sprintf("nft 'table inet ctsight_shed { chain slow { %s tcp flags & (fin|syn|rst|ack) == syn limit rate over %d/second drop; "+
		"%s meta l4proto != tcp limit rate over %d/second drop; }; chain pre { type filter hook prerouting priority raw; jump slow; }; "+
		"chain out { type filter hook output priority raw; jump slow; }; }'", from, n, from, n)
}

func proxy(to string, mss int) string {
	return fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_tcp_loose=0 && nft 'table inet ctsight_guard { chain pre { type filter hook prerouting priority raw; "+
		"%s tcp dport 443 tcp flags & (fin|syn|rst|ack) == syn notrack; }; "+
		"chain proxy { %s tcp dport 443 ct state invalid,untracked synproxy mss %d wscale 7 timestamp sack-perm; %s tcp dport 443 ct state invalid drop; }; "+
		"chain local { type filter hook input priority filter - 1; jump proxy; }; chain transit { type filter hook forward priority filter - 1; jump proxy; }; }'", to, to, mss, to)
}

func snat(to, family string) string {
	return fmt.Sprintf("nft 'table inet ctsight_snat { chain post { type nat hook postrouting priority srcnat - 1; %s numgen inc mod 2 0 snat %s to ADDRESS; }; }'", to, family)
}

// incidents are documents, what must be said of them, and the commands in full.
var incidents = map[string]struct {
	d        *Doc
	verdict  Verdict // of legitimate or not
	says     []string
	never    []string
	commands []string
}{
	"ordinary load": {d: ordinary(), verdict: Ordinary, says: []string{"6000 of 10000 entries (60.0 %): ok; up to 2 MiB of kernel memory, 4 MiB when full",
		"200 new/s over the last second, 1000/s in the busiest 10 ms; 1000 new in 5s", "never at this rate", "10.0.0.1 700 (11.7 %)", "tcp 192.0.2.1:443, 5000 (83.3 %)",
		"tcp ESTABLISHED 5000 (83.3 %, 4.6 days left), udp replied 800 (13.3 %, 20s left)", "nothing in 5s", "no: none of 6000 entries is translated",
		"looks like ordinary load: 96.7 % of the table are answered, the first source opens 12.0 %"}},
	"one source floods UDP": {d: udpFlood("10.0.0.7"), verdict: Anomalous, says: []string{"9700 of 10000 entries (97.0 %): critical", "10.0.0.7 8900 (91.8 %)", "92.8 % came to nothing yet",
		"10.0.0.7 brings 96.0 % of what comes", "udp unreplied entries have left, this began some 8s ago", "8900 entries", "at 1000 new/s that lasts for 10s", "about 3000 in their place"},
		commands: []string{limit("ip saddr 10.0.0.7", 10), "conntrack -D -s 10.0.0.7 >/dev/null", udp10, raise}},
	"a full table refuses the flood": {d: func() *Doc {
		d := withLoss(udpFlood("10.0.0.7")) // nothing of it gets in any more
		d.Arrivals.Rows[0].New, d.Arrivals.Rows[0].Drops, d.Arrivals.Rows[0].S1, d.Arrivals.Total.New, d.Arrivals.Total.S1 = 0, 50_000, 0, 200, 40
		return d
	}(), verdict: Anomalous, says: []string{"10.0.0.7 brings 99.6 % of what comes", "it is 10000/s now"},
		commands: []string{"ctsight drops --netns 4026531840", limit("ip saddr 10.0.0.7", 100), "conntrack -D -s 10.0.0.7 >/dev/null", udp10, raise}},
	"in a namespace, IPv6": {d: func() *Doc { d := udpFlood("2001:db8::7"); d.Enter = EnterName("it's"); return d }(), verdict: Anomalous,
		commands: []string{`ip netns exec 'it'\''s' ` + limit("ip6 saddr 2001:db8::7", 10), `ip netns exec 'it'\''s' conntrack -D -s 2001:db8::7 >/dev/null`,
			udp10 + " --netns 4026531840", raise}},
	"a prefix does the same": {d: udpFlood("10.0.0.7").prefix("10.0.0.0/24", 4900, 9100), verdict: Anomalous, never: []string{"conntrack -D -s 10.0.0.0/24"}, // one source of four brings nearly all
		commands: []string{limit("ip saddr 10.0.0.7", 10), "conntrack -D -s 10.0.0.7 >/dev/null", udp10, raise}},
	"many of a prefix": {d: doc(9700, 15_000, held(sort{9000, event.ProtoUDP, 0, 0, 15}, sort{700, event.ProtoTCP, event.TCPEstablished, answered, 400_000})).
		source("10.0.0.7", 2000, 1200).source("10.0.0.8", 1900, 1100).source("10.0.0.9", 1800, 1000).prefix("10.0.0.0/24", 14_000, 8900),
		verdict: Anomalous, says: []string{"of the prefixes 10.0.0.0/24 8900 (91.8 %)", "10.0.0.0/24 brings 93.3 %", "udp unreplied entries come as long as they live"},
		commands: []string{limit("ip saddr 10.0.0.0/24", 28), "conntrack -D -s 10.0.0.0/24 >/dev/null", udp10, raise}},
	"one /64 takes a new address each time": {d: doc(9700, 5000, held(sort{9700, event.ProtoTCP, event.TCPSynSent, 0, 110})).
		source("2001:db8::1", 1, 1).source("2001:db8::2", 1, 1).source("2001:db8::3", 1, 1).prefix("2001:db8::/64", 5000, 9700).target(event.ProtoTCP, "2001:db8:1::1", 443, 5000, 9700, 5000),
		verdict: Anomalous, commands: []string{limit("ip6 saddr 2001:db8::/64", 10), "conntrack -D -s 2001:db8::/64 >/dev/null", "ctsight relief set nf_conntrack_tcp_timeout_syn_sent=20 --for 2h --reason triage --yes", raise}},
	"scan": {d: func() *Doc {
		d := ordinary()
		for _, rows := range [][]agg.TopRow{d.Arrivals.Rows, d.Holders.Rows} {
			rows[1].DistinctDports, rows[1].DistinctDsts, rows[1].Refused, rows[1].Unanswered, rows[1].Answered = 998, 1, 900, 90, 10
			rows[0].DistinctDsts, rows[0].Answered = 60_000, 60_000 // a crawler does not hide it
		}
		return d
	}(), verdict: Anomalous, says: []string{"10.0.0.2 looks like a scan: 998 ports and 1 hosts, 990 of its 1000 first contacts failed"}},
	"forged, answered by SYN-ACK": {d: forgedSYN(held(sort{9000, event.ProtoTCP, event.TCPSynRecv, event.SeenReply, 55}, sort{600, event.ProtoUDP, 0, event.SeenReply, 9}), "192.0.2.1"),
		verdict: Anomalous, says: []string{"forged sources: about 4600 sources for 4900 connections to tcp 192.0.2.1:443, 93.8 % of the table came to nothing", "Block no address"},
		commands: []string{proxy("ip daddr 192.0.2.1", 1460), "conntrack -D -p 6 -d 192.0.2.1 --dport 443 --state SYN_RECV >/dev/null", "ctsight relief set nf_conntrack_tcp_timeout_syn_recv=20 --for 2h --reason triage --yes", raise}},
	"forged, IPv6": {d: forgedSYN(held(sort{9600, event.ProtoTCP, event.TCPSynSent, 0, 100}), "2001:db8::1"), verdict: Anomalous,
		commands: []string{proxy("ip6 daddr 2001:db8::1", 1440), "conntrack -D -p 6 -d 2001:db8::1 --dport 443 --state SYN_SENT >/dev/null",
			"ctsight relief set nf_conntrack_tcp_timeout_syn_sent=20 --for 2h --reason triage --yes", raise}},
	"forged, behind NAT": {d: forgedSYN(held(sort{9600, event.ProtoTCP, event.TCPSynSent, event.DstNAT, 100}), "192.0.2.1"), verdict: Anomalous,
		says: []string{"yes: 9600 entries (100.0 %) are translated", "to 41/s, before conntrack: at most half of the table"},
		commands: []string{"nft 'table inet ctsight_guard { chain pre { type filter hook prerouting priority raw; ip daddr 192.0.2.1 tcp dport 443 " + syn + " limit rate over 41/second drop; }; }'",
			"conntrack -D -p 6 -d 192.0.2.1 --dport 443 --state SYN_SENT >/dev/null", "ctsight relief set nf_conntrack_tcp_timeout_syn_sent=20 --for 2h --reason triage --yes", raise}},
	"forged UDP": {d: func() *Doc {
		d := forgedSYN(held(sort{9600, event.ProtoUDP, 0, 0, 20}), "192.0.2.1")
		d.Targets.Rows[0].Proto, d.Targets.Rows[0].Dport = event.ProtoUDP, 53
		return d
	}(), verdict: Anomalous, commands: []string{"nft 'table inet ctsight_guard { chain pre { type filter hook prerouting priority raw; ip daddr 192.0.2.1 udp dport 53 notrack; ip saddr 192.0.2.1 udp sport 53 notrack; }; " +
		"chain out { type filter hook output priority raw; ip daddr 192.0.2.1 udp dport 53 notrack; ip saddr 192.0.2.1 udp sport 53 notrack; }; }'",
		"conntrack -D -p 17 -d 192.0.2.1 --dport 53 >/dev/null", udp10, raise}},
	"leak": {d: leaking(), verdict: Suspicious, says: []string{"10.0.0.1 holds 88.9 % of the table by established connections and opens 12.0 % of the new ones", "idle for 5h on average", "now 5.0 days"},
		never: []string{"conntrack -D", "nft"},
		commands: []string{"ctsight top --once --by edge --sort live --netns 4026531840 'src 10.0.0.1'",
			"ctsight relief set nf_conntrack_tcp_timeout_established=86400 --for 2h --reason triage --yes", raise}},
	"leak, full": {d: withLoss(leaking()), verdict: Suspicious, says: []string{"it is full", "412 packets to table_full, 31 entries to early_drop in 5s"}, never: []string{"ruleset", "early_drop_gc"},
		commands: []string{"ctsight drops --netns 4026531840", "ctsight top --once --by edge --sort live --netns 4026531840 'src 10.0.0.1'", "conntrack -D -p tcp --state ESTABLISHED -s 10.0.0.1 >/dev/null",
			"ctsight relief set nf_conntrack_tcp_timeout_established=86400 --for 2h --reason triage --yes", raise}},
	"all ports of NAT taken": {d: func() *Doc {
		d := doc(3000, 500, held(sort{3000, event.ProtoTCP, event.TCPEstablished, answered | event.SrcNAT, 400_000})).source("10.0.0.1", 100, 700)
		d.Drops = []agg.ReasonCount{{Reason: event.NATExhausted, Count: 7}}
		d.Pools = []agg.Pool{{Key: agg.Key{NetNS: ns, Src: addr("203.0.113.9"), Dst: addr("192.0.2.1"), Dport: 443, Proto: event.ProtoTCP}, InUse: 3000, Capacity: 64_512, Drops: 7}}
		return d
	}(), verdict: Ordinary, says: []string{"yes: 3000 entries (100.0 %) are translated; 203.0.113.9 has no free port towards tcp 192.0.2.1:443: 7 packets lost", "7 packets to nat_exhausted in 5s; for nat_exhausted: add addresses or ports to the pool",
		"a second address beside 203.0.113.9"},
		commands: []string{"ctsight drops --netns 4026531840", snat("ip daddr 192.0.2.1 tcp dport 443", "ip"), "ctsight relief set nf_conntrack_tcp_timeout_established=86400 --for 2h --reason triage --yes"}},
	"all ids of NAT taken, IPv6": {d: func() *Doc {
		d := doc(3000, 500, nil)
		d.Held, d.HeldErr, d.Drops = nil, "no walk", []agg.ReasonCount{{Reason: event.NATExhausted, Count: 7}}
		d.Pools = []agg.Pool{{Key: agg.Key{NetNS: ns, Src: addr("2001:db8::9"), Dst: addr("2001:db8:1::1"), Proto: event.ProtoICMPv6}, Drops: 7}}
		return d
	}(), verdict: Ordinary, says: []string{"not known: no walk; 2001:db8::9 has no free port towards icmpv6 2001:db8:1::1: 7 packets lost"},
		commands: []string{"ctsight drops --netns 4026531840", snat("ip6 daddr 2001:db8:1::1 meta l4proto 58", "ip6")}},
	"the backend cannot look": {d: func() *Doc { d := udpFlood("10.0.0.7"); d.Held, d.HeldErr = nil, "kprobe\x1b[2J"; return d }(),
		says: []string{"not known: kprobe?[2J", "10.0.0.7 opens 96.0 % of what comes, how many are answered is not known"}, verdict: Suspicious, commands: []string{raise}},
	"about to be full, with room": {d: doc(3000, 5000, held(sort{2900, event.ProtoUDP, 0, 0, 26})).source("10.0.0.7", 4800, 2900).full(33), verdict: Anomalous,
		says:     []string{"33s", "limit what opens connections from 10.0.0.7"},
		commands: []string{limit("ip saddr 10.0.0.7", 10), "conntrack -D -s 10.0.0.7 >/dev/null", udp10, raise}},
	"empty": {d: doc(0, 0, held()), verdict: Ordinary, says: []string{"0 of 10000 entries (0.0 %)", "nobody: the table is empty", "nothing new came in 5s"}},
	"no limit": {d: func() *Doc { d := ordinary(); d.Focus.Max, d.Focus.Level = 0, 0; return d }(), verdict: Ordinary,
		says: []string{"6000 entries, no limit is set; up to 2 MiB", "never: no limit is set"}, never: []string{"NaN", "Inf"}},
	"nothing at all": {d: &Doc{}, verdict: Ordinary, says: []string{"not known: this backend cannot look at live entries"}},
	"not seeded": {d: func() *Doc { d := ordinary(); d.Holders.Total.Live, d.Holders.Rows = 0, nil; return d }(), verdict: Ordinary,
		says: []string{"none of the 6000 entries was seen to begin"}},
}

func TestJudge(t *testing.T) {
	for name, x := range incidents {
		t.Run(name, func(t *testing.T) {
			x.d.Judge()
			var all strings.Builder
			for _, f := range x.d.Findings {
				if f.Question == "legitimate or not" && f.Verdict != x.verdict {
					t.Errorf("verdict %q, want %q: %s", f.Verdict, x.verdict, f.Answer)
				}
				all.WriteString(f.Question + ": " + f.Answer + "\n")
			}
			for i, a := range x.d.Actions {
				all.WriteString(a.What + "\n" + a.Command + "\n" + a.Caution + "\n" + a.Undo + "\n")
				if i < len(x.commands) && a.Command != x.commands[i] {
					t.Errorf("command %d:\n got %s\nwant %s", i, a.Command, x.commands[i])
				}
				if strings.Contains(a.Command, "-w") || strings.Contains(a.Command, "relief") || strings.Contains(a.Command, "nft") || strings.Contains(a.Command, "-D") {
					if (a.Undo == "") != strings.Contains(a.Caution, "no undo") {
						t.Errorf("no way back from %s", a.Command)
					}
				}
			}
			if len(x.d.Actions) != len(x.commands) {
				t.Errorf("%d commands, want %d", len(x.d.Actions), len(x.commands))
			}
			for _, s := range x.says {
				if !strings.Contains(all.String(), s) {
					t.Errorf("does not say %q", s)
				}
			}
			for _, s := range x.never {
				if strings.Contains(all.String(), s) {
					t.Errorf("says %q", s)
				}
			}
			if t.Failed() {
				t.Log(all.String())
			}
		})
	}
}

// TestRulesets lets nft(8) check every ruleset, in a namespace of its own and
// without making it.
func TestRulesets(t *testing.T) {
	if err := exec.Command("unshare", "-n", "nft", "list", "tables").Run(); err != nil {
		t.Skipf("unshare -n nft: %v", err)
	}
	for name, x := range incidents {
		x.d.Judge()
		for _, a := range x.d.Actions {
			_, rules, ok := strings.Cut(a.Command, "nft '")
			if !ok {
				continue
			}
			mine := map[bool]string{false: "203.0.113.10", true: "2001:db8::10"}[strings.Contains(rules, "ip6")]
			rules = strings.ReplaceAll(rules, "ADDRESS", mine)
			if out, err := exec.Command("unshare", "-n", "nft", "-c", strings.TrimSuffix(rules, "'")).CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", name, err, out)
			}
		}
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{"blue": "blue", "": "''", "a b": "'a b'", "it's": `'it'\''s'`, "$(reboot)": "'$(reboot)'", "a\x1b7": `$'a\0337'`,
		"\u202e'\\": `$'\342\200\256\'\\'`, "-x;y": "'-x;y'"} {
		got := Quote(in)
		if got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
		if out, err := exec.Command("bash", "-c", "printf %s "+got).Output(); err == nil && string(out) != in {
			t.Errorf("%s: a shell makes %q of it", got, out)
		}
	}
	if got := EnterPath("/proc/1/ns/net"); got != "nsenter --net=/proc/1/ns/net " {
		t.Error(got)
	}
	if got := EnterName("a b"); got != "ip netns exec 'a b' " {
		t.Error(got)
	}
}

func TestSeconds(t *testing.T) {
	for s, want := range map[float64]string{0: "0s", 10: "10s", 60: "1m", 90: "1m30s", 3600: "1h", 86_400: "24h", 432_000: "5.0 days", 1e300: "more than 999 days", math.Inf(1): "more than 999 days", math.NaN(): "0s", -1: "0s", 0.4: "less than 1s", 605: "10m5s"} {
		if got := seconds(s); got != want {
			t.Errorf("%g: %s, want %s", s, got, want)
		}
	}
}

func anyFloat(t *rapid.T) float64 {
	return rapid.OneOf(rapid.Float64(), rapid.Float64Range(0, 1e5), rapid.SampledFrom([]float64{0, math.NaN(), math.Inf(1), math.Inf(-1)})).Draw(t, "f")
}

func anyCount(t *rapid.T) uint64 {
	return rapid.OneOf(rapid.Uint64Range(0, 10_000), rapid.Uint64(), rapid.Just(uint64(0))).Draw(t, "n")
}

func anyTop(t *rapid.T, by agg.Dim) agg.Top {
	row := func() agg.TopRow {
		r := agg.TopRow{Sums: agg.Sums{New: anyCount(t), Live: anyCount(t), Drops: anyCount(t), Answered: anyCount(t), Refused: anyCount(t), Unanswered: anyCount(t)},
			Rates: agg.Rates{S1: anyFloat(t), Peak10ms: anyFloat(t)}, DistinctDsts: anyCount(t), DistinctDports: anyCount(t)}
		a := rapid.SampledFrom([]netip.Addr{{}, addr("198.51.100.7"), addr("198.51.100.8"), addr("198.51.100.9"), addr("2001:db8:bad::1"), addr("fe80::1%e\x1b"), addr("::ffff:198.51.100.7")}).Draw(t, "addr")
		switch by {
		case agg.ByDst:
			r.Dst, r.Dport, r.Proto = rapid.SampledFrom([]netip.Addr{{}, addr("192.0.2.1"), addr("2001:db8::53")}).Draw(t, "dst"), 443, rapid.SampledFrom([]uint8{6, 17, 1, 58, 47, 132, 255}).Draw(t, "proto")
		case agg.ByPrefix:
			r.Src, r.Bits = a, rapid.SampledFrom([]uint8{24, 64, 200}).Draw(t, "bits")
		default:
			r.Src = a
		}
		return r
	}
	top := agg.Top{By: by, Total: row(), Tracked: rapid.IntRange(0, 20_000).Draw(t, "tracked"), Folded: anyCount(t)}
	for range rapid.IntRange(0, 5).Draw(t, "rows") {
		top.Rows = append(top.Rows, row())
	}
	return top
}

func anyDoc(t *rapid.T) *Doc {
	text := func() string { return rapid.StringN(0, 9, -1).Draw(t, "text") }
	d := &Doc{From: time.Unix(rapid.Int64Range(0, 1e6).Draw(t, "from"), 0), To: time.Unix(rapid.Int64Range(0, 1e6).Draw(t, "to"), 0), Backend: text(), HeldErr: text(), Enter: EnterName(text()),
		Focus:   agg.TableState{Entries: anyCount(t), Max: anyCount(t), Forecast: rapid.Bool().Draw(t, "forecast"), Level: agg.Level(rapid.IntRange(0, 3).Draw(t, "level"))},
		Holders: anyTop(t, agg.BySrc), Arrivals: anyTop(t, agg.BySrc), Targets: anyTop(t, agg.ByDst), Prefixes: anyTop(t, agg.ByPrefix),
		Memory: Memory{Object: rapid.IntRange(0, 1<<20).Draw(t, "object"), Buckets: anyCount(t)}, Timeouts: map[string]int{}}
	if rapid.Bool().Draw(t, "full") {
		s, low := anyFloat(t), anyFloat(t)
		d.Focus.TimeToFull, d.Focus.FullLow = &s, &low
	}
	if rapid.IntRange(0, 4).Draw(t, "err") == 0 {
		d.Focus.Err = text()
	}
	if rapid.IntRange(0, 4).Draw(t, "held") > 0 {
		d.Held = &agg.Holdings{}
		for range rapid.IntRange(0, 5).Draw(t, "sorts") {
			tu := event.Tuple{Proto: rapid.SampledFrom([]uint8{1, 6, 17, 58, 200}).Draw(t, "proto")}
			st, state := event.Status(rapid.IntRange(0, 63).Draw(t, "st")), event.TCPState(rapid.IntRange(0, 12).Draw(t, "state"))
			left := time.Duration(rapid.Int64Range(-1e9, 432_000e9).Draw(t, "left"))
			for range rapid.IntRange(1, 200).Draw(t, "n") {
				d.Held.Add(&tu, st, state, left)
			}
		}
	}
	for _, s := range steps {
		d.Timeouts[s.sysctl] = rapid.IntRange(-1, 432_000).Draw(t, "timeout")
	}
	if rapid.Bool().Draw(t, "pool") {
		k := agg.Key{Src: rapid.SampledFrom([]netip.Addr{{}, addr("203.0.113.9")}).Draw(t, "nat"), Dport: 443, Proto: rapid.SampledFrom([]uint8{1, 6, 17, 58}).Draw(t, "proto")}
		k.Dst = rapid.SampledFrom([]netip.Addr{{}, addr("192.0.2.1"), addr("fe80::1%e\x1b"), addr("::ffff:192.0.2.1")}).Draw(t, "to")
		d.Pools = []agg.Pool{{Key: k, Drops: anyCount(t)}}
	}
	for range rapid.IntRange(0, 3).Draw(t, "losses") {
		d.Drops = append(d.Drops, agg.ReasonCount{Reason: event.Reason(rapid.Uint8().Draw(t, "reason")), Count: anyCount(t)})
		d.Evicted = append(d.Evicted, agg.CauseCount{Cause: event.Cause(rapid.Uint8().Draw(t, "cause")), Count: anyCount(t)})
	}
	return d
}

func TestJudgeAnything(t *testing.T) {
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		d := anyDoc(t)
		d.Judge()
		check := func(s string) {
			for _, r := range s {
				if r < ' ' || r > '~' {
					t.Errorf("rune %U in %q", r, s)
				}
			}
			for _, bad := range []string{"NaN", "Inf", "%!", "invalid IP", "invalid Prefix", "invalid AddrPort"} {
				// what a name or an error says is not ours
				if strings.Contains(strings.ReplaceAll(s, d.Enter, ""), bad) && !strings.Contains(d.HeldErr+d.Focus.Err, bad) {
					t.Errorf("%s in %q", bad, s)
				}
			}
		}
		for _, f := range d.Findings {
			if f.Question == "" || f.Answer == "" {
				t.Errorf("nothing is said of %q", f.Question)
			}
			check(f.Answer)
		}
		_, forged := d.forged()
		for _, a := range d.Actions {
			if a.What == "" || a.Command == "" {
				t.Errorf("empty: %+v", a)
			}
			check(a.What)
			check(a.Command)
			check(a.Caution)
			check(a.Undo)
			if forged && !strings.Contains(a.Command, snatTable) { // which is about a destination
				n++
				for _, src := range []string{"198.51.100", "2001:db8:bad", "fe80"} {
					if strings.Contains(strings.ReplaceAll(a.What+a.Command+a.Caution+a.Undo, d.Enter, ""), src) {
						t.Errorf("names a forged source: %+v", a)
					}
				}
			}
		}
	})
	t.Logf("%d actions against forged sources", n)
}
