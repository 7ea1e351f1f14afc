package agg

import (
	"testing"
	"unsafe"
)

// TestRowLines holds what the layout of a row promises.
func TestRowLines(t *testing.T) {
	var r row
	for name, at := range map[string]uintptr{"destroyed": unsafe.Offsetof(r.destroyed), "at": unsafe.Offsetof(r.at),
		"dsts": unsafe.Offsetof(r.dsts), "end": unsafe.Sizeof(r)} {
		if at%64 != 0 {
			t.Errorf("%s is at %d, not at the beginning of a line", name, at)
		}
	}
	if rowBytes != 320 {
		t.Errorf("a row takes %d bytes", rowBytes)
	}
}
