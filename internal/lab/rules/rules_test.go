// Package rules tests what is in deploy/prometheus and deploy/grafana: that
// promtool takes it, that it asks for metrics that there are, and that each alert
// can be acted upon.
package rules

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const (
	dir     = "../../../deploy/prometheus/"
	runbook = "../../../docs/runbook.md"
	link    = "https://github.com/ctsight/ctsight/blob/main/docs/runbook.md#"
)

// rule is one of a file of rules, an alert or a record.
type rule struct {
	Alert, Record, Expr string
	Labels, Annotations map[string]string
}

// Name is that of the alert, or of the series that is recorded.
func (r *rule) Name() string { return r.Alert + r.Record }

func read(t *testing.T, path string, into any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(data, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func rules(t *testing.T, name string) (out []rule) {
	t.Helper()
	var doc struct{ Groups []struct{ Rules []rule } }
	read(t, dir+name, &doc)
	for _, g := range doc.Groups {
		out = append(out, g.Rules...)
	}
	if len(out) == 0 {
		t.Fatalf("no rules in %s", name)
	}
	return out
}

func promtool(t *testing.T, args ...string) {
	t.Helper()
	bin, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed (Debian package prometheus)")
	}
	if out, err := exec.Command(bin, args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func unitTests(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(dir + "tests/*.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests of rules: %v", err)
	}
	return files
}

func TestPromtool(t *testing.T) {
	promtool(t, "check", "config", dir+"prometheus.yml")
	promtool(t, "check", "rules", dir+"alerts.yml", dir+"recording.yml")
	promtool(t, append([]string{"test", "rules"}, unitTests(t)...)...)
}

// Who is woken reads what is wrong, what to type first, and where to go on.
func TestAlertsCanBeActedUpon(t *testing.T) {
	sections := sections(t)
	for _, r := range rules(t, "alerts.yml") {
		a := r.Annotations
		if s := r.Labels["severity"]; s != "page" && s != "ticket" {
			t.Errorf("%s: severity %q", r.Alert, s)
		}
		if a["summary"] == "" || !strings.Contains(a["description"], "First step") {
			t.Errorf("%s: summary %q, description %q", r.Alert, a["summary"], a["description"])
		}
		anchor, ok := strings.CutPrefix(a["runbook_url"], link)
		if !ok || anchor != strings.ToLower(r.Alert) {
			t.Errorf("%s: runbook_url %s", r.Alert, a["runbook_url"])
		}
		text, ok := sections[anchor]
		if !ok {
			t.Errorf("%s: no section %s in the runbook", r.Alert, anchor)
			continue
		}
		delete(sections, anchor)
		for _, step := range []string{"Meaning** (" + r.Labels["severity"] + ")", "Impact**", "Triage**", "Containment**", "Relief**", "Recovery**", "Post-mortem**"} {
			if !strings.Contains(text, "\n- **"+step+": ") {
				t.Errorf("%s: the runbook has no %s", r.Alert, step)
			}
		}
	}
	for anchor := range sections {
		if strings.HasPrefix(anchor, "conntrack") || strings.HasPrefix(anchor, "ctsight") {
			t.Errorf("the runbook has a section %s, and no alert is called so", anchor)
		}
	}
}

// sections are those of the runbook by the anchor that GitHub gives a heading of
// one word.
func sections(t *testing.T) map[string]string {
	t.Helper()
	data, err := os.ReadFile(runbook)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, s := range strings.Split(string(data), "\n## ")[1:] {
		heading, text, _ := strings.Cut(s, "\n")
		out[strings.ToLower(heading)] = text
	}
	return out
}

// Each alert has a test in which it fires and one in which it does not.
func TestAlertsAreTested(t *testing.T) {
	type expected struct {
		Alertname string
		Alerts    []struct{} `yaml:"exp_alerts"`
	}
	fires, quiet := map[string]bool{}, map[string]bool{}
	for _, path := range unitTests(t) {
		var doc struct {
			Tests []struct {
				Alerts []expected `yaml:"alert_rule_test"`
			}
		}
		read(t, path, &doc)
		for _, test := range doc.Tests {
			for _, e := range test.Alerts {
				if len(e.Alerts) > 0 {
					fires[e.Alertname] = true
				} else {
					quiet[e.Alertname] = true
				}
			}
		}
	}
	for _, r := range rules(t, "alerts.yml") {
		if !fires[r.Alert] || !quiet[r.Alert] {
			t.Errorf("%s: tested to fire %v, not to fire %v", r.Alert, fires[r.Alert], quiet[r.Alert])
		}
	}
}

// Rules and the dashboard ask for what is exported, or recorded.
func TestExpressionsAskForWhatThereIs(t *testing.T) {
	all := slices.Concat(rules(t, "alerts.yml"), rules(t, "recording.yml"))
	k := exported(t)
	for _, r := range all {
		if r.Record != "" {
			k.names[r.Record] = nil
		}
	}
	for _, r := range all {
		for _, wrong := range k.check(r.Expr) {
			t.Errorf("%s: %s", r.Name(), wrong)
		}
	}
}

// A check that takes everything would find nothing.
func TestCheckFindsMistakes(t *testing.T) {
	k := exported(t)
	for expr, n := range map[string]int{
		`rate(ctsight_drops_total{reason="table_full"}[2m]) > 0`:                            0,
		`sum by (le) (rate(ctsight_connection_lifetime_seconds_bucket{proto="tcp"}[5m]))`:   0,
		`rate(process_cpu_seconds_total{instance=~"$instance"}[5m])`:                        0,
		`ctsight_hook_attached{backend="",hook="early_drop"}`:                               0,
		`rate(ctsight_drop_total[2m])`:                                                      1,
		`rate(ctsight_drops_total{cause="table_full"}[2m])`:                                 1,
		`rate(ctsight_drops_total{reason="tablefull"}[2m])`:                                 1,
		`rate(ctsight_drops_total{reason=~"clash_.*|nat_rac"}[2m])`:                         1,
		`ctsight_table_time_to_full_seconds{bound="mean"}`:                                  1,
		`rate(ctsight_drops_bucket[2m])`:                                                    1,
		`instance:ctsight_nothing:rate2m`:                                                   1,
		`rate(process_cpu_seconds[5m])`:                                                     1,
		`ctsight_config_last_reload_successful == 0 and on (job, instance) ctsight_tracing`: 0,
	} {
		if wrong := k.check(expr); len(wrong) != n {
			t.Errorf("%s: %q, want %d mistakes", expr, wrong, n)
		}
	}
}

// What comments and documents call an alert is one.
func TestAlertsAreCalledByTheirNames(t *testing.T) {
	known := map[string]bool{}
	for _, r := range rules(t, "alerts.yml") {
		known[r.Alert] = true
	}
	docs, err := filepath.Glob("../../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(docs, dir+"alerts.yml", dir+"recording.yml", dir+"prometheus.yml") {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`\b(Conntrack|Ctsight)[A-Z]\w+`).FindAllString(string(data), -1) {
			if !known[name] {
				t.Errorf("%s: no alert %s", path, name)
			}
		}
	}
}
