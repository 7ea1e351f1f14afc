package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/wyhash"
)

// maxBatch is how many events a section has at most.
const maxBatch = 1 << 13

// batchWriter stores events. It may be used again.
type batchWriter struct {
	addrs  numbers
	list   []netip.Addr
	names  map[string]uint64
	words  []string
	values []uint64
	data   []byte
	events []event.Event
	at     int     // the event that is stored
	refs   []int32 // of a destroy: how many events before it its insert is, 0 for not here
	news   places  // of inserts
	plain  []bool  // no NAT: its reply is the inverse of orig
}

func newBatchWriter() *batchWriter {
	return &batchWriter{addrs: newNumbers(1<<12, rand.Uint64()), names: map[string]uint64{}}
}

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

func (w *batchWriter) flags(e *event.Event) (f uint64) {
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
	if w.plain[w.at] {
		f |= replyIsInverse
	}
	if w.since(e) {
		f |= sinceInsert
	}
	return f
}

// since says whether the lifetime follows from the times.
func (w *batchWriter) since(e *event.Event) bool {
	n := int(w.refs[w.at])
	return n > 0 && e.HasLifetime && e.Lifetime == e.Time.Sub(w.events[w.at-n].Time)
}

func (w *batchWriter) lifetime(e *event.Event) uint64 {
	if w.since(e) {
		return 0
	}
	return zigzag(uint64(e.Lifetime))
}

// places finds the insert of an entry among the events of a section, by its address: open
// addressing, forgotten by another turn. One that is not found costs a few bytes.
type places struct {
	at   [2 * maxBatch]int32
	turn [2 * maxBatch]uint32
	now  uint32
}

func (p *places) find(events []event.Event, ptr uint64) *int32 {
	const mask = len(p.at) - 1
	for i := int(ptr*0x9E3779B97F4A7C15>>40) & mask; ; i = (i + 1) & mask {
		if p.turn[i] != p.now {
			p.turn[i], p.at[i] = p.now, -1
			return &p.at[i]
		}
		if k := p.at[i]; k < 0 || events[k].Ptr == ptr {
			return &p.at[i]
		}
	}
}

// refer finds the inserts of destroys.
func (w *batchWriter) refer() (any bool) {
	w.news.now++
	for k := range w.events {
		e := &w.events[k]
		w.refs[k] = 0
		if e.Ptr == 0 || e.Kind != event.New && e.Kind != event.Destroy {
			continue
		}
		at := w.news.find(w.events, e.Ptr)
		if e.Kind == event.New {
			*at = int32(k)
		} else if i := *at; i >= 0 {
			if n := &w.events[i]; n.Orig == e.Orig && n.Reply == e.Reply && n.NetNS == e.NetNS && n.Zone == e.Zone {
				w.refs[k], any = int32(k)-i, true
			}
		}
	}
	return any
}

// reply is what is to be stored of it.
func (w *batchWriter) reply(e *event.Event) *event.Tuple {
	if w.plain[w.at] {
		return &noTuple
	}
	return &e.Reply
}

var noTuple event.Tuple

// append stores events, at least one and at most maxBatch.
func (w *batchWriter) append(b []byte, events []event.Event) []byte {
	w.addrs.turn++
	clear(w.names)
	w.list, w.words, w.data = w.list[:0], w.words[:0], w.data[:0]
	if w.values == nil {
		w.values, w.plain, w.refs = make([]uint64, maxBatch), make([]bool, maxBatch), make([]int32, maxBatch)
	}
	w.events = events
	any := ofAll
	if w.refer() {
		any |= ofRef
	}
	for k := range events {
		e := &events[k]
		w.plain[k] = !e.Reply.IsZero() && e.Reply == e.Orig.Inverse()
		any |= has(e, w.plain[k])
	}
	for i := range columns {
		c := &columns[i]
		if any&c.of == 0 {
			continue
		}
		v, own := w.values[:0], c.own()
		for k := range events {
			if w.at = k; own && w.refs[k] != 0 {
				continue
			}
			v = append(v, c.get(w, &events[k]))
		}
		if len(v) > 0 {
			w.data = appendColumn(w.data, c.id, c.form, v)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(events)))
	b = w.lists(b)
	return append(b, w.data...)
}

