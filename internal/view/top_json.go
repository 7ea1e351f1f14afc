package view

import (
	"io"
	"math"
	"net/netip"
	"strconv"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// The JSON of top, section 5 of the contract.
type (
	topDoc struct {
		From       stamp             `json:"from"`
		To         stamp             `json:"to"`
		Backend    outside           `json:"backend"`
		BestEffort bool              `json:"best_effort,omitempty"`
		By         string            `json:"by"`
		Sort       string            `json:"sort"`
		Table      []topTable        `json:"table"`
		Pools      []topPool         `json:"pools"`
		PoolSums   topPoolSums       `json:"pools_total"`
		Sources    []topRow          `json:"sources"`
		Other      topOther          `json:"other"`
		Total      topRates          `json:"total"`
		Drops      map[string]uint64 `json:"drops"`
		Destroys   map[string]uint64 `json:"destroys"`
		Findings   []findingDoc      `json:"findings"`
		Strange    uint64            `json:"destroys_of_unknown"`
		Unjudged   uint64            `json:"unjudged"`
		Loss       ledgerLoss        `json:"loss"`
	}
	topTable struct {
		NetNS      uint32  `json:"netns"`
		Name       outside `json:"netns_name,omitempty"`
		Entries    *uint64 `json:"entries"` // null when the kernel did not tell
		Max        *uint64 `json:"max"`
		Fill       *number `json:"fill"`
		Threshold  *string `json:"threshold"`
		Forecast   string  `json:"forecast"` // full, never, unknown: which null is meant
		TimeToFull *number `json:"time_to_full_s"`
		FullLow    *number `json:"time_to_full_low_s"`
		FullHigh   *number `json:"time_to_full_high_s"`
		Known      uint64  `json:"known"`
		Difference *int64  `json:"difference"`
		NewRate    number  `json:"new_rate"`
		Error      outside `json:"error,omitempty"`
	}
	topRow struct {
		Src    string  `json:"src,omitempty"`
		Prefix string  `json:"prefix,omitempty"`
		Dst    string  `json:"dst,omitempty"`
		Dport  *uint16 `json:"dport,omitempty"`
		Proto  string  `json:"proto,omitempty"`
		NetNS  uint32  `json:"netns"`
		Name   outside `json:"netns_name,omitempty"`
		Zone   uint16  `json:"zone,omitempty"`
		topSums
		topRates
		Dsts   uint64 `json:"distinct_dsts"`
		Dports uint64 `json:"distinct_dports"`
		Why    topWhy `json:"why"`
	}
	topOther struct {
		Rows   int    `json:"rows"`
		Folded uint64 `json:"folded"`
		topSums
	}
	// topSums has the fields of agg.Sums.
	topSums struct {
		New        uint64 `json:"new"`
		Live       uint64 `json:"live"`
		Destroyed  uint64 `json:"destroyed"`
		Drops      uint64 `json:"drops"`
		Evicted    uint64 `json:"evicted"`
		Evictor    uint64 `json:"evictor"`
		Answered   uint64 `json:"answered"`
		Refused    uint64 `json:"refused"`
		Unanswered uint64 `json:"unanswered"`
	}
	topRates struct {
		S1   number `json:"new_rate"`
		S10  number `json:"new_rate_10s"`
		M1   number `json:"new_rate_1m"`
		Peak number `json:"peak_rate_10ms"`
	}
	topWhy struct {
		Destroy map[string]uint64 `json:"destroy"`
		Drop    map[string]uint64 `json:"drop"`
		More    uint64            `json:"more,omitempty"`
	}
)

// number is a float with four digits behind the point at most.
type number float64

// MarshalJSON writes null for what JSON has no number for.
func (n number) MarshalJSON() ([]byte, error) {
	f := float64(n)
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return []byte("null"), nil
	}
	if r := math.Round(f*1e4) / 1e4; !math.IsInf(r, 0) {
		f = r
	}
	return strconv.AppendFloat(nil, f, 'f', -1, 64), nil
}

// TopOptions say how a picture of the table is written.
type TopOptions struct {
	Sort  agg.Column // what the rows were sorted by
	Names Names
}

