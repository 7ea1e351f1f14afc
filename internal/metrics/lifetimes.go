package metrics

import (
	"math"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ctsight/ctsight/internal/agg"
)

// classicBounds are the powers of two microseconds that end the classic buckets.
// All are borders of the source histogram, so no count is guessed: from 1 ms to
// 19 h, between them the kernel's timeouts (10, 30, 120, 600 s, 1 h). What lived
// longer, an idle TCP connection its five days, is beyond the last.
var classicBounds = [...]int{10, 14, 17, 20, 23, 25, 27, 29, 32, 36}

// nativeShift is what the exponent of a native bucket is lower than that of the
// microseconds it stands for. Native buckets of schema 0 end at powers of two
// seconds; the source's end at powers of two microseconds, and 2^20 us are
// 1.048576 s. A whole source bucket goes into the native bucket that it overlaps
// by 95 %, so each native bound is 4.6 % lower than the time it stands for; sum
// and count are exact. A finer schema would need to be told where in its octave
// a lifetime was, which nobody knows.
const nativeShift = 20

// lifetimes adds up histograms by the labels of the metric.
type lifetimes struct {
	sum     time.Duration
	buckets [len(agg.Histogram{}.Buckets)]uint64
}

// histogram is one connection_lifetime_seconds, classic and native in one.
type histogram struct {
	lifetimes
	start  time.Time
	labels []*dto.LabelPair
}

func lifetimeBlock(s *agg.Status) *block {
	by := map[[2]string]*lifetimes{}
	for k, h := range s.Lifetimes {
		l := [2]string{protoGroup(k.Proto), outcome(k.Answered)}
		if by[l] == nil {
			by[l] = &lifetimes{}
		}
		by[l].add(h)
	}
	b := &block{}
	for _, proto := range protoGroups {
		for _, answered := range []bool{true, false} {
			l := [2]string{proto, outcome(answered)}
			h := &histogram{start: s.Start, labels: prometheus.MakeLabelPairs(lifetime.desc, l[:])}
			if known := by[l]; known != nil {
				h.lifetimes = *known
			}
			b.add(h)
			b.n += len(classicBounds) + 2 // +Inf, sum and count
		}
	}
	return b
}

func outcome(answered bool) string {
	if answered {
		return "answered"
	}
	return "unanswered"
}

func (l *lifetimes) add(h *agg.Histogram) {
	l.sum += h.Sum
	for i, n := range h.Buckets {
		l.buckets[i] += n
	}
}

// Desc implements prometheus.Metric.
func (h *histogram) Desc() *prometheus.Desc { return lifetime.desc }

// Write implements prometheus.Metric.
func (h *histogram) Write(out *dto.Metric) error {
	d := &dto.Histogram{SampleSum: new(h.sum.Seconds()), SampleCount: new(h.below(len(h.buckets)))}
	if !h.start.IsZero() {
		d.CreatedTimestamp = timestamppb.New(h.start)
	}
	for _, p := range classicBounds {
		d.Bucket = append(d.Bucket, &dto.Bucket{UpperBound: new(bound(p)), CumulativeCount: new(h.below(p))})
	}
	h.native(d)
	out.Label, out.Histogram = h.labels, d
	return nil
}

// bound is 2^p microseconds in seconds.
func bound(p int) float64 { return math.Ldexp(1, p) / 1e6 }

// below counts what is in the buckets before i: bucket i begins at 2^i us, so
// that is what lived for less. A lifetime that is a bound to the nanosecond
// counts as longer, where Prometheus would have it counted below.
func (l *lifetimes) below(i int) (n uint64) {
	for _, c := range l.buckets[:i] {
		n += c
	}
	return n
}

// native writes the buckets of schema 0, of which number i ends at 2^i s. The
// first of the source, which begins at 0, is the zero bucket.
func (h *histogram) native(d *dto.Histogram) {
	d.Schema = new(int32(0))
	d.ZeroThreshold = new(math.Ldexp(1, 1-nativeShift))
	d.ZeroCount = new(h.buckets[0])
	used := func(n uint64) bool { return n > 0 }
	rest := h.buckets[1:]
	first := slices.IndexFunc(rest, used)
	if first < 0 {
		return
	}
	for len(rest) > 0 && rest[len(rest)-1] == 0 {
		rest = rest[:len(rest)-1]
	}
	// rest[i] is source bucket i+1, from 2^(i+1) to 2^(i+2) us.
	d.PositiveSpan = []*dto.BucketSpan{{Offset: new(int32(first + 2 - nativeShift)), Length: new(uint32(len(rest) - first))}}
	last := int64(0)
	for _, n := range rest[first:] {
		d.PositiveDelta = append(d.PositiveDelta, int64(n)-last)
		last = int64(n)
	}
}
