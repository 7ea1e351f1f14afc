package triage

import (
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// actions are what to do first, in this order: look closer, shed what does harm,
// free what it holds, make entries end sooner, make room.
func (d *Doc) actions() (out []Action) {
	if d.Focus.Level < agg.LevelTrend && !d.loses() && !d.soon() {
		return nil
	}
	out = append(out, d.look()...)
	out = append(out, d.widen()...)
	if to, forged := d.forged(); forged {
		if to.Dst.IsValid() {
			out = append(out, d.guard(&to), d.drainHalfOpen(&to))
		}
	} else if c, ok := d.culprit(); ok {
		out = append(out, d.shed(&c))
		if share(c.live, d.Holders.Total.Live) >= 0.05 {
			out = append(out, d.drain(&c))
		}
	} else if r, _, ok := d.leak(); ok && d.Focus.Level >= agg.LevelCritical {
		out = append(out, d.drainLeak(&r))
	}
	out = append(out, d.timeouts()...)
	return append(out, d.raise()...)
}

// warning is how long before it is full a table calls for action (detection.md,
// D10).
const warning = 300 // s

// soon says whether the table is about to be full, however much room it has now.
func (d *Doc) soon() bool { return d.Focus.TimeToFull != nil && *d.Focus.TimeToFull <= warning }

// loses says whether packets or entries were lost.
func (d *Doc) loses() bool {
	return d.evicts() || slices.ContainsFunc(d.Drops, func(r agg.ReasonCount) bool { return !r.Reason.IsRuleset() && r.Count > 0 })
}

func (d *Doc) evicts() bool {
	return slices.ContainsFunc(d.Evicted, func(c agg.CauseCount) bool { return c.Count > 0 })
}

func (d *Doc) look() (out []Action) {
	if d.loses() {
		out = append(out, Action{What: "see whose packets are lost, and to what", Command: fmt.Sprintf("ctsight drops --netns %d", d.Focus.NetNS)})
	}
	if r, _, ok := d.leak(); ok {
		out = append(out, Action{
			What:    fmt.Sprintf("see whereto %s holds connections; restart what leaks them", address(r.Src)),
			Command: fmt.Sprintf("ctsight top --once --by edge --sort live --netns %d 'src %s'", d.Focus.NetNS, address(r.Src)),
		})
	}
	return out
}

// widen gives the NAT port pool that lost most a second address: every other
// connection takes it, before the rule that there is.
func (d *Doc) widen() []Action {
	if len(d.Pools) == 0 || !d.Pools[0].Dst.IsValid() {
		return nil
	}
	k := &d.Pools[0].Key
	dst := netip.PrefixFrom(k.Dst.WithZone(""), k.Dst.BitLen())
	family := "ip"
	if k.Dst.Is6() {
		family = "ip6"
	}
	return []Action{{
		What: fmt.Sprintf("more NAT ports towards %s: a second address beside %s", endpoint(k), address(k.Src)),
		Command: d.Enter + fmt.Sprintf("nft 'table %s { chain post { type nat hook postrouting priority srcnat - 1; %s %s numgen inc mod 2 0 snat %s to ADDRESS; }; }'",
			snatTable, addresses("daddr", dst), port(k, "dport"), family),
		Caution: "put an address of this host for ADDRESS; what sends the answers must have a route to it. Or let the entries of that destination end sooner",
		Undo:    d.Enter + "nft delete table " + snatTable,
	}}
}

// Rules go to tables of their own, so that one command takes them back, and to
// priority raw: what they refuse makes no entry and no lookup.
const (
	shedTable  = "inet ctsight_shed"
	guardTable = "inet ctsight_guard"
	snatTable  = "inet ctsight_snat"
	syn        = "tcp flags & (fin|syn|rst|ack) == syn"
	preRaw     = "type filter hook prerouting priority raw;"
	outRaw     = "type filter hook output priority raw;"
)

// addresses is nft's match of an address or a prefix.
func addresses(dir string, p netip.Prefix) string {
	family := "ip6"
	if p.Addr().Is4() {
		family = "ip"
	}
	c := culprit{who: p}
	return fmt.Sprintf("%s %s %s", family, dir, c.String())
}

// shed limits what opens entries from the culprit, at a hundredth of its present
// rate: its SYNs, and all packets of protocols that do not tell which is the
// first. The same for what this host sends, in case it is the culprit.
func (d *Doc) shed(c *culprit) Action {
	from, n := addresses("saddr", c.who), perSecond(c.rate/100)
	return Action{
		What: fmt.Sprintf("limit what opens connections from %s to %d/s, before conntrack; it is %.0f/s now", c.String(), n, c.rate),
		Command: d.Enter + fmt.Sprintf("nft 'table %s { chain slow { %s %s limit rate over %d/second drop; %s meta l4proto != tcp limit rate over %d/second drop; }; "+
			"chain pre { %s jump slow; }; chain out { %s jump slow; }; }'", shedTable, from, syn, n, from, n, preRaw, outRaw),
		Caution: "not if that is your load balancer, gateway or resolver: it speaks for many. Established TCP goes on; all its other packets are limited",
		Undo:    d.Enter + "nft delete table " + shedTable,
	}
}

func perSecond(rate float64) int { return max(10, int(math.Ceil(min(finite(rate), 1e6)))) }

// drain deletes what the culprit holds.
func (d *Doc) drain(c *culprit) Action {
	return Action{
		What:    fmt.Sprintf("then free the %d entries of %s", c.live, c.String()),
		Command: d.Enter + fmt.Sprintf("conntrack -D -s %s >/dev/null", c.String()),
		Caution: "no undo: its open connections through NAT or a stateful firewall break. It reads the whole table once. Limit first, or it fills again",
	}
}

func (d *Doc) drainLeak(r *agg.TopRow) Action {
	return Action{
		What:    fmt.Sprintf("if restarting does not help: free the established entries of %s, which holds %d", address(r.Src), r.Live),
		Command: d.Enter + fmt.Sprintf("conntrack -D -p tcp --state ESTABLISHED -s %s >/dev/null", address(r.Src)),
		Caution: "no undo: those in use break with the idle ones where NAT or a stateful firewall needs them. It reads the whole table once",
	}
}

// guard keeps a flood with forged sources from making entries. No source is
// named: another would be next, or the innocent owner. For TCP a SYN proxy is
// the only way that lets real clients in; for UDP, which proves nothing, the
// endpoint goes without entries. Both want that nothing translates the endpoint:
// what is not tracked is not translated, and a limit is left.
func (d *Doc) guard(to *agg.TopRow) Action {
	k := &to.Key
	dst := netip.PrefixFrom(k.Dst.WithZone(""), k.Dst.BitLen())
	there, back := addresses("daddr", dst)+" "+port(k, "dport"), addresses("saddr", dst)+" "+port(k, "sport")
	undo := d.Enter + "nft delete table " + guardTable
	tracked := d.Held == nil || d.Held.NAT > 0
	if k.Proto == event.ProtoTCP && !tracked {
		mss := 1460
		if dst.Addr().Is6() {
			mss = 1440
		}
		const loose = "net.netfilter.nf_conntrack_tcp_loose" // for as long as the rules: with them it goes back, not by a clock
		return Action{
			What: fmt.Sprintf("let a SYN proxy answer for %s: only who completes the handshake gets an entry", endpoint(k)),
			Command: d.Enter + "sysctl -w " + loose + "=0 && " + d.Enter + fmt.Sprintf("nft 'table %s { chain pre { %s %s %s notrack; }; "+
				"chain proxy { %s ct state invalid,untracked synproxy mss %d wscale 7 timestamp sack-perm; %s ct state invalid drop; }; "+
				"chain local { type filter hook input priority filter - 1; jump proxy; }; chain transit { type filter hook forward priority filter - 1; jump proxy; }; }'",
				guardTable, preRaw, there, syn, there, mss, there),
			Caution: "mss and wscale must be those of the server; connections from before that have no entry break; tcp_loose was 1 unless you changed it",
			Undo:    undo + "; " + d.Enter + "sysctl -w " + loose + "=1",
		}
	}
	if k.Proto == event.ProtoUDP && !tracked {
		both := fmt.Sprintf("%s notrack; %s notrack;", there, back)
		return Action{
			What:    fmt.Sprintf("let %s go without entries, in both directions: nothing is dropped", endpoint(k)),
			Command: d.Enter + fmt.Sprintf("nft 'table %s { chain pre { %s %s }; chain out { %s %s }; }'", guardTable, preRaw, both, outRaw, both),
			Caution: "your rules must accept ct state untracked for it, in both directions",
			Undo:    undo,
		}
	}
	first := ""
	if k.Proto == event.ProtoTCP {
		first = syn + " "
	}
	n := d.bearable(to)
	return Action{
		What: fmt.Sprintf("limit what opens connections to %s to %d/s, before conntrack: at most half of the table. (a SYN proxy or notrack would hurt its NAT, if it has any)",
			endpoint(k), n),
		Command: d.Enter + fmt.Sprintf("nft 'table %s { chain pre { %s %s %slimit rate over %d/second drop; }; }'", guardTable, preRaw, there, first, n),
		Caution: "real clients are refused with the forged",
		Undo:    undo,
	}
}

// bearable is how many entries per second of the longest sort that comes to
// nothing fill half of the table, and less than now.
func (d *Doc) bearable(to *agg.TopRow) int {
	lives := 120
	for _, s := range []string{"UDP entries that are no stream", "udp_timeout", "tcp_timeout_syn_sent", "tcp_timeout_syn_recv"} {
		if t := d.Timeouts[s]; (s == "udp_timeout") == (to.Proto == event.ProtoUDP) && t > 0 {
			lives = t
			break
		}
	}
	return perSecond(math.Floor(min(float64(d.Focus.Max)/2/float64(lives), finite(to.S1)/2)))
}

// port is nft's match of the port of an endpoint, or of its protocol where that
// has none.
func port(k *agg.Key, dir string) string {
	if hasPorts(k.Proto) {
		return fmt.Sprintf("%s %s %d", event.ProtoName(k.Proto), dir, k.Dport)
	}
	return fmt.Sprintf("meta l4proto %d", k.Proto)
}

// drainHalfOpen frees what came to nothing of an endpoint: of TCP by its state,
// of others all, as conntrack(8) cannot ask for those without a reply.
func (d *Doc) drainHalfOpen(to *agg.TopRow) Action {
	k := &to.Key
	what, filter := "", fmt.Sprintf("-p %d -d %s", k.Proto, address(k.Dst))
	if hasPorts(k.Proto) {
		filter += fmt.Sprintf(" --dport %d", k.Dport)
	}
	if k.Proto == event.ProtoTCP {
		what, filter = "half-open ", filter+" --state "+d.halfOpenState().String()
	}
	return Action{
		What:    fmt.Sprintf("then free the %sentries of %s, which has %d", what, endpoint(k), to.Live),
		Command: d.Enter + "conntrack -D " + filter + " >/dev/null",
		Caution: "no undo: who is answered just now has to try again. It reads the whole table once. Shed first, or it fills again",
	}
}

// halfOpenState is SYN_RECV where the endpoint answers, else SYN_SENT.
func (d *Doc) halfOpenState() event.TCPState {
	if d.Held != nil {
		for _, r := range d.Held.Rows() {
			if r.State == event.TCPSynRecv || r.State == event.TCPSynSent {
				return r.State
			}
		}
	}
	return event.TCPSynSent
}

// steps are timeouts that may go down, and for which entries.
var steps = []struct {
	what   string
	sysctl string
	to     int
	ends   bool // such entries end by their timeout, few are refreshed
	holds  func(*agg.HoldingKey) bool
	costs  string
}{
	{"UDP entries that are no stream", "udp_timeout", 10, true, func(k *agg.HoldingKey) bool { return k.Proto == event.ProtoUDP && !k.Assured },
		"answers that take longer are lost behind NAT"},
	{"UDP streams", "udp_timeout_stream", 60, false, func(k *agg.HoldingKey) bool { return k.Proto == event.ProtoUDP && k.Assured },
		"sessions that are silent for longer may get another port behind NAT"},
	{"pings", "icmp_timeout", 10, true, func(k *agg.HoldingKey) bool { return k.Proto == event.ProtoICMP }, "later answers to a ping are lost"},
	{"pings of IPv6", "icmpv6_timeout", 10, true, func(k *agg.HoldingKey) bool { return k.Proto == event.ProtoICMPv6 }, "later answers to a ping are lost"},
	{"SYNs without an answer", "tcp_timeout_syn_sent", 20, true, func(k *agg.HoldingKey) bool { return k.State == event.TCPSynSent }, "a server that answers later is not reached"},
	{"half-open connections", "tcp_timeout_syn_recv", 20, true, func(k *agg.HoldingKey) bool { return k.State == event.TCPSynRecv }, "a client that answers later does not get in"},
	{"connections in CLOSE_WAIT", "tcp_timeout_close_wait", 60, false, func(k *agg.HoldingKey) bool { return k.State == event.TCPCloseWait }, "half-closed connections that are silent for longer break"},
	{"connections in FIN_WAIT", "tcp_timeout_fin_wait", 30, false, func(k *agg.HoldingKey) bool { return k.State == event.TCPFinWait }, "half-closed connections that are silent for longer break"},
	{"closed connections", "tcp_timeout_time_wait", 30, true, func(k *agg.HoldingKey) bool { return k.State == event.TCPTimeWait }, "later segments of a closed connection are invalid"},
	{"silent connections", "tcp_timeout_established", 86400, false, func(k *agg.HoldingKey) bool { return k.State == event.TCPEstablished && k.Assured },
		"connections that are silent for longer break behind NAT or a stateful firewall"},
}

// reliefFor is how long a change of a sysctl holds: nobody has to remember to take it
// back.
const (
	reliefFor = "2h"
	byItself  = "it goes back by itself after " + reliefFor + "; a ticket says more than triage"
)

// onHost sets a sysctl that is one for all namespaces for a while, or takes that back.
func onHost(verb, sysctl string) string {
	c := "ctsight relief " + verb + " " + sysctl
	if verb == "set" {
		c += " --for " + reliefFor + " --reason triage --yes"
	}
	return c
}

// relief does so with one of the namespace.
func (d *Doc) relief(verb, sysctl string) string {
	c := onHost(verb, sysctl)
	if d.Enter != "" {
		c += fmt.Sprintf(" --netns %d", d.Focus.NetNS)
	}
	return c
}

// timeouts proposes shorter ones for what makes a fifth of the table. An entry
// has the timeout of its last packet; those that are idle now keep the old one.
func (d *Doc) timeouts() (out []Action) {
	if d.Held == nil {
		return nil
	}
	rows := d.Held.Rows()
	for _, s := range steps {
		n := uint64(0)
		for _, r := range rows {
			if s.holds(&r.HoldingKey) {
				n += r.N
			}
		}
		now, known := d.Timeouts[s.sysctl]
		if share(n, d.Held.N) < 0.2 || !known || now <= s.to {
			continue
		}
		a := Action{
			What:    fmt.Sprintf("let %s end after %s, now %s: %d (%s)", s.what, seconds(float64(s.to)), seconds(float64(now)), n, percent(share(n, d.Held.N))),
			Command: d.relief("set", fmt.Sprintf("nf_conntrack_%s=%d", s.sysctl, s.to)),
			Caution: fmt.Sprintf("entries that get no more packets keep their %s; %s; %s", seconds(float64(now)), s.costs, byItself),
			Undo:    d.relief("revert", "nf_conntrack_"+s.sysctl),
		}
		if s.ends {
			a.What += fmt.Sprintf("; at the same rate about %.0f in their place", float64(n)*float64(s.to)/float64(now))
		}
		out = append(out, a)
	}
	return out
}

// maxMax is what nf_conntrack_max can be at most.
const maxMax = math.MaxInt32

// raise doubles the limit, which is one for all namespaces and is written in the
// initial one.
func (d *Doc) raise() []Action {
	t := &d.Focus
	full := slices.ContainsFunc(d.Drops, func(r agg.ReasonCount) bool { return r.Reason == event.TableFull && r.Count > 0 })
	if t.Max == 0 || t.Max > maxMax/2 || t.Level < agg.LevelAction && !full && !d.evicts() && !d.soon() {
		return nil
	}
	to := 2 * t.Max
	a := Action{
		What:    fmt.Sprintf("make room: %d entries instead of %d", to, t.Max),
		Command: onHost("set", fmt.Sprintf("nf_conntrack_max=%d", to)),
		Caution: "one limit for all namespaces, written in the initial one (if here is another: from the host); " + byItself,
		Undo:    onHost("revert", "nf_conntrack_max"),
	}
	if d.Memory.Object > 0 {
		a.What += fmt.Sprintf(", up to %s more kernel memory", mib(float64(d.Memory.Object+Extensions)*float64(t.Max)))
	}
	if r := finite(d.Arrivals.Total.S1); t.TimeToFull != nil && r >= 1 {
		a.What += fmt.Sprintf("; at %.0f new/s that lasts for %s at least", r, seconds(float64(t.Max)/r))
	}
	if b := d.Memory.Buckets; b > 0 && to > 4*b {
		a.Caution += fmt.Sprintf(". Chains grow to %.0f entries: when it is quiet also %s, which stops all traffic while it moves the entries, then and when it goes back",
			2*float64(to)/float64(b), onHost("set", fmt.Sprintf("nf_conntrack_buckets=%d", to/2)))
	}
	return []Action{a}
}
