package netlab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Hook is a place in the path of a packet where rules look at it.
type Hook uint8

// The hooks of the inet family, with the kernel's numbers.
const (
	Prerouting  Hook = unix.NF_INET_PRE_ROUTING
	Input       Hook = unix.NF_INET_LOCAL_IN
	Forward     Hook = unix.NF_INET_FORWARD
	Output      Hook = unix.NF_INET_LOCAL_OUT
	Postrouting Hook = unix.NF_INET_POST_ROUTING
)

// String returns nft's name of the hook.
func (h Hook) String() string {
	return [...]string{"prerouting", "input", "forward", "output", "postrouting"}[h]
}

// Bits of ct state, for Match.
const (
	StateInvalid     = 1 << 0
	StateEstablished = 1 << 1
	StateRelated     = 1 << 2
	StateNew         = 1 << 3
	StateUntracked   = 1 << 6
)

// Match says which packets a rule is for; what is zero is not looked at.
type Match struct {
	Proto        uint8
	Src, Dst     netip.Prefix
	SPort, DPort Ports  // need a Proto that has ports
	CTState      uint32 // any of these bits
}

// tableName is the table of the inet family that holds all rules of a lab.
const tableName = "netlab"

// Priorities of the lab's chains.
const (
	prioCount  = -450 // before defragmentation: packets as they came
	prioRaw    = -300 // before conntrack
	prioSlow   = -50  // between conntrack and its confirmation
	prioFilter = 0
)

// chain is a base chain to be made when the first rule goes into it.
type chain struct {
	what string // first part of its name
	hook Hook
	kind nftables.ChainType
	prio int32
}

func (c chain) in(t *nftables.Table) *nftables.Chain {
	return &nftables.Chain{
		Name: c.what + "_" + c.hook.String(), Table: t, Type: c.kind,
		Hooknum: nftables.ChainHookRef(nftables.ChainHook(c.hook)), Priority: nftables.ChainPriorityRef(nftables.ChainPriority(c.prio)),
	}
}

// rules runs fn with a connection to the rules of the namespace. Nothing is
// changed before fn calls Flush.
func (n *NS) rules(fn func(*nftables.Conn, *nftables.Table) error) error {
	return n.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return fmt.Errorf("open nftables: %w", err)
		}
		return fn(c, &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet})
	})
}

// change runs fn and sends what it has queued as one transaction. Each
// transaction costs the kernel some milliseconds, so callers make few.
func (n *NS) change(fn func(*nftables.Conn, *nftables.Table) error) error {
	return n.rules(func(c *nftables.Conn, t *nftables.Table) error {
		c.AddTable(t)
		if err := fn(c, t); err != nil {
			return err
		}
		if err := c.Flush(); err != nil {
			return fmt.Errorf("change rules: %w", err)
		}
		return nil
	})
}

// addRules appends one rule for each of the matches, with the chain if need
// be. No match at all means every packet.
func (n *NS) addRules(c chain, matches []Match, action ...expr.Any) error {
	if len(matches) == 0 {
		matches = []Match{{}}
	}
	return n.change(func(conn *nftables.Conn, t *nftables.Table) error {
		ch := conn.AddChain(c.in(t))
		for _, m := range matches {
			match, err := m.exprs()
			if err != nil {
				return err
			}
			conn.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: append(match, action...)})
		}
		return nil
	})
}

// EnableConntrack adds a rule that looks at the ct state: conntrack does
// nothing in a namespace until one does.
func (n *NS) EnableConntrack() error {
	return n.addRules(chain{"track", Forward, nftables.ChainTypeFilter, prioFilter}, []Match{{CTState: StateNew}}, &expr.Counter{})
}

// Drop drops packets that match any of the matches. At Prerouting that is before conntrack sees them,
// elsewhere after it; a CTState needs a hook other than Prerouting.
func (n *NS) Drop(h Hook, m ...Match) error {
	prio := int32(prioFilter)
	if h == Prerouting {
		prio = prioRaw
	}
	return n.addRules(chain{"drop", h, nftables.ChainTypeFilter, prio}, m, &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})
}

// Untrack exempts packets from connection tracking.
func (n *NS) Untrack(h Hook, m ...Match) error {
	return n.addRules(chain{"untrack", h, nftables.ChainTypeFilter, prioRaw}, m, &expr.Notrack{})
}

