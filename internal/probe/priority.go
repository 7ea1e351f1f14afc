package probe

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// first is the nice value of a reader's thread: before everything that does not
// ask for the same. What fills the rings runs in softirqs, before any process;
// a reader that gets its turn only after all others loses events while CPUs are
// scarce (conntrackd asks for the same in the configuration it comes with).
const first = -20

// GoFirst gives the calling goroutine a thread of its own and lets that run
// before others, until the function it returns is called. It is this thread's
// priority only; without CAP_SYS_NICE it stays what it is.
func GoFirst() (end func()) {
	runtime.LockOSThread()
	// The system call returns 20 - nice.
	was, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil || unix.Setpriority(unix.PRIO_PROCESS, 0, first) != nil {
		return runtime.UnlockOSThread
	}
	return func() {
		// A thread that cannot go back ends with its goroutine.
		if unix.Setpriority(unix.PRIO_PROCESS, 0, 20-was) == nil {
			runtime.UnlockOSThread()
		}
	}
}
