package view

import (
	"encoding/json"
	"io"
	"math"
	"net/netip"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// The JSON of a finding, section 6 of the contract. These types are the field
// names; agg has the values.
type (
	findingDoc struct {
		ID           outside         `json:"id"`
		Time         stamp           `json:"time"`
		Class        outside         `json:"class"`
		Shape        outside         `json:"shape,omitempty"`
		State        outside         `json:"state"`
		Severity     outside         `json:"severity"`
		Source       string          `json:"source,omitempty"`
		Prefix       string          `json:"prefix,omitempty"`
		Target       *findingTarget  `json:"target,omitempty"`
		NetNS        uint32          `json:"netns,omitempty"`
		Name         outside         `json:"netns_name,omitempty"`
		Zone         uint16          `json:"zone,omitempty"`
		First        stamp           `json:"first"`
		Last         stamp           `json:"last"`
		Raised       int             `json:"raised"`
		Evidence     findingEvidence `json:"evidence"`
		Statistic    *float64        `json:"statistic"` // null when it is not a number
		Threshold    *float64        `json:"threshold"`
		Why          outside         `json:"why"`
		WhyNotBenign outside         `json:"why_not_benign"`
		Spoofable    bool            `json:"spoofable"`
		Suppress     outside         `json:"suppress"`
		Expires      *stamp          `json:"expires"` // null when no list takes it
		Loss         findingLoss     `json:"loss"`
		Recording    outside         `json:"recording,omitempty"`
	}
	findingTarget struct {
		Addr  string  `json:"addr,omitempty"`
		Proto string  `json:"proto,omitempty"`
		Port  *uint16 `json:"port,omitempty"`
	}
	findingEvidence struct {
		Contacts   uint64          `json:"contacts"`
		Attempts   uint64          `json:"attempts"`
		Answered   uint64          `json:"answered"`
		Refused    uint64          `json:"refused"`
		Unanswered uint64          `json:"unanswered"`
		HalfOpen   uint64          `json:"half_open"`
		Invalid    uint64          `json:"invalid"`
		Pending    uint64          `json:"pending"`
		Excused    uint64          `json:"excused"`
		Dsts       uint64          `json:"distinct_dsts"`
		Dports     uint64          `json:"distinct_dports"`
		Sources    uint64          `json:"distinct_sources,omitempty"`
		Estimated  bool            `json:"estimated,omitempty"`
		Figures    figures         `json:"figures,omitempty"`
		Used       []outside       `json:"used"`
		Samples    []findingSample `json:"samples"`
		Items      []outside       `json:"items,omitempty"`
	}
	findingLoss struct {
		Seen       uint64 `json:"seen"`
		Delivered  uint64 `json:"delivered"`
		Aggregated uint64 `json:"aggregated"`
		Lost       uint64 `json:"lost"`
	}
)

// FindingOptions say how a finding is written.
type FindingOptions struct {
	JSON  bool
	Color bool // text only
	// Own is the network namespace that a line of text need not name.
	Own   event.NetNS
	Names Names
}

// WriteFindingJSON writes a finding as one JSON object and a newline. Its time is
// when it was told.
func WriteFindingJSON(w io.Writer, f *agg.Finding, o FindingOptions) error {
	return writeJSON(w, findingJSON(f, o))
}

func findingJSON(f *agg.Finding, o FindingOptions) findingDoc {
	doc := findingDoc{
		ID: outside(f.ID), Time: stamp(f.Time), Class: outside(f.Class), Shape: outside(f.Shape), State: outside(f.State), Severity: outside(f.Severity),
		Target: targetJSON(&f.Target), NetNS: uint32(f.NetNS), Zone: f.Zone, First: stamp(f.First), Last: stamp(f.Last), Raised: f.Raised,
		Evidence: evidenceJSON(&f.Evidence), Statistic: finite(f.Statistic), Threshold: finite(f.Threshold),
		Why: outside(f.Why), WhyNotBenign: outside(f.WhyNotBenign), Spoofable: f.Spoofable, Suppress: outside(f.Suppress),
		Loss:      findingLoss{f.Loss.Seen, f.Loss.Delivered, f.Loss.Aggregated, f.Loss.Lost},
		Recording: outside(f.Recording),
	}
	if f.NetNS != 0 {
		doc.Name = outside(o.Names.netns(f.NetNS))
	}
	if !f.Expires.IsZero() {
		doc.Expires = (*stamp)(&f.Expires)
	}
	switch {
	case f.Source.IsSingleIP():
		doc.Source = SourceText(f.Source)
	case f.Source.IsValid():
		doc.Prefix = SourceText(f.Source)
	}
	return doc
}

func targetJSON(t *agg.Target) *findingTarget {
	if *t == (agg.Target{}) {
		return nil
	}
	j := &findingTarget{}
	if t.Addr.IsValid() {
		j.Addr = t.Addr.Unmap().WithZone("").String()
	}
	if t.Proto != 0 {
		j.Proto = event.ProtoName(t.Proto)
	}
	if t.Port != 0 {
		j.Port = &t.Port
	}
	return j
}

func evidenceJSON(e *agg.Evidence) findingEvidence {
	j := findingEvidence{
		Contacts: e.Contacts, Attempts: e.Attempts, Answered: e.Answered, Refused: e.Refused, Unanswered: e.Unanswered,
		HalfOpen: e.HalfOpen, Invalid: e.Invalid, Pending: e.Pending, Excused: e.Excused,
		Dsts: e.Dsts, Dports: e.Dports, Sources: e.Sources, Estimated: e.Estimated,
		Figures: e.Figures, Used: foreign(e.Used), Samples: []findingSample{}, Items: foreign(e.Items),
	}
	for _, s := range e.Samples {
		j.Samples = append(j.Samples, findingSample(s))
	}
	return j
}

func foreign(all []string) []outside {
	out := make([]outside, len(all))
	for i, s := range all {
		out[i] = outside(s)
	}
	return out
}

// findingSample is a contact with the fields of its tuple.
type findingSample agg.Contacted

// MarshalJSON writes the tuple as events have it.
func (s findingSample) MarshalJSON() ([]byte, error) {
	b := appendTime([]byte(`{"time":"`), s.At)
	b = appendJSONString(append(b, `","outcome":`...), s.Outcome)
	b = append(appendProto(append(b, `,"proto":"`...), s.Orig.Proto), '"')
	if t := zoneless(s.Orig); !t.IsZero() {
		b = appendFields(append(b, ','), &t)
	}
	return append(b, '}'), nil
}

// zoneless is a tuple without the zones of its addresses, which a file may have made
// anything.
func zoneless(t event.Tuple) event.Tuple {
	t.Src, t.Dst = t.Src.WithZone(""), t.Dst.WithZone("")
	return t
}

// figures are an object in their own order.
type figures []agg.Figure

// MarshalJSON writes null for what is not a number.
func (f figures) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, g := range f {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendJSONString(b, g.Name), ':')
		n, err := json.Marshal(finite(g.Value))
		if err != nil {
			return nil, err
		}
		b = append(b, n...)
	}
	return append(b, '}'), nil
}

// SourceText is an address, or a prefix with its length; "" for none. An IPv4
// address that is mapped into IPv6 is written as what it is.
func SourceText(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// finite is nil for what JSON has no number for. A statistic may be very small,
// so it keeps all its digits, other than number.
func finite(f float64) *float64 {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil
	}
	return &f
}

// told is when a finding was told, in milliseconds: for lines that people read.
func told(b []byte, t time.Time) []byte { return t.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z") }
