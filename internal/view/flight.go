package view

import (
	"io"

	"github.com/ctsight/ctsight/internal/agg"
)

type (
	flightDoc struct {
		Dir      *outside       `json:"dir"` // null where there is none, as all others
		Oldest   *stamp         `json:"oldest"`
		Bytes    *int64         `json:"bytes"`
		Segments *int           `json:"segments"`
		Events   *uint64        `json:"events"`
		Lost     *uint64        `json:"lost"`
		Omitted  *uint64        `json:"omitted"`
		Failing  *outside       `json:"failing"`
		Kept     []recordingDoc `json:"kept"`
	}
	recordingDoc struct {
		Name  outside `json:"name"`
		Dir   outside `json:"dir"`
		Bytes int64   `json:"bytes"`
		Why   outside `json:"why"`
	}
)

// WriteFlightJSON writes how the flight recorder goes, nil for none, as one document.
func WriteFlightJSON(w io.Writer, f *agg.Flight) error {
	doc := flightDoc{Kept: []recordingDoc{}}
	if f == nil {
		return writeJSON(w, doc)
	}
	dir, oldest := outside(f.Dir), stamp(f.Oldest)
	doc.Dir, doc.Oldest, doc.Bytes, doc.Segments, doc.Events, doc.Lost, doc.Omitted = &dir, &oldest, &f.Bytes, &f.Segments, &f.Events, &f.Lost, &f.Omitted
	if f.Err != "" {
		failing := outside(f.Err)
		doc.Failing = &failing
	}
	for _, k := range f.Kept {
		doc.Kept = append(doc.Kept, recordingDoc{outside(k.Name), outside(k.Dir), k.Bytes, outside(k.Why)})
	}
	return writeJSON(w, doc)
}
