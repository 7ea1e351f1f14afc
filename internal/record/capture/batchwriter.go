package capture

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/wyhash"
)

// A section of events takes megabytes, and each column wants a little of every one. So
// they are taken some at a time: their fields go into rows, one for each column, which
// stay in the nearest cache until their columns have taken them.

// tile is how many events are taken at a time.
const tile = 64

// rows are the values of a tile, by the number of their column.
type rows [colRef + 1][tile]uint64

// batchWriter stores events. It may be used again.
type batchWriter struct {
	addrs       numbers
	list        []netip.Addr // in the order in which they were seen
	order       []netip.Addr // in which they are stored
	final       []uint32     // from the one to the other
	names       map[string]uint64
	words       []string
	events      []event.Event
	refs        [maxBatch]int32 // of a destroy: how many events before it its insert is, 0 for not here
	news        places          // of inserts
	rows        rows
	plain       [tile]bool // no NAT: its reply is the inverse of orig
	planes      []planes   // of columns
	first, last event.Ktime
}

func newBatchWriter() *batchWriter {
	return &batchWriter{addrs: newNumbers(1<<12, rand.Uint64()), names: map[string]uint64{}, planes: make([]planes, len(columns))}
}

// append stores events, at least one and at most maxBatch. Then first and last say from
// when to when they are.
func (w *batchWriter) append(b []byte, events []event.Event) []byte {
	w.addrs.turn++
	w.news.now++
	clear(w.names)
	w.list, w.words = w.list[:0], w.words[:0]
	w.first, w.last = math.MaxInt64, math.MinInt64
	for i := range w.planes {
		w.planes[i].reset()
	}
	w.events = events
	for at := 0; at < len(events); at += tile {
		w.take(at, min(at+tile, len(events)))
	}
	w.events = nil
	w.number()
	b = binary.AppendUvarint(b, uint64(len(events)))
	b = w.lists(b)
	for i := range columns {
		b = w.planes[i].append(b, &columns[i])
	}
	return b
}

// take takes the events from one to another, a tile at most.
func (w *batchWriter) take(from, to int) {
	any := ofAll
	for k := from; k < to; k++ {
		e := &w.events[k]
		w.first, w.last = min(w.first, e.Time), max(w.last, e.Time)
		if w.refs[k] = w.refer(k, e); w.refs[k] != 0 {
			any |= ofRef
		}
		plain := isInverse(&e.Reply, &e.Orig)
		w.plain[k-from] = plain
		any |= has(e, plain)
	}
	own := 0
	for k := from; k < to; k++ {
		e, i := &w.events[k], (k-from)%tile
		w.row(e, i, k, any)
		if w.refs[k] == 0 {
			w.ownRow(e, own%tile, w.plain[i], any)
			own++
		}
	}
	for i := range columns {
		c, p, n := &columns[i], &w.planes[i], to-from
		if c.own() {
			n = own
		}
		switch v := w.rows[c.id][:n]; {
		case n == 0:
		case any&c.of == 0:
			p.zeros(n)
		case c.addr():
			p.later(v)
		default:
			p.add(v, c.form)
		}
	}
}

// row puts the fields of event k that all have into the rows, at i; those of groups that
// nobody in the tile has are not read.
func (w *batchWriter) row(e *event.Event, i, k int, any group) {
	v := &w.rows
	v[1][i], v[2][i], v[3][i], v[6][i] = uint64(e.Time), uint64(e.Kind), uint64(e.CPU), uint64(e.Mark)
	v[30][i] = uint64(e.Status)
	v[53][i], v[54][i], v[55][i], v[59][i] = uint64(e.IIf), uint64(e.OIf), uint64(e.Hook), uint64(e.Sample)
	v[colRef][i] = uint64(w.refs[k])
	since := w.since(e, k)
	v[colFlags][i] = flags(e, w.plain[i], since)
	if any&ofEnd != 0 {
		v[8][i], v[31][i], v[33][i] = uint64(e.Cause), uint64(e.TCPState), zigzag(uint64(e.Timeout))
		if v[32][i] = zigzag(uint64(e.Lifetime)); since {
			v[32][i] = 0
		}
	}
	if any&ofDrop != 0 {
		v[7][i], v[56][i], v[57][i], v[58][i] = uint64(e.Reason), uint64(e.TCPFlags), uint64(e.KfreeReason), e.Location
	}
	if any&ofTask != 0 {
		v[50][i], v[51][i], v[52][i] = uint64(e.Task.PID), w.name(e.Task.Comm), e.Task.Cgroup
	}
	if t := &e.By; any&ofBy != 0 {
		v[40][i], v[41][i], v[42][i], v[43][i], v[44][i] = uint64(t.Proto), w.addr(t.Src), w.addr(t.Dst), uint64(t.Sport), uint64(t.Dport)
	}
}

