package probe

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"github.com/ctsight/ctsight/internal/abi"
	"github.com/ctsight/ctsight/internal/event"
)

// Walked says how far a walk has come.
type Walked struct {
	Buckets uint32 // of the whole table
	Next    uint32 // the first that was not read
	Cut     uint32 // buckets that could not be read to their end: longer than a batch, or never still
}

// errNoTable means that the kernel does not show where the table is.
var errNoTable = errors.New("nf_conntrack_hash is not in /proc/kallsyms (CONFIG_KALLSYMS_ALL), so the table cannot be walked")

// ErrResized ends a walk of a table that was replaced meanwhile: begin again.
var ErrResized = errors.New("the hash table was resized meanwhile")

// Walk reads buckets [from, until) of the hash table, all from there on if until
// is 0, and hands each live entry to fn, in the original direction, as Peek would
// tell it. It takes no lock of conntrack and sends no message: the program, a
// raw tracepoint one under BPF_PROG_TEST_RUN, follows the chains under RCU as
// the kernel's own lookups do. An entry that moves or comes meanwhile may be
// told twice or not at all; one that stays is told once. Entries whose timeout
// is over are told until the kernel collects them. fn must not keep the Peek.
func (p *Probe) Walk(from, until uint32, fn func(*Peek) error) (Walked, error) {
	p.peekMu.Lock()
	defer p.peekMu.Unlock()
	if err := p.openPeek(); err != nil {
		return Walked{}, err
	}
	if p.walkProg == nil {
		p.mu.Lock()
		prog, err := p.obj.program("walk", false)
		p.mu.Unlock()
		if err != nil {
			return Walked{}, fmt.Errorf("load walk: %w", explain(short(err)))
		}
		p.walkProg = prog
	}
	if until == 0 {
		until = 1<<32 - 1
	}
	w := abi.ConntrackCtWalk{Bucket: from, Until: until}
	for {
		w.Out, w.Mark = 0, 0
		if err := p.walkSome(&w); err != nil {
			return Walked{}, err
		}
		for i := range w.Out {
			q := peekResult((*abi.ConntrackCtPeek)(p.peekMem.elem(int(i))), p.jiffy)
			if err := fn(&q); err != nil {
				return Walked{}, err
			}
		}
		if w.Bucket >= w.Until {
			return Walked{Buckets: w.Size, Next: w.Bucket, Cut: w.Cut}, nil
		}
	}
}

// walkSome runs the program once, from where w is.
func (p *Probe) walkSome(w *abi.ConntrackCtWalk) error {
	state := p.obj.vars["walking"]
	if err := state.Set(*w); err != nil {
		return fmt.Errorf("set walk: %w", err)
	}
	if _, err := p.walkProg.Run(&ebpf.RunOptions{Context: struct{ N uint64 }{}}); err != nil {
		return fmt.Errorf("run walk: %w", explain(err))
	}
	if err := state.Get(w); err != nil {
		return fmt.Errorf("get walk: %w", err)
	}
	switch {
	case w.Size == 0:
		return errNoTable
	case w.Resized > 1: // once is the beginning
		return ErrResized
	}
	return nil
}

// peekResult is an answer of the program walk.
func peekResult(s *abi.ConntrackCtPeek, jiffy time.Duration) Peek {
	q := Peek{Ptr: s.Ptr, Orig: tuple(&s.Orig), Zone: s.Zone, NetNS: event.NetNS(s.Netns)}
	q.answer(s, jiffy)
	return q
}
