package remotewrite

import (
	"bytes"
	"math"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/client_golang/exp/api/remote"
	writev2 "github.com/prometheus/client_golang/exp/api/remote/genproto/v2"
	dto "github.com/prometheus/client_model/go"
)

// stale is the value that ends a series (value.StaleNaN of Prometheus).
var stale = math.Float64frombits(0x7ff0000000000002)

// batch is what was gathered at one time, as it waits. It is kept compressed: a
// scrape of 600 series takes some 15 kB, not 200.
type batch struct {
	at      int64  // Unix ms
	packed  []byte // snappy of a Request of version 2
	floats  int
	natives int
}

// samples is what it counts for.
func (b *batch) samples() int { return b.floats + b.natives }

// pack makes a batch of series.
func pack(all []series, at int64) (batch, error) {
	b := batch{at: at}
	table := writev2.NewSymbolTable()
	req := &writev2.Request{Timeseries: make([]*writev2.TimeSeries, 0, len(all))}
	for i := range all {
		s := &all[i]
		ts := &writev2.TimeSeries{LabelsRefs: table.SymbolizeLabels(s.labels, nil), CreatedTimestamp: max(0, s.created),
			Metadata: metadata(s.family, &table)}
		if s.native != nil {
			ts.Histograms, b.natives = []*writev2.Histogram{native(s, at)}, b.natives+1
		} else {
			ts.Samples, b.floats = []*writev2.Sample{{Value: s.now(), Timestamp: at}}, b.floats+1
		}
		if s.exemplar != nil {
			ts.Exemplars = []*writev2.Exemplar{exemplar(s.exemplar, at, &table)}
		}
		req.Timeseries = append(req.Timeseries, ts)
	}
	req.Symbols = table.Symbols()
	raw, err := req.MarshalVT()
	b.packed = bytes.Clone(snappy.Encode(nil, raw)) // which has room for what does not compress
	return b, err
}

// now is the value to send.
func (s *series) now() float64 {
	if s.gone {
		return stale
	}
	return s.value
}

var kinds = map[dto.MetricType]writev2.Metadata_MetricType{
	dto.MetricType_COUNTER:         writev2.Metadata_METRIC_TYPE_COUNTER,
	dto.MetricType_GAUGE:           writev2.Metadata_METRIC_TYPE_GAUGE,
	dto.MetricType_HISTOGRAM:       writev2.Metadata_METRIC_TYPE_HISTOGRAM,
	dto.MetricType_GAUGE_HISTOGRAM: writev2.Metadata_METRIC_TYPE_GAUGEHISTOGRAM,
	dto.MetricType_SUMMARY:         writev2.Metadata_METRIC_TYPE_SUMMARY,
}

func metadata(mf *dto.MetricFamily, t *writev2.SymbolsTable) *writev2.Metadata {
	return &writev2.Metadata{Type: kinds[mf.GetType()], HelpRef: t.Symbolize(mf.GetHelp()), UnitRef: t.Symbolize(mf.GetUnit())}
}

// native copies a histogram, the buckets of which mean the same in both forms. One
// that is gone has the mark as its sum, and nothing in it.
func native(s *series, at int64) *writev2.Histogram {
	h := s.native
	out := &writev2.Histogram{Schema: h.GetSchema(), ZeroThreshold: h.GetZeroThreshold(), Timestamp: at}
	if s.gone {
		out.Sum, out.Count, out.ZeroCount = stale, &writev2.Histogram_CountInt{}, &writev2.Histogram_ZeroCountInt{}
		return out
	}
	out.Sum = h.GetSampleSum()
	out.Count = &writev2.Histogram_CountInt{CountInt: h.GetSampleCount()}
	out.ZeroCount = &writev2.Histogram_ZeroCountInt{ZeroCountInt: h.GetZeroCount()}
	out.PositiveSpans, out.PositiveDeltas = spans(h.PositiveSpan), h.PositiveDelta
	out.NegativeSpans, out.NegativeDeltas = spans(h.NegativeSpan), h.NegativeDelta
	return out
}

func spans(all []*dto.BucketSpan) []*writev2.BucketSpan {
	out := make([]*writev2.BucketSpan, 0, len(all))
	for _, s := range all {
		out = append(out, &writev2.BucketSpan{Offset: s.GetOffset(), Length: s.GetLength()})
	}
	return out
}

func exemplar(e *dto.Exemplar, at int64, t *writev2.SymbolsTable) *writev2.Exemplar {
	out := &writev2.Exemplar{Value: e.GetValue(), Timestamp: at}
	if e.Timestamp != nil {
		out.Timestamp = e.Timestamp.AsTime().UnixMilli()
	}
	labels := map[string]string{}
	for _, l := range e.Label {
		labels[l.GetName()] = l.GetValue()
	}
	out.LabelsRefs = t.SymbolizeLabels(sorted(labels), nil)
	return out
}

// message returns the batch as the bytes of a Request of version 2, without native
// histograms if those are not wanted.
func (b *batch) message(natives bool) ([]byte, error) {
	raw, err := snappy.Decode(nil, b.packed)
	if err != nil || natives || b.natives == 0 {
		return raw, err
	}
	req, err := b.request()
	if err != nil {
		return nil, err
	}
	return req.MarshalVT()
}

// request is the batch without native histograms.
func (b *batch) request() (*writev2.Request, error) {
	raw, err := snappy.Decode(nil, b.packed)
	if err != nil {
		return nil, err
	}
	req := &writev2.Request{}
	if err := req.UnmarshalVT(raw); err != nil {
		return nil, err
	}
	kept := req.Timeseries[:0]
	for _, ts := range req.Timeseries {
		if len(ts.Samples) > 0 {
			kept = append(kept, ts)
		}
	}
	req.Timeseries = kept
	return req, nil
}

// encode returns the batch as a message of either kind.
func (b *batch) encode(kind remote.WriteMessageType, natives bool) ([]byte, error) {
	if kind == remote.WriteV1MessageType {
		return b.version1()
	}
	return b.message(natives)
}
