package markup

import "strings"

// Numbers opens the table of a figure's numbers; columns with a # are numbers.
func (w *Writer) Numbers(id Text, columns ...string) {
	w.Put(`<details id="{}-n"><summary id="{}-s">Numbers</summary>`, id, id)
	w.List(id, "Numbers", columns...)
}

// List opens a table, which can be walked to and scrolled.
func (w *Writer) List(id Text, name string, columns ...string) {
	w.Put(`<div class="wide" id="{}-w" tabindex="0" role="region" aria-label="{}"><table><thead><tr>`, id, name)
	for _, c := range columns {
		if c, number := strings.CutPrefix(c, "#"); number {
			w.Put(`<th class="n" scope="col">{}</th>`, c)
		} else {
			w.Put(`<th scope="col">{}</th>`, c)
		}
	}
	w.Put(`</tr></thead><tbody>`)
}

// Row writes one: counts and rates stand at the right, words at the left.
func (w *Writer) Row(cells ...any) {
	w.Put(`<tr>`)
	for _, c := range cells {
		switch c := c.(type) {
		case uint64:
			w.Put(`<td class="n">{}</td>`, c)
		case Number:
			w.Put(`<td class="n">{}</td>`, string(c))
		case Prose:
			w.Put(`<td class="t">{}</td>`, string(c))
		case Portion:
			w.Put(`<td class="bar"><svg class="bar lost" width="100%" height="10" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true"><rect class="part" width="{}" height="10"/></svg></td>`,
				100*float64(c.Part)/float64(max(1, c.Of)))
		default:
			w.Put(`<td>{}</td>`, c)
		}
	}
	w.Put(`</tr>`)
}

// Number is a cell that is no plain count, Prose one whose lines are broken, Portion
// one with a bar.
type (
	Number  string
	Prose   string
	Portion struct{ Part, Of uint64 }
)

// Ends of what List and Numbers open.
const (
	EndList    Text = `</tbody></table></div>`
	EndNumbers      = EndList + `</details>`
)
