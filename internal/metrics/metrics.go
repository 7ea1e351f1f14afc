// Package metrics shows an agg.Status as Prometheus metrics: Gather makes the
// families, Handler serves them. It holds the budget of series, it makes sure
// that no name from outside can break a scrape, and a thousand scrapes at once
// cost it little more than one. It reads no kernel; what it shows of the process
// itself is client_golang's.
package metrics

import (
	"cmp"
	"errors"
	"log/slog"
	"net/http"
	"regexp"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/collectors/version"
	dto "github.com/prometheus/client_model/go"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// Options of an Exporter. The zero value is good.
type Options struct {
	// TopPrefixes is how many prefixes have series of their own.
	TopPrefixes int
	// Budget is how many series there are at most, 0 for DefaultBudget. Those of
	// the process and of Extra are counted and never left out.
	Budget int
	// NetNS names a network namespace that has no name in the status; it may be nil.
	NetNS func(event.NetNS) string
	// Peaks returns the peaks since the last look of whoever sent the request, so
	// that each client has its own while all else is shared. Without it those of
	// the status are shared as well.
	Peaks func(*http.Request) agg.Peaks
	// Extra is registered beside the status.
	Extra []prometheus.Collector
	// Log is told once of each error that does not keep the rest from being
	// served; it may be nil.
	Log *slog.Logger
}

// Exporter makes metrics of statuses. It is safe for concurrent use.
type Exporter struct {
	opts Options
	base *prometheus.Registry // process, Go, build and Extra
	err  error                // what would not register

	mu   sync.Mutex
	last *agg.Status // the newest with probes attached
}

// New returns an Exporter. A collector of Extra that cannot be registered, as
// one that is there twice, is an error of each Gather.
func New(o Options) *Exporter {
	o.Budget = cmp.Or(o.Budget, DefaultBudget)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	x := &Exporter{opts: o, base: prometheus.NewPedanticRegistry()}
	own := []prometheus.Collector{collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), goCollector(), version.NewCollector("ctsight")}
	for _, c := range append(own, o.Extra...) {
		x.err = errors.Join(x.err, x.base.Register(c))
	}
	return x
}

// goCollector leaves out most of what the Go runtime tells: 24 series of memory
// in old words, for which a table has better use.
func goCollector() prometheus.Collector {
	return collectors.NewGoCollector(collectors.WithGoCollectorMemStatsMetricsDisabled(),
		collectors.WithGoCollectorRuntimeMetrics(collectors.GoRuntimeMetricsRule{Matcher: regexp.MustCompile(`^/memory/classes/(heap/objects|total):bytes$`)}))
}

// Gather returns the families of a status, by name. While the status waits for
// nf_conntrack, what has been counted before stays as it was: a counter that
// vanished and came back would look like a restart. With an error there may be
// families all the same, of what could be gathered.
func (x *Exporter) Gather(s *agg.Status) ([]*dto.MetricFamily, error) {
	base, err := x.base.Gather()
	shown := snapshot(x.choose(s, x.counted(s), x.opts.Budget-Series(base)))
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(shown); err != nil {
		return base, err
	}
	all := prometheus.Gatherers{r, prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return base, nil })}
	mfs, err2 := all.Gather()
	return mfs, errors.Join(x.err, err, err2)
}

// counted returns the status to take counters from: the newest of attached probes.
func (x *Exporter) counted(s *agg.Status) *agg.Status {
	x.mu.Lock()
	defer x.mu.Unlock()
	if traced(s) {
		x.last = s
	}
	return x.last
}

// snapshot is a collector of metrics made beforehand.
type snapshot []prometheus.Metric

// Describe implements prometheus.Collector.
func (s snapshot) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range families {
		ch <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (s snapshot) Collect(ch chan<- prometheus.Metric) {
	for _, m := range s {
		ch <- m
	}
}
