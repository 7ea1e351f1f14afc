package view

import (
	"io"
	"math"

	"github.com/ctsight/ctsight/internal/agg"
)

// findingDoc is the JSON of a finding, section 6 of the contract.
type findingDoc struct {
	ID        outside  `json:"id"`
	Time      stamp    `json:"time"`
	Class     outside  `json:"class"`
	State     outside  `json:"state"`
	Severity  outside  `json:"severity"`
	Source    string   `json:"source,omitempty"`
	Prefix    string   `json:"prefix,omitempty"`
	NetNS     uint32   `json:"netns,omitempty"`
	Name      outside  `json:"netns_name,omitempty"`
	First     stamp    `json:"first"`
	Last      stamp    `json:"last"`
	Statistic *float64 `json:"statistic"` // null when it is not a number
	Threshold *float64 `json:"threshold"`
	Why       outside  `json:"why"`
}

// FindingOptions say how a finding is written.
type FindingOptions struct {
	Names Names
}

// WriteFindingJSON writes a finding as one JSON object and a newline. Its time
// is that of the last event it rests on.
func WriteFindingJSON(w io.Writer, f *agg.Finding, o FindingOptions) error {
	doc := findingDoc{
		ID: outside(f.ID), Time: stamp(f.Last), Class: outside(f.Class), State: outside(f.State), Severity: outside(f.Severity),
		NetNS: uint32(f.NetNS), First: stamp(f.First), Last: stamp(f.Last),
		Statistic: finite(f.Statistic), Threshold: finite(f.Threshold), Why: outside(f.Why),
	}
	if f.NetNS != 0 {
		doc.Name = outside(o.Names.netns(f.NetNS))
	}
	switch {
	case f.Source.IsSingleIP():
		doc.Source = f.Source.Addr().String()
	case f.Source.IsValid():
		doc.Prefix = f.Source.String()
	}
	return writeJSON(w, doc)
}

// finite is nil for what JSON has no number for. A statistic may be very small,
// so it keeps all its digits, other than number.
func finite(f float64) *float64 {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil
	}
	return &f
}
