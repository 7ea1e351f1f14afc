package metrics

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

func histogramFor(t *testing.T, lived ...time.Duration) *dto.Histogram {
	t.Helper()
	s := &agg.Status{Backend: "fentry", Start: start, Lifetimes: agg.Lifetimes{{Proto: event.ProtoTCP, Answered: true}: histogramOf(lived...)}}
	for _, m := range family1(t, gather(t, New(Options{}), s), lifetime).Metric {
		if fmt.Sprint(labelsOf(m, lifetime)) == "[tcp answered]" {
			return m.Histogram
		}
	}
	t.Fatal("no histogram")
	return nil
}

// reference is what client_golang makes of the same observations: schema 0, with
// the source's first bucket as its zero bucket.
func reference(t *testing.T, lived []time.Duration, scale float64) *dto.Histogram {
	t.Helper()
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h", NativeHistogramBucketFactor: 2, NativeHistogramZeroThreshold: math.Ldexp(1, -19)})
	for _, d := range lived {
		h.Observe(d.Seconds() * scale)
	}
	m := &dto.Metric{}
	if err := h.Write(m); err != nil {
		t.Fatal(err)
	}
	return m.Histogram
}

// nativeBuckets are the counts by bucket number, and of the zero bucket.
func nativeBuckets(h *dto.Histogram) map[int]int64 {
	out := map[int]int64{}
	if z := h.GetZeroCount(); z > 0 {
		out[math.MinInt] = int64(z)
	}
	i, at, n := 0, 0, int64(0)
	for _, s := range h.PositiveSpan {
		at += int(s.GetOffset())
		for range s.GetLength() {
			n += h.PositiveDelta[i]
			if n > 0 {
				out[at] = n
			}
			i, at = i+1, at+1
		}
	}
	return out
}

// A lifetime is in the native bucket that it would be in were a second 2^20 us,
// that is 4.6 % shorter than it was, and never elsewhere.
func TestNativeBuckets(t *testing.T) {
	var lived []time.Duration
	for i := range 39 {
		low := time.Microsecond << i
		lived = append(lived, low+low/7, low+low/2, 2*low-time.Microsecond/2)
	}
	lived = append(lived, 0)
	got := histogramFor(t, lived...)
	want := reference(t, lived, 1e6/(1<<20))
	if g, w := fmt.Sprint(nativeBuckets(got)), fmt.Sprint(nativeBuckets(want)); g != w {
		t.Errorf("native buckets\n%s\nwant\n%s", g, w)
	}
	if got.GetSchema() != want.GetSchema() || got.GetZeroThreshold() != want.GetZeroThreshold() || got.GetSampleCount() != want.GetSampleCount() {
		t.Errorf("schema %d, threshold %g, count %d", got.GetSchema(), got.GetZeroThreshold(), got.GetSampleCount())
	}
	plain := nativeBuckets(reference(t, lived, 1))
	for i, n := range nativeBuckets(got) { // without the scale, what is in the last 4.6 % is one bucket further
		if d := n - plain[i]; d < -3 || d > 3 {
			t.Errorf("bucket %d has %d, of %d", i, n, plain[i])
		}
	}
}

// Prometheus refuses a histogram whose buckets are not its count.
func TestNativeAddsUp(t *testing.T) {
	for _, lived := range [][]time.Duration{nil, {0}, {time.Hour}, {1000 * 24 * time.Hour}, {0, time.Second, 300 * 24 * time.Hour}} {
		h, n := histogramFor(t, lived...), int64(0)
		for _, c := range nativeBuckets(h) {
			n += c
		}
		if n != int64(len(lived)) || h.GetSampleCount() != uint64(n) {
			t.Errorf("%v: %d in buckets, count %d", lived, n, h.GetSampleCount())
		}
		if h.GetZeroThreshold() == 0 {
			t.Errorf("%v: not told as native", lived)
		}
	}
}

func TestClassicBuckets(t *testing.T) {
	lived := []time.Duration{0, time.Millisecond, 1023 * time.Microsecond, 1025 * time.Microsecond, 10 * time.Second, 30 * time.Second, 120 * time.Second, 600 * time.Second,
		time.Hour, 5 * 24 * time.Hour}
	h := histogramFor(t, lived...)
	sum := 0.0
	for _, d := range lived {
		sum += d.Seconds()
	}
	if h.GetSampleSum() != sum || h.GetSampleCount() != uint64(len(lived)) {
		t.Errorf("sum %g, want %g; count %d", h.GetSampleSum(), sum, h.GetSampleCount())
	}
	if len(h.Bucket) != len(classicBounds) {
		t.Errorf("%d buckets", len(h.Bucket))
	}
	for _, b := range h.Bucket {
		want := uint64(0)
		for _, d := range lived {
			if d.Seconds() <= b.GetUpperBound() {
				want++
			}
		}
		if b.GetCumulativeCount() != want {
			t.Errorf("le %g: %d, want %d", b.GetUpperBound(), b.GetCumulativeCount(), want)
		}
	}
}
