package netlab

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Count counts packets that match under a name, before conntrack and before
// fragments are put together. Several rules may share a name.
func (n *NS) Count(name string, h Hook, m ...Match) error {
	err := n.change(func(c *nftables.Conn, t *nftables.Table) error {
		c.AddObj(&nftables.CounterObj{Table: t, Name: name})
		return nil
	})
	if err != nil {
		return err
	}
	return n.addRules(chain{"count", h, nftables.ChainTypeFilter, prioCount}, m, &expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: name})
}

// Counter reads the packets and bytes counted under a name.
func (n *NS) Counter(name string) (packets, bytes uint64, err error) {
	err = n.rules(func(c *nftables.Conn, t *nftables.Table) error {
		o, err := c.GetObject(&nftables.CounterObj{Table: t, Name: name})
		if err != nil {
			return fmt.Errorf("read counter %s: %w", name, err)
		}
		counter, ok := o.(*nftables.CounterObj)
		if !ok {
			return fmt.Errorf("read counter %s: got %T", name, o)
		}
		packets, bytes = counter.Packets, counter.Bytes
		return nil
	})
	return packets, bytes, err
}

// maxSources bounds the sources that CountSources tells apart.
const maxSources = 1 << 17

// CountSources adds rules that count the packets of each source address,
// IPv4 and IPv6, under a name.
func (n *NS) CountSources(name string, h Hook, m Match) error {
	return n.change(func(c *nftables.Conn, t *nftables.Table) error {
		ch := c.AddChain(chain{"count", h, nftables.ChainTypeFilter, prioCount}.in(t))
		for _, f := range sourceFamilies {
			match, err := m.exprs()
			if err != nil {
				return err
			}
			set := f.set(t, name)
			if err := c.AddSet(set, nil); err != nil {
				return fmt.Errorf("add set %s: %w", set.Name, err)
			}
			exprs := append([]expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal([]byte{f.proto})}, match...)
			exprs = append(exprs, payload(expr.PayloadBaseNetworkHeader, f.off, f.key.Bytes), &expr.Dynset{
				SrcRegKey: 1, SetName: set.Name, SetID: set.ID, Operation: unix.NFT_DYNSET_OP_UPDATE, Exprs: []expr.Any{&expr.Counter{}},
			})
			c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: exprs})
		}
		return nil
	})
}

// SourceCounts reads what CountSources has counted under a name.
func (n *NS) SourceCounts(name string) (map[netip.Addr]uint64, error) {
	out := make(map[netip.Addr]uint64)
	for _, f := range sourceFamilies {
		err := n.rules(func(c *nftables.Conn, t *nftables.Table) error {
			elems, err := c.GetSetElements(f.set(t, name))
			if err != nil {
				return fmt.Errorf("read counters of %s: %w", name, err)
			}
			for _, e := range elems {
				a, ok := netip.AddrFromSlice(e.Key)
				if !ok || e.Counter == nil {
					return fmt.Errorf("read counters of %s: an element without address or counter", name)
				}
				out[a] = e.Counter.Packets
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// sourceFamily is where the source address is and what a set of them holds.
type sourceFamily struct {
	suffix string
	proto  byte
	off    uint32
	key    nftables.SetDatatype
}

var sourceFamilies = []sourceFamily{
	{"4", unix.NFPROTO_IPV4, 12, nftables.TypeIPAddr},
	{"6", unix.NFPROTO_IPV6, 8, nftables.TypeIP6Addr},
}

func (f sourceFamily) set(t *nftables.Table, name string) *nftables.Set {
	return &nftables.Set{Table: t, Name: name + f.suffix, KeyType: f.key, Dynamic: true, Size: maxSources}
}
