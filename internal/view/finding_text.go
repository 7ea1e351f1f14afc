package view

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// FindingWriter writes one line per telling of a finding, as text or as a JSON
// object. Each line is one Write. It is not for concurrent use.
type FindingWriter struct {
	w   io.Writer
	o   FindingOptions
	buf []byte
}

// NewFindingWriter returns a writer of findings to w.
func NewFindingWriter(w io.Writer, o FindingOptions) *FindingWriter {
	return &FindingWriter{w: w, o: o}
}

// Write writes the line of one finding.
func (w *FindingWriter) Write(f *agg.Finding) error {
	if w.o.JSON {
		return WriteFindingJSON(w.w, f, w.o)
	}
	w.buf = append(appendFinding(w.buf[:0], f, w.o), '\n')
	_, err := w.w.Write(w.buf)
	return err
}

// appendFinding writes TIME STATE SEVERITY CLASS [SHAPE] [SOURCE] [netns N] [zone N]: WHY [ID].
func appendFinding(b []byte, f *agg.Finding, o FindingOptions) []byte {
	b = append(told(b, f.Time), ' ')
	b = appendColour(b, o.Color, findingColour(f), safeName(f.State))
	b = appendName(append(b, ' '), f.Severity)
	b = appendColour(append(b, ' '), o.Color, bold, safeName(f.Class))
	if f.Shape != "" {
		b = appendName(append(b, ' '), f.Shape)
	}
	if f.Source.IsValid() {
		b = append(append(b, ' '), SourceText(f.Source)...)
	}
	if f.NetNS != o.Own && f.NetNS != 0 {
		b = append(append(b, " netns "...), o.Names.NetNSText(f.NetNS)...)
	}
	if f.Zone != 0 {
		b = appendUint(append(b, " zone "...), f.Zone)
	}
	b = append(append(b, ": "...), safeText(f.Why)...)
	if f.Suppress != "" {
		b = append(append(append(b, " ("...), safeText(f.Suppress)...), ')')
	}
	return append(appendName(append(b, " ["...), f.ID), ']')
}

func findingColour(f *agg.Finding) string {
	switch {
	case f.State == agg.Cleared:
		return green
	case f.State == agg.Confirmed && f.Severity == agg.Page:
		return red
	case f.State == agg.Confirmed:
		return magenta
	}
	return yellow
}

// WriteFindingWhole writes all that is known of a finding, for somebody who asks why:
// the sentences, the statistic and what it had to reach, the counts and examples.
// Whether a block list takes it is told as of when it was told.
func WriteFindingWhole(w io.Writer, f *agg.Finding, o FindingOptions) error {
	t := &findingText{f: f, o: o}
	t.head()
	t.sentences()
	t.counts()
	t.samples()
	t.trust()
	_, err := io.WriteString(w, t.b.String())
	return err
}

// findingText builds the long form, one fact a line with its name before it.
type findingText struct {
	b strings.Builder
	f *agg.Finding
	o FindingOptions
}

func (t *findingText) line(name, format string, args ...any) {
	fmt.Fprintf(&t.b, "  %-14s %s\n", name, fmt.Sprintf(format, args...))
}

func (t *findingText) head() {
	f := t.f
	words := []string{safeName(f.Class)}
	if f.Shape != "" {
		words = append(words, safeName(f.Shape))
	}
	t.b.Write(appendColour(nil, t.o.Color, bold, strings.Join(words, " ")))
	t.b.WriteByte(' ')
	t.b.Write(appendColour(nil, t.o.Color, findingColour(f), safeName(f.State)))
	fmt.Fprintf(&t.b, " %s [%s]\n", safeName(f.Severity), safeName(f.ID))
	if f.Source.IsValid() {
		t.line("source", "%s", SourceText(f.Source))
	}
	if f.Target != (agg.Target{}) {
		t.line("target", "%s", TargetText(&f.Target))
	}
	if f.NetNS != 0 {
		t.line("netns", "%s", t.o.Names.NetNSText(f.NetNS))
	}
	if f.Zone != 0 {
		t.line("zone", "%d", f.Zone)
	}
	t.line("told", "%s, %s", told(nil, f.Time), times(f.Raised))
	t.line("evidence", "%s to %s (%s)", told(nil, f.First), told(nil, f.Last), span(f.Last.Sub(f.First)))
}

