package feed

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// chunk is how many go into one message: the library makes a wrong one of more than some
// hundred elements, and a prefix is two. A transaction has several messages, since one that
// takes elements out waits for all CPUs (synchronize_rcu), and no more than a socket
// takes at once.
const (
	chunk    = 250
	messages = 8
	sendable = 1 << 20
)

// margin is how near its end an element is left alone: the kernel may be forgetting it.
const margin = 2 * time.Second

// Table is inet ctsight in the kernel, there while it has somebody to block. It looks at
// and changes nothing else. Sync and Remove are for one goroutine; Stats for any.
type Table struct {
	netns int // descriptor, 0 for that of the caller
	lock  net.Listener

	have   map[netip.Prefix]time.Time // when the kernel forgets it; nil when the table is not there
	known  bool                       // whether it is there
	loaded Ruleset                    // without Block
	rules  []uint64                   // their handles
	gen    uint32                     // of all rules of the namespace, as we left them

	mu    sync.Mutex
	stats TableStats
}

// TableStats is what the table has, and what happened to it.
type TableStats struct {
	Elements int
	Loads    uint64 // times it was made
	Heals    uint64 // of them because somebody had changed or removed it
}

// ErrTableInUse says that another process keeps the table in this network namespace.
var ErrTableInUse = errors.New("nftables: another ctsight keeps table inet ctsight in this network namespace")

// ErrForeignTable says that there is a table of our name that we have not made.
var ErrForeignTable = errors.New("nftables: there is a table inet ctsight that ctsight has not made: rename it")

// NewTable is the table of a network namespace, by its descriptor; 0 is that of the
// caller, who must be in that namespace in any case. It changes nothing yet. What it
// holds, an abstract socket as a lock, is given back by Close.
func NewTable(netns int) (*Table, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: "@ctsight/nftables", Net: "unix"})
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, ErrTableInUse
	}
	if err != nil {
		return nil, fmt.Errorf("nftables: lock: %w", err)
	}
	return &Table{netns: netns, lock: l}, nil
}

// Close gives the lock back and leaves the table as it is.
func (t *Table) Close() error { return t.lock.Close() }

// Stats says what the table has.
func (t *Table) Stats() TableStats {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stats
}

func (t *Table) count(f func(*TableStats)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f(&t.stats)
	t.stats.Elements = len(t.have)
}

// Sync makes the kernel have what r says, and no table when there is nobody to block. It
// says whether somebody else had changed or removed the table. After an error nothing is
// taken for granted: the next Sync loads the whole table anew.
func (t *Table) Sync(r *Ruleset, now time.Time) (healed bool, err error) {
	defer t.count(func(*TableStats) {})
	want := r.elements(now)
	if len(want) == 0 {
		return false, t.Remove()
	}
	if healed, err = t.check(now); err != nil {
		t.forget()
		return healed, err
	}
	if t.have == nil || !sameShape(&t.loaded, r) {
		if err := t.load(r); err != nil {
			t.forget()
			return healed, err
		}
		if healed {
			t.count(func(s *TableStats) { s.Heals++ })
		}
	}
	if err := t.update(want, now); err != nil {
		t.forget()
		return healed, err
	}
	return healed, nil
}

func sameShape(a, b *Ruleset) bool {
	return a.Hook == b.Hook && a.Action == b.Action && slices.Equal(a.Allow, b.Allow)
}

func (t *Table) forget() { t.have, t.known, t.rules, t.gen = nil, false, nil, 0 }

// Remove removes the table, if it is ours.
func (t *Table) Remove() error {
	if t.known && t.have == nil {
		return nil
	}
	c, err := t.conn()
	if err != nil {
		return err
	}
	there, err := t.there(c)
	if err != nil {
		return err
	}
	if there {
		c.DelTable(table())
		if err := c.Flush(); err != nil {
			return fmt.Errorf("nftables: remove table inet ctsight: %w", err)
		}
	}
	t.forget()
	t.known = true
	t.count(func(*TableStats) {})
	return nil
}

