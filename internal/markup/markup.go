// Package markup writes documents of HTML: what is not ours is escaped, numbers are
// written as people read them, tables are such that can be walked to. It knows nothing
// of what is written.
package markup

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/ctsight/ctsight/internal/svg"
	"github.com/ctsight/ctsight/internal/view"
)

// Text is HTML that is written as it is. A constant becomes it by itself, a
// string only by a conversion, of which there is none: what is not ours is escaped.
type Text string

// Writer builds a document in B.
type Writer struct{ B []byte }

// Put writes markup in which each {} stands for the next argument: a string is
// escaped, a uint64 is a count, grouped by thousands, an int or float64 a
// coordinate.
func (w *Writer) Put(format Text, args ...any) {
	for _, a := range args {
		before, after, _ := strings.Cut(string(format), "{}")
		w.B = append(w.B, before...)
		w.arg(a)
		format = Text(after)
	}
	w.B = append(w.B, format...)
}

func (w *Writer) arg(a any) {
	switch a := a.(type) {
	case Text:
		w.B = append(w.B, a...)
	case string:
		w.escape(a)
	case uint64:
		w.B = appendCount(w.B, a)
	case int:
		w.B = strconv.AppendInt(w.B, int64(a), 10)
	case float64:
		w.B = svg.AppendCoord(w.B, a)
	default:
		w.escape(fmt.Sprint(a))
	}
}

// escape escapes for content and for attributes in double quotes.
func (w *Writer) escape(s string) {
	for i := range len(s) {
		switch c := s[i]; c {
		case '&':
			w.B = append(w.B, "&amp;"...)
		case '<':
			w.B = append(w.B, "&lt;"...)
		case '>':
			w.B = append(w.B, "&gt;"...)
		case '"':
			w.B = append(w.B, "&#34;"...)
		case '\'':
			w.B = append(w.B, "&#39;"...)
		default:
			w.B = append(w.B, c)
		}
	}
}

// Coord writes numbers of a path, a letter before each.
func (w *Writer) Coord(command byte, x float64) {
	w.B = svg.AppendCoord(append(w.B, command), x)
}

// appendCount writes 1234567 as 1,234,567.
func appendCount(b []byte, n uint64) []byte {
	var digits [20]byte
	d := strconv.AppendUint(digits[:0], n, 10)
	for i, c := range d {
		if i > 0 && (len(d)-i)%3 == 0 {
			b = append(b, ',')
		}
		b = append(b, c)
	}
	return b
}

// Count is 1,234,567.
func Count(n uint64) string { return string(appendCount(nil, n)) }

// Rate is a number per second.
func Rate(r float64) string {
	switch {
	case math.IsNaN(r) || r < 0:
		return "–"
	case r < 9.95 && r != math.Trunc(r):
		return strconv.FormatFloat(r, 'f', 1, 64)
	}
	return Count(uint64(math.Round(min(r, 1e18))))
}

// Percent of a whole with one digit behind the point, which is cut and not
// rounded: what is not full is never 100.0 %, nor what is something 0.0 %.
func Percent(n, of uint64) string {
	switch {
	case of == 0:
		return "–"
	case 0 < n && 1000*float64(n) < float64(of):
		return "<0.1 %"
	}
	return strconv.FormatFloat(math.Floor(1000*float64(n)/float64(of))/10, 'f', 1, 64) + " %"
}

// Plural is 1 packet, 2 packets.
func Plural(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return Count(n) + " " + many
}

// maxSentence is the most bytes of a sentence from outside.
const maxSentence = 500

// Sentence makes one from outside safe to show, and cuts it.
func Sentence(s string) string {
	if len(s) <= maxSentence {
		return view.Text(s)
	}
	return view.Text(strings.ToValidUTF8(s[:maxSentence], "")) + "…"
}

// Clock is a time of the day, UTC.
func Clock(t time.Time) string { return t.UTC().Format("15:04:05") }

// unescape undoes Writer.escape.
var unescape = strings.NewReplacer("&amp;", "&", "&lt;", "<", "&gt;", ">", "&#34;", `"`, "&#39;", "'")

// Strip takes tags away and undoes the escapes of a Writer: for titles and for those who
// do not see a picture.
func Strip(b []byte) string {
	out := make([]byte, 0, len(b))
	in := false
	for _, c := range b {
		switch {
		case c == '<':
			in = true
		case c == '>':
			in = false
		case !in:
			out = append(out, c)
		}
	}
	return unescape.Replace(string(out))
}

// Short writes a number of an axis in few characters: 65.5k.
func Short(n uint64) string {
	unit := ""
	f := float64(n)
	for _, u := range []string{"k", "M", "G", "T", "P", "E"} {
		if f < 10000 && (f < 1000 || math.Mod(f, 100) != 0) || f < 1000 {
			break
		}
		f, unit = f/1000, u
	}
	if unit == "" {
		return Count(n)
	}
	return svg.Coord(f) + unit
}
