// Package dashboard makes the Grafana dashboard of ctsight: deploy/grafana/ctsight.json
// is what JSON returns, and a test holds one against the other (-update rewrites it).
// Layout, numbers of panels and what all panels share are made here; what each shows
// is in panels.go. It knows Grafana's format and nothing of Prometheus but the
// expressions in its panels.
package dashboard

import "encoding/json"

// Dashboard is Grafana's JSON model, schema 39 (Grafana 11), as far as it is used.
type Dashboard struct {
	UID           string   `json:"uid"`
	Title         string   `json:"title"`
	Description   string   `json:"description"`
	Tags          []string `json:"tags"`
	SchemaVersion int      `json:"schemaVersion"`
	Editable      bool     `json:"editable"`
	GraphTooltip  int      `json:"graphTooltip"` // 1: one crosshair through all panels
	Refresh       string   `json:"refresh"`
	Time          Range    `json:"time"`
	Links         []Link   `json:"links"`
	Annotations   List     `json:"annotations"`
	Templating    List     `json:"templating"`
	Panels        []*Panel `json:"panels"`
	Timezone      string   `json:"timezone"`
	Timepicker    struct{} `json:"timepicker"`
}

// Range is of time, in Grafana's words.
type Range struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// Link leads out of the dashboard.
type Link struct {
	AsDropdown  bool     `json:"asDropdown"`
	Icon        string   `json:"icon"`
	IncludeVars bool     `json:"includeVars"`
	KeepTime    bool     `json:"keepTime"`
	Tags        []string `json:"tags"`
	Tooltip     string   `json:"tooltip"`
	Title       string   `json:"title"`
	Type        string   `json:"type"`
	URL         string   `json:"url"`
	TargetBlank bool     `json:"targetBlank"`
}

// List is how Grafana wraps variables and annotations.
type List struct {
	List []map[string]any `json:"list"`
}

// Datasource refers to one; here it is always the variable.
type Datasource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

// Panel is one picture, or the line above a row of them.
type Panel struct {
	ID          int            `json:"id"`
	Type        string         `json:"type"`
	Title       string         `json:"title"`
	Description string         `json:"description,omitempty"`
	Datasource  *Datasource    `json:"datasource,omitempty"`
	GridPos     Grid           `json:"gridPos"`
	Targets     []Target       `json:"targets,omitempty"`
	FieldConfig *FieldConfig   `json:"fieldConfig,omitempty"`
	Options     map[string]any `json:"options,omitempty"`
	Collapsed   *bool          `json:"collapsed,omitempty"`
	Panels      *[]*Panel      `json:"panels,omitempty"`
}

// Grid is a place, in 24 columns.
type Grid struct {
	H int `json:"h"`
	W int `json:"w"`
	X int `json:"x"`
	Y int `json:"y"`
}

// Target is one expression of a panel.
type Target struct {
	RefID        string      `json:"refId"`
	Datasource   *Datasource `json:"datasource"`
	Expr         string      `json:"expr"`
	LegendFormat string      `json:"legendFormat"`
	Format       string      `json:"format,omitempty"`
	Instant      bool        `json:"instant"`
	Range        bool        `json:"range"`
}

// FieldConfig says how values look.
type FieldConfig struct {
	Defaults  map[string]any   `json:"defaults"`
	Overrides []map[string]any `json:"overrides"`
}

var datasource = &Datasource{Type: "prometheus", UID: "${datasource}"}

const columns = 24

// New makes the dashboard.
func New() *Dashboard {
	return &Dashboard{
		UID: "ctsight", Title: "ctsight: conntrack",
		Description: "How full the connection tracking tables are, who fills them, what is lost to which cause, and whether that can be believed. Made by internal/dashboard.",
		Tags:        []string{"conntrack", "ctsight"}, SchemaVersion: 39, Editable: true, GraphTooltip: 1, Refresh: "30s", Timezone: "browser",
		Time:        Range{From: "now-1h", To: "now"},
		Links:       []Link{docs("Runbook", "runbook.md"), docs("Metrics", "metrics.md")},
		Annotations: annotations(), Templating: variables(), Panels: place(rows()),
	}
}

func docs(title, file string) Link {
	return Link{Title: title, Type: "link", Icon: "doc", URL: "https://github.com/ctsight/ctsight/blob/main/docs/" + file, TargetBlank: true, Tags: []string{}}
}

// JSON is the file. It is the same each time.
func JSON() ([]byte, error) {
	data, err := json.MarshalIndent(New(), "", "  ")
	return append(data, '\n'), err
}

// place numbers the panels and puts them side by side, each row under its title.
func place(rows []row) (out []*Panel) {
	y := 0
	add := func(p *Panel, g Grid) {
		p.ID, p.GridPos = len(out)+1, g
		out = append(out, p)
	}
	for _, r := range rows {
		open, none := false, []*Panel{}
		add(&Panel{Type: "row", Title: r.title, Collapsed: &open, Panels: &none}, Grid{H: 1, W: columns, Y: y})
		y++
		x := 0
		for _, p := range r.panels {
			if x+p.width > columns {
				x, y = 0, y+r.height
			}
			add(p.panel(), Grid{H: r.height, W: p.width, X: x, Y: y})
			x += p.width
		}
		y += r.height
	}
	return out
}

// variables choose what is shown. Instances and tables may be several.
func variables() List {
	several := func(name, label, query string) map[string]any {
		return map[string]any{
			"name": name, "label": label, "type": "query", "datasource": datasource, "query": query, "definition": query,
			"refresh": 2, "sort": 1, "multi": true, "includeAll": true, "allValue": ".*",
			"current": map[string]any{"selected": true, "text": []string{"All"}, "value": []string{"$__all"}},
		}
	}
	return List{[]map[string]any{
		{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1, "multi": false, "includeAll": false},
		several("job", "Job", "label_values(ctsight_tracing, job)"),
		several("instance", "Node", `label_values(ctsight_tracing{job=~"$job"}, instance)`),
		several("netns", "Table", `label_values(ctsight_table_entries{job=~"$job", instance=~"$instance"}, netns)`),
	}}
}

// annotations mark when our alerts fire.
func annotations() List {
	return List{[]map[string]any{{
		"name": "Alerts", "enable": true, "iconColor": "red", "datasource": datasource, "step": "60s",
		"expr":        `ALERTS{alertstate="firing", alertname=~"Conntrack.*|Ctsight.*", instance=~"$instance"}`,
		"titleFormat": "{{alertname}}", "textFormat": "{{instance}} {{netns}}", "tagKeys": "severity",
	}}}
}