// ownRow puts those that an event with a reference to its insert does not have.
func (w *batchWriter) ownRow(e *event.Event, i int, plain bool, any group) {
	v, t := &w.rows, &e.Orig
	src, dst := w.addr(t.Src), w.addr(t.Dst)
	v[colNetNS][i], v[colZone][i], v[colPtr][i] = uint64(e.NetNS), uint64(e.Zone), e.Ptr
	v[10][i], v[11][i], v[12][i], v[13][i], v[14][i] = uint64(t.Proto), src, dst, uint64(t.Sport), uint64(t.Dport)
	if any&ofReply == 0 {
		return
	}
	if plain {
		v[20][i], v[21][i], v[22][i], v[23][i], v[24][i] = 0, 0, 0, 0, 0
		return
	}
	r := &e.Reply
	from := dst // unless its destination is translated
	if r.Src != t.Dst {
		from = w.addr(r.Src)
	}
	v[20][i], v[21][i], v[22][i], v[23][i], v[24][i] = uint64(r.Proto), from, w.addr(r.Dst), uint64(r.Sport), uint64(r.Dport)
}

// isInverse says whether there is a reply and it is the inverse of orig.
func isInverse(reply, orig *event.Tuple) bool {
	return reply.Src == orig.Dst && reply.Dst == orig.Src && *reply == orig.Inverse() && !reply.IsZero()
}

// has says of which groups an event has something.
func has(e *event.Event, plain bool) (g group) {
	if !plain && !isZero(&e.Reply) {
		g |= ofReply
	}
	if e.Lifetime != 0 || e.Timeout != 0 || e.TCPState != 0 || e.Cause != 0 {
		g |= ofEnd
	}
	if !isZero(&e.By) {
		g |= ofBy
	}
	if e.Task.PID != 0 || e.Task.Cgroup != 0 || e.Task.Comm != "" {
		g |= ofTask
	}
	if e.Reason != 0 || e.KfreeReason != 0 || e.Location != 0 || e.TCPFlags != 0 {
		g |= ofDrop
	}
	return g
}

// isZero is Tuple.IsZero, which compares in memory what mostly differs at once.
func isZero(t *event.Tuple) bool {
	return t.Proto == 0 && t.Sport == 0 && t.Dport == 0 && !t.Src.IsValid() && !t.Dst.IsValid()
}

func flags(e *event.Event, plain, since bool) (f uint64) {
	if e.HasLifetime {
		f |= hasLifetime
	}
	if e.ByUser {
		f |= byUser
	}
	if e.ReplyOnly {
		f |= replyOnly
	}
	if e.HasTCPFlags {
		f |= hasTCPFlags
	}
	if e.BestEffort {
		f |= bestEffort
	}
	if plain {
		f |= replyIsInverse
	}
	if since {
		f |= sinceInsert
	}
	return f
}

// since says whether the lifetime of event k follows from the times.
func (w *batchWriter) since(e *event.Event, k int) bool {
	n := int(w.refs[k])
	return n > 0 && e.HasLifetime && e.Lifetime == e.Time.Sub(w.events[k-n].Time)
}

// refer finds the insert of event k, how many before it.
func (w *batchWriter) refer(k int, e *event.Event) int32 {
	if e.Ptr == 0 || e.Kind != event.New && e.Kind != event.Destroy {
		return 0
	}
	at := w.news.find(e.Ptr)
	if e.Kind == event.New {
		*at = int32(k)
	} else if i := *at; i >= 0 {
		if n := &w.events[i]; n.Orig == e.Orig && n.Reply == e.Reply && n.NetNS == e.NetNS && n.Zone == e.Zone {
			return int32(k) - i
		}
	}
	return 0
}

