package dashboard

import "strings"

// row is a title with panels of one height under it.
type row struct {
	title  string
	height int
	panels []chart
}

// query is an expression and what its series are called. {} in it stands for the
// matchers of the chosen nodes, {netns} for those of tables.
type query struct {
	expr, legend string
	format       string // "" or heatmap
}

// chart is a panel in few words.
type chart struct {
	width   int
	kind    string // timeseries, stat, heatmap, state-timeline
	title   string
	tells   string // what it shows and what to look for
	unit    string
	queries []query
	style   style
}

// style is what differs from panel to panel of a kind.
type style struct {
	marks    []mark // thresholds
	lines    bool   // marks are drawn as lines
	stack    bool
	bars     bool
	log      bool
	min, max *float64
	overlay  string // series of this name pattern are lines over the stack
	values   map[string]string
	noValue  string
}

// mark is where a colour begins.
type mark struct {
	from  float64
	color string
}

const (
	nodes  = `job=~"$job", instance=~"$instance"`
	tables = nodes + `, netns=~"$netns"`
	window = "[$__rate_interval]"
)

// fillMarks are those of docs/runbook.md: trend, action, critical.
var fillMarks = []mark{{0, "green"}, {0.70, "yellow"}, {0.85, "orange"}, {0.95, "red"}}

func ptr(f float64) *float64 { return &f }

// expression fills in the matchers.
func expression(e string) string {
	for _, r := range []struct{ short, long string }{{"{netns}", "{" + tables + "}"}, {"{}", "{" + nodes + "}"}, {"{,", "{" + nodes + ","}, {"[]", window}} {
		e = strings.ReplaceAll(e, r.short, r.long)
	}
	return e
}

func (c *chart) panel() *Panel {
	p := &Panel{Type: c.kind, Title: c.title, Description: c.tells, Datasource: datasource, Options: c.options(),
		FieldConfig: &FieldConfig{Defaults: c.defaults(), Overrides: c.overrides()}}
	for i, q := range c.queries {
		now := c.kind == "stat"
		p.Targets = append(p.Targets, Target{RefID: string(rune('A' + i)), Datasource: datasource, Expr: expression(q.expr), LegendFormat: q.legend,
			Format: q.format, Instant: now, Range: !now})
	}
	return p
}

func (c *chart) defaults() map[string]any {
	d := map[string]any{"unit": c.unit, "thresholds": c.thresholds(), "color": map[string]any{"mode": "palette-classic"}, "custom": c.custom()}
	if c.kind != "timeseries" {
		d["color"] = map[string]any{"mode": "thresholds"}
	}
	if c.style.min != nil {
		d["min"] = *c.style.min
	}
	if c.style.max != nil {
		d["max"] = *c.style.max
	}
	if c.style.noValue != "" {
		d["noValue"] = c.style.noValue
	}
	if c.style.values != nil {
		m := map[string]any{}
		for v, text := range c.style.values {
			color := "green"
			if v == "0" {
				color = "red"
			}
			m[v] = map[string]any{"text": text, "color": color}
		}
		d["mappings"] = []any{map[string]any{"type": "value", "options": m}}
	}
	return d
}

func (c *chart) thresholds() map[string]any {
	steps := []map[string]any{}
	for i, m := range c.style.marks {
		s := map[string]any{"color": m.color, "value": m.from}
		if i == 0 {
			s["value"] = nil // the base has none
		}
		steps = append(steps, s)
	}
	if len(steps) == 0 {
		steps = append(steps, map[string]any{"color": "green", "value": nil})
	}
	return map[string]any{"mode": "absolute", "steps": steps}
}

func (c *chart) custom() map[string]any {
	switch c.kind {
	case "timeseries":
		m := map[string]any{"drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "showPoints": "never", "spanNulls": false,
			"stacking": map[string]any{"mode": "none"}, "thresholdsStyle": map[string]any{"mode": "off"}, "scaleDistribution": map[string]any{"type": "linear"}}
		if c.style.stack {
			m["stacking"], m["fillOpacity"] = map[string]any{"mode": "normal", "group": "A"}, 40
		}
		if c.style.bars {
			m["drawStyle"], m["fillOpacity"] = "bars", 80
		}
		if c.style.lines {
			m["thresholdsStyle"] = map[string]any{"mode": "dashed"}
		}
		if c.style.log {
			m["scaleDistribution"] = map[string]any{"type": "log", "log": 10}
		}
		return m
	case "state-timeline":
		return map[string]any{"fillOpacity": 70, "lineWidth": 0}
	}
	return map[string]any{}
}

// overrides draw what is no part of the sum as dashed lines over the stack.
func (c *chart) overrides() []map[string]any {
	if c.style.overlay == "" {
		return []map[string]any{}
	}
	set := func(id string, value any) map[string]any { return map[string]any{"id": id, "value": value} }
	return []map[string]any{{
		"matcher": map[string]any{"id": "byRegexp", "options": c.style.overlay},
		"properties": []map[string]any{
			set("custom.stacking", map[string]any{"mode": "none"}),
			set("custom.fillOpacity", 0),
			set("custom.lineStyle", map[string]any{"fill": "dash", "dash": []int{6, 4}}),
		},
	}}
}

func (c *chart) options() map[string]any {
	switch c.kind {
	case "stat":
		return map[string]any{"colorMode": "background", "graphMode": "none", "textMode": "value", "justifyMode": "center", "orientation": "auto",
			"wideLayout": true, "showPercentChange": false, "percentChangeColorMode": "standard",
			"reduceOptions": map[string]any{"calcs": []string{"lastNotNull"}, "fields": "", "values": false}}
	case "heatmap":
		return map[string]any{"calculate": false, "cellGap": 0, "showValue": "never", "exemplars": map[string]any{"color": "rgba(255,0,255,0.7)"}, "yAxis": map[string]any{"unit": c.unit, "axisPlacement": "left"},
			"color":   map[string]any{"mode": "scheme", "fill": "dark-orange", "scheme": "Cividis", "scale": "exponential", "exponent": 0.5, "steps": 64, "reverse": false},
			"legend":  map[string]any{"show": true},
			"tooltip": map[string]any{"mode": "single", "yHistogram": true}, "filterValues": map[string]any{"le": 1e-9}}
	case "state-timeline":
		return map[string]any{"mergeValues": true, "showValue": "never", "rowHeight": 0.9, "legend": map[string]any{"displayMode": "list", "placement": "bottom", "showLegend": false, "calcs": []string{}},
			"tooltip": map[string]any{"mode": "single", "sort": "none"}}
	}
	return map[string]any{"legend": map[string]any{"displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": []string{}},
		"tooltip": map[string]any{"mode": "multi", "sort": "desc"}}
}
