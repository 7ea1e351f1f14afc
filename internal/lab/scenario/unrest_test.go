package scenario

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/netlab"
)

// unrest makes every CPU take an interrupt each half millisecond until stop is
// called. The guest's CPUs are emulated in turns, and the next has its turn at an
// interrupt: at the pace of the tick, two CPUs seldom meet in a window of
// microseconds. A tenth of the period leaves them no time for anything else.
func unrest(t *testing.T) (stop func()) {
	t.Helper()
	var fds []int
	for _, cpu := range netlab.CPUs() {
		attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK, Sample: 500_000} // ns
		attr.Size = uint32(unsafe.Sizeof(attr))
		fd, err := unix.PerfEventOpen(&attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
		must(t, err)
		fds = append(fds, fd)
	}
	return func() {
		for _, fd := range fds {
			must(t, unix.Close(fd))
		}
	}
}