func (t *Table) conn() (*nftables.Conn, error) {
	o := []nftables.ConnOption{nftables.WithSockOptions(func(c *netlink.Conn) error { return c.SetWriteBuffer(sendable) })}
	if t.netns != 0 {
		o = append(o, nftables.WithNetNSFd(t.netns))
	}
	c, err := nftables.New(o...)
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	return c, nil
}

func table() *nftables.Table {
	return &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
}

// there says whether the table is there; one that is not ours is an error. The library
// hides which error it got, so the list of tables is asked.
func (t *Table) there(c *nftables.Conn) (bool, error) {
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("nftables: %w", err)
	}
	if !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == TableName }) {
		return false, nil
	}
	sets, err := c.GetSets(table())
	if err != nil {
		return false, fmt.Errorf("nftables: %w", err)
	}
	for _, k := range setKinds {
		if !slices.ContainsFunc(sets, func(s *nftables.Set) bool { return s.Name == k.name }) {
			return false, ErrForeignTable
		}
	}
	return true, nil
}

// check finds out whether the table is as we left it. Where nobody has changed any rule
// of the namespace since, it is.
func (t *Table) check(now time.Time) (changed bool, err error) {
	if t.have == nil {
		return false, nil
	}
	gen, err := t.generation()
	if err != nil || gen == t.gen {
		return false, err
	}
	c, err := t.conn()
	if err != nil {
		return false, err
	}
	// An error is a part that is not there any more; should it be another one, loading
	// tells.
	if same, err := t.same(c, now); err != nil || !same {
		t.forget()
		return true, nil
	}
	t.gen = gen
	return false, nil
}

// same compares what is in the kernel with what we have put there.
func (t *Table) same(c *nftables.Conn, now time.Time) (bool, error) {
	rules, err := c.GetRules(table(), &nftables.Chain{Name: chainName})
	if err != nil || !slices.Equal(handles(rules), t.rules) {
		return false, err
	}
	there := map[netip.Prefix]bool{}
	for _, k := range setKinds {
		elements, err := c.GetSetElements(k.set())
		if err != nil {
			return false, err
		}
		if k.pass {
			if len(elements) != t.allowed(k) {
				return false, nil
			}
			continue
		}
		for _, p := range k.prefixes(elements) {
			there[p] = true
		}
	}
	for p, end := range t.have {
		if !there[p] && end.After(now.Add(margin)) {
			return false, nil
		}
		delete(there, p)
	}
	return len(there) == 0, nil
}

// allowed is how many elements of the kernel a set of the allow list is.
func (t *Table) allowed(k setKind) int {
	n := 0
	for _, p := range t.loaded.Allow {
		if k.takes(p, true) {
			n += len(k.append(nil, p, 0))
		}
	}
	return n
}

func handles(rules []*nftables.Rule) (out []uint64) {
	for _, r := range rules {
		out = append(out, r.Handle)
	}
	return out
}

// load makes the table anew, in one transaction, and fills the allow list before there
// is anybody to block.
func (t *Table) load(r *Ruleset) error {
	t.forget()
	c, err := t.conn()
	if err != nil {
		return err
	}
	there, err := t.there(c)
	if err != nil {
		return err
	}
	if there {
		c.DelTable(table())
	}
	if err := r.define(c); err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: make table inet ctsight: %w", err)
	}
	for _, k := range setKinds {
		if err := k.fill(c, r.Allow); err != nil {
			return err
		}
	}
	rules, err := c.GetRules(table(), &nftables.Chain{Name: chainName})
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	t.have, t.known, t.rules = make(map[netip.Prefix]time.Time, len(r.Block)), true, handles(rules)
	t.loaded = Ruleset{Hook: r.Hook, Action: r.Action, Allow: slices.Clone(r.Allow)}
	t.count(func(s *TableStats) { s.Loads++ })
	return nil
}

