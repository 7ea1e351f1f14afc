package netlab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Numbers of nfnetlink_queue (linux/netfilter/nfnetlink_queue.h).
const (
	nfqMsgPacket, nfqMsgVerdict, nfqMsgConfig, nfqMsgVerdictBatch = 0, 1, 2, 3

	nfqaPacketHdr, nfqaVerdictHdr = 1, 2
	nfqaCfgCmd, nfqaCfgParams     = 1, 2

	nfqCmdBind  = 1
	nfqCopyMeta = 1

	nfDrop, nfAccept = 0, 1
)

// Queue holds packets that a rule of a namespace sent to an NFQUEUE, until it
// lets them go: the way to make two packets of one flow pass the lookup of
// conntrack before either is inserted. A packet that has not been let go when
// the queue closes is lost.
type Queue struct {
	conn *netlink.Conn
	num  uint16
}

// OpenQueue binds an NFQUEUE of the namespace.
func (n *NS) OpenQueue(num uint16) (*Queue, error) {
	q := &Queue{num: num}
	err := n.Do(func() (err error) {
		q.conn, err = netlink.Dial(unix.NETLINK_NETFILTER, nil)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open nfqueue: %w", err)
	}
	if err := q.conn.SetReadBuffer(8 << 20); err != nil { // a flood may be told while nobody reads
		q.Close()
		return nil, fmt.Errorf("enlarge the buffer of nfqueue %d: %w", num, err)
	}
	params := binary.BigEndian.AppendUint32(nil, 0xffff)
	for _, a := range []netlink.Attribute{
		{Type: nfqaCfgCmd, Data: []byte{nfqCmdBind, 0, 0, 0}},
		{Type: nfqaCfgParams, Data: append(params, nfqCopyMeta)},
	} {
		m, err := q.message(nfqMsgConfig, a)
		if err == nil {
			m.Header.Flags |= netlink.Acknowledge
			_, err = q.conn.Execute(m)
		}
		if err != nil {
			q.Close()
			return nil, fmt.Errorf("bind nfqueue %d: %w", num, err)
		}
	}
	return q, nil
}

// Close unbinds the queue.
func (q *Queue) Close() error { return q.conn.Close() }

// message builds a message of nfnetlink_queue: an nfgenmsg header and one attribute.
func (q *Queue) message(typ int, a netlink.Attribute) (netlink.Message, error) {
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{a})
	if err != nil {
		return netlink.Message{}, err
	}
	head := binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}, q.num)
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_QUEUE<<8 | typ), Flags: netlink.Request},
		Data:   append(head, attrs...),
	}, nil
}

// Hold waits until n packets are in the queue and returns their ids, in the
// order in which they came.
func (q *Queue) Hold(n int, timeout time.Duration) ([]uint32, error) {
	if err := q.conn.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	var ids []uint32
	for len(ids) < n {
		msgs, err := q.conn.Receive()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return ids, fmt.Errorf("nfqueue %d holds %d of %d packets: %w", q.num, len(ids), n, ErrTimeout)
		}
		if err != nil {
			return ids, fmt.Errorf("read nfqueue %d: %w", q.num, err)
		}
		for _, m := range msgs {
			if id, ok := packetID(m); ok {
				ids = append(ids, id)
			}
		}
	}
	return ids, nil
}

func packetID(m netlink.Message) (uint32, bool) {
	if m.Header.Type != unix.NFNL_SUBSYS_QUEUE<<8|nfqMsgPacket || len(m.Data) < 4 {
		return 0, false
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[4:])
	if err != nil {
		return 0, false
	}
	for ad.Next() {
		if b := ad.Bytes(); ad.Type() == nfqaPacketHdr && len(b) >= 4 {
			return binary.BigEndian.Uint32(b), true
		}
	}
	return 0, false
}

// Accept lets packets go on, in the given order.
func (q *Queue) Accept(ids ...uint32) error { return q.verdict(nfAccept, ids) }

// AcceptThrough returns the message that lets all packets up to one go on, and
// a copy of the socket to send it on, for a process that has no need of memory.
func (q *Queue) AcceptThrough(id uint32) (message []byte, socket *os.File, err error) {
	m, err := q.verdictMessage(nfqMsgVerdictBatch, nfAccept, id)
	if err != nil {
		return nil, nil, err
	}
	m.Header.Length = uint32(16 + len(m.Data))
	if message, err = m.MarshalBinary(); err != nil {
		return nil, nil, err
	}
	raw, err := q.conn.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	fd := -1
	err2 := raw.Control(func(s uintptr) { fd, err = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 3) })
	if err = errors.Join(err, err2); err != nil {
		return nil, nil, err
	}
	return message, os.NewFile(uintptr(fd), "nfqueue"), nil
}

// Drop drops packets.
func (q *Queue) Drop(ids ...uint32) error { return q.verdict(nfDrop, ids) }

func (q *Queue) verdict(v uint32, ids []uint32) error {
	for _, id := range ids {
		m, err := q.verdictMessage(nfqMsgVerdict, v, id)
		if err == nil {
			_, err = q.conn.Send(m)
		}
		if err != nil {
			return fmt.Errorf("verdict on packet %d of nfqueue %d: %w", id, q.num, err)
		}
	}
	return nil
}

func (q *Queue) verdictMessage(typ int, v, id uint32) (netlink.Message, error) {
	b := binary.BigEndian.AppendUint32(nil, v)
	return q.message(typ, netlink.Attribute{Type: nfqaVerdictHdr, Data: binary.BigEndian.AppendUint32(b, id)})
}

// Together queues two packets in R and lets both go in the order in which they
// were sent (T4). R needs a rule made by QueueTo that matches them. It returns
// when R has dealt with both.
func (r *Router) Together(num uint16, first, second Packet) (*Truth, error) {
	q, err := r.R.OpenQueue(num)
	if err != nil {
		return &Truth{}, err
	}
	defer q.Close()
	truth, err := r.SendPackets(SendOptions{}, first, second)
	if err != nil {
		return truth, err
	}
	ids, err := q.Hold(2, patience)
	if err != nil {
		return truth, err
	}
	// A verdict is carried out before the send of it returns.
	return truth, errors.Join(q.Accept(ids...), r.Drain())
}
