// Package pcapct turns a packet capture into what conntrack would have done with it:
// the lines of a replay (internal/lab/ctreplay). It is a second reading of
// nf_conntrack_proto_tcp.c, _udp.c and _icmp.c, for tests only:
//
//   - SYN makes an entry (N), so does a packet from the middle of a connection, which
//     nf_conntrack_tcp_loose lets in; SYN-ACK, RST and FIN first make none.
//   - The first packet back is the reply (R). An RST back before any other ends the
//     entry at once.
//   - The client's ACK of the SYN-ACK makes it assured (A); what was picked up in the
//     middle is with the first packet of the client after the reply.
//   - UDP is a reply with the first packet back, and assured when there are packets both
//     ways more than two seconds after it began. ICMP echo is answered by its id. ICMP
//     errors belong to another entry and change nothing.
//   - Timeouts are nf_conntrack's defaults; a retransmitted SYN or SYN-ACK renews
//     none; entries go when they are due, without the delay of garbage collection.
//   - A SYN on an entry that is closing ends it and makes a new one.
package pcapct

import (
	"cmp"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/ctreplay"
)

// Bits of TCP.
const (
	fin = 1
	syn = 2
	rst = 4
	ack = 16
)

// Timeouts by state.
var timeouts = map[event.TCPState]time.Duration{
	event.TCPSynSent: 120 * time.Second, event.TCPSynRecv: 60 * time.Second, event.TCPEstablished: 5 * 24 * time.Hour,
	event.TCPFinWait: 120 * time.Second, event.TCPLastAck: 30 * time.Second, event.TCPTimeWait: 120 * time.Second,
	event.TCPClose: 10 * time.Second,
}

const (
	udpOnce   = 30 * time.Second // icmp too
	udpStream = 120 * time.Second
	unacked   = 300 * time.Second // picked up in the middle, and nothing came back
)

// entry is an entry of the table.
type entry struct {
	id             uint64
	orig           event.Tuple
	born, due      time.Duration
	state          event.TCPState
	replied, sure  bool
	finOrig, finRe bool
	loose          bool
	line           int // of its insert
}

// model is the table.
type model struct {
	live  map[event.Tuple]*entry // by both directions
	lines []ctreplay.Line
	n     uint64
}

// Convert returns the lines for packets, which are in the order of time.
func Convert(packets []Packet) []ctreplay.Line {
	m := &model{live: map[event.Tuple]*entry{}}
	for i := range packets {
		m.packet(&packets[i])
	}
	for _, e := range m.live { // of both directions
		if e.state != event.TCPEstablished && m.live[e.orig] == e {
			m.end(e, e.due, event.TimeoutGC)
		}
	}
	slices.SortStableFunc(m.lines, func(a, b ctreplay.Line) int {
		return cmp.Or(cmp.Compare(a.Event.Time, b.Event.Time), cmp.Compare(a.ID, b.ID))
	})
	return m.lines
}

func (m *model) packet(p *Packet) {
	e := m.live[p.Tuple]
	if e != nil && e.due <= p.At {
		m.end(e, e.due, event.TimeoutGC)
		e = nil
	}
	back := e != nil && p.Tuple != e.orig
	opens := p.Tuple.Proto == event.ProtoTCP && p.Flags&(syn|ack|rst|fin) == syn
	if e != nil && opens && !back && (e.state == event.TCPTimeWait || e.state == event.TCPClose || e.state == event.TCPLastAck) {
		m.end(e, p.At, event.TCPReopen)
		e = nil
	}
	if e == nil {
		m.begin(p, opens)
		return
	}
	if !back {
		m.lines[e.line].Sent++
	}
	switch {
	case p.Tuple.Proto == event.ProtoTCP:
		m.tcp(e, p, back)
	case back && !e.replied:
		m.reply(e, p.At)
		e.due = p.At + udpOnce
	default:
		if e.due = max(e.due, p.At+udpOnce); e.replied && p.Tuple.Proto == event.ProtoUDP && p.At-e.born > 2*time.Second {
			m.assure(e, p.At)
			e.due = p.At + udpStream
		}
	}
}

func (m *model) begin(p *Packet, opens bool) {
	e := &entry{orig: p.Tuple, born: p.At, due: p.At + udpOnce}
	switch {
	case p.Tuple.IsICMP() && !p.request():
		return
	case p.Tuple.Proto != event.ProtoTCP:
	case opens:
		e.state, e.due = event.TCPSynSent, p.At+timeouts[event.TCPSynSent]
	case p.Flags&(syn|rst|fin) != 0 || p.Flags&ack == 0:
		return // invalid
	default:
		e.state, e.loose, e.due = event.TCPEstablished, true, p.At+unacked
	}
	m.n++
	e.id, e.line = m.n, len(m.lines)
	m.live[e.orig], m.live[e.orig.Inverse()] = e, e
	m.say('N', e, p.At)
	m.lines[e.line].Sent = 1
}

// tcp moves the state of an entry.
func (m *model) tcp(e *entry, p *Packet, back bool) {
	if p.Flags&rst != 0 {
		if back && !e.replied {
			m.end(e, p.At, event.TCPRstUnreplied)
			return
		}
		e.state, e.due = event.TCPClose, p.At+timeouts[event.TCPClose]
		return
	}
	if back && !e.replied {
		m.reply(e, p.At)
		if e.state == event.TCPSynSent && p.Flags&syn != 0 {
			e.state, e.due = event.TCPSynRecv, p.At+timeouts[event.TCPSynRecv]
			return
		}
	}
	switch {
	case e.state == event.TCPSynSent, e.state == event.TCPClose:
		return // retransmission; neither renews
	case e.state == event.TCPSynRecv:
		if back || p.Flags&ack == 0 {
			return
		}
		e.state = event.TCPEstablished
		m.assure(e, p.At)
	case e.loose && e.replied && !back:
		m.assure(e, p.At)
	}
	if p.Flags&fin != 0 {
		e.finRe, e.finOrig = e.finRe || back, e.finOrig || !back
		if e.state = event.TCPFinWait; e.finRe && e.finOrig {
			e.state = event.TCPLastAck
		}
	} else if e.state == event.TCPLastAck && p.Flags&ack != 0 {
		e.state = event.TCPTimeWait
	}
	if e.due = p.At + timeouts[e.state]; e.loose && !e.replied {
		e.due = p.At + unacked
	}
}

func (m *model) reply(e *entry, at time.Duration) {
	e.replied = true
	m.say('R', e, at)
}

func (m *model) assure(e *entry, at time.Duration) {
	if !e.sure {
		e.sure = true
		m.say('A', e, at)
	}
}

// end is the end of an entry.
func (m *model) end(e *entry, at time.Duration, why event.Cause) {
	l := m.say('D', e, at)
	l.Event.Kind, l.Event.Cause = event.Destroy, why
	l.Event.Lifetime, l.Event.HasLifetime = at-e.born, true
	switch {
	case e.sure:
		l.Event.Status = event.SeenReply | event.Assured
	case e.replied:
		l.Event.Status = event.SeenReply
	}
	l.Sent = m.lines[e.line].Sent
	delete(m.live, e.orig)
	delete(m.live, e.orig.Inverse())
}

func (m *model) say(what byte, e *entry, at time.Duration) *ctreplay.Line {
	l := ctreplay.Line{What: what, ID: e.id, Event: event.Event{Time: event.Ktime(at), NetNS: 1, Ptr: 1<<63 | e.id, Orig: e.orig}}
	if what == 'N' {
		l.Event.Kind = event.New
	}
	m.lines = append(m.lines, l)
	return &m.lines[len(m.lines)-1]
}
