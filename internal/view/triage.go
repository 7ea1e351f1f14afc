package view

import (
	"fmt"
	"io"
	"strings"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/triage"
)

// TriageOptions say how a triage is shown.
type TriageOptions struct {
	Color bool // text only
	Names Names
}

// triageWidth is where sentences are wrapped. Commands never are: they are to be
// copied as one line.
const triageWidth = 80

const questionWidth = len("legitimate or not") + 1

// WriteTriageText writes a triage on one screen: the tables, a sentence for each
// question, and what to do first.
func WriteTriageText(w io.Writer, d *triage.Doc, o TriageOptions) error {
	s := screen{d: &agg.TopDoc{Table: d.Table, Loss: d.Loss}, o: ScreenOptions{Width: triageWidth, Height: 6 * maxTriageTables, ASCII: true, Color: o.Color, Names: o.Names}}
	t := triageText{o: o}
	t.b = appendColour(t.b, o.Color, bold, "ctsight triage")
	about := d.Focus.NetNS.String()
	if name := tableName(&d.Focus, &o.Names); name != "" {
		about = nameInCells(name)
	}
	t.b = fmt.Appendf(t.b, "  %s  %s  %s  about netns %s\n", d.To.UTC().Format("2006-01-02T15:04:05Z"), span(d.To.Sub(d.From)), nameInCells(d.Backend), about)
	tables := s.gauges()
	for _, l := range tables.lines(tables.n) {
		t.b = append(append(t.b, l.String()...), '\n')
	}
	t.b = append(t.b, '\n')
	for _, f := range d.Findings {
		t.finding(&f)
	}
	t.b = heading(t.b, o.Color, "what to do first, in this order (ctsight does none of it)")
	for i, a := range d.Actions {
		t.action(i+1, &a)
	}
	if len(d.Actions) == 0 {
		t.b = append(t.b, "nothing: the table has room, is not about to be full, and nothing is lost\n"...)
	}
	t.b = append(t.b, '\n')
	for _, l := range s.loss(1) {
		t.b = append(append(t.b, l.String()...), '\n')
	}
	_, err := w.Write(t.b)
	return err
}

// maxTriageTables are the fullest tables, which are shown; the rest shares a line.
const maxTriageTables = 4

type triageText struct {
	b []byte
	o TriageOptions
}

// finding writes a question and what is known. A mark says how bad that is where
// there is no colour.
func (t *triageText) finding(f *triage.Finding) {
	sgr, mark := verdictColour(f.Verdict), "  "
	switch f.Verdict {
	case triage.Suspicious:
		mark = "! "
	case triage.Anomalous:
		mark = "!!"
	}
	indent := strings.Repeat(" ", questionWidth+3)
	for i, line := range wrap(inCells(f.Answer), triageWidth-questionWidth-3) {
		if i == 0 {
			t.b = appendColour(t.b, t.o.Color && sgr != "", sgr, mark)
			t.b = appendColour(append(t.b, ' '), t.o.Color, bold, aligned(inCells(f.Question), questionWidth, false))
		} else {
			t.b = append(t.b, indent...)
		}
		t.b = append(append(t.b, line...), '\n')
	}
}

func (t *triageText) action(n int, a *triage.Action) {
	for i, line := range wrap(inCells(a.What), triageWidth-3) {
		number := "  "
		if i == 0 {
			number = fmt.Sprintf("%d.", n)
		}
		t.b = fmt.Appendf(t.b, "%-2s %s\n", number, line)
	}
	t.b = appendColour(t.b, t.o.Color, cyan, commandText(a.Command))
	t.b = append(t.b, '\n')
	if a.Caution != "" {
		for _, line := range wrap(inCells(a.Caution), triageWidth-3) {
			t.b = append(append(append(t.b, "   "...), line...), '\n')
		}
	}
	if a.Undo != "" {
		t.b = fmt.Appendf(t.b, "   undo: %s\n", commandText(a.Undo))
	}
}

func verdictColour(v triage.Verdict) string {
	switch v {
	case triage.Ordinary:
		return green
	case triage.Suspicious:
		return yellow
	case triage.Anomalous:
		return red
	}
	return ""
}

// commandText is a command as a line that can be copied: its backslashes stay as
// they are. Quoted names are printable ASCII; what is not is no part of any
// command that triage makes.
func commandText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '_'
		}
		return r
	}, s)
}

// wrap cuts text into lines of so many cells, at spaces where there are any.
func wrap(text string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		for {
			if line != "" && cells(line)+1+cells(word) <= width {
				line += " " + word
				break
			}
			if line != "" {
				lines = append(lines, line)
			}
			if line = word; cells(word) <= width {
				break
			}
			r := []rune(word)
			lines, line, word = append(lines, string(r[:width])), "", string(r[width:])
		}
	}
	return append(lines, line)
}

