package view

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

func u64(n uint64) *uint64 { return &n }

// testDoc is a ledger made by agg from events, with kernel counters that agree
// in one namespace, differ in another, and one at rest.
func testDoc() *agg.Doc {
	l := agg.NewLedger(agg.LedgerConfig{MaxRows: 8})
	for _, e := range testEvents() {
		l.Add(&e)
	}
	full := event.Event{Kind: event.Drop, Reason: event.TableFull, NetNS: ownNS, Orig: tuple(event.ProtoUDP, "10.0.0.7", "10.0.0.53", 1, 53), Sample: 411}
	l.Add(&full)
	full6 := event.Event{Kind: event.Drop, Reason: event.ChainTooLong, NetNS: hostileNS, Orig: tuple(event.ProtoTCP, "2001:db8::7", "2001:db8::53", 1, 443)}
	for i := range 6 {
		full6.Orig.Dport = uint16(i)
		l.Add(&full6)
	}
	own := agg.Exact{NetNS: ownNS, Traced: agg.Counters(agg.CounterDrop, agg.CounterEarlyDrop, agg.CounterInsertFailed, agg.CounterEntries), New: 6}
	own.Reasons[event.TableFull], own.Reasons[event.NATExhausted] = 412, 1
	own.Causes[event.EarlyDrop], own.Causes[event.TimeoutGC] = 2, 6
	ownDelta := agg.KernelDelta{NetNS: ownNS, Drop: u64(413), EarlyDrop: u64(2), InsertFailed: u64(1), ClashResolve: u64(1), Insert: u64(0),
		Invalid: u64(1), Error: u64(0), CountBefore: u64(1000), CountAfter: u64(999), Max: u64(1024)}
	other := agg.Exact{NetNS: hostileNS, Traced: agg.Counters(agg.CounterDrop, agg.CounterChainTooLong)}
	other.Reasons[event.ChainTooLong] = 6
	otherDelta := agg.KernelDelta{NetNS: hostileNS, Name: hostile, Drop: u64(2), ChainTooLong: u64(6)}
	rest := agg.KernelDelta{NetNS: 4026532000, Drop: u64(0), CountBefore: u64(0), CountAfter: u64(0), Max: u64(0)}
	return &agg.Doc{
		From: time.Date(2026, 11, 22, 19, 38, 1, 0, time.UTC), To: time.Date(2026, 11, 22, 19, 38, 11, 5, time.UTC),
		Backend: "fentry", Snapshot: l.Snapshot(),
		Kernel:  []agg.KernelDelta{ownDelta, otherDelta, rest},
		Balance: slices.Concat(agg.Balance(own, ownDelta), agg.Balance(other, otherDelta), agg.Balance(agg.Exact{}, rest)),
		Loss: agg.Loss{Seen: 1000, Delivered: 900, Aggregated: 88, Lost: 10,
			ByStage: []agg.StageLoss{{Stage: "ring", Lost: 7}, {Stage: "recursion", Lost: 3}}},
	}
}

func TestLedgerText(t *testing.T) {
	for name, o := range map[string]LedgerOptions{
		"ledger.txt":         {Names: testNames},
		"ledger.ruleset.txt": {Names: testNames, Ruleset: true, Top: 2},
	} {
		var out bytes.Buffer
		if err := WriteLedgerText(&out, testDoc(), o); err != nil {
			t.Fatal(err)
		}
		golden(t, name, out.Bytes())
		harmless(t, out.Bytes())
		if got := strings.Contains(out.String(), "ruleset_new"); got != o.Ruleset {
			t.Errorf("%s: ruleset drops listed: %v", name, got)
		}
	}
	var out bytes.Buffer
	if err := WriteLedgerText(&out, testDoc(), LedgerOptions{Color: true}); err != nil {
		t.Fatal(err)
	}
	golden(t, "ledger.color.txt", out.Bytes())
}

func TestLedgerEmpty(t *testing.T) {
	var out bytes.Buffer
	if err := WriteLedgerText(&out, &agg.Doc{}, LedgerOptions{}); err != nil {
		t.Fatal(err)
	}
	golden(t, "ledger.empty.txt", out.Bytes())
	out.Reset()
	if err := WriteLedgerJSON(&out, &agg.Doc{}, LedgerOptions{}); err != nil {
		t.Fatal(err)
	}
	golden(t, "ledger.empty.json", out.Bytes())
	if strings.Contains(out.String(), "null") {
		t.Error("an empty list must be [] and an empty object {}")
	}
}

