package view

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/plan"
	"github.com/ctsight/ctsight/internal/triage"
)

// testPlan is of a gateway with much DNS, and what shorter timeouts would do.
func testPlan() *plan.Doc {
	d := &plan.Doc{From: time.Date(2026, 11, 22, 19, 38, 0, 0, time.UTC), To: time.Date(2026, 11, 22, 19, 43, 0, 0, time.UTC), Source: "fentry", NetNS: 4026532000,
		Kernel: plan.Kernel{Max: 65_536, Buckets: 65_536, Timeouts: plan.DefaultTimeouts()}, Memory: triage.Memory{Object: 256, Buckets: 65_536},
		Classes: []plan.Cost{
			{Class: plan.UDPAnswered, Arrivals: 510_000, Rate: 1700, Peak1s: 2900, Peak10ms: 214, Mean: 55_000, Peak: 58_000, Life: 34 * time.Second, Offered: 57_800, Dispersed: 6.5, Share: 0.97},
			{Class: plan.TCPEstablished, Arrivals: 900, Rate: 3, Peak1s: 12, Peak10ms: 3, Mean: 1500, Peak: 1700, Life: 250 * time.Second, AtLeast: true, Offered: 1500, Dispersed: 1.2, Share: 0.03},
		},
		Total:  plan.Cost{Arrivals: 510_900, Refused: 40, Rate: 1703, Peak1s: 2905, Peak10ms: 215, Mean: 56_500, Peak: 59_700, Life: 34381 * time.Millisecond, AtLeast: true, Offered: 59_300, Dispersed: 6.5, Share: 1},
		Today:  plan.Run{Step: time.Second, Curve: []uint32{56_000, 57_000}, Max: 65_536, Peak: 59_700, Mean: 56_500, Arrivals: 510_900, Drops: 40, Above: [3]float64{1, 0.6, 0}},
		Need:   plan.Need{Peak: 61_783, Limit: 89_088, Suggest: 89_088, Buckets: 89_088},
		WhatIf: plan.WhatIf{Max: 131_072, Timeouts: []plan.Change{{Timer: plan.UDP, To: 10 * time.Second}}, Factor: 2},
		Then:   &plan.Run{Step: time.Second, Curve: []uint32{44_000}, Max: 131_072, Peak: 51_000, Mean: 47_000, Arrivals: 1_021_800, Evicted: 7, EvictedGC: 3}, Settles: 50_600,
		ThenNeed: plan.Need{Peak: 52_894, Limit: 75_776, Suggest: 75_776, Buckets: 75_776},
		Notes:    []string{"some entries are older than any that ended: their lifetime is a lower bound, look for longer"},
		Pools:    []plan.PoolNeed{{Pool: plan.Pool{Addr: addr("203.0.113.9"), Dst: addr("192.0.2.53"), Port: 53, Proto: event.ProtoUDP}, Peak: 31_000, Addresses: 1}},
	}
	return d
}

func TestPlanText(t *testing.T) {
	for name, d := range map[string]*plan.Doc{"plan": testPlan(), "plan.empty": {}} {
		var out bytes.Buffer
		if err := WritePlanText(&out, d, PlanOptions{Names: testNames}); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".txt", out.Bytes())
		harmless(t, out.Bytes())
		said, _, _ := strings.Cut(out.String(), "# ctsight plan")
		for l := range strings.Lines(said) {
			if len(l) > 81 {
				t.Errorf("%s: %d cells: %s", name, len(l)-1, l)
			}
		}
	}
	if err := WritePlanText(brokenPipe{}, testPlan(), PlanOptions{}); !errors.Is(err, errBroken) {
		t.Errorf("broken pipe: %v", err)
	}
}

// What is to be put into sysctl.d is a file of it: comments, and names with numbers.
func TestPlanSysctl(t *testing.T) {
	d := testPlan()
	d.Source = hostile
	values := map[string]string{}
	for l := range strings.Lines(d.Sysctl()) {
		if l = strings.TrimSuffix(l, "\n"); strings.HasPrefix(l, "# ") {
			continue
		}
		name, value, ok := strings.Cut(l, " = ")
		if !ok || strings.Trim(value, "0123456789") != "" {
			t.Errorf("%q", l)
		}
		values[name] = value
	}
	want := map[string]string{"net.netfilter.nf_conntrack_max": "75776", "net.netfilter.nf_conntrack_udp_timeout": "10"}
	for k, v := range want {
		if values[k] != v {
			t.Errorf("%s = %q, want %s", k, values[k], v)
		}
	}
	if len(values) != len(want) {
		t.Error(values)
	}
	harmless(t, []byte(d.Sysctl()))
}

func TestPlanJSON(t *testing.T) {
	var out bytes.Buffer
	if err := WritePlanJSON(&out, testPlan()); err != nil {
		t.Fatal(err)
	}
	golden(t, "plan.json", out.Bytes())
	harmless(t, out.Bytes())
	doc := checkKeys(t, "plan", decode(t, out.Bytes()), "from", "to", "source", "netns", "max", "buckets", "classes", "total", "need", "nat_pools", "today", "then", "what_if", "notes", "sysctl")
	checkKeys(t, "classes", doc["classes"].([]any)[0], "class", "new", "refused", "new_rate", "peak_1s", "peak_10ms", "lifetime_s", "lifetime_at_least", "entries_mean", "entries_peak", "offered", "share", "dispersion")
	checkKeys(t, "then", doc["then"], "max", "new", "entries_mean", "entries_peak", "table_full", "early_drop", "early_drop_gc", "above_70", "above_85", "above_95", "step_s", "entries")
	if n := checkKeys(t, "need", doc["need"], "entries", "limit", "suggested_max", "buckets", "entry_bytes", "bytes_full"); n["bytes_full"] != 89_088.0*(384+8) {
		t.Errorf("need %v", n)
	}
	out.Reset()
	if err := WritePlanJSON(&out, &plan.Doc{Source: hostile}); err != nil || !strings.Contains(out.String(), `"then":null`) || !strings.Contains(out.String(), `"classes":[]`) {
		t.Errorf("the empty document: %v, %s", err, out.String())
	}
	harmless(t, out.Bytes())
	if err := WritePlanJSON(brokenPipe{}, testPlan()); !errors.Is(err, errBroken) {
		t.Errorf("broken pipe: %v", err)
	}
}
