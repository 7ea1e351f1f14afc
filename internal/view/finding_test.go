package view

import (
	"bytes"
	"encoding/json"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ctsight/ctsight/internal/agg"
)

// testFindings have every field, every form of a source, and what an attacker
// would like to be printed.
func testFindings() []agg.Finding {
	at := time.Date(2026, 11, 22, 19, 38, 1, 5, time.UTC)
	return []agg.Finding{
		{ID: "scan-1", Class: "scan", State: "confirmed", Severity: "page", NetNS: ownNS, Source: netip.MustParsePrefix("10.0.0.7/32"),
			First: at, Last: at.Add(time.Minute), Why: "10.0.0.7 tried 512 ports of 10.0.0.1 in 2 s", Statistic: 1e-9, Threshold: 0.00001},
		{ID: "scan-2", Class: "distributed_scan", State: "suspect", Severity: "feed", NetNS: 4026532000,
			Source: netip.MustParsePrefix("2001:db8:7::/64"), First: at, Last: at, Why: hostile, Statistic: math.Inf(1), Threshold: math.NaN()},
		{ID: "fill-3", Class: "table_filling", State: "cleared", Severity: "info", NetNS: hostileNS, First: at, Last: at, Why: "full in 40 s", Statistic: 0.85, Threshold: 0.7},
		{ID: "out-4", Class: "upstream_outage", State: "suspect", Severity: "info", Source: netip.MustParsePrefix("192.0.2.0/24"), First: at, Last: at},
	}
}

func TestFindingJSON(t *testing.T) {
	var out bytes.Buffer
	for _, f := range testFindings() {
		from := out.Len()
		if err := WriteFindingJSON(&out, &f, FindingOptions{Names: testNames}); err != nil {
			t.Fatal(err)
		}
		if doc := decode(t, out.Bytes()[from:]); doc["source"] != nil && doc["prefix"] != nil {
			t.Errorf("%s has a source and a prefix", f.ID)
		}
	}
	harmless(t, out.Bytes())
	if n := bytes.Count(out.Bytes(), []byte{'\n'}); n != len(testFindings()) {
		t.Errorf("%d lines for %d findings", n, len(testFindings()))
	}
	golden(t, "findings.json", out.Bytes())
}

// The table alone is what top has under the same name.
func TestTableJSON(t *testing.T) {
	full := 60.0
	tables := []agg.TableState{
		{NetNS: ownNS, Entries: 90, Max: 100, Level: agg.LevelAction, Known: 90, Seeded: true, Forecast: true, TimeToFull: &full, NewRate: 7},
		{NetNS: hostileNS, Err: "permission denied"},
	}
	var top, table bytes.Buffer
	if err := WriteTopJSON(&top, &agg.TopDoc{Backend: "fentry", Table: tables}, TopOptions{Names: testNames}); err != nil {
		t.Fatal(err)
	}
	s := agg.Status{Backend: "fentry", BestEffort: true, Start: time.Unix(1, 0), At: time.Unix(2, 0), Tables: tables}
	if err := WriteTableJSON(&table, &s, TopOptions{Names: testNames}); err != nil {
		t.Fatal(err)
	}
	want, got := decode(t, top.Bytes()), decode(t, table.Bytes())
	if diff := cmp.Diff(want["table"], got["table"]); diff != "" || len(got["table"].([]any)) != 2 {
		t.Errorf("table (-top +table):\n%s", diff)
	}
	delete(got, "table")
	rest := map[string]any{"from": "1970-01-01T00:00:01.000000000Z", "to": "1970-01-01T00:00:02.000000000Z", "backend": "fentry", "best_effort": true}
	if diff := cmp.Diff(rest, got); diff != "" {
		t.Error(diff)
	}
	table.Reset()
	if err := WriteTableJSON(&table, &agg.Status{}, TopOptions{}); err != nil || !json.Valid(table.Bytes()) || !bytes.Contains(table.Bytes(), []byte(`"table":[]`)) {
		t.Errorf("without tables: %v, %s", err, table.Bytes())
	}
}
