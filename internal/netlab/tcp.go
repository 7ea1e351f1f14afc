package netlab

import (
	"context"
	"errors"

	"github.com/ctsight/ctsight/internal/event"
)

// Side is the end of a connection that sends.
type Side bool

// The two sides.
const (
	Client Side = false
	Server Side = true
)

// TCP is a set of TCP connections that exist only on the wire: both sides are
// forged, no socket takes part, all connections go through the same steps
// together. The destination ports must be SinkPorts, or the destinations sink
// addresses, so that neither A nor B answers on its own.
//
// Every step returns when R has dealt with its packets.
type TCP struct {
	// Seen translates a tuple to what the server sees of it, where R does
	// NAT; nil means nothing changes.
	Seen func(event.Tuple) event.Tuple

	sender [2]*Sender
	tuples []event.Tuple
	seq    [2]uint32 // next sequence number of each side
	opt    SendOptions
}

// ForgeTCP prepares connections with the given original tuples. End closes it.
func (r *Router) ForgeTCP(o SendOptions, tuples ...event.Tuple) (*TCP, error) {
	t := &TCP{opt: o}
	t.begin(tuples)
	for side, ns := range []*NS{r.A, r.B} {
		s, err := r.NewSender(ns, SendOptions{CPU: o.CPU})
		if err != nil {
			return nil, errors.Join(err, t.End())
		}
		t.sender[side] = s
	}
	return t, nil
}

// begin starts over with other connections.
func (t *TCP) begin(tuples []event.Tuple) {
	t.tuples, t.seq = tuples, [2]uint32{100_000, 500_000}
}

// End closes the senders; the connections stay as they are.
func (t *TCP) End() error {
	var errs []error
	for _, s := range t.sender {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	t.sender = [2]*Sender{}
	return errors.Join(errs...)
}

// Truth returns what one side has sent, as it was on that side's wire.
func (t *TCP) Truth(s Side) *Truth { return t.sender[index(s)].Truth() }

func index(s Side) int {
	if s == Server {
		return 1
	}
	return 0
}

// Segment sends one segment on every connection, acknowledging all that the
// other side has sent when ACK is among the flags.
func (t *TCP) Segment(ctx context.Context, from Side, flags TCPFlags, payload []byte) error {
	me, other := index(from), 1-index(from)
	s := t.sender[me]
	if s == nil {
		return ErrClosed
	}
	p := Packet{Flags: flags, Seq: t.seq[me], Payload: payload}
	if flags&ACK != 0 {
		p.Ack = t.seq[other]
	}
	pace := newPacer(t.opt)
	for i := 0; i < len(t.tuples); {
		due, err := pace.wait(ctx)
		if err != nil {
			return err
		}
		for ; due > 0 && i < len(t.tuples); due-- {
			p.Tuple = t.direction(t.tuples[i], from)
			if err := s.Send(p); err != nil {
				return err
			}
			i++
		}
	}
	t.seq[me] += uint32(len(payload))
	if flags&(SYN|FIN) != 0 {
		t.seq[me]++
	}
	return s.Sync()
}

func (t *TCP) direction(orig event.Tuple, from Side) event.Tuple {
	if from == Client {
		return orig
	}
	if t.Seen != nil {
		orig = t.Seen(orig)
	}
	return orig.Inverse()
}

// step is one segment of a conversation.
type step struct {
	from  Side
	flags TCPFlags
}

func (t *TCP) play(ctx context.Context, steps ...step) error {
	for _, s := range steps {
		if err := t.Segment(ctx, s.from, s.flags, nil); err != nil {
			return err
		}
	}
	return nil
}

// Open does the handshake: the entries become ESTABLISHED and assured.
func (t *TCP) Open(ctx context.Context) error {
	return t.play(ctx, step{Client, SYN}, step{Server, SYN | ACK}, step{Client, ACK})
}

// Shut closes from the client's side: the entries become TIME_WAIT.
func (t *TCP) Shut(ctx context.Context) error {
	return t.play(ctx, step{Client, FIN | ACK}, step{Server, FIN | ACK}, step{Client, ACK})
}

// Reset sends a reset: the entries become CLOSE, or go away at once when no
// answer was seen and the client resets.
func (t *TCP) Reset(ctx context.Context, from Side) error {
	return t.play(ctx, step{from, RST | ACK})
}

// Reopen sends a SYN with a sequence number far above the last one, as a
// client does that uses a port again.
func (t *TCP) Reopen(ctx context.Context) error {
	t.seq[0] += 1 << 20
	return t.play(ctx, step{Client, SYN})
}
