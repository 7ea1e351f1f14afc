package remotewrite

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	writev2 "github.com/prometheus/client_golang/exp/api/remote/genproto/v2"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"
)

func one(mf ...*dto.MetricFamily) []*dto.MetricFamily { return mf }

// unpacked is a batch as a receiver decodes it.
func unpacked(t testing.TB, b *batch) *writev2.Request {
	t.Helper()
	raw, err := snappy.Decode(nil, b.packed)
	must(t, err)
	req := &writev2.Request{}
	must(t, req.UnmarshalVT(raw))
	return req
}

// scraped are the values that a scrape of the text shows, by series as in name: the
// library's writer and parser of text are the oracle.
func scraped(t testing.TB, mfs []*dto.MetricFamily, extra string) map[string]float64 {
	t.Helper()
	var text bytes.Buffer
	for _, mf := range mfs {
		_, err := expfmt.MetricFamilyToText(&text, mf)
		must(t, err)
	}
	p := expfmt.NewTextParser(model.UTF8Validation)
	parsed, err := p.TextToMetricFamilies(&text)
	must(t, err)
	out := map[string]float64{}
	for name, mf := range parsed {
		for _, m := range mf.Metric {
			put := func(suffix string, v float64, more ...string) {
				pairs := append([]string{fmt.Sprintf("__name__=%q", name+suffix), extra}, more...)
				for _, l := range m.Label {
					if l.GetValue() != "" {
						pairs = append(pairs, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
					}
				}
				slices.Sort(pairs)
				out[strings.Join(pairs, ",")] = v
			}
			switch {
			case m.Histogram != nil:
				for _, b := range m.Histogram.Bucket {
					put("_bucket", float64(b.GetCumulativeCount()), "le="+quoted(b.GetUpperBound()))
				}
				put("_sum", m.Histogram.GetSampleSum())
				put("_count", float64(m.Histogram.GetSampleCount()))
			case m.Summary != nil:
				for _, q := range m.Summary.Quantile {
					put("", q.GetValue(), "quantile="+quoted(q.GetQuantile()))
				}
				put("_sum", m.Summary.GetSampleSum())
				put("_count", float64(m.Summary.GetSampleCount()))
			default:
				put("", m.GetCounter().GetValue()+m.GetGauge().GetValue()+m.GetUntyped().GetValue())
			}
		}
	}
	return out
}

// quoted is a bound as OpenMetrics has it.
func quoted(v float64) string {
	s := strconv.FormatFloat(v, 'g', -1, 64)
	if v == math.Trunc(v) && !strings.Contains(s, "e") && !math.IsInf(v, 0) {
		s += ".0"
	}
	return strconv.Quote(s)
}

// TestIsWhatIsScraped compares what is sent with what a scrape shows: labels, values,
// types, help and created timestamps, of anything that can be gathered.
func TestIsWhatIsScraped(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		mfs := anything().Draw(rt, "families")
		b, err := pack(flatten(mfs, map[string]string{"zz": "x", "none": ""}), 1234)
		if err != nil {
			rt.Fatal(err)
		}
		req := unpacked(t, &b)
		want := scraped(t, mfs, `zz="x"`)
		kinds, begun := byName(mfs)
		natives := 0
		for _, ts := range req.Timeseries {
			k := name(t, ts, req)
			n := base(nameLabel(ts, req), ts.Metadata.Type)
			if mf := kinds[n]; mf == nil || ts.Metadata.Type != kinds1[mf.GetType()] || req.Symbols[ts.Metadata.HelpRef] != mf.GetHelp() {
				rt.Fatalf("%s: metadata %v of %v", k, ts.Metadata, kinds[n])
			}
			if ts.CreatedTimestamp != begun[n] {
				rt.Fatalf("%s: created %d, want %d", k, ts.CreatedTimestamp, begun[n])
			}
			if len(ts.Histograms) == 1 {
				natives++
				continue
			}
			v, ok := want[k]
			if got := ts.Samples[0]; !ok || got.Timestamp != 1234 || math.Float64bits(got.Value) != math.Float64bits(v) {
				rt.Fatalf("%s is %v, a scrape shows %v (%v)", k, got, v, ok)
			}
			delete(want, k)
		}
		if len(want) > 0 || b.natives != natives || b.samples() != len(req.Timeseries) {
			rt.Fatalf("only in a scrape: %v; %d natives, %d samples", want, b.natives, b.samples())
		}
	})
}

