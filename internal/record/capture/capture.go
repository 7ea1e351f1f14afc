// Package capture is the file of a recording: what the kernel has told, with the state
// once a second, what was asked of live entries, and what was lost, in the order in which
// it was made use of. A file is good up to wherever it was cut, and what is damaged in it is
// left out and counted. docs/format.md is the description for others.
package capture

import (
	"encoding/json"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// Version of the format. Another first number is another format; a reader leaves out
// what a later second number has added.
const (
	Major = 1
	Minor = 1
)

// Header is where a recording comes from.
type Header struct {
	Major   int       `json:"major"`
	Minor   int       `json:"minor"`
	Tool    string    `json:"tool"` // version of ctsight
	Node    string    `json:"node,omitempty"`
	Kernel  string    `json:"kernel,omitempty"`  // release
	BootID  string    `json:"boot_id,omitempty"` // of the times
	Backend string    `json:"backend,omitempty"`
	Own     uint32    `json:"own_netns,omitempty"` // namespace of who recorded
	Hooks   []string  `json:"hooks,omitempty"`     // that are attached
	Filter  string    `json:"filter,omitempty"`    // what it lets through is all there is
	Wall    time.Time `json:"wall"`                // the clock pair: this was Mono
	Mono    int64     `json:"mono_ns"`
	Start   int64     `json:"start_ns"` // everything counts from here on, monotonic
	Seed    uint64    `json:"seed"`     // of the detectors' tables
	// Sysctls are net.netfilter.nf_conntrack_* of each namespace by its number.
	Sysctls map[string]map[string]string `json:"sysctls,omitempty"`
	Names   map[string]string            `json:"netns_names,omitempty"` // of namespaces, by number
	// Census is what it was counted with, nil before format 1.1.
	Census     *Census `json:"census,omitempty"`
	EntryBytes int     `json:"entry_bytes,omitempty"` // of an entry in its slab
	HZ         int     `json:"hz,omitempty"`          // jiffies a second
}

// Census is the bounds of the tables that counted, and their seed: with them the same
// is counted again.
type Census struct {
	Rows   int    `json:"rows"`
	Live   int    `json:"live"`
	Judged int    `json:"judged"`
	Pools  int    `json:"pools"`
	Sums   bool   `json:"sums,omitempty"`
	Seed   uint64 `json:"seed"`
}

// Clock is the clock pair.
func (h *Header) Clock() event.Clock { return event.Clock{Mono: event.Ktime(h.Mono), Wall: h.Wall} }

// Kind says what an Item is.
type Kind uint8

// Kinds of items; also of sections in the file.
const (
	Events  Kind = 1 // in the order of their time
	Sums    Kind = 2 // of sources, of what was not told one by one
	Second  Kind = 3 // the state once a second
	Entries Kind = 4 // that were in the table: New events
	Looks   Kind = 5 // what looks at entries have shown
	Gap     Kind = 6 // something is missing here
	Mark    Kind = 7 // a finding, a threshold, a change of a sysctl
	// Since format 1.1:
	Steps    Kind = 8  // of the census, besides events
	Counts   Kind = 9  // a reading of all counters, ours and the kernel's
	Snapshot Kind = 10 // Stands follow; a reader may begin here
	Stands   Kind = 11 // entries that are in the table: New events
	Held     Kind = 12 // a snapshot has ended, or just who holds the tables
)

// plain says that an item is of JSON.
func (k Kind) plain() bool {
	return k == Second || k == Looks || k == Gap || k == Mark || k == Steps || k == Counts || k == Snapshot || k == Held
}

// batch says that an item is of events.
func (k Kind) batch() bool { return k == Events || k == Entries || k == Stands }

// Item is one of what a recording is made of. It is good until the next one is read.
type Item struct {
	Kind   Kind
	At     event.Ktime   // of those with JSON, and of Gap
	Events []event.Event // of Events, Entries and Stands
	Sums   []event.Sum
	JSON   json.RawMessage // of Second, Looks, and so on
	Lost   Missing         // of Gap
}

// Missing is what is not in a recording.
type Missing struct {
	Events uint64 `json:"events,omitempty"` // told by the kernel, but not recorded
	Bytes  int64  `json:"bytes,omitempty"`  // of the file that could not be read
	Frames uint64 `json:"frames,omitempty"` // of the file that are not there
	Why    string `json:"why"`
}

// End is what a file that was closed says of itself.
type End struct {
	Events uint64          `json:"events"`
	Sums   uint64          `json:"sums"`
	Lost   uint64          `json:"lost"`             // events of all gaps
	Ledger json.RawMessage `json:"ledger,omitempty"` // the account against the kernel's counters
}
