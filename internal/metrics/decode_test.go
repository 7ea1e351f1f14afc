package metrics

import (
	"bytes"
	"errors"
	"io"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// decode reads a whole document.
func decode(t testing.TB, f expfmt.Format, doc []byte) (out []*dto.MetricFamily) {
	t.Helper()
	d := expfmt.NewDecoder(bytes.NewReader(doc), f)
	for {
		mf := &dto.MetricFamily{}
		err := d.Decode(mf)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		out = append(out, mf)
	}
}
