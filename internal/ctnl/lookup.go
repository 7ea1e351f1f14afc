package ctnl

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/event"
)

// Query is an entry to be looked up, and what there was.
type Query struct {
	Orig event.Tuple
	Zone uint16 // of the original direction; 0 where it holds for replies only
	// ID is that of the entry that is meant, as a dump or an Answer has told it;
	// 0 takes any with that original tuple.
	ID uint32

	Answer Answer
}

// Answer is what the table had for a Query.
type Answer struct {
	// Known is false where the kernel has not answered; then the rest says nothing.
	Known bool
	// Live is false when the entry is gone: there is none with its tuple, or another
	// has taken its place.
	Live     bool
	Status   event.Status
	TCPState event.TCPState
	ID       uint32
}

// lookupBatch is how many entries one system call asks for. The answers have to
// fit into the socket's receive buffer together: each takes some 1 KB there, of
// 208 KB by default.
const lookupBatch = 64

// Lookup asks for single entries and fills in their answers. The kernel answers
// within the system call that asks, so nothing is waited for but its own locks, and
// a Dump that another goroutine has under way on this Conn. Asking does not touch an
// entry, but like every lookup it reaps those that have expired.
//
// ctx is looked at between batches of 64. When an error is returned, the queries
// that have no answer are those whose Known is false. A tuple that the kernel does
// not take (an ICMP type without a reply, say) is an error, and the rest is asked
// for all the same.
func (c *Conn) Lookup(ctx context.Context, queries []Query) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range queries {
		queries[i].Answer = Answer{}
	}
	defer c.cutShort(ctx)()
	if err := c.finish(ctx); err != nil {
		return fmt.Errorf("look up entries: %w", err)
	}
	// Nothing is waited for from here on. The deadline of the call before may have passed.
	if err := c.s.nl.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("look up entries: %w", c.s.closedOr(err))
	}
	var first error
	bad, most := 0, lookupBatch
	for rest := queries; len(rest) > 0; {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("look up entries: %w", err)
		}
		part := rest[:min(most, len(rest))]
		r, err := c.lookup(part)
		if err != nil {
			return fmt.Errorf("look up entries: %w", err)
		}
		if r.missing > 0 && len(part) > 1 { // a small receive buffer
			most = len(part) / 2
			continue
		}
		if r.missing > 0 {
			r.refuse(ErrTimeout)
		}
		if bad += r.refused; first == nil {
			first = r.err
		}
		rest = rest[len(part):]
	}
	if bad > 0 {
		return fmt.Errorf("look up entries: %d of %d not answered: %w", bad, len(queries), first)
	}
	return nil
}

// round is what came of one system call.
type round struct {
	missing int   // answers that did not come
	refused int   // answers that were errors
	err     error // the first of them
}

func (r *round) refuse(err error) {
	if r.refused++; r.err == nil {
		r.err = err
	}
}

// lookup asks for some entries with one system call.
func (c *Conn) lookup(part []Query) (r round, err error) {
	first := c.lookSeq + 1
	c.lookSeq += uint32(len(part))
	c.ask = c.ask[:0]
	for i := range part {
		part[i].Answer = Answer{}
		if q := &part[i]; !q.Orig.Src.IsValid() || q.Orig.Src.Is4() != q.Orig.Dst.Is4() || !q.Orig.Dst.IsValid() {
			r.refuse(errTuple)
			continue
		}
		c.ask = appendLookup(c.ask, &part[i], first+uint32(i))
		r.missing++
	}
	if r.missing == 0 {
		return r, nil
	}
	if err := c.s.sendRaw(c.ask); err != nil {
		return r, sentinel(err)
	}
	for r.missing > 0 {
		d, err := c.s.recv(c.buf, false)
		switch {
		case errors.Is(err, unix.EAGAIN): // all that the kernel had to say
			return r, nil
		case errors.Is(err, unix.ENOBUFS):
		case err != nil:
			return r, sentinel(err)
		case d.truncated || d.foreign:
		default:
			if err := r.answers(c.buf[:d.n], part, first); err != nil {
				return r, err
			}
		}
	}
	return r, nil
}

// answers takes a datagram. Others than those asked for are late answers to what
// was asked before.
func (r *round) answers(b []byte, part []Query, first uint32) error {
	for len(b) > 0 {
		m, rest, err := cutMessage(b)
		if err != nil {
			return err
		}
		b = rest
		i := m.seq - first
		if i >= uint32(len(part)) || part[i].Answer.Known {
			continue
		}
		switch m.typ {
		case unix.NLMSG_ERROR:
			err = r.failed(m.errno(), &part[i].Answer)
		case typeNew:
			err = part[i].found(m)
		default:
			continue
		}
		if err != nil {
			return err
		}
		r.missing--
	}
	return nil
}

