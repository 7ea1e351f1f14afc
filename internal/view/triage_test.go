package view

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/triage"
)

// testTriage is the incident of one source that fills the table of a namespace
// by UDP that nobody answers.
func testTriage() *triage.Doc {
	d := &triage.Doc{From: time.Date(2026, 11, 22, 19, 39, 36, 0, time.UTC), To: time.Date(2026, 11, 22, 19, 39, 41, 0, time.UTC), Backend: "fentry", Enter: triage.EnterName("blue"),
		Memory: triage.Memory{Object: 256, Buckets: 262_144}, Timeouts: map[string]int{"udp_timeout": 30, "tcp_timeout_established": 432_000},
		Drops:   []agg.ReasonCount{{Reason: event.TableFull, Count: 412}},
		Evicted: []agg.CauseCount{{Cause: event.EarlyDrop, Count: 3_071}},
		Loss:    testTop().Loss, Held: &agg.Holdings{}}
	add := func(n int, proto uint8, state event.TCPState, st event.Status, left time.Duration) {
		for range n {
			d.Held.Add(&event.Tuple{Proto: proto}, st, state, left)
		}
	}
	add(240_000, event.ProtoUDP, 0, 0, 24*time.Second)
	add(9_000, event.ProtoTCP, event.TCPEstablished, event.SeenReply|event.Assured|event.SrcNAT, 100*time.Hour)
	add(5_000, event.ProtoUDP, 0, event.SeenReply, 12*time.Second)
	add(279, event.ProtoTCP, event.TCPTimeWait, event.SeenReply|event.Assured, 60*time.Second)
	add(1, event.ProtoICMP, 0, 0, 20*time.Second)
	d.Table = testTop().Table[:6]
	d.Table[1].Entries, d.Table[1].Max, d.Table[1].Level = 254_280, 262_144, agg.LevelCritical
	d.Table[1].TimeToFull, d.Table[1].FullLow, d.Table[1].FullHigh = seconds(0.4), seconds(0.3), seconds(2)
	d.Focus = d.Table[1]
	row := func(src string, n, live uint64) agg.TopRow {
		return agg.TopRow{Key: agg.Key{NetNS: d.Focus.NetNS, Src: addr(src)}, Sums: agg.Sums{New: n, Live: live}, Rates: agg.Rates{S1: float64(n) / 5}}
	}
	d.Arrivals = agg.Top{Rows: []agg.TopRow{row("10.0.0.7", 96_000, 239_000), row("10.0.0.21", 900, 700)}, Total: row("0.0.0.0", 98_000, 254_280)}
	d.Arrivals.Total.Peak10ms = 60_200
	d.Holders = agg.Top{Rows: []agg.TopRow{row("10.0.0.7", 96_000, 239_000), row("2001:db8:1234:5678:9abc:def0:1234:5678", 9, 1_800), row("10.0.0.21", 900, 700)}, Total: d.Arrivals.Total}
	d.Prefixes = agg.Top{By: agg.ByPrefix, Rows: []agg.TopRow{row("10.0.0.0", 97_000, 240_000)}}
	d.Prefixes.Rows[0].Bits = 24
	d.Targets = agg.Top{By: agg.ByDst, Rows: []agg.TopRow{{Key: agg.Key{NetNS: d.Focus.NetNS, Dst: addr("192.0.2.53"), Dport: 53, Proto: event.ProtoUDP}, Sums: agg.Sums{New: 96_000, Live: 239_000}, DistinctDsts: 1}}}
	d.Judge()
	return d
}

func TestTriageText(t *testing.T) {
	for name, d := range map[string]*triage.Doc{"triage": testTriage(), "triage.color": testTriage(), "triage.empty": {}} {
		if name == "triage.empty" {
			d.Judge()
		}
		var out bytes.Buffer
		if err := WriteTriageText(&out, d, TriageOptions{Color: name == "triage.color", Names: testNames}); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".txt", out.Bytes())
		text := sgr.ReplaceAllString(out.String(), "")
		harmless(t, []byte(text))
		for l := range strings.Lines(text) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(l, "\n")); n > 80 && !isCommand(d, l) {
				t.Errorf("%s: %d cells: %s", name, n, l)
			}
		}
		for _, a := range d.Actions {
			if !strings.Contains("\n"+text, "\n"+a.Command+"\n") {
				t.Errorf("%s: not on a line of its own: %s", name, a.Command)
			}
		}
	}
	if err := WriteTriageText(brokenPipe{}, testTriage(), TriageOptions{}); !errors.Is(err, errBroken) {
		t.Errorf("broken pipe: %v", err)
	}
}

