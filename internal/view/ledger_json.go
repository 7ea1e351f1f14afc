package view

import (
	"encoding/json"
	"io"
	"net/netip"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// The JSON of the ledger, section 4 of the contract. These types are the field
// names; agg has the values.
type (
	ledgerDoc struct {
		From       stamp          `json:"from"`
		To         stamp          `json:"to"`
		Backend    outside        `json:"backend"`
		Drops      []ledgerDrop   `json:"drops"`
		DropsOther ledgerRest     `json:"drops_other"`
		Evictions  []ledgerEvict  `json:"evictions"`
		EvictOther ledgerRest     `json:"evictions_other"`
		Totals     ledgerTotals   `json:"totals"`
		Kernel     []ledgerKernel `json:"kernel"`
		Balance    []ledgerEqual  `json:"balance"`
		Loss       ledgerLoss     `json:"loss"`
	}
	ledgerDrop struct {
		NetNS  uint32  `json:"netns"`
		Name   outside `json:"netns_name,omitempty"`
		Reason string  `json:"reason"`
		Src    string  `json:"src,omitempty"`
		Dst    string  `json:"dst,omitempty"`
		Proto  string  `json:"proto"`
		Dport  *uint16 `json:"dport,omitempty"` // not of ICMP
		Type   *uint8  `json:"type,omitempty"`  // of ICMP
		Code   *uint8  `json:"code,omitempty"`
		Count  uint64  `json:"count"`
	}
	ledgerRest struct {
		Count uint64 `json:"count"`
		Rows  uint64 `json:"rows"`
	}
	ledgerEvict struct {
		NetNS   uint32          `json:"netns"`
		Name    outside         `json:"netns_name,omitempty"`
		Victim  string          `json:"victim"`
		Culprit *string         `json:"culprit"`
		Count   uint64          `json:"count"`
		Entry   json.RawMessage `json:"entry"`
		By      json.RawMessage `json:"by,omitempty"`
	}
	ledgerTotals struct {
		New     uint64            `json:"new"`
		Destroy map[string]uint64 `json:"destroy"`
		Drop    map[string]uint64 `json:"drop"`
		Note    map[string]uint64 `json:"note"`
		Invalid map[string]uint64 `json:"invalid"`
	}
	ledgerKernel struct {
		NetNS        uint32  `json:"netns"`
		Name         outside `json:"netns_name,omitempty"`
		Drop         *uint64 `json:"drop"`
		EarlyDrop    *uint64 `json:"early_drop"`
		InsertFailed *uint64 `json:"insert_failed"`
		ClashResolve *uint64 `json:"clash_resolve"`
		ChainTooLong *uint64 `json:"chaintoolong"`
		Insert       *uint64 `json:"insert"`
		Invalid      *uint64 `json:"invalid"`
		Error        *uint64 `json:"error"`
		Found        *uint64 `json:"found"`
		CountBefore  *uint64 `json:"count_before"`
		CountAfter   *uint64 `json:"count_after"`
		Max          *uint64 `json:"max"`
	}
	ledgerEqual struct {
		NetNS      uint32 `json:"netns"`
		Counter    string `json:"counter"`
		Traced     *int64 `json:"traced"`
		Kernel     *int64 `json:"kernel"`
		Difference *int64 `json:"difference"`
		Note       string `json:"note,omitempty"`
	}
	ledgerLoss struct {
		Seen       uint64            `json:"seen"`
		Delivered  uint64            `json:"delivered"`
		Aggregated uint64            `json:"aggregated"`
		Lost       uint64            `json:"lost"`
		ByStage    map[string]uint64 `json:"by_stage"`
	}
)

// stamp is a time with nine digits.
type stamp time.Time

// MarshalJSON writes RFC 3339, UTC, nine digits.
func (s stamp) MarshalJSON() ([]byte, error) {
	return append(appendTime([]byte{'"'}, time.Time(s)), '"'), nil
}

// WriteLedgerJSON writes the ledger as one JSON object and a newline.
func WriteLedgerJSON(w io.Writer, d *agg.Doc, o LedgerOptions) error {
	other := ledgerOther(d, o)
	doc := ledgerDoc{
		From: stamp(d.From), To: stamp(d.To), Backend: outside(d.Backend),
		Drops: []ledgerDrop{}, DropsOther: ledgerRest(other),
		Evictions: []ledgerEvict{}, EvictOther: ledgerRest(d.EvictionsOther),
		Totals: ledgerTotals{New: d.Totals.New, Destroy: byCause(d.Totals.Destroy), Drop: byReason(d.Totals.Drop),
			Note: byReason(d.Totals.Note), Invalid: byReason(d.Totals.Invalid)},
		Kernel: []ledgerKernel{}, Balance: []ledgerEqual{},
		Loss: lossJSON(d.Loss),
	}
	for _, r := range ledgerRows(d, o) {
		doc.Drops = append(doc.Drops, dropJSON(r, o))
	}
	for _, r := range d.Evictions {
		doc.Evictions = append(doc.Evictions, evictJSON(r, o))
	}
	for _, k := range d.Kernel {
		doc.Kernel = append(doc.Kernel, kernelJSON(k, o))
	}
	for _, r := range d.Balance {
		doc.Balance = append(doc.Balance, ledgerEqual{uint32(r.NetNS), r.Counter.String(), r.Traced, r.Kernel, r.Difference, r.Note})
	}
	return writeJSON(w, doc)
}

func lossJSON(l agg.Loss) ledgerLoss {
	j := ledgerLoss{Seen: l.Seen, Delivered: l.Delivered, Aggregated: l.Aggregated, Lost: l.Lost, ByStage: map[string]uint64{}}
	for _, s := range l.ByStage {
		j.ByStage[s.Stage] = s.Lost
	}
	return j
}

// writeJSON writes one document and a newline in one Write.
func writeJSON(w io.Writer, doc any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false) // a file for jq, not for a web page
	return enc.Encode(doc)
}