// Masquerade gives packets that leave the router the address of its
// interface, and a source port of the range; without ports any port will do.
func (n *NS) Masquerade(m Match, ports Ports) error {
	c := chain{"nat", Postrouting, nftables.ChainTypeNAT, 100}
	if ports.N == 0 {
		return n.addRules(c, []Match{m}, &expr.Masq{})
	}
	match, err := m.exprs()
	if err != nil {
		return err
	}
	match = append(match,
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(ports.First)},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(ports.last())})
	err = n.change(func(conn *nftables.Conn, t *nftables.Table) error {
		conn.AddChain(c.in(t))
		return nil
	})
	if err != nil {
		return err
	}
	return n.addRawRule(c, match, masqueradeToPorts())
}

// AlternateDNAT sends the connections that match to the given addresses in
// turn (at Prerouting, or Output for local sockets).
func (n *NS) AlternateDNAT(h Hook, m Match, to ...netip.Addr) error {
	for i, a := range to {
		// The rule before has taken its share: one in len(to)-i is left.
		action := []expr.Any{
			&expr.Numgen{Register: 1, Modulus: uint32(len(to) - i), Type: unix.NFT_NG_INCREMENTAL},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)},
			&expr.Immediate{Register: 1, Data: a.AsSlice()},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: nfproto(a), RegAddrMin: 1},
		}
		if err := n.addRules(chain{"nat", h, nftables.ChainTypeNAT, -100}, []Match{m}, action...); err != nil {
			return err
		}
	}
	return nil
}

const (
	slowRuleLen   = 100 // reads in one rule; the kernel takes 128 expressions
	slowRuleBatch = 20  // rules in one transaction, which must fit in a socket buffer
)