// lists stores addresses, the bytes of each place together, and names.
func (w *batchWriter) lists(b []byte) []byte {
	if n := len(w.list); n > 0 {
		b = binary.AppendUvarint(append(b, colAddrs), uint64(n))
		for _, a := range w.list {
			if a.Is4() {
				b = append(b, 4)
			} else {
				b = append(b, 6)
			}
		}
		at := len(b)
		b = slices.Grow(b, 16*n)[:at+16*n]
		for i, a := range w.list {
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

// batchReader reads them. It may be used again.
type batchReader struct {
	addrs  []netip.Addr
	names  []string
	values []uint64
	events []event.Event
	plain  []int   // events whose reply is the inverse of orig
	refs   []int32 // as the writer's
	since  []int   // events whose lifetime follows from their times
	own    int     // events that refer to none
	bad    bool    // a number that is in no list
}

func (r *batchReader) addr(n uint64) netip.Addr {
	if n == 0 {
		return netip.Addr{}
	}
	if n > uint64(len(r.addrs)) {
		r.bad = true
		return netip.Addr{}
	}
	return r.addrs[n-1]
}

func (r *batchReader) name(n uint64) string {
	if n == 0 {
		return ""
	}
	if n > uint64(len(r.names)) {
		r.bad = true
		return ""
	}
	return r.names[n-1]
}

func (r *batchReader) flags(e *event.Event, v uint64) {
	e.HasLifetime, e.ByUser, e.ReplyOnly = v&hasLifetime != 0, v&byUser != 0, v&replyOnly != 0
	e.HasTCPFlags, e.BestEffort = v&hasTCPFlags != 0, v&bestEffort != 0
}

func durationOf(v uint64) time.Duration { return time.Duration(unzigzag(v)) }

// read reads what append has stored. The events are good until the next call.
func (r *batchReader) read(b []byte) ([]event.Event, error) {
	n, k := binary.Uvarint(b)
	if k <= 0 || n == 0 || n > maxBatch {
		return nil, fmt.Errorf("%d events where there may be %d", n, maxBatch)
	}
	b = b[k:]
	if cap(r.events) < int(n) {
		r.events, r.values = make([]event.Event, 2*n), make([]uint64, 2*n)
	}
	events, values := r.events[:n], r.values[:n]
	clear(events)
	r.addrs, r.names, r.bad = r.addrs[:0], r.names[:0], false
	r.plain, r.since = r.plain[:0], r.since[:0]
	r.refs = append(r.refs[:0], make([]int32, n)...)
	r.own = int(n)
	for len(b) > 0 {
		id := b[0]
		b = b[1:]
		var err error
		switch id {
		case colAddrs:
			b, err = r.readAddrs(b)
		case colNames:
			b, err = r.readNames(b)
		default:
			if len(b) == 0 {
				return nil, errShort
			}
			v := values
			if c := (&column{id: id}); c.own() {
				v = values[:r.own]
			}
			if b, err = readColumn(b[1:], form(b[0]), v); err == nil {
				err = r.put(id, v)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	if r.bad {
		return nil, errors.New("an address or a name that is not in its list")
	}
	for _, i := range r.plain {
		events[i].Reply = events[i].Orig.Inverse()
	}
	for k, n := range r.refs {
		if n > 0 {
			e, of := &events[k], &events[k-int(n)]
			e.Orig, e.Reply, e.NetNS, e.Zone, e.Ptr = of.Orig, of.Reply, of.NetNS, of.Zone, of.Ptr
		}
	}
	for _, k := range r.since {
		n := r.refs[k]
		if n == 0 {
			return nil, errors.New("a lifetime since an insert that is not there")
		}
		events[k].Lifetime = events[k].Time.Sub(events[k-int(n)].Time)
	}
	return events, nil
}

// put gives the events a column; one that is not known is left out.
func (r *batchReader) put(id uint8, values []uint64) error {
	if id == colRef {
		return r.refer(values)
	}
	for i := range columns {
		c := &columns[i]
		if c.id != id {
			continue
		}
		if !c.own() || r.own == len(r.refs) {
			for k, v := range values {
				c.set(r, &r.events[k], v)
			}
		} else {
			r.spread(c, values)
		}
	}
	if id == colFlags {
		for k, v := range values {
			if v&replyIsInverse != 0 {
				r.plain = append(r.plain, k)
			}
			if v&sinceInsert != 0 {
				r.since = append(r.since, k)
			}
		}
	}
	return nil
}

// refer takes the column of references, which comes first.
func (r *batchReader) refer(values []uint64) error {
	for k, v := range values {
		if v > uint64(k) {
			return errors.New("an insert before the first event")
		}
		if v > 0 {
			if r.refs[k-int(v)] != 0 {
				return errors.New("a reference to what refers to another")
			}
			r.own--
		}
		r.refs[k] = int32(v)
	}
	return nil
}

// spread gives the values of a column to those that have one.
func (r *batchReader) spread(c *column, values []uint64) {
	k := 0
	for _, v := range values {
		for r.refs[k] != 0 {
			k++
		}
		c.set(r, &r.events[k], v)
		k++
	}
}

func (r *batchReader) readAddrs(b []byte) ([]byte, error) {
	n, k := binary.Uvarint(b)
	if k <= 0 || n > 6*maxBatch || uint64(len(b)-k) < 17*n {
		return nil, errShort
	}
	b = b[k:]
	families, planes := b[:n], b[n:17*n]
	for i := range int(n) {
		var x [16]byte
		for k := range x {
			x[k] = planes[k*int(n)+i]
		}
		a := netip.AddrFrom16(x)
		if families[i] == 4 {
			a = a.Unmap()
		}
		r.addrs = append(r.addrs, a)
	}
	return b[17*n:], nil
}

func (r *batchReader) readNames(b []byte) ([]byte, error) {
	n, k := binary.Uvarint(b)
	if k <= 0 || n > maxBatch {
		return nil, errShort
	}
	b = b[k:]
	for range n {
		l, k := binary.Uvarint(b)
		if k <= 0 || l > uint64(len(b)-k) {
			return nil, errShort
		}
		r.names = append(r.names, string(b[k:][:l]))
		b = b[uint64(k)+l:]
	}
	return b, nil
}
