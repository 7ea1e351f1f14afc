// Package page writes the live page of `ctsight serve`: one document of HTML and SVG
// made of a Status. It asks neither the kernel nor the clock; equal Status, equal
// bytes. A script and a style sheet of our own go with it, nothing from elsewhere.
package page

import (
	"io"
	"strings"
	"sync"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/view"
)

// Options are what holds for every document.
type Options struct {
	Names   view.Names
	Version string
	Metrics string // path of the metrics, "" for /metrics
}

// Page writes documents.
type Page struct {
	o       Options
	writers sync.Pool // of *markup.Writer
}

// New returns a Page.
func New(o Options) *Page {
	if o.Metrics == "" {
		o.Metrics = "/metrics"
	}
	return &Page{o: o, writers: sync.Pool{New: func() any { return &markup.Writer{} }}}
}

// doc is a document that is being written.
type doc struct {
	*markup.Writer
	o    *Options
	s    *agg.Status
	past *past
	main *agg.TableState // the table that matters most, nil for none
}

// netnsName is what the tables are called, and namespaces without one.
func (d *doc) netnsName(ns event.NetNS) string {
	for i := range d.s.Tables {
		if d.s.Tables[i].NetNS == ns {
			return d.o.Names.TableText(&d.s.Tables[i])
		}
	}
	return d.o.Names.NetNSText(ns)
}

// sourceRows is how many sources have a strip.
const sourceRows = 10

// Write writes the document of a Status. Its links are relative, so that it can be
// served under any prefix.
func (p *Page) Write(out io.Writer, s *agg.Status) error {
	w := p.writers.Get().(*markup.Writer)
	defer p.writers.Put(w)
	w.B = w.B[:0]
	d := &doc{w, &p.o, s, newPast(s.History, s.At, sourceRows), nil}
	tables := nearest(s.Tables)
	if len(tables) > 0 && tables[0].Err == "" {
		d.main = &tables[0]
	}
	d.top()
	d.Put(`<main id="main" tabindex="-1" data-at="{}">`, markup.Clock(s.At))
	d.state()
	if !s.Waiting || len(s.History) > 0 { // else nothing was ever traced
		d.pictures(tables)
	}
	if len(d.s.Reliefs) > 0 {
		d.reliefs()
	}
	if d.s.Flight != nil {
		d.flight()
	}
	d.Put("</main>\n")
	d.bottom()
	_, err := out.Write(w.B)
	return err
}

func (d *doc) pictures(tables []agg.TableState) {
	d.tiles()
	if len(d.s.Findings) > 0 {
		d.findings()
	}
	d.tables(tables)
	d.rates()
	d.sources()
	d.drops()
	d.lifetimes()
	d.trust()
}

