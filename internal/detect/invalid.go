package detect

import (
	"fmt"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/wyhash"
)

// Scans that make no entry (D1 again): segments that conntrack calls invalid, where
// they are told (--invalid). A segment is a first contact with the outcome Invalid,
// and counts like a refused one, when it is
//
//   - crafted: FIN, NULL, Xmas and whatever else no stack sends. Every segment but SYN
//     and RST carries ACK, and SYN, RST and FIN exclude one another (tcp_valid_flags of
//     nf_conntrack_proto_tcp.c, where PSH, ECE and CWR do not matter). That the
//     endpoint is a good one, or that everybody fails, does not explain it;
//   - stray: FIN+ACK (Maimon) that was no connection's end as far as can be known. It
//     counts for its destination alone, and only when the source has sent another from
//     the same port, as scanners do, to a port below its own, the endpoint is not known
//     to answer, and there was no entry of the two in either direction.
//
// All else is evidence of nothing. A late FIN, ACK or RST comes to an entry that has
// expired: of its client, whose contact is known; of its server, which is known to
// answer, or sends from the lower port. After a failover none of them are known,
// but their ports differ and few go to the same host. SYN+ACK and RST without a SYN
// are what victims of a flood with made up sources send, or took another way here.
// ACK alone makes an entry, but with tcp_loose 0, where after a failover every
// connection sends some. Scans with these are not seen.
//
// None of it needs an answer, so the sender may be anybody.
func (d *Engine) segment(e *event.Event, p *place) {
	if e.Reason != event.InvalidPacket || !e.HasTCPFlags {
		return
	}
	crafted := !sent(e.TCPFlags)
	if !crafted && !d.stray(e, p) {
		return
	}
	sec := d.second(e.Time)
	s := d.source(e.NetNS, e.Zone, e.Orig.Src, p)
	s.last = sec
	if !crafted && s.sport != e.Orig.Sport {
		s.sport = e.Orig.Sport
		return
	}
	probe, first := d.edges.get(max(1, wyhash.Mix(p.edge, uint64(event.Invalid))))
	first = first || sec-probe.last > uint32(retention.Seconds())
	probe.last = sec
	c := Contact{At: e.Time, Orig: e.Orig, NetNS: e.NetNS, Zone: e.Zone}
	j := judgement{Contact: &c, place: p, now: e.Time, sec: sec, o: Invalid, first: first, flags: e.TCPFlags, how: "invalid"}
	if !d.fronts.covers(d, &j) {
		d.scan.judge(d, s, &j)
	}
}

// sent says whether a working stack sends segments with these flags.
func sent(f event.TCPFlags) bool {
	switch f &^ (event.PSH | event.ECE | event.CWR) {
	case event.SYN, event.SYN | event.URG, event.SYN | event.ACK, event.RST, event.RST | event.ACK,
		event.ACK, event.ACK | event.URG, event.FIN | event.ACK, event.FIN | event.ACK | event.URG:
		return true
	}
	return false
}

// flagsNamed is how many kinds of segments an explanation names.
const flagsNamed = 4

// flagsWhy says which flags they had, and why those are not benign.
func flagsWhy(flags []event.TCPFlags) (why, not string) {
	all, odd := "", ""
	for _, f := range flags {
		name := fmt.Sprintf(" [%s]", f)
		if all += name; !sent(f) {
			odd += name
		}
	}
	if not = "; those that were invalid ended no connection that had been there"; odd != "" {
		not = "; no stack sends segments with the flags" + odd
	}
	return "; those that were invalid had the flags" + all, not
}

// stray says whether a segment that stacks do send belongs to nothing that was ever
// there.
func (d *Engine) stray(e *event.Event, p *place) bool {
	if e.TCPFlags&^event.PSH != event.FIN|event.ACK || e.Orig.Sport <= e.Orig.Dport {
		return false
	}
	if d.edges.find(p.edge) != nil || d.goods.find(p.endpoint) != nil {
		return false
	}
	var back place
	inverse := e.Orig.Inverse()
	d.locateTuple(&back, e.NetNS, e.Zone, &inverse)
	return d.edges.find(back.edge) == nil && d.goods.find(back.endpoint) == nil
}
