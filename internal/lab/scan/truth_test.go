package scan

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
)

// truthRules note at the gateway who asked for what: the tuple of each packet that
// begins an entry, behind conntrack and before anybody could drop it, and of each that
// belongs to none and is no answer. Of floods they count the packets.
const truthRules = `table ip truth {
	set tuples { type ipv4_addr . ipv4_addr . inet_proto . inet_service . inet_service; flags dynamic; size 200000; }
	set pings { typeof ip saddr . ip daddr . icmp type . icmp id; flags dynamic; size 20000; }
	set others { type ipv4_addr; flags dynamic; counter; size 1000; }
	set odd { type ipv4_addr . ipv4_addr . inet_service . inet_service; flags dynamic; size 20000; }
	chain c { type filter hook forward priority 10;
		ct state invalid ip saddr 10.1.0.0/16 tcp flags & rst == 0 add @odd { ip saddr . ip daddr . tcp sport . tcp dport }
		ct state new ip saddr != { 10.0.1.2, 10.1.0.0/16, 198.51.100.0/23 } add @others { ip daddr } return
		ct state new icmp type echo-request add @pings { ip saddr . ip daddr . icmp type . icmp id }
		ct state new meta l4proto { tcp, udp } add @tuples { ip saddr . ip daddr . meta l4proto . th sport . th dport }
	}
}`

// contact is a source with an endpoint. Of ICMP that is the host, whatever it is asked.
type contact struct {
	src, dst netip.Addr
	proto    uint8
	port     uint16
}

// truth is what nft noted: how many tuples asked for a contact, and the probes that
// belong to no entry.
type truth struct{ contacts, odd map[contact]int }

// truth reads it, of everything since the town was built.
func (w *town) truth() truth {
	w.t.Helper()
	v := truth{map[contact]int{}, map[contact]int{}}
	w.elements("tuples", func(f []string) { v.contacts[contactOf(w.t, f[0], f[1], f[2], f[4])]++ })
	w.elements("pings", func(f []string) { v.contacts[contactOf(w.t, f[0], f[1], "1", "0")]++ })
	w.elements("odd", func(f []string) { v.odd[contactOf(w.t, f[0], f[1], "6", f[3])]++ })
	return v
}

// elements calls fn with the parts of each element of a set.
func (w *town) elements(set string, fn func(parts []string)) {
	w.t.Helper()
	out, err := w.R.Run("nft", "-j", "-y", "list", "set", "ip", "truth", set)
	must(w.t, err)
	var doc struct {
		NFTables []struct {
			Set struct{ Elem []struct{ Concat []any } }
		}
	}
	must(w.t, json.Unmarshal([]byte(out), &doc))
	for _, o := range doc.NFTables {
		for _, e := range o.Set.Elem {
			var parts []string
			for _, p := range e.Concat {
				parts = append(parts, fmt.Sprint(p))
			}
			fn(parts)
		}
	}
}

// counted is how many packets an element has counted.
func (w *town) counted(set, element string) (n int) {
	w.t.Helper()
	out, err := w.R.Run("nft", "get", "element", "ip", "truth", set, "{ "+element+" }")
	must(w.t, err)
	_, after, _ := strings.Cut(out, "packets ")
	_, err = fmt.Sscan(after, &n)
	must(w.t, err)
	return n
}

// numbers are what nft may write for a number all the same.
var numbers = map[string]string{"tcp": "6", "udp": "17"}

func contactOf(t testing.TB, src, dst, proto, port string) contact {
	t.Helper()
	number := func(s string) uint16 {
		n, err := strconv.ParseUint(cmp.Or(numbers[s], s), 10, 16)
		must(t, err)
		return uint16(n)
	}
	return contact{addr(src), addr(dst), uint8(number(proto)), number(port)}
}

// counts are the numbers of a finding: first contacts by what became of them, and the
// distinct destinations and ports of those that failed.
type counts struct{ refused, unanswered, half, invalid, answered, dsts, dports int }

// count sums up what a source asked for.
func (v truth) count(src netip.Addr, how manner) (n counts) {
	dsts, dports := map[netip.Addr]bool{}, map[uint32]bool{}
	each := func(c contact, f fate) {
		if c.src != src {
			return
		}
		switch f {
		case answered:
			n.answered++
			return
		case refused:
			n.refused++
		case unanswered:
			n.unanswered++
		case half:
			n.half++
		case invalid:
			n.invalid++
		}
		dsts[c.dst], dports[uint32(c.proto)<<16|uint32(c.port)] = true, true
	}
	for c := range v.contacts {
		each(c, fateOf(c, how))
	}
	for c := range v.odd {
		each(c, invalid)
	}
	n.dsts, n.dports = len(dsts), len(dports)
	return n
}

// attempts is how many connections of a source failed.
func (v truth) attempts(src netip.Addr, how manner) (n int) {
	for c, tuples := range v.contacts {
		if c.src == src && fateOf(c, how) != answered {
			n += tuples
		}
	}
	return n
}
