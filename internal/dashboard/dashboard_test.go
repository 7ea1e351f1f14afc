package dashboard

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	grafana "github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

const path = "../../deploy/grafana/ctsight.json"

var update = flag.Bool("update", false, "rewrite deploy/grafana/ctsight.json")

func TestFileIsWhatTheCodeMakes(t *testing.T) {
	got, err := JSON()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run with -update)", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got; run with -update):\n%s", path, diff)
	}
}

func TestPanels(t *testing.T) {
	ids, titles, taken := map[int]bool{}, map[string]bool{}, map[[2]int]string{}
	units := map[string]bool{"percentunit": true, "s": true, "cps": true, "pps": true, "short": true, "bytes": true, "none": true}
	for _, p := range New().Panels {
		if ids[p.ID] || titles[p.Title] || p.ID <= 0 || p.Title == "" {
			t.Errorf("panel %d %q is there twice, or without a name", p.ID, p.Title)
		}
		ids[p.ID], titles[p.Title] = true, true
		g := p.GridPos
		if g.X < 0 || g.X+g.W > columns || g.W <= 0 || g.H <= 0 {
			t.Errorf("%s lies at %+v", p.Title, g)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("%s lies over %s", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if unit, _ := p.FieldConfig.Defaults["unit"].(string); !units[unit] || !strings.HasSuffix(p.Description, ".") {
			t.Errorf("%s: unit %q, description %q", p.Title, unit, p.Description)
		}
		if len(p.Targets) == 0 || p.Datasource.UID != "${datasource}" {
			t.Errorf("%s: %d queries of %v", p.Title, len(p.Targets), p.Datasource)
		}
		for _, q := range p.Targets {
			if q.Datasource.UID != "${datasource}" || !strings.Contains(q.Expr, nodes) {
				t.Errorf("%s: query %s is not of the chosen data source and nodes: %s", p.Title, q.RefID, q.Expr)
			}
			if strings.Contains(q.Expr, "{}") || strings.Contains(q.Expr, "[]") || strings.Contains(q.Expr, "{netns}") {
				t.Errorf("%s: not filled in: %s", p.Title, q.Expr)
			}
		}
	}
}

func TestVariablesAreUsed(t *testing.T) {
	data, err := JSON()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range variables().List {
		name, _ := v["name"].(string)
		if n := strings.Count(string(data), "$"+name) + strings.Count(string(data), "${"+name); n < 2 {
			t.Errorf("variable %s is used %d times", name, n)
		}
	}
}

// Grafana's own model of dashboards and panels takes each field, and misses none.
func TestGrafanaTakesIt(t *testing.T) {
	plugins.RegisterDefaultPlugins()
	data, err := JSON()
	if err != nil {
		t.Fatal(err)
	}
	strict := func(data []byte) string {
		var d grafana.Dashboard //nolint:staticcheck // version 2 is of Grafana 12; this one all of them import
		if err := errors.Join(d.UnmarshalJSONStrict(data), d.Validate()); err != nil {
			return strings.TrimSpace(err.Error()) // no mistakes are an error of no words
		}
		return ""
	}
	if wrong := strict(data); wrong != "" {
		t.Error(wrong)
	}
	if strict(bytes.Replace(data, []byte(`"drawStyle"`), []byte(`"drawstyle"`), 1)) == "" {
		t.Error("a field that it does not know is nothing to it")
	}
}