func isCommand(d *triage.Doc, line string) bool {
	for _, a := range d.Actions {
		if strings.Contains(line, a.Command) || a.Undo != "" && strings.Contains(line, a.Undo) {
			return true
		}
	}
	return false
}

func TestTriageJSON(t *testing.T) {
	var out bytes.Buffer
	if err := WriteTriageJSON(&out, testTriage(), TriageOptions{Names: testNames}); err != nil {
		t.Fatal(err)
	}
	golden(t, "triage.json", out.Bytes())
	harmless(t, out.Bytes())
	doc := checkKeys(t, "triage", decode(t, out.Bytes()), "from", "to", "backend", "table", "focus", "memory", "sources", "targets", "prefixes", "arrivals", "states", "nat", "drops",
		"evicted", "findings", "actions", "loss")
	checkKeys(t, "states", doc["states"].([]any)[0], "proto", "replied", "assured", "count", "left_s")
	checkKeys(t, "findings", doc["findings"].([]any)[0], "question", "answer", "verdict")
	checkKeys(t, "actions", doc["actions"].([]any)[1], "what", "command", "caution", "undo")
	if m := checkKeys(t, "memory", doc["memory"], "entry_bytes", "bytes", "bytes_full"); m["bytes"] != 254_280.0*384+262_144*8 {
		t.Errorf("memory %v", m)
	}
	out.Reset()
	if err := WriteTriageJSON(&out, &triage.Doc{HeldErr: "no peek"}, TriageOptions{}); err != nil || !strings.Contains(out.String(), `"nat":null`) || !strings.Contains(out.String(), `"states":[]`) {
		t.Errorf("the empty document: %v, %s", err, out.String())
	}
	if err := WriteTriageJSON(brokenPipe{}, testTriage(), TriageOptions{}); !errors.Is(err, errBroken) {
		t.Errorf("broken pipe: %v", err)
	}
}

func TestTriageHostile(t *testing.T) {
	for _, bad := range []string{hostile, "\x1b]52;c;cm0gLXJmIC8=\a", "\u202e\u2066abc", strings.Repeat("\x1b[2J", 1024), strings.Repeat("x", 4096), "\u65e5\u672c\u0301\U0001f4a9", "\xff\xfe", "'; reboot #"} {
		for _, judged := range []bool{true, false} { // whoever fills in sentences
			d := testTriage()
			d.Backend, d.Focus.Name, d.Focus.Err, d.HeldErr, d.Held = bad, bad, bad, bad, nil
			d.Enter = triage.EnterName(bad)
			for i := range d.Table {
				d.Table[i].Name, d.Table[i].Err = bad, strings.Repeat(bad, i%2)
			}
			d.Judge()
			if !judged {
				d.Findings = []triage.Finding{{Question: bad, Answer: bad, Verdict: triage.Verdict(bad)}}
				d.Actions = []triage.Action{{What: bad, Command: bad, Caution: bad, Undo: bad}}
			}
			o := TriageOptions{Names: Names{NetNS: func(event.NetNS) string { return bad }}}
			var text, doc bytes.Buffer
			if err := errors.Join(WriteTriageText(&text, d, o), WriteTriageJSON(&doc, d, o)); err != nil {
				t.Fatal(err)
			}
			harmless(t, text.Bytes())
			harmless(t, doc.Bytes())
			if m := decode(t, doc.Bytes()); judged && len(m["actions"].([]any)) == 0 {
				t.Error("no actions")
			}
		}
	}
}

func TestWrap(t *testing.T) {
	for in, want := range map[string]string{"": "", "a b c": "a b|c", "abcdefgh i": "abc|def|gh|i", "  ab  c ": "ab|c", "abc abc": "abc|abc"} {
		if got := strings.Join(wrap(in, 3), "|"); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
