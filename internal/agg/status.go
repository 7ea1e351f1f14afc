package agg

import (
	"net/netip"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// Status is what a running `ctsight serve` knows at one moment: what its metrics,
// its page and its API show. A plain value: whoever has it may keep it and must
// not change it, slices are shared between readers.
type Status struct {
	Start, At time.Time
	// Backend is "" while Waiting for nf_conntrack to be loaded; all else is
	// zero then.
	Backend    string
	Waiting    bool
	BestEffort bool // this backend cannot tell all destroys
	Tables     []TableState
	Pools      []PoolState // NAT port pools, the fullest
	PoolSums   PoolSums

	// Counts since Start, exact whatever was lost as a record: none of them
	// ever goes back.
	New       []ProtoCount
	Destroyed []ProtoCauseCount
	Drops     []ReasonCount // packets
	Notes     []ReasonCount
	// Examples are the newest lost packet of each reason.
	Examples  []DropExample
	Lifetimes Lifetimes // of entries whose insert was seen

	Peaks    Peaks
	Total    TopRow   // rates of everything
	Holders  []TopRow // sources by live entries, the first
	Arrivals []TopRow // sources by new connections per second, the first
	Losers   []TopRow // sources by packets lost, the first, none that lost nothing
	Prefixes []TopRow // prefixes by new connections, where they are asked for
	Live     uint64   // entries known to be live
	Tracked  int      // sources with a row of their own
	Folded   uint64   // times a source lost its row to others

	// Difference is what was traced minus what the kernel counted, per counter,
	// summed over the namespaces that can be compared.
	Difference []CounterDifference
	Loss       Loss
	Hooks      []HookState
	MapBytes   uint64
	Findings   []Finding // that are open, and those of the last day
	Found      []ClassCount
	Paged      []ClassCount // of these for a human
	Omitted    []Omission   // what detection had no room for, since the start
	Reliefs    []Relief     // temporary changes of sysctls, the oldest first
	Flight     *Flight      // the flight recorder, nil for none

	History []Sample // one a second, oldest first
}

// ProtoCount counts by address family and protocol.
type ProtoCount struct {
	IPv6  bool
	Proto uint8
	Count uint64
}

// ProtoCauseCount counts by protocol and cause.
type ProtoCauseCount struct {
	Proto uint8
	Cause event.Cause
	Count uint64
}

// DropExample is one lost packet.
type DropExample struct {
	Reason   event.Reason
	Src, Dst netip.Addr
	At       time.Time
}

// Peaks are the highest numbers of new connections per second, measured over
// windows of three lengths since the last look.
type Peaks struct{ In10ms, In100ms, In1s float64 }

// CounterDifference is traced minus kernel.
type CounterDifference struct {
	Counter    Counter
	Difference int64
}

// HookState is one hook as it is now.
type HookState struct {
	Symbol  string
	Backend string // "" when it is not attached
	Missed  uint64 // runs that the kernel skipped
	Lost    string // what is missing without it
}

// ClassCount counts findings of a class.
type ClassCount struct {
	Class string
	Count uint64
}

// Omission counts what a bound has left out.
type Omission struct {
	What  string
	Count uint64
}

// Sample is one second of the past.
type Sample struct {
	At      time.Time // its end
	New     uint64
	Peak    float64 // new connections per second in the busiest 10 ms
	Drops   []ReasonCount
	Evicted uint64
	Seen    uint64 // records
	Lost    uint64 // of them
	Tables  []TableSample
	Sources []SourceCount // the busiest by new connections
}

// TableSample is a table in a Sample.
type TableSample struct {
	NetNS        event.NetNS
	Entries, Max uint64
}

// SourceCount is how many connections a source made in a Sample.
type SourceCount struct {
	NetNS event.NetNS
	Src   netip.Addr
	New   uint64
}

// Relief is a temporary change of a sysctl (internal/relief).
type Relief struct {
	ID        string
	State     string // intended, applied, reverted, left_alone, failed
	Open      bool   // there is something to take back
	Overdue   bool   // it is open though its time is over
	Sysctl    string
	NetNS     event.NetNS
	NetNSName string
	Found     uint64 // what comes back
	Set       uint64
	Present   *uint64 // nil: not known
	Reason    string
	Who       string
	At        time.Time
	Expires   time.Time
	Closed    time.Time // zero while it is open
	Notes     []ReliefNote
}

// ReliefNote is what happened to a Relief.
type ReliefNote struct {
	At   time.Time
	Text string
}

// Flight is how the flight recorder goes.
type Flight struct {
	Dir      string
	Oldest   time.Time // from when on there is a recording
	Bytes    int64     // of its ring
	Segments int       // files of it
	Events   uint64    // recorded since the start
	Lost     uint64    // not recorded for want of room
	Err      string    // why nothing is recorded or kept at the moment, "" where all is well
	Kept     []Recording
	Omitted  uint64 // that were not kept: too many came within an hour
}

// Recording is one that is kept.
type Recording struct {
	Name  string
	Dir   string
	Bytes int64
	Why   string
}
