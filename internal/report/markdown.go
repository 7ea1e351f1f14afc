package report

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/markup"
	"github.com/ctsight/ctsight/internal/view"
)

// ticket is a document in Markdown that is being written.
type ticket struct{ b strings.Builder }

func (t *ticket) say(format string, args ...any) { fmt.Fprintf(&t.b, format+"\n", args...) }

// plain keeps what comes from outside from being markup: Markdown takes HTML too.
var plain = strings.NewReplacer("\\", "\\\\", "|", "\\|", "<", "&lt;", ">", "&gt;", "&", "&amp;", "*", "\\*", "_", "\\_", "`", "\\`", "[", "\\[", "]", "\\]", "#", "\\#", "!", "\\!", "~", "\\~", "$", "\\$")

// row writes a line of a table.
func (t *ticket) row(cells ...string) {
	for i := range cells {
		cells[i] = plain.Replace(cells[i])
	}
	t.say("| %s |", strings.Join(cells, " | "))
}

func (t *ticket) head(cells ...string) {
	t.row(cells...)
	t.say("|%s", strings.Repeat(" --- |", len(cells)))
}

// Rows of the ticket, which somebody reads on a telephone.
const (
	ticketSources  = 5
	ticketMarks    = 25
	ticketFindings = 10
)

// WriteMarkdown writes the report for a ticket: words and the first rows of its tables.
func WriteMarkdown(w io.Writer, d, before *Data) error {
	t := &ticket{}
	t.say("# ctsight report: %s\n", plain.Replace(view.Text(d.Name)))
	if d.Told == 0 {
		t.say("Nothing is in this capture: no entry came or went.\n")
	} else {
		t.say("%s to %s UTC (%s)\n", d.First.UTC().Format(time.DateTime), d.Last.UTC().Format(time.DateTime), view.Span(d.Span()))
		for _, s := range d.sentences() {
			t.say("- %s", plain.Replace(s))
		}
		t.say("")
		t.sources(d)
	}
	if before != nil {
		t.compare(before, d)
	}
	t.marks(d)
	t.findings(d)
	t.say("## Post-mortem\n")
	t.head("part", "question", "answer", "evidence")
	for _, c := range d.Checks() {
		t.row(c.Who, c.Question, c.Answer.String(), c.Evidence)
	}
	t.say("\n## Can this be trusted?\n")
	for _, s := range d.trustSays() {
		t.say("- %s", plain.Replace(s))
	}
	_, err := io.WriteString(w, t.b.String())
	return err
}

func (t *ticket) sources(d *Data) {
	if len(d.Busiest) == 0 {
		return
	}
	t.say("## Busiest sources\n")
	t.head("source", "new", "share", "busiest 10 ms, per second", "lost", "evicted")
	for i := range d.Busiest[:min(ticketSources, len(d.Busiest))] {
		r := &d.Busiest[i]
		t.row(view.AddrText(r.Src), count(r.New), markup.Percent(r.New, d.Totals.New), markup.Rate(r.Peak10ms), count(r.Drops), count(r.Evicted))
	}
	t.say("")
}

func (t *ticket) marks(d *Data) {
	if len(d.Marks) == 0 {
		return
	}
	t.say("## Time line (UTC)\n")
	for _, m := range d.Marks[:min(ticketMarks, len(d.Marks))] {
		t.say("- %s %s: %s", d.moment(d.wall(m.At)), m.Kind, plain.Replace(m.Text))
	}
	if n := len(d.Marks) - ticketMarks; n > 0 {
		t.say("- and %d more", n)
	}
	t.say("")
}

func (t *ticket) findings(d *Data) {
	n := 0
	for i := range d.Findings {
		f := &d.Findings[i]
		if f.State != agg.Confirmed {
			continue
		}
		if n++; n == 1 {
			t.say("## Findings\n")
		}
		if n <= ticketFindings {
			t.say("- **%s** %s to %s: %s", plain.Replace(findingName(f)), d.moment(f.First), d.moment(f.Last), plain.Replace(markup.Sentence(f.Why)))
		}
	}
	if n > ticketFindings {
		t.say("- and %d more", n-ticketFindings)
	}
	if n > 0 {
		t.say("")
	}
}

func (t *ticket) compare(before, after *Data) {
	t.say("## Before and after\n\nBefore: %s (%s). After: %s (%s).\n", plain.Replace(view.Text(before.Name)), span(before), plain.Replace(view.Text(after.Name)), span(after))
	t.head("", "before", "after", "change")
	for _, p := range Compare(before, after) {
		t.row(p.What, p.Before, p.After, p.Change)
	}
	t.say("")
	for _, s := range Shifts(before, after) {
		t.say("- finding %s: **%s** %s", map[bool]string{true: "new", false: "gone"}[s.New], plain.Replace(s.Name), plain.Replace(s.Why))
	}
	t.say("")
}
