package view

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/ctsight/ctsight/internal/agg"
)

// WriteExplanation writes a finding whole and its evidence piece by piece, with what
// each has counted and where the tests were after it. As JSON it is one document.
func WriteExplanation(w io.Writer, x *agg.Explanation, o FindingOptions) error {
	if o.JSON {
		return writeJSON(w, explanationDoc{Finding: findingJSON(&x.Finding, o), First: weighedJSON(x.First), Between: x.Between, Last: weighedJSON(x.Last)})
	}
	if err := WriteFindingWhole(w, &x.Finding, o); err != nil {
		return err
	}
	var b strings.Builder
	if len(x.First) == 0 && x.Between == 0 {
		b.WriteString("\nno evidence piece by piece: the figures above are all that this class rests on\n")
	} else {
		fmt.Fprintf(&b, "\nthe evidence, %d pieces: when it was known, the contact, what it has counted, where the tests were after it\n",
			uint64(len(x.First)+len(x.Last))+x.Between)
	}
	for i := range x.First {
		writeWeighed(&b, &x.First[i])
	}
	if x.Between > 0 {
		fmt.Fprintf(&b, "  ... %d more (--steps) ...\n", x.Between)
	}
	for i := range x.Last {
		writeWeighed(&b, &x.Last[i])
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeWeighed writes TIME OUTCOME PROTO TUPLE INCREMENT TEST STATISTIC, ... (NOTE).
func writeWeighed(w *strings.Builder, p *agg.Weighed) {
	t := zoneless(p.Contact.Orig)
	b := append(told([]byte("  "), p.Time), ' ')
	b = appendProto(append(fmt.Appendf(b, "%-10s", safeName(p.Contact.Outcome)), ' '), t.Proto)
	b = fmt.Appendf(appendTuple(append(b, ' '), &t), " %+.3f", p.Increment)
	for i, k := range p.Tests {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendFloat(append(append(append(b, ' '), safeText(k.Key)...), ' '), k.Statistic, 'f', 3, 64)
	}
	if p.Note != "" {
		b = append(append(append(b, " ("...), safeText(p.Note)...), ')')
	}
	w.Write(append(b, '\n'))
}

type (
	explanationDoc struct {
		Finding findingDoc   `json:"finding"`
		First   []weighedDoc `json:"steps"`
		Between uint64       `json:"steps_left_out"`
		Last    []weighedDoc `json:"last_steps"`
	}
	weighedDoc struct {
		Time      stamp         `json:"time"`
		Contact   findingSample `json:"contact"`
		Increment *float64      `json:"increment"`
		Tests     []testedDoc   `json:"tests"`
		Note      outside       `json:"note,omitempty"`
	}
	testedDoc struct {
		Key       outside  `json:"key"`
		Statistic *float64 `json:"statistic"`
	}
)

func weighedJSON(all []agg.Weighed) []weighedDoc {
	out := make([]weighedDoc, len(all))
	for i, p := range all {
		out[i] = weighedDoc{Time: stamp(p.Time), Contact: findingSample(p.Contact), Increment: finite(p.Increment), Tests: []testedDoc{}, Note: outside(p.Note)}
		for _, k := range p.Tests {
			out[i].Tests = append(out[i].Tests, testedDoc{outside(k.Key), finite(k.Statistic)})
		}
	}
	return out
}
