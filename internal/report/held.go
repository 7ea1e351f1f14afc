package report

import (
	"cmp"
	"slices"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/view"
)

// snapshot is what a table held at a moment.
type snapshot struct {
	at   event.Ktime
	n    uint64
	tree *Holder
}

// Holder is a part of a table: all of it, then by protocol, source, state and port.
type Holder struct {
	Name  string
	N     uint64
	Parts []*Holder // the largest first, the sum of what is smaller last
}

// Parts of a Holder that have a name of their own, by depth.
var breadth = [...]int{4, 8, 3, 4}

// holding is what an entry counts as.
type holding struct {
	proto uint8
	src   sourceKey
	class Class
	dport uint16
}

// look counts the live entries of a table.
func (g *Gatherer) look(t *table, at event.Ktime) snapshot {
	by := map[holding]uint64{}
	n := uint64(0)
	for _, x := range g.live.All() {
		h := &g.tuples[x.at]
		if h.table != t {
			continue
		}
		n++
		k := holding{h.orig.Proto, sourceKey{t.ns, h.orig.Src}, x.class, h.orig.Dport}
		if h.orig.IsICMP() {
			k.dport = 0
		}
		by[k]++
	}
	all := make([]holding, 0, len(by))
	for k := range by {
		all = append(all, k)
	}
	return snapshot{at: at, n: n, tree: grow("", all, by, 0)}
}

// grow makes a node of entries and parts it further.
func grow(name string, all []holding, by map[holding]uint64, depth int) *Holder {
	node := &Holder{Name: name}
	if depth == len(breadth) {
		for _, k := range all {
			node.N += by[k]
		}
		return node
	}
	parts := map[string][]holding{}
	sums := map[string]uint64{}
	for _, k := range all {
		name := partName(k, depth)
		parts[name] = append(parts[name], k)
		sums[name] += by[k]
		node.N += by[k]
	}
	names := make([]string, 0, len(parts))
	for n := range parts {
		names = append(names, n)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(sums[b], sums[a]), cmp.Compare(a, b)) })
	rest := &Holder{}
	for i, n := range names {
		if i < breadth[depth] || len(names) == breadth[depth]+1 {
			node.Parts = append(node.Parts, grow(n, parts[n], by, depth+1))
			continue
		}
		rest.N += sums[n]
	}
	if rest.N > 0 {
		rest.Name = count(uint64(len(names)-breadth[depth])) + " others"
		node.Parts = append(node.Parts, rest)
	}
	return node
}

func partName(k holding, depth int) string {
	switch depth {
	case 0:
		return event.ProtoName(k.proto)
	case 1:
		return view.AddrText(k.src.src)
	case 2:
		return stateName(k.class)
	}
	if k.proto == event.ProtoTCP || k.proto == event.ProtoUDP || k.dport != 0 {
		return "port " + digits(uint64(k.dport))
	}
	return "no port"
}

func stateName(c Class) string {
	switch c {
	case TCPSilent, UDPSilent:
		return "no answer"
	case TCPAnswered, UDPAnswered:
		return "answered"
	case TCPAssured:
		return "assured"
	}
	return "any state"
}