var kinds1 = map[dto.MetricType]writev2.Metadata_MetricType{dto.MetricType_COUNTER: 1, dto.MetricType_GAUGE: 2, dto.MetricType_HISTOGRAM: 3, dto.MetricType_SUMMARY: 5, dto.MetricType_UNTYPED: 0}

func nameLabel(ts *writev2.TimeSeries, req *writev2.Request) string {
	l := writev2.DesymbolizeLabels(ts.LabelsRefs, req.Symbols, nil)
	return l[slices.Index(l, "__name__")+1]
}

// byName finds families, and since when their first series counts: anything gives all
// of a family the same.
func byName(mfs []*dto.MetricFamily) (kinds map[string]*dto.MetricFamily, begun map[string]int64) {
	kinds, begun = map[string]*dto.MetricFamily{}, map[string]int64{}
	for _, mf := range mfs {
		m := mf.Metric[0]
		kinds[mf.GetName()] = mf
		for _, ts := range []*timestamppb.Timestamp{m.GetCounter().GetCreatedTimestamp(), m.GetHistogram().GetCreatedTimestamp(), m.GetSummary().GetCreatedTimestamp()} {
			if ts != nil {
				begun[mf.GetName()] = ts.AsTime().UnixMilli()
			}
		}
	}
	return kinds, begun
}

// anything is families of all types with odd labels and values.
func anything() *rapid.Generator[[]*dto.MetricFamily] {
	number := rapid.OneOf(rapid.Float64(), rapid.SampledFrom([]float64{0, 1, -1, math.Inf(1), math.Inf(-1), math.NaN(), 1e300}))
	return rapid.Custom(func(t *rapid.T) (out []*dto.MetricFamily) {
		for i := range rapid.IntRange(1, 6).Draw(t, "families") {
			kind := rapid.SampledFrom([]dto.MetricType{dto.MetricType_COUNTER, dto.MetricType_GAUGE, dto.MetricType_UNTYPED, dto.MetricType_SUMMARY, dto.MetricType_HISTOGRAM}).Draw(t, "type")
			mf := &dto.MetricFamily{Name: new(fmt.Sprintf("f%d_x", i)), Help: new(rapid.StringMatching(`[a-zä ]{0,9}`).Draw(t, "help")), Type: kind.Enum()}
			var created *timestamppb.Timestamp
			if rapid.Bool().Draw(t, "created") {
				created = timestamppb.New(time.UnixMilli(rapid.Int64Range(1, 1e13).Draw(t, "at")))
			}
			for j := range rapid.IntRange(1, 4).Draw(t, "metrics") {
				m := &dto.Metric{Label: []*dto.LabelPair{{Name: new("n"), Value: new(fmt.Sprint(j))}, {Name: new("Text"), Value: new(rapid.String().Draw(t, "label"))}}}
				fill(t, m, kind, created, number)
				mf.Metric = append(mf.Metric, m)
			}
			out = append(out, mf)
		}
		return out
	})
}

func fill(t *rapid.T, m *dto.Metric, kind dto.MetricType, created *timestamppb.Timestamp, number *rapid.Generator[float64]) {
	v := number.Draw(t, "value")
	switch kind {
	case dto.MetricType_COUNTER:
		m.Counter = &dto.Counter{Value: &v, CreatedTimestamp: created}
	case dto.MetricType_GAUGE:
		m.Gauge = &dto.Gauge{Value: &v}
	case dto.MetricType_UNTYPED:
		m.Untyped = &dto.Untyped{Value: &v}
	case dto.MetricType_SUMMARY:
		m.Summary = &dto.Summary{SampleCount: new(uint64(7)), SampleSum: &v, CreatedTimestamp: created}
		for _, q := range []float64{0, 0.25, 1} {
			m.Summary.Quantile = append(m.Summary.Quantile, &dto.Quantile{Quantile: new(q), Value: new(number.Draw(t, "quantile"))})
		}
	case dto.MetricType_HISTOGRAM:
		m.Histogram = &dto.Histogram{SampleCount: new(uint64(9)), SampleSum: &v, CreatedTimestamp: created}
		for i, bound := range []float64{0.5, 1, 1e9, math.Inf(1)}[:rapid.IntRange(0, 4).Draw(t, "buckets")] {
			m.Histogram.Bucket = append(m.Histogram.Bucket, &dto.Bucket{UpperBound: new(bound), CumulativeCount: new([]uint64{1, 2, 3, 9}[i])})
		}
		if rapid.Bool().Draw(t, "native") {
			m.Histogram.Schema, m.Histogram.ZeroThreshold = new(int32(0)), new(1e-6)
		}
	}
}

