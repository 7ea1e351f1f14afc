package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// maxBatch is how many events a section has at most.
const maxBatch = 1 << 13

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
