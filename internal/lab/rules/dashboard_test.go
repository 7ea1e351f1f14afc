package rules

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const dashboardFile = "../../../deploy/grafana/ctsight.json"

// panel is one of the dashboard, as far as it asks Prometheus.
type panel struct {
	Title   string
	Targets []struct{ Expr string }
}

func panels(t *testing.T) (out []panel) {
	t.Helper()
	data, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct{ Panels []panel }
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	for _, p := range doc.Panels {
		if len(p.Targets) > 0 {
			out = append(out, p)
		}
	}
	if len(out) < 20 {
		t.Fatalf("only %d panels", len(out))
	}
	return out
}

// asked is an expression with the variables that Grafana would fill in.
func asked(expr string) string {
	return strings.NewReplacer("$__rate_interval", "10s", "$job", ".*", "$instance", ".*", "$netns", ".*").Replace(expr)
}

var variable = regexp.MustCompile(`\$\w+`)

func TestDashboardAsksForWhatThereIs(t *testing.T) {
	k := exported(t)
	for _, r := range rules(t, "recording.yml") {
		k.names[r.Record] = nil
	}
	var parsed []map[string]string
	for _, p := range panels(t) {
		for _, q := range p.Targets {
			for _, wrong := range k.check(q.Expr) {
				t.Errorf("%s: %s", p.Title, wrong)
			}
			expr := asked(q.Expr)
			if v := variable.FindString(expr); v != "" {
				t.Errorf("%s: a variable %s that nobody sets", p.Title, v)
			}
			parsed = append(parsed, map[string]string{"record": fmt.Sprintf("parsed:%d", len(parsed)), "expr": expr})
		}
	}
	file := t.TempDir() + "/panels.yml"
	data, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "panels", "rules": parsed}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", file)
}
