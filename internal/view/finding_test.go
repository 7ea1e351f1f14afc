package view

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// testFindings have every field, every form of a source, and what an attacker
// would like to be printed.
func testFindings() []agg.Finding {
	at := time.Date(2026, 11, 22, 19, 38, 1, 5, time.UTC)
	return []agg.Finding{
		{ID: "scan-1", Class: "scan", Shape: "vertical", State: "confirmed", Severity: "page", NetNS: ownNS, Zone: 7, Source: netip.MustParsePrefix("10.0.0.7/32"),
			Target: agg.Target{Addr: addr("10.0.0.1"), Proto: event.ProtoTCP},
			Time:   at.Add(time.Minute), First: at, Last: at.Add(58 * time.Second), Raised: 2,
			Evidence: agg.Evidence{Contacts: 530, Attempts: 600, Answered: 3, Refused: 512, Unanswered: 9, HalfOpen: 2, Invalid: 1, Pending: 1, Excused: 2, Dsts: 1, Dports: 524,
				Used: []string{"destroy", "peek"},
				Samples: []agg.Contacted{{At: at, Orig: tuple(event.ProtoTCP, "10.0.0.7", "10.0.0.1", 40000, 22), Outcome: "refused"},
					{At: at.Add(time.Second), Orig: echo(event.ProtoICMP, "10.0.0.7", "10.0.0.1", 8, 7), Outcome: "unanswered"},
					{At: at.Add(2 * time.Second), Orig: tuple(event.ProtoTCP, "2001:db8::7", "2001:db8::1", 40001, 443), Outcome: "half_open"}}},
			Statistic: 1e-9, Threshold: 0.00001, Why: "10.0.0.7 tried 512 ports of 10.0.0.1 in 2 s", WhyNotBenign: "3 of 530 contacts were answered",
			Expires: at.Add(time.Hour), Loss: agg.Loss{Seen: 9000, Delivered: 8000, Aggregated: 990, Lost: 10}, Recording: "/var/lib/ctsight/flight/kept/20261123T031407Z-scan-1"},
		{ID: "scan-2", Class: "distributed_scan", Shape: hostile, State: "suspect", Severity: "feed", NetNS: 4026532000,
			Source: netip.MustParsePrefix("2001:db8:7::/64"), Target: agg.Target{Proto: event.ProtoTCP, Port: 23},
			Time: at, First: at, Last: at, Why: hostile, WhyNotBenign: hostile, Suppress: hostile, Recording: hostile, Statistic: math.Inf(1), Threshold: math.NaN(), Spoofable: true,
			Evidence: agg.Evidence{Sources: 4000, Estimated: true, Used: []string{hostile}, Items: []string{hostile, "10.0.0.0:1"},
				Figures: []agg.Figure{{Name: "distinct_nets_24", Value: 3e9}, {Name: hostile, Value: math.NaN()}, {Name: "share", Value: 1.0 / 3}},
				Samples: []agg.Contacted{{At: at, Outcome: hostile}, {At: at, Orig: event.Tuple{Src: addr("fe80::1").WithZone(hostile), Dst: addr("fe80::2").WithZone(hostile), Proto: 250}}}}},
		{ID: "fill-3", Class: "table_filling", State: "cleared", Severity: "info", NetNS: hostileNS, Time: at, First: at, Last: at, Why: "full in 40 s", Statistic: 0.85, Threshold: 0.7},
		{ID: "out-4", Class: "upstream_outage", State: "suspect", Severity: "info", Source: netip.MustParsePrefix("192.0.2.0/24"), First: at, Last: at},
		{ID: hostile, Class: hostile, State: hostile, Severity: hostile, Source: netip.MustParsePrefix("::ffff:192.0.2.1/128"), Time: at, First: at, Last: at,
			Target: agg.Target{Addr: addr("fe80::1").WithZone(hostile), Port: 1}},
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

// Contract, section 6, word for word.
func TestFindingHasAllOfTheContract(t *testing.T) {
	var out bytes.Buffer
	f := testFindings()[0]
	if err := WriteFindingJSON(&out, &f, FindingOptions{Names: Names{NetNS: func(event.NetNS) string { return "gw" }}}); err != nil {
		t.Fatal(err)
	}
	doc := decode(t, out.Bytes())
	for _, key := range strings.Fields("id time class shape state severity source target netns netns_name zone first last evidence statistic threshold " +
		"why why_not_benign spoofable suppress expires loss") {
		if _, ok := doc[key]; !ok {
			t.Errorf("no %s in %s", key, out.Bytes())
		}
	}
	if n := len(doc["evidence"].(map[string]any)["samples"].([]any)); n != 3 {
		t.Errorf("%d samples", n)
	}
}

func TestFindingText(t *testing.T) {
	var lines, whole bytes.Buffer
	for _, color := range []bool{false, true} {
		w := NewFindingWriter(&lines, FindingOptions{Own: ownNS, Color: color, Names: testNames})
		for _, f := range testFindings() {
			if err := errors.Join(w.Write(&f), WriteFindingWhole(&whole, &f, FindingOptions{Own: ownNS, Color: color, Names: testNames})); err != nil {
				t.Fatal(err)
			}
		}
		if color { // or nothing is
			break
		}
		harmless(t, lines.Bytes())
		harmless(t, whole.Bytes())
		if n := bytes.Count(lines.Bytes(), []byte{'\n'}); n != len(testFindings()) {
			t.Errorf("%d lines for %d findings", n, len(testFindings()))
		}
		golden(t, "findings.text", lines.Bytes())
		golden(t, "findings.whole", whole.Bytes())
	}
	var out bytes.Buffer
	f := testFindings()[0]
	if err := NewFindingWriter(&out, FindingOptions{JSON: true}).Write(&f); err != nil || !json.Valid(out.Bytes()) {
		t.Errorf("JSON: %v, %s", err, out.Bytes())
	}
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
