package detect

import "github.com/ctsight/ctsight/internal/event"

// D6: UDP amplification, at its victim.
//
// Answers nobody has asked for come from services that anybody can be made to
// send from: their source port is that of the service. With 80 % of the entries
// from one source port, 50 sources (20 where the port is one that is known for it),
// and 95 % that the target has not asked for, it is that.
const (
	reflectShare   = .8
	reflectors     = 50
	reflectorsSure = 20
	unasked        = .95
)

// reflecting says whether a UDP port is known for it (US-CERT TA14-017A and later).
func reflecting(port uint16) bool {
	switch port {
	case 17, 19, 53, 111, 123, 137, 161, 389, 500, 1900, 3702, 4500, 5353, 5683, 10001, 11211, 27015, 37810, 47808:
		return true
	}
	return false
}

// reflected says whether a crowd is of such answers.
func (c *crowd) reflected() bool {
	sport, _, share := c.sports.top()
	least := uint64(reflectors)
	if reflecting(uint16(sport)) {
		least = reflectorsSure
	}
	return share >= reflectShare && c.sources.count() >= least && float64(c.solicited) <= (1-unasked)*float64(c.n)
}

// asked says whether the target of a packet has sent to its source before.
func (d *Engine) asked(e *event.Event) bool {
	var p place
	back := event.Tuple{Src: e.Orig.Dst, Dst: e.Orig.Src, Sport: e.Orig.Dport, Dport: e.Orig.Sport, Proto: e.Orig.Proto}
	d.locateTuple(&p, e.NetNS, e.Zone, &back)
	return d.edges.find(p.edge) != nil
}
