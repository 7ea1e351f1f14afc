package probe

import (
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"

	"github.com/ctsight/ctsight/internal/abi"
	"github.com/ctsight/ctsight/internal/event"
)

// peekBatch is PEEK_BATCH of bpf/maps.h.
const peekBatch = 512

// PeekResult says what became of an entry.
type PeekResult uint8

// Results of a peek.
const (
	PeekGone  PeekResult = iota // destroyed, or its memory holds another entry
	PeekLive                    // in the table, with the same tuple, zone and netns
	PeekFault                   // the address could not be read
)

// Peek asks for one entry, by the address its New event told, and holds the
// answer. The identity (Orig, Zone, NetNS) is checked in the kernel.
type Peek struct {
	Ptr   uint64
	Orig  event.Tuple
	Zone  uint16
	NetNS event.NetNS

	Result   PeekResult
	Status   event.Status
	TCPState event.TCPState
	Timeout  time.Duration // left; resolution one jiffy
}

// Peek looks at all entries in batches, without a lock of conntrack and
// without netlink; some tens of ns each. The program runs only in this call,
// as a raw tracepoint program under BPF_PROG_TEST_RUN (5.10).
func (p *Probe) Peek(q []Peek) error {
	p.peekMu.Lock()
	defer p.peekMu.Unlock()
	if err := p.openPeek(); err != nil {
		return err
	}
	for len(q) > 0 {
		n := min(len(q), peekBatch)
		if err := p.peekSome(q[:n]); err != nil {
			return err
		}
		q = q[n:]
	}
	return nil
}

func (p *Probe) openPeek() error {
	if p.peekClosed {
		return fmt.Errorf("peek: %w", os.ErrClosed)
	}
	if p.peekProg != nil {
		return nil
	}
	mem, err := mapShared(p.obj.maps["peeks"], true)
	if err != nil {
		return err
	}
	p.mu.Lock() // Rescan replaces the types that programs are fitted to
	prog, err := p.obj.program("peek", false)
	p.mu.Unlock()
	if err != nil {
		_ = mem.close()
		return fmt.Errorf("load peek: %w", explain(short(err)))
	}
	p.peekMem, p.peekProg = mem, prog
	return nil
}

func (p *Probe) peekSome(q []Peek) error {
	for i := range q {
		s := (*abi.ConntrackCtPeek)(p.peekMem.elem(i))
		*s = abi.ConntrackCtPeek{Ptr: q[i].Ptr, Orig: wireTuple(q[i].Orig), Netns: uint32(q[i].NetNS), Zone: q[i].Zone}
	}
	_, err := p.peekProg.Run(&ebpf.RunOptions{Context: struct{ N uint64 }{uint64(len(q))}})
	if err != nil {
		return fmt.Errorf("run peek: %w", explain(err))
	}
	for i := range q {
		q[i].answer((*abi.ConntrackCtPeek)(p.peekMem.elem(i)), p.jiffy)
	}
	return nil
}

func (q *Peek) answer(s *abi.ConntrackCtPeek, jiffy time.Duration) {
	q.Result = PeekResult(s.Result)
	q.Status = event.Status(s.Status)
	q.Timeout = time.Duration(s.Timeout) * jiffy
	q.TCPState = event.TCPNone
	if q.Orig.Proto == event.ProtoTCP {
		q.TCPState = event.TCPState(s.TcpState + 1)
	}
}

// wireTuple is the inverse of tuple, for the original direction.
func wireTuple(t event.Tuple) abi.ConntrackCtTuple {
	w := abi.ConntrackCtTuple{Proto: t.Proto, L3num: 10}
	if t.Src.Is4() {
		w.L3num = 2
	}
	copy(w.Src[:], t.Src.AsSlice())
	copy(w.Dst[:], t.Dst.AsSlice())
	w.Sport = [2]uint8{uint8(t.Sport >> 8), uint8(t.Sport)}
	w.Dport = [2]uint8{uint8(t.Dport >> 8), uint8(t.Dport)}
	return w
}