// failed takes an error of the kernel's about one entry; that it is not there is
// none.
func (r *round) failed(err error, a *Answer) error {
	if errors.Is(err, unix.ENOENT) { // most of them: nothing is made for these
		a.Known = true
		return nil
	}
	switch err = sentinel(err); {
	case err == nil: // an ack, which nobody has asked for
		err = ErrMalformed
	case errors.Is(err, ErrPermission):
		return err
	}
	r.refuse(err)
	return nil
}

// found compares what the kernel has found, by either tuple of an entry, with what
// was asked for.
func (q *Query) found(m message) error {
	var e Entry
	b, _, err := m.body()
	if err == nil {
		err = decodeEntry(b, &e)
	}
	if err != nil {
		return err
	}
	q.Answer.Known = true
	if e.Orig != q.Orig || q.ID != 0 && q.ID != e.ID {
		return nil
	}
	q.Answer = Answer{Known: true, Live: true, Status: e.Status, TCPState: e.TCPState, ID: e.ID}
	return nil
}

// appendLookup appends the request for one entry.
func appendLookup(b []byte, q *Query, seq uint32) []byte {
	start, t := len(b), &q.Orig
	ne := binary.NativeEndian
	b = ne.AppendUint32(b, 0) // length
	b = ne.AppendUint16(b, typeGet)
	b = ne.AppendUint16(b, unix.NLM_F_REQUEST)
	b = ne.AppendUint32(b, seq)
	b = ne.AppendUint32(b, 0) // the kernel knows the socket
	family, src, dst := uint8(unix.AF_INET6), uint16(ctaIPv6Src), uint16(ctaIPv6Dst)
	if t.Src.Is4() {
		family, src, dst = unix.AF_INET, ctaIPv4Src, ctaIPv4Dst
	}
	b = append(b, family, unix.NFNETLINK_V0, 0, 0)
	b = appendNest(b, ctaTupleOrig, func(b []byte) []byte {
		b = appendNest(b, ctaTupleIP, func(b []byte) []byte {
			return appendAddr(appendAddr(b, src, t), dst, t)
		})
		return appendNest(b, ctaTupleProto, func(b []byte) []byte { return appendProto(b, t) })
	})
	if q.Zone != 0 {
		b = append16(b, ctaZone, q.Zone)
	}
	ne.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

func appendAddr(b []byte, typ uint16, t *event.Tuple) []byte {
	a := t.Src
	if typ == ctaIPv4Dst || typ == ctaIPv6Dst {
		a = t.Dst
	}
	if a.Is4() {
		x := a.As4()
		return append(appendHead(b, typ, 4), x[:]...)
	}
	x := a.As16()
	return append(appendHead(b, typ, 16), x[:]...)
}

// appendProto is the inverse of decodeProto. Protocols without ports have the
// kernel look at the number alone.
func appendProto(b []byte, t *event.Tuple) []byte {
	typ, code, id := t.ICMP()
	b = append8(b, ctaProtoNum, t.Proto)
	switch t.Proto {
	case event.ProtoICMP:
		return append8(append8(append16(b, ctaProtoICMPID, id), ctaProtoICMPType, typ), ctaProtoICMPCode, code)
	case event.ProtoICMPv6:
		return append8(append8(append16(b, ctaProtoICMP6ID, id), ctaProtoICMP6Typ, typ), ctaProtoICMP6Cod, code)
	}
	return append16(append16(b, ctaProtoSrcPort, t.Sport), ctaProtoDstPort, t.Dport)
}

// appendNest appends an attribute that holds what fn appends.
func appendNest(b []byte, typ uint16, fn func([]byte) []byte) []byte {
	start := len(b)
	b = fn(appendHead(b, typ|unix.NLA_F_NESTED, 0))
	binary.NativeEndian.PutUint16(b[start:], uint16(len(b)-start))
	return b
}

func appendHead(b []byte, typ uint16, n int) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofNlAttr+n))
	return binary.NativeEndian.AppendUint16(b, typ)
}

func append8(b []byte, typ uint16, v uint8) []byte { return append(appendHead(b, typ, 1), v, 0, 0, 0) }

func append16(b []byte, typ uint16, v uint16) []byte {
	return append(appendHead(b, typ, 2), uint8(v>>8), uint8(v), 0, 0)
}
