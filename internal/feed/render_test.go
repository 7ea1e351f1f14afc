package feed

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/view"
)

var update = flag.Bool("update", false, "rewrite testdata")

// hostile is what an attacker would like to be written, and to be taken for a line.
const hostile = "\x1b[2J\u202e\u0085\r\n2026-11-29T03:00:00.000Z ctsight block 203.0.113.99 class=scan \"'\\ source=203.0.113.99\xff"

// tellings have every field, every form of a source, and hostile strings everywhere.
func tellings() []Telling {
	tuple := func(proto uint8, src, dst string, sport, dport uint16) event.Tuple {
		return event.Tuple{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Sport: sport, Dport: dport, Proto: proto}
	}
	scan := scanner("198.51.100.7")
	scan.Shape, scan.NetNS, scan.Zone, scan.Raised = "vertical", 4026531840, 7, 1
	scan.Target = agg.Target{Addr: netip.MustParseAddr("192.0.2.80"), Proto: event.ProtoTCP}
	scan.Why, scan.WhyNotBenign = "198.51.100.7 tried 512 ports of 192.0.2.80 in 2 s", "none was answered"
	scan.Evidence = agg.Evidence{Contacts: 512, Refused: 512, Dsts: 1, Dports: 512, Used: []string{"destroy"},
		Samples: []agg.Contacted{{At: three, Orig: tuple(event.ProtoTCP, "198.51.100.7", "192.0.2.80", 40000, 22), Outcome: "refused"}}}
	wide := scan
	wide.ID, wide.Source, wide.Shape, wide.Target = "wide", netip.MustParsePrefix("2001:db8:0:1::/64"), "horizontal", agg.Target{Proto: event.ProtoTCP, Port: 23}
	wide.Evidence.Samples = []agg.Contacted{{At: three, Orig: tuple(event.ProtoTCP, "2001:db8:0:1::7", "2001:db8::80", 40000, 23), Outcome: "unanswered"}}
	over := scan
	over.ID, over.State = "over", agg.Cleared
	mapped := scan
	mapped.ID, mapped.Source = "mapped", netip.MustParsePrefix("::ffff:198.51.100.9/128")
	flood := agg.Finding{ID: "flood", Class: "syn_flood", State: agg.Confirmed, Severity: agg.Page, Spoofable: true, Time: three, First: three, Last: three,
		Target: agg.Target{Addr: netip.MustParseAddr("192.0.2.80"), Proto: event.ProtoTCP, Port: 443}, Why: "5,000 SYNs a second",
		Evidence: agg.Evidence{Samples: []agg.Contacted{{At: three, Orig: tuple(event.ProtoTCP, "203.0.113.1", "192.0.2.80", 1, 443), Outcome: "unanswered"}}}}
	full := agg.Finding{ID: "full", Class: "table_filling", State: agg.Confirmed, Severity: agg.Page, NetNS: 4026532001, Time: three, First: three, Last: three, Why: "full in 40 s"}
	evil := scan
	evil.ID, evil.Class, evil.Shape, evil.State, evil.Severity, evil.Why, evil.WhyNotBenign, evil.Suppress = hostile, hostile, hostile, hostile, hostile, hostile, hostile, hostile
	evil.Target.Addr = netip.MustParseAddr("fe80::1").WithZone(hostile)
	evil.Evidence = agg.Evidence{Used: []string{hostile}, Items: []string{hostile}, Figures: []agg.Figure{{Name: hostile}}, Samples: []agg.Contacted{{Outcome: hostile, Orig: event.Tuple{Dst: evil.Target.Addr, Proto: 6, Dport: 1}}}}
	empty := agg.Finding{}
	var out []Telling
	for _, f := range []agg.Finding{scan, wide, over, mapped, flood, full, evil, empty} {
		out = append(out, Telling{Finding: &f, Unlisted: f.Unlisted(three)})
	}
	return out
}

func forms(t *testing.T, name string) string {
	t.Helper()
	form, err := NewFormat(name, Options{Host: "gw1", Names: view.Names{NetNS: func(ns event.NetNS) string {
		return map[event.NetNS]string{4026531840: "gw", 4026532001: hostile}[ns]
	}}})
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	for _, tell := range tellings() {
		if b, err = form(b, tell); err != nil {
			t.Fatal(err)
		}
	}
	return string(b)
}

func TestForms(t *testing.T) {
	for _, name := range Formats {
		got := forms(t, name)
		if n := strings.Count(got, "\n"); n != len(tellings()) {
			t.Errorf("%s: %d lines for %d tellings", name, n, len(tellings()))
		}
		if strings.ContainsFunc(got, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
			t.Errorf("%s: something that is not to be shown", name)
		}
		path := filepath.Join("testdata", name+".golden")
		if *update {
			os.MkdirAll("testdata", 0o755)
			os.WriteFile(path, []byte(got), 0o644)
		}
		if d := cmp.Diff(read(t, path), got); d != "" {
			t.Errorf("%s (-want +got, go test -update):\n%s", name, d)
		}
	}
	if _, err := NewFormat("xml", Options{}); err == nil {
		t.Error("xml")
	}
}

