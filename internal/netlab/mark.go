package netlab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A veth hands each packet to a first-in-first-out queue of the sender's CPU,
// and the interface counter of the receiver counts it at that moment, before
// anything has been done with it. So the lab sends a mark behind the packets,
// from the same CPU: a frame of an experimental protocol that is neither
// routed nor tracked. When the mark has come out on the other side, so has
// every packet before it.
const (
	markProto = 0x88b5 // ETH_P_802_EX1
	markMagic = 0x63746d6b
	markLen   = 14 + 12 // Ethernet header, magic, id of the wire, sequence number
)

// patience is how long a packet may take from one namespace to the next; an
// emulated machine may stop for seconds.
const patience = 20 * time.Second

// markIDs numbers the wires of the process, so that no two take each other's marks.
var markIDs atomic.Uint32

// wire is one direction of a link together with its marks.
type wire struct {
	from, to *port
	id       uint32
	tx, rx   int // AF_PACKET sockets
	seq      uint32
	marks    *atomic.Uint64 // received, on all wires of this direction
}

func newWire(from, to *port, marks *atomic.Uint64) (*wire, error) {
	w := &wire{from: from, to: to, id: markIDs.Add(1), tx: -1, rx: -1, marks: marks}
	var err error
	if w.tx, err = from.packetSocket(0, nil); err != nil {
		return nil, err
	}
	if w.rx, err = to.packetSocket(markProto, w.filter()); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// filter accepts the marks of this wire only; others would fill the buffer.
func (w *wire) filter() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 14, Size: 4}, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: markMagic, SkipTrue: 3},
		bpf.LoadAbsolute{Off: 18, Size: 4}, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: w.id, SkipTrue: 1},
		bpf.RetConstant{Val: 0xffff}, bpf.RetConstant{Val: 0},
	}
}

func (w *wire) close() error {
	var errs []error
	for _, fd := range []*int{&w.tx, &w.rx} {
		if *fd >= 0 {
			errs = append(errs, unix.Close(*fd))
		}
		*fd = -1
	}
	return errors.Join(errs...)
}

// send puts a mark on the wire, from the CPU the thread runs on.
func (w *wire) send() error {
	var f [markLen]byte
	copy(f[0:], w.from.peerMAC)
	copy(f[6:], w.from.mac)
	binary.BigEndian.PutUint16(f[12:], markProto)
	binary.BigEndian.PutUint32(f[14:], markMagic)
	binary.BigEndian.PutUint32(f[18:], w.id)
	binary.BigEndian.PutUint32(f[22:], w.seq+1)
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Microsecond) {
		err := unix.Sendto(w.tx, f[:], 0, &unix.SockaddrLinklayer{Ifindex: w.from.index, Protocol: htons(markProto), Halen: 6})
		if err == nil {
			w.seq++
			return nil
		}
		if !temporary(err) || time.Now().After(deadline) {
			return fmt.Errorf("send mark on %s: %w", w.from.name, err)
		}
	}
}

// wait takes in marks until the n that were sent last are all there.
func (w *wire) wait(n int, timeout time.Duration) error {
	first := w.seq - uint32(n)
	deadline := time.Now().Add(timeout)
	var buf [markLen]byte
	for n > 0 {
		k, err := unix.Read(w.rx, buf[:])
		if err == nil && k == markLen {
			w.marks.Add(1)
			if s := binary.BigEndian.Uint32(buf[22:]); s-first-1 < 1<<31 {
				n--
			}
			continue
		}
		// ENETDOWN only tells that the interface was down some time ago.
		if err != nil && !temporary(err) && !errors.Is(err, unix.ENETDOWN) {
			return fmt.Errorf("receive mark on %s: %w", w.to.name, err)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("mark from %s to %s: %w", w.from.name, w.to.name, ErrTimeout)
		}
	}
	return nil
}

// sync waits until all that the given CPUs have sent over the wire is worked
// off; none means the CPU of this thread. Marks are sent again when they do
// not arrive: an interface that has just come up swallows everything until the
// kernel has given it a queue, which it does in the background.
func (w *wire) sync(cpus ...int) error {
	if w.tx < 0 {
		return ErrClosed
	}
	deadline := time.Now().Add(patience)
	for timeout := 20 * time.Millisecond; ; timeout *= 2 {
		if err := w.sendFrom(cpus); err != nil {
			return err
		}
		err := w.wait(max(len(cpus), 1), timeout)
		if !errors.Is(err, ErrTimeout) || time.Now().After(deadline) {
			return err
		}
	}
}

func (w *wire) sendFrom(cpus []int) error {
	if len(cpus) == 0 {
		return w.send()
	}
	for _, cpu := range cpus {
		if err := onCPU(cpu, w.send); err != nil {
			return err
		}
	}
	return nil
}

// up says whether both ends of the wire are up.
func (w *wire) up() (bool, error) {
	for _, p := range []*port{w.from, w.to} {
		up, err := p.up()
		if err != nil || !up {
			return false, err
		}
	}
	return true, nil
}

// temporary says whether a send or receive may succeed when tried again.
func temporary(err error) bool {
	return errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOMEM)
}

// packetSocket opens a raw socket on the port; it receives frames of proto
// that pass the filter, or nothing when proto is 0.
func (p *port) packetSocket(proto uint16, filter []bpf.Instruction) (fd int, err error) {
	fd = -1
	err = p.ns.Do(func() error {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if filter != nil {
			if err := attach(fd, filter); err != nil {
				return err
			}
		}
		tv := unix.NsecToTimeval((20 * time.Millisecond).Nanoseconds())
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: p.index, Protocol: htons(proto)})
	})
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return -1, fmt.Errorf("open packet socket on %s: %w", p.name, err)
	}
	return fd, nil
}

func attach(fd int, prog []bpf.Instruction) error {
	raw, err := bpf.Assemble(prog)
	if err != nil {
		return err
	}
	code := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		code[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]})
}

func htons(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

// openWires opens the four directions in the order a question and its answer take.
func (r *Router) openWires() (wires [4]*wire, err error) {
	for i, p := range [4][2]*port{{r.a0, r.ra}, {r.rb, r.b0}, {r.b0, r.rb}, {r.ra, r.a0}} {
		w, err := newWire(p[0], p[1], new(atomic.Uint64))
		if err != nil {
			return wires, err
		}
		r.onClose(w.close)
		wires[i] = w
	}
	return wires, nil
}

// Drain waits until everything that was sent so far, and every answer the
// kernel gave to it, has gone all the way: no packet is left in any queue.
// Packets held by an NFQUEUE and answers of programs do not count.
func (r *Router) Drain() error {
	r.drainMu.Lock()
	defer r.drainMu.Unlock()
	cpus := CPUs()
	for _, w := range r.wires {
		if up, err := w.up(); err != nil {
			return err
		} else if !up {
			continue // nothing can be on its way there
		}
		if err := w.sync(cpus...); err != nil {
			return err
		}
	}
	return nil
}