// SlowDown makes packets spend time between their lookup in the table and
// their insertion, where they can race: every packet that matches reads
// something n times.
func (n *NS) SlowDown(h Hook, m Match, reads int) error {
	match, err := m.exprs()
	if err != nil {
		return err
	}
	for reads > 0 {
		err := n.change(func(c *nftables.Conn, t *nftables.Table) error {
			ch := c.AddChain(chain{"slow", h, nftables.ChainTypeFilter, prioSlow}.in(t))
			for range slowRuleBatch {
				exprs := append([]expr.Any(nil), match...)
				for i := range min(reads, slowRuleLen) {
					// Not twice the same in a row, which some kernels would leave out.
					exprs = append(exprs, payload(expr.PayloadBaseNetworkHeader, uint32(i%4)*4, 4))
				}
				c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: exprs})
				if reads -= slowRuleLen; reads <= 0 {
					break
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// QueueTo hands packets at prerouting, right after their lookup in the table,
// to an NFQUEUE (see OpenQueue).
func (n *NS) QueueTo(num uint16, m Match) error {
	c := chain{"queue", Prerouting, nftables.ChainTypeFilter, prioSlow}
	err := n.addRules(c, []Match{m}, &expr.Queue{Num: num, Total: 1})
	if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	// A kernel without nft_queue may still have iptables' target. It wants
	// a table of one family.
	info := xt.Unknown(binaryutil.NativeEndian.PutUint16(num))
	target := &expr.Target{Name: "NFQUEUE", Info: &info}
	match, err := m.exprs()
	if err != nil {
		return err
	}
	for _, f := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		err := n.change(func(conn *nftables.Conn, _ *nftables.Table) error {
			t := conn.AddTable(&nftables.Table{Name: tableName, Family: f})
			conn.AddRule(&nftables.Rule{Table: t, Chain: conn.AddChain(c.in(t)), Exprs: append(match[:len(match):len(match)], target)})
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// masqueradeToPorts is the expression "masquerade to the ports in registers 1
// to 2". The library's own leaves out the flag that makes the kernel heed them.
func masqueradeToPorts() []byte {
	u32 := binaryutil.BigEndian.PutUint32
	return attrs(
		attr(unix.NFTA_EXPR_NAME, []byte("masq\x00")),
		attr(unix.NFTA_EXPR_DATA|unix.NLA_F_NESTED, attrs(
			attr(unix.NFTA_MASQ_FLAGS, u32(unix.NF_NAT_RANGE_PROTO_SPECIFIED)), attr(unix.NFTA_MASQ_REG_PROTO_MIN, u32(1)), attr(unix.NFTA_MASQ_REG_PROTO_MAX, u32(2)))))
}

// addRawRule appends a rule whose last expression is given as the kernel
// wants it. The chain exists.
func (n *NS) addRawRule(c chain, exprs []expr.Any, last []byte) error {
	var list []netlink.Attribute
	for _, e := range exprs {
		b, err := expr.Marshal(unix.NFPROTO_INET, e)
		if err != nil {
			return fmt.Errorf("build rule: %w", err)
		}
		list = append(list, attr(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, b))
	}
	list = append(list, attr(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, last))
	rule := attrs(
		attr(unix.NFTA_RULE_TABLE, []byte(tableName+"\x00")),
		attr(unix.NFTA_RULE_CHAIN, []byte(c.in(nil).Name+"\x00")),
		attr(unix.NFTA_RULE_EXPRESSIONS|unix.NLA_F_NESTED, attrs(list...)))
	message := func(typ int, flags netlink.HeaderFlags, family byte, res uint16, data []byte) netlink.Message {
		head := binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, res)
		return netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.Request | flags}, Data: append(head, data...)}
	}
	const batchFor = unix.NFNL_SUBSYS_NFTABLES
	newRule := message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append|netlink.Acknowledge, unix.NFPROTO_INET, 0, rule)
	return n.Do(func() error {
		conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
		if err != nil {
			return fmt.Errorf("open nftables: %w", err)
		}
		defer conn.Close()
		_, err = conn.SendMessages([]netlink.Message{
			message(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, batchFor, nil), newRule,
			message(unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC, batchFor, nil),
		})
		if err == nil {
			_, err = conn.Receive()
		}
		if err != nil {
			return fmt.Errorf("add rule: %w", err)
		}
		return nil
	})
}

func attr(typ uint16, data []byte) netlink.Attribute { return netlink.Attribute{Type: typ, Data: data} }

// attrs encodes attributes; it cannot fail with attributes as short as ours.
func attrs(a ...netlink.Attribute) []byte {
	b, err := netlink.MarshalAttributes(a)
	if err != nil {
		panic(err)
	}
	return b
}

// exprs compiles the match to nft expressions.
func (m Match) exprs() ([]expr.Any, error) {
	var out []expr.Any
	for _, p := range []struct {
		prefix   netip.Prefix
		off4, o6 uint32
	}{{m.Src, 12, 8}, {m.Dst, 16, 24}} {
		if p.prefix.IsValid() {
			out = append(out, matchPrefix(p.prefix, p.off4, p.o6)...)
		}
	}
	if m.Proto != 0 {
		out = append(out, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal([]byte{m.Proto}))
	}
	if (m.SPort.N > 0 || m.DPort.N > 0) && !hasPorts(m.Proto) {
		return nil, fmt.Errorf("match ports: protocol %d has none", m.Proto)
	}
	out = append(out, matchPorts(m.SPort, 0)...)
	out = append(out, matchPorts(m.DPort, 2)...)
	if m.CTState != 0 {
		out = append(out,
			&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(m.CTState), Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)})
	}
	return out, nil
}

func matchPrefix(p netip.Prefix, off4, off6 uint32) []expr.Any {
	p = p.Masked()
	size, off := uint32(4), off4
	if p.Addr().Is6() {
		size, off = 16, off6
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal([]byte{byte(nfproto(p.Addr()))}),
		payload(expr.PayloadBaseNetworkHeader, off, size),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: net.CIDRMask(p.Bits(), int(size)*8), Xor: make([]byte, size)},
		equal(p.Addr().AsSlice()),
	}
}

func matchPorts(p Ports, off uint32) []expr.Any {
	if p.N == 0 {
		return nil
	}
	be := func(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }
	if p.N == 1 {
		return []expr.Any{payload(expr.PayloadBaseTransportHeader, off, 2), equal(be(p.First))}
	}
	return []expr.Any{
		payload(expr.PayloadBaseTransportHeader, off, 2),
		&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: be(p.First)},
		&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: be(p.last())},
	}
}

func payload(base expr.PayloadBase, off, size uint32) *expr.Payload {
	return &expr.Payload{DestRegister: 1, Base: base, Offset: off, Len: size}
}

func equal(b []byte) *expr.Cmp { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: b} }

func nfproto(a netip.Addr) uint32 {
	if a.Is4() {
		return unix.NFPROTO_IPV4
	}
	return unix.NFPROTO_IPV6
}
