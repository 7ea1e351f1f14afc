package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/record/capture"
)

// recorded makes a recording of n connections that come and go.
func recorded(t *testing.T, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.ctsight")
	f, err := capture.Create(path, capture.Header{Wall: time.Unix(1700000000, 0).UTC(), Mono: 5, Start: 5})
	must(t, err)
	r := capture.NewRecorder(f)
	for i := range n {
		o := event.Tuple{Src: netip.MustParseAddr("10.0.0.7"), Dst: netip.MustParseAddr("10.0.0.53"), Sport: uint16(i), Dport: 53, Proto: event.ProtoUDP}
		at := event.Ktime(1e9 + i*1e6)
		r.Events(capture.Events, []event.Event{{Time: at, Kind: event.New, Ptr: uint64(i + 1), NetNS: 1, Orig: o, Reply: o.Inverse()},
			{Time: at + 5e5, Kind: event.Destroy, Ptr: uint64(i + 1), NetNS: 1, Orig: o, Reply: o.Inverse(), Cause: event.TimeoutGC, HasLifetime: true, Lifetime: 5e5}})
	}
	must(t, r.Close(nil))
	return path
}

// TestExport: each form has what the recording has, ctr can be read with --from, and what
// is there is not written over.
func TestExport(t *testing.T) {
	path := recorded(t, 300)
	out := filepath.Join(t.TempDir(), "out")
	if b, err := ctsight(t, "export", path, "--to", "jsonl", "-o", "-").Output(); err != nil || strings.Count(string(b), "\n") != 600 || !strings.Contains(string(b), `"lifetime_ns":500000`) {
		t.Errorf("jsonl: %v, %d lines", err, strings.Count(string(b), "\n"))
	}
	live, err := ctsight(t, "trace", "--from", path, "-o", "json").Output()
	must(t, err)
	if b, _ := ctsight(t, "export", path, "--to", "jsonl", "-o", "-").Output(); string(b) != string(live) {
		t.Error("the lines of export are not those of trace")
	}
	must(t, ctsight(t, "export", path, "--to", "ctr", "-o", out+".ctr.tsv").Run())
	if b, err := ctsight(t, "trace", "--from", out+".ctr.tsv", "destroy").Output(); err != nil || strings.Count(string(b), "\n") != 300 {
		t.Errorf("ctr: %v, %s", err, b)
	}
	must(t, ctsight(t, "export", path, "--to", "parquet", "-o", out, "new").Run())
	if b, err := os.ReadFile(out); err != nil || len(b) < 8 || string(b[:4]) != "PAR1" || string(b[len(b)-4:]) != "PAR1" {
		t.Errorf("parquet: %v, %d bytes", err, len(b))
	}
	for _, tc := range []struct {
		args []string
		says string
	}{
		{[]string{path, "--to", "parquet", "-o", out}, "is there already"},
		{[]string{path, "--to", "csv", "-o", "-"}, `--to "csv"`},
		{[]string{path, "--to", "ctr"}, "export needs -o OUT"},
		{[]string{"--to", "ctr", "-o", "-"}, "which capture"},
		{[]string{filepath.Join(t.TempDir(), "none"), "--to", "ctr", "-o", "-"}, "no such file"},
	} {
		if b, err := ctsight(t, append([]string{"export"}, tc.args...)...).CombinedOutput(); err == nil || !strings.Contains(string(b), tc.says) || strings.Count(string(b), "\n") != 1 {
			t.Errorf("%q: %v, %s", tc.args, err, b)
		}
	}
	cut := filepath.Join(t.TempDir(), "cut")
	whole, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(cut, whole[:len(whole)*2/3], 0o600))
	for _, args := range [][]string{{"export", cut, "--to", "jsonl", "-o", "-"}, {"trace", "--from", cut}, {"detect", "--from", cut}} {
		if b, err := ctsight(t, args...).CombinedOutput(); err != nil || !strings.Contains(string(b), "has no end") || !strings.Contains(string(b), "events=600") {
			t.Errorf("%q of a recording that was cut: %v, %s", args, err, b)
		}
	}
}

// TestNamesIn: a capture of another machine, or of before it was started again, gets no
// names of this one: there a number is something else.
func TestNamesIn(t *testing.T) {
	g := &globals{stderr: t.Output()}
	other := g.namesIn(pipeline.Origin{Boot: "another", Names: map[event.NetNS]string{5: "its-router"}})
	if other.NetNS(5) != "its-router" || other.NetNS(6) != "" || other.Symbol != nil || other.Interface != nil || other.KfreeReason != nil {
		t.Error("what this machine calls it is told of another's")
	}
	if text := g.namesIn(pipeline.Origin{}); text.Symbol != nil {
		t.Error("a capture in text has names of this machine")
	}
	if same := g.namesIn(pipeline.Origin{Boot: pipeline.BootID(), Names: map[event.NetNS]string{5: "then"}}); same.NetNS(5) != "then" || same.Symbol == nil {
		t.Error("of this machine, nothing is known")
	}
}
