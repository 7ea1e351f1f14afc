package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"
)

func ptr[T any](p *T) uintptr { return uintptr(unsafe.Pointer(p)) }

// cpuTime is the time on a CPU of all threads that match, in virtual ns, that
// is in instructions.
func cpuTime(glob string) (sum uint64) {
	files, _ := filepath.Glob(glob)
	for _, f := range files {
		var ns uint64
		if data, err := os.ReadFile(f); err == nil {
			_, _ = fmt.Sscan(string(data), &ns)
			sum += ns
		}
	}
	return sum
}

// pids are the processes whose name begins so.
func pids(comm string) (out []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, f := range files {
		name, err := os.ReadFile(f)
		if err != nil || !strings.HasPrefix(string(name), comm) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f))); err == nil {
			out = append(out, pid)
		}
	}
	return out
}