// Every class of the contract has an id of its own that stays.
func TestSignatures(t *testing.T) {
	words := strings.Fields("scan distributed_scan syn_flood udp_flood amplification rate_burst retry_storm service_down connection_hammering connection_leak " +
		"pool_lost new_connection_pattern polling_dead_targets table_filling nat_pool_filling upstream_outage")
	for i, w := range words {
		if c := classOf(w); c.id != 9781001+i {
			t.Errorf("%s has %d", w, c.id)
		}
	}
	if len(classes) != len(words) || classOf("new").id != 9781000 {
		t.Error(len(classes))
	}
}

// jq asks what a collector would.
func TestJQ(t *testing.T) {
	if _, err := exec.LookPath("jq"); err != nil {
		t.Skip("jq is not here: make test installs it")
	}
	for _, c := range []struct{ form, ask, want string }{
		{"eve", `select(.event_type == "alert") | [.src_ip, .dest_ip, .dest_port, .proto, .alert.signature, .alert.signature_id, .alert.severity, .alert.action] | @csv`,
			`"198.51.100.7","192.0.2.80",,"TCP","CTSIGHT scan vertical",9781001,2,"allowed"
"2001:db8:0:1::","2001:db8::80",23,"TCP","CTSIGHT scan horizontal",9781001,2,"allowed"
"198.51.100.9","192.0.2.80",,"TCP","CTSIGHT scan vertical",9781001,2,"allowed"
,"192.0.2.80",443,"TCP","CTSIGHT SYN flood",9781003,1,"allowed"`},
		{"eve", `select(.event_type == "anomaly") | .anomaly.event | select(length < 40)`, "scan_cleared\ntable_filling_confirmed\n_"},
		{"eve", `[.timestamp, (.timestamp | sub("\\.[0-9]+\\+0000$"; "Z") | fromdate)] | @csv`, ""},
		{"eve", `.ctsight | select(.id == "wide") | [.prefix, .why, .evidence.distinct_dports, .netns_name] | @csv`, `"2001:db8:0:1::/64","198.51.100.7 tried 512 ports of 192.0.2.80 in 2 s",512,"gw"`},
		{"ecs", `select(.event.kind == "alert") | [."@timestamp", .source.ip, .source.address, .destination.ip, .destination.port, .network.transport, .network.type, .rule.id, .threat.technique[0].id] | @csv`,
			`"2026-11-29T03:00:00.000000000Z","198.51.100.7","198.51.100.7","192.0.2.80",,"tcp","ipv4","9781001","T1046"
"2026-11-29T03:00:00.000000000Z",,"2001:db8:0:1::/64","2001:db8::80",23,"tcp","ipv6","9781001","T1046"
"2026-11-29T03:00:00.000000000Z","198.51.100.9","198.51.100.9","192.0.2.80",,"tcp","ipv4","9781001","T1046"
"2026-11-29T03:00:00.000000000Z",,,"192.0.2.80",443,"tcp",,"9781003","T1499.001"`},
		{"json", `select(.state == "confirmed" and (.spoofable | not) and .suppress == "") | .source // .prefix // .id`, "198.51.100.7\n2001:db8:0:1::/64\n198.51.100.9\nfull"},
	} {
		cmd := exec.Command("jq", "-r", c.ask)
		cmd.Stdin = strings.NewReader(forms(t, c.form))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s %s: %v\n%s", c.form, c.ask, err, out)
		}
		if d := cmp.Diff(c.want, strings.TrimSpace(string(out))); d != "" && c.want != "" {
			t.Errorf("%s %s:\n%s", c.form, c.ask, d)
		}
	}
}

// What a line of JSON says of a finding is what ctsight detect -o json says.
func TestWhole(t *testing.T) {
	lines := map[string][]string{}
	for _, name := range []string{"json", "eve", "ecs"} {
		lines[name] = slices.Collect(strings.Lines(forms(t, name)))
	}
	for i, own := range lines["json"] {
		for _, name := range []string{"eve", "ecs"} {
			var doc struct{ Ctsight json.RawMessage }
			if err := json.Unmarshal([]byte(lines[name][i]), &doc); err != nil {
				t.Fatal(err)
			}
			if string(doc.Ctsight)+"\n" != own {
				t.Errorf("%s:\n%s\n%s", name, doc.Ctsight, own)
			}
		}
	}
}

// fail2ban reads the filter that we ship and the lines that we write: those who may be
// blocked, no one else, whatever a name looks like.
func TestFail2ban(t *testing.T) {
	bin, err := exec.LookPath("fail2ban-regex")
	if err != nil {
		t.Skip("fail2ban-regex is not here: make test unpacks it")
	}
	log := filepath.Join(t.TempDir(), "feed.log")
	if err := os.WriteFile(log, []byte(forms(t, "plain")), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "--usedns", "no", "-o", "<ip> <time>", log, "../../deploy/example/fail2ban/filter.d/ctsight.conf")
	cmd.Env = append(os.Environ(), modules()...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	at := three.Unix()
	want := ""
	for _, who := range []string{"198.51.100.7", "2001:db8:0:1::/64", "198.51.100.9"} {
		want += fmt.Sprintf("%s %d\n", who, at)
	}
	if d := cmp.Diff(want, string(out)); d != "" {
		t.Error(d)
	}
}

// modules is where those of an unpacked fail2ban are.
func modules() []string {
	bin, err := exec.LookPath("fail2ban-regex")
	if err != nil {
		return nil
	}
	lib := filepath.Join(filepath.Dir(bin), "modules")
	if _, err := os.Stat(lib); err != nil {
		return nil // installed
	}
	return []string{"PYTHONPATH=" + lib}
}