// fill puts the allow list into its sets.
func (k setKind) fill(c *nftables.Conn, allow []netip.Prefix) error {
	if !k.pass {
		return nil
	}
	mine := slices.DeleteFunc(slices.Clone(allow), func(p netip.Prefix) bool { return !k.takes(p, true) })
	for part := range slices.Chunk(mine, chunk) {
		var e []nftables.SetElement
		for _, p := range part {
			e = k.append(e, p, 0)
		}
		if err := c.SetAddElements(k.set(), e); err != nil {
			return fmt.Errorf("nftables: %w", err)
		}
		if err := c.Flush(); err != nil {
			return fmt.Errorf("nftables: fill %s: %w", k.name, err)
		}
	}
	return nil
}

// update brings the elements up to date, those that go first.
func (t *Table) update(want map[netip.Prefix]time.Time, now time.Time) error {
	var gone, add []netip.Prefix
	for p, end := range t.have {
		_, wanted := want[p]
		switch {
		case !end.After(now.Add(-margin)): // the kernel has forgotten it
			delete(t.have, p)
		case !wanted && end.After(now.Add(margin)):
			gone = append(gone, p)
		}
	}
	for p, end := range want {
		if old, there := t.have[p]; !there || renew(old, end, now) {
			add = append(add, p)
		}
	}
	before, err := t.generation()
	if err != nil {
		return err
	}
	c, err := t.conn()
	if err != nil {
		return err
	}
	changes := uint32(0)
	for _, part := range []struct {
		prefixes []netip.Prefix
		add      bool
	}{{gone, false}, {add, true}} {
		for some := range slices.Chunk(part.prefixes, messages*chunk) {
			if err := t.change(c, some, want, part.add, now); err != nil {
				return err
			}
			changes++
		}
	}
	after, err := t.generation()
	if err != nil {
		return err
	}
	if t.gen == before && after-before == changes {
		t.gen = after
	} else {
		t.gen = 0 // somebody else was at it meanwhile, or it is new: look again
	}
	return nil
}

// renew says whether the end of an element has to be set anew.
func renew(old, end, now time.Time) bool {
	if !old.After(now.Add(margin)) {
		return false // it may be going just now; then it is added
	}
	return old.After(end.Add(time.Second)) || end.After(old.Add(time.Second)) && old.Before(now.Add(lease/2))
}

