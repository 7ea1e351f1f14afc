package triage

import (
	"cmp"
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
	if d.Focus.Level < agg.LevelTrend && len(d.Evicted) == 0 && !d.loses() {
		return nil
	}
	out = append(out, d.watch()...)
	out = append(out, d.shed()...)
	out = append(out, d.drain()...)
	out = append(out, d.timeouts()...)
	return append(out, d.raise()...)
}

func (d *Doc) loses() bool {
	return slices.ContainsFunc(d.Drops, func(r agg.ReasonCount) bool { return !r.Reason.IsRuleset() })
}

func (d *Doc) watch() []Action {
	if !d.loses() && len(d.Evicted) == 0 {
		return nil
	}
	return []Action{{What: "see whose packets are lost, and to what", Command: fmt.Sprintf("ctsight drops --netns %s", d.Focus.NetNS)}}
}

// culprit is the source that opens at least a third of all connections, most of
// which are not answered, or a scanner.
func (d *Doc) culprit() (agg.TopRow, bool) {
	if r, ok := d.scanner(); ok {
		return r, true
	}
	if d.forged() || len(d.Arrivals.Rows) == 0 || d.Held == nil {
		return agg.TopRow{}, false
	}
	r := d.Arrivals.Rows[0]
	return r, share(r.New, d.Arrivals.Total.New) >= heavy && share(d.Held.Unreplied, d.Held.N) >= mostly
}

func (d *Doc) forged() bool {
	return d.Arrivals.Total.New >= 1000 && share(uint64(d.Arrivals.Tracked), d.Arrivals.Total.New) >= spoofed
}

// shed is a rule that limits what comes from the culprit before conntrack sees
// it, at a hundredth of its present rate.
func (d *Doc) shed() []Action {
	r, ok := d.culprit()
	if !ok || !r.Src.IsValid() {
		return nil
	}
	who, family := r.Src.String(), "ip"
	if r.Src.Is6() {
		family = "ip6"
	}
	for _, p := range d.Prefixes.Rows { // its neighbours do the same: take the prefix
		if p.Src.IsValid() && p.Src.Is4() == r.Src.Is4() && prefixOf(&p.Key).Contains(r.Src) && p.New >= 2*r.New && p.New > 0 {
			who = prefixOf(&p.Key).String()
		}
	}
	rate := max(10, int(math.Ceil(r.S1/100)))
	return []Action{{
		What: fmt.Sprintf("limit what comes from %s, before conntrack", who),
		Command: d.Enter + fmt.Sprintf("nft 'add table inet ctsight_shed; add chain inet ctsight_shed pre { type filter hook prerouting priority raw; }; "+
			"add rule inet ctsight_shed pre %s saddr %s limit rate over %d/second drop'", family, who, rate),
		Caution: "limits all its packets, not only new connections; undo: " + d.Enter + "nft delete table inet ctsight_shed",
	}}
}

// drain deletes what the culprit holds.
func (d *Doc) drain() []Action {
	r, ok := d.culprit()
	if !ok || !r.Src.IsValid() || r.Live == 0 {
		return nil
	}
	return []Action{{
		What:    fmt.Sprintf("free the %d entries of %s", r.Live, r.Src),
		Command: d.Enter + fmt.Sprintf("conntrack -D -s %s", r.Src),
		Caution: "its open connections through NAT break; shed first, or it fills again",
	}}
}

// steps are timeouts that may go down, and for which entries.
var steps = []struct {
	sysctl string
	to     int
	holds  func(*agg.HoldingKey) bool
	costs  string
}{
	{"udp_timeout", 10, func(k *agg.HoldingKey) bool { return k.Proto == event.ProtoUDP && !k.Assured }, "answers that take longer are lost behind NAT"},
	{"udp_timeout_stream", 60, func(k *agg.HoldingKey) bool { return k.Proto == event.ProtoUDP && k.Assured }, "UDP sessions that are silent for longer get a new entry"},
	{"tcp_timeout_syn_sent", 20, func(k *agg.HoldingKey) bool { return k.State == event.TCPSynSent }, "slow servers"},
	{"tcp_timeout_syn_recv", 20, func(k *agg.HoldingKey) bool { return k.State == event.TCPSynRecv }, "slow clients"},
	{"tcp_timeout_time_wait", 30, func(k *agg.HoldingKey) bool { return k.State == event.TCPTimeWait }, "late segments of closed connections are invalid"},
	{"tcp_timeout_established", 86400, func(k *agg.HoldingKey) bool { return k.State == event.TCPEstablished }, "connections that are silent for longer break"},
}

// timeouts proposes shorter ones where they would free a fifth of the table.
func (d *Doc) timeouts() (out []Action) {
	if d.Held == nil {
		return nil
	}
	for _, s := range steps {
		n := uint64(0)
		for _, r := range d.Held.Rows() {
			if s.holds(&r.HoldingKey) {
				n += r.N
			}
		}
		now, known := d.Timeouts[s.sysctl]
		if share(n, d.Held.N) < 0.2 || !known || now <= s.to {
			continue
		}
		out = append(out, Action{
			What:    fmt.Sprintf("let entries end after %d s, now %d: %d of them (%s) are of this sort", s.to, now, n, percent(share(n, d.Held.N))),
			Command: d.Enter + fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_%s=%d", s.sysctl, s.to),
			Caution: fmt.Sprintf("new and refreshed entries only; %s; undo: %ssysctl -w net.netfilter.nf_conntrack_%s=%d", s.costs, d.Enter, s.sysctl, now),
		})
	}
	return out
}

// raise doubles the limit, which is one for all namespaces.
func (d *Doc) raise() []Action {
	t := &d.Focus
	if t.Max == 0 || t.Level < agg.LevelAction {
		return nil
	}
	to := 2 * t.Max
	a := Action{
		What:    fmt.Sprintf("make room: %d instead of %d entries", to, t.Max),
		Command: fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d", to),
		Caution: fmt.Sprintf("of all namespaces; undo: sysctl -w net.netfilter.nf_conntrack_max=%d", t.Max),
	}
	if d.Memory.Object > 0 {
		a.What += fmt.Sprintf(", up to %s more kernel memory", mib(uint64(d.Memory.Object+Extensions)*(to-t.Max)))
	}
	if b := cmp.Or(d.Memory.Buckets, 1); to > 4*b && d.Memory.Buckets > 0 {
		a.Caution = fmt.Sprintf("chains grow to %d entries: also sysctl -w net.netfilter.nf_conntrack_buckets=%d; ", 2*to/b, to/2) + a.Caution
	}
	return []Action{a}
}

func prefixOf(k *agg.Key) netip.Prefix { return netip.PrefixFrom(k.Src, int(k.Bits)) }
