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
