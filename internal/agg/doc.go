package agg

import (
	"slices"
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

// Plus adds what another source has lost.
func (l *Loss) Plus(o *Loss) {
	l.Seen, l.Delivered, l.Aggregated, l.Lost = l.Seen+o.Seen, l.Delivered+o.Delivered, l.Aggregated+o.Aggregated, l.Lost+o.Lost
	for _, s := range o.ByStage {
		if i := slices.IndexFunc(l.ByStage, func(x StageLoss) bool { return x.Stage == s.Stage }); i >= 0 {
			l.ByStage[i].Lost += s.Lost
		} else {
			l.ByStage = append(l.ByStage, s)
		}
	}
}

// StageLoss says how many of the lost were lost where.
type StageLoss struct {
	Stage string
	Lost  uint64
}

// Residual is what the account does not explain; not 0 is a mistake of ours.
func (l Loss) Residual() int64 { return int64(l.Seen - l.Delivered - l.Aggregated - l.Lost) }

// TopDoc is one picture of who fills the tables: contract, section 5.
type TopDoc struct {
	From, To time.Time
	Backend  string
	Table    []TableState // by netns
	Pools    []PoolState  // NAT port pools, the fullest
	PoolSums PoolSums
	Top
	Drops    []ReasonCount // packets lost by reason since From, exact
	Findings []Finding     // that are open, the most urgent first; shared, not to be changed
	Loss     Loss
	// BestEffort is set on backends that cannot tell all destroys.
	BestEffort bool
}

// Level says how near to its limit a table is, or will be.
type Level uint8

// Levels of a table, by its fill.
const (
	LevelOK       Level = iota
	LevelTrend          // from 70 %
	LevelAction         // from 85 %
	LevelCritical       // from 95 %
)

// String returns the word of the contract.
func (l Level) String() string {
	return [...]string{"ok", "trend", "action", "critical"}[min(l, LevelCritical)]
}

// LevelOf returns the level of a fill between 0 and 1.
func LevelOf(fill float64) Level {
	switch {
	case fill >= 0.95:
		return LevelCritical
	case fill >= 0.85:
		return LevelAction
	case fill >= 0.70:
		return LevelTrend
	}
	return LevelOK
}

// TableState is the table of one network namespace.
type TableState struct {
	NetNS   event.NetNS
	Name    string // "" when it has none
	Entries uint64 // the kernel's count: entries and packets on their way in
	Max     uint64
	Level   Level
	// Known is how many live entries we know; Seeded says that a dump has told
	// of those from before the start, so that Known should be Entries.
	Known  uint64
	Seeded bool
	// Forecast of the time until Entries reaches Max, in seconds. Nil is never:
	// it stays below. Without Forecast nothing is known yet.
	Forecast                      bool
	TimeToFull, FullLow, FullHigh *float64
	Saturation                    float64 // entries expected a day from now, 0 without Forecast
	NewRate                       float64 // entries per second, over the last second
	Err                           string  // why the kernel's numbers are not known
}

// Fill is Entries over Max, 0 where there is no limit.
func (t *TableState) Fill() float64 {
	if t.Max == 0 {
		return 0
	}
	return float64(t.Entries) / float64(t.Max)
}
