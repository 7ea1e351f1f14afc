package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"
)

// ofCapture is what a command says of captures, as JSON.
func ofCapture(t *testing.T, args ...string) map[string]any {
	t.Helper()
	r := runCmd(t, ctsight(t, append(args, "-o", "json", "--log.level", "error")...))
	if r.code != exitDone || r.stderr != "" {
		t.Fatalf("%q: %+v", args, r)
	}
	var out map[string]any
	must(t, json.Unmarshal([]byte(r.stdout), &out))
	return out
}

func number(t *testing.T, doc any, path ...string) float64 {
	t.Helper()
	for _, p := range path {
		m, ok := doc.(map[string]any)
		if !ok {
			t.Fatalf("no %v in %v", path, doc)
		}
		doc = m[p]
	}
	n, ok := doc.(float64)
	if !ok {
		t.Fatalf("%v is %v", path, doc)
	}
	return n
}

// list is the rows, whatever they are by.
func list(t *testing.T, top map[string]any) []any {
	t.Helper()
	for _, name := range []string{"sources", "destinations", "edges", "prefixes", "namespaces"} {
		if rows, ok := top[name].([]any); ok {
			return rows
		}
	}
	t.Fatalf("no rows in %v", top)
	return nil
}

// rows adds up a column of all rows.
func rows(t *testing.T, top map[string]any, column string) (n float64) {
	t.Helper()
	for _, row := range list(t, top) {
		n += number(t, row, column)
	}
	return n + number(t, top, "other", column)
}

// top, drops and triage of a recording, of parts of one, and of several.
func TestFromOfAll(t *testing.T) {
	edge, other := recording(t, "edge", 0), recording(t, "other", time.Hour)
	top := ofCapture(t, "top", "--from", edge)
	if n := rows(t, top, "new"); n != 50 {
		t.Errorf("%v new", n)
	}
	if n := rows(t, top, "live"); n != 50 {
		t.Errorf("%v live", n)
	}
	table, _ := top["table"].([]any)
	if len(table) != 1 || number(t, table[0], "max") != 50 {
		t.Errorf("table %v", top["table"])
	}
	drops := ofCapture(t, "drops", "--from", edge)
	if n := number(t, drops, "totals", "drop", "table_full"); n != 24 {
		t.Errorf("%v lost", n)
	}
	text := runCmd(t, ctsight(t, "triage", "--from", edge, "--log.level", "error"))
	if text.code != exitDone || !strings.Contains(text.stdout, "50 of 50") {
		t.Errorf("triage: %+v", text)
	}
	// What was there at a part's beginning counts as live, and not as new: of 50 a
	// hundredth of a second apart 30 came before.
	for _, part := range [][]string{{"--since", "+300ms"}, {"--since", "2026-11-22T19:38:00.3Z"}} {
		top := ofCapture(t, append([]string{"top", "--from", edge}, part...)...)
		if n, live := rows(t, top, "new"), rows(t, top, "live"); n != 20 || live != 50 {
			t.Errorf("%v: %v new, %v live", part, n, live)
		}
	}
	if n := rows(t, ofCapture(t, "top", "--from", edge, "--until", "+200ms"), "new"); n != 20 {
		t.Errorf("until: %v", n)
	}
	if n := rows(t, ofCapture(t, "top", "--from", edge, "--for", "200ms"), "new"); n != 20 {
		t.Errorf("for: %v", n)
	}
	if n := rows(t, ofCapture(t, "top", "--from", edge, "--from", other), "new"); n != 100 {
		t.Errorf("both: %v", n)
	}
	if n := rows(t, ofCapture(t, "top", "--from", edge, "dst 10.9.0.2"), "new"); n != 0 {
		t.Errorf("with a filter: %v", n)
	}
	lines := runCmd(t, ctsight(t, "trace", "--from", other, "--from", edge, "--log.level", "error"))
	if n := strings.Count(lines.stdout, "\n"); n != 2*71 || !strings.Contains(lines.stdout, "edge:") || !strings.Contains(lines.stdout, "other:") ||
		strings.LastIndex(lines.stdout, "edge:") > strings.Index(lines.stdout, "other:") {
		t.Errorf("%d lines of both, edge is first: %.400s", n, lines.stdout)
	}
	if n := strings.Count(runCmd(t, ctsight(t, "trace", "--from", edge, "--since", "+495ms", "drop", "--log.level", "error")).stdout, "\n"); n != 20 {
		t.Errorf("%d lost since", n)
	}
}

// Of text the same, as far as it tells; standard input has no end that could be known.
func TestFromOfText(t *testing.T) {
	path := file(t, "a.ctr.tsv", scanCapture())
	top := ofCapture(t, "top", "--from", path, "--by", "dst")
	if n := rows(t, top, "new"); n != 40 || top["backend"] != "text" {
		t.Errorf("%v new, %v", n, top["backend"])
	}
	if n := rows(t, ofCapture(t, "top", "--from", path, "--since", "2023-11-14T22:13:20.03Z"), "new"); n != 10 {
		t.Errorf("since: %v", n)
	}
	ofCapture(t, "drops", "--from", path)
	oneError(t, runCmd(t, ctsight(t, "triage", "--from", path, "--log.level", "error")), exitFailed, "ctsight record")
	for _, when := range []string{"+1s", "-1s", "22:13"} {
		oneError(t, runCmd(t, ctsight(t, "top", "--from", path, "--since", when)), exitUsage, "--since", "2006-01-02T15:04:05Z")
	}
	b, err := os.ReadFile(recording(t, "gw", 0))
	must(t, err)
	cmd := ctsight(t, "top", "--from", "-", "-o", "json", "--since", "2026-11-22T19:38:00.3Z", "--log.level", "error")
	cmd.Stdin = bytes.NewReader(b)
	if r := runCmd(t, cmd); r.code != exitDone || !strings.Contains(r.stdout, `"new":20`) {
		t.Errorf("of a stream: %+v", r)
	}
}

// What does not fit together is refused, in one line that says what would.
func TestFromRefused(t *testing.T) {
	edge := recording(t, "edge", 0)
	for _, tc := range []struct {
		args  []string
		words []string
	}{
		{[]string{"top", "--once", "--since", "-5m"}, []string{"--from"}},
		{[]string{"drops", "--from", edge, "--from", edge}, []string{"one capture"}},
		{[]string{"triage", "--from", edge, "--from", edge}, []string{"one capture"}},
		{[]string{"explain", "x", "--from", edge, "--from", edge}, []string{"one capture"}},
		{[]string{"top", "--from", edge, "--since", "yesterday"}, []string{"--since", "15:04:05"}},
		{[]string{"top", "--from", edge, "--since", "+2s", "--until", "+1s"}, []string{"--until", "not after"}},
		{[]string{"top", "--from", edge, "--since", "+1h"}, []string{"--since", "ends at 2026-11-22T19:38:00"}},
		{[]string{"top", "--from", edge, "--until", "2026-11-22T19:37:00Z"}, []string{"--until", "begins at 2026-11-22T19:38:00Z"}},
		{[]string{"drops", "--from", edge, "--invalid"}, []string{"--invalid"}},
		{[]string{"triage", "--from", edge, "--netns", "nowhere"}, []string{"nowhere"}},
		{[]string{"top", "--from", edge, "nonsense"}, nil},
	} {
		oneError(t, runCmd(t, ctsight(t, append(tc.args, "--log.level", "error")...)), exitUsage, tc.words...)
	}
	oneError(t, runCmd(t, ctsight(t, "top", "--from", "/nonexistent")), exitFailed, "no such file")
}