func byReason(rs []agg.ReasonCount) map[string]uint64 {
	m := map[string]uint64{}
	for _, r := range rs {
		m[r.Reason.String()] = r.Count
	}
	return m
}

func byCause(cs []agg.CauseCount) map[string]uint64 {
	m := map[string]uint64{}
	for _, c := range cs {
		m[c.Cause.String()] = c.Count
	}
	return m
}

func dropJSON(r agg.DropRow, o LedgerOptions) ledgerDrop {
	j := ledgerDrop{NetNS: uint32(r.NetNS), Name: outside(o.Names.netns(r.NetNS)), Reason: r.Reason.String(),
		Src: jsonAddr(r.Src), Dst: jsonAddr(r.Dst), Proto: event.ProtoName(r.Proto), Count: r.Count}
	u := event.Tuple{Dport: r.Dport, Proto: r.Proto}
	if u.IsICMP() {
		typ, code, _ := u.ICMP()
		j.Type, j.Code = &typ, &code
	} else {
		j.Dport = &r.Dport
	}
	return j
}

func evictJSON(r agg.EvictionRow, o LedgerOptions) ledgerEvict {
	j := ledgerEvict{NetNS: uint32(r.NetNS), Name: outside(o.Names.netns(r.NetNS)), Victim: jsonAddr(r.Victim), Count: r.Count, Entry: tupleJSON(&r.Entry)}
	if r.Culprit.IsValid() {
		c := r.Culprit.String()
		j.Culprit, j.By = &c, tupleJSON(&r.By)
	}
	return j
}

func tupleJSON(t *event.Tuple) json.RawMessage {
	b := appendProto([]byte(`{"proto":"`), t.Proto)
	if t.IsZero() {
		return append(b, `"}`...)
	}
	return append(appendFields(append(b, `",`...), t), '}')
}

func jsonAddr(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func kernelJSON(k agg.KernelDelta, o LedgerOptions) ledgerKernel {
	name := o.Names.table(k.NetNS, k.Name)
	return ledgerKernel{NetNS: uint32(k.NetNS), Name: outside(name), Drop: k.Drop, EarlyDrop: k.EarlyDrop, InsertFailed: k.InsertFailed,
		ClashResolve: k.ClashResolve, ChainTooLong: k.ChainTooLong, Insert: k.Insert, Invalid: k.Invalid, Error: k.Error, Found: k.Found,
		CountBefore: k.CountBefore, CountAfter: k.CountAfter, Max: k.Max}
}
