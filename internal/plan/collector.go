package plan

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/wyhash"
)

// MaxConns bounds what is kept of connections, and MaxEntries what is replayed of
// them: with some 400 bytes of each a plan takes 3 GB at most.
const (
	MaxConns   = 4 << 20
	MaxEntries = 2 * MaxConns
)

// ErrTooMany says that there is no room for more.
var ErrTooMany = fmt.Errorf("more than %d connections: look for a shorter time (--for)", MaxConns)

// Collector makes connections of what happens to entries: New, Destroy, packets that
// a full table refused. It is an Input once it is closed.
type Collector struct {
	from, to event.Ktime
	byPtr    bool
	conns    []Conn
	live     map[uint64]int32
	went     map[uint64]int32 // while the table is being read; nil when that is known
	index    map[Pool]uint32
	pools    []Pool
	counts   []Count
	read     event.Ktime // when the table at the beginning had been read
	refused  map[uint64]event.Ktime
}

// NewCollector begins a window. In a capture entries are told apart by their Ptr; live
// by their tuple, for not all that tell of entries know an address.
func NewCollector(from event.Ktime, capture bool) *Collector {
	return &Collector{from: from, byPtr: capture, live: map[uint64]int32{}, went: map[uint64]int32{}, index: map[Pool]uint32{}, refused: map[uint64]event.Ktime{}}
}

// Close ends the window.
func (c *Collector) Close(at event.Ktime) { c.to = max(at, c.from) }

// Len is how many connections there are.
func (c *Collector) Len() int { return len(c.conns) }

// Window returns from when until when was looked.
func (c *Collector) Window() (from, to event.Ktime) { return c.from, c.to }

// Pools returns the NAT port pools that were in use.
func (c *Collector) Pools() []Pool { return c.pools }

// Read is when the last entry was found that was there when the window began.
func (c *Collector) Read() event.Ktime { return c.read }

// Counts returns what Counted was told since the table was read: that removes entries that
// have expired, and of which nothing is known.
func (c *Collector) Counts() []Count {
	k, _ := slices.BinarySearchFunc(c.counts, c.read, func(x Count, at event.Ktime) int { return cmp.Compare(x.At, at) })
	return c.counts[k:]
}

// Counted takes how many entries the kernel has. Of equal ones in a row it keeps the
// first and the last.
func (c *Collector) Counted(x Count) {
	if n := len(c.counts); n > 1 && c.counts[n-1].N == x.N && c.counts[n-2].N == x.N {
		c.counts[n-1] = x
		return
	}
	c.counts = append(c.counts, x)
}

// All returns every connection.
func (c *Collector) All() iter.Seq[Conn] {
	return func(yield func(Conn) bool) {
		for i := range c.conns {
			if !yield(c.conns[i]) {
				return
			}
		}
	}
}

// tupleID is equal for equal tuples of a zone.
func tupleID(t *event.Tuple, zone uint16) uint64 {
	h := wyhash.Mix(wyhash.IP(t.Src, 1), wyhash.IP(t.Dst, 2))
	return wyhash.Mix(h, uint64(t.Sport)<<48|uint64(t.Dport)<<32|uint64(t.Proto)<<16|uint64(zone))
}

func (c *Collector) key(e *event.Event) uint64 {
	if c.byPtr {
		return e.Ptr
	}
	return tupleID(&e.Orig, e.Zone)
}

// Add takes an event; of others than those it makes something of it takes nothing.
func (c *Collector) Add(e *event.Event) error {
	switch {
	case e.Kind == event.New:
		return c.born(e)
	case e.Kind == event.Destroy:
		return c.destroy(e)
	case e.Kind == event.Drop && e.Reason == event.TableFull:
		return c.refuse(e)
	}
	return nil
}

// born begins a connection. An entry that was found in the table may be told of late;
// the end of another of the same tuple was not told at all.
func (c *Collector) born(e *event.Event) error {
	if i, ok := c.live[c.key(e)]; ok {
		x := &c.conns[i]
		if x.Before {
			x.Before, x.Start, x.Pool = false, e.Time, c.pool(e)
			return nil
		}
		x.End, x.Cause, x.Expires = e.Time, event.CauseUnknown, 0
	}
	return c.insert(e, Conn{Start: e.Time})
}

// insert begins a connection.
func (c *Collector) insert(e *event.Event, x Conn) error {
	if len(c.conns) >= MaxConns {
		return ErrTooMany
	}
	x.ID, x.Proto, x.Pool = tupleID(&e.Orig, e.Zone), e.Orig.Proto, c.pool(e)
	x.status(e)
	if !x.Refused {
		c.live[c.key(e)] = int32(len(c.conns))
	}
	c.conns = append(c.conns, x)
	return nil
}

// status takes what an event says of the state.
func (x *Conn) status(e *event.Event) {
	x.Replied = x.Replied || e.Status&event.SeenReply != 0
	if e.Status&event.Assured != 0 && x.Assured == 0 {
		x.Assured = x.Start
	}
	if e.TCPState != event.TCPNone {
		x.State = e.TCPState
	}
}

