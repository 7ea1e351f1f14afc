package view

import (
	"cmp"
	"io"
	"strings"

	"github.com/ctsight/ctsight/internal/event"
)

// WriteReasonsText writes `ctsight help reasons`: a line for every reason and
// every cause.
func WriteReasonsText(w io.Writer, color bool) error {
	var b []byte
	for _, part := range []struct {
		kind  event.Kind
		title string
	}{
		{event.Drop, "reasons of drops: a packet was lost"},
		{event.Note, "reasons of notes: nothing was lost"},
		{event.Invalid, "reasons of invalid packets: conntrack would not track them"},
	} {
		t := &table{indent: "  ", color: color, columns: []tableColumn{{title: "reason"}, {title: "kernel counter"}, {title: "what the kernel did, and what to do"}}}
		for _, r := range event.Reasons {
			if r.Reason.Kind() == part.kind {
				t.add(r.Name, cmp.Or(r.Counter, "none"), sentence(r.Kernel)+" "+upperFirst(sentence(r.Do)))
			}
		}
		b = t.append(heading(b, color, part.title))
	}
	t := &table{indent: "  ", color: color, columns: []tableColumn{{title: "cause"}, {title: "kernel counter"}, {title: "what the kernel did"}}}
	for _, c := range event.Causes {
		t.add(c.Name, cmp.Or(c.Counter, "none"), sentence(c.Kernel))
	}
	b = t.append(heading(b, color, "causes of destroys: why an entry left the table"))
	_, err := w.Write(b[1:]) // without the empty line before the first heading
	return err
}

// sentence ends s with a full stop, if it has no end of its own.
func sentence(s string) string {
	if strings.HasSuffix(s, "?") {
		return s
	}
	return s + "."
}

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

type (
	reasonsDoc struct {
		Reasons []reasonJSON `json:"reasons"`
		Causes  []causeJSON  `json:"causes"`
	}
	reasonJSON struct {
		Name    string   `json:"name"`
		Number  uint8    `json:"number"`
		Event   string   `json:"event"`
		Counter []string `json:"counters"`
		Kernel  string   `json:"kernel"`
		Do      string   `json:"do"`
	}
	causeJSON struct {
		Name    string   `json:"name"`
		Number  uint8    `json:"number"`
		Counter []string `json:"counters"`
		Kernel  string   `json:"kernel"`
	}
)

// WriteReasonsJSON writes the same as one JSON object.
func WriteReasonsJSON(w io.Writer) error {
	return writeJSON(w, reasonsDoc{
		Reasons: convert(event.Reasons, func(r event.ReasonInfo) reasonJSON {
			return reasonJSON{r.Name, uint8(r.Reason), r.Reason.Kind().String(), counters(r.Counter), r.Kernel, r.Do}
		}),
		Causes: convert(event.Causes, func(c event.CauseInfo) causeJSON {
			return causeJSON{c.Name, uint8(c.Cause), counters(c.Counter), c.Kernel}
		}),
	})
}

// counters cuts "drop, insert_failed" and "insert_failed or drop".
func counters(s string) []string {
	out := []string{}
	for _, f := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' }) {
		if f != "or" {
			out = append(out, f)
		}
	}
	return out
}
