package main

import (
	"bytes"
	"encoding/json"
	"image/png"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/record/capture"
)

// A capture becomes one file, the same each time and however it comes.
func TestReport(t *testing.T) {
	from := file(t, "x.ctr.tsv", scanCapture())
	to := filepath.Join(t.TempDir(), "out.html")
	r := runCmd(t, ctsight(t, "report", from, "-o", to, "--log.level", "error"))
	if r.code != exitDone || r.stdout != "" || r.stderr != "" {
		t.Fatalf("%+v", r)
	}
	page, err := os.ReadFile(to)
	must(t, err)
	for _, want := range []string{"default-src 'none'", "<title>ctsight report: x.ctr.tsv</title>", "scan vertical 192.0.2.7", "Scan by 192.0.2.7", "40 connections to 40 different ports"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("does not have %q", want)
		}
	}
	again := runCmd(t, ctsight(t, "report", "--from", from, "-o", "-", "--log.level", "error"))
	if again.stdout != string(page) {
		t.Error("standard output differs from the file")
	}
	cmd := ctsight(t, "report", "-", "-o", "-", "--log.level", "error")
	cmd.Stdin = strings.NewReader(gzipped(t, scanCapture()))
	// A plan reads a capture once more, which standard input is not there for.
	bare := regexp.MustCompile(`(?s)<section id="capacity".*?</section>\n`).ReplaceAllString(string(page), "")
	if got := strings.ReplaceAll(runCmd(t, cmd).stdout, "standard input", "x.ctr.tsv"); got != bare || bare == string(page) {
		t.Error("of standard input it differs")
	}
}

// Several captures are read as one, whose entries stay apart though their ids are the
// same; another one is set beside it.
func TestReportOfSeveral(t *testing.T) {
	one, two := file(t, "one", scanCapture()), file(t, "two", strings.ReplaceAll(scanCapture(), "192.0.2.7", "192.0.2.8"))
	r := runCmd(t, ctsight(t, "report", one, two, "--compare", one, "--format", "md", "-o", "-", "--max", "1000", "--log.level", "error"))
	if r.code != exitDone || r.stderr != "" {
		t.Fatalf("%+v", r)
	}
	for _, want := range []string{"# ctsight report: one, two", "| new connections | 40 | 80 | +100 % |", "| most entries in the table | 1 of 1,000 | 2 of 1,000 | +100 % |", "finding new: **scan vertical 192.0.2.8", "| 192.0.2.8 | 40 | 50.0 % |"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("does not say %q", want)
		}
	}
	if t.Failed() {
		t.Log(r.stdout)
	}
}

func TestReportFilter(t *testing.T) {
	from := file(t, "x", scanCapture())
	r := runCmd(t, ctsight(t, "report", from, "--filter", "dport 1003", "--format", "md", "-o", "-", "--log.level", "error"))
	if r.code != exitDone || !strings.Contains(r.stdout, "1 connection in ") {
		t.Errorf("%+v", r)
	}
}

// What a capture needs is in its report, and by itself in that of plan: the same replays.
func TestPlanCurves(t *testing.T) {
	from := recording(t, "gw", 0)
	page := filepath.Join(t.TempDir(), "plan.html")
	r := runCmd(t, ctsight(t, "plan", from, "--html", page, "--log.level", "error"))
	if r.code != exitDone || !strings.Contains(r.stdout, "needed") {
		t.Fatalf("%+v", r)
	}
	b, err := os.ReadFile(page)
	must(t, err)
	whole := runCmd(t, ctsight(t, "report", from, "-o", "-", "--log.level", "error"))
	section := func(doc string) string {
		_, s, _ := strings.Cut(doc, `<section id="capacity"`)
		s, _, _ = strings.Cut(s, "</section>")
		return s
	}
	one, other := section(string(b)), section(whole.stdout)
	if one == "" || one != other || !strings.Contains(one, "today&#39;s of 50 is too low") {
		t.Errorf("by itself %.400q, in the report %.400q", one, other)
	}
	if !strings.Contains(string(b), "A file for /etc/sysctl.d") {
		t.Error("no file for sysctl.d")
	}
	if two := runCmd(t, ctsight(t, "report", from, from, "-o", "-", "--log.level", "error")); section(two.stdout) != "" {
		t.Error("two captures have a capacity")
	}
}

