// Package report makes the post-mortem of a capture: what happened, when, who, and what
// it did, as one document that needs nothing else. A Gatherer is told the events in
// order of time and holds bounded memory, however long the capture is; its Data is a
// plain value, from which the writers make HTML (with pictures of our own SVG) and
// Markdown. Nothing here reads a clock, a file or the kernel: equal captures, equal
// bytes.
package report

import (
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// Options say what a capture does not.
type Options struct {
	Clock event.Clock // of the times of its events
	Name  string      // what it is called in the report
	// Max is nf_conntrack_max where the capture does not tell; 0 for not known.
	Max uint64
}

// Bounds of what a Gatherer holds.
const (
	maxColumns  = 600 // of a picture, each of the same width
	fineBits    = 3   // in each of them are so many powers of two of those that a zoom shows
	maxLive     = 1 << 20
	maxTables   = 64
	maxSources  = 4096 // with a line of their own over time, before the smaller half is summed
	maxCensus   = 1 << 16
	maxFindings = 2000
	maxMarks    = 500
	maxRecent   = 1 << 17 // arrivals that are kept for scanners found later
	maxDots     = 4000
	maxScanners = 4
	maxLife     = 10 * 366 * 24 * time.Hour // longer than any timeout
	maxTime     = 7_258_118_400_000_000_000 // 1 January 2200, as in captures
)

// narrowest is the width of the fine columns of a short capture; each time that it
// outgrows maxColumns their width doubles, so that they always begin at round times.
const narrowest = event.Ktime(time.Second/64) >> fineBits

// Status is what became of an entry that is in the table.
type Status struct {
	Time  event.Ktime
	NetNS event.NetNS
	Zone  uint16
	Ptr   uint64 // 0 where it is not known
	Orig  event.Tuple
	Bits  event.Status
}

// Node is a machine that a capture comes from.
type Node struct {
	Name    string
	Backend string // "" for a capture in text
}

// Table is what the kernel counted in a network namespace.
type Table struct {
	NetNS        event.NetNS
	Name         string
	Entries, Max uint64
}

// Loss is what is missing of the records from one time to another; nothing, if Lost is 0.
type Loss struct {
	From, To event.Ktime
	Lost     uint64
}

// Change is a setting that somebody changed.
type Change struct {
	Time     event.Ktime
	Name     string
	From, To string
}