// A native histogram says the same in both forms, and nothing when it is gone.
func TestNative(t *testing.T) {
	src := &source{native: true}
	mfs, _ := src.gather("")
	tr := tracker{}
	b, err := pack(tr.next(flatten(mfs, nil)), 5)
	must(t, err)
	req := unpacked(t, &b)
	ts := req.Timeseries[len(req.Timeseries)-1]
	h := ts.Histograms[0]
	if h.GetCountInt() != 3 || h.Sum != 7.5 || h.GetZeroCountInt() != 1 || h.ZeroThreshold != 1e-6 || h.Schema != 0 || h.Timestamp != 5 ||
		h.PositiveSpans[0].Offset != 1 || h.PositiveSpans[0].Length != 2 || !slices.Equal(h.PositiveDeltas, []int64{1, 0}) {
		t.Errorf("%v", h)
	}
	b, err = pack(tr.next(nil), 6)
	must(t, err)
	for _, ts := range unpacked(t, &b).Timeseries {
		switch {
		case len(ts.Histograms) == 1 && math.Float64bits(ts.Histograms[0].Sum) == 0x7ff0000000000002 && ts.Histograms[0].GetCountInt() == 0 && ts.CreatedTimestamp == 0:
		case len(ts.Samples) == 1 && math.Float64bits(ts.Samples[0].Value) == 0x7ff0000000000002:
		default:
			t.Errorf("not stale: %v", ts)
		}
	}
	if b.samples() != 5 || tr.next(nil) != nil {
		t.Errorf("%d stale markers, want 5, once", b.samples())
	}
}

// What a metric says of itself wins over the configuration, and that over defaults.
func TestLabels(t *testing.T) {
	mf := counterOf("c", 1)
	mf.Metric[0].Label = []*dto.LabelPair{{Name: new("site"), Value: new("own")}}
	all := flatten(one(mf), map[string]string{"site": "ext", "job": "j", "instance": ""})
	if got, want := all[0].labels, []string{"__name__", "c", "job", "j", "site", "own"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// An exemplar goes once, with its labels and time.
func TestExemplars(t *testing.T) {
	mf := counterOf("c", 1)
	at := time.UnixMilli(1700000000500)
	mf.Metric[0].Counter.Exemplar = &dto.Exemplar{Value: new(1.0), Timestamp: timestamppb.New(at), Label: []*dto.LabelPair{{Name: new("src"), Value: new("10.0.0.1")}}}
	tr := tracker{}
	for i, want := range []int{1, 0, 1, 0} {
		if i == 2 {
			mf.Metric[0].Counter.Exemplar = &dto.Exemplar{Value: new(1.0), Timestamp: timestamppb.New(at.Add(time.Second))}
		}
		b, err := pack(tr.next(flatten(one(mf), nil)), 1)
		must(t, err)
		req := unpacked(t, &b)
		es := req.Timeseries[0].Exemplars
		if len(es) != want {
			t.Errorf("%d: %d exemplars, want %d", i, len(es), want)
		}
		if i == 0 && (es[0].Timestamp != at.UnixMilli() || strings.Join(writev2.DesymbolizeLabels(es[0].LabelsRefs, req.Symbols, nil), "=") != "src=10.0.0.1") {
			t.Errorf("%v", es[0])
		}
	}
}