// Pictures by themselves: one of a name, or all, and without -o no report.
func TestReportPNG(t *testing.T) {
	from, dir := file(t, "x", scanCapture()), t.TempDir()
	one, all := filepath.Join(dir, "one.png"), filepath.Join(dir, "all")
	cmd := ctsight(t, "report", from, "--png", "rates="+one, "--png", all, "--log.level", "error")
	cmd.Dir = dir
	if r := runCmd(t, cmd); r.code != exitDone || r.stdout+r.stderr != "" {
		t.Fatalf("%+v", r)
	}
	b, err := os.ReadFile(one)
	must(t, err)
	if m, err := png.DecodeConfig(bytes.NewReader(b)); err != nil || m.Width != 2080 || m.Height < 400 {
		t.Errorf("%+v %v", m, err)
	}
	again, err := os.ReadFile(filepath.Join(all, "rates.png"))
	must(t, err)
	if !bytes.Equal(b, again) {
		t.Error("the same picture differs")
	}
	var names []string
	for _, of := range []string{dir, all} {
		left, err := os.ReadDir(of)
		must(t, err)
		for _, f := range left {
			names = append(names, f.Name())
		}
	}
	if got, want := strings.Join(names, " "), "all one.png capacity.png holders.png lifetimes.png occupancy.png rates.png scan0.png sources.png timeline.png"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	oneError(t, runCmd(t, ctsight(t, "report", from, "--png", "none="+one)), exitUsage, "occupancy, rates")
	oneError(t, runCmd(t, ctsight(t, "report", from, "--png", "drops="+one, "--log.level", "error")), exitFailed, "no picture of that name, but timeline,")
	oneError(t, runCmd(t, ctsight(t, "report", from, "--png", "rates=")), exitUsage, "NAME=FILE")
}

