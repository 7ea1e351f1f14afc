package remotewrite

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Names are those of Prometheus' own remote write (prometheus_remote_storage_*).
var (
	sentDesc    = desc("samples_total", "Samples, native histograms among them, that a receiver took; a count of samples.")
	failedDesc  = desc("samples_failed_total", "Samples that a receiver refused for good; a count of samples.")
	droppedDesc = desc("samples_dropped_total", "Samples given up because the queue was full or at the end; a count of samples.")
	pendingDesc = desc("samples_pending", "Samples that wait for a receiver; a level.")
	successDesc = desc("last_success_timestamp_seconds", "When a receiver last took samples, 0 for never; Unix time in seconds.")
)

func desc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("ctsight_remote_write_"+name, help, []string{"url"}, nil)
}

// Describe implements prometheus.Collector.
func (s *Sender) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{sentDesc, failedDesc, droppedDesc, pendingDesc, successDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *Sender) Collect(ch chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, url string) {
		m, err := prometheus.NewConstMetric(d, kind, v, url)
		if err != nil {
			m = prometheus.NewInvalidMetric(d, err)
		}
		ch <- m
	}
	for url, a := range s.Accounts() {
		send(sentDesc, prometheus.CounterValue, float64(a.Sent), url)
		send(failedDesc, prometheus.CounterValue, float64(a.Failed), url)
		send(droppedDesc, prometheus.CounterValue, float64(a.Dropped), url)
		send(pendingDesc, prometheus.GaugeValue, float64(a.Pending), url)
		at := 0.0
		if !a.Success.IsZero() {
			at = float64(a.Success.UnixMilli()) / 1000
		}
		send(successDesc, prometheus.GaugeValue, at, url)
	}
}