// places finds the insert of an entry among the events of a section, by its address: open
// addressing, forgotten by another turn.
type places struct {
	all [2 * maxBatch]place
	now uint32
}

type place struct {
	ptr  uint64
	at   int32 // -1 for none
	turn uint32
}

func (p *places) find(ptr uint64) *int32 {
	const mask = len(p.all) - 1
	for i := int(ptr*0x9E3779B97F4A7C15>>40) & mask; ; i = (i + 1) & mask {
		x := &p.all[i]
		if x.turn != p.now {
			*x = place{ptr, -1, p.now}
			return &x.at
		}
		if x.ptr == ptr {
			return &x.at
		}
	}
}

func (w *batchWriter) name(s string) uint64 {
	if s == "" {
		return 0
	}
	n, ok := w.names[s]
	if !ok {
		w.words = append(w.words, s)
		n = uint64(len(w.words))
		w.names[s] = n
	}
	return n
}

// addr returns the number of an address, in the order in which they are seen.
func (w *batchWriter) addr(a netip.Addr) uint64 {
	if !a.IsValid() {
		return 0
	}
	n := w.addrs.place(a)
	if n.turn != w.addrs.turn {
		w.list = append(w.list, a)
		*n = number{a, w.addrs.turn, uint32(len(w.list))}
		if got := uint64(n.n); 2*len(w.list) < len(w.addrs.all) {
			return got
		}
		w.addrs = newNumbers(2*len(w.addrs.all), w.addrs.seed)
		for i, a := range w.list {
			*w.addrs.place(a) = number{a, w.addrs.turn, uint32(i + 1)}
		}
		return uint64(len(w.list))
	}
	return uint64(n.n)
}

// numbers are those of addresses: a map costs a third of what an event does. To forget
// all is another turn.
type numbers struct {
	all  []number // open addressing, half full at most
	turn uint32
	seed uint64 // nobody can make many meet
}

type number struct {
	addr netip.Addr
	turn uint32
	n    uint32
}

func newNumbers(n int, seed uint64) numbers { return numbers{make([]number, n), 1, seed} }

func (x *numbers) place(a netip.Addr) *number {
	mask := len(x.all) - 1
	for i := int(wyhash.IP(a, x.seed)) & mask; ; i = (i + 1) & mask {
		if n := &x.all[i]; n.turn != x.turn || n.addr == a {
			return n
		}
	}
}

// number numbers the addresses column by column: those of a column are alike, and of
// sources there are mostly few.
func (w *batchWriter) number() {
	w.order = w.order[:0]
	w.final = append(w.final[:0], make([]uint32, len(w.list)+1)...)
	for i := range columns {
		c, p := &columns[i], &w.planes[i]
		if !c.addr() {
			continue
		}
		for at := 0; at < len(p.seen); at += tile {
			of := p.seen[at:min(at+tile, len(p.seen))]
			v := w.rows[c.id][:len(of)]
			for k, n := range of {
				if n != 0 && w.final[n] == 0 {
					w.order = append(w.order, w.list[n-1])
					w.final[n] = uint32(len(w.order))
				}
				v[k] = uint64(w.final[n])
			}
			p.add(v, c.form)
		}
	}
}

// lists stores addresses, the bytes of each place together, and names.
func (w *batchWriter) lists(b []byte) []byte {
	if n := len(w.order); n > 0 {
		b = binary.AppendUvarint(append(b, colAddrs), uint64(n))
		for _, a := range w.order {
			if a.Is4() {
				b = append(b, 4)
			} else {
				b = append(b, 6)
			}
		}
		at := len(b)
		b = slices.Grow(b, 16*n)[:at+16*n]
		for i, a := range w.order {
			for k, x := range a.As16() {
				b[at+k*n+i] = x
			}
		}
	}
	if n := len(w.words); n > 0 {
		b = binary.AppendUvarint(append(b, colNames), uint64(n))
		for _, s := range w.words {
			b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
		}
	}
	return b
}
