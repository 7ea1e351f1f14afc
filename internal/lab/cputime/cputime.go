// Package cputime is the CPU time that tests and benchmarks have used: other work on the
// machine does not count.
package cputime

import (
	"time"

	"golang.org/x/sys/unix"
)

// Process is that of all threads, also of the garbage collector.
func Process() time.Duration { return read(unix.CLOCK_PROCESS_CPUTIME_ID) }

// Thread is that of the calling thread; the goroutine has to be locked to it.
func Thread() time.Duration { return read(unix.CLOCK_THREAD_CPUTIME_ID) }

func read(clock int32) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		panic(err) // every Linux has them
	}
	return time.Duration(ts.Nano())
}
