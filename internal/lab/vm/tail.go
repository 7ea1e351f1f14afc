package vm

import (
	"bytes"
	"strings"
	"sync"
)

// consoleLines is how much of the console an error shows.
const consoleLines = 40

// tail is a writer that remembers the last lines, and the one that tells of a panic however
// many follow it.
type tail struct {
	mu    sync.Mutex
	max   int
	lines []string
	part  []byte
	panic string
}

func newTail(lines int) *tail { return &tail{max: lines} }

// Write never fails.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.part = append(t.part, b...)
	for {
		line, rest, ok := bytes.Cut(t.part, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		t.add(strings.TrimRight(string(line), "\r"))
		t.part = rest
	}
}

// add remembers one line.
func (t *tail) add(line string) {
	if i := strings.Index(line, "Kernel panic"); i >= 0 && t.panic == "" {
		t.panic = line[i:]
	}
	t.lines = append(t.lines, line)
	if len(t.lines) > t.max {
		t.lines = t.lines[len(t.lines)-t.max:]
	}
}

// panicLine returns what the kernel said when it panicked, empty if it did not.
func (t *tail) panicLine() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.panic
}

// String returns the lines, the unfinished one included.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.lines
	if s := strings.TrimSpace(string(t.part)); s != "" {
		all = append(all[:len(all):len(all)], s)
	}
	return strings.Join(all, "\n")
}
