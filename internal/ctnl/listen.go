package ctnl

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/event"
)

// Groups chooses the events of a Listener.
type Groups uint8

// Event groups of ctnetlink.
const (
	NewEvents     Groups = 1 << iota // NFNLGRP_CONNTRACK_NEW
	DestroyEvents                    // NFNLGRP_CONNTRACK_DESTROY
)

// DefaultBuffer is the receive buffer of a Listener. The kernel doubles it
// and uses it only as far as the reader lags behind; some 40,000 events fit.
const DefaultBuffer = 16 << 20

// ListenConfig says what to listen to. The zero value is both groups with the
// default buffer.
type ListenConfig struct {
	Groups Groups
	Buffer int // bytes; over net.core.rmem_max only with CAP_NET_ADMIN
}

// Counts is what became of the messages of a Listener:
//
//	told by the kernel = Messages + Lost
//	Messages           = Decoded + Undecodable + Skipped
//
// Not in it, because the kernel makes no message: entries made while events
// were off or, with nf_conntrack_events at 2, while nobody listened.
type Counts struct {
	Messages    uint64 // taken from the socket
	Decoded     uint64 // handed on as events
	Undecodable uint64
	Skipped     uint64 // neither new nor destroy
	Foreign     uint64 // datagrams of a sender that was not the kernel, thrown away
	// Overruns counts ENOBUFS: the buffer was full and all messages until it
	// was read empty are gone. Lost is their number, by the socket's own drop
	// counter. Overruns without Lost mean that the kernel had no memory to
	// make a message; how many is not known.
	Overruns uint64
	Lost     uint64
}

// Listener reads new and destroy events of one network namespace. While one
// is open the kernel makes every new entry there about 50 % larger.
//
// The event source of last resort: what it gives is marked BestEffort.
type Listener struct {
	s   *socket
	ns  event.NetNS
	buf []byte
	ev  event.Event // of Read

	// tellsTimeout is set once a destroy message had something that only
	// kernels put there which also tell the remaining timeout. Until then an
	// absent timeout means nothing: 5.10 never tells it.
	tellsTimeout bool

	messages, decoded, undecodable, skipped, foreign, overruns atomic.Uint64

	mu       sync.Mutex
	lost     uint64
	lastDrop uint32
}

// Listen joins the event groups of the namespace. It needs CAP_NET_ADMIN
// there. Events come from now on; call Read soon.
func Listen(ns NS, cfg ListenConfig) (*Listener, error) {
	if cfg.Groups == 0 {
		cfg.Groups = NewEvents | DestroyEvents
	}
	if cfg.Buffer == 0 {
		cfg.Buffer = DefaultBuffer
	}
	s, err := openSocket(ns)
	if err != nil {
		return nil, fmt.Errorf("listen to conntrack events: %w", err)
	}
	l := &Listener{s: s, ns: ns.Inode, buf: make([]byte, recvSize)}
	// Joining a group succeeds without ctnetlink; a request does not.
	_, _, err = (&Conn{s: s, ns: ns, buf: l.buf}).askFill()
	if err == nil {
		err = s.nl.SetReadDeadline(time.Time{})
	}
	if err == nil && l.ns == 0 {
		l.ns, err = linkInode(threadPath)
	}
	if err == nil {
		err = l.join(cfg)
	}
	if err != nil {
		_ = s.close()
		return nil, fmt.Errorf("listen to conntrack events: %w", sentinel(err))
	}
	return l, nil
}

func (l *Listener) join(cfg ListenConfig) error {
	// mdlayher tries SO_RCVBUFFORCE first. ENOBUFS stays on: it is how the
	// kernel tells of a loss.
	if err := l.s.nl.SetReadBuffer(cfg.Buffer); err != nil {
		return err
	}
	var err error
	if cfg.Groups&NewEvents != 0 {
		err = l.s.nl.JoinGroup(unix.NFNLGRP_CONNTRACK_NEW)
	}
	if err == nil && cfg.Groups&DestroyEvents != 0 {
		err = l.s.nl.JoinGroup(unix.NFNLGRP_CONNTRACK_DESTROY)
	}
	return err
}

// Close ends a blocked Read with ErrClosed. It may be called twice.
func (l *Listener) Close() error {
	l.sync() // the counter goes with the socket
	return l.s.close()
}

// Buffer returns the size of the receive buffer as the kernel counts it.
func (l *Listener) Buffer() (int, error) { return l.s.nl.ReadBuffer() }

// Queued returns how many bytes of the receive buffer hold messages that Read
// has not taken yet; 0 when it has taken all that the kernel told so far.
func (l *Listener) Queued() (int, error) {
	n, err := l.s.queued()
	return int(n), err
}

