package page

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/ctsight/ctsight/internal/svg"
	"github.com/ctsight/ctsight/internal/view"
)

// markup is HTML that is written as it is. A constant becomes it by itself, a
// string only by a conversion, of which there is none: what is not ours is escaped.
type markup string

// writer builds the document.
type writer struct{ b []byte }

// put writes markup in which each {} stands for the next argument: a string is
// escaped, a uint64 is a count, grouped by thousands, an int or float64 a
// coordinate.
func (w *writer) put(format markup, args ...any) {
	for _, a := range args {
		before, after, _ := strings.Cut(string(format), "{}")
		w.b = append(w.b, before...)
		w.arg(a)
		format = markup(after)
	}
	w.b = append(w.b, format...)
}

func (w *writer) arg(a any) {
	switch a := a.(type) {
	case markup:
		w.b = append(w.b, a...)
	case string:
		w.text(a)
	case uint64:
		w.b = appendCount(w.b, a)
	case int:
		w.b = strconv.AppendInt(w.b, int64(a), 10)
	case float64:
		w.b = svg.AppendCoord(w.b, a)
	default:
		w.text(fmt.Sprint(a))
	}
}

// text escapes for content and for attributes in double quotes.
func (w *writer) text(s string) {
	for i := range len(s) {
		switch c := s[i]; c {
		case '&':
			w.b = append(w.b, "&amp;"...)
		case '<':
			w.b = append(w.b, "&lt;"...)
		case '>':
			w.b = append(w.b, "&gt;"...)
		case '"':
			w.b = append(w.b, "&#34;"...)
		case '\'':
			w.b = append(w.b, "&#39;"...)
		default:
			w.b = append(w.b, c)
		}
	}
}

// coord writes numbers of a path, a letter before each.
func (w *writer) coord(command byte, x float64) {
	w.b = svg.AppendCoord(append(w.b, command), x)
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

func count(n uint64) string { return string(appendCount(nil, n)) }

// rate is a number per second.
func rate(r float64) string {
	switch {
	case math.IsNaN(r) || r < 0:
		return "–"
	case r < 9.95 && r != math.Trunc(r):
		return strconv.FormatFloat(r, 'f', 1, 64)
	}
	return count(uint64(math.Round(min(r, 1e18))))
}

// percent of a whole with one digit behind the point, which is cut and not
// rounded: what is not full is never 100.0 %, nor what is something 0.0 %.
func percent(n, of uint64) string {
	switch {
	case of == 0:
		return "–"
	case 0 < n && 1000*float64(n) < float64(of):
		return "<0.1 %"
	}
	return strconv.FormatFloat(math.Floor(1000*float64(n)/float64(of))/10, 'f', 1, 64) + " %"
}

// plural is 1 packet, 2 packets.
func plural(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + many
}

// maxSentence is the most bytes of a sentence from outside.
const maxSentence = 500

// sentence makes one from outside safe to show, and cuts it.
func sentence(s string) string {
	if len(s) <= maxSentence {
		return view.Text(s)
	}
	return view.Text(strings.ToValidUTF8(s[:maxSentence], "")) + "…"
}

// clock is a time of the day, UTC.
func clock(t time.Time) string { return t.UTC().Format("15:04:05") }

// unescape undoes writer.text.
var unescape = strings.NewReplacer("&amp;", "&", "&lt;", "<", "&gt;", ">", "&#34;", `"`, "&#39;", "'")
