package remotewrite

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/exp/api/remote"
	writev2 "github.com/prometheus/client_golang/exp/api/remote/genproto/v2"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ctsight/ctsight/internal/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// point is what a receiver stores of one series at one time.
type point struct {
	at     int64
	value  float64
	native *writev2.Histogram
}

// store is a receiver: the library's own handler takes messages apart.
type store struct {
	*httptest.Server
	handler http.Handler

	mu       sync.Mutex
	accepted []*writev2.Request
	headers  []http.Header
	answers  []func(http.ResponseWriter, *http.Request) bool // of the next requests; true answers
	count    int
}

func newStore(t testing.TB, kinds ...remote.WriteMessageType) *store {
	s := &store{}
	if kinds == nil {
		kinds = []remote.WriteMessageType{remote.WriteV2MessageType}
	}
	s.handler = remote.NewWriteHandler(s, kinds)
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	var first func(http.ResponseWriter, *http.Request) bool
	s.count++
	if len(s.answers) > 0 {
		first, s.answers = s.answers[0], s.answers[1:]
	}
	s.mu.Unlock()
	if first != nil && first(w, r) {
		return
	}
	s.handler.ServeHTTP(w, r)
}

// next says what becomes of the next requests, one after the other.
func (s *store) next(f ...func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = append(s.answers, f...)
}

// says answers with a status and pairs of headers.
func says(code int, header ...string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		http.Error(w, "because", code)
		return true
	}
}

// Store implements what the library's handler calls.
func (s *store) Store(r *http.Request, _ remote.WriteMessageType) (*remote.WriteResponse, error) {
	w := remote.NewWriteResponse()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return w, err
	}
	req := &writev2.Request{}
	if err := req.UnmarshalVT(b); err != nil {
		w.SetStatusCode(http.StatusBadRequest)
		return w, err
	}
	for _, ts := range req.Timeseries {
		w.Samples += len(ts.Samples)
		w.Histograms += len(ts.Histograms)
		w.Exemplars += len(ts.Exemplars)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accepted, s.headers = append(s.accepted, req), append(s.headers, r.Header)
	return w, nil
}

func (s *store) requests() []*writev2.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.accepted)
}

func (s *store) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// points are all values, by series.
func (s *store) points(t testing.TB) map[string][]point {
	out := map[string][]point{}
	for _, req := range s.requests() {
		for _, ts := range req.Timeseries {
			k := name(t, ts, req)
			for _, p := range ts.Samples {
				out[k] = append(out[k], point{at: p.Timestamp, value: p.Value})
			}
			for _, h := range ts.Histograms {
				out[k] = append(out[k], point{at: h.Timestamp, native: h})
			}
		}
	}
	return out
}

// name is a series as text, and its labels are in order.
func name(t testing.TB, ts *writev2.TimeSeries, req *writev2.Request) string {
	t.Helper()
	labels := writev2.DesymbolizeLabels(ts.LabelsRefs, req.Symbols, nil)
	var pairs []string
	for i := 0; i < len(labels); i += 2 {
		if i > 0 && labels[i] <= labels[i-2] {
			t.Errorf("labels are not sorted: %q", labels)
		}
		if labels[i] == "" || labels[i+1] == "" {
			t.Errorf("an empty label: %q", labels)
		}
		pairs = append(pairs, fmt.Sprintf("%s=%q", labels[i], labels[i+1]))
	}
	return strings.Join(pairs, ",")
}

// source is what is gathered: counters c0, c1, ... which have the number of the
// gathering as their value.
type source struct {
	mu     sync.Mutex
	series []string
	n      int
	native bool
}

func (s *source) gather(string) ([]*dto.MetricFamily, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	var out []*dto.MetricFamily
	for _, name := range s.series {
		out = append(out, counterOf(name, float64(s.n)))
	}
	if s.native {
		out = append(out, &dto.MetricFamily{Name: new("h_seconds"), Type: dto.MetricType_HISTOGRAM.Enum(), Metric: []*dto.Metric{{Histogram: &dto.Histogram{
			SampleCount: new(uint64(3)), SampleSum: new(7.5), Schema: new(int32(0)), ZeroThreshold: new(1e-6), ZeroCount: new(uint64(1)),
			PositiveSpan: []*dto.BucketSpan{{Offset: new(int32(1)), Length: new(uint32(2))}}, PositiveDelta: []int64{1, 0},
			Bucket: []*dto.Bucket{{UpperBound: new(2.0), CumulativeCount: new(uint64(2))}},
		}}}})
	}
	return out, nil
}

func (s *source) set(series ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.series = series
}

func (s *source) gathered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

func counterOf(name string, v float64) *dto.MetricFamily {
	return &dto.MetricFamily{Name: new(name), Help: new("Counts."), Type: dto.MetricType_COUNTER.Enum(), Metric: []*dto.Metric{
		{Counter: &dto.Counter{Value: new(v), CreatedTimestamp: timestamppb.New(time.UnixMilli(1700000000123))}}}}
}

// logged is what is said.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

// lines are those with a text in them.
func (l *logged) lines(text string) (out []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.buf.String()) {
		if strings.Contains(line, text) {
			out = append(out, line)
		}
	}
	return out
}

// bench is a Sender that runs until the test ends.
type bench struct {
	*Sender
	src  *source
	log  *logged
	stop func()
}

// quick are limits for tests: nobody waits long, and a machine that stands still for a
// while loses nothing.
func quick(l *limits) {
	l.timeout, l.backoffMin, l.backoffMax, l.finish = patience, time.Millisecond, 5*time.Millisecond, patience
	l.bytes, l.batches = 1<<30, 1<<20
}

func start(t testing.TB, change func(*limits), cfgs ...config.RemoteWrite) *bench {
	t.Helper()
	b := &bench{src: &source{series: []string{"c0", "c1"}}, log: &logged{}}
	b.Sender = New(Options{Gather: b.src.gather, Instance: "gw1", Version: "test", Log: slog.New(slog.NewTextHandler(b.log, nil))})
	quick(&b.limits)
	if change != nil {
		change(&b.limits)
	}
	b.reload(t, cfgs...)
	b.run(t)
	return b
}

func (b *bench) run(t testing.TB) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		must(t, <-ended)
	})
	t.Cleanup(func() {
		b.stop()
		for url, a := range b.Accounts() {
			if sum := a.Sent + a.Failed + a.Dropped + a.Pending; sum != a.Gathered || a.Pending != 0 {
				t.Errorf("account of %s at the end: %+v", url, a)
			}
		}
		if t.Failed() {
			t.Log(b.log.buf.String())
		}
	})
}

func (b *bench) reload(t testing.TB, cfgs ...config.RemoteWrite) {
	t.Helper()
	change, err := b.Hook(t.Context(), nil, &config.Config{RemoteWrite: cfgs})
	must(t, err)
	change.Commit()
}

// account is that of the only receiver, and adds up.
func (b *bench) account(t testing.TB) Account {
	t.Helper()
	all := slices.Collect(maps.Values(b.Accounts()))
	if len(all) != 1 {
		t.Fatalf("%d receivers", len(all))
	}
	a := all[0]
	if a.Sent+a.Failed+a.Dropped+a.Pending != a.Gathered {
		t.Fatalf("account: %+v", a)
	}
	return a
}

func to(url string) config.RemoteWrite {
	return config.RemoteWrite{URL: url, Interval: 3 * time.Millisecond}
}
