package export

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/record"
	"github.com/ctsight/ctsight/internal/record/capture"
	"github.com/ctsight/ctsight/internal/view"
)

// TestSizes: on the public captures that have events enough, a recording takes 12 bytes
// an event at most, and less than Parquet and JSON lines with zstd.
func TestSizes(t *testing.T) {
	files, _ := filepath.Glob("../../../../shared/data/replay/*.ctr.tsv.gz")
	if len(files) == 0 {
		t.Skip("the public captures are not here: ../shared/data")
	}
	for _, path := range files {
		var events []event.Event
		r, err := record.Open(path, nil)
		must(t, err)
		for {
			var e event.Event
			if _, err := r.Read(&e); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			if e.Kind != 0 {
				events = append(events, e)
			}
		}
		r.Close()
		if len(events) < 5000 {
			continue
		}
		var own, pq, jl counter
		c, err := capture.NewWriter(&own, capture.Header{})
		must(t, err)
		must(t, c.Events(events))
		must(t, c.Close(nil))
		exported(t, NewParquet(&pq, record.Clock()), events)
		z, err := zstd.NewWriter(&jl)
		must(t, err)
		var line bytes.Buffer
		w := view.NewEventWriter(&line, view.EventOptions{JSON: true, Clock: record.Clock()})
		for i := range events {
			line.Reset()
			must(t, w.Write(&events[i]))
			_, err := z.Write(line.Bytes())
			must(t, err)
		}
		must(t, z.Close())
		n := float64(len(events))
		t.Logf("%-40s %7d events: %5.1f bytes each, Parquet %5.1f, JSON lines with zstd %5.1f", filepath.Base(path), len(events), float64(own)/n, float64(pq)/n, float64(jl)/n)
		if float64(own) > 12*n || own > pq || own > jl {
			t.Errorf("%s: %d bytes, Parquet %d, JSON lines %d", path, own, pq, jl)
		}
	}
}