// change is one transaction: elements that go, or that come or get another end.
func (t *Table) change(c *nftables.Conn, some []netip.Prefix, want map[netip.Prefix]time.Time, add bool, now time.Time) error {
	for part := range slices.Chunk(some, chunk) {
		if err := t.queue(c, part, want, add, now); err != nil {
			return fmt.Errorf("nftables: %w", err)
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: change elements: %w", err)
	}
	for _, p := range some {
		if add {
			t.have[p] = now.Add(timeout(want[p], now))
		} else {
			delete(t.have, p)
		}
	}
	return nil
}

func timeout(end, now time.Time) time.Duration {
	return time.Duration(seconds(end.Sub(now))) * time.Second
}

// queue makes the messages of a change; what is there goes before it comes again.
func (t *Table) queue(c *nftables.Conn, some []netip.Prefix, want map[netip.Prefix]time.Time, add bool, now time.Time) error {
	del, put := make([][]nftables.SetElement, len(setKinds)), make([][]nftables.SetElement, len(setKinds))
	for _, p := range some {
		i := blockKind(p)
		if _, there := t.have[p]; there {
			del[i] = setKinds[i].append(del[i], p, 0)
		}
		if add {
			put[i] = setKinds[i].append(put[i], p, timeout(want[p], now))
		}
	}
	for i, k := range setKinds {
		if len(del[i]) > 0 {
			if err := c.SetDeleteElements(k.set(), del[i]); err != nil {
				return err
			}
		}
		if len(put[i]) > 0 {
			if err := c.SetAddElements(k.set(), put[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// generation is the number of changes of all rules of the namespace so far.
func (t *Table) generation() (uint32, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: t.netns})
	if err != nil {
		return 0, fmt.Errorf("nftables: %w", err)
	}
	defer c.Close()
	answer, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   []byte{unix.NFPROTO_UNSPEC, unix.NFNETLINK_V0, 0, 0}, // struct nfgenmsg
	})
	if err != nil {
		return 0, fmt.Errorf("nftables: %w", err)
	}
	for _, m := range answer {
		if len(m.Data) < 4 {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return 0, fmt.Errorf("nftables: generation: %w", err)
		}
		ad.ByteOrder = binary.BigEndian
		for ad.Next() {
			if ad.Type() == unix.NFTA_GEN_ID {
				return ad.Uint32(), nil
			}
		}
	}
	return 0, errors.New("nftables: the kernel tells no generation")
}

func (k setKind) set() *nftables.Set {
	s := &nftables.Set{Table: table(), Name: k.name, KeyType: nftables.TypeIPAddr, Interval: k.net, HasTimeout: !k.pass, KeyByteOrder: binaryutil.BigEndian}
	if k.v6 {
		s.KeyType = nftables.TypeIP6Addr
	}
	return s
}

// append appends a prefix as the kernel has it: an address, or its first and the first
// behind it, which the last prefix there is does not have.
func (k setKind) append(to []nftables.SetElement, p netip.Prefix, timeout time.Duration) []nftables.SetElement {
	to = append(to, nftables.SetElement{Key: p.Addr().AsSlice(), Timeout: timeout})
	if !k.net {
		return to
	}
	if end := lastOf(p).Next(); end.IsValid() {
		to = append(to, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
	}
	return to
}

// lastOf is the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// prefixes are elements of the kernel as prefixes; what is no prefix comes out as its
// first address, which we have not put there.
func (k setKind) prefixes(elements []nftables.SetElement) []netip.Prefix {
	starts := map[netip.Addr]bool{}
	ends := map[netip.Addr]bool{}
	for _, e := range elements {
		a, ok := netip.AddrFromSlice(e.Key)
		if !ok {
			continue
		}
		if e.IntervalEnd {
			ends[a] = true
		} else {
			starts[a] = true
		}
	}
	var out []netip.Prefix
	for a := range starts {
		out = append(out, k.prefix(a, ends))
	}
	return out
}

func (k setKind) prefix(a netip.Addr, ends map[netip.Addr]bool) netip.Prefix {
	for bits := a.BitLen() - 1; k.net && bits >= 0; bits-- {
		p := netip.PrefixFrom(a, bits)
		if p.Masked().Addr() != a {
			break
		}
		if end := lastOf(p).Next(); ends[end] {
			return p
		}
	}
	return netip.PrefixFrom(a, a.BitLen())
}

var hooks = map[string]*nftables.ChainHook{"prerouting": nftables.ChainHookPrerouting, "input": nftables.ChainHookInput, "forward": nftables.ChainHookForward}

// define queues the table, its sets, its chain and the rules.
func (r *Ruleset) define(c *nftables.Conn) error {
	t := c.AddTable(table())
	for _, k := range setKinds {
		if err := c.AddSet(k.set(), nil); err != nil {
			return fmt.Errorf("nftables: %w", err)
		}
	}
	accept := nftables.ChainPolicyAccept
	ch := c.AddChain(&nftables.Chain{Name: chainName, Table: t, Type: nftables.ChainTypeFilter, Hooknum: hooks[r.Hook],
		Priority: nftables.ChainPriorityRef(nftables.ChainPriority(priority(r.Hook))), Policy: &accept})
	for _, k := range setKinds {
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: r.rule(k)})
	}
	return nil
}

// rule is ruleText as the kernel runs it.
func (r *Ruleset) rule(k setKind) []expr.Any {
	var out []expr.Any
	if !k.pass {
		out = append(out, &expr.Ct{Key: expr.CtKeySTATE, Register: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitNEW), Xor: binaryutil.NativeEndian.PutUint32(0)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)})
	}
	family, offset, length := byte(unix.NFPROTO_IPV4), uint32(12), uint32(4)
	if k.v6 {
		family, offset, length = unix.NFPROTO_IPV6, 8, 16
	}
	out = append(out, &expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Lookup{SourceRegister: 1, SetName: k.name})
	switch {
	case k.pass:
		return append(out, &expr.Verdict{Kind: expr.VerdictReturn})
	case r.Action == "count":
		return append(out, &expr.Counter{})
	}
	return append(out, &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})
}
