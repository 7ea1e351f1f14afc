package cputime

import (
	"runtime"
	"testing"
	"time"
)

// TestClocks: a thread that sleeps uses nothing, one that works does, and what it uses is
// part of what the process does.
func TestClocks(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began, all := Thread(), Process()
	time.Sleep(50 * time.Millisecond)
	slept := Thread() - began
	x := uint64(1)
	for i := range uint64(100_000_000) {
		x = x*i + 7
	}
	worked := Thread() - began - slept
	if worked <= 2*slept || Process()-all < worked {
		t.Errorf("%v asleep, %v at work (%d), the process %v", slept, worked, x&1, Process()-all)
	}
}