// checkKeys fails if m lacks one of the fields of the contract.
func checkKeys(t *testing.T, where string, v any, keys ...string) map[string]any {
	t.Helper()
	m, ok := v.(map[string]any)
	if !ok {
		t.Fatalf("%s is %T", where, v)
	}
	for _, k := range keys {
		if _, ok := m[k]; !ok {
			t.Errorf("%s has no %q", where, k)
		}
	}
	return m
}

func TestLedgerJSON(t *testing.T) {
	var out bytes.Buffer
	if err := WriteLedgerJSON(&out, testDoc(), LedgerOptions{Names: testNames}); err != nil {
		t.Fatal(err)
	}
	golden(t, "ledger.json", out.Bytes())
	harmless(t, out.Bytes())
	doc := checkKeys(t, "ledger", decode(t, out.Bytes()), "from", "to", "backend", "drops", "totals", "kernel", "balance", "loss")
	if doc["from"] != "2026-11-22T19:38:01.000000000Z" || doc["to"] != "2026-11-22T19:38:11.000000005Z" {
		t.Errorf("from %v to %v", doc["from"], doc["to"])
	}
	first := checkKeys(t, "drops[0]", doc["drops"].([]any)[0], "netns", "reason", "src", "dst", "proto", "dport", "count")
	if first["reason"] != "table_full" || first["count"] != 412.0 || first["proto"] != "udp" {
		t.Errorf("drops[0]: %v", first)
	}
	totals := checkKeys(t, "totals", doc["totals"], "drop", "destroy", "new")
	checkKeys(t, "totals.drop", totals["drop"], "table_full", "nat_exhausted", "ruleset_new", "123")
	checkKeys(t, "totals.destroy", totals["destroy"], "early_drop", "timeout_gc", "unknown", "99")
	for _, k := range doc["kernel"].([]any) {
		m := checkKeys(t, "kernel", k, "netns", "drop", "early_drop", "insert_failed", "clash_resolve", "chaintoolong", "invalid", "error", "count_before", "count_after", "max")
		if m["netns"] == float64(hostileNS) && m["early_drop"] != nil {
			t.Error("a counter the kernel does not offer must be null")
		}
	}
	counters := map[string]any{}
	for _, r := range doc["balance"].([]any) {
		m := checkKeys(t, "balance", r, "netns", "counter", "traced", "kernel", "difference")
		if m["netns"] == float64(hostileNS) {
			counters[m["counter"].(string)] = m["difference"]
		}
	}
	if counters["drop"] != -2.0 || counters["chaintoolong"] != 0.0 || counters["entries"] != nil {
		t.Errorf("differences %v", counters)
	}
	loss := checkKeys(t, "loss", doc["loss"], "seen", "delivered", "aggregated", "lost", "by_stage")
	checkKeys(t, "by_stage", loss["by_stage"], "ring", "recursion")
	checkICMPRow(t, doc["drops"].([]any))
}

// checkICMPRow looks for the row that has type and code in place of a port.
func checkICMPRow(t *testing.T, rows []any) {
	t.Helper()
	for _, r := range rows {
		m := r.(map[string]any)
		if m["proto"] != "icmp" {
			continue
		}
		if _, ok := m["dport"]; ok || m["type"] != 8.0 || m["code"] != 0.0 {
			t.Errorf("ICMP row %v", m)
		}
		return
	}
}