func (d *doc) top() {
	title := "ctsight"
	switch {
	case d.s.Waiting:
		title = "ctsight: waiting"
	case d.main != nil:
		title = "ctsight: " + d.o.Names.TableText(d.main) + " " + fill(d.main)
	}
	d.Put(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{}</title>
<link rel="stylesheet" href="{}">
<link rel="icon" href="{}">
<script src="{}" defer></script>
<noscript><meta http-equiv="refresh" content="10"></noscript>
</head>
<body>
<a class="skip" href="#main">Skip to the pictures</a>
<header><h1>ctsight</h1><p id="state" role="status"><noscript>Every 10 s a new page.</noscript></p><button id="pause" type="button" hidden>Pause</button></header>
`, title, relative(styleFile.Path), relative(iconFile.Path), relative(scriptFile.Path))
}

func relative(path string) string { return strings.TrimPrefix(path, "/") }

// state says what is looked at, and what it can be trusted with.
func (d *doc) state() {
	s := d.s
	d.Put(`<p class="soft">{} UTC`, s.At.UTC().Format("2006-01-02 15:04:05"))
	if s.Backend != "" {
		d.Put(`, backend {}`, view.Name(s.Backend))
	}
	if up := s.At.Sub(s.Start); up > 0 {
		d.Put(`, counts since {} ({})`, s.Start.UTC().Format("2006-01-02 15:04:05"), view.Span(up.Truncate(time.Second)))
	}
	d.Put("</p>\n")
	switch {
	case s.Waiting:
		d.Put(`<p class="note lv2"><b>Nothing is traced now:</b> the probes are being attached, or nf_conntrack is not loaded (<code>modprobe nf_conntrack</code>).</p>`)
	case s.BestEffort:
		d.Put(`<p class="note"><b>Best effort:</b> backend {} cannot tell all destroys, nor the reason of every drop. What rests on them is marked so.</p>`, view.Name(s.Backend))
	}
}

// tile is a number at the top.
type tile struct {
	to, class markup.Text
	name      string
	value     string
	under     string
}

// tiles are the answers to the first questions.
func (d *doc) tiles() {
	s := d.s
	all := []tile{
		{"tables", "", "fullest table", "–", "nothing is known of any"},
		{"rates", "", "new connections/s", markup.Rate(s.Total.S1), markup.Rate(s.Total.S10) + " over 10 s"},
		{"sources", "", "live entries", markup.Count(d.live()), markup.Plural(uint64(s.Tracked), "source", "sources")},
		{"drops", "", "lost in 10 min", markup.Count(d.past.drops), "packets, " + markup.Count(dropped(s.Drops)) + " in all"},
		{"trust", "", "records lost", markup.Count(s.Loss.Lost), "of " + markup.Count(s.Loss.Seen)},
	}
	if t := d.main; t != nil {
		all[0].value, all[0].under = fill(t), d.o.Names.TableText(t)+", "+t.Level.String()
		all[0].class = levelClass[t.Level]
	}
	if d.past.drops > 0 {
		all[3].class = "lv3"
	}
	if s.Loss.Lost > 0 || s.Loss.Residual() != 0 {
		all[4].class = "lv2"
	}
	if open := d.open(); open > 0 {
		all = append(all[:1], append([]tile{{"findings", "lv2", "open findings", markup.Count(open), ""}}, all[1:]...)...)
	}
	d.Put(`<ul class="tiles">`)
	for _, t := range all {
		d.Put(`<li class="{}"><a id="to-{}" href="#{}"><span>{}</span> <b>{}</b> <small>{}</small></a></li>`, t.class, t.to, t.to, t.name, t.value, t.under)
	}
	d.Put("</ul>\n")
}

// live are the entries of all tables. A backend that is not told of all ends does not
// know them; the kernel does.
func (d *doc) live() (n uint64) {
	if !d.s.BestEffort {
		return d.s.Live
	}
	for i := range d.s.Tables {
		n += d.s.Tables[i].Entries
	}
	return n
}

var levelClass = [...]markup.Text{agg.LevelOK: "lv0", agg.LevelTrend: "lv1", agg.LevelAction: "lv2", agg.LevelCritical: "lv3"}

// begin opens a section with its figure, whose caption follows.
func (d *doc) begin(id markup.Text, title string) {
	d.Put(`<section id="{}" aria-labelledby="{}-h"><h2 id="{}-h">{}</h2><figure><figcaption>`, id, id, id, title)
}

const endFigure = `</figure></section>` + "\n"

func (d *doc) bottom() {
	d.Put(`<footer><nav aria-label="More"><a href="{}">metrics</a>`, relative(d.o.Metrics))
	for _, x := range []markup.Text{"top", "drops", "findings", "table", "relief", "flight"} {
		d.Put(` <a href="api/v1/{}">api/v1/{}</a>`, x, x)
	}
	d.Put(`</nav><p class="soft">ctsight {}. Times are UTC. With the script: <kbd>space</kbd> or <kbd>p</kbd> pauses, <kbd>r</kbd> refreshes, <kbd>Tab</kbd> walks. What each picture shows: <a href="https://github.com/ctsight/ctsight/blob/main/docs/page.md">docs/page.md</a>; what the words mean: <code>ctsight help reasons</code>.</p></footer>
</body>
</html>
`, view.Name(d.o.Version))
}
