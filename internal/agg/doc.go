package agg

import (
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// Doc is the drop ledger of one interval: what was traced, what the kernel
// counted meanwhile, and the difference.
type Doc struct {
	From, To time.Time
	Backend  string
	Snapshot
	Kernel  []KernelDelta
	Balance []BalanceRow
	Loss    Loss
}

// KernelDelta is what the kernel's own counters of one network namespace gained
// in the interval, summed over CPUs, and its table. A counter that this kernel
// does not offer, or that could not be read, is nil.
type KernelDelta struct {
	NetNS        event.NetNS
	Name         string // of the namespace, "" when it has none
	Drop         *uint64
	EarlyDrop    *uint64
	InsertFailed *uint64
	ClashResolve *uint64 // not before 5.10
	ChainTooLong *uint64 // not before 5.15
	Insert       *uint64
	Invalid      *uint64
	Error        *uint64
	Found        *uint64

	CountBefore, CountAfter *uint64 // objects allocated: entries and packets on their way in
	Max                     *uint64
}

// Loss is the account of our own records: Seen = Delivered + Aggregated + Lost.
type Loss struct {
	Seen       uint64 // counted in the kernel
	Delivered  uint64 // came through as records, Sample not counted
	Aggregated uint64 // came through as sums only
	Lost       uint64
	ByStage    []StageLoss
}

// StageLoss says how many of the lost were lost where.
type StageLoss struct {
	Stage string
	Lost  uint64
}

// Residual is what the account does not explain; not 0 is a mistake of ours.
func (l Loss) Residual() int64 { return int64(l.Seen - l.Delivered - l.Aggregated - l.Lost) }
