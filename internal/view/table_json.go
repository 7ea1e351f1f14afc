package view

import (
	"io"

	"github.com/ctsight/ctsight/internal/agg"
)

// tableDoc is the part of topDoc that is about the tables.
type tableDoc struct {
	From       stamp      `json:"from"`
	To         stamp      `json:"to"`
	Backend    outside    `json:"backend"`
	BestEffort bool       `json:"best_effort,omitempty"`
	Table      []topTable `json:"table"`
}

// WriteTableJSON writes the tables of the namespaces as one JSON object and a
// newline: `table` is what WriteTopJSON has under that name.
func WriteTableJSON(w io.Writer, s *agg.Status, o TopOptions) error {
	doc := tableDoc{From: stamp(s.Start), To: stamp(s.At), Backend: outside(s.Backend), BestEffort: s.BestEffort, Table: []topTable{}}
	for i := range s.Tables {
		doc.Table = append(doc.Table, tableJSON(&s.Tables[i], o))
	}
	return writeJSON(w, doc)
}
