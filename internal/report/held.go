package report

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/view"
	"github.com/ctsight/ctsight/internal/wyhash"
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

// held is what is kept of a live entry for that. A million of them are 32 MB.
type held struct {
	src   netip.Addr
	dport uint16
	proto uint8
	table uint8 // its place in Gatherer.order
}

// helds are those of live entries, in blocks: to grow copies nothing.
type helds struct {
	blocks [][]held
	free   []uint32
	keys   []uint64 // of the last look, for the next
}

const heldBlock = 1 << 12

func (b *helds) at(i uint32) *held { return &b.blocks[i/heldBlock][i%heldBlock] }

func (b *helds) put(h held) uint32 {
	if len(b.free) == 0 {
		from := uint32(len(b.blocks) * heldBlock)
		b.blocks = append(b.blocks, make([]held, heldBlock))
		for i := range uint32(heldBlock) {
			b.free = append(b.free, from+heldBlock-1-i)
		}
	}
	i := b.free[len(b.free)-1]
	b.free = b.free[:len(b.free)-1]
	*b.at(i) = h
	return i
}

func (b *helds) release(i uint32) {
	*b.at(i) = held{}
	b.free = append(b.free, i)
}

// key is the protocol and, as a hash, the source.
func (h *held) key() uint64 { return uint64(h.proto)<<56 | wyhash.IP(h.src, uint64(h.proto))>>8 }

// holding is what an entry of a source that has a name counts as.
type holding struct {
	key   uint64
	class Class
	proto uint8
	dport uint16
}

// part is a run of equal keys, or of one protocol.
type part struct {
	key uint64
	n   uint64
}

func (a part) compare(b part) int {
	return cmp.Or(cmp.Compare(b.n, a.n), cmp.Compare(a.key, b.key))
}

// look counts the live entries of a table. Of a million there may be as many sources:
// those are counted in a sorted list of their hashes, and only what has a name is looked
// at more closely.
func (g *Gatherer) look(t *table, at event.Ktime) snapshot {
	keys := g.held.keys[:0]
	for _, x := range g.live.All() {
		if h := g.held.at(x.at); h.table == t.index {
			keys = append(keys, h.key())
		}
	}
	g.held.keys = keys
	slices.Sort(keys)
	protos, n := largest(keys, 56, breadth[0])
	root := &Holder{N: uint64(len(keys))}
	named := map[uint64]*Holder{}
	for _, p := range protos {
		of := &Holder{Name: event.ProtoName(uint8(p.key)), N: p.n}
		root.Parts = append(root.Parts, of)
		from, _ := slices.BinarySearch(keys, p.key<<56)
		sources, n := largest(keys[from:from+int(p.n)], 0, breadth[1])
		for _, s := range sources {
			named[s.key] = &Holder{N: s.n}
			of.Parts = append(of.Parts, named[s.key])
		}
		of.others(n)
	}
	g.detail(t, root.Parts, named)
	root.others(n)
	return snapshot{at: at, n: root.N, tree: root}
}

// largest are the parts of equal upper bits that have a name, and how many parts there are.
func largest(sorted []uint64, shift, most int) (out []part, n int) {
	for i := 0; i < len(sorted); n++ {
		p := part{key: sorted[i] >> shift}
		for ; i < len(sorted) && sorted[i]>>shift == p.key; i++ {
			p.n++
		}
		if at, _ := slices.BinarySearchFunc(out, p, part.compare); at <= most {
			out = slices.Insert(out, at, p)
			out = out[:min(len(out), most+1)]
		}
	}
	return out[:namedOf(n, most)], n
}

// namedOf is how many of n parts have a name; no more than one is not among others.
func namedOf(n, most int) int {
	if n == most+1 {
		return n
	}
	return min(n, most)
}

// others adds the sum of what has no name, of n parts.
func (h *Holder) others(n int) {
	rest := h.N
	for _, p := range h.Parts {
		rest -= p.N
	}
	if n > len(h.Parts) {
		h.Parts = append(h.Parts, &Holder{Name: count(uint64(n-len(h.Parts))) + " others", N: rest})
	}
}

// detail parts sources by state and port, and names them.
func (g *Gatherer) detail(t *table, protos []*Holder, named map[uint64]*Holder) {
	by := map[holding]uint64{}
	for _, x := range g.live.All() {
		h := g.held.at(x.at)
		if h.table != t.index {
			continue
		}
		k := holding{key: h.key(), class: x.class, proto: h.proto, dport: h.dport}
		of := named[k.key]
		if of == nil {
			continue
		}
		if of.Name == "" {
			of.Name = view.AddrText(h.src)
		}
		by[k]++
	}
	all := map[uint64][]holding{}
	for k := range by {
		all[k.key] = append(all[k.key], k)
	}
	for k, of := range named {
		of.Parts = grow("", all[k], by, 2).Parts
	}
	for _, p := range protos { // of equals, which are in the order of their hashes
		slices.SortStableFunc(p.Parts, func(a, b *Holder) int {
			if (len(a.Parts) == 0) != (len(b.Parts) == 0) { // others are last
				return cmp.Compare(len(b.Parts), len(a.Parts))
			}
			return cmp.Or(cmp.Compare(b.N, a.N), cmp.Compare(a.Name, b.Name))
		})
	}
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
	for _, n := range names[:namedOf(len(names), breadth[depth])] {
		node.Parts = append(node.Parts, grow(n, parts[n], by, depth+1))
	}
	node.others(len(names))
	return node
}

func partName(k holding, depth int) string {
	switch depth {
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
