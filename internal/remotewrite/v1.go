package remotewrite

import (
	"math"
	"strings"

	writev2 "github.com/prometheus/client_golang/exp/api/remote/genproto/v2"
	"google.golang.org/protobuf/encoding/protowire"
)

// Fields of prometheus.WriteRequest (prompb/remote.proto and types.proto of Prometheus),
// which the library does not bring.
const (
	v1Series, v1Metadata                              = 1, 3 // of WriteRequest
	v1Labels, v1Samples, v1Exemplars                  = 1, 2, 3
	v1Name, v1Value                                   = 1, 2 // of Label
	v1SampleValue, v1SampleTime                       = 1, 2
	v1ExemplarLabels, v1ExemplarValue, v1ExemplarTime = 1, 2, 3
	v1Type, v1Family, v1Help, v1Unit                  = 1, 2, 4, 5 // of MetricMetadata
)

// version1 says the same in version 1 of the protocol. It has neither created
// timestamps nor native histograms, which receivers of its time mostly refuse.
func (b *batch) version1() ([]byte, error) {
	req, err := b.request()
	if err != nil {
		return nil, err
	}
	var out []byte
	told := map[string]bool{}
	for _, ts := range req.Timeseries {
		out = appendMessage(out, v1Series, series1(ts, req.Symbols))
		if name, m := family1(ts, req.Symbols); !told[name] {
			told[name] = true
			out = appendMessage(out, v1Metadata, m)
		}
	}
	return out, nil
}

func series1(ts *writev2.TimeSeries, symbols []string) []byte {
	out := labels1(nil, v1Labels, ts.LabelsRefs, symbols)
	for _, s := range ts.Samples {
		out = appendMessage(out, v1Samples, point1(nil, v1SampleValue, s.Value, v1SampleTime, s.Timestamp))
	}
	for _, e := range ts.Exemplars {
		m := labels1(nil, v1ExemplarLabels, e.LabelsRefs, symbols)
		out = appendMessage(out, v1Exemplars, point1(m, v1ExemplarValue, e.Value, v1ExemplarTime, e.Timestamp))
	}
	return out
}

func labels1(out []byte, field protowire.Number, refs []uint32, symbols []string) []byte {
	for i := 0; i+1 < len(refs); i += 2 {
		l := appendText(nil, v1Name, symbols[refs[i]])
		out = appendMessage(out, field, appendText(l, v1Value, symbols[refs[i+1]]))
	}
	return out
}

func point1(out []byte, value protowire.Number, v float64, time protowire.Number, at int64) []byte {
	out = protowire.AppendFixed64(protowire.AppendTag(out, value, protowire.Fixed64Type), math.Float64bits(v))
	return protowire.AppendVarint(protowire.AppendTag(out, time, protowire.VarintType), uint64(at))
}

// family1 is the metadata of a series. Its types have the numbers of version 2, and
// a family is known by its name without what classic histograms and summaries add.
func family1(ts *writev2.TimeSeries, symbols []string) (name string, out []byte) {
	for i := 0; i+1 < len(ts.LabelsRefs); i += 2 {
		if symbols[ts.LabelsRefs[i]] == "__name__" {
			name = base(symbols[ts.LabelsRefs[i+1]], ts.Metadata.Type)
		}
	}
	out = protowire.AppendVarint(protowire.AppendTag(out, v1Type, protowire.VarintType), uint64(ts.Metadata.Type))
	out = appendText(out, v1Family, name)
	out = appendText(out, v1Help, symbols[ts.Metadata.HelpRef])
	return name, appendText(out, v1Unit, symbols[ts.Metadata.UnitRef])
}

func appendMessage(out []byte, field protowire.Number, m []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(out, field, protowire.BytesType), m)
}

func appendText(out []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return out
	}
	return protowire.AppendString(protowire.AppendTag(out, field, protowire.BytesType), s)
}

func base(name string, kind writev2.Metadata_MetricType) string {
	var suffixes []string
	switch kind {
	case writev2.Metadata_METRIC_TYPE_HISTOGRAM:
		suffixes = []string{"_bucket", "_sum", "_count"}
	case writev2.Metadata_METRIC_TYPE_SUMMARY:
		suffixes = []string{"_sum", "_count"}
	}
	for _, s := range suffixes {
		if b, ok := strings.CutSuffix(name, s); ok {
			return b
		}
	}
	return name
}
