package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// family is what all series of one name have in common. The table below is also
// that of docs/metrics.md; names and labels are stable once released.
type family struct {
	name   string // without the prefix ctsight_
	kind   prometheus.ValueType
	labels []string
	help   string // shape and unit
	kernel string // what to compare it with, for the docs; "" for nothing
	desc   *prometheus.Desc
}

// histogramKind is the one type that prometheus.ValueType has no word for.
const histogramKind prometheus.ValueType = -1

func gauge(name, help, kernel string, labels ...string) *family {
	return newFamily(prometheus.GaugeValue, name, help, kernel, labels)
}

func counter(name, help, kernel string, labels ...string) *family {
	return newFamily(prometheus.CounterValue, name, help, kernel, labels)
}

func newFamily(kind prometheus.ValueType, name, help, kernel string, labels []string) *family {
	f := &family{name: prefix + name, kind: kind, labels: labels, help: help, kernel: kernel}
	f.desc = prometheus.NewDesc(f.name, help, labels, nil)
	families = append(families, f)
	return f
}

// metric is one series. What the library will not take, as it would not a label
// that is no UTF-8, shows as an error of the scrape and never as a panic.
func (f *family) metric(v float64, labels ...string) prometheus.Metric {
	m, err := prometheus.NewConstMetric(f.desc, f.kind, v, labels...)
	return orInvalid(f, m, err)
}

// since is a counter that began to count at a time, where that is known.
func (f *family) since(start time.Time, v float64, labels ...string) prometheus.Metric {
	if start.IsZero() {
		return f.metric(v, labels...)
	}
	m, err := prometheus.NewConstMetricWithCreatedTimestamp(f.desc, f.kind, v, start, labels...)
	return orInvalid(f, m, err)
}

func orInvalid(f *family, m prometheus.Metric, err error) prometheus.Metric {
	if err != nil {
		return prometheus.NewInvalidMetric(f.desc, err)
	}
	return m
}

const prefix = "ctsight_"

// families in the order of the docs; the order in which they are given room is
// that of static.
var families []*family

var (
	tracing = gauge("tracing", "1 when the probes are attached, 0 while waiting for nf_conntrack to be loaded; a state.", "")

	tableEntries    = gauge("table_entries", "Entries in the conntrack table, with packets on their way in; a level.", "net.netfilter.nf_conntrack_count", "netns")
	tableLimit      = gauge("table_limit", "Entries that the table may hold, 0 for no limit; a level.", "net.netfilter.nf_conntrack_max", "netns")
	tableFill       = gauge("table_fill_ratio", "Entries by limit, 0 to 1; a level.", "nf_conntrack_count / nf_conntrack_max", "netns")
	tableThreshold  = gauge("table_threshold", "1 for the threshold the table has reached (trend from 70 %, action from 85 %, critical from 95 %, else ok), 0 for the others; a state.", "", "netns", "level")
	tableTimeToFull = gauge("table_time_to_full_seconds", "Seconds until the table is full if arrivals go on like this, +Inf when it will not fill, absent while unknown; a forecast with its bounds.", "", "netns", "bound")
	liveEntries     = gauge("live_entries", "Entries known to be live, over all network namespaces; a level.", "sum of nf_conntrack_count")

	newConnections = counter("new_connections_total", "Entries inserted into a table; a count of connections.", "none: the kernel stopped counting with 4.9", "family", "proto")
	newPeak        = gauge("new_connections_peak_rate", "Highest rate of new connections in any window of this length since the last scrape by the same client; connections per second.", "", "window")
	destroyed      = counter("destroyed_connections_total", "Entries that left a table, by cause (ctsight help reasons); a count of connections.", "early_drop of conntrack -S, for cause early_drop", "proto", "cause")
	drops          = counter("drops_total", "Packets lost, by reason (ctsight help reasons), ruleset_* by the operator's own rules; a count of packets.", "drop, insert_failed, chaintoolong of conntrack -S", "reason")
	notes          = counter("notes_total", "Things worth telling that lost no packet, by reason (ctsight help reasons); a count.", "clash_resolve of conntrack -S, for clash_*", "reason")
	lifetime       = newFamily(histogramKind, "connection_lifetime_seconds", "Time from insert to destroy, of entries whose insert was seen; a distribution of seconds.", "", []string{"proto", "outcome"})

	topShare   = gauge("top_source_share", "Share of all live entries held by the source of this rank, 0 to 1, 0 when there is none; a level.", "", "rank")
	topNewRate = gauge("top_source_new_rate", "New connections per second, over the last second, of the source of this rank by that rate, 0 when there is none; a rate.", "", "rank")
	prefixNew  = counter("top_prefix_new_total", "Connections opened from a prefix, of the prefixes that opened most (--metrics.top-prefixes); a count of connections.", "", "prefix", "netns")
	prefixLive = gauge("top_prefix_live", "Live entries of a prefix, of the prefixes that opened most connections (--metrics.top-prefixes); a level.", "", "prefix", "netns")

	findings = counter("findings_total", "Incidents found, by class; a count.", "", "class")

	paged     = counter("findings_paged_total", "Incidents for a human, by class: confirmed, of severity page, and of nobody who is allowed; a count.", "", "class")
	omissions = counter("detection_omitted_total", "What detection had no room for: sources, evidence against them, links and services that made room for others, contacts that were not looked at, findings, bursts; a count.", "", "what")

	ledgerDifference = gauge("ledger_difference", "What was traced minus what the kernel counted, over the network namespaces that can be compared; a difference, 0 when both agree.", "conntrack -S, nf_conntrack_count for entries", "counter")
	eventsSeen       = counter("events_seen_total", "Records of events that the probes made: delivered + aggregated + lost; a count of records.", "")
	eventsDelivered  = counter("events_delivered_total", "Records of events that came through one by one; a count of records.", "")
	eventsAggregated = counter("events_aggregated_total", "Records of events that came through as sums; a count of records.", "")
	eventsLost       = counter("events_lost_total", "Records of events that were lost, by stage: ring (no room), recursion (the kernel skipped a run; not among those seen), stash (a detail is lost, not the record), netlink (socket overrun); a count of records.", "", "stage")
	hookAttached     = gauge("hook_attached", "1 when the hook is attached, by backend; 0 without a backend when it is not; a state.", "", "hook", "backend")
	hookMissed       = counter("hook_missed_total", "Runs of a hook that the kernel skipped; a count.", "recursion misses of the BPF programs", "hook")
	mapBytes         = gauge("bpf_map_bytes", "Memory of the BPF maps; bytes.", "memlock in fdinfo of the maps")
	sourcesTracked   = gauge("sources_tracked", "Sources with a row of their own; a level.", "")
	sourcesEvicted   = counter("sources_evicted_total", "Times a source lost its row to another, its counts folded into the rest; a count.", "")
	omitted          = gauge("series_omitted", "Series left out of this scrape to hold the budget; a count of now.", "")
)
