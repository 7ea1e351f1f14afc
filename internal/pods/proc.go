package pods

import (
	"io"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/event"
)

const (
	// maxCgroup is one page for a path on each of more hierarchies than there are.
	maxCgroup = 64 << 10
	// maxMembers is how many processes of a namespace are asked. The first one is
	// nearly always the pause container; a few more see past a visitor.
	maxMembers = 16
	// maxSpaces bounds the namespaces that are kept.
	maxSpaces = 8192
)

// proc is /proc, or what a test made of it.
type proc string

func (p proc) path(pid int, file string) string {
	return string(p) + "/" + strconv.Itoa(pid) + "/" + file
}

// pids are the processes, lowest first: the oldest, until numbers begin again.
func (p proc) pids() []int {
	f, err := os.Open(string(p))
	if err != nil {
		return nil
	}
	defer f.Close()
	names, _ := f.Readdirnames(-1) // what could be read will do
	out := make([]int, 0, len(names))
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil && pid > 0 {
			out = append(out, pid)
		}
	}
	slices.Sort(out)
	return out
}

// netns is the network namespace of a process, 0 if that cannot be seen. Reading
// the link opens nothing.
func (p proc) netns(pid int) event.NetNS {
	var buf [32]byte // net:[4294967295] has 16
	n, err := unix.Readlink(p.path(pid, "ns/net"), buf[:])
	if err != nil || n < 7 || n == len(buf) || string(buf[:5]) != "net:[" || buf[n-1] != ']' {
		return 0
	}
	ino, err := strconv.ParseUint(string(buf[5:n-1]), 10, 32)
	if err != nil {
		return 0
	}
	return event.NetNS(ino)
}

func (p proc) cgroup(pid int) (Pod, bool) {
	f, err := os.Open(p.path(pid, "cgroup"))
	if err != nil {
		return Pod{}, false
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxCgroup))
	if err != nil {
		return Pod{}, false
	}
	return FromCgroup(string(data))
}

// members lists which processes are in which namespace, at most maxMembers of
// each, lowest first.
func (p proc) members() map[event.NetNS][]int {
	out := map[event.NetNS][]int{}
	for _, pid := range p.pids() {
		ns := p.netns(pid)
		m, known := out[ns]
		if ns == 0 || len(m) == maxMembers || (!known && len(out) == maxSpaces) {
			continue
		}
		out[ns] = append(m, pid)
	}
	return out
}
