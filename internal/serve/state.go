package serve

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ctsight/ctsight/internal/config"
)

var (
	reloadedDesc = prometheus.NewDesc("ctsight_config_last_reload_successful",
		"Whether the last reload of the configuration was taken, 1 or 0; the start counts as one.", nil, nil)
	reloadedAtDesc = prometheus.NewDesc("ctsight_config_last_reload_success_timestamp_seconds",
		"When the configuration that runs came into effect, Unix time in seconds.", nil, nil)
	evictedDesc = prometheus.NewDesc("ctsight_web_connections_evicted_total",
		"Connections of clients that let the web server wait while others waited for theirs, closed to make room; a count.", nil, nil)
)

// reloads shows how reloads went.
type reloads struct{ state func() config.State }

// Describe implements prometheus.Collector.
func (reloads) Describe(ch chan<- *prometheus.Desc) {
	ch <- reloadedDesc
	ch <- reloadedAtDesc
}

// Collect implements prometheus.Collector.
func (c reloads) Collect(ch chan<- prometheus.Metric) {
	s := c.state()
	ok := 0.0
	if s.Success {
		ok = 1
	}
	ch <- prometheus.MustNewConstMetric(reloadedDesc, prometheus.GaugeValue, ok)
	ch <- prometheus.MustNewConstMetric(reloadedAtDesc, prometheus.GaugeValue, float64(s.LastSuccess.UnixMilli())/1000)
}

// crowd shows whether the web server has more clients than places.
type crowd struct{ evicted func() uint64 }

// Describe implements prometheus.Collector.
func (crowd) Describe(ch chan<- *prometheus.Desc) { ch <- evictedDesc }

// Collect implements prometheus.Collector.
func (c crowd) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(evictedDesc, prometheus.CounterValue, float64(c.evicted()))
}
