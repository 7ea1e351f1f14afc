package probe

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/abi"
	"github.com/ctsight/ctsight/internal/event"
)

const recSize = int(unsafe.Sizeof(abi.ConntrackCtRec{}))

// A ring is the reader's side of one CPU's ring: records of recSize bytes in
// memory shared with the kernel. The record at position p is whole when its
// seq is p+1; programs write seq last. tail, in the CPU's state, tells the
// programs what has been read.
type ring struct {
	slots []byte
	mask  uint64
	state *abi.ConntrackCtCpu
	next  uint64 // first position not yet taken
	read  uint64 // position published in state.Tail
}

// at returns the record at position p, or nil when it is not there yet.
func (r *ring) at(p uint64) *abi.ConntrackCtRec {
	rec := (*abi.ConntrackCtRec)(unsafe.Pointer(&r.slots[int(p&r.mask)*recSize]))
	if atomic.LoadUint32(&rec.Seq) != uint32(p+1) {
		return nil
	}
	return rec
}

// head is the next record with its second half, nil when there is none or
// when its second half is not written yet.
func (r *ring) head() (*abi.ConntrackCtRec, *abi.ConntrackCtExt) {
	rec := r.at(r.next)
	if rec == nil || rec.Flags&flagExt == 0 {
		return rec, nil
	}
	ext := r.at(r.next + 1)
	if ext == nil {
		return nil, nil
	}
	return rec, (*abi.ConntrackCtExt)(unsafe.Pointer(ext))
}

// take passes the record that head returned. Its memory stays untouched until
// publish.
func (r *ring) take(ext bool) {
	r.next++
	if ext {
		r.next++
	}
}

// publish gives what was taken back to the programs.
func (r *ring) publish() {
	if r.read != r.next {
		r.read = r.next
		atomic.StoreUint64(&r.state.Tail, r.next)
	}
}

// shared is the memory of a BPF array map, mapped into this process.
type shared struct {
	mem    []byte
	stride int
}

// mapShared maps a BPF_F_MMAPABLE array.
func mapShared(m *ebpf.Map, writable bool) (*shared, error) {
	stride := (int(m.ValueSize()) + 7) &^ 7
	size := stride * int(m.MaxEntries())
	page := unix.Getpagesize()
	size = (size + page - 1) / page * page
	prot := unix.PROT_READ
	if writable {
		prot |= unix.PROT_WRITE
	}
	mem, err := unix.Mmap(m.FD(), 0, size, prot, unix.MAP_SHARED)
	runtime.KeepAlive(m)
	if err != nil {
		return nil, fmt.Errorf("map %s into memory: %w", m, err)
	}
	return &shared{mem: mem, stride: stride}, nil
}

func (s *shared) elem(i int) unsafe.Pointer { return unsafe.Pointer(&s.mem[i*s.stride]) }

func (s *shared) close() error {
	if s == nil || s.mem == nil {
		return nil
	}
	mem := s.mem
	s.mem = nil
	return unix.Munmap(mem)
}

// A waker sleeps until a ring passes a quarter of its size or time is up. The
// kernel's side is a BPF ring buffer whose messages carry nothing; its
// consumer position is moved past them so that the next one wakes again.
type waker struct {
	epoll, stop int // file descriptors; stop is an eventfd
	cons, prod  []byte
}

func newWaker(m *ebpf.Map) (*waker, error) {
	w := &waker{epoll: -1, stop: -1}
	page := unix.Getpagesize()
	var err error
	if w.cons, err = unix.Mmap(m.FD(), 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map wake ring: %w", err)
	}
	if w.prod, err = unix.Mmap(m.FD(), int64(page), page, unix.PROT_READ, unix.MAP_SHARED); err != nil {
		w.close()
		return nil, fmt.Errorf("map wake ring: %w", err)
	}
	if w.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		w.close()
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if w.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		w.close()
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	for _, fd := range []int{m.FD(), w.stop} {
		if err := unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
			w.close()
			return nil, fmt.Errorf("epoll: %w", err)
		}
	}
	return w, nil
}

// wait sleeps for at most ms milliseconds and says whether something ended it.
func (w *waker) wait(ms int) bool {
	var ev [2]unix.EpollEvent
	n, err := unix.EpollWait(w.epoll, ev[:], ms)
	if err != nil || n <= 0 {
		return false // a signal or the time: the caller looks at the rings anyway
	}
	prod := atomic.LoadUint64((*uint64)(unsafe.Pointer(&w.prod[0])))
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&w.cons[0])), prod)
	return true
}

// A pause counts the looks at the rings in a row that found nothing.
type pause int

// next returns for how many milliseconds to sleep after a look. It grows with the
// square: in a pause of ordinary traffic of 20 ms it stays 1, after 3 s it is 50.
func (p *pause) next(found bool) int {
	if found {
		*p = 0
	} else if *p < longestPause {
		*p++
	}
	return 1 + int(*p)*int(*p)/400
}

const longestPause = 140 // looks in vain: 50 ms, after 3 s

// asleepFor is how long to wait for a record, in ms; tests wait longer.
var asleepFor = 1000

// rest sleeps after a look at the rings. When nothing has come for long it is the
// next record that ends it: a bell for each would cost the traffic more than all
// else, one after seconds of silence costs nothing.
func (p *Probe) rest(idle *pause, found bool) {
	ms := idle.next(found)
	if *idle < longestPause {
		p.wake.wait(ms)
		return
	}
	p.setAsleep(1)
	defer p.setAsleep(0)
	for i := range p.rings { // what was written before the programs saw it
		if atomic.LoadUint64(&p.rings[i].state.Head) != p.rings[i].next {
			p.wake.wait(ms)
			return
		}
	}
	if p.wake.wait(asleepFor) {
		*idle = 0
	}
}

// setAsleep tells the programs of all CPUs; it is a full barrier.
func (p *Probe) setAsleep(v uint64) {
	for i := range p.rings {
		atomic.StoreUint64(&p.rings[i].state.Asleep, v)
	}
}

// kick ends a wait, now and for good.
func (w *waker) kick() {
	one := [8]byte{1}
	_, _ = unix.Write(w.stop, one[:])
}

func (w *waker) close() {
	for _, fd := range []int{w.epoll, w.stop} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	for _, m := range [][]byte{w.cons, w.prod} {
		if m != nil {
			_ = unix.Munmap(m)
		}
	}
	w.epoll, w.stop, w.cons, w.prod = -1, -1, nil, nil
}

// Now reads CLOCK_MONOTONIC, the clock of bpf_ktime_get_ns.
func Now() (event.Ktime, error) {
	var ts unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return event.Ktime(ts.Nano()), err
}

// now is Now where it has worked before.
func now() event.Ktime {
	k, _ := Now()
	return k
}