// What is wrong with a capture, or with where the report goes, leaves no half report.
func TestReportFails(t *testing.T) {
	dir := t.TempDir()
	to := filepath.Join(dir, "out.html")
	oneError(t, runCmd(t, ctsight(t, "report", file(t, "x", "1\tN\t"), "-o", to)), exitFailed, ":1:")
	oneError(t, runCmd(t, ctsight(t, "report", filepath.Join(dir, "none"), "-o", to)), exitFailed, "no such file")
	oneError(t, runCmd(t, ctsight(t, "report", file(t, "x", scanCapture()), "-o", filepath.Join(dir, "none", "out.html"))), exitFailed, "-o:", "no such file")
	left, err := os.ReadDir(dir)
	must(t, err)
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// recording is one of a node: entries from before, connections, lost packets, the state of
// a table, and a gap.
func recording(t *testing.T, node string, start time.Duration) string {
	t.Helper()
	var b bytes.Buffer
	wall := time.Date(2026, 11, 22, 19, 38, 0, 0, time.UTC)
	const mono = 5_000_000_000_000
	w, err := capture.NewWriter(&b, capture.Header{Tool: "test", Node: node, BootID: "boot of " + node, Backend: "fentry", Wall: wall, Mono: mono, Start: mono, Seed: 1})
	must(t, err)
	at := mono + event.Ktime(start)
	tuple := func(i int) event.Tuple {
		return event.Tuple{Proto: event.ProtoTCP, Src: netip.MustParseAddr("10.0.0.7"), Dst: netip.MustParseAddr("10.9.0.1"), Sport: uint16(1000 + i), Dport: 443}
	}
	one := func(e event.Event) {
		e.Time, e.NetNS = at, 4026531840
		must(t, w.Events([]event.Event{e}))
	}
	must(t, w.Entries([]event.Event{{Time: at, Kind: event.New, NetNS: 4026531840, Orig: tuple(0)}}))
	for i := 1; i <= 50; i++ {
		one(event.Event{Kind: event.New, Orig: tuple(i), Ptr: 0xffff888000000000 + uint64(i), Status: event.Confirmed})
		at += event.Ktime(10 * time.Millisecond)
	}
	one(event.Event{Kind: event.Destroy, Orig: tuple(0), Ptr: 0xffff888000000999, Cause: event.TimeoutGC, Status: event.SeenReply})
	must(t, w.JSON(capture.Second, at, map[string]any{"tables": []map[string]any{{"NetNS": 4026531840, "Name": "edge", "Entries": 50, "Max": 50}}, "loss": map[string]any{"Seen": 60, "Delivered": 51, "Lost": 9}}))
	for i := range 20 {
		one(event.Event{Kind: event.Drop, Orig: tuple(100 + i), Reason: event.TableFull})
		at += event.Ktime(5 * time.Millisecond)
	}
	must(t, w.Sum(&event.Sum{NetNS: 4026531840, Src: netip.MustParseAddr("10.0.0.8"), Kind: event.Drop, Reason: event.TableFull, N: 4, From: at, Last: at}))
	must(t, w.Gap(at, capture.Missing{Events: 7, Why: "a full disk"}))
	for _, m := range []string{`{"sysctl":{"name":"nf_conntrack_udp_timeout","from":30,"to":7,"where":[{"netns":4026531840,"netns_name":"edge"}],"namespaces":1}}`,
		`{"sysctl":{"name":"nf_conntrack_max","from":50,"to":60,"where":[{"netns":4026531840}],"namespaces":1}}`, `{"finding":{"id":"1","class":"scan"}}`, `{"later":1}`} {
		must(t, w.JSON(capture.Mark, at, json.RawMessage(m)))
	}
	must(t, w.Close(nil))
	return file(t, node+".ctsight", b.String())
}

// A recording tells what one in text cannot: lost packets, the limit, missing records.
func TestReportOfRecording(t *testing.T) {
	r := runCmd(t, ctsight(t, "report", recording(t, "gw", 0), "--format", "md", "-o", "-", "--log.level", "error"))
	if r.code != exitDone || r.stderr != "" {
		t.Fatalf("%+v", r)
	}
	for _, want := range []string{"edge held 51 entries at most; it was fullest with 50 of 50 (100.0 %)", "24 packets were lost: 24 of them (100.0 %) for table\\_full", "edge full: 50 of 50", "16 records of events are missing",
		"4 more events came as sums", "nf\\_conntrack\\_udp\\_timeout of netns edge: 30 → 7", "| 10.0.0.8 | 0 | 0.0 % | 0 | 4 | 0 |", "| platform | Were entries evicted? | no | none |"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("does not say %q", want)
		}
	}
	if strings.Contains(r.stdout, "50 → 60") {
		t.Error("of the limit the tables tell")
	}
	if strings.Contains(r.stdout, "not seen to begin") {
		t.Error("the entry from before is taken for a stranger")
	}
	if t.Failed() {
		t.Log(r.stdout)
	}
}