// Counts returns what was read and lost so far. It may be called any time,
// also after Close.
func (l *Listener) Counts() Counts {
	return Counts{
		Messages: l.messages.Load(), Decoded: l.decoded.Load(), Undecodable: l.undecodable.Load(),
		Skipped: l.skipped.Load(), Foreign: l.foreign.Load(), Overruns: l.overruns.Load(), Lost: l.sync(),
	}
}

// sync brings lost up to the socket's 32-bit counter.
func (l *Listener) sync() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n, err := l.s.drops(); err == nil {
		l.lost += uint64(n - l.lastDrop)
		l.lastDrop = n
	}
	return l.lost
}

// SetReadDeadline ends a blocked Read with ErrTimeout at that time; the zero
// time is never, the default.
func (l *Listener) SetReadDeadline(t time.Time) error {
	return l.s.closedOr(l.s.nl.SetReadDeadline(t))
}

// batch bounds the datagrams of one Read, so that it returns under any load.
const batch = 1024

// Read waits for events and calls fn for each that has arrived. The Event is
// used again for the next. After an overrun Read returns nil without waiting
// further, so that the caller can look at Counts; reading goes on with the
// next call. Read is for one goroutine.
func (l *Listener) Read(fn func(*event.Event)) error {
	for i := range batch {
		d, err := l.s.recv(l.buf, i == 0)
		switch {
		case err == nil:
			l.datagram(d, &l.ev, fn)
		case errors.Is(err, unix.ENOBUFS):
			l.overruns.Add(1)
			return nil
		case i > 0 && errors.Is(err, unix.EAGAIN):
			return nil
		default:
			return sentinel(err)
		}
	}
	return nil
}

func (l *Listener) datagram(d datagram, ev *event.Event, fn func(*event.Event)) {
	if d.foreign {
		l.foreign.Add(1)
		return
	}
	at := now()
	for b := l.buf[:d.n]; len(b) > 0; {
		m, rest, err := cutMessage(b)
		b = rest
		l.messages.Add(1)
		if err == nil && m.typ != typeNew && m.typ != typeDelete {
			l.skipped.Add(1)
			continue
		}
		if err == nil {
			err = l.decode(m, ev)
		}
		if err != nil {
			l.undecodable.Add(1)
			continue
		}
		ev.Time = at
		l.decoded.Add(1)
		fn(ev)
	}
}

// decode turns a new or destroy message into an event, without its time.
func (l *Listener) decode(m message, ev *event.Event) error {
	var e Entry
	b, _, err := m.body()
	if err == nil {
		err = decodeEntry(b, &e)
	}
	if err != nil {
		return err
	}
	*ev = event.Event{
		Kind: event.New, NetNS: l.ns, Zone: e.Zone, Mark: e.Mark,
		Orig: e.Orig, Reply: e.Reply, Status: e.Status, BestEffort: true,
	}
	if m.typ == typeDelete {
		l.destroy(ev, m.portid, &e)
	}
	return nil
}

func (l *Listener) destroy(ev *event.Event, portid uint32, e *Entry) {
	l.tellsTimeout = l.tellsTimeout || e.HasTimeout || e.hasProto
	ev.Kind = event.Destroy
	ev.Cause = cause(portid, e, l.tellsTimeout)
	ev.Timeout = e.Timeout
	ev.TCPState = e.TCPState
	if e.Start != 0 && e.Stop >= e.Start {
		ev.Lifetime, ev.HasLifetime = time.Duration(e.Stop-e.Start), true
	}
}

// cause reads as much as a destroy message tells:
//
//   - a port id: somebody deleted it. A flush looks the same, message by
//     message, so UserDelete stands for both.
//   - no timeout left: expired. Also true of what was evicted in its last
//     second, since the kernel rounds down to seconds.
//   - an unreplied TCP entry in CLOSE: a RST killed it.
//
// Evictions are among the rest. Whether there were any, the early_drop counter
// tells the caller.
func cause(portid uint32, e *Entry, tellsTimeout bool) event.Cause {
	switch {
	case portid != 0:
		return event.UserDelete
	case !tellsTimeout:
		return event.CauseUnknown
	case e.Timeout == 0:
		return event.Timeout
	case e.TCPState == tcpClose && e.Status&event.SeenReply == 0:
		return event.TCPRstUnreplied
	}
	return event.CauseUnknown
}

// tcpClose is TCP_CONNTRACK_CLOSE as an event.TCPState.
const tcpClose event.TCPState = 9
