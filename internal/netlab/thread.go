package netlab

import (
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// onThread runs fn on an operating system thread that runs nothing else until
// fn returns. fn may change the thread (namespace, CPU) and says by keep=false
// that it could not change it back; the thread then dies with its goroutine.
//
// It is never the first thread of the process: that one cannot die, and
// /proc/self shows its namespace to everybody.
func onThread(fn func() (keep bool, err error)) error {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		defer runtime.UnlockOSThread() // holds the first thread until fn is done elsewhere
		done := make(chan error, 1)
		go func() {
			err := errGoexit
			defer func() { done <- err }()
			err = onThread(fn)
		}()
		return <-done
	}
	keep := false
	defer func() {
		if keep {
			runtime.UnlockOSThread()
		}
	}()
	var err error
	keep, err = fn()
	return err
}

var errGoexit = fmt.Errorf("goroutine ended early")

// CPUs returns the CPUs that this process may use.
func CPUs() []int {
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) != nil {
		return []int{0}
	}
	var out []int
	for i := range len(set) * 64 {
		if set.IsSet(i) {
			out = append(out, i)
		}
	}
	return out
}

// onCPU runs fn on a thread bound to one CPU.
func onCPU(cpu int, fn func() error) error {
	return onThread(func() (keep bool, err error) {
		var old unix.CPUSet
		if err := unix.SchedGetaffinity(0, &old); err != nil {
			return true, fmt.Errorf("read CPU affinity: %w", err)
		}
		defer func() { keep = unix.SchedSetaffinity(0, &old) == nil }()
		if err := bindCPU(cpu); err != nil {
			return true, err
		}
		return true, fn()
	})
}

func bindCPU(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("bind thread to CPU %d: %w", cpu, err)
	}
	return nil
}

// until calls ready at growing intervals (up to 5 ms) until it says true or
// the time is over.
func until(timeout time.Duration, ready func() (bool, error)) error {
	deadline := time.Now().Add(timeout)
	for pause := 50 * time.Microsecond; ; pause = min(2*pause, 5*time.Millisecond) {
		ok, err := ready()
		if ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return ErrTimeout
		}
		time.Sleep(pause)
	}
}