func times(raised int) string {
	switch raised {
	case 0:
		return "not raised yet"
	case 1:
		return "raised once"
	}
	return "raised " + strconv.Itoa(raised) + " times"
}

func (t *findingText) sentences() {
	t.line("why", "%s", safeText(t.f.Why))
	if t.f.WhyNotBenign != "" {
		t.line("not benign", "%s", safeText(t.f.WhyNotBenign))
	}
	t.line("test", "statistic %s, threshold %s", figure(t.f.Statistic), figure(t.f.Threshold))
}

// figure has as many digits as a reader compares.
func figure(f float64) string { return strconv.FormatFloat(f, 'g', 6, 64) }

// counts leaves out what this class does not count.
func (t *findingText) counts() {
	e := &t.f.Evidence
	if e.Contacts > 0 {
		t.line("contacts", "%d: %d refused, %d unanswered, %d half-open, %d invalid, %d answered, %d excused, %d not decided",
			e.Contacts, e.Refused, e.Unanswered, e.HalfOpen, e.Invalid, e.Answered, e.Excused, e.Pending)
	}
	if e.Attempts > 0 {
		t.line("attempts", "%d that failed, repeated ones among them", e.Attempts)
	}
	t.distinct()
	for i, g := range e.Figures {
		t.line(first(i, "figures"), "%s %s", safeName(g.Name), figure(g.Value))
	}
	if len(e.Used) > 0 {
		t.line("known by", "%s", names(e.Used))
	}
}

func (t *findingText) distinct() {
	e := &t.f.Evidence
	var parts []string
	for _, n := range []struct {
		n    uint64
		what string
	}{{e.Dsts, "destinations"}, {e.Dports, "ports"}, {e.Sources, "sources"}} {
		if n.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n.n, n.what))
		}
	}
	if len(parts) == 0 {
		return
	}
	about := ""
	if e.Estimated {
		about = "about "
	}
	t.line("distinct", "%s%s", about, strings.Join(parts, ", "))
}

// first is a name for the first of several lines.
func first(i int, name string) string {
	if i > 0 {
		return ""
	}
	return name
}

func names(all []string) string {
	out := make([]string, len(all))
	for i, s := range all {
		out[i] = safeName(s)
	}
	return strings.Join(out, ", ")
}

func (t *findingText) samples() {
	for i, s := range t.f.Evidence.Samples {
		tuple := zoneless(s.Orig)
		b := append(appendProto(append(appendTime(nil, s.At), ' '), tuple.Proto), ' ')
		t.line(first(i, "for example"), "%s %s", appendTuple(b, &tuple), safeName(s.Outcome))
	}
	if len(t.f.Evidence.Items) > 0 {
		t.line("among them", "%s", names(t.f.Evidence.Items))
	}
}

// trust is what may be done with it, and how much of the events it has seen.
func (t *findingText) trust() {
	f := t.f
	if why := f.Unlisted(f.Time); why != "" {
		t.line("block lists", "do not take it: %s", safeText(why))
	} else {
		t.line("block lists", "take it until %s (%s)", told(nil, f.Expires), span(f.Expires.Sub(f.Time).Round(time.Second)))
	}
	t.line("records", "%d seen, %d of them lost", f.Loss.Seen, f.Loss.Lost)
	if f.Recording != "" {
		t.line("recording", "%s", safeText(f.Recording))
	}
}

// TargetText is what a finding is about on the other side: 10.0.0.1:443/tcp, port
// 22/tcp, an address, or any.
func TargetText(t *agg.Target) string {
	proto := ""
	if t.Proto != 0 {
		proto = event.ProtoName(t.Proto)
	}
	addr := t.Addr.Unmap().WithZone("")
	switch {
	case t.Port != 0 && addr.IsValid():
		return string(appendAddrPort(nil, &event.Tuple{Dst: addr, Dport: t.Port}, false)) + slash(proto)
	case t.Port != 0:
		return "port " + strconv.Itoa(int(t.Port)) + slash(proto)
	case addr.IsValid() && proto != "":
		return addr.String() + " " + proto
	case addr.IsValid():
		return addr.String()
	case proto != "":
		return proto
	}
	return "any"
}

func slash(s string) string {
	if s == "" {
		return ""
	}
	return "/" + s
}
