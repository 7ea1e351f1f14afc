package ctnl

import (
	"errors"
	"fmt"
	"time"

	"github.com/ti-mo/conntrack"

	"github.com/ctsight/ctsight/internal/event"
)

// Create puts an entry into the table: tuples, status (confirmed is implied),
// timeout, mark, zone and TCP state. The kernel answers ENOMEM when the table
// is full.
func (c *Conn) Create(e *Entry) error {
	f := conntrack.Flow{
		Timeout:    max(1, uint32(e.Timeout/time.Second)),
		Status:     conntrack.Status(e.Status | event.Confirmed),
		Mark:       e.Mark,
		TupleOrig:  flowTuple(e.Orig, e.tupleZone(ZoneOrig)),
		TupleReply: flowTuple(e.Reply, e.tupleZone(ZoneReply)),
		Zone:       e.tupleZone(ZoneBoth),
	}
	if e.TCPState != event.TCPNone {
		f.ProtoInfo.TCP = &conntrack.ProtoInfoTCP{State: uint8(e.TCPState - 1)}
	}
	if err := c.change(func(t *conntrack.Conn) error { return t.Create(f) }); err != nil {
		return fmt.Errorf("create entry: %w", err)
	}
	return nil
}

// Delete removes the entry with that orig tuple in that zone; ErrNotFound says
// that there is none. For an entry whose zone holds for the reply direction
// only, the zone of its orig tuple is 0.
func (c *Conn) Delete(orig event.Tuple, zone uint16) error {
	// The reply tuple, which the kernel does not look at, makes the library
	// choose the family.
	f := conntrack.Flow{TupleOrig: flowTuple(orig, 0), TupleReply: flowTuple(orig.Inverse(), 0), Zone: zone}
	if err := c.change(func(t *conntrack.Conn) error { return t.Delete(f) }); err != nil {
		return fmt.Errorf("delete entry: %w", err)
	}
	return nil
}

// Flush removes every entry of the namespace.
func (c *Conn) Flush() error {
	if err := c.change((*conntrack.Conn).Flush); err != nil {
		return fmt.Errorf("flush: %w", notLoaded(err))
	}
	return nil
}

// change runs one call of ti-mo/conntrack on a socket of its own, which is kept
// for the next. The library knows no deadline, so a call that does not return
// is ended by closing its socket.
func (c *Conn) change(call func(*conntrack.Conn) error) error {
	c.changeMu.Lock()
	defer c.changeMu.Unlock()
	if c.s.closed.Load() {
		return ErrClosed
	}
	if c.changer == nil {
		err := c.ns.Do(func() (err error) {
			c.changer, err = conntrack.Dial(nil)
			return err
		})
		if err != nil {
			return sentinel(err)
		}
	}
	changer := c.changer
	late, err := within(replyTimeout, func() error { return call(changer) }, func() { _ = changer.Close() })
	if late {
		c.changer = nil // it is closed, or will be in a moment
	}
	if late && err != nil {
		return errors.Join(ErrTimeout, err)
	}
	return sentinel(err)
}

// within calls f, and end as well when f takes longer than d. late says that end was
// called; it may still be running, or not even have begun.
func within(d time.Duration, f func() error, end func()) (late bool, err error) {
	timer := time.AfterFunc(d, end)
	err = f()
	return !timer.Stop(), err
}

// flowTuple converts to the library's type.
func flowTuple(t event.Tuple, zone uint16) conntrack.Tuple {
	p := conntrack.ProtoTuple{Protocol: t.Proto, SourcePort: t.Sport, DestinationPort: t.Dport}
	if t.IsICMP() {
		typ, code, id := t.ICMP()
		p = conntrack.ProtoTuple{Protocol: t.Proto, ICMPType: typ, ICMPCode: code, ICMPID: id,
			ICMPv4: t.Proto == event.ProtoICMP, ICMPv6: t.Proto == event.ProtoICMPv6}
	}
	return conntrack.Tuple{IP: conntrack.IPTuple{SourceAddress: t.Src, DestinationAddress: t.Dst}, Proto: p, Zone: zone}
}

// tupleZone is the zone of the entry as far as it belongs to dir.
func (e *Entry) tupleZone(dir ZoneDir) uint16 {
	if e.ZoneDir == dir {
		return e.Zone
	}
	return 0
}
