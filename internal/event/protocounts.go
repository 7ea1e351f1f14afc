package event

// ProtoCounts counts inserts by address family and protocol, and destroys by
// protocol and cause: what totals that must not lose anything are kept by. It has
// places for the protocols that conntrack knows and one for the rest.
type ProtoCounts struct {
	New     [2][NumProtos]uint64 // IPv4 and IPv6; ProtoPlace
	Destroy [4][32]uint64        // TCP, UDP, ICMP of both families, others; by cause
}

// NumProtos is the number of places for protocols, the last for all others.
const NumProtos = 9

// ProtoOther stands for the protocols that have no place of their own. It is a
// reserved number.
const ProtoOther = 255

// protos is in the order of proto_place in bpf/shed.h.
var protos = [NumProtos]uint8{ProtoTCP, ProtoUDP, ProtoICMP, ProtoICMPv6, ProtoSCTP, ProtoDCCP, ProtoGRE, ProtoUDPLite, ProtoOther}

// destroyProtos are those of ProtoCounts.Destroy.
var destroyProtos = [4]uint8{ProtoTCP, ProtoUDP, ProtoICMP, ProtoOther}

// place is ProtoPlace of every protocol.
var place = func() (t [256]uint8) {
	for i := range t {
		t[i] = NumProtos - 1
	}
	for i, p := range protos {
		t[p] = uint8(i)
	}
	return t
}()

// Add counts an event that stands for n, if it is an insert or a destroy.
func (c *ProtoCounts) Add(e *Event, n uint64) {
	i := place[e.Orig.Proto]
	switch e.Kind {
	case New:
		family := 0
		if !e.Orig.Src.Is4() {
			family = 1
		}
		c.New[family][i] += n
	case Destroy:
		c.Destroy[destroyPlace(i)][e.Cause&31] += n
	}
}

func destroyPlace(i uint8) uint8 {
	switch i {
	case 0, 1, 2:
		return i
	case 3:
		return 2 // ICMPv6
	}
	return 3
}

// Plus adds what another has counted.
func (c *ProtoCounts) Plus(o *ProtoCounts) {
	for i := range c.New {
		for j := range c.New[i] {
			c.New[i][j] += o.New[i][j]
		}
	}
	for i := range c.Destroy {
		for j := range c.Destroy[i] {
			c.Destroy[i][j] += o.Destroy[i][j]
		}
	}
}

// EachNew calls fn for every family and protocol that has inserts.
func (c *ProtoCounts) EachNew(fn func(ipv6 bool, proto uint8, n uint64)) {
	for i := range c.New {
		for j, n := range c.New[i] {
			if n > 0 {
				fn(i == 1, protos[j], n)
			}
		}
	}
}

// EachDestroy calls fn for every protocol and cause that has destroys.
func (c *ProtoCounts) EachDestroy(fn func(proto uint8, cause Cause, n uint64)) {
	for i := range c.Destroy {
		for j, n := range c.Destroy[i] {
			if n > 0 {
				fn(destroyProtos[i], Cause(j), n)
			}
		}
	}
}
