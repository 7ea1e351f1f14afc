// Package measure is what benchguest and its host tell each other.
package measure

import "time"

// Sizes of a round. The tuples are the same in every round.
const (
	Batches = 16
	Packets = 256   // per batch
	Buckets = 16384 // of the conntrack table
	Flood   = 20000 // packets of the flood that readers have to bear
)

// Waking is how long after the first event delays do not count: a reader that has
// found nothing for long sleeps up to 100 ms at a time.
const Waking = 200 * time.Millisecond

// Result is one run in one guest.
type Result struct {
	Kernel      string
	Clocksource string
	Reading     uint64 // instructions of two readings of the counter
	Rounds      []Round
	Expiry      []Expiry
	Readers     []Reader
	Deliveries  []Delivery
}

// Round is one tap, or none, under one kind of traffic. Numbers are
// instructions per packet or entry.
type Round struct {
	Traffic string
	Tap     string
	Repeat  int
	Insert  []float64 // mean of each batch
	Destroy []float64
	// InsertMedian is the median over all packets, which leaves out those
	// that a timer interrupted.
	InsertMedian float64
}

// Expiry is the garbage collector's work for a batch of entries that timed
// out, per entry, the walk over the table included.
type Expiry struct {
	Tap   string
	Insns float64
}

// Reader is what a tap costs its reader, per event, beside the traffic.
type Reader struct {
	Traffic string
	Tap     string
	Events  int
	Lost    int
	Insns   float64
}

// Delivery is what a tap told of a load while its reader ran beside it.
type Delivery struct {
	Load string
	Tap  string
	Made int // connections, and as many ends of them
	Told Tally
	// Delay is how old events were when they were counted, in microseconds:
	// median, 99 % and worst; nil where events have no time.
	Delay []int
}

// Tally counts events by what they tell.
type Tally struct{ New, Destroyed int }

// Native is what the reader uses on the machine itself.
type Native struct {
	Kernel  string
	CPUs    int
	Backend string // what this kernel allows
	Loads   []NativeLoad
	Idle    map[string]float64 // share of a CPU with no traffic at all, by source
}

// NativeLoad is one rate of connections, each an insert and a destroy.
type NativeLoad struct {
	View    string // once or live
	Source  string // Rings, or a backend
	Rate    int    // connections a second
	Sources int    // addresses
	// CPU is what the whole reading process uses for a connection, in ns: the
	// median of some seconds, and the least.
	CPU, Least float64
	Share      float64 // of a CPU
	Delay      []int   // as in Delivery
}

// Rings are those of the function hooks, filled from user space: where a kernel
// allows no hooks, they can still be read.
const Rings = "rings"
