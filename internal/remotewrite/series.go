package remotewrite

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"

	dto "github.com/prometheus/client_model/go"
)

// series is one that a receiver stores, with its value of now.
type series struct {
	labels   []string // name and value by turns, sorted by name, __name__ among them
	value    float64
	native   *dto.Histogram // in place of the value
	exemplar *dto.Exemplar  // nil for none, or none that is new
	family   *dto.MetricFamily
	created  int64 // when it began to count, Unix ms; 0 is not known
	gone     bool  // it has no value any more
}

// key tells series apart.
func (s *series) key() string { return strings.Join(s.labels, "\xff") }

// flatten makes series of families as a scrape by Prometheus does that keeps
// native histograms and classic ones (always_scrape_classic_histograms): text has no
// native ones, and rules may be about either. extra are labels for all; what a
// metric says of itself wins over them.
func flatten(mfs []*dto.MetricFamily, extra map[string]string) []series {
	f := &flattener{extra: extra}
	for _, mf := range mfs {
		f.family = mf
		for _, m := range mf.Metric {
			f.metric(m)
		}
	}
	return f.out
}

type flattener struct {
	extra  map[string]string
	family *dto.MetricFamily
	out    []series
}

func (f *flattener) metric(m *dto.Metric) {
	switch {
	case m.Counter != nil:
		s := f.add(m, "", m.Counter.GetValue())
		s.created, s.exemplar = m.Counter.GetCreatedTimestamp().AsTime().UnixMilli(), m.Counter.Exemplar
	case m.Gauge != nil:
		f.add(m, "", m.Gauge.GetValue())
	case m.Untyped != nil:
		f.add(m, "", m.Untyped.GetValue())
	case m.Summary != nil:
		f.summary(m, m.Summary)
	case m.Histogram != nil:
		f.histogram(m, m.Histogram)
	}
}

func (f *flattener) summary(m *dto.Metric, s *dto.Summary) {
	first := len(f.out)
	for _, q := range s.Quantile {
		f.add(m, "", q.GetValue(), "quantile", number(q.GetQuantile()))
	}
	f.add(m, "_sum", s.GetSampleSum())
	f.add(m, "_count", float64(s.GetSampleCount()))
	f.began(first, s.GetCreatedTimestamp().AsTime().UnixMilli())
}

// histogram adds the classic series, which Prometheus wants to end with +Inf, and
// the native one where there is one.
func (f *flattener) histogram(m *dto.Metric, h *dto.Histogram) {
	first, ended := len(f.out), false
	for _, b := range h.Bucket {
		s := f.add(m, "_bucket", float64(b.GetCumulativeCount()), "le", number(b.GetUpperBound()))
		s.exemplar = b.Exemplar
		ended = math.IsInf(b.GetUpperBound(), 1)
	}
	if !ended {
		f.add(m, "_bucket", float64(h.GetSampleCount()), "le", "+Inf")
	}
	f.add(m, "_sum", h.GetSampleSum())
	f.add(m, "_count", float64(h.GetSampleCount()))
	if isNative(h) {
		f.add(m, "", 0).native = h
	}
	f.began(first, h.GetCreatedTimestamp().AsTime().UnixMilli())
}

// isNative is Prometheus' own test: without observations or a zero bucket nothing
// else tells them apart. Counts that are not whole come from nothing that we gather.
func isNative(h *dto.Histogram) bool {
	return h.Schema != nil && h.SampleCountFloat == nil &&
		(h.GetZeroThreshold() > 0 || len(h.PositiveSpan) > 0 || len(h.NegativeSpan) > 0)
}

func (f *flattener) began(first int, created int64) {
	for i := range f.out[first:] {
		f.out[first+i].created = created
	}
}

// add returns the new series, which the next call may move.
func (f *flattener) add(m *dto.Metric, suffix string, v float64, label ...string) *series {
	own := map[string]string{"__name__": f.family.GetName() + suffix}
	for _, l := range m.Label {
		own[l.GetName()] = l.GetValue()
	}
	for i := 0; i < len(label); i += 2 {
		own[label[i]] = label[i+1]
	}
	for name, v := range f.extra {
		if _, has := own[name]; !has {
			own[name] = v
		}
	}
	f.out = append(f.out, series{labels: sorted(own), value: v, family: f.family})
	return &f.out[len(f.out)-1]
}

// sorted leaves out labels without a value, which are the same as none.
func sorted(labels map[string]string) []string {
	pairs := make([][2]string, 0, len(labels))
	for name, v := range labels {
		if v != "" {
			pairs = append(pairs, [2]string{name, v})
		}
	}
	slices.SortFunc(pairs, func(a, b [2]string) int { return cmp.Compare(a[0], b[0]) })
	out := make([]string, 0, 2*len(pairs))
	for _, p := range pairs {
		out = append(out, p[0], p[1])
	}
	return out
}

// number writes le and quantile as OpenMetrics does, and Prometheus 3 stores them.
func number(v float64) string {
	s := strconv.FormatFloat(v, 'g', -1, 64)
	if !strings.ContainsAny(s, "e.IN") {
		s += ".0"
	}
	return s
}

// tracker knows what a receiver was told last.
type tracker struct{ known map[string]series }

// next returns what to tell now: what is there, and once what is there no more. An
// exemplar is told once.
func (t *tracker) next(now []series) []series {
	was := t.known
	t.known = make(map[string]series, len(now))
	for i := range now {
		k := now[i].key()
		t.known[k] = now[i]
		if old, ok := was[k]; ok && sameExemplar(old.exemplar, now[i].exemplar) {
			now[i].exemplar = nil
		}
		delete(was, k)
	}
	for _, s := range was {
		s.gone, s.exemplar, s.created = true, nil, 0
		now = append(now, s)
	}
	return now
}

func sameExemplar(a, b *dto.Exemplar) bool {
	return a != nil && b != nil && a.GetValue() == b.GetValue() && a.GetTimestamp().AsTime().Equal(b.GetTimestamp().AsTime())
}
