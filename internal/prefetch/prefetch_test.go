package prefetch

import (
	"slices"
	"testing"
)

// TestLines: asking changes nothing and faults nowhere, wherever a line is, and an
// address of nothing is none.
func TestLines(t *testing.T) {
	data := make([]uint64, 1<<12)
	for i := range data {
		data[i] = uint64(i)
	}
	before := slices.Clone(data)
	for n := range 70 {
		lines := make([]Line, 0, n)
		for i := range n {
			if i%7 == 3 {
				lines = append(lines, nil)
				continue
			}
			lines = append(lines, Of(&data[(i*61)%len(data)]))
		}
		was := slices.Clone(lines)
		Lines(lines)
		if !slices.Equal(was, lines) {
			t.Fatalf("%d lines were changed", n)
		}
	}
	if !slices.Equal(before, data) {
		t.Error("memory was changed")
	}
}
