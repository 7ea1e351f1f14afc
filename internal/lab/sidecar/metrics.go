package sidecar

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Values are the metrics by name and labels, ctsight_ left out, as a library that is
// not ours reads them: `drops_total{reason=table_full}`. Of a histogram it is the
// count.
func (s *Sidecar) Values(t testing.TB) map[string]float64 {
	t.Helper()
	out, err := s.values()
	must(t, err)
	return out
}

func (s *Sidecar) values() (map[string]float64, error) {
	data, err := s.get("/metrics")
	if err != nil {
		return nil, err
	}
	p := expfmt.NewTextParser(model.UTF8Validation)
	all, err := p.TextToMetricFamilies(bytes.NewReader(data))
	out := map[string]float64{}
	for name, f := range all {
		for _, m := range f.Metric {
			out[strings.TrimPrefix(name, "ctsight_")+labels(m)] = value(m)
		}
	}
	return out, err
}

func labels(m *dto.Metric) string {
	var all []string
	for _, l := range m.Label {
		all = append(all, l.GetName()+"="+l.GetValue())
	}
	if all == nil {
		return ""
	}
	slices.Sort(all)
	return "{" + strings.Join(all, ",") + "}"
}

func value(m *dto.Metric) float64 {
	switch {
	case m.Counter != nil:
		return m.Counter.GetValue()
	case m.Histogram != nil:
		return float64(m.Histogram.GetSampleCount())
	}
	return m.Gauge.GetValue()
}

// neverLess says what may not go back: counters, and the counts of histograms.
func neverLess(series string) bool {
	name, _, _ := strings.Cut(series, "{")
	return strings.HasSuffix(name, "_total") || name == "connection_lifetime_seconds"
}

// NeverBack watches the counters until stop is called, which returns how often they
// were looked at, and complains of one that went back or vanished.
func (s *Sidecar) NeverBack(t testing.TB) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	looks := make(chan int, 1)
	go func() {
		n, last := 0, map[string]float64{}
		for ; ctx.Err() == nil; time.Sleep(200 * time.Millisecond) {
			now, err := s.values()
			if err != nil {
				t.Errorf("metrics: %v", err)
				break
			}
			n++
			for k, v := range last {
				if w, ok := now[k]; neverLess(k) && (!ok || w < v) {
					t.Errorf("%s went from %v to %v (there: %v)", k, v, w, ok)
				}
			}
			last = now
		}
		looks <- n
	}()
	return func() int { cancel(); return <-looks }
}

// Sum adds up the series of a name.
func Sum(values map[string]float64, name string) (sum float64) {
	for k, v := range values {
		if n, _, _ := strings.Cut(k, "{"); n == name {
			sum += v
		}
	}
	return sum
}

// Account is `/api/v1/drops`: the ledger of section 5 of the contract.
type Account struct {
	Totals struct {
		New  uint64
		Drop map[string]uint64
	}
	Balance []struct {
		NetNS      uint32 `json:"netns"`
		Counter    string
		Difference *int64
		Note       string
	}
	Loss struct{ Seen, Delivered, Aggregated, Lost uint64 }
}

// Account reads it.
func (s *Sidecar) Account(t testing.TB) (a Account) {
	t.Helper()
	must(t, json.Unmarshal(s.Get(t, "/api/v1/drops"), &a))
	return a
}