// WriteTopJSON writes the picture as one JSON object and a newline.
func WriteTopJSON(w io.Writer, d *agg.TopDoc, o TopOptions) error {
	doc := topDoc{
		From: stamp(d.From), To: stamp(d.To), Backend: outside(d.Backend), BestEffort: d.BestEffort,
		By: d.By.String(), Sort: o.Sort.String(), Table: []topTable{}, Pools: []topPool{}, PoolSums: topPoolSums(d.PoolSums), Sources: []topRow{},
		Other: topOther{Rows: d.Hidden, Folded: d.Folded, topSums: topSums(d.Other)}, Total: ratesJSON(d.Total.Rates),
		Drops: byReason(d.Drops), Destroys: byCause(d.Totals.Destroy), Strange: d.Strange, Unjudged: d.Unjudged, Loss: lossJSON(d.Loss),
		Findings: []findingDoc{},
	}
	for i := range d.Findings {
		doc.Findings = append(doc.Findings, findingJSON(&d.Findings[i], FindingOptions{Names: o.Names}))
	}
	for i := range d.Table {
		doc.Table = append(doc.Table, tableJSON(&d.Table[i], o))
	}
	for i := range d.Pools {
		doc.Pools = append(doc.Pools, poolJSON(&d.Pools[i], o))
	}
	for i := range d.Rows {
		doc.Sources = append(doc.Sources, rowJSON(d.By, &d.Rows[i], o))
	}
	return writeJSON(w, doc)
}

func tableName(t *agg.TableState, n *Names) string { return n.table(t.NetNS, t.Name) }

// The words of a forecast.
const (
	forecastFull    = "full"
	forecastNever   = "never"
	forecastUnknown = "unknown"
)

func forecastWord(known bool, full *float64) string {
	switch {
	case !known:
		return forecastUnknown
	case full == nil:
		return forecastNever
	}
	return forecastFull
}

func tableJSON(t *agg.TableState, o TopOptions) topTable {
	j := topTable{NetNS: uint32(t.NetNS), Name: outside(tableName(t, &o.Names)), Forecast: forecastWord(t.Forecast, t.TimeToFull), Known: t.Known,
		NewRate: number(t.NewRate), Error: outside(t.Err)}
	if t.Forecast {
		j.TimeToFull, j.FullLow, j.FullHigh = (*number)(t.TimeToFull), (*number)(t.FullLow), (*number)(t.FullHigh)
	}
	if t.Err != "" {
		return j
	}
	fill, level := number(t.Fill()), t.Level.String()
	j.Entries, j.Max, j.Fill, j.Threshold = &t.Entries, &t.Max, &fill, &level
	if t.Seeded {
		diff := int64(t.Known - t.Entries)
		j.Difference = &diff
	}
	return j
}

func rowJSON(by agg.Dim, r *agg.TopRow, o TopOptions) topRow {
	j := topRow{NetNS: uint32(r.NetNS), Name: outside(o.Names.netns(r.NetNS)), Zone: r.Zone,
		topSums: topSums(r.Sums), topRates: ratesJSON(r.Rates), Dsts: r.DistinctDsts, Dports: r.DistinctDports,
		Why: topWhy{Destroy: map[string]uint64{}, Drop: map[string]uint64{}}}
	switch by {
	case agg.BySrc, agg.ByEdge:
		j.Src = jsonAddr(r.Src)
	case agg.ByPrefix:
		j.Prefix = prefixText(&r.Key)
	}
	if by == agg.ByDst || by == agg.ByEdge {
		j.Dst, j.Proto = jsonAddr(r.Dst), event.ProtoName(r.Proto)
		if u := (event.Tuple{Proto: r.Proto}); !u.IsICMP() {
			j.Dport = &r.Dport
		}
	}
	for _, c := range r.Why {
		switch {
		case c.More:
			j.Why.More += c.Count
		case c.Drop:
			j.Why.Drop[c.Reason.String()] += c.Count
		default:
			j.Why.Destroy[c.Cause.String()] += c.Count
		}
	}
	return j
}

func ratesJSON(r agg.Rates) topRates {
	return topRates{number(r.S1), number(r.S10), number(r.M1), number(r.Peak10ms)}
}

func prefixText(k *agg.Key) string {
	if !k.Src.IsValid() {
		return "?"
	}
	return netip.PrefixFrom(k.Src, int(k.Bits)).String()
}