// Of a recording --netns takes one namespace, by the name that the recording has for it or
// by its number: events, sums, tables. Other machines' names are not asked, and text has
// none.
func TestNetNSOfRecording(t *testing.T) {
	var b bytes.Buffer
	const mono, edge, other = 5_000_000_000_000, 4026531840, 4026532222
	w, err := capture.NewWriter(&b, capture.Header{Tool: "test", Node: "gw", BootID: "boot of gw", Backend: "fentry", Wall: time.Date(2026, 11, 22, 19, 38, 0, 0, time.UTC), Mono: mono, Start: mono, Seed: 1,
		Names: map[string]string{"4026532222": "lab"}})
	must(t, err)
	at := event.Ktime(mono)
	for i := range 30 {
		ns := event.NetNS(edge)
		if i%3 == 0 {
			ns = other
		}
		at += event.Ktime(10 * time.Millisecond)
		must(t, w.Events([]event.Event{{Time: at, Kind: event.New, NetNS: ns, Ptr: 0xffff888000000000 + uint64(i),
			Orig: event.Tuple{Proto: event.ProtoUDP, Src: netip.MustParseAddr("10.0.0.7"), Dst: netip.MustParseAddr("10.9.0.1"), Sport: uint16(1000 + i), Dport: 53}}}))
	}
	for n, ns := range []event.NetNS{edge, other} {
		must(t, w.Sum(&event.Sum{NetNS: ns, Src: netip.MustParseAddr("10.0.0.8"), Kind: event.New, N: uint64(100 * (n + 1)), From: at, Last: at}))
	}
	must(t, w.JSON(capture.Second, at, map[string]any{"tables": []map[string]any{{"NetNS": edge, "Entries": 20, "Max": 50}, {"NetNS": other, "Name": "lab", "Entries": 10, "Max": 11}}, "loss": map[string]any{}}))
	must(t, w.Close(nil))
	from := file(t, "two.ctsight", b.String())
	for netns, want := range map[string][]string{"lab": {"lab held 10 entries at most", "210 connections in "}, "4026532222": {"lab held 10 entries at most", "210 connections in "},
		"4026531840": {"20 of 50 (40.0 %)", "120 connections in "}} {
		r := runCmd(t, ctsight(t, "report", from, "--netns", netns, "--format", "md", "-o", "-", "--log.level", "error"))
		if r.code != exitDone || r.stderr != "" {
			t.Fatalf("%s: %+v", netns, r)
		}
		for _, w := range want {
			if !strings.Contains(r.stdout, w) {
				t.Errorf("%s: does not say %q: %s", netns, w, r.stdout)
			}
		}
	}
	for _, args := range [][]string{{"trace", "--from", from, "--netns", "lab"}, {"trace", "--from", from, "netns lab"}, {"export", from, "--to", "jsonl", "-o", "-", "--netns", "lab"}} {
		r := runCmd(t, ctsight(t, append(args, "--log.level", "error")...))
		if n := strings.Count(r.stdout, "\n"); r.code != exitDone || n != 10 {
			t.Errorf("%q: code %d, %d lines of %s %s", args, r.code, n, r.stdout, r.stderr)
		}
	}
	for _, args := range [][]string{{"report", from, "-o", "-"}, {"detect", "--from", from}, {"plan", from}, {"trace", "--from", from}} {
		oneError(t, runCmd(t, ctsight(t, append(args, "--netns", "none")...)), exitUsage, "no network namespace of the recording", "one of lab")
	}
	oneError(t, runCmd(t, ctsight(t, "report", file(t, "x", scanCapture()), "-o", "-", "--netns", "4026532222")), exitUsage, "in text has no network namespaces")
	if r := runCmd(t, ctsight(t, "plan", from, "--netns", "lab", "-o", "json")); r.code != exitDone || !strings.Contains(r.stdout, `"netns":4026532222`) {
		t.Errorf("plan: %+v", r)
	}
}

// Recordings of two nodes, and two of one: tables are by node, entries too.
func TestReportOfNodes(t *testing.T) {
	r := runCmd(t, ctsight(t, "report", recording(t, "gw1", 0), recording(t, "gw2", 5*time.Millisecond), "-o", "-", "--log.level", "error"))
	for _, want := range []string{"gw1/edge held 51 entries", "<td>gw2/edge</td>", ">100</td>"} {
		if r.code != exitDone || !strings.Contains(r.stdout, want) {
			t.Errorf("two nodes: code %d, does not have %q", r.code, want)
		}
	}
	r = runCmd(t, ctsight(t, "report", recording(t, "gw", 0), recording(t, "gw", time.Minute), "-o", "-", "--log.level", "error"))
	if r.code != exitDone || strings.Contains(r.stdout, "gw/edge") || !strings.Contains(r.stdout, "48 packets were lost") || !strings.Contains(r.stdout, "23 records of events are missing") {
		t.Errorf("two of one node: code %d", r.code)
	}
}
