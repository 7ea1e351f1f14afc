// Package record reads captures. For now these are the text form that
// `ctsight export --to ctr` writes: ctreplay v1, tab separated, plain or compressed
// with gzip or zstd, one line for each thing that happened to an entry:
//
//	t_ns ev id proto src sport dst dport status cause life_ns opkts rpkts
//
// Files come from anywhere. A Reader holds one line at a time, whatever is in the
// file, and says of a bad one where it is and what is wrong with it.
package record

import (
	"fmt"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// What a line says of an entry.
type What byte

// The events of ctreplay v1.
const (
	Inserted  What = 'N'
	Replied   What = 'R' // the first answer was seen
	Assured   What = 'A'
	Destroyed What = 'D'
)

// Bounds of what is taken for sane.
const (
	// MaxLine is the longest line in bytes; those of the format have less than 200.
	MaxLine = 1 << 16
	// maxTime is 1 January 2200: no arithmetic with times of a capture overflows.
	maxTime = 7_258_118_400_000_000_000
	// maxJump is the longest silence: a clock that was set, not a quiet network.
	maxJump = 366 * 24 * time.Hour
	// maxLife is longer than any timeout: nf_conntrack's are 32 bits of seconds at
	// most, of which five days are in use.
	maxLife = 10 * maxJump
)

// Error is what is wrong with a file, and where.
type Error struct {
	File string
	Line uint64 // from 1
	Text string
}

func (e *Error) Error() string { return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Text) }

// Clock is that of every capture: its times are nanoseconds since 1970.
func Clock() event.Clock { return event.Clock{Wall: time.Unix(0, 0)} }

// pointer makes an id look like an address of the kernel, which says that the entry
// is another one when the tuple is used again.
func pointer(id uint64) uint64 { return 1<<63 | id }
