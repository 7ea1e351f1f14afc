package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// steadyCapture is of ten UDP flows a second for two minutes that nobody answers.
func steadyCapture() string {
	const start, second = 1_700_000_000_000_000_000, 1_000_000_000
	var b strings.Builder
	b.WriteString("#ctreplay v1\n")
	line := func(at int, what string, id int, status, cause, life string) {
		fmt.Fprintf(&b, "%d\t%s\t%d\tudp\t192.0.2.7\t%d\t10.0.0.1\t53\t%s\t%s\t%s\t1\t0\n", at, what, id, 1024+id, status, cause, life)
	}
	for i := range 1200 {
		at := start + i*second/10
		if i >= 300 {
			line(at-1, "D", i-300, "U", "timeout", "30000000000")
		}
		line(at, "N", i, "-", "-", "-1")
	}
	return b.String()
}

// planDoc is what the tests read of the JSON.
type planDoc struct {
	Classes []struct {
		Class   string
		Offered float64
		Life    float64 `json:"lifetime_s"`
	}
	Today, Then *struct {
		Peak    uint64  `json:"entries_peak"`
		Mean    float64 `json:"entries_mean"`
		Drops   uint64  `json:"table_full"`
		Entries []uint32
	}
	Need struct{ Limit, Suggested_max uint64 }
}

func TestPlanFrom(t *testing.T) {
	from := file(t, "x.ctr.tsv", steadyCapture())
	r := runCmd(t, ctsight(t, "plan", from, "--timeout", "udp=10s", "-o", "json"))
	var doc planDoc
	if must(t, json.Unmarshal([]byte(r.stdout), &doc)); r.code != exitDone || r.stderr != "" {
		t.Fatalf("%+v", r)
	}
	if len(doc.Classes) != 1 || doc.Classes[0].Class != "udp_one_way" || doc.Classes[0].Life < 29.9 || doc.Classes[0].Life > 30.1 || doc.Today.Peak != 300 || doc.Then.Peak < 100 || doc.Then.Peak > 101 {
		t.Errorf("%+v", doc)
	}
	if doc.Need.Limit != 1024 {
		t.Errorf("%+v", doc.Need)
	}
	stdin := ctsight(t, "plan", "--from", "-", "--timeout", "udp=10s", "-o", "json")
	stdin.Stdin = strings.NewReader(steadyCapture())
	if got := runCmd(t, stdin); got.code != exitDone || strings.ReplaceAll(got.stdout, "(-)", "("+from+")") != strings.Replace(r.stdout, fmt.Sprintf("%q", from), `"-"`, 1) {
		t.Errorf("%+v", got)
	}
	r = runCmd(t, ctsight(t, "plan", "--from", from, "--max", "200", "--for", "1m"))
	if r.code != exitDone || !strings.Contains(r.stdout, "what if: max=200") || !strings.Contains(r.stdout, "net.netfilter.nf_conntrack_max = 1024\n") {
		t.Errorf("%+v", r)
	}
	// The timeouts of where it was made say how long after its last packet an entry ended.
	was := runCmd(t, ctsight(t, "plan", from, "--recorded-timeout", "udp=30s", "--timeout", "udp=30s", "-o", "json"))
	if must(t, json.Unmarshal([]byte(was.stdout), &doc)); doc.Today.Mean != doc.Then.Mean {
		t.Errorf("%+v", doc)
	}
}

func TestPlanUsage(t *testing.T) {
	from := file(t, "x.ctr.tsv", steadyCapture())
	for args, want := range map[string]string{
		"a b":                                    "one capture",
		"a --from b":                             "one capture",
		from + " --max 0":                        "--max 0",
		from + " --factor 0":                     "--factor 0",
		from + " --factor NaN":                   "--factor NaN",
		from + " --after -1s":                    "--after -1s",
		from + " --for 0s":                       "--for 0s",
		from + " --timeout udp":                  "udp=10s",
		from + " --timeout tcp=3s":               "tcp_established",
		from + " --recorded-timeout udp=0":       "--recorded-timeout",
		from + " --netns 1":                      "--netns with --from",
		"--recorded-max 5":                       "this kernel is asked",
		"--timeout udp=1s,udp=2s --from " + from: "given twice",
	} {
		oneError(t, runCmd(t, ctsight(t, append([]string{"plan"}, strings.Fields(args)...)...)), exitUsage, want)
	}
	oneError(t, runCmd(t, ctsight(t, "plan", file(t, "y", "nonsense\n"))), exitFailed, ":1: 1 columns")
	oneError(t, runCmd(t, ctsight(t, "plan", file(t, "z", "#ctreplay v1\n"))), exitFailed, "nothing in it")
	oneError(t, runCmd(t, ctsight(t, "plan", "/nowhere")), exitFailed, "/nowhere")
}