func testDoctor() *Doctor {
	return &Doctor{
		Backend: "kprobe", CanTrace: true, Kernel: "6.12.0-1-amd64 x86_64", Lockdown: "integrity",
		BTF:        BTF{VMLinux: true, Modules: []string{"nf_conntrack", "nf_nat"}, Missing: []string{"nf_tables"}},
		Privileges: []Privilege{{"CAP_BPF", true, "loading programs"}, {"CAP_PERFMON", false, "attaching to functions"}},
		Remedy:     "run as root, or: setcap cap_bpf,cap_perfmon,cap_net_admin+ep ctsight",
		Checks:     []Check{{"new entries", 5, 5}, {"destroys", 5, 4}},
		Hooks: []HookStatus{
			{Symbol: "__nf_conntrack_confirm", Programs: []string{"confirm_exit"}, Backend: "fentry", Lost: "everything"},
			{Symbol: "nf_ct_resolve_clash", Programs: []string{"clash_entry", "clash_exit"}, State: HookFailed, Answer: "operation not permitted\x1b[2J", Lost: "clashes are confirm_unknown"},
			{Symbol: "nf_ct_kill_acct", Programs: []string{"kill_entry"}, State: HookMissing, Lost: "cause tcp_rst_unreplied is unknown"},
			{Symbol: "nf_conntrack_in", Programs: []string{"in_exit"}, State: HookOff, Lost: "invalid packets (ask with --invalid)"},
			{Symbol: "nf_conntrack_free", Programs: []string{"free_entry"}, Backend: "kprobe", Missed: 3},
		},
		NetNS:    []NetNSTable{{ownNS, "", 123, 262144}, {hostileNS, hostile, 7, 0}},
		Memory:   Memory{Rings: 2 << 20, Maps: 300 << 10, User: 3 << 30},
		Bounds:   []Setting{{"sources", "1000000", "the rest is summed in other"}},
		Sysctls:  []Setting{{"net.netfilter.nf_conntrack_max", "262144", ""}, {"net.netfilter.nf_conntrack_events", "2", "entries made before a listener give no destroy event"}},
		Warnings: []string{"nf_conntrack is not loaded in netns \u202eeulb"},
	}
}

func TestDoctor(t *testing.T) {
	var out bytes.Buffer
	if err := WriteDoctorText(&out, testDoctor(), false); err != nil {
		t.Fatal(err)
	}
	golden(t, "doctor.txt", out.Bytes())
	harmless(t, out.Bytes())
	out.Reset()
	if err := WriteDoctorText(&out, testDoctor(), true); err != nil {
		t.Fatal(err)
	}
	golden(t, "doctor.color.txt", out.Bytes())
	out.Reset()
	if err := WriteDoctorJSON(&out, testDoctor()); err != nil {
		t.Fatal(err)
	}
	golden(t, "doctor.json", out.Bytes())
	harmless(t, out.Bytes())
	doc := checkKeys(t, "doctor", decode(t, out.Bytes()), "backend", "kernel", "lockdown", "btf", "privileges", "remedy", "hooks", "netns", "memory", "bounds", "sysctls")
	checkKeys(t, "hook", doc["hooks"].([]any)[1], "symbol", "programs", "status", "answer", "lost_without")
	out.Reset()
	if err := WriteDoctorJSON(&out, &Doctor{}); err != nil || strings.Contains(out.String(), "null") {
		t.Errorf("the empty report: %v, %s", err, out.String())
	}
	if err := WriteDoctorText(io.Discard, &Doctor{}, false); err != nil {
		t.Error(err)
	}
}

func TestReasons(t *testing.T) {
	var out bytes.Buffer
	if err := WriteReasonsText(&out, false); err != nil {
		t.Fatal(err)
	}
	golden(t, "reasons.txt", out.Bytes())
	for _, r := range event.Reasons {
		if n := strings.Count(out.String(), "\n  "+r.Name+" "); n < 1 {
			t.Errorf("no line for %s", r.Name)
		}
	}
	for _, c := range event.Causes {
		if !strings.Contains(out.String(), "\n  "+c.Name+" ") {
			t.Errorf("no line for %s", c.Name)
		}
	}
	out.Reset()
	if err := WriteReasonsJSON(&out); err != nil {
		t.Fatal(err)
	}
	golden(t, "reasons.json", out.Bytes())
	decode(t, out.Bytes())
}

func TestWriteErrors(t *testing.T) {
	for name, err := range map[string]error{
		"ledger text":  WriteLedgerText(brokenPipe{}, testDoc(), LedgerOptions{}),
		"ledger JSON":  WriteLedgerJSON(brokenPipe{}, testDoc(), LedgerOptions{}),
		"doctor text":  WriteDoctorText(brokenPipe{}, testDoctor(), false),
		"doctor JSON":  WriteDoctorJSON(brokenPipe{}, testDoctor()),
		"reasons text": WriteReasonsText(brokenPipe{}, false),
		"reasons JSON": WriteReasonsJSON(brokenPipe{}),
	} {
		if !errors.Is(err, errBroken) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
