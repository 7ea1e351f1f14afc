package metrics

import (
	"bytes"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// accepted are the formats on offer; who does not say what it wants gets text.
var accepted = []expfmt.Format{expfmt.FmtText, expfmt.FmtOpenMetrics_1_0_0, expfmt.FmtOpenMetrics_0_0_1, expfmt.FmtProtoDelim}

// find returns a family, nil when it is not there.
func find(f *family, mfs []*dto.MetricFamily) *dto.MetricFamily {
	for _, mf := range mfs {
		if mf.GetName() == f.name {
			return mf
		}
	}
	return nil
}

// without returns all families but one.
func without(f *family, mfs []*dto.MetricFamily) []*dto.MetricFamily {
	out := make([]*dto.MetricFamily, 0, len(mfs))
	for _, mf := range mfs {
		if mf.GetName() != f.name {
			out = append(out, mf)
		}
	}
	return out
}

// encode writes families without the end of the document.
func encode(f expfmt.Format, mfs []*dto.MetricFamily) ([]byte, error) {
	var b bytes.Buffer
	e := expfmt.NewEncoder(&b, f)
	for _, mf := range mfs {
		if err := e.Encode(mf); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}