// The JSON of triage.
type (
	triageDoc struct {
		From     stamp             `json:"from"`
		To       stamp             `json:"to"`
		Backend  outside           `json:"backend"`
		Table    []topTable        `json:"table"`
		Focus    topTable          `json:"focus"`
		Memory   triageMemory      `json:"memory"`
		Total    triageTotal       `json:"total"`
		Sources  []topRow          `json:"sources"`
		Targets  []topRow          `json:"targets"`
		Prefixes []topRow          `json:"prefixes"`
		Arrivals []topRow          `json:"arrivals"`
		States   []triageState     `json:"states"`
		Unknown  outside           `json:"states_error,omitempty"` // why there are none
		NAT      *triageNAT        `json:"nat"`                    // null when not known
		Drops    map[string]uint64 `json:"drops"`
		Evicted  map[string]uint64 `json:"evicted"`
		Findings []triageFinding   `json:"findings"`
		Actions  []triageAction    `json:"actions"`
		Loss     ledgerLoss        `json:"loss"`
	}
	triageMemory struct {
		Entry   *int    `json:"entry_bytes"` // with extensions, at most; null when not known
		Buckets uint64  `json:"buckets"`
		Now     *uint64 `json:"bytes"`
		Full    *uint64 `json:"bytes_full"`
	}
	triageTotal struct {
		New  uint64 `json:"new"`
		Live uint64 `json:"live"`
		topRates
	}
	triageState struct {
		Proto   string `json:"proto"`
		State   string `json:"state,omitempty"` // of TCP
		Replied bool   `json:"replied"`
		Assured bool   `json:"assured"`
		Count   uint64 `json:"count"`
		Left    number `json:"left_s"`
	}
	triageNAT struct {
		Entries uint64 `json:"entries"`
		Share   number `json:"share"`
	}
	triageFinding struct {
		Question outside `json:"question"`
		Answer   outside `json:"answer"`
		Verdict  outside `json:"verdict"` // ordinary, suspicious, anomalous, or empty
	}
	triageAction struct {
		What    outside `json:"what"`
		Command outside `json:"command"`
		Caution outside `json:"caution,omitempty"`
		Undo    outside `json:"undo,omitempty"`
	}
)

// WriteTriageJSON writes the triage as one JSON object and a newline.
func WriteTriageJSON(w io.Writer, d *triage.Doc, o TriageOptions) error {
	top := TopOptions{Names: o.Names}
	rows := func(by agg.Dim, t *agg.Top) []topRow {
		out := []topRow{}
		for i := range t.Rows {
			out = append(out, rowJSON(by, &t.Rows[i], top))
		}
		return out
	}
	doc := triageDoc{
		From: stamp(d.From), To: stamp(d.To), Backend: outside(d.Backend), Table: []topTable{}, Focus: tableJSON(&d.Focus, top),
		Memory: memoryJSON(d), Total: triageTotal{d.Arrivals.Total.New, d.Holders.Total.Live, ratesJSON(d.Arrivals.Total.Rates)},
		Sources: rows(agg.BySrc, &d.Holders), Targets: rows(agg.ByDst, &d.Targets), Prefixes: rows(agg.ByPrefix, &d.Prefixes), Arrivals: rows(agg.BySrc, &d.Arrivals),
		States: []triageState{}, Drops: byReason(d.Drops), Evicted: byCause(d.Evicted), Loss: lossJSON(d.Loss),
		Findings: convert(d.Findings, func(f triage.Finding) triageFinding {
			return triageFinding{outside(f.Question), outside(f.Answer), outside(f.Verdict)}
		}),
		Actions: convert(d.Actions, func(a triage.Action) triageAction {
			return triageAction{outside(a.What), outside(a.Command), outside(a.Caution), outside(a.Undo)}
		}),
	}
	for i := range d.Table {
		doc.Table = append(doc.Table, tableJSON(&d.Table[i], top))
	}
	if d.Held == nil {
		doc.Unknown = outside(d.HeldErr)
		return writeJSON(w, doc)
	}
	for _, r := range d.Held.Rows() {
		doc.States = append(doc.States, triageState{event.ProtoName(r.Proto), r.State.String(), r.Replied, r.Assured, r.N, number(r.Left.Seconds())})
	}
	doc.NAT = &triageNAT{Entries: d.Held.NAT}
	if d.Held.N > 0 {
		doc.NAT.Share = number(float64(d.Held.NAT) / float64(d.Held.N))
	}
	return writeJSON(w, doc)
}

func memoryJSON(d *triage.Doc) triageMemory {
	m := triageMemory{Buckets: d.Memory.Buckets}
	if d.Memory.Object > 0 {
		entry, now, full := d.Memory.Object+triage.Extensions, d.Memory.Bytes(d.Focus.Entries), d.Memory.Bytes(d.Focus.Max)
		m.Entry, m.Now, m.Full = &entry, &now, &full
	}
	return m
}
