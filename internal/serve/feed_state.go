package serve

import (
	"github.com/prometheus/client_golang/prometheus"
)

var (
	toldDesc = prometheus.NewDesc("ctsight_feed_findings_total",
		"Findings that were told to a feed, by what became of them: written, failed, dropped; a count.", []string{"feed", "result"}, nil)
	pendingDesc = prometheus.NewDesc("ctsight_feed_pending",
		"Findings that wait to be written to a feed; a count.", []string{"feed"}, nil)
	feedErrorsDesc = prometheus.NewDesc("ctsight_feed_errors_total",
		"Attempts to write to a feed that failed; a count.", []string{"feed"}, nil)
	elementsDesc = prometheus.NewDesc("ctsight_nft_elements",
		"Sources that our table of nftables blocks; a count.", nil, nil)
	loadsDesc = prometheus.NewDesc("ctsight_nft_loads_total",
		"Times that our table of nftables was made, by why: new or changed settings, healed after somebody had changed or removed it; a count.", []string{"why"}, nil)
	allowedDesc = prometheus.NewDesc("ctsight_allow_prefixes",
		"Prefixes that are never blocked: the allow list, and what this host cannot do without; a count.", nil, nil)
)

// Describe implements prometheus.Collector.
func (f *feeds) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{toldDesc, pendingDesc, feedErrorsDesc, elementsDesc, loadsDesc, allowedDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (f *feeds) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	for _, o := range f.outlets.All {
		a := o.Account()
		counter(toldDesc, a.Written, o.Name(), "written")
		counter(toldDesc, a.Failed, o.Name(), "failed")
		counter(toldDesc, a.Dropped, o.Name(), "dropped")
		counter(feedErrorsDesc, a.Errors, o.Name())
		gauge(pendingDesc, a.Pending, o.Name())
	}
	table, failed := f.blocker.Stats()
	counter(feedErrorsDesc, failed, "nft")
	gauge(elementsDesc, uint64(table.Elements))
	counter(loadsDesc, table.Loads-table.Heals, "settings")
	counter(loadsDesc, table.Heals, "healed")
	gauge(allowedDesc, uint64(f.allow.Load().Len()))
}