// Assured takes the time at which an entry of a capture was answered, or assured.
func (c *Collector) Assured(e *event.Event) {
	i, ok := c.live[c.key(e)]
	if !ok {
		return
	}
	x := &c.conns[i]
	x.Replied = x.Replied || e.Status&event.SeenReply != 0
	if e.Status&event.Assured != 0 && x.Assured == 0 {
		x.Assured = e.Time
	}
}

// destroy ends a connection. One that is not known was there before.
func (c *Collector) destroy(e *event.Event) error {
	k := c.key(e)
	i, ok := c.live[k]
	if !ok {
		if err := c.insert(e, Conn{Start: c.from, Before: true}); err != nil {
			return err
		}
		i = c.live[k]
	}
	if delete(c.live, k); c.went != nil {
		c.went[k] = i
	}
	x := &c.conns[i]
	x.End, x.Cause = e.Time, e.Cause
	x.status(e)
	held := x.Expires
	if x.Expires = 0; e.Timeout != 0 {
		x.Expires = e.Time + event.Ktime(e.Timeout)
	}
	x.had(held)
	return nil
}

// had takes when an entry that has gone was to expire when the window began.
func (x *Conn) had(held event.Ktime) {
	if late := x.End.Sub(held); x.Expires == 0 && held != 0 && timedOut(x.Cause) && late > -time.Second && late <= gcMax {
		x.Expires = min(held, x.End)
	}
	x.Fixed = held != 0 && near(x.Expires, held)
}

// whole is how exact a timeout is that was read: netlink tells whole seconds.
const whole = 1100 * time.Millisecond

func near(a, b event.Ktime) bool { return max(a-b, b-a) < event.Ktime(whole) }

// refuse counts a connection that found no room; who tries again in the next ten
// seconds is the same.
func (c *Collector) refuse(e *event.Event) error {
	const again = 10 * time.Second
	id := tupleID(&e.Orig, e.Zone)
	last, ok := c.refused[id]
	if len(c.refused) >= MaxConns/8 {
		clear(c.refused)
	}
	if c.refused[id] = e.Time; ok && e.Time.Sub(last) < again {
		return nil
	}
	return c.insert(e, Conn{Start: e.Time, Refused: true})
}

// Held is an entry that was found in the table.
type Held struct {
	At    event.Ktime
	Event event.Event   // of its kind New: tuples, zone, status, state
	Left  time.Duration // of its timeout
	Has   bool          // Left is known
}

// Begin takes what was found in the table when the window began. What has come in
// between is known already, and so is what has gone.
func (c *Collector) Begin(h *Held) error {
	c.read = max(c.read, h.At)
	k := c.key(&h.Event)
	var expires event.Ktime
	if h.Has {
		expires = h.At + event.Ktime(h.Left)
	}
	if i, ok := c.went[k]; ok {
		if x := &c.conns[i]; x.Before {
			x.had(expires)
		}
		return nil
	}
	if _, ok := c.live[k]; ok {
		return nil
	}
	return c.insert(&h.Event, Conn{Start: c.from, Before: true, Expires: expires})
}

// Begun says that this was all that was found.
func (c *Collector) Begun() { c.went = nil }

// Ending says that all that is found when the window ends will be told with Still: what
// is not has gone.
func (c *Collector) Ending() {
	for _, i := range c.live {
		x := &c.conns[i]
		x.Silent, x.Fixed = true, x.Before && x.Expires != 0
	}
}

// Mute says that entries from before the window do not tell their end, and that the table
// was not read again.
func (c *Collector) Mute() {
	for _, i := range c.live {
		if x := &c.conns[i]; x.Before {
			x.Silent, x.Fixed = true, x.Expires != 0
		}
	}
}

// Still takes what was found when it ended.
func (c *Collector) Still(h *Held) {
	i, ok := c.live[c.key(&h.Event)]
	if !ok {
		return
	}
	x := &c.conns[i]
	x.Silent = false
	x.status(&h.Event)
	if held := x.Expires; h.Has {
		x.Expires = h.At + event.Ktime(h.Left)
		x.Fixed = held != 0 && near(held, x.Expires)
	}
}

// maxPools bounds the pools that are told apart.
const maxPools = 1 << 16

// pool returns the number of the pool of a translated entry, 0 for none.
func (c *Collector) pool(e *event.Event) uint32 {
	r := &e.Reply
	if e.Status&event.SrcNAT == 0 || e.Reply.IsZero() || r.IsICMP() {
		return 0
	}
	p := Pool{Addr: r.Dst, Dst: r.Src, Port: r.Sport, Proto: r.Proto}
	i, ok := c.index[p]
	if !ok && len(c.pools) < maxPools {
		c.pools = append(c.pools, p)
		i = uint32(len(c.pools))
		c.index[p] = i
	}
	return i
}
