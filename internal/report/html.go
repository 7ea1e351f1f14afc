package report

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"io"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/report/uplot"
	"github.com/ctsight/ctsight/internal/view"
)

//go:embed report.css
var ownStyle string

//go:embed report.js
var script string

// doc is a document that is being written.
type doc struct {
	*markup.Writer
	data      *Data
	drawnFans []fanSeries // of the picture of the table
	maps      map[string]mapSeries
}

// WriteHTML writes the report as one file that asks for nothing else. before, if not
// nil, is the capture to compare with.
func WriteHTML(w io.Writer, d, before *Data) error {
	x := &doc{Writer: &markup.Writer{}, data: d, maps: map[string]mapSeries{}}
	x.top()
	x.summary()
	if before != nil {
		x.compare(before)
	}
	if d.Told > 0 {
		x.pictures()
	}
	x.checklist()
	x.trust()
	x.bottom()
	_, err := w.Write(x.B)
	return err
}

func (d *doc) pictures() {
	d.timeline()
	d.occupancy()
	d.rates()
	d.sources()
	d.lifetimes()
	d.scanners()
	d.drops()
	d.holders()
	d.capacity()
	d.findings()
}

// hash is what a policy calls a text.
func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

func (d *doc) top() {
	style := markup.Base + uplot.Style + ownStyle
	d.Put(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src {}; script-src {} {}; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>ctsight report: {}</title>
<style>{}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the pictures</a>
<header><h1>ctsight report</h1><p class="soft">{}</p></header>
<main id="main" tabindex="-1">
`, markup.Text(hash(style)), markup.Text(hash(uplot.Script)), markup.Text(hash(script)), view.Text(d.data.Name), markup.Text(style), view.Text(d.data.Name))
}

func (d *doc) bottom() {
	if d.data.Told > 0 {
		d.series()
	}
	from := ""
	if d.data.Plan == nil || d.data.Told > 0 {
		from = " from the capture alone: the same capture gives the same bytes"
	}
	d.Put(`</main>
<footer><p class="soft">Written by ctsight{}. Times are UTC. What each picture shows: docs/report.md; what the words mean: <code>ctsight help reasons</code>.</p></footer>
<!-- uPlot {}
{}-->
<script>{}</script>
<script>{}</script>
</body>
</html>
`, from, uplot.Version, markup.Text(uplot.License), markup.Text(uplot.Script), markup.Text(script))
}

// begin opens a section with its figure, whose caption follows.
func (d *doc) begin(id markup.Text, title string) {
	d.Put(`<section id="{}" aria-labelledby="{}-h"><h2 id="{}-h">{}</h2><figure><figcaption>`, id, id, id, title)
}

// say writes a caption and returns it as text.
func (d *doc) say(text string) {
	d.Put(`{}</figcaption>`, text)
}

const endFigure = `</figure></section>` + "\n"

// summary is the capture in a few sentences.
func (d *doc) summary() {
	x := d.data
	if x.Told == 0 {
		d.Put(`<p class="note"><b>Nothing is in this capture:</b> no entry came or went.</p>`)
		return
	}
	d.Put(`<p class="soft">{} to {} UTC ({})</p>`, x.First.UTC().Format(time.DateTime), x.Last.UTC().Format(time.DateTime), view.Span(x.Span()))
	d.Put(`<ul class="tiles">`)
	for _, t := range x.tiles() {
		d.Put(`<li class="{}"><a href="#{}"><span>{}</span> <b>{}</b> <small>{}</small></a></li>`, t.class, t.to, t.name, t.value, t.under)
	}
	d.Put("</ul>\n<ul class=\"says\">")
	for _, s := range x.sentences() {
		d.Put(`<li>{}</li>`, s)
	}
	d.Put("</ul>\n")
}

// tile is a number at the top.
type tile struct {
	to, class   markup.Text
	name, value string
	under       string
}

func (d *Data) tiles() []tile {
	at, most := d.highest(newOf)
	_, peak := d.highest(peakOf)
	confirmed := d.confirmed()
	out := []tile{
		{"rates", "", "new connections", count(d.Totals.New), markup.Rate(d.mean()) + "/s on average"},
		{"rates", "", "most per second", markup.Rate(d.perSecond(most)), "at " + d.moment(d.at(at))},
		{"rates", "", "busiest 10 ms", count(peak), "= " + count(100*peak) + "/s"},
		{"drops", "", "packets lost", "0", "none in this capture"},
		{"timeline", "", "findings", count(confirmed), markup.Plural(uint64(len(d.Findings)), "with the suspects", "with the suspects")},
	}
	if n := d.lostPackets(); n > 0 {
		out[3].class, out[3].value, out[3].under = "lv3", count(n), "see why and whose"
	} else if !d.tellsDrops() {
		out[3].value, out[3].under = "–", "not known from this capture"
	}
	if confirmed > 0 {
		out[4].class = "lv2"
	}
	if t := d.main(); t != nil {
		x := tile{"occupancy", "", "most entries", count(t.Highest()), "limit not known"}
		if n, limit := t.fullest(); limit > 0 {
			x.name, x.value, x.under = "fullest table", markup.Percent(n, limit), count(n)+" of "+count(limit)
			x.class = [...]markup.Text{"", "lv1", "lv2", "lv3"}[agg.LevelOf(t.fillMost())]
		}
		out = append([]tile{x}, out...)
	}
	return out
}

// main is the table that matters most, nil for none.
func (d *Data) main() *TableData {
	if len(d.Tables) == 0 {
		return nil
	}
	return &d.Tables[0]
}

func (d *Data) mean() float64 {
	if d.Span() <= 0 {
		return 0
	}
	return float64(d.Totals.New) / d.Span().Seconds()
}

func (d *Data) confirmed() (n uint64) {
	for i := range d.Findings {
		if d.Findings[i].State == agg.Confirmed {
			n++
		}
	}
	return n
}

// lostPackets are those lost to conntrack, not to the operator's own rules.
func (d *Data) lostPackets() (n uint64) {
	for _, r := range d.Totals.Drop {
		if !r.Reason.IsRuleset() {
			n += r.Count
		}
	}
	return n
}

// tellsDrops says whether a capture would tell of lost packets: one in text, or of a
// backend that is told of entries only, does not.
func (d *Data) tellsDrops() bool {
	return d.all("fentry", "kprobe", "netfilter") || len(d.Totals.Drop) > 0
}

// tellsCauses says whether a capture would tell why entries ended.
func (d *Data) tellsCauses() bool { return d.all("fentry", "kprobe") }

// all says whether everything was recorded by one of these backends.
func (d *Data) all(backends ...string) bool {
	for _, n := range d.Nodes {
		if n.Backend != "" && !slices.Contains(backends, n.Backend) {
			return false
		}
	}
	return slices.ContainsFunc(d.Nodes, func(n Node) bool { return n.Backend != "" })
}
