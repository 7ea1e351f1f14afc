package scan

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/ctsight/ctsight/internal/event"
)

// truthRules note at the gateway who asked for what: each tuple whose packet begins
// an entry, behind conntrack and before anybody could drop it.
const truthRules = `table ip truth {
	counter pings { }
	set tuples { type ipv4_addr . ipv4_addr . inet_proto . inet_service . inet_service; flags dynamic; size 200000; }
	chain c { type filter hook forward priority 10;
		ct state new meta l4proto icmp counter name pings
		ct state new meta l4proto { tcp, udp } add @tuples { ip saddr . ip daddr . meta l4proto . th sport . th dport }
	}
}`

// contact is a source with an endpoint.
type contact struct {
	src, dst netip.Addr
	proto    uint8
	port     uint16
}

// truth is what nft noted.
type truth struct {
	tuples   map[event.Tuple]bool
	contacts map[contact]bool
}

// truth reads it, and begins anew.
func (w *town) truth() truth {
	w.t.Helper()
	must(w.t, w.Drain())
	out, err := w.R.Run("nft", "-j", "-y", "list", "set", "ip", "truth", "tuples")
	must(w.t, err)
	_, err = w.R.Run("nft", "flush", "set", "ip", "truth", "tuples")
	must(w.t, err)
	v := truth{map[event.Tuple]bool{}, map[contact]bool{}}
	tuples, err := parseSet(out)
	must(w.t, err)
	for _, tu := range tuples {
		v.tuples[tu] = true
		v.contacts[contact{tu.Src, tu.Dst, tu.Proto, tu.Dport}] = true
	}
	return v
}

// parseSet reads what nft -j -y lists.
func parseSet(out string) ([]event.Tuple, error) {
	var doc struct {
		NFTables []struct {
			Set struct{ Elem []struct{ Concat [5]any } }
		}
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		return nil, err
	}
	var tuples []event.Tuple
	for _, o := range doc.NFTables {
		for _, e := range o.Set.Elem {
			var tu event.Tuple
			var ports [2]uint16
			err := fmt.Errorf("no tuple: %v", e.Concat)
			src, dst := fmt.Sprint(e.Concat[0]), fmt.Sprint(e.Concat[1])
			if _, scan := fmt.Sscan(fmt.Sprint(e.Concat[3:]...), &ports[0], &ports[1]); scan != nil {
				return nil, err
			}
			if tu.Src, err = netip.ParseAddr(src); err != nil {
				return nil, err
			}
			if tu.Dst, err = netip.ParseAddr(dst); err != nil {
				return nil, err
			}
			tu.Proto, tu.Sport, tu.Dport = protoOf(e.Concat[2]), ports[0], ports[1]
			tuples = append(tuples, tu)
		}
	}
	return tuples, nil
}

// protoOf reads a protocol as a number or by its name.
func protoOf(v any) uint8 {
	switch strings.ToLower(fmt.Sprint(v)) {
	case "6", "tcp":
		return event.ProtoTCP
	case "17", "udp":
		return event.ProtoUDP
	}
	return 0
}

// of are the contacts of one source.
func (v truth) of(src netip.Addr) (out []contact) {
	for c := range v.contacts {
		if c.src == src {
			out = append(out, c)
		}
	}
	return out
}

// counts are the numbers a finding must have.
type counts struct{ refused, unanswered, answered, dsts, dports int }

// count sums contacts up; destinations and ports are those of the ones that failed.
func count(all []contact, loose bool) (n counts) {
	dsts, dports := map[netip.Addr]bool{}, map[uint16]bool{}
	for _, c := range all {
		switch fateOf(c, loose) {
		case answered:
			n.answered++
			continue
		case refused:
			n.refused++
		case unanswered:
			n.unanswered++
		}
		dsts[c.dst], dports[c.port] = true, true
	}
	n.dsts, n.dports = len(dsts), len(dports)
	return n
}
